//! What is told: a line for each thing that happened, on stdout and in the log
//! file, and what it all comes to.

use std::fmt;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::super::super::exit::{Exit, Failure};
use super::super::super::output::{self, Format};
use super::cases::Case;
use crate::clock::Clock;
use crate::core::id::{TaskId, millis};

/// Characters of a payload and of a result that are shown.
const SHOWN: usize = 40;
/// Characters of what is told, at most.
const TEXT: usize = 400;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// Something to know.
    Note,
    /// A task has the result that it must have.
    Right,
    /// It has another.
    Wrong,
    /// It ended without a result.
    Failed,
    /// The dispatcher did not take it.
    Refused,
    /// The dispatcher does not know it, or no longer.
    Lost,
    /// It has not ended in time.
    Late,
    /// The grid is away.
    Away,
    /// It is there again.
    Back,
    /// A batch is over.
    Sum,
}

/// A task of which something is told.
#[derive(Debug, Clone, Copy)]
pub(super) struct Subject<'a> {
    pub(super) id: Option<TaskId>,
    pub(super) case: &'a Case,
}

/// Where it is told.
#[derive(Debug)]
pub(super) struct Report<Out> {
    format: Format,
    out: Out,
    colour: bool,
    log: File,
    log_path: PathBuf,
}

/// What became of all tasks so far.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tally {
    /// Tasks that were sent, those that were refused included.
    pub(super) sent: u64,
    pub(super) right: u64,
    pub(super) wrong: u64,
    pub(super) failed: u64,
    pub(super) refused: u64,
    pub(super) lost: u64,
    /// Not ended in time, and not ended yet.
    pub(super) late: u64,
    /// How often the grid was away, and for how long in all.
    pub(super) outages: u64,
    pub(super) away: Duration,
}

#[derive(Debug, Serialize)]
struct Row<'a> {
    timestamp: u64,
    event: &'static str,
    id: Option<u64>,
    #[serde(rename = "type")]
    type_name: Option<&'static str>,
    text: &'a str,
}

impl<Out: Write> Report<Out> {
    /// A report to `out`, in this format and perhaps in colour, and to the log file.
    pub(super) fn new(
        format: Format,
        out: Out,
        colour: bool,
        (log, log_path): (File, PathBuf),
    ) -> Self {
        Self { format, out, colour, log, log_path }
    }

    /// Tells of a task.
    pub(super) fn task(
        &mut self,
        event: Event,
        subject: Subject<'_>,
        text: &str,
    ) -> Result<(), Failure> {
        self.write(event, Some(subject), text)
    }

    /// Tells of something else.
    pub(super) fn tell(&mut self, event: Event, text: &str) -> Result<(), Failure> {
        self.write(event, None, text)
    }

    fn write(
        &mut self,
        event: Event,
        subject: Option<Subject<'_>>,
        text: &str,
    ) -> Result<(), Failure> {
        // A handler's error may have lines of its own.
        let text = &*output::cell(text.as_bytes(), TEXT);
        // Anchored anew each time: a test may outlive many corrections of the clock.
        let now = Clock::start().now();
        let moment = output::moment(now);
        let about = subject.map(|subject| format!("{subject}  ")).unwrap_or_default();
        let line = format!("{moment}  {:<7}  {about}{text}\n", event.as_str());
        self.log.write_all(line.as_bytes()).map_err(|error| {
            let path = self.log_path.display();
            Failure::new(Exit::Internal, format!("cannot write {path}: {error}"))
        })?;
        let id = subject.and_then(|subject| subject.id);
        match (self.format, id) {
            (Format::Text, _) if self.colour => {
                let colour = event.colour();
                let word = event.as_str();
                let line = format!("{moment}  \x1b[{colour}m{word:<7}\x1b[0m  {about}{text}\n");
                self.out.write_all(line.as_bytes())?;
            }
            (Format::Text, _) => self.out.write_all(line.as_bytes())?,
            (Format::Id, Some(id)) => writeln!(self.out, "{id}")?,
            (Format::Id, None) => {}
            // A test has no end to close a document with: both are lines.
            (Format::Json | Format::Ndjson, _) => {
                let type_name = subject.map(|subject| subject.case.type_name);
                let id = id.map(|id| id.0);
                let row = Row { timestamp: now.0, event: event.as_str(), id, type_name, text };
                let mut line = Vec::new();
                output::push_json(&mut line, &row)?;
                self.out.write_all(&line)?;
            }
        }
        Ok(self.out.flush()?)
    }
}

impl fmt::Display for Subject<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Case { type_name, payload, .. } = self.case;
        let id = self.id.map(|id| id.to_string()).unwrap_or_default();
        write!(f, "task {id:<6}  {type_name:<7}  {}", shown(payload))
    }
}

/// Bytes in a line: text in quotes, for it may be empty or end in spaces.
pub(super) fn shown(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(_) => format!("\"{}\"", output::cell(bytes, SHOWN)),
        Err(_) => output::cell(bytes, SHOWN),
    }
}

/// A span for people, in milliseconds at the finest.
pub(super) fn span(span: Duration) -> humantime::FormattedDuration {
    humantime::format_duration(Duration::from_millis(millis(span)))
}

impl Event {
    fn as_str(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Right => "right",
            Self::Wrong => "wrong",
            Self::Failed => "failed",
            Self::Refused => "refused",
            Self::Lost => "lost",
            Self::Late => "late",
            Self::Away => "away",
            Self::Back => "back",
            Self::Sum => "sum",
        }
    }

    /// By the codes of ANSI terminals: green, yellow, red, bold.
    fn colour(self) -> &'static str {
        match self {
            Self::Note => "0",
            Self::Right | Self::Back => "32",
            Self::Late | Self::Away => "33",
            Self::Wrong | Self::Failed | Self::Refused | Self::Lost => "31",
            Self::Sum => "1",
        }
    }
}

impl Tally {
    /// Every task that could be judged has the result that it must have.
    pub(super) fn is_all_right(&self) -> bool {
        self.wrong + self.failed + self.refused + self.lost + self.late == 0
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let &Self { sent, right, wrong, failed, refused, lost, late, outages, away } = self;
        write!(f, "{sent} sent: {right} right")?;
        let judged = right + wrong + failed + refused + lost + late;
        let counts = [
            (wrong, "wrong"),
            (failed, "failed"),
            (refused, "refused"),
            (lost, "lost"),
            (late, "late"),
            (sent.saturating_sub(judged), "under way"),
        ];
        for (count, name) in counts.into_iter().filter(|(count, _)| *count > 0) {
            write!(f, ", {count} {name}")?;
        }
        if outages > 0 {
            let times = if outages == 1 { "once".to_owned() } else { format!("{outages} times") };
            write!(f, "; the grid was away {times}, for {}", span(away))?;
        }
        Ok(())
    }
}
