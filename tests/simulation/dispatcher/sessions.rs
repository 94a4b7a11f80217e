//! Workers that come, report and leave.

use std::collections::BTreeSet;

use taskgrid::core::event::{EndedAttempt, Event, TaskEvent};
use taskgrid::core::id::{Seq, TaskId, Token};
use taskgrid::core::placement::Member;
use taskgrid::core::queue::{Command, Rejected};
use taskgrid::core::task::{Change, Holder, Outcome, Spec};
use taskgrid::core::task_type::TypeId;

use super::group::Effect;
use super::{Dispatcher, Errand, LEASE, Session, Turn, claim};
use crate::bugs::Bug;
use crate::wire::{Hello, Report, Said};

/// Every worker serves these.
pub(crate) const TYPES: [TypeId; 2] = [TypeId(0), TypeId(1)];

impl Dispatcher {
    pub(super) fn join(
        &mut self,
        conn: u64,
        number: u64,
        hello: &Hello,
        specs: &[Option<Spec>],
        cx: &mut Turn<'_>,
    ) {
        if self.draining {
            return;
        }
        self.next_member += 1;
        let member = Member(self.next_member);
        let holder = &hello.holder;
        let older = self.sessions.iter().filter(|(_, s)| s.holder.worker == holder.worker);
        let older: Vec<Member> = older.map(|(member, _)| *member).collect();
        for member in older {
            self.sessions.remove(&member);
            self.fleet.leave(member);
        }
        let held = u32::try_from(hello.held.len()).expect("a worker holds few");
        self.fleet.join(member, &TYPES, hello.slots, held);
        if hello.draining {
            self.fleet.drain(member);
        }
        if self.known_workers.insert(holder.worker.clone(), holder.incarnation)
            != Some(holder.incarnation)
        {
            let event = Event::WorkerSeen { holder: holder.clone(), address: "here:1".into() };
            self.open.group.entries.push((event, 0));
        }
        let draining = hello.draining;
        self.sessions.insert(member, Session { holder: holder.clone(), conn, number, draining });
        self.adopt_claims(member, hello, specs, cx);
        self.awaited.remove(&holder.worker);
        self.errands.push(Errand::Joined(conn, member));
    }

    fn adopt_claims(
        &mut self,
        member: Member,
        hello: &Hello,
        specs: &[Option<Spec>],
        cx: &mut Turn<'_>,
    ) {
        let holder = &hello.holder;
        let until = cx.now.plus(LEASE);
        let mut listed = BTreeSet::new();
        for (held, spec) in hello.held.iter().zip(specs) {
            let was_lost = self.queue.leases.find(held.id).is_none();
            match self.queue.adopt(holder, &claim(held, *spec), cx.now, until) {
                Ok(()) => {
                    listed.insert(held.id);
                    self.staged.remove(&held.id);
                    cx.oracle.adopted(held.id, held.token, was_lost);
                    self.make_room_for(member, held.id, cx.bug);
                }
                Err(rejected) => {
                    cx.oracle.refused_claim(rejected);
                    self.after_commit(Effect::Stop(member, held.token), cx);
                }
            }
        }
        for id in self.queue.leases.of(holder) {
            if !listed.contains(&id) && cx.bug != Some(Bug::HelloIgnored) {
                let held = self.queue.leases.find(id).expect("a holder's lease is held");
                cx.oracle.not_listed(holder, held.lease.token);
                self.end_lease(id, Outcome::Released, cx);
            }
        }
        for predecessor in self.queue.leases.predecessors(holder) {
            for id in self.queue.leases.of(&predecessor) {
                self.end_lease(id, Outcome::Lost, cx);
            }
        }
        self.queue.leases.extend(holder, until);
        cx.oracle.extended(holder, cx.awake);
    }

    /// A worker came back with a task: none needs to be set aside for it, and if it
    /// runs alone, nothing is put beside it.
    fn make_room_for(&mut self, member: Member, id: TaskId, bug: Option<Bug>) {
        if bug != Some(Bug::SetAsideForever) {
            self.fleet.give_up(id);
        }
        if self.runs_alone(id) && bug != Some(Bug::AloneForgotten) {
            self.fleet.keep_alone(member);
        }
    }

    /// Whether a task that is leased must be the only one of its worker.
    pub(super) fn runs_alone(&self, id: TaskId) -> bool {
        let held = self.queue.leases.find(id);
        held.is_some_and(|held| held.progress.runs_alone(&held.spec))
    }

    pub(super) fn leave(&mut self, member: Member, goodbye: bool) {
        let Some(session) = self.sessions.remove(&member) else { return };
        self.fleet.leave(member);
        let worker = session.holder.worker;
        if (goodbye || session.draining)
            && !self.draining
            && self.known_workers.remove(&worker).is_some()
        {
            self.open.group.entries.push((Event::WorkerLeft { worker }, 0));
        }
    }

    pub(super) fn report(&mut self, member: Member, report: Report, cx: &mut Turn<'_>) {
        if self.draining {
            return;
        }
        let Some(session) = self.sessions.get(&member) else { return };
        let holder = session.holder.clone();
        self.queue.leases.extend(&holder, cx.now.plus(LEASE));
        cx.oracle.extended(&holder, cx.awake);
        for (type_id, tasks) in report.prefetch {
            self.fleet.set_prefetch(member, type_id, tasks);
        }
        for (id, token) in report.started {
            let held = self.queue.leases.find(id);
            if held.is_some_and(|held| held.lease.token == token) {
                self.queue.leases.start(id, cx.now);
            }
        }
        for said in report.outcomes {
            self.fleet.release(member);
            self.settle(member, &said, cx);
        }
        if report.draining {
            self.fleet.drain(member);
            if let Some(session) = self.sessions.get_mut(&member) {
                session.draining = true;
            }
        }
    }

    fn settle(&mut self, member: Member, said: &Said, cx: &mut Turn<'_>) {
        let dice = cx.dice.roll();
        let Said { id, outcome, result, run_us, .. } = said.clone();
        let held = self.queue.leases.find(id).map(|held| held.lease.token);
        let token = match cx.bug {
            Some(Bug::TokenIgnored) => held.unwrap_or(said.token),
            _ => said.token,
        };
        let is_charged = cx.bug == Some(Bug::ReleaseCharged) && outcome == Outcome::Released;
        let outcome = if is_charged { Outcome::Lost } else { outcome };
        let command = Command::Settle { token, outcome, run_us };
        match self.queue.decide(id, command, cx.now, dice) {
            Ok(event) => {
                cx.oracle.settled(said, &event);
                self.record(event, result, cx);
                let effect = Effect::Answer(member, id, said.token, true);
                match cx.bug {
                    Some(Bug::AnswerBeforeStore) => self.carry_out(effect, cx),
                    _ => self.after_commit(effect, cx),
                }
            }
            Err(rejected @ Rejected::Ended(_, place)) => {
                cx.oracle.refused_outcome(rejected);
                if cx.bug == Some(Bug::ResultReplaced) && said.outcome == Outcome::Completed {
                    let event = self.replacement(said, place, cx);
                    self.record(event, result, cx);
                }
                self.after_commit(Effect::Judge(member, said.token, place), cx);
            }
            Err(rejected) => {
                cx.oracle.refused_outcome(rejected);
                self.after_commit(Effect::Answer(member, id, said.token, false), cx);
            }
        }
    }

    /// The event that must not be.
    fn replacement(&self, said: &Said, place: Seq, cx: &Turn<'_>) -> TaskEvent {
        let attempt = EndedAttempt {
            number: u32::MAX,
            token: said.token,
            worker: "".into(),
            leased: cx.now,
            run_us: said.run_us,
        };
        TaskEvent {
            seq: self.queue.next_seq(),
            id: said.id,
            previous: Some(place),
            at: cx.now,
            spec: cx.oracle.spec(said.id, cx.log),
            attempt: Some(attempt),
            change: Change::Completed,
            result_bytes: 0,
        }
    }

    pub(super) fn end_lease(&mut self, id: TaskId, outcome: Outcome, cx: &mut Turn<'_>) {
        let Some(held) = self.queue.leases.find(id) else { return };
        let (token, holder) = (held.lease.token, held.lease.holder.clone());
        let dice = cx.dice.roll();
        let command = Command::Settle { token, outcome, run_us: 0 };
        let Ok(event) = self.queue.decide(id, command, cx.now, dice) else { return };
        self.record(event, 0, cx);
        self.stop_handler(&holder, token, cx);
    }

    pub(super) fn stop_handler(&mut self, holder: &Holder, token: Token, cx: &mut Turn<'_>) {
        let session = self.sessions.iter().find(|(_, session)| session.holder == *holder);
        if let Some(member) = session.map(|(member, _)| *member) {
            self.after_commit(Effect::Stop(member, token), cx);
        }
    }
}
