//! What the loop can be told and asked, and the handle by which that is done.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::{broadcast, mpsc, oneshot, watch};

use crate::core::event::TaskEvent;
use crate::core::id::{Seq, TaskId, Timestamp, Token};
use crate::core::placement::Member;
use crate::core::queue::{Claim, Standing};
use crate::core::registry::Registration;
use crate::core::retention::Look;
use crate::core::task::{Holder, Outcome, Spec, Status};
use crate::core::task_type::TypeId;
use crate::dispatcher::batch::Batch;
use crate::dispatcher::recovery::Part;
use crate::dispatcher::types::{Known, Types};
use crate::store::{self, Group, StoredTask};
use crate::wire::v1;
use bytes::Bytes;

/// Where a submit is answered.
pub(crate) type Reply = oneshot::Sender<Result<Stored, Refusal>>;

/// One message to the loop.
#[derive(Debug)]
pub(crate) enum Message {
    /// Store a batch.
    Submit { batch: Batch, reply: Reply },
    /// How do tasks stand, and, on request, tell when they end.
    Look { ids: Vec<TaskId>, wait: bool, reply: oneshot::Sender<Vec<Snapshot>> },
    /// End tasks, each with what the log has of it.
    Cancel { tasks: Vec<(TaskId, Option<Spec>)>, reply: oneshot::Sender<Vec<Snapshot>> },
    /// Open a new round for tasks.
    Retry { tasks: Vec<Again>, reply: oneshot::Sender<Vec<Snapshot>> },
    /// Ids by how they stand, newest first.
    List { listing: Listing, reply: oneshot::Sender<Vec<Snapshot>> },
    /// The end of the log.
    End { reply: oneshot::Sender<Seq> },
    /// The numbers.
    Stats { reply: oneshot::Sender<Counted> },
    /// Types that workers registered.
    Learn { types: Vec<Known> },
    /// What the nameservice says of the workers.
    Endpoints { endpoints: BTreeMap<String, v1::Health>, complete: bool },
    /// What the breaker of the link to a registered worker lets through, and why.
    Link { registration: Arc<Registration>, state: v1::LinkState, problem: String },
    /// A session with a worker stands.
    Join { join: Join, reply: oneshot::Sender<Joined> },
    /// What happened at a worker.
    Report { member: Member, report: Report },
    /// A session is over; with a goodbye if the worker itself ended it.
    Leave { member: Member, goodbye: bool },
    /// Tasks that were read to be sent.
    Fetched { type_id: TypeId, rows: Result<Vec<(TaskId, Option<StoredTask>)>, store::Error> },
    /// What became of an outcome for a task that had ended.
    Judged { member: Member, token: Token, answer: Result<v1::Answer, store::Error> },
    /// Events of what may be too old.
    Trimmable { look: Look, events: Result<Vec<TaskEvent>, store::Error> },
    /// Whether the store has room for new tasks.
    Room { has_room: bool },
    /// A part of the history was read; the other end hears when it is dropped.
    Loaded { part: Result<Part, store::Error>, taken: oneshot::Sender<()> },
}

impl Message {
    /// A part that was read, and what tells that it was taken.
    pub(super) fn loaded(part: Result<Part, store::Error>) -> (Self, oneshot::Receiver<()>) {
        let (taken, is_taken) = oneshot::channel();
        (Self::Loaded { part, taken }, is_taken)
    }

    /// Whether it is a call whose caller has left.
    pub(super) fn is_given_up(&self) -> bool {
        match self {
            Self::Submit { reply, .. } => reply.is_closed(),
            Self::Look { reply, .. }
            | Self::Cancel { reply, .. }
            | Self::Retry { reply, .. }
            | Self::List { reply, .. } => reply.is_closed(),
            Self::End { reply } => reply.is_closed(),
            Self::Stats { reply } => reply.is_closed(),
            Self::Learn { .. }
            | Self::Endpoints { .. }
            | Self::Link { .. }
            | Self::Join { .. }
            | Self::Report { .. }
            | Self::Leave { .. }
            | Self::Fetched { .. }
            | Self::Judged { .. }
            | Self::Trimmable { .. }
            | Self::Room { .. }
            | Self::Loaded { .. } => false,
        }
    }
}

/// A batch is stored.
#[derive(Debug)]
pub(crate) struct Stored {
    /// What its caller keeps.
    pub(crate) receipt: Receipt,
    /// How its tasks stand, if its caller waits for their ends.
    pub(crate) tasks: Vec<Snapshot>,
}

/// What says that a batch is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Receipt {
    /// The id of its first task; the others follow by ones.
    pub(crate) first: TaskId,
    /// How many.
    pub(crate) count: u32,
    /// The place in the log before it.
    pub(crate) cursor: Seq,
    /// When the tasks were accepted; `None` if they had been stored before, under
    /// the same key.
    pub(crate) created: Option<Timestamp>,
}

/// A batch is not stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// The key means other tasks.
    #[error("this idempotency key was used for another batch; use a new key")]
    KeyConflict,
    /// No more keys can be remembered.
    #[error("too many idempotency keys are remembered; submit without a key, or later")]
    KeysFull,
    /// The batch alone is more than the queue may have.
    #[error(
        "the batch has {has} {what}, and the queue may have {most} ({flag}): send smaller batches, or allow it more"
    )]
    NeverFits { has: u64, what: &'static str, most: u64, flag: &'static str },
    /// The queue has its number of tasks.
    #[error(
        "the queue is full: {live} tasks wait or run, at most {most} may (--max-queued); try later"
    )]
    TooMany { live: u64, most: u64 },
    /// The queue has its bytes.
    #[error(
        "the queue is full: {live} bytes of payloads wait or run, at most {most} may (--max-queued-bytes); try later"
    )]
    TooLarge { live: u64, most: u64 },
    /// More comes in than the store takes.
    #[error("the store is slower than the submits: too many bytes wait for it; try later")]
    Slow,
    /// The disk is full.
    #[error("no space is left on the dispatcher's disk; free some, or try later")]
    NoSpace,
    /// The disk is full, and the batch waits for space: it may be stored yet.
    #[error(
        "no space is left on the dispatcher's disk: the batch waits for it; try again with its key"
    )]
    Waits,
    /// The dispatcher is about to stop.
    #[error("the dispatcher is about to stop; try again")]
    Draining,
}

/// How a task stands, with what memory knows of it.
#[derive(Debug)]
pub(crate) struct Snapshot {
    /// The task.
    pub(crate) id: TaskId,
    /// Whether the id was ever given to a task.
    pub(crate) given: bool,
    /// How it stands; pending only if the log has it.
    pub(crate) standing: Standing,
    /// Its lease, if it runs.
    pub(crate) running: Option<Running>,
    /// Tells when it ends, if that was asked for and it has not.
    pub(crate) ends: Option<oneshot::Receiver<Ended>>,
}

/// The lease of a running task.
#[derive(Debug, Clone)]
pub(crate) struct Running {
    /// Which attempt.
    pub(crate) attempt: u32,
    /// Who holds it.
    pub(crate) worker: Arc<str>,
    /// When it was given.
    pub(crate) leased: Timestamp,
    /// The task's event before it.
    pub(crate) last: Option<Seq>,
}

/// The event that ended a task, with its result.
#[derive(Debug, Clone)]
pub(crate) struct Ended {
    /// The event.
    pub(crate) event: TaskEvent,
    /// The result, if it completed.
    pub(crate) result: Bytes,
}

/// A wish for a new round.
#[derive(Debug)]
pub(crate) struct Again {
    /// The task.
    pub(crate) id: TaskId,
    /// What the log has of it: the spec, its last event's place, the leases it was
    /// given and the newest token.
    pub(crate) known: Option<(Spec, Seq, u32, Option<Token>)>,
}

/// The oldest ready task of a type.
#[derive(Debug)]
pub(crate) struct Oldest {
    /// The type's place in the numbers.
    pub(crate) place: usize,
    /// The task.
    pub(crate) id: TaskId,
    /// Since when it has been due, if it has been through anything; else its first record
    /// tells.
    pub(crate) due: Option<Timestamp>,
}

/// The numbers of one moment, but for the ages of tasks: when they were accepted
/// stands in the log.
#[derive(Debug)]
pub(crate) struct Counted {
    /// The numbers.
    pub(crate) stats: v1::StatsResponse,
    /// The oldest ready task of each type that has one.
    pub(crate) oldest: Vec<Oldest>,
    /// The moment.
    pub(crate) now: Timestamp,
}

/// A page of ids.
#[derive(Debug, Clone)]
pub(crate) struct Listing {
    /// Only tasks that stand so.
    pub(crate) status: Option<Status>,
    /// Only pending tasks of this type; of others the type is not in memory.
    pub(crate) type_id: Option<TypeId>,
    /// Only ids below this.
    pub(crate) before: TaskId,
    /// At most this many.
    pub(crate) limit: usize,
}

/// A worker's hello.
#[derive(Debug)]
pub(crate) struct Join {
    /// Who.
    pub(crate) holder: Holder,
    /// Where it was dialled.
    pub(crate) address: Arc<str>,
    /// What it serves, in the order of its hello.
    pub(crate) types: Vec<Known>,
    /// How many tasks it runs at once.
    pub(crate) slots: u32,
    /// What it says it holds; `None` if it has no sessions to say so: then what an earlier boot
    /// called it for may have run.
    pub(crate) claims: Option<Vec<Claim>>,
    /// It is about to leave.
    pub(crate) draining: bool,
    /// The pipe to it.
    pub(crate) frames: mpsc::UnboundedSender<v1::SessionRequest>,
    /// The session's number.
    pub(crate) session: u64,
}

impl Join {
    pub(super) fn claims(&self) -> &[Claim] {
        self.claims.as_deref().unwrap_or_default()
    }
}

/// The loop knows the worker.
#[derive(Debug)]
pub(crate) struct Joined {
    /// Names the session.
    pub(crate) member: Member,
}

/// A worker's report, parsed.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// Attempts that ended.
    pub(crate) outcomes: Vec<Settlement>,
    /// Handlers that started.
    pub(crate) started: Vec<(TaskId, Token)>,
    /// Prefetch by the place of the type in the hello.
    pub(crate) prefetch: Vec<(u32, u32)>,
    /// The worker is about to leave.
    pub(crate) draining: bool,
}

/// One outcome, parsed.
#[derive(Debug)]
pub(crate) struct Settlement {
    /// The task.
    pub(crate) id: TaskId,
    /// The lease that it settles.
    pub(crate) token: Token,
    /// How the attempt ended.
    pub(crate) outcome: Outcome,
    /// The result, if it completed.
    pub(crate) result: Bytes,
    /// How long the handler ran, in microseconds.
    pub(crate) run_us: u64,
}

/// The loop's address. Cheap to clone; the loop outlives its shutdown only as long
/// as a commit takes, after which every question is answered with [`Gone`].
#[derive(Debug, Clone)]
pub(crate) struct Handle {
    inbox: mpsc::Sender<Message>,
    types: watch::Receiver<Arc<Types>>,
    committed: broadcast::Sender<Arc<Group>>,
    trimmed_to: watch::Receiver<Seq>,
}

/// The loop has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the dispatcher stops; try again")]
pub(crate) struct Gone;

impl Handle {
    pub(super) fn new(
        inbox: mpsc::Sender<Message>,
        types: watch::Receiver<Arc<Types>>,
        committed: broadcast::Sender<Arc<Group>>,
        trimmed_to: watch::Receiver<Seq>,
    ) -> Self {
        Self { inbox, types, committed, trimmed_to }
    }

    /// Tells the loop something.
    pub(crate) async fn tell(&self, message: Message) -> Result<(), Gone> {
        self.inbox.send(message).await.map_err(|_| Gone)
    }

    /// Asks the loop something and waits for the answer.
    pub(crate) async fn ask<T>(
        &self,
        question: impl FnOnce(oneshot::Sender<T>) -> Message,
    ) -> Result<T, Gone> {
        let (reply, answer) = oneshot::channel();
        self.tell(question(reply)).await?;
        answer.await.map_err(|_| Gone)
    }

    /// The known types at this moment.
    pub(crate) fn types(&self) -> Arc<Types> {
        self.types.borrow().clone()
    }

    /// Every group from now on, once it is durable. One whose results are large
    /// comes without entries: they are to be read from the store.
    pub(crate) fn committed(&self) -> broadcast::Receiver<Arc<Group>> {
        self.committed.subscribe()
    }

    /// Places up to this one may have been trimmed.
    pub(crate) fn trimmed_to(&self) -> Seq {
        *self.trimmed_to.borrow()
    }
}
