//! Whether to try a peer again that failed: the state of one link.
//!
//! ```text
//!            5 failures in a row            its pause is over
//!  closed ─────────────────────▶ open ─────────────────────▶ half open
//!     ▲                           ▲   failure: a longer pause   │ │
//!     │                           └─────────────────────────────┘ │
//!     └───────────────────────────────────────────────────────────┘ success
//! ```
//!
//! Closed lets everything through, open nothing, half open one trial at a time.
//! After Michael Nygard, "Release It!", chapter "Stability Patterns".
//!
//! What this module does not do: it adds no jitter, since one link has one user; it
//! tells no kind of failure from another, so its caller reports only those that
//! speak about the peer.

use std::time::Duration;

use super::id::Timestamp;

/// Failures in a row that open it. Fewer would punish a hiccup; a success in
/// between starts the count again.
pub const FAILURES: u32 = 5;
/// The first pause: a restart takes about as long.
pub const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Pauses double up to this unless told otherwise: a peer that is back is found out within
/// half a minute.
pub const LAST_PAUSE: Duration = Duration::from_secs(30);
/// A trial that has not reported back after this counts as forgotten, and another
/// may begin.
pub const TRIAL: Duration = Duration::from_secs(10);

/// What a breaker lets through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Everything.
    Closed,
    /// Nothing.
    Open {
        /// Until then.
        until: Timestamp,
    },
    /// One trial at a time.
    HalfOpen,
}

/// The breaker of one link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Breaker {
    /// No pause is longer.
    longest: Duration,
    /// Failures in a row.
    failures: u32,
    /// It has opened: until then nothing goes through, and after it trials.
    opened_until: Option<Timestamp>,
    /// Until then a trial is under way.
    trial_until: Option<Timestamp>,
}

impl Breaker {
    /// A closed one.
    #[must_use]
    pub fn new() -> Self {
        Self::with_pauses_up_to(LAST_PAUSE)
    }

    /// A closed one, for a peer that is to be found out sooner once it is back.
    #[must_use]
    pub fn with_pauses_up_to(longest: Duration) -> Self {
        Self { longest, failures: 0, opened_until: None, trial_until: None }
    }

    /// What it lets through at `now`.
    #[must_use]
    pub fn state(&self, now: Timestamp) -> State {
        match self.opened_until {
            None => State::Closed,
            Some(until) if now < until => State::Open { until },
            Some(_) => State::HalfOpen,
        }
    }

    /// Whether to try at `now`. When it says yes, report how that went: with
    /// [`Self::succeeded`] or [`Self::failed`].
    pub fn admits(&mut self, now: Timestamp) -> bool {
        match self.state(now) {
            State::Closed => true,
            State::Open { .. } => false,
            State::HalfOpen => {
                let free = self.trial_until.is_none_or(|until| until <= now);
                if free {
                    self.trial_until = Some(now.plus(TRIAL));
                }
                free
            }
        }
    }

    /// The peer answered: everything goes through.
    pub fn succeeded(&mut self) {
        *self = Self::with_pauses_up_to(self.longest);
    }

    /// The peer failed. Late reports of attempts from before it opened change
    /// nothing: they tell nothing new.
    pub fn failed(&mut self, now: Timestamp) {
        match self.state(now) {
            State::Open { .. } => {}
            State::Closed if self.failures + 1 < FAILURES => self.failures += 1,
            State::Closed | State::HalfOpen => {
                self.failures = self.failures.saturating_add(1);
                let doublings = self.failures.saturating_sub(FAILURES).min(16);
                let pause = FIRST_PAUSE.saturating_mul(1 << doublings).min(self.longest);
                self.opened_until = Some(now.plus(pause));
                self.trial_until = None;
            }
        }
    }

    /// When it may be worth asking again; `None` when it is worth asking at once.
    #[must_use]
    pub fn next_chance(&self, now: Timestamp) -> Option<Timestamp> {
        match self.state(now) {
            State::Closed => None,
            State::Open { until } => Some(until),
            State::HalfOpen => self.trial_until.filter(|until| *until > now),
        }
    }
}

impl Default for Breaker {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn five_failures_in_a_row_open_it_and_a_success_between_them_does_not() {
        let mut breaker = Breaker::new();
        for _ in 0..4 {
            breaker.failed(at(0));
        }
        breaker.succeeded();
        for _ in 0..4 {
            breaker.failed(at(0));
            assert_eq!(breaker.state(at(0)), State::Closed);
            assert!(breaker.admits(at(0)));
        }
        breaker.failed(at(0));
        assert_eq!(breaker.state(at(999)), State::Open { until: at(1_000) });
        assert!(!breaker.admits(at(999)));
        assert_eq!(breaker.next_chance(at(999)), Some(at(1_000)));
    }

    #[test]
    fn half_open_lets_one_trial_through_whose_success_closes_it() {
        let mut breaker = opened(Breaker::new());
        assert_eq!(breaker.state(at(1_000)), State::HalfOpen);
        assert_eq!(breaker.next_chance(at(1_000)), None);
        assert!(breaker.admits(at(1_000)));
        assert!(!breaker.admits(at(1_001)), "a second trial beside the first");
        assert_eq!(breaker.next_chance(at(1_001)), Some(at(11_000)));
        breaker.succeeded();
        assert_eq!(breaker, Breaker::new());
    }

    #[test]
    fn failed_trials_double_the_pause_up_to_half_a_minute() {
        assert_eq!(pauses(opened(Breaker::new())), [2_000, 4_000, 8_000, 16_000, 30_000, 30_000]);
    }

    #[test]
    fn no_pause_is_longer_than_the_longest_it_was_given() {
        let mut breaker = Breaker::with_pauses_up_to(Duration::from_millis(2_500));
        assert_eq!(pauses(opened(breaker.clone())), [2_000, 2_500, 2_500, 2_500, 2_500, 2_500]);
        breaker.succeeded();
        assert_eq!(pauses(opened(breaker)), [2_000, 2_500, 2_500, 2_500, 2_500, 2_500]);
        let short = Breaker::with_pauses_up_to(Duration::from_millis(250));
        assert_eq!(pauses(opened(short)), [250; 6]);
    }

    #[test]
    fn a_late_failure_from_before_it_opened_changes_nothing() {
        let mut breaker = opened(Breaker::new());
        let before = breaker.clone();
        breaker.failed(at(500));
        assert_eq!(breaker, before);
    }

    #[test]
    fn a_trial_that_never_reports_makes_room_for_another() {
        let mut breaker = opened(Breaker::new());
        assert!(breaker.admits(at(1_000)));
        assert!(!breaker.admits(at(10_999)));
        assert!(breaker.admits(at(11_000)));
    }

    proptest! {
        /// Nobody is shut out for ever: within a pause and a trial there is a chance.
        #[test]
        fn there_is_always_a_next_chance(
            steps in prop::collection::vec((0..20_000_u64, 0..3_u8), 0..100),
        ) {
            let mut breaker = Breaker::new();
            let mut now = 0;
            for (pause, step) in steps {
                now += pause;
                match step {
                    0 => { breaker.admits(at(now)); }
                    1 => breaker.failed(at(now)),
                    _ => breaker.succeeded(),
                }
                let chance = breaker.next_chance(at(now)).unwrap_or(at(now));
                prop_assert!(chance.since(at(now)) <= LAST_PAUSE.max(TRIAL));
                prop_assert!(breaker.clone().admits(chance));
            }
        }
    }

    fn at(ms: u64) -> Timestamp {
        Timestamp(ms)
    }

    /// It, opened at 0, for a second unless it pauses less.
    fn opened(mut breaker: Breaker) -> Breaker {
        for _ in 0..FAILURES {
            breaker.failed(at(0));
        }
        breaker
    }

    /// Milliseconds of the pauses after trials that fail.
    fn pauses(mut breaker: Breaker) -> Vec<u64> {
        let mut now = breaker.next_chance(at(0)).unwrap();
        let pauses = (0..6).map(|_| {
            assert!(breaker.admits(now));
            breaker.failed(now);
            let until = breaker.next_chance(now).unwrap();
            let pause = until.since(now);
            now = until;
            u64::try_from(pause.as_millis()).unwrap()
        });
        pauses.collect()
    }
}
