//! Stores one batch, whatever it takes: waits while the dispatcher is full, and
//! leaves out what it refuses.

use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use super::input::{BadLine, Batch};
use crate::client::{Client, Error, Receipt, SubmitOptions, Task};
use crate::rpc::Backoff;

/// A batch was stored, except for some lines.
#[derive(Debug)]
pub(super) struct Stored {
    /// The tasks that were stored.
    pub(super) tasks: Vec<Task>,
    /// Their receipt; `None` where none were left.
    pub(super) receipt: Option<Receipt>,
    /// The lines that were not.
    pub(super) refused: Vec<BadLine>,
}

/// Stores a batch under its key.
///
/// The dispatcher takes a batch whole or not at all. It names the task that it
/// does not take: that one is left out, and the rest goes under a key that tells
/// what was left out, so that running again finds the same tasks. Where it is to be `strict`,
/// nothing goes: the same lines, corrected, are another batch.
pub(super) async fn store(
    client: &Client,
    batch: Batch,
    group: u64,
    patience: Duration,
    strict: bool,
) -> Result<Stored, Error> {
    let Batch { mut key, mut tasks, mut lines, .. } = batch;
    let mut refused = Vec::new();
    let mut full = Full::new(patience);
    // Each turn leaves out a task or uses up patience.
    while !tasks.is_empty() {
        let options = SubmitOptions { key: Some(Bytes::copy_from_slice(&key)), group };
        let error = match client.submit(&tasks, &options).await {
            Ok(receipt) => return Ok(Stored { tasks, receipt: Some(receipt), refused }),
            Err(error) => error,
        };
        let (problem, whole_type, named) = match &error {
            Error::WrongInput { problem } => (problem, false, place(problem)),
            Error::UnknownType { problem } => (problem, true, place(problem)),
            // Without the largest payload of all, a batch always fits.
            Error::TooLarge { problem, .. } => (problem, false, largest(&tasks)),
            Error::Refused { .. } if full.pause().await => continue,
            _ => return Err(error),
        };
        let Some(place) = named.filter(|&place| place < tasks.len()) else {
            return Err(error);
        };
        let told = problem.replacen(&format!("tasks[{place}]"), "", 1);
        let told = told.trim_start_matches(['.', ':', ' ']);
        let mut digest = Sha256::new().chain_update(key).chain_update(b"without");
        let out = culprits(&tasks, place, whole_type);
        for &at in &out {
            let line = lines.get(at).copied().unwrap_or_default();
            digest.update(line.to_le_bytes());
            refused.push(BadLine { line, problem: told.to_owned() });
        }
        if strict {
            return Ok(Stored { tasks: Vec::new(), receipt: None, refused });
        }
        for at in out.into_iter().rev() {
            tasks.remove(at);
            lines.remove(at);
        }
        key = digest.finalize().into();
    }
    Ok(Stored { tasks, receipt: None, refused })
}

/// The places of the tasks to leave out, rising: the one that was named, and all
/// of its type where that is what is wrong with it.
fn culprits(tasks: &[Task], place: usize, whole_type: bool) -> Vec<usize> {
    let named = tasks.get(place).map(Task::type_name);
    let is_out =
        |at: usize, task: &Task| at == place || (whole_type && Some(task.type_name()) == named);
    tasks.iter().enumerate().filter(|&(at, task)| is_out(at, task)).map(|(at, _)| at).collect()
}

/// The place of the largest payload.
fn largest(tasks: &[Task]) -> Option<usize> {
    let sizes = tasks.iter().enumerate().map(|(at, task)| (task.payload().len(), at));
    sizes.max().map(|(_, at)| at)
}

/// How long a full dispatcher is waited for.
struct Full {
    patience: Duration,
    since: Option<Instant>,
    backoff: Backoff,
}

impl Full {
    fn new(patience: Duration) -> Self {
        Self { patience, since: None, backoff: Backoff::new() }
    }

    /// Pauses; false when patience is over.
    async fn pause(&mut self) -> bool {
        let since = *self.since.get_or_insert_with(Instant::now);
        if since.elapsed() >= self.patience {
            return false;
        }
        tokio::time::sleep(self.backoff.next()).await;
        true
    }
}

/// The place in the batch that a message names: 17 for `tasks[17].payload: …`.
pub(in super::super) fn place(problem: &str) -> Option<usize> {
    let (_, rest) = problem.split_once("tasks[")?;
    let (digits, _) = rest.split_once(']')?;
    digits.parse().ok()
}
