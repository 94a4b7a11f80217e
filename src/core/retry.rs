//! When a task whose handler failed is tried again.

use std::time::Duration;

/// The first ceiling: one second, doubled with every further failure.
const FIRST: Duration = Duration::from_secs(1);
/// The last ceiling.
const LAST: Duration = Duration::from_secs(300);

/// The delay after the `failures`-th charged error (from 1): anything up to a
/// ceiling that doubles from 1 s to 5 min, as `dice` (uniform over `u64`) falls.
///
/// "Full jitter", which spreads the retries of many tasks that failed together
/// best: Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
#[must_use]
pub fn delay(failures: u32, dice: u64) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    let ceiling = FIRST.saturating_mul(1 << doublings).min(LAST);
    let ceiling_ms = super::id::millis(ceiling);
    Duration::from_millis(dice % (ceiling_ms + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ceilings_double_from_one_second_to_five_minutes() {
        let longest = |failures| {
            let ceiling = delay_ceiling(failures);
            assert_eq!(delay(failures, ceiling), Duration::from_millis(ceiling));
            ceiling
        };
        assert_eq!([1, 2, 3, 4].map(longest), [1_000, 2_000, 4_000, 8_000]);
        assert_eq!([9, 10, 50, u32::MAX].map(longest), [256_000, 300_000, 300_000, 300_000]);
    }

    #[test]
    fn a_die_of_zero_retries_at_once() {
        assert_eq!(delay(7, 0), Duration::ZERO);
    }

    /// The largest die that the modulus leaves alone.
    fn delay_ceiling(failures: u32) -> u64 {
        (0..=300_000)
            .rev()
            .find(|&dice| delay(failures, dice).as_millis() == u128::from(dice))
            .unwrap_or(0)
    }
}
