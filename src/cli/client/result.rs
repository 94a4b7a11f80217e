//! `taskgrid client result`: the results of tasks, waited for.

use std::time::Duration;

use clap::Args;

use super::super::exit::{Exit, Failure};
use super::super::output::{self, Format};
use super::{Ids, note, print_tasks, tasks};
use crate::client::{Client, Found, GetOptions};

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
        let omit_payload = matches!(format, Format::Text | Format::Id);
        let options = GetOptions { wait, omit_payload, story: false };
        print_ended(client.get(&self.ids.list(), options).await?, wait, format)
    }
}

/// Prints tasks that were waited for. What has no result is complained about, and stops
/// no other. With one task alone, its failure is the command's, hint and all.
pub(super) fn print_ended(
    found: Vec<Found>,
    waited: Duration,
    format: Format,
) -> Result<Exit, Failure> {
    let single = found.len() == 1;
    let mut exit = Exit::Done;
    let tasks = tasks(found, &mut exit);
    if format != Format::Text {
        print_tasks(&tasks, format, single)?;
    }
    for task in tasks {
        match task.into_result(waited) {
            Ok(result) if format == Format::Text => output::print_result(&result)?,
            Ok(_) => {}
            Err(error) if single => return Err(error.into()),
            Err(error) => note(&error.into(), &mut exit),
        }
    }
    Ok(exit)
}
