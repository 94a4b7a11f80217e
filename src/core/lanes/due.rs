//! A scheduled task, in sixteen bytes: ten million of them are to fit into the memory
//! that ten million of anything may have.

use crate::core::id::{TaskId, Timestamp};
use crate::core::limits;
use crate::core::task::Lane;
use crate::core::task_type::TypeId;

/// Bits of the moment in milliseconds: to the year 10889. A later one is that one.
const RUN_AT: u32 = 48;
/// Bits of the id: two thousand years of a million tasks a second.
const ID: u32 = 56;
/// Bits of the type.
const TYPE: u32 = 19;
/// Bits of the priority.
const PRIORITY: u32 = 4;
const _: () = assert!(RUN_AT + ID + TYPE + PRIORITY + 1 == u128::BITS);
const _: () = assert!(limits::TYPES < 1 << TYPE && limits::PRIORITY_LEAST < 1 << PRIORITY);

/// When a task is due, which one it is, and where it waits then; in this order, from the
/// highest bits to the lowest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Due(u128);

impl Due {
    /// This task, which must then run `alone` or not.
    pub(super) fn new(run_at: Timestamp, id: TaskId, lane: Lane, alone: bool) -> Self {
        let mut bits = u128::from(run_at.0.min(mask(RUN_AT)));
        for (part, width) in [
            (id.0, ID),
            (u64::from(lane.type_id.0), TYPE),
            (u64::from(lane.priority), PRIORITY),
            (u64::from(alone), 1),
        ] {
            bits = bits << width | u128::from(part & mask(width));
        }
        Self(bits)
    }

    /// When.
    pub(super) fn run_at(self) -> Timestamp {
        Timestamp(self.part(ID + TYPE + PRIORITY + 1, RUN_AT))
    }

    /// Which.
    pub(super) fn id(self) -> TaskId {
        TaskId(self.part(TYPE + PRIORITY + 1, ID))
    }

    /// Where.
    pub(super) fn lane(self) -> Lane {
        let type_id = TypeId(u32::try_from(self.part(PRIORITY + 1, TYPE)).unwrap_or_default());
        Lane { type_id, priority: u8::try_from(self.part(1, PRIORITY)).unwrap_or_default() }
    }

    /// Whether alone.
    pub(super) fn alone(self) -> bool {
        self.part(0, 1) == 1
    }

    fn part(self, above: u32, width: u32) -> u64 {
        u64::try_from(self.0 >> above & u128::from(mask(width))).unwrap_or_default()
    }
}

const fn mask(width: u32) -> u64 {
    (1 << width) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_in_comes_out() {
        for (run_at, id, type_id, priority, alone) in [
            (0, 0, 0, 0, false),
            (1_795_000_000_123, 10_000_000, 7, 5, true),
            (mask(RUN_AT), mask(ID), 9_999, 9, false),
        ] {
            let lane = Lane { type_id: TypeId(type_id), priority };
            let due = Due::new(Timestamp(run_at), TaskId(id), lane, alone);
            assert_eq!((due.run_at().0, due.id().0), (run_at, id));
            assert_eq!((due.lane(), due.alone()), (lane, alone));
        }
    }

    #[test]
    fn the_earlier_one_comes_first_and_of_two_at_once_the_older_one() {
        let due = |run_at, id, type_id| {
            let lane = Lane { type_id: TypeId(type_id), priority: 9 };
            Due::new(Timestamp(run_at), TaskId(id), lane, true)
        };
        assert!(due(1, 9, 9) < due(2, 1, 1));
        assert!(due(1, 1, 9) < due(1, 2, 1));
        assert!(due(u64::MAX, 1, 1) > due(1 << 47, 2, 1));
    }
}
