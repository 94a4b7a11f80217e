//! The command line of the campaigns, and what `cargo test` adds to it.

use clap::Parser;

use super::campaign::{Campaign, Run, Size};

/// Run fault campaigns against a grid of processes: all of them, short, unless told
#[derive(Debug, Parser)]
#[command(name = "cargo test --test campaigns --")]
pub(crate) struct Options {
    /// Campaigns by name, or by a part of it
    names: Vec<String>,
    /// The seed of all chance [default: a new one, which is told]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// The size that the promises are held against
    #[arg(long, conflicts_with = "percent")]
    full: bool,
    /// So many hundredths of the full size
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    percent: Option<u32>,
    /// Only tell the names
    #[arg(long)]
    list: bool,
    #[command(flatten)]
    libtest: Libtest,
}

/// What is meant for tests of the usual harness, and means the same here or nothing.
#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "they are flags of another program")]
struct Libtest {
    /// Names are whole ones
    #[arg(long, hide = true)]
    exact: bool,
    /// Not these
    #[arg(long, hide = true)]
    skip: Vec<String>,
    #[arg(long, hide = true)]
    ignored: bool,
    #[arg(long, hide = true)]
    include_ignored: bool,
    #[arg(long, short, hide = true)]
    quiet: bool,
    #[arg(long, alias = "no-capture", hide = true)]
    nocapture: bool,
    #[arg(long, hide = true)]
    show_output: bool,
    #[arg(long, hide = true)]
    test_threads: Option<String>,
    #[arg(long, hide = true)]
    format: Option<String>,
    #[arg(long, hide = true)]
    color: Option<String>,
    #[arg(long, hide = true)]
    logfile: Option<String>,
    #[arg(short = 'Z', hide = true)]
    unstable: Vec<String>,
}

impl Options {
    /// Those of this process.
    pub(crate) fn read() -> Self {
        Self::parse()
    }

    pub(crate) fn lists(&self) -> bool {
        self.list
    }

    /// Whether something was said that only campaigns understand.
    pub(crate) fn is_for_campaigns(&self) -> bool {
        self.seed.is_some() || self.full || self.percent.is_some()
    }

    pub(crate) fn run(&self) -> Run {
        let percent = if self.full { Some(100) } else { self.percent };
        let seed = self.seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
        Run { seed, size: percent.map_or(Size::Short, Size::Percent) }
    }

    /// The campaigns that are meant.
    pub(crate) fn choose<'a>(&self, all: &'a [Campaign]) -> Vec<&'a Campaign> {
        let matches = |name: &str, word: &String| {
            if self.libtest.exact { name == word } else { name.contains(word) }
        };
        let chosen = all.iter().filter(|campaign| {
            let is_named = self.names.iter().any(|word| matches(campaign.name, word));
            let is_skipped = self.libtest.skip.iter().any(|word| matches(campaign.name, word));
            (self.names.is_empty() || is_named) && !is_skipped && !self.libtest.ignored
        });
        chosen.collect()
    }
}

/// The flags that make the same run.
pub(crate) fn again(run: Run) -> String {
    let size = match run.size {
        Size::Short => String::new(),
        Size::Percent(100) => " --full".to_owned(),
        Size::Percent(percent) => format!(" --percent {percent}"),
    };
    format!(" --seed {}{size}", run.seed)
}
