//! Makes events durable and gives them back.
//!
//! A store is a log with an index by id. It states no rule of the lifecycle:
//! what an event means is the core's part. Calls block, unless the engine says otherwise;
//! the dispatcher calls [`Store::append`] from its one committer thread and reads from
//! the blocking pool ([`apart`]). Only [`Store::append_at_once`] may be called where nobody
//! may wait.
//!
//! Every engine passes the suite in `conformance`, crash and reopen included.

pub mod committer;
pub mod embedded;
pub mod memory;

mod record;

#[cfg(test)]
mod conformance;

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::core::event::{Entry, Event, TaskEvent};
use crate::core::id::{Epoch, Seq, TaskId};
use crate::core::task::Spec;

pub use self::committer::Committer;
pub use self::embedded::{CACHE_BYTES, Durability, Embedded, Report, TableReport, verify};
pub use self::memory::Memory;

/// An engine: memory, embedded, later PostgreSQL.
pub trait Store: std::fmt::Debug + Send + Sync + 'static {
    /// Whether calls may keep their thread for long. Those of an engine that says no are
    /// made where they are wanted, on no other thread.
    fn blocks(&self) -> bool {
        true
    }

    /// Begins a new boot: one more than the last, with this nonce, synced before it
    /// returns, in every durability mode. Gives all epochs, oldest first; the last
    /// one is the new one.
    ///
    /// # Errors
    /// When it could not be synced. Nothing may be leased then.
    fn take_epoch(&self, nonce: u64) -> Result<Vec<Epoch>, Error>;

    /// Makes a group durable: all of it or nothing. Tasks come by rising id, task
    /// events by rising place. In the same commit, forgets what the group trims.
    ///
    /// # Errors
    /// [`Error::Full`] left nothing behind and may be tried again after
    /// [`Store::reopen`]. After any other error it is unknown what is durable: the
    /// caller must stop.
    fn append(&self, group: &Group) -> Result<(), Error>;

    /// As [`Store::append`], if that is likely to take less time than to have another thread
    /// do it; else does nothing, and says so with `None`. It waits for no disk, but the system
    /// may hold up whoever writes while too much of its memory is to be written.
    ///
    /// # Errors
    /// As [`Store::append`].
    fn append_at_once(&self, group: &Group) -> Option<Result<(), Error>> {
        let _ = group;
        None
    }

    /// Shows what is kept beside tasks and their events, for a restart: types, workers,
    /// skipped ids, reserved ids, keyed batches, notes of leases by number, and the stop
    /// if the last boot ended with one. Called before [`Store::take_epoch`], which erases
    /// the stop.
    ///
    /// # Errors
    /// When a record is damaged or cannot be read.
    fn summary(&self, visit: &mut dyn FnMut(Event)) -> Result<Recovered, Error>;

    /// Shows task events by place and then tasks by id, as far as there were any at
    /// `to`, for a restart: those from a position on, and not many more than `limit`.
    /// Tasks come after what happened to them, so that those that have ended need not be
    /// queued first. No payloads, no results. Gives the position where it goes on, if it
    /// does; nothing may be trimmed meanwhile.
    ///
    /// # Errors
    /// When a record is damaged or cannot be read.
    fn history(
        &self,
        from: Position,
        to: Recovered,
        limit: usize,
        visit: &mut dyn FnMut(Event),
    ) -> Result<Option<Position>, Error>;

    /// Shows both, one after the other.
    ///
    /// # Errors
    /// When a record is damaged or cannot be read.
    fn scan(&self, visit: &mut dyn FnMut(Event)) -> Result<Recovered, Error> {
        let recovered = self.summary(visit)?;
        let mut position = Some(Position::default());
        while let Some(from) = position {
            position = self.history(from, recovered, PAGE, visit)?;
        }
        Ok(recovered)
    }

    /// Tasks by their ids, `None` for those that are not kept; in the order asked.
    ///
    /// # Errors
    /// When a record is damaged or cannot be read.
    fn tasks(&self, ids: &[TaskId]) -> Result<Vec<Option<StoredTask>>, Error> {
        self.tasks_within(ids, usize::MAX)
    }

    /// As [`Store::tasks`], of the first of these: as many of them as have no more payloads
    /// than `bytes` (but at least one).
    ///
    /// # Errors
    /// When a record is damaged or cannot be read.
    fn tasks_within(&self, ids: &[TaskId], bytes: usize) -> Result<Vec<Option<StoredTask>>, Error>;

    /// As [`Store::tasks`], without the payloads, which are not read.
    ///
    /// # Errors
    /// When a record is damaged or cannot be read.
    fn specs(&self, ids: &[TaskId]) -> Result<Vec<Option<Spec>>, Error>;

    /// Task events by their places, `None` for those that are not kept; in the
    /// order asked.
    ///
    /// # Errors
    /// When a record is damaged or cannot be read.
    fn events(&self, places: &[Seq]) -> Result<Vec<Option<StoredEvent>>, Error>;

    /// As [`Store::events`], without the results, which are not read.
    ///
    /// # Errors
    /// When a record is damaged or cannot be read.
    fn facts(&self, places: &[Seq]) -> Result<Vec<Option<TaskEvent>>, Error>;

    /// The task events after a place, in order, at most `limit`, fewer where their
    /// results would exceed `bytes` (but at least one).
    ///
    /// # Errors
    /// When a record is damaged or cannot be read.
    fn events_after(
        &self,
        place: Seq,
        limit: usize,
        bytes: usize,
    ) -> Result<Vec<StoredEvent>, Error>;

    /// Opens what is on disk anew after [`Error::Full`], and gives up the space that was
    /// held in reserve for that. That it opens does not say that the next group fits: the
    /// caller leaves time between its attempts.
    ///
    /// # Errors
    /// When it still cannot be written.
    fn reopen(&self) -> Result<(), Error>;

    /// Whether there is room for new tasks: space is held in reserve for outcomes and
    /// trims. What was given up is taken back here, if there is enough again.
    fn has_room(&self) -> bool;
}

/// How much of a history is shown at once in a scan.
const PAGE: usize = 16_384;

/// How far a history was shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    /// The task events up to this place.
    Events(Seq),
    /// All of them, and the tasks up to this id.
    Tasks(TaskId),
}

impl Default for Position {
    fn default() -> Self {
        Self::Events(Seq(0))
    }
}

/// Reads from a store where that may take its time: on a thread of its own, unless the
/// engine does not block.
///
/// # Errors
/// As the store's, and when reading panicked.
pub async fn apart<T: Send + 'static>(
    store: &Arc<dyn Store>,
    read: impl FnOnce(&dyn Store) -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    if !store.blocks() {
        return read(store.as_ref());
    }
    let store = store.clone();
    tokio::task::spawn_blocking(move || read(store.as_ref()))
        .await
        .unwrap_or_else(|panic| Err(Error::Failed { what: format!("reading panicked: {panic}") }))
}

/// What becomes durable together.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// New facts, in order.
    pub entries: Vec<Entry>,
    /// What is no longer needed.
    pub trim: Trim,
}

impl Group {
    /// Whether it holds nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.trim == Trim::default()
    }

    /// How much there is to write: entries, and what is forgotten.
    fn length(&self) -> usize {
        let Trim { tasks, keys, notes } = &self.trim;
        self.entries.len() + tasks.len() + keys.len() + notes.len()
    }

    /// Adds a later group. Made durable as one, they leave the same.
    fn extend(&mut self, later: Self) {
        self.entries.extend(later.entries);
        self.trim.tasks.extend(later.trim.tasks);
        self.trim.keys.extend(later.trim.keys);
        self.trim.notes.extend(later.trim.notes);
    }
}

/// What a group forgets. Nothing of it is stored again before the store was opened anew.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trim {
    /// Ended tasks, each with the place of its last event: the task, its payload,
    /// its whole story and its result go together.
    pub tasks: Vec<(TaskId, Seq)>,
    /// Idempotency keys, by the id of their first task.
    pub keys: Vec<TaskId>,
    /// Notes of leases, by number.
    pub notes: Vec<u64>,
}

/// What a restart finds beside the events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Recovered {
    /// The last place that was ever used, kept or trimmed.
    pub last_seq: Seq,
    /// The greatest id that was ever stored, kept or trimmed.
    pub last_id: Option<TaskId>,
    /// The greatest place of a task's last event that was trimmed: a watch from
    /// before it may miss something.
    pub trimmed_to: Seq,
}

/// A task as it was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredTask {
    /// Its id.
    pub id: TaskId,
    /// What was asked for.
    pub spec: Spec,
    /// What the handler gets.
    pub payload: Bytes,
}

/// A task's event with its result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEvent {
    /// The event.
    pub event: TaskEvent,
    /// The result, if it completed the task; else empty.
    pub result: Bytes,
}

/// A store that could not do what it was asked to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Another process has the directory. Nothing was touched.
    #[error("the data directory {path} is in use by {}", whom(*pid))]
    InUse {
        /// The directory.
        path: std::path::PathBuf,
        /// That process, where the system tells.
        pid: Option<u32>,
    },
    /// The directory cannot be made, or a file in it not be opened. Nothing was touched.
    #[error("cannot use {path} for the store: {source}")]
    Unusable {
        /// The directory, or the file in it.
        path: std::path::PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The files were written by another version. Nothing was touched.
    #[error("{path} has format {found}, this taskgrid reads format {expected}")]
    Format {
        /// The file.
        path: std::path::PathBuf,
        /// What it has.
        found: u32,
        /// What is read.
        expected: u32,
    },
    /// A record does not have its checksum, or cannot be decoded. Nothing was changed.
    #[error("the store is damaged: {what}")]
    Damaged {
        /// Which record, and how.
        what: String,
    },
    /// No space is left. Nothing of the group is durable.
    #[error("no space is left for the store")]
    Full,
    /// The engine failed. What is durable is unknown; the dispatcher stops.
    #[error("the store failed: {what}")]
    Failed {
        /// What the engine said.
        what: String,
    },
}

fn whom(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

/// The complaint about an id or a place that was given a second time: a bug of
/// the caller, found before anything of the group is durable.
fn stored_twice(noun: &str, key: u64) -> Error {
    Error::Failed { what: format!("{noun} {key} is stored already; this is a bug") }
}
