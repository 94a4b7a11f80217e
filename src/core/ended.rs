//! Which tasks have ended, how, and where their last event stands in the log: a
//! compact index of what is kept, eight bytes a task.

use std::collections::BTreeMap;

use roaring::RoaringTreemap;

use super::id::{Seq, TaskId};
use super::task::Status;

/// Ids in one block of the index. Ids are dense, so blocks are full.
const BLOCK: u64 = 4_096;

/// The ended tasks that are kept.
#[derive(Debug, Default)]
pub struct Ended {
    blocks: BTreeMap<u64, Block>,
    failed: RoaringTreemap,
    cancelled: RoaringTreemap,
    count: u64,
    /// Of payloads and results: of failed tasks, and of all others.
    failed_bytes: u64,
    other_bytes: u64,
}

/// `BLOCK` consecutive ids. A cell is 0, or a place times four plus a status code.
#[derive(Debug)]
struct Block {
    cells: Box<[u64]>,
    used: u64,
}

impl Ended {
    /// Notes that a task, which had not, ended with the event at this place. It has so many
    /// bytes of payload and result.
    pub fn insert(&mut self, id: TaskId, status: Status, seq: Seq, bytes: u64) {
        self.remove(id, bytes);
        let block = self.blocks.entry(id.0 / BLOCK).or_insert_with(Block::new);
        let Some(cell) = block.cells.get_mut(offset(id)) else { return };
        *cell = seq.0 << 2 | code(status);
        block.used += 1;
        self.count += 1;
        match status {
            Status::Failed => _ = self.failed.insert(id.0),
            Status::Cancelled => _ = self.cancelled.insert(id.0),
            Status::Completed | Status::Pending | Status::Running => {}
        }
        *self.bytes_of(status) += bytes;
    }

    /// Forgets a task with so many bytes of payload and result; tells whether it was known.
    pub fn remove(&mut self, id: TaskId, bytes: u64) -> bool {
        let Some(block) = self.blocks.get_mut(&(id.0 / BLOCK)) else { return false };
        let Some(cell) = block.cells.get_mut(offset(id)) else { return false };
        let Some(status) = status(std::mem::take(cell) & 3) else { return false };
        block.used -= 1;
        if block.used == 0 {
            self.blocks.remove(&(id.0 / BLOCK));
        }
        self.failed.remove(id.0);
        self.cancelled.remove(id.0);
        self.count -= 1;
        let held = self.bytes_of(status);
        *held = held.saturating_sub(bytes);
        true
    }

    fn bytes_of(&mut self, status: Status) -> &mut u64 {
        match status {
            Status::Failed => &mut self.failed_bytes,
            _ => &mut self.other_bytes,
        }
    }

    /// How a task ended, and where its last event stands.
    #[must_use]
    pub fn find(&self, id: TaskId) -> Option<(Status, Seq)> {
        let cell = *self.blocks.get(&(id.0 / BLOCK))?.cells.get(offset(id))?;
        Some((status(cell & 3)?, Seq(cell >> 2)))
    }

    /// How many are kept.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// How many of them failed.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.failed.len()
    }

    /// Bytes of the payloads of the failed ones.
    #[must_use]
    pub fn failed_bytes(&self) -> u64 {
        self.failed_bytes
    }

    /// Bytes of the payloads and results of all others.
    #[must_use]
    pub fn other_bytes(&self) -> u64 {
        self.other_bytes
    }

    /// The last events of the failed tasks with the lowest ids, by their ids.
    #[must_use]
    pub fn first_failed(&self, limit: usize) -> Vec<Seq> {
        let ids = self.failed.iter().take(limit).map(TaskId);
        ids.filter_map(|id| Some(self.find(id)?.1)).collect()
    }

    /// The ids below `before` that ended in this way, greatest first.
    #[must_use]
    pub fn newest(&self, wanted: Status, before: TaskId, limit: usize) -> Vec<TaskId> {
        match wanted {
            Status::Failed => newest_of(&self.failed, before, limit),
            Status::Cancelled => newest_of(&self.cancelled, before, limit),
            Status::Completed => self.newest_completed(before, limit),
            Status::Pending | Status::Running => Vec::new(),
        }
    }

    fn newest_completed(&self, before: TaskId, limit: usize) -> Vec<TaskId> {
        let blocks = self.blocks.range(..=before.0 / BLOCK).rev();
        let ids = blocks.flat_map(|(number, block)| {
            let cells = block.cells.iter().enumerate().rev();
            let completed = cells.filter(|(_, cell)| **cell & 3 == code(Status::Completed));
            completed
                .filter_map(move |(at, _)| Some(TaskId(number * BLOCK + u64::try_from(at).ok()?)))
        });
        ids.filter(|id| *id < before).take(limit).collect()
    }
}

impl Block {
    fn new() -> Self {
        Self { cells: vec![0; offset(TaskId(BLOCK - 1)) + 1].into(), used: 0 }
    }
}

fn newest_of(ids: &RoaringTreemap, before: TaskId, limit: usize) -> Vec<TaskId> {
    let mut ids = ids.iter();
    ids.advance_back_to(before.0);
    ids.rev().filter(|id| *id < before.0).take(limit).map(TaskId).collect()
}

fn offset(id: TaskId) -> usize {
    usize::try_from(id.0 % BLOCK).unwrap_or_default()
}

fn code(status: Status) -> u64 {
    match status {
        Status::Pending | Status::Running => 0,
        Status::Completed => 1,
        Status::Failed => 2,
        Status::Cancelled => 3,
    }
}

fn status(code: u64) -> Option<Status> {
    match code {
        1 => Some(Status::Completed),
        2 => Some(Status::Failed),
        3 => Some(Status::Cancelled),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_is_found_with_its_status_and_place_until_it_is_forgotten() {
        let mut ended = Ended::default();
        ended.insert(TaskId(5), Status::Completed, Seq(1), 70);
        ended.insert(TaskId(BLOCK), Status::Failed, Seq(u64::MAX >> 2), 9);
        assert_eq!(ended.find(TaskId(5)), Some((Status::Completed, Seq(1))));
        assert_eq!(ended.find(TaskId(BLOCK)), Some((Status::Failed, Seq(u64::MAX >> 2))));
        assert_eq!(ended.find(TaskId(6)), None);
        assert_eq!((ended.other_bytes(), ended.failed_bytes()), (70, 9));
        assert!(ended.remove(TaskId(5), 70));
        assert!(!ended.remove(TaskId(5), 70));
        assert_eq!((ended.count(), ended.failed()), (1, 1));
        assert_eq!((ended.other_bytes(), ended.failed_bytes()), (0, 9));
        assert_eq!(ended.blocks.len(), 1);
    }

    #[test]
    fn ids_of_one_status_come_newest_first_below_a_bound() {
        let mut ended = Ended::default();
        for id in 1..=10_000 {
            let status = [Status::Completed, Status::Failed, Status::Cancelled];
            let status = status[usize::try_from(id % 3).unwrap()];
            ended.insert(TaskId(id), status, Seq(id), 0);
        }
        for (status, first) in
            [(Status::Completed, 8_997), (Status::Failed, 8_998), (Status::Cancelled, 8_999)]
        {
            let ids = ended.newest(status, TaskId(9_000), 3);
            assert_eq!(ids, [first, first - 3, first - 6].map(TaskId), "{status:?}");
        }
        assert_eq!(ended.first_failed(3), [1, 4, 7].map(Seq));
    }
}
