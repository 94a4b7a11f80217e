//! How fast the grid works, moment by moment, as the clients see it.

use std::time::{Duration, Instant};

use super::super::load::Load;
use super::super::waits::within;

/// A rate is told over this time.
const WINDOW: Duration = Duration::from_secs(1);
/// A moment, where it is asked whether the rate fell or rose.
const HALF: Duration = Duration::from_millis(500);
/// Between two moments.
const STEP: Duration = Duration::from_millis(10);

/// The ends that clients heard of, and when.
pub(super) struct Pulse<'a> {
    load: &'a Load,
    samples: Vec<(Instant, u64)>,
}

impl<'a> Pulse<'a> {
    pub(super) fn of(load: &'a Load) -> Self {
        let mut pulse = Self { load, samples: Vec::new() };
        pulse.feel();
        pulse
    }

    pub(super) fn load(&self) -> &'a Load {
        self.load
    }

    /// Watches for so long.
    pub(super) fn watch(&mut self, time: Duration) {
        self.watch_for(time, |_| None::<()>);
    }

    /// Watches until the probe finds something, or for so long.
    pub(super) fn watch_for<Found>(
        &mut self,
        time: Duration,
        mut probe: impl FnMut(&Self) -> Option<Found>,
    ) -> Option<Found> {
        within(time, || {
            self.feel();
            probe(self)
        })
    }

    /// Ends a second over the last second.
    pub(super) fn rate(&self) -> u64 {
        let now = Instant::now();
        now.checked_sub(WINDOW).map_or(0, |from| self.ends(from, now))
    }

    /// Whether there was a moment since then at which the rate was below nine tenths.
    pub(super) fn fell(&self, since: Instant, before: u64) -> bool {
        let now = Instant::now();
        let mut moments = moments(since).take_while(|from| *from + HALF <= now);
        moments.any(|from| !self.is_fast(from, before))
    }

    /// Watches until the rate is nine tenths again, for a second, and in each half of it: what
    /// was held up and comes all at once does not count. Tells how long it took until then.
    pub(super) fn watch_for_return(&mut self, before: u64, patience: Duration) -> Option<Duration> {
        let since = Instant::now();
        let mut moments = moments(since);
        let mut from = since;
        self.watch_for(patience, |pulse| {
            while from + WINDOW <= Instant::now() {
                if pulse.is_fast(from, before) && pulse.is_fast(from + HALF, before) {
                    return Some(from - since);
                }
                from = moments.next()?;
            }
            None
        })
    }

    /// Forgets all but what the next rate is told from.
    pub(super) fn forget(&mut self) {
        self.samples.retain(|(at, _)| at.elapsed() <= WINDOW * 2);
    }

    fn feel(&mut self) {
        self.samples.push((Instant::now(), self.load.ended()));
    }

    fn is_fast(&self, from: Instant, before: u64) -> bool {
        self.ends(from, from + HALF) * 20 >= before * 9
    }

    fn ends(&self, from: Instant, to: Instant) -> u64 {
        self.ended_at(to) - self.ended_at(from)
    }

    fn ended_at(&self, moment: Instant) -> u64 {
        let before = self.samples.partition_point(|(at, _)| *at <= moment);
        self.samples.get(before.saturating_sub(1)).map_or(0, |(_, ended)| *ended)
    }
}

/// Moments from then on.
fn moments(since: Instant) -> impl Iterator<Item = Instant> {
    (1..).map(move |step| since + STEP * step)
}
