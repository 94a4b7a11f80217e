//! Sending ready tasks to workers with credit.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::group::Effect;
use super::space::Space;
use super::{Message, READ_AGAIN, Scheduler};
use crate::core::event::{Event, LeaseNote, LeaseNotes};
use crate::core::id::{TaskId, Timestamp, Token};
use crate::core::leases::Held;
use crate::core::placement::Need;
use crate::core::queue::Standing;
use crate::core::task::{Holder, Spec};
use crate::core::task_type::TypeId;
use crate::store::{self, Store, StoredTask};
use crate::wire::v1;

/// Tasks of one type that are placed in one turn for each worker that serves it, a row of
/// them, before others get theirs …
const TURN: usize = 256;
/// … up to so many, about a millisecond's work, …
const LONG_TURN: usize = 2_048;
/// … or so many for each of many workers: a message to each should not be for a few tasks.
const TURN_OF_EACH_OF_MANY: usize = 32;
/// Tasks that are read at once when their payloads are not in memory. The next ones are
/// read while the second half of them is sent.
const FETCH: usize = 1_024;
/// Bytes of payloads after which such a read ends early: their sizes are not in memory.
const FETCH_BYTES: usize = 8 << 20;
/// The longest wait for the workers that the last boot knew.
pub(crate) const KNOWN_WORKERS_WAIT: Duration = Duration::from_secs(2);

/// Holds all tasks back after a restart, until the workers that the last boot knew
/// have said what they hold, or have had their time.
#[derive(Debug)]
pub(super) struct Gate {
    awaited: BTreeSet<Arc<str>>,
    until: Timestamp,
}

impl Gate {
    pub(super) fn new(workers: &BTreeMap<Arc<str>, (u64, Arc<str>)>, now: Timestamp) -> Self {
        Self { awaited: workers.keys().cloned().collect(), until: now.plus(KNOWN_WORKERS_WAIT) }
    }

    /// A worker has said what it holds, or has left in good order.
    pub(super) fn heard(&mut self, worker: &str) {
        self.awaited.remove(worker);
    }

    pub(super) fn is_open(&self, now: Timestamp) -> bool {
        self.awaited.is_empty() || now >= self.until
    }

    /// When it opens by itself.
    pub(super) fn opens_at(&self, now: Timestamp) -> Option<Timestamp> {
        (!self.is_open(now)).then_some(self.until)
    }
}

/// How far the tasks of a type have been read whose payloads were not in memory.
#[derive(Debug, Default)]
pub(super) struct Reading {
    is_under_way: bool,
    /// Tasks that the last read found.
    found: usize,
    /// Tasks that were read and, as far as it is known, not sent.
    left: usize,
}

/// Leases that stand in no note yet.
#[derive(Debug, Default)]
pub(super) struct Unnoted {
    /// Given since the last group: most of them will have ended before the next.
    fresh: Vec<(TaskId, Token)>,
    /// Given before it.
    aging: Vec<(TaskId, Token)>,
}

impl Scheduler {
    /// Leases and sends what can be sent, of each type what a turn places, and tells
    /// whether more may follow. The types take turns, beginning after the one that was
    /// served last: one with an endless backlog must not keep a worker that serves
    /// others too for itself. That a turn is short lets the reports of other workers in:
    /// whoever reports first must not be given all that waits.
    pub(super) fn assign(&mut self) -> bool {
        if self.draining || self.loading.is_some() || !self.gate.is_open(self.last_turn) {
            return false;
        }
        let mut types: Vec<TypeId> = self.queue.lanes.ready_types().collect();
        let served = types.partition_point(|type_id| *type_id <= self.served_last);
        types.rotate_left(served);
        for type_id in &types {
            self.assign_alone(*type_id);
        }
        types.retain(|type_id| self.assign_some(*type_id));
        !types.is_empty()
    }

    /// Places the next task of a type that must run alone, or sets a worker aside.
    fn assign_alone(&mut self, type_id: TypeId) {
        let Some(id) = self.queue.lanes.next_alone(type_id) else { return };
        match self.staged.spec(id).copied() {
            Some(spec) => _ = self.place(id, &spec),
            None => self.fetch(type_id, 0),
        }
    }

    /// Places the tasks of a type that a turn does; tells whether more may follow.
    fn assign_some(&mut self, type_id: TypeId) -> bool {
        let room = usize::try_from(self.fleet.room(type_id)).unwrap_or(usize::MAX);
        let wanted = room.min(turn(self.fleet.serving(type_id)));
        if wanted == 0 {
            return false;
        }
        let placed = self.place_some(type_id, wanted);
        self.read_on(type_id, placed);
        placed == wanted
    }

    /// Places up to so many tasks of a type, and tells how many it did.
    fn place_some(&mut self, type_id: TypeId, wanted: usize) -> usize {
        let ids: Vec<TaskId> = self.queue.lanes.next(type_id).take(wanted).collect();
        for (placed, id) in ids.iter().enumerate() {
            let Some(spec) = self.staged.spec(*id).copied() else {
                self.fetch(type_id, 0);
                return placed;
            };
            // What is behind it must not overtake it: a task that waits for a free
            // slot would never get one while others fill the prefetch.
            if !self.place(*id, &spec) {
                return placed;
            }
            self.served_last = type_id;
        }
        ids.len()
    }

    /// Leases one task to a worker and sends it, if one has room.
    fn place(&mut self, id: TaskId, spec: &Spec) -> bool {
        let progress = self.queue.progress(id);
        let need = if progress.runs_alone(spec) {
            Need::Alone(id)
        } else if spec.at_most_once() || progress.runs_at_once() {
            Need::FreeSlot
        } else {
            Need::Any
        };
        let Some(member) = self.fleet.place(spec.type_id, need) else { return false };
        let Some(session) = self.sessions.get(&member) else { return false };
        let type_index = session.type_index(spec.type_id);
        let is_cautious = id < self.inherited_below && self.last_turn < self.cautious_until;
        let charged = need != Need::Any || is_cautious;
        let now = self.last_turn;
        let until = now.plus(self.rules.lease);
        let note = self.queue.lease(id, spec, &session.holder, now, until, charged);
        let noted_for = charged.then(|| session.holder.clone());
        let (Some(note), Some(payload)) = (note, self.staged.take(id)) else {
            self.fleet.release(member);
            return false;
        };
        self.tally.leased(spec.type_id);
        let assignment = assignment(&note, type_index, payload, spec.timeout_ms);
        match noted_for {
            Some(holder) => self.write_note(holder, vec![note]),
            None => self.unnoted.fresh.push((id, note.token)),
        }
        // Behind one that waits, so that a worker gets its tasks in their order.
        let waits =
            charged || !self.queue.ids.is_synced(id) || self.held_back.contains_key(&member);
        if waits {
            *self.held_back.entry(member).or_default() += 1;
            self.after_commit(Effect::Push(member, note.token, Box::new(assignment)));
        } else {
            self.outgoing.entry(member).or_default().assign.push(assignment);
        }
        true
    }

    /// Reads the next tasks of a type before those that were read are all sent, so that no
    /// worker waits for the disk.
    fn read_on(&mut self, type_id: TypeId, placed: usize) {
        let Some(reading) = self.reading.get_mut(&type_id) else { return };
        reading.left = reading.left.saturating_sub(placed);
        if (1..=reading.found / 2).contains(&reading.left) {
            let left = reading.left;
            self.fetch(type_id, left);
        }
    }

    /// Reads the next tasks of a type whose payloads are not in memory, but for the first
    /// ones, which are.
    fn fetch(&mut self, type_id: TypeId, staged: usize) {
        let reading = self.reading.entry(type_id).or_default();
        if reading.is_under_way || self.space == Space::None {
            return;
        }
        let missing = |id: &TaskId| self.staged.spec(*id).is_none() && *id <= self.stored_to;
        let lanes = &self.queue.lanes;
        let next = lanes.next(type_id).skip(staged).take(FETCH);
        let ids: Vec<_> =
            lanes.next_alone(type_id).into_iter().chain(next).filter(missing).collect();
        if ids.is_empty() {
            // Nothing to read on for.
            reading.left = 0;
            return;
        }
        let Some(inbox) = self.shared.inbox.upgrade() else { return };
        reading.is_under_way = true;
        let store = self.store.clone();
        tokio::spawn(async move {
            let read = move |store: &dyn Store| {
                let rows = store.tasks_within(&ids, FETCH_BYTES)?;
                Ok(ids.into_iter().zip(rows).collect())
            };
            let rows = store::apart(&store, read).await;
            if matches!(rows, Err(store::Error::Full)) {
                tokio::time::sleep(READ_AGAIN).await;
            }
            // A loop that has ended sends no more tasks.
            drop(inbox.send(Message::Fetched { type_id, rows }).await);
        });
    }

    pub(super) fn fetched(
        &mut self,
        type_id: TypeId,
        rows: Result<Vec<(TaskId, Option<StoredTask>)>, store::Error>,
    ) {
        let reading = self.reading.entry(type_id).or_default();
        reading.is_under_way = false;
        match rows {
            Ok(rows) => {
                reading.found = rows.len();
                reading.left += rows.len();
                self.keep(rows);
            }
            // It is read again once the store is open again.
            Err(store::Error::Full) => {}
            Err(error) => self.announced_end = Some(error),
        }
    }

    /// Stages what was read. What ended or was adopted meanwhile is sent to nobody,
    /// and would lie here for ever.
    fn keep(&mut self, rows: Vec<(TaskId, Option<StoredTask>)>) {
        let queue = &self.queue;
        let waits = |id| matches!(queue.standing(id), Standing::Pending(..));
        let (there, missing): (Vec<_>, Vec<_>) =
            rows.into_iter().filter(|(id, _)| waits(*id)).partition(|(_, row)| row.is_some());
        self.staged.keep(there.into_iter().filter_map(|(_, row)| row).collect());
        if let Some((id, _)) = missing.first() {
            // Asked for again and again, it would keep the loop busy for ever.
            let what = format!("task {id} waits, and its record is not there");
            self.announced_end = Some(store::Error::Damaged { what });
        }
    }

    /// Puts notes of the leases that are still open into the group that is about to
    /// be committed: those that were given before the last one. Nobody waits for
    /// them, and a short task has ended before it needs one.
    pub(super) fn write_notes(&mut self) {
        let fresh = std::mem::take(&mut self.unnoted.fresh);
        let aging = std::mem::replace(&mut self.unnoted.aging, fresh);
        self.write_open(aging);
    }

    /// Puts notes of all open leases into the group: there may be no other for long.
    pub(super) fn note_all_leases(&mut self) {
        let mut leases = std::mem::take(&mut self.unnoted.aging);
        leases.append(&mut self.unnoted.fresh);
        self.write_open(leases);
    }

    fn write_open(&mut self, leases: Vec<(TaskId, Token)>) {
        let mut by_holder: BTreeMap<Holder, Vec<LeaseNote>> = BTreeMap::new();
        for (id, token) in leases {
            let held = self.queue.leases.find(id).filter(|held| held.lease.token == token);
            let Some(Held { lease, .. }) = held else { continue };
            let note = LeaseNote {
                id,
                token,
                attempt: lease.attempt,
                leased: lease.leased,
                charged: lease.charged,
            };
            by_holder.entry(lease.holder.clone()).or_default().push(note);
        }
        for (holder, notes) in by_holder {
            self.write_note(holder, notes);
        }
    }

    fn write_note(&mut self, holder: Holder, leases: Vec<LeaseNote>) {
        let note = self.queue.notes.number();
        for lease in &leases {
            self.queue.notes.open(note);
            self.queue.leases.note(lease.id, note);
        }
        let notes = LeaseNotes { note, holder, leases };
        self.open.group.entries.push(Event::Leased(notes).into());
    }

    /// Whether leases stand in no note yet.
    pub(super) fn has_unnoted(&self) -> bool {
        !self.unnoted.aging.is_empty() || !self.unnoted.fresh.is_empty()
    }
}

/// How many tasks of a type a turn places that so many workers serve.
fn turn(workers: usize) -> usize {
    let long = LONG_TURN.max(workers * TURN_OF_EACH_OF_MANY);
    (workers * TURN).min(long)
}

fn assignment(
    note: &LeaseNote,
    type_index: u32,
    payload: Bytes,
    timeout_ms: u64,
) -> v1::Assignment {
    v1::Assignment {
        task_id: note.id.0,
        sequence: note.token.sequence,
        type_index,
        payload,
        attempt: note.attempt,
        timeout_ms,
    }
}
