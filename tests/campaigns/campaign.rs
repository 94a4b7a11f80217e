//! What a campaign is, what it is told, and what it must tell.

use std::fmt;

use serde::{Serialize, Serializer};
use serde_json::Value;

use super::dice::Dice;

/// One campaign: an entry of the table in `tests/campaigns.rs`.
pub(crate) struct Campaign {
    /// As it is called on the command line.
    pub(crate) name: &'static str,
    /// What it does to the grid, in a line.
    pub(crate) about: &'static str,
    pub(crate) run: fn(&Run) -> Ran,
}

/// What a campaign is told.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run {
    pub(crate) seed: u64,
    pub(crate) size: Size,
}

/// How much of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Size {
    /// As much as fits into every run of the tests.
    Short,
    /// So many hundredths of the full size; 100 is what the promises are held against.
    Percent(u32),
}

/// What came of it.
pub(crate) enum Ran {
    Done(Report),
    /// It needs something that is not here: what, and how to get it.
    NotRun(String),
}

/// Figures, and what is wrong.
#[derive(Debug, Default)]
pub(crate) struct Report {
    figures: Vec<(String, Figure)>,
    complaints: Vec<String>,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Figure {
    One(Value),
    Part(Report),
}

impl Run {
    /// So many, by the size: of the short run, or of the full one.
    pub(crate) fn many(&self, short: u64, full: u64) -> u64 {
        match self.size {
            Size::Short => short,
            Size::Percent(percent) => (full * u64::from(percent)).div_ceil(100),
        }
    }

    /// Whether it is as in every run of the tests.
    pub(crate) fn is_short(&self) -> bool {
        self.size == Size::Short
    }

    /// Dice of its seed. Parts of a campaign that run beside each other have their own.
    pub(crate) fn dice(&self) -> Dice {
        Dice::new(self.seed)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short => f.write_str("short"),
            Self::Percent(100) => f.write_str("full"),
            Self::Percent(percent) => write!(f, "{percent} % of full"),
        }
    }
}

impl Report {
    /// A figure that may be what it is.
    pub(crate) fn figure(&mut self, name: &str, value: impl Into<Value>) {
        self.figures.push((name.to_owned(), Figure::One(value.into())));
    }

    /// A figure with a floor: below it the faults did not bite, and the run proves nothing.
    pub(crate) fn at_least(&mut self, name: &str, value: u64, floor: u64) {
        self.figure(name, value);
        if value < floor {
            self.complain(format!("the faults did not bite: {name} is {value}, not {floor}"));
        }
    }

    /// A figure with a ceiling, which is promised.
    pub(crate) fn at_most(&mut self, name: &str, value: u64, ceiling: u64) {
        self.figure(name, value);
        if value > ceiling {
            self.complain(format!("{name} is {value}, more than {ceiling}"));
        }
    }

    /// A time, or a part of the processor, with a ceiling. The short run shares its machine
    /// with whatever else runs there, and only tells it.
    pub(crate) fn in_time(&mut self, run: &Run, name: &str, value: u64, ceiling: u64) {
        if run.is_short() {
            self.figure(name, value);
        } else {
            self.at_most(name, value, ceiling);
        }
    }

    /// A figure that can only be this one.
    pub(crate) fn exactly(&mut self, name: &str, value: u64, expected: u64) {
        self.figure(name, value);
        if value != expected {
            self.complain(format!("{name} is {value}, not {expected}"));
        }
    }

    /// Figures of a part of the campaign, under a name of their own.
    pub(crate) fn part(&mut self, name: &str, part: Report) {
        let complaints = part.complaints.iter().map(|what| format!("{name}: {what}"));
        self.complain_of(complaints.collect());
        self.figures.push((name.to_owned(), Figure::Part(part)));
    }

    /// Something is wrong.
    pub(crate) fn complain(&mut self, what: impl Into<String>) {
        self.complaints.push(what.into());
    }

    /// All of these are wrong.
    pub(crate) fn complain_of(&mut self, all: Vec<String>) {
        self.complaints.extend(all);
    }

    /// All that is wrong.
    pub(crate) fn complaints(&self) -> &[String] {
        &self.complaints
    }
}

impl Serialize for Report {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.figures.iter().map(|(name, value)| (name, value)))
    }
}
