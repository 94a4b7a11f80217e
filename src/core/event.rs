//! What the log holds: everything that must survive a crash, and nothing else.
//!
//! Durable: each record carries a version of its encoding (see `store::record`).
//! To change an event, add a variant at the end and keep the old one readable.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::id::{Seq, TaskId, Timestamp, Token};
use super::task::{Change, Holder, Spec};
use super::task_type::{TaskType, TypeId};

/// An event with the bytes that belong to it: the payload with
/// [`Event::Submitted`], the result with a [`Change::Completed`], else empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The small part, which a restart reads.
    pub event: Event,
    /// The bytes, which it does not.
    pub bytes: Bytes,
}

impl Entry {
    /// Has the event know how long its bytes are, if it is one that tells.
    pub(crate) fn count_bytes(&mut self) {
        if let Event::Changed(event) = &mut self.event {
            event.result_bytes = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        }
    }
}

impl From<Event> for Entry {
    fn from(event: Event) -> Self {
        Self { event, bytes: Bytes::new() }
    }
}

/// One fact of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// A task was accepted.
    Submitted {
        /// Its id.
        id: TaskId,
        /// What was asked for.
        spec: Spec,
    },
    /// Something ended for a task, or began anew.
    Changed(TaskEvent),
    /// Leases that were given and are still open. A lease that ended before its
    /// note was written has none: its end tells everything.
    Leased(LeaseNotes),
    /// A batch was accepted under an idempotency key.
    Keyed(KeyedBatch),
    /// A task type was seen for the first time, or with another payload.
    TypeLearned {
        /// Its place among the known types.
        type_id: TypeId,
        /// What it is.
        definition: TaskType,
    },
    /// A worker has a session with this dispatcher: a restart waits for it.
    WorkerSeen {
        /// Who.
        holder: Holder,
        /// Where it was dialled.
        address: Arc<str>,
    },
    /// A worker left in good order: a restart does not wait for it.
    WorkerLeft {
        /// Names the worker across its restarts.
        worker: Arc<str>,
    },
    /// Ids below this may be handed out. Synced before any of them is.
    IdsReserved {
        /// The first id that may not.
        end: TaskId,
    },
    /// Reserved ids that a crash left unused: they never named a task.
    IdsSkipped {
        /// The first of them.
        from: TaskId,
        /// The first that is none of them.
        to: TaskId,
    },
    /// The dispatcher stopped in good order. The last event of a boot; the next
    /// boot erases it.
    Stopped {
        /// The first id that was not handed out.
        next_id: TaskId,
    },
}

/// Something that happened to one task, at its place in the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskEvent {
    /// Its place.
    pub seq: Seq,
    /// Which task.
    pub id: TaskId,
    /// The task's event before this one: the story of a task is read backwards.
    pub previous: Option<Seq>,
    /// When.
    pub at: Timestamp,
    /// What was asked for, so that the log alone can put the task back in its lane.
    pub spec: Spec,
    /// The attempt that this ended, if it ended one.
    pub attempt: Option<EndedAttempt>,
    /// What changed.
    pub change: Change,
    /// Bytes of the result. A store has them beside the event, and counts them there.
    #[serde(skip)]
    pub result_bytes: u32,
}

impl TaskEvent {
    /// The same, with a result of so many bytes.
    #[must_use]
    pub fn with_result_of(self, bytes: usize) -> Self {
        Self { result_bytes: u32::try_from(bytes).unwrap_or(u32::MAX), ..self }
    }

    /// Bytes of payload and result that are kept with a task whose last event this is.
    #[must_use]
    pub fn kept_bytes(&self) -> u64 {
        u64::from(self.spec.payload_bytes) + u64::from(self.result_bytes)
    }
}

/// The attempt that an event ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndedAttempt {
    /// Its number, from 1.
    pub number: u32,
    /// The token of its lease.
    pub token: Token,
    /// The worker that held it.
    pub worker: Arc<str>,
    /// When the lease was given.
    pub leased: Timestamp,
    /// How long the handler ran, in microseconds, by the worker's clock.
    pub run_us: u64,
}

/// Leases of one worker, written together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseNotes {
    /// Numbers the notes, rising.
    pub note: u64,
    /// Who holds them.
    pub holder: Holder,
    /// The leases.
    pub leases: Vec<LeaseNote>,
}

/// One open lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseNote {
    /// The task.
    pub id: TaskId,
    /// The lease's token.
    pub token: Token,
    /// Which attempt, from 1.
    pub attempt: u32,
    /// When it was given.
    pub leased: Timestamp,
    /// Written before the push: a start whose worker never comes back is charged.
    pub charged: bool,
}

/// A batch that was accepted under an idempotency key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyedBatch {
    /// The key, as the client chose it.
    pub key: Bytes,
    /// What tells the batch from others under this key.
    pub digest: [u8; 32],
    /// The id of its first task; the others follow by ones.
    pub first: TaskId,
    /// How many tasks.
    pub count: u32,
    /// The place in the log before it.
    pub cursor: Seq,
    /// Not forgotten before this.
    pub kept_until: Timestamp,
    /// Not forgotten while one of its tasks lives.
    pub outlives_tasks: bool,
}
