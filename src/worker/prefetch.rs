//! How far ahead tasks of a type may be sent: enough to bridge a turn of the
//! session, measured by how long its handlers ran. Pure.

use std::time::Duration;

use crate::core::limits;

/// How much a new measurement counts: an eighth, as TCP averages round trips
/// (RFC 6298), so that one odd task changes little and ten change much.
const WEIGHT: u64 = 8;

/// The mean run time of a type's handlers.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct RunTime {
    /// `None` before the first measurement.
    mean_ns: Option<u64>,
}

impl RunTime {
    /// Counts one run in.
    pub(super) fn add(&mut self, ran: Duration) {
        let ran = u64::try_from(ran.as_nanos()).unwrap_or(u64::MAX).max(1);
        self.mean_ns = Some(match self.mean_ns {
            None => ran,
            Some(mean) => mean - mean / WEIGHT + ran / WEIGHT,
        });
    }

    /// Whether they take less than this in the mean; not before the first measurement.
    pub(super) fn is_below(self, limit: Duration) -> bool {
        self.mean_ns.is_some_and(|mean| u128::from(mean) < limit.as_nanos())
    }

    /// How many tasks beyond its slots a worker takes; none before the first
    /// measurement, and none of those that take longer than the time to bridge.
    pub(super) fn prefetch(self, slots: u32) -> u32 {
        let Some(mean) = self.mean_ns else { return 0 };
        let bridged = u64::try_from(limits::PREFETCH_TIME.as_nanos()).unwrap_or(u64::MAX);
        let tasks = (bridged / mean.max(1)).saturating_mul(u64::from(slots));
        u32::try_from(tasks).map_or(limits::PREFETCH, |tasks| tasks.min(limits::PREFETCH))
    }
}

/// The first prefetch that is announced, whatever was measured.
const FIRST: u32 = 16;

/// What to announce on the way to a wanted prefetch: at most twice what was announced
/// before. The first measurements may be of odd tasks, and a worker that has measured
/// a moment earlier than its equals must not get everything that waits.
pub(super) fn step(announced: u32, wanted: u32) -> u32 {
    wanted.min(announced.saturating_mul(2).max(FIRST))
}

/// Whether a new prefetch is far enough from the announced one to be worth a
/// word: doubled, halved, or to or from none.
pub(super) fn worth_saying(announced: u32, now: u32) -> bool {
    if announced == 0 || now == 0 {
        return announced != now;
    }
    let most = now >= limits::PREFETCH && announced < limits::PREFETCH;
    most || now >= announced.saturating_mul(2) || now <= announced / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(runs: &[Duration]) -> RunTime {
        let mut time = RunTime::default();
        for run in runs {
            time.add(*run);
        }
        time
    }

    #[test]
    fn nothing_is_prefetched_before_the_first_measurement() {
        assert_eq!(RunTime::default().prefetch(8), 0);
    }

    #[test]
    fn five_milliseconds_of_work_are_prefetched_for_each_slot_up_to_the_limit() {
        assert_eq!(after(&[Duration::from_millis(1)]).prefetch(2), 10);
        assert_eq!(after(&[Duration::from_millis(3)]).prefetch(4), 4);
        assert_eq!(after(&[Duration::from_millis(6)]).prefetch(64), 0);
        assert_eq!(after(&[Duration::ZERO]).prefetch(1), limits::PREFETCH);
        assert_eq!(after(&[Duration::MAX]).prefetch(limits::SLOTS), 0);
    }

    #[test]
    fn one_odd_run_changes_the_mean_by_an_eighth() {
        let mut time = after(&[Duration::from_micros(80)]);
        time.add(Duration::from_micros(160));
        assert_eq!(time.mean_ns, Some(90_000));
    }

    #[test]
    fn a_large_prefetch_is_reached_by_doubling() {
        let mut announced = 0;
        let mut steps = Vec::new();
        while announced < 100 {
            announced = step(announced, 100);
            steps.push(announced);
        }
        assert_eq!(steps, [16, 32, 64, 100]);
        assert_eq!(step(100, 3), 3);
    }

    #[test]
    fn only_a_change_worth_a_word_is_said() {
        for (announced, now) in [(0, 1), (1, 0), (100, 200), (200, 100), (600, limits::PREFETCH)] {
            assert!(worth_saying(announced, now), "{announced} {now}");
        }
        for (announced, now) in [(0, 0), (100, 199), (100, 51), (1024, 1024), (1024, 700)] {
            assert!(!worth_saying(announced, now), "{announced} {now}");
        }
    }
}
