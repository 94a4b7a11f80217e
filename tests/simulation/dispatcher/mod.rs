//! The part that stands for the dispatcher's scheduler: the same steps in the same
//! order, with the time, the dice and the disk as arguments. What it sends, answers
//! and reads is left in lists for the world to carry out.

mod assign;
mod group;
mod sessions;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use taskgrid::core::event::{Event, KeyedBatch, LeaseNote};
use taskgrid::core::id::{Seq, TaskId, Timestamp, Token};
use taskgrid::core::keys::{Keys, Lookup};
use taskgrid::core::limits;
use taskgrid::core::placement::{Fleet, Member};
use taskgrid::core::queue::{Claim, Command, Queue, Standing};
use taskgrid::core::task::{Holder, Outcome, Reason, Spec};
use taskgrid::core::task_type::TypeId;

use self::group::{Effect, Open, Outgoing};
pub(crate) use self::sessions::TYPES;
use super::bugs::Bug;
use super::dice::Dice;
use super::log::{Group, Log, Restored};
use super::oracle::Oracle;
use super::wire::{Batch, Down, Hello, Report};

/// A lease ends unless its worker reports within this time.
pub(crate) const LEASE: Duration = Duration::from_millis(1_000);
/// The longest wait for the workers that the last boot knew.
const KNOWN_WORKERS_WAIT: Duration = Duration::from_secs(2);
/// How often leases that ran out are looked for.
const SWEEP: Duration = Duration::from_millis(100);

/// What a turn is given.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    pub(crate) now: Timestamp,
    /// The time this process was not paused, in milliseconds.
    pub(crate) awake: u64,
    pub(crate) dice: &'a mut Dice,
    pub(crate) log: &'a Log,
    pub(crate) oracle: &'a mut Oracle,
    pub(crate) bug: Option<Bug>,
}

/// One message to the loop.
#[derive(Debug)]
pub(crate) enum Message {
    Submit { call: u64, batch: Batch },
    Look { call: u64, id: TaskId, why: Why },
    Cancel { call: u64, id: TaskId, spec: Option<Spec> },
    Retry { call: u64, id: TaskId, known: Option<Known> },
    Join { conn: u64, number: u64, hello: Hello, specs: Vec<Option<Spec>> },
    Report { member: Member, report: Report },
    Leave { member: Member, goodbye: bool },
    Fetched { type_id: TypeId, rows: Vec<(TaskId, Spec, u64)> },
    Judged { member: Member, token: Token },
}

/// Why a task is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// A client wants to know.
    Asked,
    /// A client wants a new round.
    Retry,
}

/// What the log has of a task that shall have a new round.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Known {
    pub(crate) spec: Spec,
    pub(crate) last: Seq,
    pub(crate) attempts: u32,
    pub(crate) token: Option<Token>,
}

/// What the world shall do for the loop.
#[derive(Debug)]
pub(crate) enum Errand {
    /// Carry a frame.
    Send(u64, Down),
    /// Answer a call.
    Receipt(u64, Option<TaskId>),
    /// Answer a call, or go on with it.
    View(u64, TaskId, Standing, Why),
    /// Read tasks.
    Fetch(TypeId, Vec<TaskId>),
    /// Read how a task ended.
    Judge(Member, Token, Seq),
    /// The session of a connection stands.
    Joined(u64, Member),
    /// Sync the group in flight.
    Commit,
}

/// The loop and all it owns.
#[derive(Debug)]
pub(crate) struct Dispatcher {
    pub(crate) queue: Queue,
    pub(crate) fleet: Fleet,
    pub(crate) inbox: VecDeque<Message>,
    pub(crate) errands: Vec<Errand>,
    pub(crate) draining: bool,
    pub(crate) sessions: BTreeMap<Member, Session>,
    keys: Keys,
    awaited: BTreeSet<Arc<str>>,
    gate_until: Timestamp,
    staged: BTreeMap<TaskId, (Spec, u64)>,
    fetching: BTreeSet<TypeId>,
    fresh: Vec<(Holder, LeaseNote)>,
    aging: Vec<(Holder, LeaseNote)>,
    known_workers: BTreeMap<Arc<str>, u64>,
    open: Open,
    in_flight: Option<Open>,
    outgoing: BTreeMap<Member, Outgoing>,
    stored_to: TaskId,
    inherited_below: TaskId,
    cautious_until: Timestamp,
    last_turn: Timestamp,
    next_sweep: Timestamp,
    next_member: u64,
    over_notes: Vec<u64>,
}

/// A worker with which a conversation stands.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) holder: Holder,
    pub(crate) conn: u64,
    number: u64,
    draining: bool,
}

impl Dispatcher {
    pub(crate) fn new(restored: Restored, now: Timestamp) -> Self {
        let Restored { queue, keys, workers, skipped, stored_to, cautious_until } = restored;
        let mut open = Open::default();
        open.group.entries.extend(skipped.map(|event| (event, 0)));
        Self {
            fleet: Fleet::default(),
            inbox: VecDeque::new(),
            errands: Vec::new(),
            draining: false,
            sessions: BTreeMap::new(),
            keys,
            awaited: workers.keys().cloned().collect(),
            gate_until: now.plus(KNOWN_WORKERS_WAIT),
            staged: BTreeMap::new(),
            fetching: BTreeSet::new(),
            fresh: Vec::new(),
            aging: Vec::new(),
            known_workers: workers,
            open,
            in_flight: None,
            outgoing: BTreeMap::new(),
            stored_to,
            inherited_below: queue.ids.next(),
            cautious_until,
            last_turn: now,
            next_sweep: now,
            next_member: 0,
            over_notes: Vec::new(),
            queue,
        }
    }

    /// Handles all that has come; tells whether a drain has come to its end.
    pub(crate) fn turn(&mut self, cx: &mut Turn<'_>) -> bool {
        self.begin_turn(cx);
        while let Some(message) = self.inbox.pop_front() {
            self.handle(message, cx);
        }
        self.upkeep(cx);
        self.assign(cx);
        self.send_frames();
        self.commit();
        self.draining && self.in_flight.is_none() && self.open.is_empty()
    }

    /// Stops in good order.
    pub(crate) fn begin_drain(&mut self) {
        self.draining = true;
        self.note_all_leases();
        let next_id = self.queue.ids.next();
        self.open.group.entries.push((Event::Stopped { next_id }, 0));
    }

    /// The group that is being synced, for the disk to keep or to lose in a crash.
    pub(crate) fn take_in_flight(&mut self) -> Option<Group> {
        self.in_flight.as_mut().map(|open| std::mem::take(&mut open.group))
    }

    /// When there is something to do although no message comes.
    pub(crate) fn next_wake(&self) -> Option<Timestamp> {
        let sweep = (self.queue.leases.count() > 0).then_some(self.next_sweep);
        let gate = (!self.is_gate_open()).then_some(self.gate_until);
        let soonest = self.last_turn.plus(Duration::from_millis(1));
        let times = [sweep, gate, self.queue.lanes.next_due()].into_iter().flatten();
        times.min().map(|at| at.max(soonest))
    }

    fn begin_turn(&mut self, cx: &Turn<'_>) {
        let gap = cx.now.since(self.last_turn);
        if gap > LEASE / 3 && cx.bug != Some(Bug::PauseUnnoticed) {
            self.queue.leases.postpone(gap);
            self.queue.leases.postpone_timeouts(gap);
        }
        self.last_turn = cx.now;
    }

    fn handle(&mut self, message: Message, cx: &mut Turn<'_>) {
        match message {
            Message::Submit { call, batch } => self.submit(call, &batch, cx),
            Message::Look { call, id, why } => {
                self.after_commit(Effect::View(call, id, self.queue.standing(id), why), cx);
            }
            Message::Cancel { call, id, spec } => self.cancel(call, id, spec, cx),
            Message::Retry { call, id, known } => self.retry(call, id, known, cx),
            Message::Join { conn, number, hello, specs } => {
                self.join(conn, number, &hello, &specs, cx);
            }
            Message::Report { member, report } => self.report(member, report, cx),
            Message::Leave { member, goodbye } => self.leave(member, goodbye),
            Message::Fetched { type_id, rows } => {
                self.fetching.remove(&type_id);
                self.staged.extend(rows.into_iter().map(|(id, spec, load)| (id, (spec, load))));
            }
            Message::Judged { member, token } => {
                self.outgoing.entry(member).or_default().settled.push(token);
            }
        }
    }

    fn submit(&mut self, call: u64, batch: &Batch, cx: &mut Turn<'_>) {
        if self.draining {
            return self.after_commit(Effect::Receipt(call, None), cx);
        }
        let early = match self.keys.find(&batch.key, &[0; 32]) {
            Lookup::Same(known) => {
                cx.oracle.bite("key repeated");
                let effect = Effect::Receipt(call, Some(known.first));
                match cx.bug {
                    Some(Bug::DuplicateBeforeStore) => self.carry_out(effect, cx),
                    _ => self.after_commit(effect, cx),
                }
                return;
            }
            Lookup::New => cx.bug == Some(Bug::ReceiptBeforeStore),
            Lookup::Other | Lookup::Full => return cx.oracle.violated("a key is refused"),
        };
        let first = self.accept(batch, cx);
        let effect = Effect::Receipt(call, Some(first));
        if early { self.carry_out(effect, cx) } else { self.after_commit(effect, cx) }
    }

    fn accept(&mut self, batch: &Batch, cx: &mut Turn<'_>) -> TaskId {
        let count = u64::try_from(batch.drafts.len()).expect("a batch is small");
        if let Some(end) = self.queue.ids.wanted(count) {
            self.queue.ids.reserve(end);
            self.open.group.entries.push((Event::IdsReserved { end }, 0));
            self.open.ids_end = Some(end);
        }
        let cursor = Seq(self.queue.next_seq().0.saturating_sub(1));
        let first = self.queue.ids.next();
        for draft in &batch.drafts {
            let id = self.queue.ids.next();
            let run_at = cx.now.plus(Duration::from_millis(draft.delay_ms));
            let spec = Spec { created: cx.now, run_at, ..draft.spec };
            self.queue.accept(id, &spec, cx.now);
            cx.oracle.accepted(id, draft.payload, cx.log);
            // Room for few: most payloads are read again.
            if self.staged.len() < 4 {
                self.staged.insert(id, (spec, draft.payload));
            }
            self.open.group.entries.push((Event::Submitted { id, spec }, draft.payload));
            self.open.stores_to = Some(id);
        }
        let batch = KeyedBatch {
            key: batch.key.clone(),
            digest: [0; 32],
            first,
            count: u32::try_from(count).expect("a batch is small"),
            cursor,
            kept_until: cx.now.plus(limits::CALL_KEY_KEPT),
            outlives_tasks: false,
        };
        self.keys.insert(batch.clone());
        self.open.group.entries.push((Event::Keyed(batch), 0));
        first
    }

    fn cancel(&mut self, call: u64, id: TaskId, spec: Option<Spec>, cx: &mut Turn<'_>) {
        if let Some(spec) = spec.filter(|_| !self.draining) {
            let held = self.queue.leases.find(id);
            let lease = held.map(|held| (held.lease.holder.clone(), held.lease.token));
            let decided = self.queue.decide(id, Command::Cancel { spec }, cx.now, 0);
            if let Ok(event) = decided {
                if cx.bug == Some(Bug::CancelNotStored) {
                    self.queue.apply(&event, cx.now);
                } else {
                    self.record(event, 0, cx);
                }
                if let Some((holder, token)) = lease {
                    self.stop_handler(&holder, token, cx);
                }
            }
        }
        self.after_commit(Effect::View(call, id, self.queue.standing(id), Why::Asked), cx);
    }

    fn retry(&mut self, call: u64, id: TaskId, known: Option<Known>, cx: &mut Turn<'_>) {
        if let Some(Known { spec, last, attempts, token }) = known.filter(|_| !self.draining) {
            let command = Command::Retry { spec, last, attempts, token };
            if let Ok(event) = self.queue.decide(id, command, cx.now, 0) {
                self.record(event, 0, cx);
            }
        }
        self.after_commit(Effect::View(call, id, self.queue.standing(id), Why::Asked), cx);
    }

    fn upkeep(&mut self, cx: &mut Turn<'_>) {
        self.queue.lanes.wake(cx.now);
        if self.draining {
            return;
        }
        if cx.now >= self.next_sweep {
            self.next_sweep = cx.now.plus(SWEEP);
            for id in self.queue.leases.expired(cx.now) {
                let held = self.queue.leases.find(id).expect("an expired lease is held");
                cx.oracle.expired(&held.lease.holder, cx.awake, LEASE);
                self.end_lease(id, Outcome::Lost, cx);
            }
            for id in self.queue.leases.overdue(cx.now) {
                let (reason, message) = (Reason::Timeout, String::new());
                let outcome = Outcome::Failed { reason, message, retry_after: None };
                self.end_lease(id, outcome, cx);
            }
            let has_unnoted = !self.fresh.is_empty() || !self.aging.is_empty();
            if has_unnoted && self.open.group.is_empty() && self.in_flight.is_none() {
                self.note_all_leases();
            }
        }
        let over = self.queue.notes.take_over();
        self.over_notes.extend(over);
        if !self.open.group.is_empty() {
            self.open.group.over_notes.append(&mut self.over_notes);
        }
    }

    fn is_gate_open(&self) -> bool {
        self.awaited.is_empty() || self.last_turn >= self.gate_until
    }
}

/// A claim as the link parses it.
fn claim(held: &super::wire::HeldLease, spec: Option<Spec>) -> Claim {
    let super::wire::HeldLease { id, token, attempt, started } = *held;
    Claim { id, token, attempt, started, spec }
}
