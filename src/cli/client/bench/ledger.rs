//! What was sent and what came of it: each task once, or it is counted otherwise.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::client::Event;
use crate::core::id::TaskId;
use crate::core::task::Status;

/// Microseconds are told to three digits, up to an hour; what is longer counts as one.
const LONGEST_US: u64 = 3_600_000_000;
const DIGITS: u8 = 3;

/// Tasks by their numbers, which are counted from 0 in the order of sending.
#[derive(Debug)]
pub(super) struct Ledger {
    /// Tasks of one batch.
    batch: u64,
    /// The moment at which each batch was to be sent.
    starts: Vec<Duration>,
    /// The tasks behind rows of ids: the first id, how many, the first number.
    rows: BTreeMap<u64, (u64, u64)>,
    /// Which numbers have ended, and how many.
    seen: Vec<bool>,
    booked: u64,
    /// Ends that came before their receipts.
    early: BTreeMap<u64, (Event, Duration)>,
    latency: Histogram<u64>,
    pub(super) stored: Progress,
    pub(super) ended: Progress,
    pub(super) duplicated: u64,
    pub(super) wrong: u64,
    pub(super) failed: u64,
}

/// How a number of tasks grew, seen at its first and its last tenth.
#[derive(Debug, Clone, Copy)]
pub(super) struct Progress {
    total: u64,
    pub(super) count: u64,
    pub(super) first: Duration,
    /// How many there were when a tenth was reached, and nine, and when.
    tenth: (u64, Duration),
    nine_tenths: (u64, Duration),
    pub(super) last: Duration,
}

impl Ledger {
    pub(super) fn new(tasks: u64, batch: u64) -> Result<Self, hdrhistogram::CreationError> {
        let length = usize::try_from(tasks).unwrap_or(usize::MAX);
        Ok(Self {
            batch,
            starts: Vec::new(),
            rows: BTreeMap::new(),
            seen: vec![false; length],
            booked: 0,
            early: BTreeMap::new(),
            latency: Histogram::new_with_max(LONGEST_US, DIGITS)?,
            stored: Progress::new(tasks),
            ended: Progress::new(tasks),
            duplicated: 0,
            wrong: 0,
            failed: 0,
        })
    }

    /// The next batch was to be sent at this moment.
    pub(super) fn sent(&mut self, at: Duration) {
        self.starts.push(at);
    }

    /// The tasks from this number on have these ids. Their ends may be known already,
    /// and are given to `is_right` as those that come later.
    pub(super) fn receipted(
        &mut self,
        first: u64,
        ids: &[TaskId],
        at: Duration,
        is_right: impl Fn(u64, &[u8]) -> bool,
    ) {
        let mut number = first;
        for row in ids.chunk_by(|one, next| one.0 + 1 == next.0) {
            let (Some(id), Ok(count)) = (row.first(), u64::try_from(row.len())) else { continue };
            if let Some((known, _)) = self.rows.insert(id.0, (count, number)) {
                self.duplicated += known;
            }
            number += count;
            if !self.early.is_empty() {
                let mut rest = self.early.split_off(&id.0);
                let mut behind = rest.split_off(&(id.0 + count));
                self.early.append(&mut behind);
                for (event, at) in rest.into_values() {
                    self.ended(event, at, &is_right);
                }
            }
        }
        self.stored.grow(number - first, at);
    }

    /// A task has ended.
    pub(super) fn ended(
        &mut self,
        event: Event,
        at: Duration,
        is_right: impl Fn(u64, &[u8]) -> bool,
    ) {
        let Some(number) = self.number(event.id) else {
            if self.early.insert(event.id.0, (event, at)).is_some() {
                self.duplicated += 1;
            }
            return;
        };
        if self.book(number) {
            let result = (event.status == Status::Completed).then_some(event.result);
            let is_right = |result: &[u8]| is_right(number, result);
            self.answered(number, result.map(Option::unwrap_or_default).as_deref(), at, is_right);
        }
    }

    /// The log has an end of a task whose result is in hand.
    pub(super) fn logged(&mut self, id: TaskId) {
        match self.number(id) {
            Some(number) => _ = self.book(number),
            None => self.duplicated += 1,
        }
    }

    /// Whether this is the first end of a task.
    fn book(&mut self, number: u64) -> bool {
        let seen = usize::try_from(number).ok().and_then(|place| self.seen.get_mut(place));
        let is_first = seen.is_some_and(|seen| !std::mem::replace(seen, true));
        if is_first {
            self.booked += 1;
        } else {
            self.duplicated += 1;
        }
        is_first
    }

    /// The result of a task is in hand, or that it has none.
    pub(super) fn answered(
        &mut self,
        number: u64,
        result: Option<&[u8]>,
        at: Duration,
        is_right: impl Fn(&[u8]) -> bool,
    ) {
        let batch = usize::try_from(number / self.batch).ok();
        let start = batch.and_then(|batch| self.starts.get(batch)).copied().unwrap_or_default();
        let took = at.saturating_sub(start).as_micros();
        self.latency.saturating_record(u64::try_from(took).unwrap_or(LONGEST_US));
        match result {
            None => self.failed += 1,
            Some(result) if !is_right(result) => self.wrong += 1,
            Some(_) => {}
        }
        self.ended.grow(1, at);
    }

    /// The latency, in microseconds, within which this part of the tasks ended.
    pub(super) fn latency_us(&self, quantile: f64) -> u64 {
        self.latency.value_at_quantile(quantile)
    }

    /// Tasks with a receipt and without an end.
    pub(super) fn lost(&self) -> u64 {
        self.stored.count.saturating_sub(self.booked)
    }

    /// Tasks that have ended.
    pub(super) fn booked(&self) -> u64 {
        self.booked
    }

    /// Ends of tasks for which there is no receipt: somebody stored them twice.
    pub(super) fn unknown(&self) -> u64 {
        u64::try_from(self.early.len()).unwrap_or(u64::MAX)
    }

    fn number(&self, id: TaskId) -> Option<u64> {
        let (first, (count, number)) = self.rows.range(..=id.0).next_back()?;
        let place = id.0 - first;
        (place < *count).then_some(number + place)
    }
}

impl Progress {
    fn new(total: u64) -> Self {
        let (zero, none) = (Duration::ZERO, (0, Duration::ZERO));
        Self { total, count: 0, first: zero, tenth: none, nine_tenths: none, last: zero }
    }

    pub(super) fn is_complete(&self) -> bool {
        self.count >= self.total
    }

    fn grow(&mut self, by: u64, at: Duration) {
        let before = self.count;
        self.count += by;
        let reaches = |count: u64| before < count && count <= self.count;
        if before == 0 {
            self.first = at;
        }
        if reaches(self.total.div_ceil(10)) {
            self.tenth = (self.count, at);
        }
        if reaches(self.total - self.total / 10) {
            self.nine_tenths = (self.count, at);
        }
        self.last = at;
    }

    /// Tasks a second over all, from this moment on.
    pub(super) fn rate(&self, since: Duration) -> u64 {
        per_second(self.count, self.last.saturating_sub(since))
    }

    /// Tasks a second of the first tenth, from this moment on, and of the last one,
    /// unless they came all at once.
    pub(super) fn tenths(&self, since: Duration) -> [Option<u64>; 2] {
        let rate = |count: u64, from: Duration, to: Duration| {
            let span = to.saturating_sub(from);
            (count > 0 && !span.is_zero()).then(|| per_second(count, span))
        };
        let (tenth, nine) = (self.tenth, self.nine_tenths);
        [rate(tenth.0, since, tenth.1), rate(self.count - nine.0, nine.1, self.last)]
    }
}

fn per_second(count: u64, span: Duration) -> u64 {
    let rate = u128::from(count) * 1_000_000_000 / span.as_nanos().max(1);
    u64::try_from(rate).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RIGHT: fn(u64, &[u8]) -> bool = |_, result| result == b"right";

    fn end(id: u64, result: &'static str) -> Event {
        Event {
            id: TaskId(id),
            status: Status::Completed,
            attempt: 1,
            timestamp: crate::core::id::Timestamp(0),
            result: Some(result.into()),
            reason: None,
            error: String::new(),
            worker: "".into(),
        }
    }

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn ids(ids: impl IntoIterator<Item = u64>) -> Vec<TaskId> {
        ids.into_iter().map(TaskId).collect()
    }

    #[test]
    fn each_task_is_counted_once_whichever_comes_first() {
        let mut ledger = Ledger::new(6, 3).unwrap();
        ledger.sent(at(0));
        ledger.sent(at(10));
        ledger.ended(end(41, "right"), at(20), RIGHT);
        ledger.ended(end(21, "right"), at(20), RIGHT);
        assert_eq!((ledger.ended.count, ledger.unknown()), (0, 2));
        // The second batch first, and its ids with a gap.
        ledger.receipted(3, &ids([20, 21, 30]), at(25), RIGHT);
        assert_eq!((ledger.ended.count, ledger.unknown()), (1, 1));
        ledger.receipted(0, &ids(40..43), at(26), RIGHT);
        for id in [20, 30, 40, 42] {
            ledger.ended(end(id, "right"), at(100), RIGHT);
        }
        assert!(ledger.stored.is_complete() && ledger.ended.is_complete());
        assert_eq!(
            (ledger.lost(), ledger.duplicated, ledger.wrong, ledger.unknown()),
            (0, 0, 0, 0)
        );
        // From 10 to 20 ms, and from 0 to 100 ms.
        assert_eq!(ledger.latency_us(0.0) / 100, 100);
        assert_eq!(ledger.latency_us(1.0) / 1_000, 100);
    }

    #[test]
    fn what_is_wrong_or_twice_or_missing_is_counted() {
        let mut ledger = Ledger::new(4, 4).unwrap();
        ledger.sent(at(0));
        ledger.receipted(0, &ids(1..5), at(1), RIGHT);
        ledger.ended(end(1, "right"), at(2), RIGHT);
        ledger.ended(end(1, "right"), at(2), RIGHT);
        ledger.ended(end(2, "lie"), at(2), RIGHT);
        ledger.ended(Event { status: Status::Failed, ..end(3, "") }, at(2), RIGHT);
        ledger.ended(end(9, "right"), at(2), RIGHT);
        assert_eq!((ledger.lost(), ledger.duplicated), (1, 1));
        assert_eq!((ledger.wrong, ledger.failed, ledger.unknown()), (1, 1, 1));
    }

    #[test]
    fn rates_are_of_all_and_of_the_tenths() {
        let mut progress = Progress::new(100);
        progress.grow(10, at(1_010));
        progress.grow(80, at(2_000));
        progress.grow(10, at(2_100));
        assert_eq!(progress.rate(at(1_000)), 90);
        assert_eq!(progress.tenths(at(1_000)), [Some(1_000), Some(100)]);
        assert_eq!(progress.first, at(1_010));
        let mut at_once = Progress::new(100);
        at_once.grow(100, at(1_000));
        assert_eq!(at_once.tenths(at(0)), [Some(100), None]);
    }
}
