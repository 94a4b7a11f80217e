//! Payloads in memory: of tasks that just came in, and of those that were read to
//! be sent next. Bounded in bytes; what does not fit is read from the store when
//! its turn comes.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::core::id::TaskId;
use crate::core::task::Spec;
use crate::store::StoredTask;

/// Bytes of payloads that may lie here, each counted with [`OVERHEAD`].
const BYTES: usize = 64 << 20;
/// What one entry takes beside its payload.
const OVERHEAD: usize = 160;
/// A smaller payload is copied out of the request that it came with.
const COPIED: usize = 4 << 10;

/// The staged tasks.
#[derive(Debug, Default)]
pub(super) struct Staged {
    tasks: BTreeMap<TaskId, (Spec, Bytes)>,
    bytes: usize,
}

impl Staged {
    /// Keeps a task that just came in, if there is room. `batch` is the bytes of
    /// payloads that it came with: a payload is a part of its request's memory, so
    /// that one that stays would keep all of the others.
    pub(super) fn offer(&mut self, id: TaskId, spec: &Spec, payload: &Bytes, batch: u64) {
        if self.bytes >= BYTES {
            return;
        }
        let is_most = u64::from(spec.payload_bytes) >= batch / 2 && payload.len() >= COPIED;
        let payload = if is_most { payload.clone() } else { Bytes::copy_from_slice(payload) };
        self.insert(id, *spec, payload);
    }

    /// Keeps tasks that were read because they are next. Where there is no room the
    /// youngest of those that were here go.
    pub(super) fn keep(&mut self, tasks: Vec<StoredTask>) {
        let added: usize = tasks.iter().map(|task| task.payload.len() + OVERHEAD).sum();
        while self.bytes + added > BYTES {
            let Some((_, (_, payload))) = self.tasks.pop_last() else { break };
            self.bytes -= payload.len() + OVERHEAD;
        }
        for task in tasks {
            self.insert(task.id, task.spec, task.payload);
        }
    }

    /// What was asked for, if the task is here.
    pub(super) fn spec(&self, id: TaskId) -> Option<&Spec> {
        self.tasks.get(&id).map(|(spec, _)| spec)
    }

    /// Takes a task out.
    pub(super) fn remove(&mut self, id: TaskId) -> Option<(Spec, Bytes)> {
        let (spec, payload) = self.tasks.remove(&id)?;
        self.bytes -= payload.len() + OVERHEAD;
        Some((spec, payload))
    }

    fn insert(&mut self, id: TaskId, spec: Spec, payload: Bytes) {
        let added = payload.len() + OVERHEAD;
        if let Some((_, old)) = self.tasks.insert(id, (spec, payload)) {
            self.bytes -= old.len() + OVERHEAD;
        }
        self.bytes += added;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::id::Timestamp;
    use crate::core::task_type::TypeId;

    #[test]
    fn what_is_read_takes_the_place_of_the_youngest_and_the_bound_holds() {
        let mut staged = Staged::default();
        let large = Bytes::from(vec![0; 8 << 20]);
        for id in 1..=20 {
            staged.offer(TaskId(id), &spec(&large), &large, 8 << 20);
        }
        let here = |staged: &Staged| {
            (1..=30).filter(|id| staged.spec(TaskId(*id)).is_some()).collect::<Vec<_>>()
        };
        assert_eq!(here(&staged), [1, 2, 3, 4, 5, 6, 7, 8]);
        let read = [21, 22].map(|id| StoredTask {
            id: TaskId(id),
            spec: spec(&large),
            payload: large.clone(),
        });
        staged.keep(read.into());
        assert_eq!(here(&staged), [1, 2, 3, 4, 5, 21, 22]);
        assert!(staged.bytes <= BYTES);
        for id in here(&staged) {
            staged.remove(TaskId(id));
        }
        assert_eq!(staged.bytes, 0);
    }

    #[test]
    fn a_payload_that_stays_does_not_keep_its_request() {
        let request = Bytes::from(vec![7; 1 << 20]);
        let mut staged = Staged::default();
        let (small, most) = (request.slice(..10), request.slice(10..));
        staged.offer(TaskId(1), &spec(&small), &small, 1 << 20);
        staged.offer(TaskId(2), &spec(&most), &most, 1 << 20);
        let is_within = |payload: &Bytes| request.as_ptr_range().contains(&payload.as_ptr());
        let staged = [1, 2].map(|id| staged.remove(TaskId(id)).unwrap().1);
        assert_eq!(staged.each_ref().map(is_within), [false, true]);
        assert_eq!(staged[0], small);
    }

    fn spec(payload: &Bytes) -> Spec {
        Spec {
            type_id: TypeId(0),
            priority: 5,
            created: Timestamp(0),
            run_at: Timestamp(0),
            timeout_ms: 0,
            max_attempts: 3,
            max_crashes: 3,
            group: 0,
            payload_bytes: u32::try_from(payload.len()).unwrap(),
        }
    }
}
