//! What a store held when the dispatcher was started: the tasks, as the last boot
//! left them, and what has to be careful about them.
//!
//! New tasks need none of the old ones, so that they are let in while those are still
//! read: [`restore`] reads what is little, and [`Rest`] the history, part by part.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::types::{Known, Types};
use crate::core::event::{Event, LeaseNotes};
use crate::core::id::{Epoch, Seq, TaskId, Timestamp};
use crate::core::keys::Keys;
use crate::core::payload::Checker;
use crate::core::queue::Queue;
use crate::core::retention::{Policy, Retention};
use crate::core::task::Spec;
use crate::core::task_type::{TaskType, TypeId};
use crate::store::{self, Position, Recovered, Store};

/// Tasks and events of one part: read in a few milliseconds, and a few megabytes.
const PART: usize = 16_384;

/// A dispatcher's memory, rebuilt but for the tasks.
#[derive(Debug)]
pub(crate) struct Restored {
    pub(crate) queue: Queue,
    pub(crate) keys: Keys,
    pub(crate) types: Types,
    /// The workers that the last boot had sessions with: incarnation, address.
    pub(crate) workers: BTreeMap<Arc<str>, (u64, Arc<str>)>,
    pub(crate) retention: Retention,
    pub(crate) epoch: Epoch,
    /// Names the store: the nonce of its first boot.
    pub(crate) store_id: u64,
    pub(crate) stored_to: TaskId,
    pub(crate) trimmed_to: Seq,
    /// Ids that a crash left unused, to be noted in the first group.
    pub(crate) skipped: Option<Event>,
    pub(crate) started: Timestamp,
    /// New tasks find space.
    pub(crate) has_room: bool,
    /// The tasks.
    pub(crate) rest: Rest,
}

/// What is still to be read.
#[derive(Debug)]
pub(crate) struct Rest {
    /// The last boot stopped in good order.
    pub(crate) was_clean: bool,
    position: Option<Position>,
    to: Recovered,
    notes: Vec<LeaseNotes>,
}

/// A part of it.
#[derive(Debug)]
pub(crate) enum Part {
    /// Events of tasks and then tasks, to be replayed in this order.
    History(Vec<Event>),
    /// The last one: notes of leases, each with what the log has of its tasks, which they
    /// name by their ids alone.
    Notes(Vec<(LeaseNotes, BTreeMap<TaskId, Spec>)>),
}

impl Rest {
    /// Reads the next part. Blocks.
    ///
    /// # Errors
    /// As the store's; then this part may be read again.
    pub(crate) fn read(&mut self, store: &dyn Store) -> Result<Part, store::Error> {
        let Some(from) = self.position else { return self.read_notes(store) };
        let mut events = Vec::with_capacity(PART);
        self.position = store.history(from, self.to, PART, &mut |event| events.push(event))?;
        Ok(Part::History(events))
    }

    fn read_notes(&self, store: &dyn Store) -> Result<Part, store::Error> {
        let with_specs = |note: &LeaseNotes| {
            let ids: Vec<TaskId> = note.leases.iter().map(|lease| lease.id).collect();
            let specs = ids.iter().zip(store.specs(&ids)?);
            let specs = specs.filter_map(|(id, spec)| Some((*id, spec?))).collect();
            Ok((note.clone(), specs))
        };
        self.notes.iter().map(with_specs).collect::<Result<_, _>>().map(Part::Notes)
    }
}

/// Reads what a store holds beside its tasks, and begins its next boot. Blocks.
pub(crate) fn restore(
    store: &dyn Store,
    policy: Policy,
    now: Timestamp,
    nonce: u64,
) -> Result<Restored, store::Error> {
    let mut queue = Queue::default();
    let mut keys = Keys::default();
    let mut types = Types::default();
    let mut workers = BTreeMap::new();
    let mut notes: Vec<LeaseNotes> = Vec::new();
    let mut stopped_at = None;
    let mut bad_type = None;
    let recovered = store.summary(&mut |event| match event {
        Event::TypeLearned { type_id, definition } => {
            if let Err(error) = learn(&mut types, type_id, definition) {
                bad_type = Some(error);
            }
        }
        Event::WorkerSeen { holder, address } => {
            workers.insert(holder.worker, (holder.incarnation, address));
        }
        Event::WorkerLeft { worker } => _ = workers.remove(&worker),
        Event::Keyed(batch) => keys.insert(batch),
        Event::Leased(leases) => notes.push(leases),
        Event::Stopped { next_id } => stopped_at = Some(next_id),
        Event::Submitted { .. }
        | Event::Changed(_)
        | Event::IdsReserved { .. }
        | Event::IdsSkipped { .. } => queue.replay(&event, now),
    })?;
    if let Some(error) = bad_type {
        return Err(error);
    }
    if let Some(last) = recovered.last_id {
        queue.ids.take(last);
    }
    let skipped = queue.ids.resume(stopped_at);
    let epochs = store.take_epoch(nonce)?;
    let (Some(first), Some(epoch)) = (epochs.first().copied(), epochs.last().copied()) else {
        return Err(store::Error::Failed { what: "the store began no epoch".to_owned() });
    };
    queue.begin(epochs, recovered.last_seq.max(recovered.trimmed_to));
    let is_clean = stopped_at.is_some() || recovered.last_id.is_none();
    let rest =
        Rest { was_clean: is_clean, position: Some(Position::default()), to: recovered, notes };
    Ok(Restored {
        keys,
        types,
        workers,
        retention: Retention::new(policy),
        epoch,
        store_id: first.nonce,
        stored_to: recovered.last_id.unwrap_or(TaskId(0)),
        trimmed_to: recovered.trimmed_to,
        skipped: skipped.map(|(from, to)| Event::IdsSkipped { from, to }),
        started: now,
        has_room: store.has_room(),
        rest,
        queue,
    })
}

fn learn(types: &mut Types, type_id: TypeId, definition: TaskType) -> Result<(), store::Error> {
    let checker = Checker::compile(&definition.payload).map_err(|error| store::Error::Damaged {
        what: format!("task type {}: {error}", definition.name),
    })?;
    types.learn(type_id, Known { definition, checker: Arc::new(checker) });
    Ok(())
}
