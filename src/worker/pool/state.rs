//! What the pool knows, behind its lock: who waits, who runs, on how many slots.
//! Decides; what must be done outside the lock it notes in [`After`].

mod turn;

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

pub(super) use self::turn::{BRIEF_TURN, Turn};
use super::desk::{Desk, Lease, Place, Running, Session, Stage, Stopping};
use super::numbers::Counts;
use super::outcome::{self, Answer};
use super::runners::Runners;
use super::{Attached, Caller, Order, Refusal, Waiting};
use crate::core::id::{TaskId, Token};
use crate::core::limits;
use crate::wire::v1;
use crate::worker::handler::{Kind, LeaseId};
use crate::worker::prefetch::RunTime;

/// How long a handler that was told to stop may take to do so by itself.
const GRACE: Duration = Duration::from_millis(500);
/// Blocking handlers that did not stop and were left to themselves, each with its
/// thread. Beyond, they keep their slots until they return.
const DETACHED: usize = 256;
/// How long such a slot is kept before it is looked at again.
const DETACH_AGAIN: Duration = Duration::from_secs(1);
/// Dispatchers known at once.
const DISPATCHERS: usize = 64;
/// Tasks that wait for one dispatcher beyond what it was told it may send: the
/// credit may have shrunk while they were under way.
const CREDIT_SLACK: usize = 1_024;

/// See the module.
pub(super) struct State {
    pub(super) desks: BTreeMap<u64, Desk>,
    pub(super) slots: u32,
    pub(super) runners: Runners,
    pub(super) draining: bool,
    pub(super) stopped: bool,
    pub(super) after: After,
    /// By type.
    pub(super) counts: Vec<Counts>,
    dispatchers: BTreeMap<String, u64>,
    serial: u64,
    queue: VecDeque<Waiting>,
    /// What the types' handlers are.
    kinds: Vec<Kind>,
    free: u32,
    deadlines: BTreeSet<(Instant, u64, Token)>,
    run_times: Vec<RunTime>,
}

/// What is done once the lock is free: whoever is woken may want it at once.
#[derive(Default)]
pub(super) struct After {
    pub(super) bells: Vec<Arc<Notify>>,
    pub(super) signals: Vec<CancellationToken>,
    pub(super) calls: u32,
    pub(super) deadlines_moved: bool,
}

/// A task that was taken to be run.
pub(super) struct Taken {
    pub(super) lease: LeaseId,
    pub(super) type_index: usize,
    pub(super) payload: bytes::Bytes,
}

impl State {
    /// Of so many slots, for types with handlers of these kinds.
    pub(super) fn new(slots: u32, kinds: Vec<Kind>) -> Self {
        let types = kinds.len();
        Self {
            desks: BTreeMap::new(),
            slots,
            runners: Runners::new(processors()),
            draining: false,
            stopped: false,
            after: After::default(),
            counts: vec![Counts::default(); types],
            dispatchers: BTreeMap::new(),
            serial: 0,
            queue: VecDeque::new(),
            kinds,
            free: slots,
            deadlines: BTreeSet::new(),
            run_times: vec![RunTime::default(); types],
        }
    }

    /// How many slots have a handler.
    pub(super) fn busy(&self) -> u32 {
        self.slots - self.free
    }

    /// The session's desk, if it still is the desk's session.
    fn current(&mut self, desk: u64, serial: u64) -> Option<&mut Desk> {
        let desk = self.desks.get_mut(&desk)?;
        let is_current = desk.session.as_ref().is_some_and(|session| session.serial == serial);
        is_current.then_some(desk)
    }

    fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    // Sessions.

    pub(super) fn attach(&mut self, caller: Caller) -> Result<Attached, Refusal> {
        let known = self.dispatchers.get(&caller.dispatcher).copied();
        if self.draining && known.is_none() {
            return Err(Refusal::Draining);
        }
        let id = match known {
            Some(id) => id,
            None => self.open_desk(caller.dispatcher)?,
        };
        let (serial, types) = (self.next_serial(), self.run_times.len());
        let desk = self.desks.get_mut(&id).expect("a known dispatcher has a desk");
        if let Some(old) = &desk.session {
            if old.epoch == caller.epoch && old.number >= caller.number {
                return Err(Refusal::Replaced);
            }
            self.after.signals.push(old.ended.clone());
        }
        let ended = CancellationToken::new();
        desk.session = Some(Session {
            serial,
            epoch: caller.epoch,
            number: caller.number,
            ended: ended.clone(),
        });
        desk.max_result_bytes = caller.max_result_bytes;
        let held = desk.begin(types);
        // A bell of its own: the old session may still listen to the old one.
        desk.bell = Arc::new(Notify::new());
        desk.rung = false;
        let bell = Arc::clone(&desk.bell);
        Ok(Attached { desk: id, serial, bell, ended, held, draining: self.draining })
    }

    fn open_desk(&mut self, dispatcher: String) -> Result<u64, Refusal> {
        if self.dispatchers.len() >= DISPATCHERS {
            let absent = |desk: &Desk| {
                desk.session.is_none()
                    && desk.leases.values().all(|lease| matches!(lease.stage, Stage::Ended(_)))
            };
            let longest = self
                .dispatchers
                .values()
                .copied()
                .filter(|id| self.desks.get(id).is_some_and(absent));
            let forgotten = longest.min().ok_or(Refusal::Full)?;
            tracing::warn!("too many dispatchers: forgetting the outcomes of one that left");
            self.close_desk(forgotten);
        }
        let id = self.next_serial();
        self.dispatchers.insert(dispatcher, id);
        self.desks.insert(id, Desk::new(limits::PAYLOAD_BYTES));
        Ok(id)
    }

    fn close_desk(&mut self, id: u64) {
        self.desks.remove(&id);
        self.dispatchers.retain(|_, desk| *desk != id);
    }

    /// The session is over. What its dispatcher's leases hold stays.
    pub(super) fn detach(&mut self, id: u64, serial: u64) {
        let Some(desk) = self.current(id, serial) else { return };
        desk.session = None;
        if desk.leases.is_empty() {
            self.close_desk(id);
        }
    }

    /// Everything to tell a session, as far as one message takes it.
    pub(super) fn report(&mut self, desk: u64, serial: u64) -> Option<v1::Report> {
        let (slots, times) = (self.slots, std::mem::take(&mut self.run_times));
        let prefetch = times.iter().map(|time| time.prefetch(slots));
        let report = self.current(desk, serial).and_then(|desk| desk.report(prefetch));
        self.run_times = times;
        report
    }

    fn ring(&mut self, desk: u64) {
        if let Some(desk) = self.desks.get_mut(&desk).filter(|desk| !desk.rung) {
            desk.rung = true;
            self.after.bells.push(Arc::clone(&desk.bell));
        }
    }

    // Work comes.

    pub(super) fn assign(&mut self, id: u64, serial: u64, assign: v1::Assign) {
        let types = self.run_times.len();
        let slots = usize::try_from(self.slots).unwrap_or(usize::MAX);
        let prefetch = usize::try_from(limits::PREFETCH).unwrap_or(usize::MAX);
        let room = slots.saturating_add(prefetch * types).saturating_add(CREDIT_SLACK);
        let draining = self.draining;
        let Some(desk) = self.desks.get_mut(&id) else { return };
        let Some(session) = desk.session.as_ref().filter(|session| session.serial == serial) else {
            return;
        };
        if session.number != assign.session {
            tracing::debug!(session = assign.session, "discarding an older session's tasks");
            return;
        }
        let epoch = session.epoch;
        let mut refused = false;
        for task in assign.tasks {
            let token = Token { epoch, sequence: task.sequence };
            let Entry::Vacant(place) = desk.leases.entry(token) else { continue };
            let id_of_task = TaskId(task.task_id);
            place.insert(Lease { task: id_of_task, attempt: task.attempt, stage: Stage::Waiting });
            let type_index = usize::try_from(task.type_index).ok().filter(|index| *index < types);
            let release = if draining { v1::Release::Drain } else { v1::Release::Rejected };
            if let Some(type_index) = type_index.filter(|_| !draining && desk.waiting < room) {
                desk.waiting += 1;
                let (payload, timeout_ms) = (task.payload, task.timeout_ms);
                let waiting = Waiting { desk: id, token, type_index, payload, timeout_ms };
                self.queue.push_back(waiting);
            } else {
                refused = true;
                desk.end(token, outcome::unstarted(id_of_task, release));
            }
        }
        if refused {
            self.ring(id);
        }
    }

    /// Takes one task of a caller of Execute, if a slot is free for it.
    pub(super) fn call(&mut self, order: Order, max_result_bytes: u64) -> Result<u64, Refusal> {
        if self.draining {
            return Err(Refusal::Draining);
        }
        if usize::try_from(self.free).unwrap_or(usize::MAX) <= self.queue.len() {
            return Err(Refusal::Full);
        }
        let Order { task, attempt, token, type_index, payload, timeout_ms } = order;
        let id = self.next_serial();
        let mut desk = Desk::new(max_result_bytes);
        desk.leases.insert(token, Lease { task, attempt, stage: Stage::Waiting });
        desk.waiting = 1;
        self.desks.insert(id, desk);
        self.queue.push_back(Waiting { desk: id, token, type_index, payload, timeout_ms });
        Ok(id)
    }

    /// The outcome of a call, once.
    pub(super) fn call_outcome(&mut self, id: u64, token: Token) -> Option<v1::Outcome> {
        let desk = self.desks.get_mut(&id)?;
        desk.rung = false;
        let outcome = desk.forget(token)?;
        self.close_desk(id);
        Some(v1::Outcome { token: Some(token.into()), ..outcome })
    }

    /// Nobody waits for the outcome of a call any more.
    pub(super) fn hang_up(&mut self, id: u64, token: Token, now: Instant) {
        let Some(desk) = self.desks.get_mut(&id) else { return };
        desk.abandoned = true;
        match desk.leases.get(&token).map(|lease| &lease.stage) {
            Some(Stage::Running(_)) => self.stop(id, token, Stopping::Cancelled, now),
            Some(Stage::Waiting | Stage::Ended(_)) | None => {
                self.queue.retain(|waiting| waiting.desk != id);
                self.close_desk(id);
            }
        }
    }

    // Work starts.

    /// Starts the task whose turn it is.
    pub(super) fn take(&mut self, place: Place, now: Instant) -> Option<Taken> {
        let Waiting { desk: id, token, type_index, payload, timeout_ms } =
            self.queue.pop_front()?;
        let desk = self.desks.get_mut(&id)?;
        let lease = desk.leases.get_mut(&token)?;
        let timeout = (timeout_ms > 0).then(|| Duration::from_millis(timeout_ms));
        let deadline = timeout.and_then(|timeout| now.checked_add(timeout));
        lease.stage = Stage::Running(Running {
            type_index,
            started: now,
            signal: None,
            place,
            timeout_ms,
            deadline,
            stopping: None,
        });
        let lease = LeaseId { desk: id, task: lease.task, attempt: lease.attempt, token };
        desk.waiting -= 1;
        desk.note_start(token);
        self.counts[type_index].started += 1;
        self.free -= 1;
        if let Some(deadline) = deadline {
            self.deadlines.insert((deadline, id, token));
            self.after.deadlines_moved = true;
        }
        if desk.session.is_some() {
            self.ring(id);
        }
        Some(Taken { lease, type_index, payload })
    }

    pub(super) fn running(&mut self, id: u64, token: Token) -> Option<&mut Running> {
        match &mut self.desks.get_mut(&id)?.leases.get_mut(&token)?.stage {
            Stage::Running(running) => Some(running),
            Stage::Waiting | Stage::Ended(_) => None,
        }
    }

    pub(super) fn progress(&mut self, lease: LeaseId, message: String) {
        if self.running(lease.desk, lease.token).is_none() {
            return;
        }
        if let Some(desk) = self.desks.get_mut(&lease.desk) {
            desk.note_progress(lease.token, message);
            self.ring(lease.desk);
        }
    }

    /// The signal to stop of a handler that asks for it, which is given already if the
    /// handler was told to stop or its attempt was given up.
    pub(super) fn signal(&mut self, lease: LeaseId) -> CancellationToken {
        if let Some(running) = self.running(lease.desk, lease.token)
            && running.stopping.is_none()
        {
            return running.signal.get_or_insert_default().clone();
        }
        let given = CancellationToken::new();
        given.cancel();
        given
    }

    // Work ends.

    /// A handler returned. Says whether its attempt was still its own; if not,
    /// the attempt had been given up before.
    pub(super) fn finish(&mut self, lease: LeaseId, answer: Answer, now: Instant) -> bool {
        let LeaseId { desk, task, token, .. } = lease;
        let Some(running) = self.take_running(desk, token) else { return false };
        let ran = now.saturating_duration_since(running.started);
        let end = if let Some(why) = running.stopping {
            outcome::stopped(why, running.timeout_ms)
        } else {
            self.run_times[running.type_index].add(ran);
            let max = self.desks.get(&desk).map_or(u64::MAX, |desk| desk.max_result_bytes);
            outcome::by_itself(answer, max)
        };
        self.counts[running.type_index].end(&end);
        self.end(desk, token, outcome::of_run(task, ran, end));
        true
    }

    /// Takes a running attempt out and frees its slot: only one can do that, and
    /// who does says how it ended.
    fn take_running(&mut self, id: u64, token: Token) -> Option<Running> {
        let lease = self.desks.get_mut(&id)?.leases.get_mut(&token)?;
        if !matches!(lease.stage, Stage::Running(_)) {
            return None;
        }
        let Stage::Running(running) = std::mem::replace(&mut lease.stage, Stage::Waiting) else {
            return None;
        };
        if let Some(deadline) = running.deadline {
            self.deadlines.remove(&(deadline, id, token));
        }
        self.free += 1;
        Some(running)
    }

    fn end(&mut self, id: u64, token: Token, outcome: v1::Outcome) {
        let Some(desk) = self.desks.get_mut(&id) else { return };
        if desk.abandoned {
            return self.close_desk(id);
        }
        desk.end(token, outcome);
        self.ring(id);
    }

    /// Ends an attempt whose handler has not returned. An async handler is
    /// dropped; a blocking one is left to itself, and its thread serves no slot.
    fn give_up(&mut self, id: u64, token: Token, end: v1::outcome::End, now: Instant) {
        let Some(task) = self.desks.get(&id).and_then(|desk| Some(desk.leases.get(&token)?.task))
        else {
            return;
        };
        let Some(running) = self.take_running(id, token) else { return };
        match running.place {
            Place::Runtime(abort) => abort.iter().for_each(AbortHandle::abort),
            Place::Runner => {
                tracing::warn!(%task, "a blocking handler does not stop; its slot is freed");
                self.runners.alive -= 1;
                self.runners.detached += 1;
            }
            Place::Session => tracing::warn!(%task, "a computing handler does not stop"),
        }
        self.counts[running.type_index].end(&end);
        self.after.signals.extend(running.signal);
        let ran = now.saturating_duration_since(running.started);
        self.end(id, token, outcome::of_run(task, ran, end));
    }

    /// Tells a running handler to stop, with a grace.
    fn stop(&mut self, id: u64, token: Token, why: Stopping, now: Instant) {
        let Some(running) = self.running(id, token) else { return };
        if running.stopping.is_some() {
            return;
        }
        running.stopping = Some(why);
        let signal = running.signal.clone();
        let old = running.deadline.replace(now + GRACE);
        if let Some(old) = old {
            self.deadlines.remove(&(old, id, token));
        }
        self.deadlines.insert((now + GRACE, id, token));
        self.after.deadlines_moved = true;
        self.after.signals.extend(signal);
    }

    /// Ends what is overdue, and says when the next thing is due.
    pub(super) fn overdue(&mut self, now: Instant) -> Option<Instant> {
        while let Some((at, id, token)) = self.deadlines.first().copied().filter(|d| d.0 <= now) {
            self.deadlines.remove(&(at, id, token));
            let crowded = self.runners.detached >= DETACHED;
            let Some(running) = self.running(id, token) else { continue };
            running.deadline = None;
            let (stopping, timeout_ms) = (running.stopping, running.timeout_ms);
            let blocking = !matches!(running.place, Place::Runtime(_));
            match stopping {
                None if blocking => self.stop(id, token, Stopping::Timeout, now),
                Some(_) if blocking && crowded => {
                    running.deadline = Some(now + DETACH_AGAIN);
                    self.deadlines.insert((now + DETACH_AGAIN, id, token));
                }
                None | Some(_) => {
                    let why = stopping.unwrap_or(Stopping::Timeout);
                    self.give_up(id, token, outcome::stopped(why, timeout_ms), now);
                }
            }
        }
        let deadline = self.deadlines.first().map(|(at, _, _)| *at);
        deadline.into_iter().chain(self.runners.look_at()).min()
    }

    /// Gives back those of these leases that wait.
    pub(super) fn withdraw(
        &mut self,
        id: u64,
        serial: u64,
        tokens: &BTreeSet<Token>,
        release: v1::Release,
    ) {
        let Some(desk) = self.current(id, serial) else { return };
        let stays = |waiting: &Waiting| waiting.desk != id || !tokens.contains(&waiting.token);
        desk.parked.retain(stays);
        for token in tokens {
            let Some(lease) = desk.leases.get(token) else { continue };
            if matches!(lease.stage, Stage::Waiting) {
                desk.waiting -= 1;
                desk.end(*token, outcome::unstarted(lease.task, release));
            }
        }
        self.queue.retain(stays);
        self.ring(id);
    }

    /// Ends these leases, whether they wait or run.
    pub(super) fn cancel(&mut self, id: u64, serial: u64, tokens: &BTreeSet<Token>, now: Instant) {
        self.withdraw(id, serial, tokens, v1::Release::Cancelled);
        if self.current(id, serial).is_some() {
            for token in tokens {
                self.stop(id, *token, Stopping::Cancelled, now);
            }
        }
    }

    /// Outcomes had their final answers.
    pub(super) fn settled(&mut self, id: u64, serial: u64, tokens: impl Iterator<Item = Token>) {
        let Some(desk) = self.current(id, serial) else { return };
        for token in tokens {
            desk.forget(token);
        }
        if !desk.is_full() {
            let parked = std::mem::take(&mut desk.parked);
            for waiting in parked.into_iter().rev() {
                self.queue.push_front(waiting);
            }
        }
    }

    // The end.

    /// Takes nothing more and gives back what waits.
    pub(super) fn drain(&mut self) {
        self.draining = true;
        self.queue.clear();
        let ids: Vec<u64> = self.desks.keys().copied().collect();
        for id in ids {
            let Some(desk) = self.desks.get_mut(&id) else { continue };
            desk.parked.clear();
            desk.waiting = 0;
            let waits = |(token, lease): (Token, &Lease)| match lease.stage {
                Stage::Waiting => Some((token, lease.task)),
                Stage::Running(_) | Stage::Ended(_) => None,
            };
            let waiting: Vec<(Token, TaskId)> =
                desk.by_age().into_iter().filter_map(waits).collect();
            for (token, task) in waiting {
                desk.end(token, outcome::unstarted(task, v1::Release::Drain));
            }
            desk.note_draining();
            self.ring(id);
        }
    }

    /// Gives back what still runs.
    pub(super) fn give_up_all(&mut self, now: Instant) {
        let runs = |(token, lease): (Token, &Lease)| {
            matches!(lease.stage, Stage::Running(_)).then_some(token)
        };
        let running: Vec<(u64, Token)> = self
            .desks
            .iter()
            .flat_map(|(id, desk)| {
                desk.by_age().into_iter().filter_map(runs).map(|token| (*id, token))
            })
            .collect();
        for (id, token) in running {
            self.give_up(id, token, outcome::released(v1::Release::Drain), now);
        }
    }

    /// Whether all that could be answered has been.
    pub(super) fn is_answered(&self) -> bool {
        self.desks.values().all(|desk| desk.session.is_none() || desk.is_answered())
    }

    /// Ends all sessions and runners, and whatever still runs.
    pub(super) fn stop_all(&mut self, now: Instant) {
        self.give_up_all(now);
        self.stopped = true;
        let sessions = self.desks.values().filter_map(|desk| desk.session.as_ref());
        self.after.signals.extend(sessions.map(|session| session.ended.clone()));
    }
}

/// How many threads can run at once.
fn processors() -> u32 {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    u32::try_from(processors).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
