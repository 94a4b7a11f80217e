//! What is durable: a log that takes groups whole, and what a restart makes of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use taskgrid::core::event::{Event, KeyedBatch, LeaseNotes, TaskEvent};
use taskgrid::core::id::{Epoch, Seq, TaskId, Timestamp};
use taskgrid::core::keys::Keys;
use taskgrid::core::queue::Queue;
use taskgrid::core::task::Spec;

use super::bugs::Bug;

/// How long after an unclean stop the start of an inherited task is stored first.
const CAUTION: Duration = Duration::from_secs(60);

/// What becomes durable together. A number stands for the bytes beside an event:
/// the payload of a task, or a result.
#[derive(Debug, Default)]
pub(crate) struct Group {
    pub(crate) entries: Vec<(Event, u64)>,
    pub(crate) over_notes: Vec<u64>,
}

impl Group {
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.over_notes.is_empty()
    }
}

/// The log.
#[derive(Debug, Default)]
pub(crate) struct Log {
    pub(crate) tasks: BTreeMap<TaskId, (Spec, u64)>,
    pub(crate) events: BTreeMap<Seq, (TaskEvent, u64)>,
    notes: BTreeMap<u64, LeaseNotes>,
    keyed: Vec<KeyedBatch>,
    workers: BTreeMap<Arc<str>, u64>,
    reserved: Option<TaskId>,
    skipped: Vec<(TaskId, TaskId)>,
    epochs: Vec<Epoch>,
    stopped_at: Option<TaskId>,
}

/// A dispatcher's memory, rebuilt.
#[derive(Debug)]
pub(crate) struct Restored {
    pub(crate) queue: Queue,
    pub(crate) keys: Keys,
    pub(crate) workers: BTreeMap<Arc<str>, u64>,
    pub(crate) skipped: Option<Event>,
    pub(crate) stored_to: TaskId,
    pub(crate) cautious_until: Timestamp,
}

impl Log {
    /// Makes a group durable, or says what is stored already.
    pub(crate) fn append(&mut self, group: Group) -> Result<(), String> {
        for (event, bytes) in group.entries {
            match event {
                Event::Submitted { id, spec } => {
                    if self.tasks.insert(id, (spec, bytes)).is_some() {
                        return Err(format!("task {id} is stored twice"));
                    }
                }
                Event::Changed(event) => {
                    let seq = event.seq;
                    if self.events.insert(seq, (event, bytes)).is_some() {
                        return Err(format!("place {} is used twice", seq.0));
                    }
                }
                Event::Leased(notes) => _ = self.notes.insert(notes.note, notes),
                Event::Keyed(batch) => self.keyed.push(batch),
                Event::TypeLearned { .. } => {}
                Event::WorkerSeen { holder, .. } => {
                    self.workers.insert(holder.worker, holder.incarnation);
                }
                Event::WorkerLeft { worker } => _ = self.workers.remove(&worker),
                Event::IdsReserved { end } => self.reserved = Some(end),
                Event::IdsSkipped { from, to } => self.skipped.push((from, to)),
                Event::Stopped { next_id } => self.stopped_at = Some(next_id),
            }
        }
        for note in group.over_notes {
            self.notes.remove(&note);
        }
        Ok(())
    }

    /// Reads everything and begins the next boot.
    pub(crate) fn restore(
        &mut self,
        now: Timestamp,
        lease: Duration,
        nonce: u64,
        bug: Option<Bug>,
    ) -> Restored {
        let mut queue = self.replay(now);
        for note in self.notes.values() {
            let spec = |id| self.tasks.get(&id).map(|(spec, _)| *spec);
            queue.replay_notes(note, now.plus(lease), spec);
        }
        let stopped_at = self.stopped_at.take();
        let skipped = match bug {
            Some(Bug::IdsBeyondReserve) => None,
            _ => queue.ids.resume(stopped_at),
        };
        if bug != Some(Bug::BootForgotten) || self.epochs.is_empty() {
            let boot = self.epochs.last().map_or(1, |epoch| epoch.boot + 1);
            self.epochs.push(Epoch { boot, nonce });
        }
        let last_seq = self.events.last_key_value().map(|(seq, _)| *seq).unwrap_or_default();
        queue.begin(self.epochs.clone(), last_seq);
        let mut keys = Keys::default();
        if bug != Some(Bug::KeysForgotten) {
            self.keyed.iter().for_each(|batch| keys.insert(batch.clone()));
        }
        let is_clean = stopped_at.is_some() || self.tasks.is_empty();
        Restored {
            queue,
            keys,
            workers: self.workers.clone(),
            skipped: skipped.map(|(from, to)| Event::IdsSkipped { from, to }),
            stored_to: self.last_id(),
            cautious_until: if is_clean { now } else { now.plus(CAUTION) },
        }
    }

    fn replay(&self, now: Timestamp) -> Queue {
        let mut queue = Queue::default();
        let mut replay = |event: &Event| queue.replay(event, now);
        for (from, to) in &self.skipped {
            replay(&Event::IdsSkipped { from: *from, to: *to });
        }
        if let Some(end) = self.reserved {
            replay(&Event::IdsReserved { end });
        }
        for (id, (spec, _)) in &self.tasks {
            replay(&Event::Submitted { id: *id, spec: *spec });
        }
        for (event, _) in self.events.values() {
            replay(&Event::Changed(event.clone()));
        }
        queue
    }

    fn last_id(&self) -> TaskId {
        self.tasks.last_key_value().map_or(TaskId(0), |(id, _)| *id)
    }
}
