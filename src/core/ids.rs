//! Which ids have been handed out. An id is never handed out twice, not even one
//! that died unstored in a crash: ids come from blocks whose reservation is synced
//! before the first id of the block is seen by anybody.

use super::id::TaskId;

/// Ids reserved at once. A crash leaves at most two blocks of them unused.
pub const BLOCK: u64 = 65_536;

/// The ids of one store.
#[derive(Debug, PartialEq, Eq)]
pub struct Ids {
    next: TaskId,
    /// Reservations below this are decided.
    reserved: TaskId,
    /// Reservations below this are synced.
    synced: TaskId,
    /// Ranges that a crash left unused: from, to (exclusive); rising.
    skipped: Vec<(TaskId, TaskId)>,
}

impl Default for Ids {
    fn default() -> Self {
        let first = TaskId(1);
        Self { next: first, reserved: first, synced: first, skipped: Vec::new() }
    }
}

impl Ids {
    /// The ids that the next `count` tasks get begin here.
    #[must_use]
    pub fn next(&self) -> TaskId {
        self.next
    }

    /// Notes that a task has this id.
    pub fn take(&mut self, id: TaskId) {
        self.next = self.next.max(id.plus(1));
    }

    /// The end of a block to reserve, if ids are about to run out for `count` more.
    #[must_use]
    pub fn wanted(&self, count: u64) -> Option<TaskId> {
        let needed = self.next.plus(count).plus(BLOCK / 2);
        (needed > self.reserved).then(|| needed.plus(BLOCK / 2))
    }

    /// Notes a reservation, decided or read from the log.
    pub fn reserve(&mut self, end: TaskId) {
        self.reserved = self.reserved.max(end);
    }

    /// Notes that a reservation is synced.
    pub fn sync(&mut self, end: TaskId) {
        self.synced = self.synced.max(end);
    }

    /// Whether this id may be shown before its task is stored.
    #[must_use]
    pub fn is_synced(&self, id: TaskId) -> bool {
        id < self.synced
    }

    /// Notes a range that was never used.
    pub fn skip(&mut self, from: TaskId, to: TaskId) {
        self.skipped.push((from, to));
        self.next = self.next.max(to);
        self.reserve(to);
    }

    /// Whether a task ever had this id.
    #[must_use]
    pub fn was_given(&self, id: TaskId) -> bool {
        let is_in = |(from, to): &(TaskId, TaskId)| (*from..*to).contains(&id);
        id > TaskId(0) && id < self.next && !self.skipped.iter().any(is_in)
    }

    /// After a replay: continues where a clean stop left off, or skips what the
    /// last boot had reserved and may have shown. Gives the range to note as skipped.
    pub fn resume(&mut self, stopped_at: Option<TaskId>) -> Option<(TaskId, TaskId)> {
        self.sync(self.reserved);
        if let Some(next) = stopped_at {
            self.take(TaskId(next.0.saturating_sub(1)));
            return None;
        }
        let (from, to) = (self.next, self.reserved);
        (from < to).then(|| {
            self.skip(from, to);
            (from, to)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_reserved_ahead_and_only_when_ids_run_low() {
        let mut ids = Ids::default();
        let end = ids.wanted(10).unwrap();
        assert!(end >= TaskId(1 + BLOCK));
        ids.reserve(end);
        assert_eq!(ids.wanted(10), None);
        assert!(!ids.is_synced(TaskId(1)));
        ids.sync(end);
        assert!(ids.is_synced(TaskId(1)) && !ids.is_synced(end));
        ids.take(TaskId(end.0 - 1));
        assert!(ids.wanted(1).is_some_and(|next| next > end));
    }

    #[test]
    fn a_crash_skips_what_was_reserved_and_what_it_skipped_was_never_given() {
        let mut ids = Ids::default();
        ids.reserve(TaskId(100));
        ids.take(TaskId(7));
        assert_eq!(ids.resume(None), Some((TaskId(8), TaskId(100))));
        assert_eq!(ids.next(), TaskId(100));
        assert!(ids.was_given(TaskId(7)));
        for never in [0, 8, 99, 100, 5_000] {
            assert!(!ids.was_given(TaskId(never)), "{never}");
        }
    }

    #[test]
    fn a_clean_stop_leaves_no_gap() {
        let mut ids = Ids::default();
        ids.reserve(TaskId(100));
        ids.take(TaskId(7));
        assert_eq!(ids.resume(Some(TaskId(8))), None);
        assert_eq!(ids.next(), TaskId(8));
        assert!(ids.is_synced(TaskId(99)));
    }
}
