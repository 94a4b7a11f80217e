//! What workers report: starts, outcomes, extensions.

use super::Scheduler;
use super::group::Effect;
use super::message::{Report, Settlement};
use crate::core::id::{TaskId, Token};
use crate::core::placement::Member;
use crate::core::queue::{Command, Rejected};
use crate::core::task::{Outcome, Reason};
use crate::wire::v1;
use bytes::Bytes;

impl Scheduler {
    /// Takes a report in. Every report extends all leases of its worker.
    pub(super) fn report(&mut self, member: Member, report: Report) {
        // A dispatcher that drains decides nothing more; the worker keeps its
        // outcomes until the next boot answers them.
        if self.draining {
            return;
        }
        let Some(session) = self.sessions.get(&member) else { return };
        let holder = session.holder.clone();
        let prefetch: Vec<_> = report
            .prefetch
            .iter()
            .filter_map(|(index, tasks)| Some((session.type_at(*index)?, *tasks)))
            .collect();
        self.queue.leases.extend(&holder, self.last_turn.plus(self.rules.lease));
        for (type_id, tasks) in prefetch {
            self.fleet.set_prefetch(member, type_id, tasks);
        }
        for (id, token) in report.started {
            let held = self.queue.leases.find(id);
            if held.is_some_and(|held| held.lease.token == token) {
                self.queue.leases.start(id, self.last_turn);
            }
        }
        for settlement in report.outcomes {
            self.fleet.release(member);
            self.settle(member, settlement);
        }
        if report.draining {
            self.drain_member(member);
        }
    }

    fn settle(&mut self, member: Member, settlement: Settlement) {
        let Settlement { id, token, outcome, result, run_us } = settlement;
        let dice = self.roll();
        let command = Command::Settle { token, outcome, run_us };
        match self.queue.decide(id, command, self.last_turn, dice) {
            Ok(event) => {
                let session = self.sessions.get(&member);
                self.tally.settled(session.map(|session| &session.holder.worker), &event);
                self.record(event, result);
                self.after_commit(Effect::Answer(member, token, v1::Answer::Accepted));
            }
            Err(Rejected::Ended(_, place)) => {
                self.after_commit(Effect::Judge(member, token, place));
            }
            Err(Rejected::Fenced) => {
                self.tally.fenced();
                self.after_commit(Effect::Answer(member, token, v1::Answer::Fenced));
            }
            Err(Rejected::Duplicate) => {
                self.after_commit(Effect::Answer(member, token, v1::Answer::Duplicate));
            }
            Err(Rejected::Unknown | Rejected::Standing(_)) => {
                self.after_commit(Effect::Answer(member, token, v1::Answer::Unknown));
            }
        }
    }

    /// Ends leases from this side: their worker is gone, or gave them up unasked.
    pub(super) fn end_lease(&mut self, id: TaskId, outcome: Outcome) {
        let Some(held) = self.queue.leases.find(id) else { return };
        let token = held.lease.token;
        let holder = held.lease.holder.clone();
        let is_loss = outcome == Outcome::Lost;
        let dice = self.roll();
        let command = Command::Settle { token, outcome, run_us: 0 };
        let Ok(event) = self.queue.decide(id, command, self.last_turn, dice) else { return };
        if is_loss {
            tracing::info!(task = %id, worker = %holder.worker, %token, "lease lost");
        }
        self.tally.settled(Some(&holder.worker), &event);
        self.record(event, Bytes::new());
        self.stop_handler(&holder, token);
    }

    /// Tells the session of a holder, if there is one, that a lease is over.
    pub(super) fn stop_handler(&mut self, holder: &crate::core::task::Holder, token: Token) {
        let session = self.sessions.iter().find(|(_, session)| session.holder == *holder);
        if let Some(member) = session.map(|(member, _)| *member) {
            self.after_commit(Effect::Stop(member, token));
        }
    }

    /// The handler ran too long, and its worker did not say so.
    pub(super) fn time_out(&mut self, id: TaskId) {
        let message = "the handler ran longer than its timeout".to_owned();
        let outcome = Outcome::Failed { reason: Reason::Timeout, message, retry_after: None };
        self.end_lease(id, outcome);
    }
}
