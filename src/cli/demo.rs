//! What `taskgrid up --demo` shows: one task of each built-in type, and what
//! became of it.

use std::time::Duration;

use super::exit::{Exit, Failure};
use super::output;
use crate::client::{Client, Found, GetOptions, SubmitOptions, Task};
use crate::core::id::millis;
use crate::core::task::Status;

/// One task of each built-in type.
pub(super) const TASKS: [(&str, &str); 5] = [
    ("reverse", "hello"),
    ("sum", "[1,2,3]"),
    ("hash", "text"),
    ("upper", "straße"),
    ("wait", "250ms"),
];

/// How long the demonstration waits for its tasks.
const WAIT: Duration = Duration::from_secs(30);
/// Characters of a cell: a SHA-256 in hex fits.
const CELL: usize = 64;

/// Sends one task of each type, waits for them, and prints a table.
#[expect(dead_code, reason = "`up` calls it once there is a grid")]
pub(super) async fn show(client: &Client) -> Result<Exit, Failure> {
    let tasks = TASKS.map(|(type_name, payload)| Task::new(type_name, payload));
    let receipt = client.submit(&tasks, &SubmitOptions::default()).await?;
    let wait = GetOptions { wait: WAIT, ..GetOptions::default() };
    let mut exit = Exit::Done;
    let mut rows = Vec::with_capacity(TASKS.len());
    for found in client.get(&receipt.ids, wait).await? {
        let task = Found::into_task(found)?;
        match task.status {
            Status::Completed => {}
            Status::Failed | Status::Cancelled => exit = Exit::TaskFailed,
            Status::Pending | Status::Running => exit = Exit::TimedOut,
        }
        let took = task.timestamp_completed.map(|at| millis(at.since(task.timestamp_created)));
        rows.push([
            task.id.to_string(),
            task.type_name.clone(),
            output::cell(&task.payload, CELL),
            task.status.as_str().to_owned(),
            output::cell(task.result.as_deref().unwrap_or(task.error.as_bytes()), CELL),
            took.map(|ms| format!("{ms} ms")).unwrap_or_default(),
            task.worker,
        ]);
    }
    let header = ["ID", "TYPE", "PAYLOAD", "STATUS", "RESULT", "TOOK", "WORKER"];
    output::print_line(output::table(header, rows))?;
    Ok(exit)
}
