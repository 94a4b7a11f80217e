//! What the pool counts, for those who watch the worker.

use super::desk::Stage;
use super::state::State;
use crate::wire::v1::outcome::End;

/// Counters of one type since the worker's start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::worker) struct Counts {
    pub(in crate::worker) started: u64,
    pub(in crate::worker) completed: u64,
    pub(in crate::worker) failed: u64,
    pub(in crate::worker) released: u64,
}

impl Counts {
    /// Counts the end of an attempt that had started.
    pub(super) fn end(&mut self, end: &End) {
        match end {
            End::Completed(_) => self.completed += 1,
            End::Failed(_) => self.failed += 1,
            End::Released(_) => self.released += 1,
        }
    }
}

/// The pool at one moment.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::worker) struct Numbers {
    pub(in crate::worker) slots: u32,
    pub(in crate::worker) busy: u32,
    /// Tasks that wait for a slot.
    pub(in crate::worker) waiting: usize,
    /// Dispatchers with a session.
    pub(in crate::worker) sessions: usize,
    /// Outcomes without a final answer.
    pub(in crate::worker) unanswered: usize,
    /// By type, in the order of the hello.
    pub(in crate::worker) types: Vec<Counts>,
    pub(in crate::worker) draining: bool,
}

impl State {
    pub(super) fn numbers(&self) -> Numbers {
        let desks = || self.desks.values();
        let ended = |stage: &Stage| matches!(stage, Stage::Ended(_));
        Numbers {
            slots: self.slots,
            busy: self.busy(),
            waiting: desks().map(|desk| desk.waiting).sum(),
            sessions: desks().filter(|desk| desk.session.is_some()).count(),
            unanswered: desks()
                .map(|desk| desk.leases.values().filter(|lease| ended(&lease.stage)).count())
                .sum(),
            types: self.counts.clone(),
            draining: self.draining,
        }
    }
}
