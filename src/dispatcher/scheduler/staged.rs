//! Payloads in memory: of tasks that just came in, and of those that were read to
//! be sent next. Bounded in bytes; what does not fit is read from the store when
//! its turn comes.
//!
//! Ids come in a row and leave nearly so: tasks lie in blocks, a place for each id,
//! and small payloads one behind the other in pieces of memory that they share. So a
//! block and its small payloads take their room until the last of its tasks is gone.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Bytes, BytesMut};

use crate::core::id::TaskId;
use crate::core::task::Spec;
use crate::store::StoredTask;

/// Bytes of payloads and blocks that may lie here.
const BYTES: usize = 64 << 20;
/// Ids of a block.
const BLOCK: usize = 64;
/// What a block takes beside its payloads: its places, and what the map needs for it.
const BLOCK_BYTES: usize = BLOCK * size_of::<Option<Waiting>>() + 128;
/// A smaller payload is copied out of the request that it came with …
const COPIED: usize = 4 << 10;
/// … into a piece of memory of this size.
const COPIES: usize = 4 << 10;

/// The staged tasks.
#[derive(Debug, Default)]
pub(super) struct Staged {
    /// By what their ids have in common.
    blocks: BTreeMap<u64, Block>,
    bytes: usize,
    /// Where the next small payload is copied to.
    copies: BytesMut,
}

/// Tasks of neighbouring ids.
#[derive(Debug)]
struct Block {
    /// Each in its place, up to the last one.
    tasks: Vec<Option<Waiting>>,
    /// How many there are.
    count: usize,
    /// What it counts for: itself, its large payloads, and all small ones that it had.
    bytes: usize,
}

/// A task that waits.
#[derive(Debug)]
struct Waiting {
    spec: Spec,
    payload: Bytes,
}

impl Staged {
    /// Keeps a task that just came in, if there is room. `batch` is the bytes of
    /// payloads that it came with: a payload is a part of its request's memory, so
    /// that one that stays would keep all of the others.
    pub(super) fn offer(&mut self, id: TaskId, spec: &Spec, payload: &Bytes, batch: u64) {
        if self.bytes >= BYTES {
            return;
        }
        let is_much = u64::from(spec.payload_bytes) >= batch / 4 && payload.len() >= COPIED;
        let payload = if is_much { payload.clone() } else { self.copy(payload) };
        self.insert(id, Waiting { spec: *spec, payload });
    }

    /// Keeps tasks that were read because they are next. Where there is no room the
    /// youngest of those that were here go.
    pub(super) fn keep(&mut self, tasks: Vec<StoredTask>) {
        let payloads: usize = tasks.iter().map(|task| task.payload.len()).sum();
        let blocks: BTreeSet<u64> = tasks.iter().map(|task| place(task.id).0).collect();
        let added = payloads + blocks.len() * BLOCK_BYTES;
        while self.bytes + added > BYTES && self.drop_youngest() {}
        for StoredTask { id, spec, payload } in tasks {
            self.insert(id, Waiting { spec, payload });
        }
    }

    /// What was asked for, if the task is here.
    pub(super) fn spec(&self, id: TaskId) -> Option<&Spec> {
        let (block, place) = place(id);
        let waiting = self.blocks.get(&block)?.tasks.get(place)?.as_ref()?;
        Some(&waiting.spec)
    }

    /// Takes a task's payload out.
    pub(super) fn take(&mut self, id: TaskId) -> Option<Bytes> {
        let (number, place) = place(id);
        let block = self.blocks.get_mut(&number)?;
        let Waiting { payload, .. } = block.tasks.get_mut(place)?.take()?;
        self.leave(number, &payload);
        Some(payload)
    }

    fn insert(&mut self, id: TaskId, task: Waiting) {
        let (number, place) = place(id);
        let block = self.blocks.entry(number).or_insert_with(|| {
            self.bytes += BLOCK_BYTES;
            Block { tasks: Vec::with_capacity(BLOCK), count: 0, bytes: BLOCK_BYTES }
        });
        block.count += 1;
        block.bytes += task.payload.len();
        self.bytes += task.payload.len();
        if block.tasks.len() <= place {
            block.tasks.resize_with(place + 1, || None);
        }
        if let Some(old) = block.tasks[place].replace(task) {
            self.leave(number, &old.payload);
        }
    }

    /// Drops the task with the greatest id; false if there is none.
    fn drop_youngest(&mut self) -> bool {
        let Some(mut last) = self.blocks.last_entry() else { return false };
        let number = *last.key();
        let tasks = std::iter::from_fn(|| last.get_mut().tasks.pop());
        if let Some(Waiting { payload, .. }) = tasks.flatten().next() {
            self.leave(number, &payload);
        }
        true
    }

    /// Counts a task off that was taken out of this block, and the block if it was its last.
    fn leave(&mut self, number: u64, payload: &Bytes) {
        let Some(block) = self.blocks.get_mut(&number) else { return };
        block.count -= 1;
        if payload.len() >= COPIED {
            block.bytes -= payload.len();
            self.bytes -= payload.len();
        }
        if block.count == 0 {
            self.bytes -= block.bytes;
            self.blocks.remove(&number);
        }
    }

    /// A copy that shares its memory with the others of its time.
    fn copy(&mut self, payload: &[u8]) -> Bytes {
        if self.copies.capacity() < payload.len() {
            self.copies = BytesMut::with_capacity(COPIES.max(payload.len()));
        }
        self.copies.extend_from_slice(payload);
        self.copies.split().freeze()
    }
}

/// The block of an id, and its place there.
fn place(id: TaskId) -> (u64, usize) {
    let block = u64::try_from(BLOCK).expect("it is small");
    (id.0 / block, usize::try_from(id.0 % block).expect("it is less than a block"))
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
        assert_eq!(here(&staged, 30), [1, 2, 3, 4, 5, 6, 7, 8]);
        let read = [21, 22].map(|id| StoredTask {
            id: TaskId(id),
            spec: spec(&large),
            payload: large.clone(),
        });
        staged.keep(read.into());
        assert_eq!(here(&staged, 30), [1, 2, 3, 4, 5, 21, 22]);
        assert!(staged.bytes <= BYTES);
        for id in here(&staged, 30) {
            staged.take(TaskId(id));
        }
        assert_eq!(staged.bytes, 0);
    }

    #[test]
    fn of_small_tasks_the_youngest_go_until_there_is_room() {
        let mut staged = Staged::default();
        let small = Bytes::from_static(b"some bytes of a small payload");
        let mut count = 0;
        while staged.bytes < BYTES {
            count += 1;
            staged.offer(TaskId(count), &spec(&small), &small, 1 << 20);
        }
        assert!(count > 300_000, "{count}");
        assert!(staged.bytes < BYTES + BLOCK_BYTES + 100);
        let large = Bytes::from(vec![0; 1 << 20]);
        let first = TaskId(count + 1_000);
        staged.keep(vec![StoredTask { id: first, spec: spec(&large), payload: large.clone() }]);
        assert!(staged.bytes <= BYTES);
        let left = here(&staged, count);
        assert!(left.len() > 295_000, "{}", left.len());
        assert_eq!(left, (1..=left.last().copied().unwrap()).collect::<Vec<_>>());
        assert_eq!(staged.take(first), Some(large));
        // Every other one, so that each block takes its room until the end.
        let (odd, even): (Vec<u64>, Vec<u64>) = left.into_iter().partition(|id| id % 2 == 1);
        let full = staged.bytes;
        for id in odd {
            assert_eq!(staged.take(TaskId(id)), Some(small.clone()));
        }
        assert_eq!(staged.bytes, full);
        for id in even {
            assert_eq!(staged.take(TaskId(id)), Some(small.clone()));
        }
        assert_eq!((staged.bytes, staged.blocks.len()), (0, 0));
    }

    #[test]
    fn a_task_that_is_read_again_counts_once() {
        let mut staged = Staged::default();
        for payload in [Bytes::from_static(b"small"), Bytes::from(vec![0; COPIED])] {
            for _ in 0..2 {
                let (spec, payload) = (spec(&payload), payload.clone());
                staged.keep(vec![StoredTask { id: TaskId(7), spec, payload }]);
            }
            assert_eq!(staged.take(TaskId(7)), Some(payload));
            assert_eq!((staged.take(TaskId(7)), staged.bytes), (None, 0));
        }
    }

    #[test]
    fn a_payload_that_stays_does_not_keep_its_request() {
        let request = Bytes::from(vec![7; 1 << 20]);
        let mut staged = Staged::default();
        let (small, most) = (request.slice(..10), request.slice(10..));
        staged.offer(TaskId(1), &spec(&small), &small, 1 << 20);
        staged.offer(TaskId(2), &spec(&most), &most, 1 << 20);
        let is_within = |payload: &Bytes| request.as_ptr_range().contains(&payload.as_ptr());
        let staged = [1, 2].map(|id| staged.take(TaskId(id)).unwrap());
        assert_eq!(staged.each_ref().map(is_within), [false, true]);
        assert_eq!(staged[0], small);
    }

    fn here(staged: &Staged, last: u64) -> Vec<u64> {
        (1..=last).filter(|id| staged.spec(TaskId(*id)).is_some()).collect()
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
