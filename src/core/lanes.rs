//! The order in which pending tasks start: a compressed set of ready ids for each
//! type and priority, and the due times of those that are scheduled.
//!
//! A ready task costs about two bits here, a scheduled one about twenty bytes.
//! Payloads, results and everything else about a task are elsewhere.

mod due;
mod sorted;

use std::collections::{BTreeMap, BTreeSet};

use roaring::RoaringTreemap;

use self::due::Due;
use self::sorted::Sorted;
use super::id::{TaskId, Timestamp};
use super::limits;
use super::task::Lane;
use super::task_type::TypeId;

/// Priorities from 0 to 9.
const PRIORITIES: usize = 10;
const _: () = assert!(PRIORITIES == 10 && limits::PRIORITY_LEAST == 9);

/// All pending tasks.
#[derive(Debug, Default)]
pub struct Lanes {
    ready: BTreeMap<TypeId, Ready>,
    due: Sorted<Due>,
    /// The same tasks, by type.
    scheduled: BTreeMap<TypeId, RoaringTreemap>,
}

/// The ready tasks of one type.
#[derive(Debug, Default)]
struct Ready {
    lanes: [RoaringTreemap; PRIORITIES],
    /// Those that must run alone: apart, so that they hold nobody up.
    alone: BTreeSet<TaskId>,
    count: u64,
}

impl Lanes {
    /// Adds a task that may start at `run_at`, and then must run `alone` or not.
    pub fn insert(
        &mut self,
        lane: Lane,
        id: TaskId,
        run_at: Timestamp,
        now: Timestamp,
        alone: bool,
    ) {
        if run_at > now {
            self.due.insert(Due::new(run_at, id, lane, alone));
            self.scheduled.entry(lane.type_id).or_default().insert(id.0);
        } else {
            self.insert_ready(lane, id, alone);
        }
    }

    /// Takes a task out, ready or scheduled for `run_at`; tells whether it was in.
    pub fn remove(&mut self, lane: Lane, id: TaskId, run_at: Timestamp) -> bool {
        let mut ways = [false, true].into_iter();
        let was_due = ways.any(|alone| self.due.remove(Due::new(run_at, id, lane, alone)));
        if was_due {
            self.unschedule(lane.type_id, id);
        }
        was_due || self.take(lane, id)
    }

    /// Takes a task out that is ready; tells whether it was.
    pub fn take(&mut self, lane: Lane, id: TaskId) -> bool {
        let Some(ready) = self.ready.get_mut(&lane.type_id) else { return false };
        let in_lane = ready.lanes.get_mut(usize::from(lane.priority));
        let was_in = in_lane.is_some_and(|ids| ids.remove(id.0)) || ready.alone.remove(&id);
        if was_in {
            ready.count -= 1;
        }
        was_in
    }

    /// Makes all that is due ready; tells how many that were.
    pub fn wake(&mut self, now: Timestamp) -> usize {
        let mut woken = 0;
        while let Some(due) = self.due.first().filter(|due| due.run_at() <= now) {
            self.due.remove(due);
            self.unschedule(due.lane().type_id, due.id());
            self.insert_ready(due.lane(), due.id(), due.alone());
            woken += 1;
        }
        woken
    }

    /// When the next scheduled task is due.
    #[must_use]
    pub fn next_due(&self) -> Option<Timestamp> {
        self.due.first().map(Due::run_at)
    }

    /// The types that have ready tasks, in their order.
    pub fn ready_types(&self) -> impl Iterator<Item = TypeId> + '_ {
        self.ready.iter().filter(|(_, ready)| ready.count > 0).map(|(id, _)| *id)
    }

    /// The next ready tasks of a type, in the order in which they shall start, but
    /// for those that must run alone.
    pub fn next(&self, type_id: TypeId) -> impl Iterator<Item = TaskId> + '_ {
        let lanes = self.ready.get(&type_id).map(|ready| &ready.lanes);
        lanes.into_iter().flatten().flat_map(|lane| lane.iter().map(TaskId))
    }

    /// The next ready task of a type that must run alone.
    #[must_use]
    pub fn next_alone(&self, type_id: TypeId) -> Option<TaskId> {
        self.ready.get(&type_id)?.alone.first().copied()
    }

    /// The ready task of a type that was accepted first, whatever its priority.
    #[must_use]
    pub fn oldest(&self, type_id: TypeId) -> Option<TaskId> {
        let ready = self.ready.get(&type_id)?;
        let in_lanes = ready.lanes.iter().filter_map(RoaringTreemap::min).map(TaskId);
        in_lanes.chain(ready.alone.first().copied()).min()
    }

    /// How many tasks of a type are ready.
    #[must_use]
    pub fn ready(&self, type_id: TypeId) -> u64 {
        self.ready.get(&type_id).map_or(0, |ready| ready.count)
    }

    /// How many tasks of a type are not yet due.
    #[must_use]
    pub fn scheduled(&self, type_id: TypeId) -> u64 {
        self.scheduled.get(&type_id).map_or(0, RoaringTreemap::len)
    }

    /// The pending ids below `before`, of one type or of all, greatest first.
    #[must_use]
    pub fn newest(&self, only: Option<TypeId>, before: TaskId, limit: usize) -> Vec<TaskId> {
        let all: Vec<&Ready> = of_type(&self.ready, only).collect();
        let alone = all.iter().flat_map(|ready| ready.alone.range(..before).rev().take(limit));
        let lanes = all.iter().flat_map(|ready| &ready.lanes);
        let sets = lanes.chain(of_type(&self.scheduled, only));
        let in_sets = sets.flat_map(|set| {
            let mut ids = set.iter();
            ids.advance_back_to(before.0);
            ids.rev().filter(move |id| *id < before.0).take(limit).map(TaskId)
        });
        let mut ids: Vec<TaskId> = in_sets.chain(alone.copied()).collect();
        ids.sort_unstable_by(|a, b| b.cmp(a));
        ids.truncate(limit);
        ids
    }

    fn insert_ready(&mut self, lane: Lane, id: TaskId, alone: bool) {
        let ready = self.ready.entry(lane.type_id).or_default();
        let is_new = if alone {
            ready.alone.insert(id)
        } else {
            ready.lanes.get_mut(usize::from(lane.priority)).is_some_and(|ids| ids.insert(id.0))
        };
        if is_new {
            ready.count += 1;
        }
    }

    fn unschedule(&mut self, type_id: TypeId, id: TaskId) {
        if let Some(ids) = self.scheduled.get_mut(&type_id) {
            ids.remove(id.0);
        }
    }
}

/// What there is of one type, or of all.
fn of_type<T>(by_type: &BTreeMap<TypeId, T>, only: Option<TypeId>) -> impl Iterator<Item = &T> {
    let wanted = by_type.iter().filter(move |(id, _)| only.is_none_or(|only| only == **id));
    wanted.map(|(_, of_type)| of_type)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_000);

    #[test]
    fn the_most_urgent_start_first_and_equals_in_order_of_acceptance() {
        let mut lanes = Lanes::default();
        for (id, priority) in [(1, 5), (2, 0), (3, 9), (4, 5), (5, 0)] {
            lanes.insert(lane(7, priority), TaskId(id), NOW, NOW, false);
        }
        assert_eq!(next(&lanes, 7), [2, 5, 1, 4, 3]);
        assert_eq!(lanes.oldest(TypeId(7)), Some(TaskId(1)));
        assert_eq!(lanes.oldest(TypeId(8)), None);
        assert_eq!(lanes.ready(TypeId(7)), 5);
        assert_eq!(next(&lanes, 8), [0; 0]);
    }

    #[test]
    fn a_scheduled_task_becomes_ready_when_it_is_due_and_not_before() {
        let mut lanes = Lanes::default();
        lanes.insert(lane(1, 5), TaskId(1), Timestamp(1_500), NOW, false);
        lanes.insert(lane(1, 5), TaskId(2), NOW, NOW, false);
        assert_eq!(lanes.next_due(), Some(Timestamp(1_500)));
        assert_eq!((lanes.ready(TypeId(1)), lanes.scheduled(TypeId(1))), (1, 1));
        assert_eq!(lanes.wake(Timestamp(1_499)), 0);
        assert_eq!(next(&lanes, 1), [2]);
        assert_eq!(lanes.wake(Timestamp(1_500)), 1);
        assert_eq!(next(&lanes, 1), [1, 2]);
        assert_eq!((lanes.next_due(), lanes.scheduled(TypeId(1))), (None, 0));
    }

    #[test]
    fn what_was_taken_out_is_gone_and_taking_it_out_again_says_so() {
        let mut lanes = Lanes::default();
        lanes.insert(lane(1, 5), TaskId(1), Timestamp(1_500), NOW, false);
        lanes.insert(lane(1, 5), TaskId(2), NOW, NOW, false);
        for (id, run_at) in [(1, Timestamp(1_500)), (2, NOW)] {
            assert!(lanes.remove(lane(1, 5), TaskId(id), run_at));
            assert!(!lanes.remove(lane(1, 5), TaskId(id), run_at));
        }
        assert_eq!(lanes.ready_types().count(), 0);
        assert_eq!(lanes.next_due(), None);
    }

    #[test]
    fn pages_of_pending_ids_run_from_the_newest_down() {
        let mut lanes = Lanes::default();
        for id in 1..=6 {
            let run_at = if id % 2 == 0 { Timestamp(9_000) } else { NOW };
            lanes.insert(lane(u32::from(id > 4), 5), TaskId(id), run_at, NOW, false);
        }
        let ids = |only, before, limit| {
            lanes.newest(only, TaskId(before), limit).iter().map(|id| id.0).collect::<Vec<_>>()
        };
        assert_eq!(ids(None, u64::MAX, 4), [6, 5, 4, 3]);
        assert_eq!(ids(None, 3, 4), [2, 1]);
        assert_eq!(ids(Some(TypeId(1)), u64::MAX, 4), [6, 5]);
    }

    fn lane(type_id: u32, priority: u8) -> Lane {
        Lane { type_id: TypeId(type_id), priority }
    }

    fn next(lanes: &Lanes, type_id: u32) -> Vec<u64> {
        lanes.next(TypeId(type_id)).map(|id| id.0).collect()
    }
}
