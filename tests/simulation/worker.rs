//! The part that stands for a worker's pool: slots, a queue, an outbox, one session
//! at a time; and handlers that take virtual time.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use taskgrid::core::id::{Epoch, TaskId, Token, millis};
use taskgrid::core::task::{Holder, Outcome, Reason};

use super::bugs::Bug;
use super::dice::Dice;
use super::dispatcher::{LEASE, TYPES};
use super::oracle::Oracle;
use super::wire::{Assignment, HeldLease, Hello, Report, Said, Up};

/// How long a handler that was told to stop may take to do so by itself.
const GRACE_MS: u64 = 500;
/// Outcomes of one report: few, so that reports are cut.
const REPORT_OUTCOMES: usize = 3;

/// What the handler of a task does when it is run for the n-th time, from 0.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Order {
    pub(crate) deed: Deed,
    /// Runs below this show the deed; from then on the handler succeeds.
    pub(crate) times: u64,
    pub(crate) run_ms: u64,
}

/// What goes wrong with a handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deed {
    Succeeds,
    Fails,
    FailsForGood,
    Panics,
    /// Takes its process down.
    Kills,
    /// Runs until it is stopped.
    Hangs,
}

/// What a worker is given.
#[derive(Debug)]
pub(crate) struct Shift<'a> {
    pub(crate) now: u64,
    pub(crate) dice: &'a mut Dice,
    pub(crate) oracle: &'a mut Oracle,
    pub(crate) orders: &'a BTreeMap<u64, Order>,
    pub(crate) bug: Option<Bug>,
    /// What the world shall do for it.
    pub(crate) doings: Vec<Doing>,
}

/// What the world shall do for a worker.
#[derive(Debug)]
pub(crate) enum Doing {
    Send(u64, Up),
    /// Something of a run is due after so many milliseconds.
    Due(u64, Token, Due),
    /// Look at what there is to say after so many milliseconds.
    Bell(u64, u64),
}

/// What may be due in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    Returns,
    Kills,
    Deadline,
}

/// One worker, across its processes.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) holder: Holder,
    pub(crate) slots: u32,
    pub(crate) alive: bool,
    pub(crate) draining: bool,
    pub(crate) paused_until: u64,
    pub(crate) session: Option<Attached>,
    pub(crate) leases: BTreeMap<Token, Lease>,
    serial: u64,
    free: u32,
    queue: VecDeque<Token>,
    rung: bool,
    last_said: u64,
    unsaid: Unsaid,
    /// How far ahead each type may be sent, once one has run.
    prefetch: [u32; 2],
}

/// A session as the worker knows it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attached {
    pub(crate) serial: u64,
    pub(crate) conn: u64,
    epoch: Epoch,
    number: u64,
}

/// One lease.
#[derive(Debug)]
pub(crate) struct Lease {
    task: TaskId,
    attempt: u32,
    payload: u64,
    timeout_ms: u64,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Waiting,
    Running { run: u64, started: u64, deadline: Option<u64>, is_cancelled: bool },
    Ended(Said),
}

#[derive(Debug, Default)]
struct Unsaid {
    outcomes: VecDeque<Token>,
    starts: Vec<Token>,
    draining: bool,
    announced: [u32; 2],
}

impl Worker {
    pub(crate) fn new(name: &str, slots: u32) -> Self {
        let worker: Arc<str> = name.into();
        Self {
            holder: Holder { worker, incarnation: 0 },
            slots,
            alive: false,
            draining: false,
            paused_until: 0,
            session: None,
            leases: BTreeMap::new(),
            serial: 0,
            free: slots,
            queue: VecDeque::new(),
            rung: false,
            last_said: 0,
            unsaid: Unsaid::default(),
            prefetch: [0; 2],
        }
    }

    /// A new process.
    pub(crate) fn start(&mut self) {
        let Holder { worker, incarnation } = self.holder.clone();
        let serial = self.serial;
        *self = Self::new(&worker, self.slots);
        self.holder.incarnation = incarnation + 1;
        (self.serial, self.alive) = (serial, true);
    }

    /// The process is gone, with all it knew.
    pub(crate) fn die(&mut self, oracle: &mut Oracle) {
        self.alive = false;
        self.session = None;
        self.leases.clear();
        oracle.died(&self.holder);
    }

    /// A session begins; gives its serial, or refuses it.
    pub(crate) fn attach(
        &mut self,
        conn: u64,
        epoch: Epoch,
        number: u64,
        cx: &mut Shift<'_>,
    ) -> Option<u64> {
        let is_older = |old: &Attached| old.epoch == epoch && old.number >= number;
        if self.session.as_ref().is_some_and(is_older) || self.draining && self.leases.is_empty() {
            return None;
        }
        self.serial += 1;
        self.session = Some(Attached { serial: self.serial, conn, epoch, number });
        let ended = self.leases.iter().filter(|(_, lease)| matches!(lease.stage, Stage::Ended(_)));
        self.unsaid = Unsaid { outcomes: ended.map(|(t, _)| *t).collect(), ..Unsaid::default() };
        let held = self.leases.iter().map(|(token, lease)| lease.held(*token)).collect();
        let holder = self.holder.clone();
        let hello = Hello { holder, slots: self.slots, held, draining: self.draining };
        cx.doings.push(Doing::Send(conn, Up::Hello(hello)));
        self.rung = false;
        self.last_said = cx.now;
        self.ring(cx);
        Some(self.serial)
    }

    pub(crate) fn detach(&mut self, serial: u64, bug: Option<Bug>) {
        if !self.is_current(serial) {
            return;
        }
        self.session = None;
        if bug == Some(Bug::OutboxDropped) {
            self.leases.retain(|_, lease| !matches!(lease.stage, Stage::Ended(_)));
        }
    }

    pub(crate) fn assign(
        &mut self,
        serial: u64,
        number: u64,
        tasks: &[Assignment],
        cx: &mut Shift<'_>,
    ) {
        let Some(session) = self.session else { return };
        let is_current = session.serial == serial && session.number == number;
        if !is_current && cx.bug != Some(Bug::OldSessionTaken) {
            return;
        }
        for task in tasks {
            let token = Token { epoch: session.epoch, sequence: task.sequence };
            if self.leases.contains_key(&token) {
                continue;
            }
            let Assignment { id, payload, attempt, timeout_ms, .. } = *task;
            let lease = Lease { task: id, attempt, payload, timeout_ms, stage: Stage::Waiting };
            self.leases.insert(token, lease);
            cx.oracle.received(&self.holder, token);
            if self.draining {
                self.end(token, Outcome::Released, 0, 0, cx);
            } else {
                self.queue.push_back(token);
            }
        }
        self.take_turns(cx);
    }

    pub(crate) fn settled(&mut self, serial: u64, tokens: &[Token], cx: &mut Shift<'_>) {
        if !self.is_current(serial) {
            return;
        }
        for token in tokens {
            if matches!(self.leases.get(token).map(|l| &l.stage), Some(Stage::Ended(_))) {
                self.leases.remove(token);
                cx.oracle.forgotten(&self.holder, *token);
            }
        }
    }

    /// Ends these leases, whether they wait or run.
    pub(crate) fn cancel(&mut self, serial: u64, tokens: &[Token], cx: &mut Shift<'_>) {
        if !self.is_current(serial) {
            return;
        }
        for token in tokens {
            let Some(lease) = self.leases.get_mut(token) else { continue };
            match &mut lease.stage {
                Stage::Waiting => {
                    self.queue.retain(|waiting| waiting != token);
                    self.end(*token, Outcome::Released, 0, 0, cx);
                }
                Stage::Running { deadline, is_cancelled, .. } => {
                    *is_cancelled = true;
                    *deadline = Some(cx.now + GRACE_MS);
                    cx.doings.push(Doing::Due(GRACE_MS, *token, Due::Deadline));
                    if cx.dice.chance(500) {
                        cx.doings.push(Doing::Due(5, *token, Due::Returns));
                    }
                }
                Stage::Ended(_) => {}
            }
        }
    }

    /// Something of a run is due; tells whether it took the process down.
    pub(crate) fn due(&mut self, token: Token, due: Due, cx: &mut Shift<'_>) -> bool {
        let Some(lease) = self.leases.get(&token) else { return false };
        let Stage::Running { run, started, deadline, is_cancelled } = lease.stage else {
            return false;
        };
        let run_us = (cx.now - started).max(1);
        match due {
            Due::Kills => return true,
            Due::Deadline if deadline.is_none_or(|at| at > cx.now) => return false,
            Due::Deadline if !is_cancelled => {
                self.finish(token, failed(Reason::Timeout), 0, run_us, cx);
            }
            Due::Deadline => self.finish(token, Outcome::Released, 0, run_us, cx),
            Due::Returns if is_cancelled => self.finish(token, Outcome::Released, 0, run_us, cx),
            Due::Returns => {
                let (outcome, result) = self.answer(token, run, cx);
                self.finish(token, outcome, result, run_us, cx);
            }
        }
        false
    }

    /// Takes nothing more and gives back what waits.
    pub(crate) fn drain(&mut self, cx: &mut Shift<'_>) {
        self.draining = true;
        for token in std::mem::take(&mut self.queue) {
            self.end(token, Outcome::Released, 0, 0, cx);
        }
        self.unsaid.draining = true;
        self.ring(cx);
    }

    /// Gives back what still runs.
    pub(crate) fn give_up_all(&mut self, cx: &mut Shift<'_>) {
        let started = |(token, lease): (&Token, &Lease)| match lease.stage {
            Stage::Running { started, .. } => Some((*token, started)),
            Stage::Waiting | Stage::Ended(_) => None,
        };
        let running: Vec<_> = self.leases.iter().filter_map(started).collect();
        for (token, started) in running {
            self.finish(token, Outcome::Released, 0, (cx.now - started).max(1), cx);
        }
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.free == self.slots
    }

    /// Whether every outcome that could be answered has been.
    pub(crate) fn is_answered(&self) -> bool {
        self.session.is_none()
            || !self.leases.values().any(|lease| matches!(lease.stage, Stage::Ended(_)))
    }

    /// The bell rang, or the worker was silent for long: says what there is to say.
    pub(crate) fn speak(&mut self, serial: u64, cx: &mut Shift<'_>) {
        let Some(session) = self.session.filter(|session| session.serial == serial) else {
            return;
        };
        let every = millis(LEASE) / 3;
        let is_silent = cx.now >= self.last_said + every;
        if !self.rung && !is_silent {
            return;
        }
        self.rung = false;
        self.last_said = cx.now;
        let report = self.next_report();
        cx.doings.push(Doing::Send(session.conn, Up::Report(report)));
        if !self.unsaid.outcomes.is_empty() {
            self.ring(cx);
        }
        cx.doings.push(Doing::Bell(every, serial));
    }

    fn next_report(&mut self) -> Report {
        let mut outcomes = Vec::new();
        while outcomes.len() < REPORT_OUTCOMES {
            let Some(token) = self.unsaid.outcomes.pop_front() else { break };
            if let Some(Lease { stage: Stage::Ended(said), .. }) = self.leases.get(&token) {
                outcomes.push(said.clone());
            }
        }
        let leases = &self.leases;
        let runs = |token: Token| {
            let lease = leases.get(&token)?;
            matches!(lease.stage, Stage::Running { .. }).then_some((lease.task, token))
        };
        let started = self.unsaid.starts.drain(..).filter_map(runs).collect();
        let mut prefetch = Vec::new();
        for (at, type_id) in TYPES.into_iter().enumerate() {
            if self.unsaid.announced[at] != self.prefetch[at] {
                self.unsaid.announced[at] = self.prefetch[at];
                prefetch.push((type_id, self.prefetch[at]));
            }
        }
        let draining = std::mem::take(&mut self.unsaid.draining);
        Report { outcomes, started, prefetch, draining }
    }

    fn is_current(&self, serial: u64) -> bool {
        self.session.is_some_and(|session| session.serial == serial)
    }

    fn ring(&mut self, cx: &mut Shift<'_>) {
        let Some(session) = self.session.filter(|_| !self.rung) else { return };
        self.rung = true;
        cx.doings.push(Doing::Bell(cx.dice.between(0, 3), session.serial));
    }

    fn take_turns(&mut self, cx: &mut Shift<'_>) {
        while self.free > 0 {
            let Some(token) = self.queue.pop_front() else { return };
            let Some(lease) = self.leases.get_mut(&token) else { continue };
            self.free -= 1;
            let run = cx.oracle.started(lease.task, token);
            let order = cx.orders.get(&lease.payload).expect("every task has its order");
            let deadline = (lease.timeout_ms > 0).then(|| cx.now + lease.timeout_ms);
            let started = cx.now;
            lease.stage = Stage::Running { run, started, deadline, is_cancelled: false };
            let due = match order.deed {
                _ if run >= order.times => Some(Due::Returns),
                Deed::Hangs => None,
                Deed::Kills => Some(Due::Kills),
                Deed::Succeeds | Deed::Fails | Deed::FailsForGood | Deed::Panics => {
                    Some(Due::Returns)
                }
            };
            cx.doings.extend(due.map(|due| Doing::Due(order.run_ms, token, due)));
            if lease.timeout_ms > 0 {
                cx.doings.push(Doing::Due(lease.timeout_ms, token, Due::Deadline));
            }
            if self.session.is_some() {
                self.unsaid.starts.push(token);
            }
            self.ring(cx);
        }
    }

    fn answer(&mut self, token: Token, run: u64, cx: &mut Shift<'_>) -> (Outcome, u64) {
        let payload = self.leases[&token].payload;
        let order = cx.orders[&payload];
        for prefetch in &mut self.prefetch {
            if *prefetch == 0 {
                *prefetch = u32::try_from(cx.dice.between(0, 3)).expect("small");
            }
        }
        if run >= order.times {
            return (Outcome::Completed, cx.oracle.succeeded(token));
        }
        let outcome = match order.deed {
            Deed::Fails => failed(Reason::Error),
            Deed::FailsForGood => failed(Reason::Permanent),
            Deed::Panics => failed(Reason::Panic),
            Deed::Succeeds | Deed::Kills | Deed::Hangs => {
                return (Outcome::Completed, cx.oracle.succeeded(token));
            }
        };
        (outcome, 0)
    }

    fn finish(
        &mut self,
        token: Token,
        outcome: Outcome,
        result: u64,
        run_us: u64,
        cx: &mut Shift<'_>,
    ) {
        self.free += 1;
        self.end(token, outcome, result, run_us, cx);
        if !self.draining {
            self.take_turns(cx);
        }
    }

    /// Puts the end of a lease into the outbox.
    fn end(
        &mut self,
        token: Token,
        outcome: Outcome,
        result: u64,
        run_us: u64,
        cx: &mut Shift<'_>,
    ) {
        let Some(lease) = self.leases.get_mut(&token) else { return };
        lease.stage = Stage::Ended(Said { id: lease.task, token, outcome, result, run_us });
        self.unsaid.outcomes.push_back(token);
        self.ring(cx);
    }
}

impl Lease {
    fn held(&self, token: Token) -> HeldLease {
        let started = match &self.stage {
            Stage::Waiting => false,
            Stage::Running { .. } => true,
            Stage::Ended(said) => said.run_us > 0,
        };
        HeldLease { id: self.task, token, attempt: self.attempt, started }
    }
}

fn failed(reason: Reason) -> Outcome {
    let retry_after = (reason == Reason::Panic).then_some(Duration::from_millis(100));
    Outcome::Failed { reason, message: String::new(), retry_after }
}
