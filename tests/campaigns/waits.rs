//! Waiting for conditions, without taking the processor from those who are to meet them.

use std::thread;
use std::time::{Duration, Instant};

/// Between two looks.
const STEP: Duration = Duration::from_millis(1);

/// What the probe finds, if it finds it in time.
pub(crate) fn within<Found>(
    patience: Duration,
    mut probe: impl FnMut() -> Option<Found>,
) -> Option<Found> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(found) = probe() {
            return Some(found);
        }
        if Instant::now() >= deadline {
            return None;
        }
        thread::park_timeout(STEP);
    }
}
