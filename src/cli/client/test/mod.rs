//! `taskgrid client test`: random tasks, of which every result is checked.
//!
//! [`cases`] makes tasks and knows what must come back, [`run`] sends them and
//! judges what comes, [`report`] tells it.

use std::fs::File;
use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};

use clap::Args;

use super::super::exit::{Exit, Failure};
use super::super::no_colour;
use super::super::output::Format;
use crate::client::Client;
use crate::core::limits;
use crate::shutdown::Shutdown;

mod cases;
mod report;
mod run;

#[cfg(test)]
mod tests;

use report::Report;

/// Send random tasks for ever, check every result, and tell what comes
#[derive(Debug, Args)]
#[command(after_help = "\
Each line tells of a task: right; wrong (not the result it must have); failed; refused (at its
submit); late (not ended in time; its end is told too); lost (the dispatcher does not know it).
Others tell when the grid goes away and when it is back: no task is sent twice, and those under
way are checked afterwards. It ends with Ctrl-C, SIGTERM or --count: with 0 when all was right,
with 1 when a task was wrong, failed, refused or lost, or is still late.")]
pub(super) struct Test {
    /// The time from one batch to the next, which waits for the one before it to end
    #[arg(long, env = "TASKGRID_TEST_INTERVAL", value_name = "DURATION", default_value = "30s")]
    interval: humantime::Duration,
    /// What is told is also appended to this file
    #[arg(
        long,
        env = "TASKGRID_TEST_LOG_FILE",
        value_name = "FILE",
        default_value = "taskgrid_tests.log"
    )]
    log_file: PathBuf,
    /// Tasks of a batch: one of each known type, as far as they go, and others at random
    #[arg(
        long,
        env = "TASKGRID_TEST_BATCH",
        value_name = "N",
        default_value = "10",
        value_parser = clap::value_parser!(u16).range(1..=1000)
    )]
    batch: u16,
    /// End after so many tasks [default: never]
    #[arg(
        long,
        env = "TASKGRID_TEST_COUNT",
        value_name = "N",
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    count: Option<u64>,
    /// How long a task may take until it is told to be late, outages not counted
    #[arg(long, env = "TASKGRID_TEST_DEADLINE", value_name = "DURATION", default_value = "30s")]
    deadline: humantime::Duration,
    /// Sends the same tasks as a run that told this seed [default: a random one]
    #[arg(long, env = "TASKGRID_TEST_SEED", value_name = "N")]
    seed: Option<u64>,
}

const _: () = assert!(limits::IDS == 1000, "a batch is asked for with one call");

impl Test {
    pub(super) async fn run(
        self,
        client: &Client,
        format: Format,
        shutdown: &Shutdown,
    ) -> Result<Exit, Failure> {
        let log = open(&self.log_file)?;
        let colour = io::stdout().is_terminal() && !no_colour();
        let report = Report::new(format, io::stdout(), colour, (log, self.log_file));
        let settings = run::Settings {
            interval: self.interval.into(),
            batch: self.batch.into(),
            count: self.count,
            deadline: self.deadline.into(),
            seed: self.seed.unwrap_or_else(|| rand::random::<u32>().into()),
        };
        let tally = run::run(client, settings, report, shutdown).await?;
        Ok(if tally.is_all_right() { Exit::Done } else { Exit::TaskFailed })
    }
}

fn open(path: &Path) -> Result<File, Failure> {
    File::options().append(true).create(true).open(path).map_err(|error| {
        Failure::new(Exit::WrongInput, format!("cannot write {}: {error}", path.display()))
            .hint("--log-file takes a file that this user can write")
    })
}
