//! One task: what was asked for, what it went through, and what an attempt's end
//! makes of it.
//!
//! ```text
//!             lease                    completed
//!  pending ───────────▶ running ─────────────────────▶ completed
//!   ▲  ▲ │                │ │
//!   │  │ │ cancel         │ │ error, timeout, panic, lost: budget left
//!   │  └─┼────────────────┼─┘ released: nothing charged
//!   │    ▼                ▼
//!   │  cancelled        failed    (permanent · budget used up · poison · unknown)
//!   └────┴────────────────┘
//!           retry: a new round
//! ```
//!
//! What this module does not do: it holds no tasks and gives no leases; that is
//! the queue's part.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::id::{Seq, Timestamp, Token};
use super::retry;
use super::task_type::TypeId;

/// What a client asked for. Never changes.
///
/// Durable: fields may be added at the end with a new version of the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// Its type.
    pub type_id: TypeId,
    /// 0 (most urgent) to 9.
    pub priority: u8,
    /// When it was accepted.
    pub created: Timestamp,
    /// Not to be started before this.
    pub run_at: Timestamp,
    /// The longest one attempt may run, in milliseconds; 0 for no limit.
    pub timeout_ms: u64,
    /// Charged errors until it fails.
    pub max_attempts: u32,
    /// Lost workers until its run alone.
    pub max_crashes: u32,
    /// The group under which it can be watched; 0 for none.
    pub group: u64,
    /// Bytes of its payload.
    pub payload_bytes: u32,
}

impl Spec {
    /// Whether its handler must not be started twice, whatever happens.
    #[must_use]
    pub fn at_most_once(&self) -> bool {
        self.max_attempts == 1 && self.max_crashes == 0
    }

    /// Where it waits.
    #[must_use]
    pub fn lane(&self) -> Lane {
        Lane { type_id: self.type_id, priority: self.priority }
    }
}

/// Tasks of one type and priority: within a lane they start in order of acceptance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Lane {
    /// The type.
    pub type_id: TypeId,
    /// 0 (most urgent) to 9.
    pub priority: u8,
}

/// What a task went through so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Leases given over its whole life.
    pub attempts: u32,
    /// Charged errors of this round.
    pub errors: u32,
    /// Workers lost in this round while its handler ran.
    pub crashes: u32,
    /// Its last event in the log.
    pub last: Option<Seq>,
    /// The token of its newest lease.
    pub token: Option<Token>,
    /// That lease ended without a word of its worker, as far as is known: a late
    /// success is welcome, and the worker may come back with it.
    pub open: bool,
    /// That lease was charged as lost: nothing it ends with is counted again.
    pub counted: bool,
    /// A worker was lost with it in silence, which counts if the next one is lost too.
    pub suspected: bool,
}

impl Progress {
    /// Whether its next run must be alone on its worker: it has used up its
    /// crashes, and a neighbour must not be blamed for the next one.
    #[must_use]
    pub fn runs_alone(&self, spec: &Spec) -> bool {
        spec.max_crashes > 0 && self.crashes >= spec.max_crashes
    }

    /// Whether its next run must have a free slot: its last lease ended without a word of
    /// its worker, which the task may have taken down before its start was heard of. In a
    /// free slot it starts at once, so that a loss there can be charged.
    #[must_use]
    pub fn runs_at_once(&self) -> bool {
        self.open
    }
}

/// How a task stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Status {
    /// Waits for a worker, its time, or its next attempt.
    Pending,
    /// A worker holds its lease.
    Running,
    /// Ended with a result.
    Completed,
    /// Ended without one: a dead letter.
    Failed,
    /// Ended by a person's wish.
    Cancelled,
}

impl Status {
    /// Whether nothing more happens to it by itself.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        match self {
            Self::Pending | Self::Running => false,
            Self::Completed | Self::Failed | Self::Cancelled => true,
        }
    }

    /// The word for it, in JSON and prose.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// Why an attempt, or a task, did not succeed.
///
/// Durable: add variants at the end, change none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reason {
    /// The handler answered with an error.
    Error,
    /// The handler said that trying again is of no use.
    Permanent,
    /// The handler ran too long.
    Timeout,
    /// The handler panicked.
    Panic,
    /// The worker was lost while the handler ran.
    Lost,
    /// The task took its workers down.
    Poison,
    /// The outcome of an at-most-once task was lost.
    Unknown,
    /// Given back, charged to nothing.
    Released,
    /// A client asked for it.
    Cancelled,
    /// The worker was lost before the start was heard of. Charged to nothing; but if the
    /// next worker is lost too, with the handler started, the task may have taken down this
    /// one as well, and it counts then.
    Silence,
}

impl Reason {
    /// The word for it, in JSON and prose.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Permanent => "permanent",
            Self::Timeout => "timeout",
            Self::Panic => "panic",
            Self::Lost => "lost",
            Self::Poison => "poison",
            Self::Unknown => "unknown",
            Self::Released | Self::Silence => "released",
            Self::Cancelled => "cancelled",
        }
    }
}

/// A worker's exclusive right to a task until it expires.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Fences off whatever an older lease still sends.
    pub token: Token,
    /// Which attempt it is, from 1.
    pub attempt: u32,
    /// Who holds it.
    pub holder: Holder,
    /// When it was given.
    pub leased: Timestamp,
    /// When its handler started, as far as is known.
    pub started: Option<Timestamp>,
    /// Its loss is charged even if no start was reported: the start was stored
    /// before the push, because the task must not be started twice, or because
    /// a worker or the dispatcher itself went down with it before.
    pub charged: bool,
    /// Its loss was counted already, and then its worker came back with it: neither
    /// a failure nor another loss is counted again.
    pub resumed: bool,
}

/// One process of a worker.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Holder {
    /// Names the worker across its restarts.
    pub worker: Arc<str>,
    /// Tells this process from earlier ones.
    pub incarnation: u64,
}

/// How an attempt ended, as its worker tells it, or as the dispatcher found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// With a result; its bytes travel beside the event.
    Completed,
    /// With an error.
    Failed {
        /// [`Reason::Error`], [`Reason::Permanent`], [`Reason::Timeout`] or [`Reason::Panic`].
        reason: Reason,
        /// For people.
        message: String,
        /// The handler's own wish for the delay before the next attempt.
        retry_after: Option<Duration>,
    },
    /// Given back: nothing is charged.
    Released,
    /// The worker is gone.
    Lost,
}

/// What an event changed about a task.
///
/// Durable: add variants at the end, change none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// It has a result; its bytes are stored beside the event.
    Completed,
    /// An attempt ended without a result, and the task waits for the next one.
    Returned {
        /// Why.
        reason: Reason,
        /// The handler's error, if it gave one.
        error: String,
        /// When it may start again.
        run_at: Timestamp,
    },
    /// It ended without a result.
    Failed {
        /// Why.
        reason: Reason,
        /// The handler's error, if it gave one.
        error: String,
    },
    /// A client ended it.
    Cancelled,
    /// A client opened a new round: fresh budgets, but attempts and tokens go on.
    Retried {
        /// Leases given so far.
        attempts: u32,
        /// The token of the newest one.
        token: Option<Token>,
    },
}

impl Change {
    /// How the task stands after it.
    #[must_use]
    pub fn status(&self) -> Status {
        match self {
            Self::Completed => Status::Completed,
            Self::Returned { .. } | Self::Retried { .. } => Status::Pending,
            Self::Failed { .. } => Status::Failed,
            Self::Cancelled => Status::Cancelled,
        }
    }

    /// Why an attempt or the task did not succeed.
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        match self {
            Self::Completed | Self::Retried { .. } => None,
            Self::Returned { reason, .. } | Self::Failed { reason, .. } => Some(*reason),
            Self::Cancelled => Some(Reason::Cancelled),
        }
    }

    /// The handler's error.
    #[must_use]
    pub fn error(&self) -> &str {
        match self {
            Self::Returned { error, .. } | Self::Failed { error, .. } => error,
            Self::Completed | Self::Cancelled | Self::Retried { .. } => "",
        }
    }
}

/// What the end of an attempt makes of its task.
#[must_use]
pub fn settle(
    spec: &Spec,
    progress: &Progress,
    lease: &Lease,
    outcome: Outcome,
    now: Timestamp,
    dice: u64,
) -> Change {
    let returned =
        |reason, error, delay| Change::Returned { reason, error, run_at: now.plus(delay) };
    match outcome {
        Outcome::Completed => Change::Completed,
        Outcome::Released => returned(Reason::Released, String::new(), Duration::ZERO),
        Outcome::Failed { message, .. } if lease.resumed => {
            returned(Reason::Released, message, Duration::ZERO)
        }
        Outcome::Failed { reason, message, retry_after } => {
            let failures = progress.errors.saturating_add(1);
            if reason == Reason::Permanent || failures >= spec.max_attempts {
                return Change::Failed { reason, error: message };
            }
            let delay = retry_after.unwrap_or_else(|| retry::delay(failures, dice));
            returned(reason, message, delay)
        }
        Outcome::Lost => {
            let had_started = lease.started.is_some() || lease.charged;
            if lease.resumed {
                returned(Reason::Released, String::new(), Duration::ZERO)
            } else if !had_started {
                returned(Reason::Silence, String::new(), Duration::ZERO)
            } else if spec.at_most_once() {
                Change::Failed { reason: Reason::Unknown, error: String::new() }
            } else if progress.crashes >= spec.max_crashes {
                Change::Failed { reason: Reason::Poison, error: String::new() }
            } else {
                returned(Reason::Lost, String::new(), Duration::ZERO)
            }
        }
    }
}

/// The progress of a task after an event that left it pending, at this place.
#[must_use]
pub fn advance(
    before: &Progress,
    change: &Change,
    ended: Option<(u32, Token)>,
    seq: Seq,
) -> Progress {
    let mut after = Progress { last: Some(seq), ..*before };
    if let Some((attempt, token)) = ended {
        after.attempts = after.attempts.max(attempt);
        after.token = Some(token);
    }
    match change {
        Change::Retried { attempts, token } => {
            after = Progress { attempts: *attempts, token: *token, ..Progress::default() };
            after.last = Some(seq);
        }
        Change::Returned { reason, .. } | Change::Failed { reason, .. } => match reason {
            Reason::Error | Reason::Permanent | Reason::Timeout | Reason::Panic => {
                after.errors = after.errors.saturating_add(1);
                (after.open, after.counted, after.suspected) = (false, false, false);
            }
            Reason::Lost | Reason::Poison | Reason::Unknown => {
                // The same lease, if its worker came back and was lost for good, counts once.
                let in_arrears = before.suspected && before.token != after.token;
                let crashes = 1 + u32::from(in_arrears);
                after.crashes = after.crashes.saturating_add(crashes);
                (after.open, after.counted, after.suspected) = (true, true, false);
            }
            Reason::Released | Reason::Silence | Reason::Cancelled => {
                after.open = reason != &Reason::Cancelled;
                after.counted = before.counted && before.token == after.token;
                after.suspected |= reason == &Reason::Silence;
            }
        },
        Change::Completed | Change::Cancelled => {}
    }
    after
}

#[cfg(test)]
mod tests;
