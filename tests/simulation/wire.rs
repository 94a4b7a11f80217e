//! What the parts say to each other, and the connections that carry it: in order
//! while they stand; what is under way is lost when they break, from anywhere on.

use std::collections::VecDeque;

use bytes::Bytes;
use taskgrid::core::id::{Epoch, TaskId, Token};
use taskgrid::core::task::{Holder, Outcome, Spec};
use taskgrid::core::task_type::TypeId;

/// A batch as a client sends it.
#[derive(Debug, Clone)]
pub(crate) struct Batch {
    pub(crate) key: Bytes,
    pub(crate) drafts: Vec<Draft>,
}

/// One task of a batch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Draft {
    pub(crate) spec: Spec,
    pub(crate) delay_ms: u64,
    /// The payload: it names the task in the whole world.
    pub(crate) payload: u64,
}

/// What a client asks.
#[derive(Debug, Clone)]
pub(crate) enum Request {
    Submit(Batch),
    Look(TaskId),
    Cancel(TaskId),
    Retry(TaskId),
}

/// What it is answered.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Answer {
    /// The first id of the batch; the others follow by ones.
    Receipt(TaskId),
    /// Not taken: try again.
    Refused,
    /// The task was looked at, and has this result.
    View(TaskId, Option<u64>),
}

/// From the dispatcher to a worker.
#[derive(Debug)]
pub(crate) enum Down {
    Hello { epoch: Epoch, number: u64 },
    Assign { number: u64, tasks: Vec<Assignment> },
    Settled(Vec<Token>),
    Cancel(Vec<Token>),
    Closed,
}

/// From a worker to the dispatcher.
#[derive(Debug)]
pub(crate) enum Up {
    Hello(Hello),
    Report(Report),
    Closed { goodbye: bool },
}

/// One lease on its way. The epoch is the hello's.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Assignment {
    pub(crate) id: TaskId,
    pub(crate) sequence: u64,
    pub(crate) payload: u64,
    pub(crate) attempt: u32,
    pub(crate) timeout_ms: u64,
}

/// What a worker says first.
#[derive(Debug)]
pub(crate) struct Hello {
    pub(crate) holder: Holder,
    pub(crate) slots: u32,
    pub(crate) held: Vec<HeldLease>,
    pub(crate) draining: bool,
}

/// A lease that a worker holds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HeldLease {
    pub(crate) id: TaskId,
    pub(crate) token: Token,
    pub(crate) attempt: u32,
    pub(crate) started: bool,
}

/// What happened at a worker.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) outcomes: Vec<Said>,
    pub(crate) started: Vec<(TaskId, Token)>,
    pub(crate) prefetch: Vec<(TypeId, u32)>,
    pub(crate) draining: bool,
}

/// How a worker says that an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) id: TaskId,
    pub(crate) token: Token,
    pub(crate) outcome: Outcome,
    /// If it completed.
    pub(crate) result: u64,
    /// 0 if the handler did not start.
    pub(crate) run_us: u64,
}

/// One connection between the dispatcher and one process of a worker.
#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) worker: usize,
    pub(crate) incarnation: u64,
    /// Which process of the dispatcher dialled.
    pub(crate) boot: u64,
    pub(crate) number: u64,
    pub(crate) down: VecDeque<Down>,
    pub(crate) up: VecDeque<Up>,
    /// The worker's name for the session, once it stands.
    pub(crate) serial: Option<u64>,
    /// Nothing arrives before this.
    pub(crate) down_stalled_until: u64,
    pub(crate) up_stalled_until: u64,
}
