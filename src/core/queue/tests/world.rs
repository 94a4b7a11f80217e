//! A queue with the log that a store would keep for it, so that at any moment a
//! restart can be tried beside it.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::core::event::{Event, LeaseNote, LeaseNotes, TaskEvent};
use crate::core::id::{Epoch, Seq, TaskId, Timestamp, Token};
use crate::core::queue::{Claim, Command, Queue, Rejected, Standing};
use crate::core::task::{Change, Holder, Outcome, Progress, Reason, Spec};
use crate::core::task_type::TypeId;

/// How long a lease lasts unless its holder reports.
pub(super) const LEASE: Duration = Duration::from_secs(10);

/// A queue, its log and its clock.
#[derive(Debug)]
pub(super) struct World {
    pub(super) queue: Queue,
    pub(super) log: Log,
    pub(super) now: Timestamp,
    /// How the die falls.
    pub(super) dice: u64,
}

/// What a store holds.
#[derive(Debug, Default)]
pub(super) struct Log {
    pub(super) tasks: BTreeMap<TaskId, Spec>,
    pub(super) events: Vec<TaskEvent>,
    notes: BTreeMap<u64, LeaseNotes>,
    skipped: Vec<(TaskId, TaskId)>,
    reserved: Option<TaskId>,
    epochs: Vec<Epoch>,
}

impl World {
    /// A first start, at an unremarkable moment.
    pub(super) fn new() -> Self {
        let log = Log::default();
        let mut world = Self { queue: Queue::default(), log, now: Timestamp(1_000_000), dice: 700 };
        world.restart();
        world
    }

    pub(super) fn submit(&mut self, spec: Spec) -> TaskId {
        let id = self.queue.ids.next();
        if let Some(end) = self.queue.ids.wanted(1) {
            self.queue.ids.reserve(end);
            self.queue.ids.sync(end);
            self.log.reserved = Some(end);
        }
        self.queue.accept(id, &spec, self.now);
        self.log.tasks.insert(id, spec);
        id
    }

    pub(super) fn lease(
        &mut self,
        id: TaskId,
        holder: &Holder,
        charged: bool,
    ) -> Option<LeaseNote> {
        let spec = self.log.tasks[&id];
        self.queue.lease(id, &spec, holder, self.now, self.now.plus(LEASE), charged)
    }

    pub(super) fn settle(
        &mut self,
        id: TaskId,
        token: Token,
        outcome: Outcome,
    ) -> Result<TaskEvent, Rejected> {
        // What is given back has not run, unless its start was told.
        let run_us = u64::from(outcome != Outcome::Released);
        self.decide(id, Command::Settle { token, outcome, run_us })
    }

    pub(super) fn cancel(&mut self, id: TaskId) -> Result<TaskEvent, Rejected> {
        self.decide(id, Command::Cancel { spec: self.log.tasks[&id] })
    }

    pub(super) fn retry(&mut self, id: TaskId) -> Result<TaskEvent, Rejected> {
        let story: Vec<_> = self.log.events.iter().filter(|event| event.id == id).collect();
        let ended = || story.iter().filter_map(|event| event.attempt.as_ref());
        let command = Command::Retry {
            spec: self.log.tasks[&id],
            last: story.last().map(|event| event.seq).unwrap_or_default(),
            attempts: ended().map(|attempt| attempt.number).max().unwrap_or(0),
            token: ended().map(|attempt| attempt.token).max(),
        };
        self.decide(id, command)
    }

    pub(super) fn adopt(&mut self, holder: &Holder, claim: &Claim) -> Result<(), Rejected> {
        self.queue.adopt(holder, claim, self.now, self.now.plus(LEASE))
    }

    /// Ends what ran out, as the dispatcher's sweep does.
    pub(super) fn sweep(&mut self) -> Vec<TaskEvent> {
        let expired = self.queue.leases.expired(self.now).into_iter().map(|id| (id, Outcome::Lost));
        let mut over: Vec<_> = expired.collect();
        over.extend(self.queue.leases.overdue(self.now).into_iter().map(|id| (id, timed_out())));
        let mut events = Vec::new();
        for (id, outcome) in over {
            let Some(token) = self.queue.leases.find(id).map(|held| held.lease.token) else {
                continue;
            };
            events.push(self.settle(id, token, outcome).expect("a held lease ends"));
        }
        events
    }

    pub(super) fn wait(&mut self, span: Duration) {
        self.now = self.now.plus(span);
        self.queue.lanes.wake(self.now);
    }

    /// The next ready task, also one that must run alone.
    pub(super) fn next_ready(&self) -> Option<TaskId> {
        let lanes = &self.queue.lanes;
        let alone = lanes.ready_types().find_map(|type_id| lanes.next_alone(type_id));
        alone.or_else(|| lanes.ready_types().find_map(|type_id| lanes.next(type_id).next()))
    }

    /// Writes down the leases of a holder that do not stand in the log yet.
    pub(super) fn note(&mut self, holder: &Holder) {
        let mut leases = Vec::new();
        let number = self.queue.notes.number();
        for id in self.queue.leases.of(holder) {
            let held = self.queue.leases.find(id).expect("a holder's lease is a lease");
            if held.note.is_some() {
                continue;
            }
            let lease = &held.lease;
            let note = LeaseNote {
                id,
                token: lease.token,
                attempt: lease.attempt,
                leased: lease.leased,
                charged: lease.charged,
            };
            leases.push(note);
            self.queue.leases.note(id, number);
            self.queue.notes.open(number);
        }
        if !leases.is_empty() {
            let notes = LeaseNotes { note: number, holder: holder.clone(), leases };
            self.log.notes.insert(number, notes);
        }
    }

    /// How many notes of leases the log holds, once those are gone that nobody needs.
    pub(super) fn notes(&mut self) -> usize {
        for note in self.queue.notes.take_over() {
            self.log.notes.remove(&note).expect("a note is forgotten once");
        }
        self.log.notes.len()
    }

    /// The dispatcher goes down without a word and comes up again.
    pub(super) fn restart(&mut self) {
        self.queue = self.log.replayed(self.now);
        if let Some((from, to)) = self.queue.ids.resume(None) {
            self.log.skipped.push((from, to));
        }
        let boot = u64::try_from(self.log.epochs.len()).unwrap() + 1;
        self.log.epochs.push(Epoch { boot, nonce: boot * 7_919 });
        let last = self.log.events.last().map(|event| event.seq).unwrap_or_default();
        self.queue.begin(self.log.epochs.clone(), last);
    }

    /// A restart at this moment would know all that this queue knows, except leases
    /// that were not noted: their tasks would wait, as they stood before.
    pub(super) fn assert_replays(&mut self) {
        self.notes();
        let (live, replayed) = (&self.queue, self.log.replayed(self.now));
        for id in self.log.tasks.keys().copied() {
            let of = |queue: &Queue| queue.leases.find(id).cloned();
            let Some(held) = of(live) else {
                assert_eq!(replayed.standing(id), live.standing(id), "task {id}");
                continue;
            };
            match of(&replayed) {
                Some(mut again) if held.note.is_some() => {
                    // Starts and resumptions are no facts of the log.
                    again.lease.started = held.lease.started;
                    again.lease.resumed = held.lease.resumed;
                    again.lease.holder = held.lease.holder.clone();
                    assert_eq!(again, held, "task {id}");
                }
                Some(older) => assert!(older.lease.token < held.lease.token, "task {id}"),
                None => {
                    // Of a lease that was given up and taken back only the first is kept.
                    let was_given_up = held.progress.token == Some(held.lease.token);
                    assert!(held.note.is_none() || was_given_up, "task {id}");
                    assert_eq!(replayed.progress(id), held.progress, "task {id}");
                }
            }
        }
        let figures = |queue: &Queue| (queue.live(), queue.live_bytes(), queue.ended.count());
        assert_eq!(figures(&replayed), figures(live));
        assert!(replayed.ids.next() <= live.ids.next());
        assert!(replayed.next_seq() <= live.next_seq());
    }

    fn decide(&mut self, id: TaskId, command: Command) -> Result<TaskEvent, Rejected> {
        let event = self.queue.decide(id, command, self.now, self.dice)?;
        self.queue.apply(&event, self.now);
        self.log.events.push(event.clone());
        Ok(event)
    }
}

impl Log {
    /// What a scan of the store makes of a new queue.
    fn replayed(&self, now: Timestamp) -> Queue {
        let mut queue = Queue::default();
        let mut replay = |event: &Event| queue.replay(event, now);
        for (from, to) in &self.skipped {
            replay(&Event::IdsSkipped { from: *from, to: *to });
        }
        if let Some(end) = self.reserved {
            replay(&Event::IdsReserved { end });
        }
        for event in &self.events {
            replay(&Event::Changed(event.clone()));
        }
        for (id, spec) in &self.tasks {
            replay(&Event::Submitted { id: *id, spec: *spec });
        }
        for notes in self.notes.values() {
            queue.replay_notes(notes, now.plus(LEASE), |id| self.tasks.get(&id).copied());
        }
        queue
    }
}

/// A task that asks for nothing special.
pub(super) fn task() -> Spec {
    Spec {
        type_id: TypeId(0),
        priority: 5,
        created: Timestamp(1_000_000),
        run_at: Timestamp(1_000_000),
        timeout_ms: 0,
        max_attempts: 3,
        max_crashes: 3,
        group: 0,
        payload_bytes: 32,
    }
}

/// A task that must not be started twice.
pub(super) fn at_most_once() -> Spec {
    Spec { max_attempts: 1, max_crashes: 0, ..task() }
}

/// The first process of a worker.
pub(super) fn worker(name: &str) -> Holder {
    Holder { worker: name.into(), incarnation: 1 }
}

pub(super) fn failed(reason: Reason) -> Outcome {
    Outcome::Failed { reason, message: "no luck".to_owned(), retry_after: None }
}

pub(super) fn timed_out() -> Outcome {
    failed(Reason::Timeout)
}

/// What a pending task went through.
pub(super) fn progress(queue: &Queue, id: TaskId) -> Progress {
    match queue.standing(id) {
        Standing::Pending(progress, _) => progress,
        other => panic!("task {id} is not pending but {other:?}"),
    }
}

/// An event or a refusal, in the words of the scripts.
pub(super) fn told(answer: &Result<TaskEvent, Rejected>) -> String {
    let event = match answer {
        Ok(event) => event,
        Err(rejected) => return refused(*rejected),
    };
    match &event.change {
        Change::Completed => "completed".to_owned(),
        Change::Cancelled => "cancelled".to_owned(),
        Change::Retried { .. } => "a new round".to_owned(),
        Change::Failed { reason, .. } => format!("failed: {}", reason.as_str()),
        Change::Returned { reason, run_at, .. } => {
            let delay = run_at.since(event.at).as_millis();
            let when = if delay == 0 { String::new() } else { format!(", again in {delay} ms") };
            format!("returned: {}{when}", reason.as_str())
        }
    }
}

/// A refusal, in the words of the scripts.
pub(super) fn refused(rejected: Rejected) -> String {
    match rejected {
        Rejected::Fenced => "refused: fenced".to_owned(),
        Rejected::Duplicate => "refused: duplicate".to_owned(),
        Rejected::Unknown => "refused: unknown".to_owned(),
        Rejected::Ended(status, Seq(_)) => format!("refused: ended {}", status.as_str()),
        Rejected::Standing(status) => format!("refused: is {}", status.as_str()),
    }
}
