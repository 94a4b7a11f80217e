//! The engine that keeps everything in memory: for tests, and the model that the
//! other engines are compared with.
//!
//! What it does not do: survive its process.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::{Error, Group, Position, Recovered, Store, StoredEvent, StoredTask, Trim};
use crate::core::event::{Entry, Event, KeyedBatch, LeaseNotes, TaskEvent};
use crate::core::id::{Epoch, Seq, TaskId};
use crate::core::task::{Holder, Spec};
use crate::core::task_type::{TaskType, TypeId};

/// A store in memory. A clone is another handle of the same contents: dropping
/// all but one of them and going on is what a restart is to an engine on disk.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    contents: Arc<Mutex<Contents>>,
}

impl Memory {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn contents(&self) -> MutexGuard<'_, Contents> {
        // A visitor that panicked under the lock has changed nothing.
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Default)]
struct Contents {
    epochs: Vec<Epoch>,
    types: BTreeMap<TypeId, TaskType>,
    workers: BTreeMap<Arc<str>, (Holder, Arc<str>)>,
    skipped: BTreeMap<TaskId, TaskId>,
    reserved: Option<TaskId>,
    keys: BTreeMap<TaskId, KeyedBatch>,
    tasks: BTreeMap<TaskId, (Spec, Bytes)>,
    events: BTreeMap<Seq, StoredEvent>,
    notes: BTreeMap<u64, LeaseNotes>,
    stopped: Option<TaskId>,
    trimmed_id: Option<TaskId>,
    trimmed_to: Seq,
}

impl Store for Memory {
    fn blocks(&self) -> bool {
        false
    }

    fn take_epoch(&self, nonce: u64) -> Result<Vec<Epoch>, Error> {
        let mut contents = self.contents();
        let boot = contents.epochs.last().map_or(0, |last| last.boot) + 1;
        contents.epochs.push(Epoch { boot, nonce });
        contents.stopped = None;
        Ok(contents.epochs.clone())
    }

    fn append(&self, group: &Group) -> Result<(), Error> {
        let mut contents = self.contents();
        contents.check(group)?;
        for entry in &group.entries {
            contents.insert(entry);
        }
        contents.trim(&group.trim);
        Ok(())
    }

    fn summary(&self, visit: &mut dyn FnMut(Event)) -> Result<Recovered, Error> {
        let contents = self.contents();
        contents.sum_up(visit);
        Ok(contents.recovered())
    }

    fn history(
        &self,
        from: Position,
        to: Recovered,
        limit: usize,
        visit: &mut dyn FnMut(Event),
    ) -> Result<Option<Position>, Error> {
        Ok(self.contents().history(from, to, limit, visit))
    }

    fn tasks_within(&self, ids: &[TaskId], bytes: usize) -> Result<Vec<Option<StoredTask>>, Error> {
        let contents = self.contents();
        let mut found: Vec<Option<StoredTask>> = Vec::new();
        let mut total = 0_usize;
        for &id in ids {
            let task = contents.tasks.get(&id).map(|(spec, payload)| {
                total = total.saturating_add(payload.len());
                StoredTask { id, spec: *spec, payload: payload.clone() }
            });
            if total > bytes && !found.is_empty() {
                break;
            }
            found.push(task);
        }
        Ok(found)
    }

    fn specs(&self, ids: &[TaskId]) -> Result<Vec<Option<Spec>>, Error> {
        let contents = self.contents();
        Ok(ids.iter().map(|id| contents.tasks.get(id).map(|(spec, _)| *spec)).collect())
    }

    fn events(&self, places: &[Seq]) -> Result<Vec<Option<StoredEvent>>, Error> {
        let contents = self.contents();
        Ok(places.iter().map(|place| contents.events.get(place).cloned()).collect())
    }

    fn facts(&self, places: &[Seq]) -> Result<Vec<Option<TaskEvent>>, Error> {
        let contents = self.contents();
        let fact = |place| contents.events.get(place).map(|stored| stored.event.clone());
        Ok(places.iter().map(fact).collect())
    }

    fn events_after(
        &self,
        place: Seq,
        limit: usize,
        bytes: usize,
    ) -> Result<Vec<StoredEvent>, Error> {
        use std::ops::Bound::{Excluded, Unbounded};

        let contents = self.contents();
        let mut found: Vec<StoredEvent> = Vec::new();
        let mut total = 0_usize;
        for (_, event) in contents.events.range((Excluded(place), Unbounded)).take(limit) {
            total = total.saturating_add(event.result.len());
            if total > bytes && !found.is_empty() {
                break;
            }
            found.push(event.clone());
        }
        Ok(found)
    }

    fn reopen(&self) -> Result<(), Error> {
        Ok(())
    }

    fn has_room(&self) -> bool {
        true
    }
}

impl Contents {
    /// A group that would store something twice is refused whole.
    fn check(&self, group: &Group) -> Result<(), Error> {
        let mut ids = std::collections::BTreeSet::new();
        let mut places = std::collections::BTreeSet::new();
        for entry in &group.entries {
            match &entry.event {
                Event::Submitted { id, .. } if self.tasks.contains_key(id) || !ids.insert(*id) => {
                    return Err(super::stored_twice("task", id.0));
                }
                Event::Changed(event)
                    if self.events.contains_key(&event.seq) || !places.insert(event.seq) =>
                {
                    return Err(super::stored_twice("event", event.seq.0));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn insert(&mut self, entry: &Entry) {
        match entry.event.clone() {
            Event::Submitted { id, spec } => {
                self.tasks.insert(id, (spec, entry.bytes.clone()));
            }
            Event::Changed(event) => {
                let stored = StoredEvent { event, result: entry.bytes.clone() };
                self.events.insert(stored.event.seq, stored);
            }
            Event::Leased(notes) => {
                self.notes.insert(notes.note, notes);
            }
            Event::Keyed(batch) => {
                self.keys.insert(batch.first, batch);
            }
            Event::TypeLearned { type_id, definition } => {
                self.types.insert(type_id, definition);
            }
            Event::WorkerSeen { holder, address } => {
                self.workers.insert(Arc::clone(&holder.worker), (holder, address));
            }
            Event::WorkerLeft { worker } => {
                self.workers.remove(&worker);
            }
            Event::IdsReserved { end } => self.reserved = Some(end),
            Event::IdsSkipped { from, to } => {
                self.skipped.insert(from, to);
            }
            Event::Stopped { next_id } => self.stopped = Some(next_id),
        }
    }

    fn trim(&mut self, trim: &Trim) {
        for &(id, last) in &trim.tasks {
            self.tasks.remove(&id);
            let mut place = Some(last);
            while let Some(seq) = place {
                let of_this_task = self.events.get(&seq).is_some_and(|held| held.event.id == id);
                let removed = if of_this_task { self.events.remove(&seq) } else { None };
                place = removed.and_then(|held| held.event.previous);
            }
            self.trimmed_id = self.trimmed_id.max(Some(id));
            self.trimmed_to = self.trimmed_to.max(last);
        }
        for first in &trim.keys {
            self.keys.remove(first);
        }
        for note in &trim.notes {
            self.notes.remove(note);
        }
    }

    fn sum_up(&self, visit: &mut dyn FnMut(Event)) {
        for (&type_id, definition) in &self.types {
            visit(Event::TypeLearned { type_id, definition: definition.clone() });
        }
        for (holder, address) in self.workers.values() {
            visit(Event::WorkerSeen { holder: holder.clone(), address: Arc::clone(address) });
        }
        for (&from, &to) in &self.skipped {
            visit(Event::IdsSkipped { from, to });
        }
        if let Some(end) = self.reserved {
            visit(Event::IdsReserved { end });
        }
        for batch in self.keys.values() {
            visit(Event::Keyed(batch.clone()));
        }
        for notes in self.notes.values() {
            visit(Event::Leased(notes.clone()));
        }
        if let Some(next_id) = self.stopped {
            visit(Event::Stopped { next_id });
        }
    }

    fn history(
        &self,
        from: Position,
        to: Recovered,
        limit: usize,
        visit: &mut dyn FnMut(Event),
    ) -> Option<Position> {
        match from {
            Position::Events(after) => {
                let mut last = None;
                let end = to.last_seq.max(after).next();
                let events = self.events.range(after.next()..end);
                for (&seq, held) in events.take(limit) {
                    visit(Event::Changed(held.event.clone()));
                    last = Some(seq);
                }
                Some(last.map_or(Position::Tasks(TaskId(0)), Position::Events))
            }
            Position::Tasks(after) => {
                let mut last = None;
                let end = to.last_id.max(Some(after)).map_or(after, |last| last.plus(1));
                for (&id, &(spec, _)) in self.tasks.range(after.plus(1)..end).take(limit) {
                    visit(Event::Submitted { id, spec });
                    last = Some(id);
                }
                last.map(Position::Tasks)
            }
        }
    }

    fn recovered(&self) -> Recovered {
        let last_event = self.events.keys().next_back().copied().unwrap_or_default();
        Recovered {
            last_seq: last_event.max(self.trimmed_to),
            last_id: self.tasks.keys().next_back().copied().max(self.trimmed_id),
            trimmed_to: self.trimmed_to,
        }
    }
}
