//! How many tasks complete in a second: the growth of the dispatcher's counters over
//! the last minute.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::core::id::Timestamp;
use crate::wire::v1::StatsResponse;

/// The time that is looked back.
const WINDOW: Duration = Duration::from_secs(60);
/// A rate over less would be noise.
const SHORTEST: Duration = Duration::from_secs(1);
/// Samples are kept this far apart, however often somebody asks.
const SPACING: Duration = Duration::from_millis(500);

/// Samples of the counters of one boot of the dispatcher, oldest first.
#[derive(Debug, Default)]
pub(super) struct Rates {
    boot: u64,
    samples: VecDeque<Sample>,
}

#[derive(Debug)]
struct Sample {
    at: Timestamp,
    total: u64,
    types: BTreeMap<String, u64>,
}

/// Tasks per second at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct PerSecond {
    /// Over all types; `None` while nothing can be said.
    pub(super) total: Option<f64>,
    /// By type; those that are new are missing.
    pub(super) types: BTreeMap<String, f64>,
}

impl Rates {
    /// Takes in what the dispatcher told at `now`. Counters of another boot begin anew.
    pub(super) fn add(&mut self, stats: &StatsResponse, now: Timestamp) -> PerSecond {
        let boot = stats.epoch.map_or(0, |epoch| epoch.boot);
        if boot != self.boot {
            self.samples.clear();
            self.boot = boot;
        }
        let sample = Sample::of(stats, now);
        while self.samples.front().is_some_and(|oldest| now.since(oldest.at) > WINDOW) {
            self.samples.pop_front();
        }
        let rates = self.samples.front().map(|oldest| sample.since(oldest)).unwrap_or_default();
        if self.samples.back().is_none_or(|last| now.since(last.at) >= SPACING) {
            self.samples.push_back(sample);
        }
        rates
    }
}

impl Sample {
    fn of(stats: &StatsResponse, at: Timestamp) -> Self {
        let types = stats.types.iter().filter_map(|of_type| {
            Some((of_type.r#type.as_ref()?.name.clone(), of_type.counts?.completed))
        });
        Self { at, total: stats.totals.unwrap_or_default().completed, types: types.collect() }
    }

    fn since(&self, oldest: &Self) -> PerSecond {
        let span = self.at.since(oldest.at);
        if span < SHORTEST {
            return PerSecond::default();
        }
        let rate = |now: u64, before: u64| per_second(now.saturating_sub(before), span);
        let types = self
            .types
            .iter()
            .filter_map(|(name, now)| Some((name.clone(), rate(*now, *oldest.types.get(name)?))));
        PerSecond { total: Some(rate(self.total, oldest.total)), types: types.collect() }
    }
}

fn per_second(count: u64, span: Duration) -> f64 {
    #[expect(clippy::as_conversions, clippy::cast_precision_loss, reason = "a rate for people")]
    let count = count as f64;
    count / span.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::v1::{Counts, Epoch, TaskType, TypeStats};

    #[test]
    fn a_rate_is_the_growth_over_the_last_minute() {
        let mut rates = Rates::default();
        assert_eq!(rates.add(&stats(1, 100), Timestamp(0)), PerSecond::default());
        assert_eq!(rates.add(&stats(1, 150), Timestamp(900)).total, None, "too soon to tell");
        assert_eq!(rates.add(&stats(1, 300), Timestamp(2_000)).total, Some(100.0));
        let types = BTreeMap::from([("sum".to_owned(), 100.0)]);
        assert_eq!(rates.add(&stats(1, 300), Timestamp(2_000)).types, types);
        // The samples of the first two seconds are too old for this one.
        let late = rates.add(&stats(1, 360), Timestamp(62_000));
        assert_eq!(late.total, Some(1.0));
    }

    #[test]
    fn counters_of_another_boot_begin_anew() {
        let mut rates = Rates::default();
        rates.add(&stats(1, 1_000), Timestamp(0));
        assert_eq!(rates.add(&stats(2, 10), Timestamp(5_000)).total, None);
        assert_eq!(rates.add(&stats(2, 30), Timestamp(7_000)).total, Some(10.0));
    }

    #[test]
    fn however_often_it_is_asked_it_keeps_two_samples_a_second() {
        let mut rates = Rates::default();
        for millis in 0..600_u64 {
            rates.add(&stats(1, millis), Timestamp(millis * 100));
        }
        assert!(rates.samples.len() <= 121, "{}", rates.samples.len());
    }

    fn stats(boot: u64, completed: u64) -> StatsResponse {
        let counts = Counts { completed, ..Counts::default() };
        let sum = TypeStats {
            r#type: Some(TaskType { name: "sum".to_owned(), ..TaskType::default() }),
            counts: Some(counts),
            ..TypeStats::default()
        };
        StatsResponse {
            totals: Some(counts),
            types: vec![sum],
            epoch: Some(Epoch { boot, nonce: 0 }),
            ..StatsResponse::default()
        }
    }
}
