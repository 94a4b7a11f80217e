//! The verbs of `taskgrid client`: each calls the library and prints.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::exit::{Exit, Failure, complain};
use super::flags::NetworkFlags;
use super::output::{self, Format};
use crate::client::json::TaskJson;
use crate::client::{Client, Event, Found, GetOptions, TaskView};
use crate::core::id::TaskId;
use crate::core::task::Status;
use crate::shutdown::Shutdown;

mod bench;
mod cancel;
mod list;
mod result;
mod retry;
mod send;
mod status;
mod submit;
mod test;
mod types;
mod watch;
mod workers;

/// How long a call goes on trying while the dispatcher is away, unless told: a
/// person waits for it.
const PATIENCE: Duration = Duration::from_secs(10);

/// Send tasks, wait for results, see how tasks stand
#[derive(Debug, Args)]
#[command(after_help = "\
Exit codes: 0 done and succeeded, 1 a task failed or was cancelled, 2 wrong usage, payload or
type, 3 not found or expired, 4 timed out waiting, 5 cannot reach the grid, 6 refused (try
later), 7 not allowed, 8 conflict, 70 internal, 130 interrupted.")]
pub(super) struct ClientFlags {
    /// Where the dispatcher is
    #[arg(
        long,
        env = "TASKGRID_DISPATCHER",
        value_name = "URL",
        default_value = "http://127.0.0.1:50052",
        global = true
    )]
    dispatcher: String,
    /// The form of the output: text, json, ndjson or id
    #[arg(
        short,
        long,
        value_name = "FORMAT",
        value_enum,
        default_value = "text",
        hide_possible_values = true,
        global = true
    )]
    output: Format,
    /// How long to go on trying while the dispatcher cannot be reached or is not ready
    /// [default: 10s; 60s for submit; test never gives up]
    #[arg(long, env = "TASKGRID_PATIENCE", value_name = "DURATION", global = true)]
    patience: Option<humantime::Duration>,
    #[command(flatten)]
    network: NetworkFlags,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Send(send::Send),
    Result(result::ResultOf),
    Status(status::StatusOf),
    Submit(submit::Submit),
    List(list::List),
    Types(types::Types),
    Workers(workers::Workers),
    Cancel(cancel::Cancel),
    Retry(retry::Retry),
    Watch(watch::WatchFlags),
    Test(test::Test),
    Bench(bench::Bench),
}

impl ClientFlags {
    /// Whether it ends in good order by itself when it is told to.
    pub(super) fn ends_in_order(&self) -> bool {
        matches!(self.verb, Verb::Test(_))
    }

    pub(super) async fn run(self, shutdown: &Shutdown) -> Result<Exit, Failure> {
        let patience = match (&self.patience, &self.verb) {
            (Some(patience), _) => (*patience).into(),
            (None, Verb::Submit(_)) => submit::PATIENCE,
            (None, _) => PATIENCE,
        };
        let network = self.network.network();
        let client = Client::connect_on(&network, &self.dispatcher)?.with_patience(patience);
        let format = self.output;
        match self.verb {
            Verb::Send(send) => send.run(&client, format).await,
            Verb::Result(result) => result.run(&client, format).await,
            Verb::Status(status) => status.run(&client, format).await,
            Verb::Submit(submit) => submit.run(&client, format, patience).await,
            Verb::List(list) => list.run(&client, format).await,
            Verb::Types(types) => types.run(&client, format).await,
            Verb::Workers(workers) => workers.run(&client, format).await,
            Verb::Cancel(cancel) => cancel.run(&client, format).await,
            Verb::Retry(retry) => retry.run(&client, format).await,
            Verb::Watch(watch) => watch.run(&client, format).await,
            Verb::Bench(bench) => bench.run(&client, network, format, patience).await,
            Verb::Test(test) => test.run(&client, format, shutdown).await,
        }
    }
}

/// Ids of tasks, as arguments.
#[derive(Debug, Args)]
struct Ids {
    /// Ids of tasks
    #[arg(value_name = "ID", required = true)]
    ids: Vec<u64>,
}

impl Ids {
    fn list(&self) -> Vec<TaskId> {
        self.ids.iter().copied().map(TaskId).collect()
    }
}

/// The tasks among what was found; of the others it is complained at once, and the
/// exit code becomes theirs.
fn tasks(found: Vec<Found>, exit: &mut Exit) -> Vec<TaskView> {
    let mut tasks = Vec::with_capacity(found.len());
    for one in found {
        match one.into_task() {
            Ok(task) => tasks.push(task),
            Err(error) => note(&error.into(), exit),
        }
    }
    tasks
}

/// The event that ended a task, from the task: which keeps the last error of its handler, also
/// once it has completed.
fn end_of(task: TaskView) -> Event {
    Event {
        id: task.id,
        status: task.status,
        attempt: task.attempts,
        timestamp: task.timestamp_completed.unwrap_or(task.timestamp_created),
        result: task.result,
        reason: task.reason,
        error: if task.status == Status::Completed { String::new() } else { task.error },
        worker: task.worker.into(),
    }
}

/// Says what is wrong with one of several; the first keeps the exit code.
fn note(failure: &Failure, exit: &mut Exit) {
    complain(&failure.message);
    if *exit == Exit::Done {
        *exit = failure.exit;
    }
}

/// Prints how tasks stand after they were touched: `17 cancelled`, or as JSON.
async fn print_standing(
    client: &Client,
    tasks: &[TaskView],
    format: Format,
    single: bool,
) -> Result<(), Failure> {
    match format {
        Format::Text => {
            for task in tasks {
                output::print_line(format!("{} {}", task.id, task.status.as_str()))?;
            }
        }
        Format::Id => print_ids(tasks)?,
        Format::Json | Format::Ndjson => {
            // The call itself tells no payloads, and JSON has all of a task.
            let ids: Vec<TaskId> = tasks.iter().map(|task| task.id).collect();
            let whole = client.get(&ids, GetOptions::default()).await?;
            let whole: Vec<TaskView> =
                whole.into_iter().filter_map(|found| found.into_task().ok()).collect();
            let rows: Vec<_> = whole.iter().map(|task| TaskJson::new(task, true)).collect();
            output::print_json(format, &rows, single)?;
        }
    }
    Ok(())
}

/// Prints whole tasks as JSON, or their ids.
fn print_tasks(tasks: &[TaskView], format: Format, single: bool) -> Result<(), Failure> {
    match format {
        Format::Id => print_ids(tasks),
        Format::Text | Format::Json | Format::Ndjson => {
            let rows: Vec<_> = tasks.iter().map(|task| TaskJson::new(task, true)).collect();
            output::print_json(format, &rows, single)
        }
    }
}

fn print_ids(tasks: &[TaskView]) -> Result<(), Failure> {
    for task in tasks {
        output::print_line(task.id.to_string())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::fake;

    #[test]
    fn the_end_of_a_completed_task_has_no_error_of_an_earlier_attempt() {
        let end = |status| {
            let error = "too early".to_owned();
            end_of(TaskView { error, ..fake::view(17, status) })
        };
        assert_eq!(end(Status::Completed).error, "");
        let failed = end(Status::Failed);
        assert_eq!((failed.id, failed.error.as_str()), (TaskId(17), "too early"));
    }
}
