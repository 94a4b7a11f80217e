//! The moments at which batches are due, told when they come.

use std::num::NonZeroU64;
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::super::super::exit::Failure;

/// Moments that wait to be taken. Those that cannot be are late, and count as such.
const WAITING: usize = 1_000;

/// Tells each moment, counted from `began`, at which so many tasks are to be sent if
/// there are to be `rate` a second. A thread of its own waits for them: the timers of
/// the runtime go by milliseconds. It ends when the receiver is dropped.
pub(super) fn start(
    began: Instant,
    batch: u64,
    rate: NonZeroU64,
) -> Result<mpsc::Receiver<Duration>, Failure> {
    let (sender, moments) = mpsc::channel(WAITING);
    let wait = move || {
        for number in 0_u64.. {
            let due = moment(number, batch, rate);
            loop {
                let left = due.saturating_sub(began.elapsed());
                if left.is_zero() {
                    break;
                }
                thread::park_timeout(left);
            }
            if sender.blocking_send(due).is_err() {
                return;
            }
        }
    };
    thread::Builder::new().name("pace".to_owned()).spawn(wait)?;
    Ok(moments)
}

fn moment(number: u64, batch: u64, rate: NonZeroU64) -> Duration {
    let tasks = u128::from(number) * u128::from(batch);
    let nanos = tasks * 1_000_000_000 / u128::from(rate.get());
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_do_not_drift() {
        let rate = NonZeroU64::new(3).unwrap();
        assert_eq!(moment(0, 1, rate), Duration::ZERO);
        assert_eq!(moment(3_000, 1, rate), Duration::from_secs(1_000));
        assert_eq!(moment(300, 10, rate), Duration::from_secs(1_000));
    }
}
