//! `taskgrid client send`: one task, and its result.

use std::time::Instant;

use bytes::Bytes;
use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use serde::Serialize;

use super::super::exit::{Exit, Failure};
use super::super::flags::TaskFlags;
use super::super::output::{self, Farewell, Format};
use super::super::payload;
use super::result::{self, UNLIMITED};
use crate::client::{Client, Found, GetOptions, RUN_WAIT, SubmitOptions, Task};
use crate::core::id::TaskId;

/// Send one task, wait for it, and print its result
#[derive(Debug, Args)]
#[command(after_help = "\
A text result is printed with a newline behind it, any other exactly as it is. A payload may be
a negative number (`send wait -1`); one that begins with a hyphen otherwise comes behind `--`.")]
pub(super) struct Send {
    /// The task's type
    #[arg(value_name = "TYPE")]
    type_name: String,
    /// The payload: text, @FILE, or - for stdin; empty when left out
    #[arg(value_name = "PAYLOAD", allow_negative_numbers = true)]
    payload: Option<String>,
    /// Print the id as soon as the task is stored, and do not wait
    #[arg(long, conflicts_with = "wait_for")]
    detach: bool,
    /// The longest to wait for the result; the task goes on after it [default: no limit]
    #[arg(long, value_name = "DURATION")]
    wait_for: Option<humantime::Duration>,
    /// Names this task: the same key again gives the same task and its result
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    key: Option<String>,
    #[command(flatten)]
    task: TaskFlags,
}

#[derive(Serialize)]
struct Sent {
    id: u64,
}

impl Send {
    pub(super) async fn run(self, client: &Client, format: Format) -> Result<Exit, Failure> {
        // Reading may take until somebody types: not on the thread that hears Ctrl-C.
        let argument = self.payload;
        let payload = tokio::task::spawn_blocking(move || payload::read(argument.as_deref()))
            .await
            .map_err(|bug| Failure::new(Exit::Internal, bug))??;
        let task = self.task.apply(Task::new(self.type_name, payload));
        let options = SubmitOptions { key: self.key.map(Bytes::from), group: 0 };
        if self.detach {
            let receipt = client.submit(&[task], &options).await?;
            for id in receipt.ids {
                print_id(id, format)?;
            }
            return Ok(Exit::Done);
        }
        let wait = self.wait_for.map_or(UNLIMITED, Into::into);
        let began = Instant::now();
        let payload = task.payload().clone();
        // The id of a task that takes longer is for whoever does not want to wait.
        let mut run = client.run(&[task], &options, wait.min(RUN_WAIT)).await?;
        let Some(Found::Task(sent)) = run.found.first_mut() else {
            return result::print_ended(run.found, wait, format);
        };
        if sent.status.is_terminal() {
            sent.payload = payload;
            return result::print_ended(run.found, wait, format);
        }
        let id = sent.id;
        let omit_payload = matches!(format, Format::Text | Format::Id);
        let left = wait.saturating_sub(began.elapsed());
        let farewell = Farewell::new(format!("task {id} goes on: taskgrid client result {id}"));
        let ended = client.get(&[id], GetOptions { wait: left, omit_payload, story: false }).await;
        farewell.unsaid();
        let printed = ended.map_err(Failure::from);
        let printed = printed.and_then(|found| result::print_ended(found, wait, format));
        printed.map_err(|failure| with_id(failure, id))
    }
}

/// Whatever went wrong after the receipt, the task is stored.
fn with_id(failure: Failure, id: TaskId) -> Failure {
    if matches!(failure.exit, Exit::Unreachable | Exit::Refused) {
        failure.hint(format!("task {id} is stored: taskgrid client result {id}"))
    } else {
        failure
    }
}

fn print_id(id: TaskId, format: Format) -> Result<(), Failure> {
    match format {
        Format::Text | Format::Id => Ok(output::print_line(id.to_string())?),
        Format::Json | Format::Ndjson => output::print_json(format, &[Sent { id: id.0 }], true),
    }
}
