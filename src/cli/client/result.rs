//! `taskgrid client result`: the results of tasks, waited for.

use std::time::Duration;

use clap::Args;

use super::super::exit::{Exit, Failure};
use super::super::output::{self, Format};
use super::{Ids, note, print_tasks, tasks};
use crate::client::{Client, Error, GetOptions, TaskView};
use crate::core::id::TaskId;
use crate::core::task::Status;

/// A wait without an end.
pub(super) const UNLIMITED: Duration = Duration::MAX;

/// Wait for tasks, and print their results
#[derive(Debug, Args)]
#[command(after_help = "\
A text result is printed with a newline behind it, any other exactly as it is.")]
pub(super) struct ResultOf {
    #[command(flatten)]
    ids: Ids,
    /// The longest to wait [default: no limit]
    #[arg(long, value_name = "DURATION")]
    wait: Option<humantime::Duration>,
}

impl ResultOf {
    pub(super) async fn run(self, client: &Client, format: Format) -> Result<Exit, Failure> {
        let wait = self.wait.map_or(UNLIMITED, Into::into);
        print_results(client, &self.ids.list(), wait, format).await
    }
}

/// Waits for all of them and prints them in their order. What has no result is
/// complained about, and stops no other. With one task alone, its failure is the
/// command's, hint and all.
pub(super) async fn print_results(
    client: &Client,
    ids: &[TaskId],
    wait: Duration,
    format: Format,
) -> Result<Exit, Failure> {
    let omit_payload = matches!(format, Format::Text | Format::Id);
    let options = GetOptions { wait, omit_payload, story: false };
    let single = ids.len() == 1;
    let mut exit = Exit::Done;
    let tasks = tasks(client.get(ids, options).await?, &mut exit);
    if format != Format::Text {
        print_tasks(&tasks, format, single)?;
    }
    for task in tasks {
        match outcome(task, wait) {
            Ok(task) if format == Format::Text => {
                output::print_result(task.result.as_deref().unwrap_or_default())?;
            }
            Ok(_) => {}
            Err(error) if single => return Err(error.into()),
            Err(error) => note(&error.into(), &mut exit),
        }
    }
    Ok(exit)
}

fn outcome(task: TaskView, waited: Duration) -> Result<TaskView, Error> {
    match task.status {
        Status::Completed => Ok(task),
        Status::Failed => Err(Error::TaskFailed(Box::new(task))),
        Status::Cancelled => Err(Error::TaskCancelled(Box::new(task))),
        Status::Pending | Status::Running => Err(Error::TimedOut { id: task.id, waited }),
    }
}
