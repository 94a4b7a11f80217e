//! How long commits take: counted in buckets, so that what is told can be added up.

use std::time::Duration;

use crate::wire::v1;

/// The bounds of the buckets in microseconds: from the fastest sync there is to a disk that
/// stalls. What takes longer than the last is in a bucket of its own.
const UP_TO_US: [u64; 14] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 5_000_000,
];

/// Commits since the start.
#[derive(Debug, Default)]
pub(super) struct Commits {
    total: Duration,
    counts: [u64; UP_TO_US.len() + 1],
}

impl Commits {
    /// Counts one.
    pub(super) fn add(&mut self, took: Duration) {
        self.total += took;
        let bucket = UP_TO_US.partition_point(|&bound| u128::from(bound) < took.as_micros());
        self.counts[bucket] += 1;
    }

    /// All of them.
    pub(super) fn report(&self) -> v1::CommitStats {
        let bounds = UP_TO_US.into_iter().map(Some).chain([None]);
        let buckets = bounds.zip(self.counts);
        v1::CommitStats {
            count: self.counts.iter().sum(),
            total_us: u64::try_from(self.total.as_micros()).unwrap_or(u64::MAX),
            buckets: buckets
                .map(|(up_to_us, count)| v1::CommitBucket { up_to_us, count })
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_commit_is_counted_in_the_first_bucket_that_takes_it() {
        let mut commits = Commits::default();
        for us in [0, 100, 101, 5_000_000, 5_000_001] {
            commits.add(Duration::from_micros(us));
        }
        let told = commits.report();
        assert_eq!((told.count, told.total_us), (5, 10_000_202));
        let filled = told.buckets.iter().filter(|bucket| bucket.count > 0);
        assert_eq!(
            filled.map(|bucket| (bucket.up_to_us, bucket.count)).collect::<Vec<_>>(),
            [(Some(100), 2), (Some(250), 1), (Some(5_000_000), 1), (None, 1)]
        );
    }
}
