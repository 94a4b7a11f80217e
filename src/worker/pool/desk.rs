//! One dispatcher's side of the pool: the leases it gave, the outcomes it has not
//! answered, and what it has yet to be told.
//!
//! ```text
//!            take                     the run ends              answered
//!  waiting ───────▶ running ────────────────────────▶ ended ─────────────▶ gone
//!     └────────── recalled, cancelled, drain ───────────▲
//! ```
//!
//! The ended leases are the outbox: they are kept, across sessions, until the
//! dispatcher gave its final answer. A call of Execute has a desk of its own.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

use super::Waiting;
use crate::core::id::{Epoch, TaskId, Token};
use crate::core::number_map::NumberMap;
use crate::wire::{self, v1};
use crate::worker::prefetch;

/// Outcomes of one report: about 300 KB when they are small.
const REPORT_OUTCOMES: usize = 4_096;
/// Bytes of results in one report, unless one has more. Nothing else is said while a report
/// is under way, and a slow network takes it whole before the lease is extended.
const REPORT_BYTES: usize = 256 << 10;
/// Unanswered outcomes of one dispatcher, and bytes of their results, at which no
/// more of its tasks are started: it does not keep up, or is gone.
const OUTBOX_OUTCOMES: usize = 65_536;
const OUTBOX_BYTES: usize = 64 << 20;

/// See the module.
pub(super) struct Desk {
    pub(super) leases: NumberMap<Token, Lease>,
    /// How many of them wait.
    pub(super) waiting: usize,
    /// Tasks that had their turn while the outbox was full, in order.
    pub(super) parked: VecDeque<Waiting>,
    /// The conversation with the dispatcher, while there is one.
    pub(super) session: Option<Session>,
    /// Rung when there is something to report.
    pub(super) bell: Arc<Notify>,
    /// The bell was rung and the session has not looked since.
    pub(super) rung: bool,
    /// A larger result is a permanent failure.
    pub(super) max_result_bytes: u64,
    /// The caller of Execute hung up: nobody reads the outcome.
    pub(super) abandoned: bool,
    outbox: Outbox,
    unsaid: Unsaid,
}

/// A session as its desk knows it.
pub(super) struct Session {
    /// Tells it from other sessions of this worker.
    pub(super) serial: u64,
    pub(super) epoch: Epoch,
    /// The dispatcher's number for it.
    pub(super) number: u64,
    /// Cancelled when a newer one replaces it or the worker leaves.
    pub(super) ended: CancellationToken,
}

/// One lease.
pub(super) struct Lease {
    pub(super) task: TaskId,
    pub(super) attempt: u32,
    pub(super) stage: Stage,
}

/// See the module.
pub(super) enum Stage {
    Waiting,
    Running(Running),
    /// With its outcome, whose token is added where it is told.
    Ended(v1::Outcome),
}

/// An attempt whose handler runs.
pub(super) struct Running {
    pub(super) type_index: usize,
    pub(super) started: Instant,
    /// The handler's signal to stop, if it asked for one.
    pub(super) signal: Option<CancellationToken>,
    pub(super) place: Place,
    pub(super) timeout_ms: u64,
    /// When it is looked at next: its timeout, or the end of its grace.
    pub(super) deadline: Option<Instant>,
    /// It was told to stop, for this reason.
    pub(super) stopping: Option<Stopping>,
}

/// Where a handler runs.
#[derive(Debug)]
pub(super) enum Place {
    /// On the runtime, where it can be stopped once it is spawned.
    Runtime(Option<AbortHandle>),
    /// On a runner's thread, which nobody can stop.
    Runner,
    /// Within the session that its task came in with, which goes on when it is over.
    Session,
}

/// Why a handler was told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stopping {
    Cancelled,
    Timeout,
}

#[derive(Default)]
struct Outbox {
    outcomes: usize,
    bytes: usize,
}

/// What the dispatcher has not been told in this session.
#[derive(Default)]
struct Unsaid {
    outcomes: VecDeque<Token>,
    starts: Vec<Token>,
    progress: BTreeMap<Token, String>,
    draining: bool,
    /// The prefetch that was announced, by type.
    announced: Vec<u32>,
}

impl Desk {
    pub(super) fn new(max_result_bytes: u64) -> Self {
        Self {
            leases: NumberMap::default(),
            waiting: 0,
            parked: VecDeque::new(),
            session: None,
            bell: Arc::new(Notify::new()),
            rung: false,
            max_result_bytes,
            abandoned: false,
            outbox: Outbox::default(),
            unsaid: Unsaid::default(),
        }
    }

    /// Whether the outbox takes no more, so that nothing new is started.
    pub(super) fn is_full(&self) -> bool {
        self.outbox.outcomes >= OUTBOX_OUTCOMES || self.outbox.bytes >= OUTBOX_BYTES
    }

    /// Whether every outcome had its answer.
    pub(super) fn is_answered(&self) -> bool {
        self.outbox.outcomes == 0
    }

    /// A session began: all that is held is told in its hello, and every outcome
    /// is sent again.
    pub(super) fn begin(&mut self, types: usize) -> Vec<v1::HeldLease> {
        let leases = self.by_age();
        let ended = |lease: &Lease| matches!(lease.stage, Stage::Ended(_));
        let outcomes = leases.iter().filter(|(_, lease)| ended(lease)).map(|(token, _)| *token);
        let outcomes = outcomes.collect();
        let held = leases.into_iter().map(|(token, lease)| lease.held(token)).collect();
        self.unsaid = Unsaid {
            outcomes,
            progress: std::mem::take(&mut self.unsaid.progress),
            announced: vec![0; types],
            ..Unsaid::default()
        };
        held
    }

    /// All leases, the oldest first.
    pub(super) fn by_age(&self) -> Vec<(Token, &Lease)> {
        let mut leases: Vec<_> = self.leases.iter().map(|(token, lease)| (*token, lease)).collect();
        leases.sort_unstable_by_key(|(token, _)| *token);
        leases
    }

    /// The handler of a lease started.
    pub(super) fn note_start(&mut self, token: Token) {
        if self.session.is_some() {
            self.unsaid.starts.push(token);
        }
    }

    /// A handler said how far it is.
    pub(super) fn note_progress(&mut self, token: Token, message: String) {
        self.unsaid.progress.insert(token, message);
    }

    /// The worker is about to leave.
    pub(super) fn note_draining(&mut self) {
        self.unsaid.draining = true;
    }

    /// Puts the end of a lease into the outbox.
    pub(super) fn end(&mut self, token: Token, outcome: v1::Outcome) {
        let Some(lease) = self.leases.get_mut(&token) else { return };
        self.outbox.outcomes += 1;
        self.outbox.bytes += result_bytes(&outcome);
        self.unsaid.progress.remove(&token);
        self.unsaid.outcomes.push_back(token);
        lease.stage = Stage::Ended(outcome);
    }

    /// Forgets an outcome that had its final answer.
    pub(super) fn forget(&mut self, token: Token) -> Option<v1::Outcome> {
        let Entry::Occupied(lease) = self.leases.entry(token) else { return None };
        if !matches!(lease.get().stage, Stage::Ended(_)) {
            return None;
        }
        let Stage::Ended(outcome) = lease.remove().stage else { return None };
        self.outbox.outcomes -= 1;
        self.outbox.bytes -= result_bytes(&outcome);
        Some(outcome)
    }

    /// All that there is to tell the session, as far as one message takes it; `None`
    /// when there is nothing. `prefetch` is how far ahead each type may be sent.
    pub(super) fn report(&mut self, prefetch: impl Iterator<Item = u32>) -> Option<v1::Report> {
        let epoch = self.session.as_ref()?.epoch;
        self.rung = false;
        let outcomes = self.next_outcomes(epoch);
        let leases = &self.leases;
        let said = |token| Some(wire::said_in_session(token, epoch));
        let runs = |token: Token| {
            let lease = leases.get(&token)?;
            let started = v1::Started { task_id: lease.task.0, token: said(token) };
            matches!(lease.stage, Stage::Running(_)).then_some(started)
        };
        let started = self.unsaid.starts.drain(..).filter_map(runs).collect();
        let progress = std::mem::take(&mut self.unsaid.progress)
            .into_iter()
            .map(|(token, message)| v1::Progress { token: said(token), message })
            .collect();
        let report = v1::Report {
            outcomes,
            started,
            prefetch: self.prefetch_changes(prefetch),
            progress,
            draining: std::mem::take(&mut self.unsaid.draining),
        };
        (report != v1::Report::default()).then_some(report)
    }

    fn next_outcomes(&mut self, epoch: Epoch) -> Vec<v1::Outcome> {
        let mut outcomes = Vec::with_capacity(self.unsaid.outcomes.len().min(REPORT_OUTCOMES));
        let mut bytes = 0;
        while outcomes.len() < REPORT_OUTCOMES && bytes < REPORT_BYTES {
            let Some(token) = self.unsaid.outcomes.pop_front() else { break };
            let Some(Lease { stage: Stage::Ended(outcome), .. }) = self.leases.get(&token) else {
                continue;
            };
            let next = result_bytes(outcome);
            if !outcomes.is_empty() && bytes + next > REPORT_BYTES {
                self.unsaid.outcomes.push_front(token);
                break;
            }
            bytes += next;
            let token = Some(wire::said_in_session(token, epoch));
            outcomes.push(v1::Outcome { token, ..outcome.clone() });
        }
        outcomes
    }

    fn prefetch_changes(&mut self, prefetch: impl Iterator<Item = u32>) -> Vec<v1::Prefetch> {
        let mut changes = Vec::new();
        for ((index, announced), tasks) in (0..).zip(&mut self.unsaid.announced).zip(prefetch) {
            let tasks = prefetch::step(*announced, tasks);
            if prefetch::worth_saying(*announced, tasks) {
                *announced = tasks;
                changes.push(v1::Prefetch { type_index: index, tasks });
            }
        }
        changes
    }
}

impl Lease {
    fn held(&self, token: Token) -> v1::HeldLease {
        let started = match &self.stage {
            Stage::Waiting => false,
            Stage::Running(_) => true,
            // A handler that ran did so for at least a microsecond, see `outcome`.
            Stage::Ended(outcome) => outcome.run_us > 0,
        };
        let token = Some(token.into());
        v1::HeldLease { task_id: self.task.0, token, started, attempt: self.attempt }
    }
}

fn result_bytes(outcome: &v1::Outcome) -> usize {
    match &outcome.end {
        Some(v1::outcome::End::Completed(result)) => result.len(),
        Some(v1::outcome::End::Failed(failure)) => failure.message.len(),
        Some(v1::outcome::End::Released(_)) | None => 0,
    }
}
