//! The threads that run blocking handlers: how many there are, and when one more is worth
//! waking. Pure.
//!
//! A thread that is woken costs more than many a task: on a worker of 64 slots whose tasks
//! take a microsecond, 64 threads would be woken to run what two get through. So while tasks
//! of a type are known to be short, no more threads are called than there are processors.
//! Now and then it is looked whether that holds: a thread that has taken nothing since the
//! last look runs something long, and another takes its place.

use std::time::{Duration, Instant};

/// Handlers that take less than this in the mean are over before another thread is awake.
/// Shorter than an answer over a network, so that handlers which wait are not counted in.
/// Longer in tests, which are not optimised.
pub(super) const SHORT: Duration = Duration::from_micros(if cfg!(test) { 20_000 } else { 20 });
/// The time between two looks, while tasks wait.
const LOOK: Duration = Duration::from_millis(1);

/// See the module.
#[derive(Debug)]
pub(super) struct Runners {
    /// Those that serve slots; never more than there are slots.
    pub(super) alive: u32,
    /// Of them, those that wait for a task.
    pub(super) idle: u32,
    /// Of those, the ones that were called and have not woken yet.
    pub(super) called: u32,
    /// Those that run a handler that did not stop when told to.
    pub(super) detached: usize,
    /// Processors there are for them.
    processors: u32,
    /// When it is looked next, if tasks wait although threads could be called.
    look_at: Option<Instant>,
    /// Counts the looks.
    round: u64,
    /// How many have taken a task since the last look.
    takers: u32,
}

impl Runners {
    /// None yet, on so many processors.
    pub(super) fn new(processors: u32) -> Self {
        Self {
            alive: 0,
            idle: 0,
            called: 0,
            detached: 0,
            processors: processors.max(1),
            look_at: None,
            round: 1,
            takers: 0,
        }
    }

    /// Whether one more is worth calling for a task that is `short` or not. If not, a look
    /// is due later: tells whether that is news.
    pub(super) fn want_another(&mut self, is_short: bool, now: Instant) -> Want {
        let awake = self.alive - self.idle + self.called;
        if !is_short || awake < self.processors {
            return Want::Now;
        }
        let is_new = self.look_at.is_none();
        self.look_at.get_or_insert(now + LOOK);
        Want::Later { is_new }
    }

    /// One takes a task, whose `seen` is the round in which it last did.
    pub(super) fn take(&mut self, seen: &mut u64) {
        if *seen != self.round {
            *seen = self.round;
            self.takers += 1;
        }
    }

    /// When it is to be looked.
    pub(super) fn look_at(&self) -> Option<Instant> {
        self.look_at
    }

    /// Looks, if it is time: how many are to be called for tasks that wait.
    pub(super) fn look(&mut self, now: Instant) -> u32 {
        if self.look_at.is_none_or(|at| now < at) {
            return 0;
        }
        self.look_at = None;
        self.round += 1;
        self.processors.saturating_sub(std::mem::take(&mut self.takers))
    }
}

/// Whether one more is to be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Want {
    Now,
    Later {
        /// Nobody was to look before.
        is_new: bool,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_tasks_wake_as_many_threads_as_there_are_processors_and_others_one_each() {
        let (mut runners, now) = (Runners::new(2), Instant::now());
        assert_eq!(runners.want_another(true, now), Want::Now);
        (runners.alive, runners.idle, runners.called) = (8, 7, 1);
        assert_eq!(runners.want_another(true, now), Want::Later { is_new: true });
        assert_eq!(runners.want_another(true, now), Want::Later { is_new: false });
        assert_eq!(runners.want_another(false, now), Want::Now);
    }

    #[test]
    fn who_has_taken_nothing_since_the_last_look_is_replaced() {
        let (mut runners, now) = (Runners::new(2), Instant::now());
        runners.alive = 2;
        let (mut first, mut second) = (0, 0);
        let mut look = |takers: &mut [&mut u64]| {
            runners.want_another(true, now);
            for seen in takers {
                runners.take(seen);
                runners.take(seen);
            }
            assert_eq!(runners.look(now), 0, "it is early");
            let called = runners.look(now + LOOK);
            assert_eq!(runners.look_at(), None);
            called
        };
        assert_eq!(look(&mut [&mut first, &mut second]), 0);
        assert_eq!(look(&mut [&mut second]), 1);
        assert_eq!(look(&mut []), 2);
    }
}
