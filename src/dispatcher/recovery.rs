//! What a store held when the dispatcher was started: the tasks, as the last boot
//! left them, and what has to be careful about them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::types::{Known, Types};
use crate::core::event::{Event, LeaseNotes};
use crate::core::id::{Epoch, Seq, TaskId, Timestamp};
use crate::core::keys::Keys;
use crate::core::payload::Checker;
use crate::core::queue::Queue;
use crate::core::retention::{Policy, Retention};
use crate::core::task_type::{TaskType, TypeId};
use crate::store::{self, Store};

/// How long after an unclean stop inherited tasks have their start stored before
/// the push: long enough that a task that takes the process down with it is seen
/// to do so a few times.
const CAUTION: Duration = Duration::from_secs(60);

/// A dispatcher's memory, rebuilt.
#[derive(Debug)]
pub(crate) struct Restored {
    pub(crate) queue: Queue,
    pub(crate) keys: Keys,
    pub(crate) types: Types,
    /// The workers that the last boot had sessions with: incarnation, address.
    pub(crate) workers: BTreeMap<Arc<str>, (u64, Arc<str>)>,
    pub(crate) retention: Retention,
    /// Leases that are still open, by type.
    pub(crate) running: BTreeMap<TypeId, u64>,
    pub(crate) epoch: Epoch,
    /// Names the store: the nonce of its first boot.
    pub(crate) store_id: u64,
    pub(crate) stored_to: TaskId,
    pub(crate) trimmed_to: Seq,
    /// Ids that a crash left unused, to be noted in the first group.
    pub(crate) skipped: Option<Event>,
    pub(crate) cautious_until: Timestamp,
    pub(crate) started: Timestamp,
    /// New tasks find space.
    pub(crate) has_room: bool,
}

/// Reads a store and begins its next boot. Blocks for as long as that takes.
///
/// `until` is when leases that were open end unless their workers come back.
pub(crate) fn restore(
    store: &dyn Store,
    policy: Policy,
    now: Timestamp,
    until: Timestamp,
    nonce: u64,
) -> Result<Restored, store::Error> {
    let mut queue = Queue::default();
    let mut keys = Keys::default();
    let mut types = Types::default();
    let mut workers = BTreeMap::new();
    let mut notes: Vec<LeaseNotes> = Vec::new();
    let mut stopped_at = None;
    let mut bad_type = None;
    let recovered = store.scan(&mut |event| match event {
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
    replay_notes(store, &mut queue, &notes, until)?;
    let skipped = queue.ids.resume(stopped_at);
    let epochs = store.take_epoch(nonce)?;
    let (Some(first), Some(epoch)) = (epochs.first().copied(), epochs.last().copied()) else {
        return Err(store::Error::Failed { what: "the store began no epoch".to_owned() });
    };
    queue.begin(epochs, recovered.last_seq.max(recovered.trimmed_to));
    let is_clean = stopped_at.is_some() || recovered.last_id.is_none();
    let mut running: BTreeMap<TypeId, u64> = BTreeMap::new();
    for id in queue.leases.newest(TaskId(u64::MAX), usize::MAX) {
        if let Some(held) = queue.leases.find(id) {
            *running.entry(held.spec.type_id).or_default() += 1;
        }
    }
    Ok(Restored {
        keys,
        types,
        workers,
        retention: Retention::new(policy),
        running,
        epoch,
        store_id: first.nonce,
        stored_to: recovered.last_id.unwrap_or(TaskId(0)),
        trimmed_to: recovered.trimmed_to,
        skipped: skipped.map(|(from, to)| Event::IdsSkipped { from, to }),
        cautious_until: if is_clean { now } else { now.plus(CAUTION) },
        started: now,
        has_room: store.has_room(),
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

/// Notes name tasks by id alone: what was asked for is read for each note.
fn replay_notes(
    store: &dyn Store,
    queue: &mut Queue,
    notes: &[LeaseNotes],
    until: Timestamp,
) -> Result<(), store::Error> {
    for note in notes {
        let ids: Vec<TaskId> = note.leases.iter().map(|lease| lease.id).collect();
        let specs = store.specs(&ids)?;
        let specs: BTreeMap<TaskId, _> = ids.into_iter().zip(specs).collect();
        queue.replay_notes(note, until, |id| specs.get(&id).copied().flatten());
    }
    Ok(())
}
