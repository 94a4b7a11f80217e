//! The one place that asks the system for the time.
//!
//! A clock is anchored to the wall once and then runs monotonically: a jump of
//! the wall clock moves no deadline.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::core::id::Timestamp;

/// Wall time at its start plus monotonic time since. Cheap to copy.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    anchor: Timestamp,
    started: Instant,
}

impl Clock {
    /// A clock anchored to the wall clock of this moment.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the clock that everyone else asks")]
    pub fn start() -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { anchor: Timestamp::default().plus(wall), started: Instant::now() }
    }

    /// This moment.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.anchor.plus(self.started.elapsed())
    }

    /// The monotonic moment at which this clock will show `at`; the past is now.
    #[must_use]
    pub fn instant(&self, at: Timestamp) -> Instant {
        Instant::now() + at.since(self.now())
    }
}
