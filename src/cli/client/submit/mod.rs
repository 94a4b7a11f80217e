//! `taskgrid client submit`: many tasks, and their results as they come.
//!
//! Three parts run at once: [`input`] reads lines and makes batches of them,
//! [`run`] submits the batches and hears of results, [`printer`] writes. The
//! channels between them are bounded, so the slowest sets the pace.

use std::fmt::Display;
use std::fs::File;
use std::io::{self, BufReader};
use std::time::Duration;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use tokio::sync::mpsc;

use super::super::exit::{Exit, Failure};
use super::super::flags::TaskFlags;
use super::super::output::{Farewell, Format};
use crate::client::Client;

mod input;
mod printer;
mod run;
mod store;

#[cfg(test)]
mod tests;

pub(super) use store::place;

use input::{Batch, Batches, Options};

/// How long the dispatcher may be away unless told: long enough for a restart of
/// its machine.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// Batches that are read ahead of the one that is submitted next.
const READ_AHEAD: usize = 16;

/// Submit many tasks from NDJSON or lines, and print their results as they come
#[derive(Debug, Args)]
#[command(after_help = r#"Input: one task a line,
  {"type": "sum", "payload": [1,2,3], "priority": 1, "delay": "10m", "timeout": "30s",
   "max_attempts": 5, "max_crashes": 0, "encoding": "base64"}
of which only the type is required. A payload that is a JSON string stands for its text (with
"encoding": "base64", for the bytes it encodes); any other JSON value stands for its compact
text. With --type, each line is itself a payload. Empty lines are skipped.

Output: one JSON object a line for each task as it ends, in any order (ids alone with -o id).

The same input with the same options is the same tasks: run it again after an interruption, and
nothing is submitted twice. --key begins a run of its own."#)]
pub(super) struct Submit {
    /// The file to read, or - for stdin
    #[arg(value_name = "FILE")]
    file: String,
    /// Each line is the payload of a task of this type
    #[arg(long = "type", value_name = "TYPE")]
    type_name: Option<String>,
    /// Begin a run of its own: tasks of another key are other tasks
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    key: Option<String>,
    /// Stop at the first bad line: neither it is stored nor what follows, nor up to 499 lines
    /// before it; corrected and run again, each line runs once
    #[arg(long)]
    strict: bool,
    /// Print the ids as soon as the tasks are stored, and do not wait for results
    #[arg(long)]
    detach: bool,
    #[command(flatten)]
    task: TaskFlags,
}

impl Submit {
    pub(super) async fn run(
        self,
        client: &Client,
        format: Format,
        patience: Duration,
    ) -> Result<Exit, Failure> {
        let options = Options { type_name: self.type_name, key: self.key, task: self.task };
        let batches = read(self.file, options)?;
        let settings =
            run::Settings { strict: self.strict, detach: self.detach, patience, progress: true };
        let (lines, printing) = printer::start(format, io::stdout());
        let farewell = Farewell::new("run the same command again to go on where this ended");
        let outcome = run::run(client, batches, lines, settings).await;
        farewell.unsaid();
        // What came before an error is printed.
        match printing.await.map_err(|bug| Failure::new(Exit::Internal, bug))? {
            // Quietly, unless more was to be done than to print.
            Err(left) if left.kind() == io::ErrorKind::BrokenPipe && outcome.is_err() => {}
            printed => printed?,
        }
        let summary = outcome.map_err(|failure| match failure.exit {
            Exit::Conflict | Exit::Done => failure,
            _ => failure
                .hint("run the same command again: what is stored is not submitted a second time"),
        })?;
        Ok(summary.tell(self.strict))
    }
}

fn open(path: &str) -> Result<File, Failure> {
    let cannot =
        |why: &dyn Display| Failure::new(Exit::WrongInput, format!("cannot read {path}: {why}"));
    let file = File::open(path).map_err(|error| cannot(&error))?;
    match file.metadata() {
        Ok(known) if known.is_dir() => Err(cannot(&"it is a directory")),
        _ => Ok(file),
    }
}

/// Reads on a thread of its own, as far ahead as the channel is long.
fn read(file: String, options: Options) -> Result<mpsc::Receiver<io::Result<Batch>>, Failure> {
    let source: Box<dyn io::Read + Send> =
        if file == "-" { Box::new(io::stdin()) } else { Box::new(open(&file)?) };
    let (sender, receiver) = mpsc::channel(READ_AHEAD);
    tokio::task::spawn_blocking(move || {
        let mut batches = Batches::new(BufReader::with_capacity(1 << 16, source), options);
        loop {
            let next = match batches.next() {
                Ok(None) => break,
                Ok(Some(batch)) => Ok(batch),
                Err(error) => {
                    Err(io::Error::new(error.kind(), format!("cannot read {file}: {error}")))
                }
            };
            let last = next.is_err();
            if sender.blocking_send(next).is_err() || last {
                break;
            }
        }
    });
    Ok(receiver)
}
