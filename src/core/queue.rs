//! All tasks of a dispatcher: which wait, which run, which have ended, and what may
//! happen to them next.
//!
//! [`Queue::decide`] answers a command with the one event it makes, or refuses it;
//! [`Queue::apply`] folds an event in and cannot fail. Leases are given by
//! [`Queue::lease`], and [`Queue::adopt`] takes those back that a worker still
//! holds. The queue holds no payload and no result, and keeps what was asked for
//! only of tasks that run or have run before: the log has the rest.

use roaring::RoaringTreemap;

use super::ended::Ended;
use super::event::{EndedAttempt, Event, LeaseNote, LeaseNotes, TaskEvent};
use super::id::{Epoch, Seq, TaskId, Timestamp, Token};
use super::ids::Ids;
use super::lanes::Lanes;
use super::leases::{Held, Leases};
use super::notes::Notes;
use super::number_map::NumberMap;
use super::task::{Change, Holder, Lease, Outcome, Progress, Spec, Status, advance, settle};

/// The tasks, and what is known of them without the log.
#[derive(Debug, Default)]
pub struct Queue {
    /// What waits.
    pub lanes: Lanes,
    /// What runs.
    pub leases: Leases,
    /// What has ended and is kept.
    pub ended: Ended,
    /// The ids.
    pub ids: Ids,
    /// Which leases stand in the log.
    pub notes: Notes,
    waiting: NumberMap<TaskId, Waiting>,
    epochs: Vec<Epoch>,
    sequence: u64,
    next_seq: Seq,
    live: RoaringTreemap,
    live_count: u64,
    live_bytes: u64,
}

/// A pending task that has been through something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Waiting {
    spec: Spec,
    progress: Progress,
    run_at: Timestamp,
}

/// A wish about one task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// An attempt ended.
    Settle {
        /// The lease that it settles.
        token: Token,
        /// How.
        outcome: Outcome,
        /// How long the handler ran, in microseconds.
        run_us: u64,
    },
    /// A client wants the task to end.
    Cancel {
        /// What the log has of it.
        spec: Spec,
    },
    /// A client wants a new round.
    Retry {
        /// What the log has of it.
        spec: Spec,
        /// The place of its last event, as the log had it.
        last: Seq,
        /// The leases it was given so far.
        attempts: u32,
        /// The token of its newest lease.
        token: Option<Token>,
    },
}

/// Why a command changes nothing. None of them is a bug of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejected {
    /// The lease is over: a newer one exists, or a client ended the task.
    Fenced,
    /// The attempt was settled before.
    Duplicate,
    /// No such task, or no such lease, is known.
    Unknown,
    /// The task has ended, by the event at this place; whether an outcome is a
    /// duplicate or fenced is told by the token there.
    Ended(Status, Seq),
    /// The task stands so that the wish makes no sense.
    Standing(Status),
}

/// A lease that a worker says it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// The task.
    pub id: TaskId,
    /// The token.
    pub token: Token,
    /// Which attempt.
    pub attempt: u32,
    /// Whether its handler has started.
    pub started: bool,
    /// What the log has of the task; `None` if it has none.
    pub spec: Option<Spec>,
}

/// How a task stands, as far as memory knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It waits; what it went through is told if it went through anything.
    Pending(Progress, Option<Timestamp>),
    /// It runs.
    Running,
    /// It ended by the event at this place.
    Ended(Status, Seq),
    /// It is not kept, or never was.
    Absent,
}

impl Queue {
    /// What the command makes of the task.
    ///
    /// # Errors
    /// When it changes nothing, and why.
    pub fn decide(
        &self,
        id: TaskId,
        command: Command,
        now: Timestamp,
        dice: u64,
    ) -> Result<TaskEvent, Rejected> {
        match command {
            Command::Settle { token, outcome, run_us } => {
                self.settle(id, token, outcome, run_us, now, dice)
            }
            Command::Cancel { spec } => self.cancel(id, &spec, now),
            Command::Retry { spec, last, attempts, token } => match self.ended.find(id) {
                Some((Status::Failed | Status::Cancelled, seq)) if seq == last => {
                    let change = Change::Retried { attempts, token };
                    Ok(self.event(id, Some(last), now, spec, None, change))
                }
                Some((status, _)) => Err(Rejected::Standing(status)),
                None => Err(self.standing_live(id)),
            },
        }
    }

    /// Folds an event of a task in. The same events in the same order make the same
    /// queue, whenever they are applied.
    pub fn apply(&mut self, event: &TaskEvent, now: Timestamp) {
        let (id, spec) = (event.id, &event.spec);
        self.next_seq = self.next_seq.max(event.seq.next());
        let held = self.leases.remove(id);
        if let Some(held) = &held {
            self.notes.close(held.note);
        }
        let waited = self.waiting.remove(&id);
        let run_at = waited.map_or(spec.run_at, |waiting| waiting.run_at);
        let was_live = self.live.contains(id.0);
        if held.is_none() && was_live {
            self.lanes.remove(spec.lane(), id, run_at);
        }
        let status = event.change.status();
        if status.is_terminal() {
            if was_live {
                self.count_ended(id, spec);
            }
            self.ended.insert(id, status, event.seq, event.kept_bytes());
            return;
        }
        // What can be tried again has no result.
        self.ended.remove(id, spec.payload_bytes.into());
        if !was_live {
            self.count_live(id, spec);
        }
        let before = held.map(|held| held.progress).or(waited.map(|waiting| waiting.progress));
        let ended = event.attempt.as_ref().map(|attempt| (attempt.number, attempt.token));
        let progress = advance(&before.unwrap_or_default(), &event.change, ended, event.seq);
        let run_at = match event.change {
            Change::Returned { run_at, .. } => run_at,
            _ => event.at,
        };
        // A clock that was set back over a restart delays nothing that was due.
        let now = now.max(event.at);
        self.lanes.insert(spec.lane(), id, run_at, now, progress.runs_alone(spec));
        self.waiting.insert(id, Waiting { spec: *spec, progress, run_at });
    }

    /// Folds in that a task was accepted.
    pub fn accept(&mut self, id: TaskId, spec: &Spec, now: Timestamp) {
        self.ids.take(id);
        self.lanes.insert(spec.lane(), id, spec.run_at, now.max(spec.created), false);
        self.count_live(id, spec);
    }

    /// Folds in an event of the log, at a restart. A task comes after what happened to
    /// it, so that one that has ended is never queued. Notes of leases come after all
    /// others, by [`Queue::replay_notes`]; types, workers and keys are somebody else's
    /// part.
    pub fn replay(&mut self, event: &Event, now: Timestamp) {
        match event {
            Event::Submitted { id, .. } if self.is_known(*id) => self.ids.take(*id),
            Event::Submitted { id, spec } => self.accept(*id, spec, now),
            Event::Changed(event) => self.apply(event, now),
            Event::Leased(_)
            | Event::Keyed(_)
            | Event::TypeLearned { .. }
            | Event::WorkerSeen { .. }
            | Event::WorkerLeft { .. }
            | Event::Stopped { .. } => {}
            Event::IdsReserved { end } => self.ids.reserve(*end),
            Event::IdsSkipped { from, to } => self.ids.skip(*from, *to),
        }
    }

    /// Folds in a note of leases, after all events of tasks: what was open when the
    /// last boot ended stays with its holder until `until`, unless the holder says
    /// what became of it. `spec` tells what the log has of a task.
    pub fn replay_notes(
        &mut self,
        notes: &LeaseNotes,
        until: Timestamp,
        mut spec: impl FnMut(TaskId) -> Option<Spec>,
    ) {
        self.notes.reopen(notes.note);
        for note in &notes.leases {
            // Of two notes the older one may have taken it out of those that wait.
            let older = self.leases.find(note.id);
            let progress = older.map_or_else(|| self.progress(note.id), |held| held.progress);
            let is_over = self.ended.find(note.id).is_some()
                || progress.token.is_some_and(|newest| newest >= note.token)
                || self.leases.find(note.id).is_some_and(|held| held.lease.token >= note.token);
            let Some(spec) = spec(note.id).filter(|_| !is_over) else { continue };
            let run_at = self.waiting.get(&note.id).map_or(spec.run_at, |w| w.run_at);
            let older = self.leases.remove(note.id);
            self.notes.close(older.as_ref().and_then(|held| held.note));
            if older.is_none() && !self.lanes.remove(spec.lane(), note.id, run_at) {
                continue;
            }
            self.waiting.remove(&note.id);
            let lease = Lease {
                token: note.token,
                attempt: note.attempt,
                holder: notes.holder.clone(),
                leased: note.leased,
                started: None,
                charged: note.charged,
                resumed: false,
            };
            self.notes.open(notes.note);
            let held = Held { lease, spec, progress, note: Some(notes.note) };
            self.leases.insert(note.id, held, until);
        }
        self.notes.seal(notes.note);
    }

    /// Begins to give leases, after the replay: all epochs of the log, the last one
    /// being this boot's, and the last place that was ever used.
    pub fn begin(&mut self, epochs: Vec<Epoch>, last_seq: Seq) {
        self.epochs = epochs;
        self.next_seq = self.next_seq.max(last_seq.next());
    }

    /// Leases a ready task. The caller says what the log has of it.
    ///
    /// Gives `None` if the task is not ready.
    pub fn lease(
        &mut self,
        id: TaskId,
        spec: &Spec,
        holder: &Holder,
        now: Timestamp,
        until: Timestamp,
        charged: bool,
    ) -> Option<LeaseNote> {
        let epoch = *self.epochs.last()?;
        if !self.lanes.take(spec.lane(), id) {
            return None;
        }
        let progress = self.waiting.remove(&id).map(|w| w.progress).unwrap_or_default();
        self.sequence += 1;
        let token = Token { epoch, sequence: self.sequence };
        let attempt = progress.attempts.saturating_add(1);
        let holder = holder.clone();
        let lease =
            Lease { token, attempt, holder, leased: now, started: None, charged, resumed: false };
        self.leases.insert(id, Held { lease, spec: *spec, progress, note: None }, until);
        Some(LeaseNote { id, token, attempt, leased: now, charged })
    }

    /// Takes back a lease that a worker still holds, or says why not. A newer lease
    /// than the one known here replaces it: its loss was never written down.
    ///
    /// # Errors
    /// When the lease is over or unknown: the worker must stop it.
    pub fn adopt(
        &mut self,
        holder: &Holder,
        claim: &Claim,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<(), Rejected> {
        let Claim { id, token, attempt, started, .. } = *claim;
        let of_this_boot = Some(token.epoch) == self.epoch();
        if !self.epochs.contains(&token.epoch) || of_this_boot && token.sequence > self.sequence {
            return Err(Rejected::Unknown);
        }
        if let Some((status, seq)) = self.ended.find(id) {
            return Err(Rejected::Ended(status, seq));
        }
        let started = started.then_some(now);
        if let Some(held) = self.leases.find(id) {
            if token < held.lease.token {
                return Err(Rejected::Fenced);
            }
            let Some(mut held) = self.leases.remove(id) else { return Err(Rejected::Unknown) };
            if token > held.lease.token {
                self.notes.close(held.note.take());
                held.lease = Lease {
                    token,
                    attempt,
                    holder: holder.clone(),
                    leased: now,
                    started: None,
                    charged: false,
                    resumed: false,
                };
            }
            held.lease.holder = holder.clone();
            held.lease.started = held.lease.started.or(started);
            self.leases.insert(id, held, until);
            return Ok(());
        }
        let Some(spec) = claim.spec else { return Err(Rejected::Unknown) };
        let waiting = self.waiting.get(&id).copied();
        let progress = waiting.map(|waiting| waiting.progress).unwrap_or_default();
        if progress.token.is_some_and(|newest| newest > token) {
            return Err(Rejected::Fenced);
        }
        if progress.token == Some(token) && !progress.open {
            return Err(Rejected::Duplicate);
        }
        if !self.lanes.remove(spec.lane(), id, waiting.map_or(spec.run_at, |w| w.run_at)) {
            return Err(Rejected::Unknown);
        }
        self.waiting.remove(&id);
        let resumed = progress.token == Some(token) && progress.counted;
        let holder = holder.clone();
        let lease = Lease { token, attempt, holder, leased: now, started, charged: false, resumed };
        self.leases.insert(id, Held { lease, spec, progress, note: None }, until);
        Ok(())
    }

    /// How a task stands.
    #[must_use]
    pub fn standing(&self, id: TaskId) -> Standing {
        if self.leases.find(id).is_some() {
            return Standing::Running;
        }
        if let Some((status, seq)) = self.ended.find(id) {
            return Standing::Ended(status, seq);
        }
        if !self.live.contains(id.0) {
            return Standing::Absent;
        }
        let waiting = self.waiting.get(&id);
        let progress = waiting.map(|waiting| waiting.progress).unwrap_or_default();
        Standing::Pending(progress, waiting.map(|waiting| waiting.run_at))
    }

    /// What a pending task went through.
    #[must_use]
    pub fn progress(&self, id: TaskId) -> Progress {
        self.waiting.get(&id).map(|waiting| waiting.progress).unwrap_or_default()
    }

    /// Since when a pending task that has been through something has been due, or when it
    /// will be.
    #[must_use]
    pub fn due(&self, id: TaskId) -> Option<Timestamp> {
        self.waiting.get(&id).map(|waiting| waiting.run_at)
    }

    /// Tasks that wait or run.
    #[must_use]
    pub fn live(&self) -> u64 {
        self.live_count
    }

    /// Bytes of their payloads.
    #[must_use]
    pub fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    /// The place that the next event gets.
    #[must_use]
    pub fn next_seq(&self) -> Seq {
        self.next_seq
    }

    /// This boot.
    #[must_use]
    pub fn epoch(&self) -> Option<Epoch> {
        self.epochs.last().copied()
    }

    fn settle(
        &self,
        id: TaskId,
        token: Token,
        outcome: Outcome,
        run_us: u64,
        now: Timestamp,
        dice: u64,
    ) -> Result<TaskEvent, Rejected> {
        let Some(held) = self.leases.find(id) else {
            return self.settle_late(id, token, &outcome, run_us, now);
        };
        match token.cmp(&held.lease.token) {
            std::cmp::Ordering::Less => return Err(Rejected::Fenced),
            std::cmp::Ordering::Greater => return Err(Rejected::Unknown),
            std::cmp::Ordering::Equal => {}
        }
        // Its worker gave up a handler that ran: that is no reason to run it twice.
        let has_run = run_us > 0 || held.lease.started.is_some();
        let is_lost = outcome == Outcome::Released && has_run && held.spec.at_most_once();
        let outcome = if is_lost { Outcome::Lost } else { outcome };
        let change = settle(&held.spec, &held.progress, &held.lease, outcome, now, dice);
        let attempt = EndedAttempt {
            number: held.lease.attempt,
            token,
            worker: held.lease.holder.worker.clone(),
            leased: held.lease.leased,
            run_us,
        };
        Ok(self.event(id, held.progress.last, now, held.spec, Some(attempt), change))
    }

    /// An outcome of a lease that is not held: welcome only if it is a success of
    /// the newest lease, which was given up without a word of its worker.
    fn settle_late(
        &self,
        id: TaskId,
        token: Token,
        outcome: &Outcome,
        run_us: u64,
        now: Timestamp,
    ) -> Result<TaskEvent, Rejected> {
        if let Some((status, seq)) = self.ended.find(id) {
            return Err(Rejected::Ended(status, seq));
        }
        let Some(Waiting { spec, progress, .. }) = self.waiting.get(&id) else {
            return Err(Rejected::Unknown);
        };
        match progress.token.map(|newest| token.cmp(&newest)) {
            None | Some(std::cmp::Ordering::Greater) => return Err(Rejected::Unknown),
            Some(std::cmp::Ordering::Less) => return Err(Rejected::Fenced),
            Some(std::cmp::Ordering::Equal) => {}
        }
        if !progress.open || *outcome != Outcome::Completed {
            return Err(Rejected::Duplicate);
        }
        let attempt = EndedAttempt {
            number: progress.attempts,
            token,
            worker: "".into(),
            leased: now,
            run_us,
        };
        Ok(self.event(id, progress.last, now, *spec, Some(attempt), Change::Completed))
    }

    fn cancel(&self, id: TaskId, spec: &Spec, now: Timestamp) -> Result<TaskEvent, Rejected> {
        if let Some((status, _)) = self.ended.find(id) {
            return Err(Rejected::Standing(status));
        }
        if let Some(held) = self.leases.find(id) {
            let attempt = EndedAttempt {
                number: held.lease.attempt,
                token: held.lease.token,
                worker: held.lease.holder.worker.clone(),
                leased: held.lease.leased,
                run_us: 0,
            };
            let last = held.progress.last;
            return Ok(self.event(id, last, now, held.spec, Some(attempt), Change::Cancelled));
        }
        if !self.live.contains(id.0) {
            return Err(Rejected::Unknown);
        }
        let last = self.progress(id).last;
        Ok(self.event(id, last, now, *spec, None, Change::Cancelled))
    }

    /// Whether something happened to a task, and it is kept.
    fn is_known(&self, id: TaskId) -> bool {
        self.waiting.contains_key(&id) || self.ended.find(id).is_some()
    }

    fn standing_live(&self, id: TaskId) -> Rejected {
        match self.standing(id) {
            Standing::Running => Rejected::Standing(Status::Running),
            Standing::Pending(..) => Rejected::Standing(Status::Pending),
            Standing::Ended(status, _) => Rejected::Standing(status),
            Standing::Absent => Rejected::Unknown,
        }
    }

    fn event(
        &self,
        id: TaskId,
        previous: Option<Seq>,
        at: Timestamp,
        spec: Spec,
        attempt: Option<EndedAttempt>,
        change: Change,
    ) -> TaskEvent {
        let seq = self.next_seq;
        TaskEvent { seq, id, previous, at, spec, attempt, change, result_bytes: 0 }
    }

    fn count_live(&mut self, id: TaskId, spec: &Spec) {
        if self.live.insert(id.0) {
            self.live_count += 1;
            self.live_bytes += u64::from(spec.payload_bytes);
        }
    }

    fn count_ended(&mut self, id: TaskId, spec: &Spec) {
        if self.live.remove(id.0) {
            self.live_count -= 1;
            self.live_bytes -= u64::from(spec.payload_bytes);
        }
    }
}

#[cfg(test)]
mod tests;
