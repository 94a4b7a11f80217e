//! Writes a line for each task, on a thread of its own: a slow reader of stdout
//! holds up neither the connection nor Ctrl-C.

use std::io::{self, BufWriter, Write};

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::task::JoinHandle;

use super::super::super::output::{Format, push_json};
use crate::client::json::{TaskJson, Texts, some};
use crate::client::{Event, Task};
use crate::core::id::{TaskId, Timestamp};
use crate::core::limits;
use crate::core::task::Reason;

/// Groups of lines that may wait to be written.
const WAITING: usize = 64;

/// One line of output.
#[derive(Debug)]
pub(super) enum Line {
    /// A task has ended.
    Ended(Box<Ended>),
    /// A task is stored.
    Stored(TaskId),
}

/// A task and its end.
#[derive(Debug)]
pub(super) struct Ended {
    /// What was submitted.
    pub(super) task: Task,
    /// When it was accepted.
    pub(super) created: Timestamp,
    /// How it ended.
    pub(super) event: Event,
}

/// Where lines are sent to; they stop when this is dropped.
pub(super) type Lines = mpsc::Sender<Vec<Line>>;

/// Starts writing to `out`. The handle gives the first error of writing.
pub(super) fn start(
    format: Format,
    out: impl Write + Send + 'static,
) -> (Lines, JoinHandle<io::Result<()>>) {
    let (sender, receiver) = mpsc::channel(WAITING);
    let printing = tokio::task::spawn_blocking(move || write_all(receiver, format, out));
    (sender, printing)
}

fn write_all(
    mut groups: mpsc::Receiver<Vec<Line>>,
    format: Format,
    out: impl Write,
) -> io::Result<()> {
    let mut out = BufWriter::with_capacity(1 << 16, out);
    let mut text = Vec::new();
    loop {
        let group = match groups.try_recv() {
            Ok(group) => group,
            Err(TryRecvError::Disconnected) => break,
            Err(TryRecvError::Empty) => {
                // Nothing else is waiting: whoever reads gets what there is.
                out.flush()?;
                match groups.blocking_recv() {
                    Some(group) => group,
                    None => break,
                }
            }
        };
        for line in &group {
            write_line(&mut text, line, format)?;
        }
        out.write_all(&text)?;
        text.clear();
    }
    out.flush()
}

fn write_line(text: &mut Vec<u8>, line: &Line, format: Format) -> io::Result<()> {
    let id = match (line, format) {
        (Line::Ended(ended), Format::Text | Format::Json | Format::Ndjson) => {
            return push_json(text, &ended.json());
        }
        (Line::Stored(id), Format::Json | Format::Ndjson) => {
            return writeln!(text, "{{\"id\":{id}}}");
        }
        (Line::Ended(ended), Format::Id) => ended.event.id,
        (Line::Stored(id), Format::Text | Format::Id) => *id,
    };
    writeln!(text, "{id}")
}

impl Ended {
    fn json(&self) -> TaskJson<'_> {
        let texts = Texts::new(Some(self.task.payload()), self.event.result.as_deref());
        TaskJson {
            id: self.event.id.0,
            type_name: self.task.type_name(),
            payload: texts.payload,
            result: texts.result,
            status: self.event.status.as_str(),
            timestamp_created: self.created.0,
            timestamp_completed: Some(self.event.timestamp.0),
            encoding: texts.encoding,
            attempts: self.event.attempt,
            priority: self.task.asked_priority().unwrap_or(limits::PRIORITY_DEFAULT.into()),
            error: some(&self.event.error),
            reason: self.event.reason.map(Reason::as_str),
            worker: some(&self.event.worker),
            timings: None,
            story: Vec::new(),
        }
    }
}
