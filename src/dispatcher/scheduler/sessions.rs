//! Workers that come, drain and leave.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::Scheduler;
use super::group::{Effect, Outgoing};
use super::message::{Join, Joined};
use crate::core::event::Event;
use crate::core::id::TaskId;
use crate::core::placement::Member;
use crate::core::task::{Holder, Outcome};
use crate::core::task_type::TypeId;
use crate::dispatcher::types::Known;
use crate::wire::v1::{self, session_request::Frame};

/// Bytes of payloads in one message of assignments, unless there is only one: a worker begins
/// with the first while others are under way.
const ASSIGN_BYTES: usize = 1 << 20;

/// A worker with which a conversation stands.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) holder: Holder,
    types: Vec<TypeId>,
    number: u64,
    frames: mpsc::UnboundedSender<v1::SessionRequest>,
    pub(super) draining: bool,
}

impl Session {
    /// The type at a place of the worker's hello.
    pub(super) fn type_at(&self, index: u32) -> Option<TypeId> {
        self.types.get(usize::try_from(index).ok()?).copied()
    }

    /// The place of a type in the worker's hello.
    pub(super) fn type_index(&self, type_id: TypeId) -> u32 {
        let place = self.types.iter().position(|id| *id == type_id);
        place.and_then(|place| u32::try_from(place).ok()).unwrap_or(u32::MAX)
    }

    /// Sends what a turn collected. A pipe whose end is gone loses it: the next
    /// session's hello tells what the worker has.
    pub(super) fn send(&self, outgoing: Outgoing) {
        let Outgoing { assign, settled, cancel } = outgoing;
        let frame = |frame| v1::SessionRequest { frame: Some(frame) };
        for tasks in in_messages(assign) {
            let assign = v1::Assign { session: self.number, tasks };
            drop(self.frames.send(frame(Frame::Assign(assign))));
        }
        if !settled.is_empty() {
            drop(self.frames.send(frame(Frame::Settled(v1::Settled { answers: settled }))));
        }
        if !cancel.is_empty() {
            drop(self.frames.send(frame(Frame::Cancel(v1::Cancel { tokens: cancel }))));
        }
    }
}

/// Cuts assignments into as many as one message takes each, in their order.
fn in_messages(assign: Vec<v1::Assignment>) -> impl Iterator<Item = Vec<v1::Assignment>> {
    let mut rest = VecDeque::from(assign);
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = rest.iter().position(|task| {
            bytes += task.payload.len();
            bytes > ASSIGN_BYTES
        });
        match fits {
            // As it mostly is: the same memory.
            None => (!rest.is_empty()).then(|| std::mem::take(&mut rest).into()),
            Some(fits) => Some(rest.drain(..fits.max(1)).collect()),
        }
    })
}

impl Scheduler {
    /// Takes a worker in. Its hello is authoritative: what it does not list is
    /// released, what an earlier process of it held is lost with that process.
    pub(super) fn join(&mut self, join: &Join, reply: oneshot::Sender<Joined>) {
        if self.draining {
            return;
        }
        self.next_member += 1;
        let member = Member(self.next_member);
        let type_ids = self.learn_all(&join.types);
        self.replace_session(&join.holder.worker);
        let held = u32::try_from(join.claims().len()).unwrap_or(u32::MAX);
        self.fleet.join(member, &type_ids, join.slots, held);
        if join.draining {
            self.fleet.drain(member);
        }
        self.see_worker(&join.holder, &join.address);
        self.tally.joined(join, &self.types);
        let session = Session {
            holder: join.holder.clone(),
            types: type_ids,
            number: join.session,
            frames: join.frames.clone(),
            draining: join.draining,
        };
        self.sessions.insert(member, session);
        self.adopt_claims(member, join);
        self.gate.heard(&join.holder.worker);
        tracing::info!(
            worker = %join.holder.worker,
            address = %join.address,
            slots = join.slots,
            held,
            "worker joined"
        );
        // A link that has ended meanwhile will say so.
        drop(reply.send(Joined { member }));
    }

    fn adopt_claims(&mut self, member: Member, join: &Join) {
        let now = self.last_turn;
        let until = now.plus(self.rules.lease);
        let mut listed = std::collections::BTreeSet::new();
        for claim in join.claims() {
            let was_leased = self.queue.leases.find(claim.id).is_some();
            match self.queue.adopt(&join.holder, claim, now, until) {
                Ok(()) => {
                    listed.insert(claim.id);
                    if !was_leased {
                        self.tally.adopted(claim.spec.as_ref());
                    }
                    self.staged.take(claim.id);
                    self.fleet.give_up(claim.id);
                    let held = self.queue.leases.find(claim.id);
                    if held.is_some_and(|held| held.progress.runs_alone(&held.spec)) {
                        self.fleet.keep_alone(member);
                    }
                }
                Err(rejected) => {
                    tracing::debug!(task = %claim.id, token = %claim.token, ?rejected, "lease refused");
                    self.after_commit(Effect::Stop(member, claim.token));
                }
            }
        }
        for id in self.queue.leases.of(&join.holder) {
            if !listed.contains(&id) {
                let may_have_run = join.claims.is_none() && self.must_not_run_again(id);
                self.end_lease(id, if may_have_run { Outcome::Lost } else { Outcome::Released });
            }
        }
        for predecessor in self.queue.leases.predecessors(&join.holder) {
            for id in self.queue.leases.of(&predecessor) {
                self.end_lease(id, Outcome::Lost);
            }
        }
        self.queue.leases.extend(&join.holder, until);
    }

    /// Whether this lease is one of an earlier boot, of a task that is started at most once.
    fn must_not_run_again(&self, id: TaskId) -> bool {
        let held = self.queue.leases.find(id);
        held.is_some_and(|held| {
            held.spec.at_most_once() && self.queue.epoch() != Some(held.lease.token.epoch)
        })
    }

    /// A worker has one session: the newest.
    fn replace_session(&mut self, worker: &str) {
        let older: Vec<Member> = self
            .sessions
            .iter()
            .filter(|(_, session)| *session.holder.worker == *worker)
            .map(|(member, _)| *member)
            .collect();
        for member in older {
            self.sessions.remove(&member);
            self.fleet.leave(member);
        }
    }

    fn see_worker(&mut self, holder: &Holder, address: &Arc<str>) {
        let seen = (holder.incarnation, address.clone());
        if self.known_workers.get(&holder.worker) == Some(&seen) {
            return;
        }
        self.known_workers.insert(holder.worker.clone(), seen);
        let event = Event::WorkerSeen { holder: holder.clone(), address: address.clone() };
        self.open.group.entries.push(event.into());
    }

    pub(super) fn drain_member(&mut self, member: Member) {
        self.fleet.drain(member);
        if let Some(session) = self.sessions.get_mut(&member) {
            session.draining = true;
            self.tally.draining(&session.holder.worker);
        }
    }

    /// A session is over. The worker's leases live on until it comes back or they
    /// run out; one that had said goodbye is not waited for after a restart.
    pub(super) fn leave(&mut self, member: Member, goodbye: bool) {
        let Some(session) = self.sessions.remove(&member) else { return };
        self.fleet.leave(member);
        let worker = session.holder.worker;
        self.tally.left(&worker);
        tracing::info!(%worker, goodbye, "worker's session ended");
        if (goodbye || session.draining)
            && !self.draining
            && self.known_workers.remove(&worker).is_some()
        {
            self.open.group.entries.push(Event::WorkerLeft { worker }.into());
        }
    }

    /// Takes over what the nameservice says.
    pub(super) fn set_endpoints(
        &mut self,
        endpoints: BTreeMap<String, v1::Health>,
        complete: bool,
    ) {
        self.tally.set_endpoints(endpoints, complete);
        self.forget_workers();
    }

    /// A worker that the nameservice does not know any more and that left no lease
    /// behind is gone for good: it is not waited for after a restart, or each worker
    /// that ever crashed would be, for ever.
    pub(super) fn forget_workers(&mut self) {
        if self.draining || !self.gate.is_open(self.last_turn) {
            return;
        }
        let gone = self.known_workers.iter().filter(|(worker, (incarnation, _))| {
            let holder = Holder { worker: (*worker).clone(), incarnation: *incarnation };
            let has_session = || self.sessions.values().any(|s| s.holder.worker == **worker);
            self.tally.is_unregistered(worker)
                && !has_session()
                && self.queue.leases.of(&holder).is_empty()
        });
        let gone: Vec<Arc<str>> = gone.map(|(worker, _)| worker.clone()).collect();
        for worker in gone {
            self.known_workers.remove(&worker);
            self.open.group.entries.push(Event::WorkerLeft { worker }.into());
        }
    }

    pub(super) fn learn(&mut self, types: &[Known]) {
        if !self.draining {
            self.learn_all(types);
        }
    }

    /// Makes types known, and gives their places in the order given. One more type
    /// than may be learnt is served by nobody.
    fn learn_all(&mut self, types: &[Known]) -> Vec<TypeId> {
        let mut places = Vec::with_capacity(types.len());
        let mut is_news = false;
        for known in types {
            let name = &known.definition.name;
            let Some(id) = self.types.place_for(name) else {
                tracing::warn!(task_type = %name, "too many task types: this one is not learnt");
                places.push(TypeId(u32::MAX));
                continue;
            };
            if !self.types.knows(&known.definition) {
                self.types.learn(id, known.clone());
                let definition = known.definition.clone();
                self.open.group.entries.push(Event::TypeLearned { type_id: id, definition }.into());
                is_news = true;
            }
            places.push(id);
        }
        if is_news {
            self.shared.types.send_replace(Arc::new(self.types.clone()));
        }
        places
    }

    /// What each worker with a session holds.
    pub(super) fn held_by_worker(&self) -> BTreeMap<Arc<str>, u32> {
        let held = self.sessions.iter();
        held.map(|(m, session)| (session.holder.worker.clone(), self.fleet.held(*m))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: usize = ASSIGN_BYTES;

    #[test]
    fn assignments_are_cut_into_messages_of_a_bounded_size_in_their_order() {
        let cut = |sizes: &[usize]| -> Vec<Vec<usize>> {
            let task = |bytes: &usize| v1::Assignment {
                payload: vec![0; *bytes].into(),
                ..v1::Assignment::default()
            };
            let messages = in_messages(sizes.iter().map(task).collect());
            messages.map(|tasks| tasks.iter().map(|task| task.payload.len()).collect()).collect()
        };
        assert!(cut(&[]).is_empty());
        assert_eq!(cut(&[1, 2, FULL - 3]), [vec![1, 2, FULL - 3]]);
        assert_eq!(cut(&[1, FULL, FULL + 1, 2]), [vec![1], vec![FULL], vec![FULL + 1], vec![2]]);
        assert_eq!(cut(&[FULL / 2; 5]), [vec![FULL / 2; 2], vec![FULL / 2; 2], vec![FULL / 2]]);
    }
}
