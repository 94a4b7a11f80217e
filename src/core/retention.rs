//! Which ended tasks are no longer kept.
//!
//! Completed and cancelled tasks go when they are too old, too many, or have too many bytes
//! together: the log is walked upwards from its oldest event. Failed ones are bounded apart and
//! found by their ids, so that neither hold the others back. An event that did not end its task
//! is passed by: it goes with its task.

use std::time::Duration;

use super::ended::Ended;
use super::event::TaskEvent;
use super::id::{Seq, TaskId, Timestamp};
use super::task::Status;

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// How long.
    pub age: Duration,
    /// How many completed and cancelled tasks.
    pub tasks: u64,
    /// How many failed tasks.
    pub failed: u64,
    /// How many bytes of payloads and results, of failed tasks and of all others each.
    pub bytes: u64,
}

/// How far it has come.
#[derive(Debug)]
pub struct Retention {
    policy: Policy,
    /// The walk along the log.
    position: Seq,
    /// When the oldest ones that are kept ended, as far as is known.
    oldest: Timestamp,
    oldest_failed: Timestamp,
    /// Failed tasks were looked at last: next it is the others' turn.
    looked_at_failed: bool,
}

/// Events to be looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    /// Those after this place, in order: where the walk goes on.
    After(Seq),
    /// Those at these places: the last ones of failed tasks.
    AtFailed(Vec<Seq>),
}

/// A task to forget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Old {
    /// Its id.
    pub id: TaskId,
    /// The place of its last event.
    pub last: Seq,
    /// Bytes of its payload and its result.
    pub bytes: u64,
}

impl Retention {
    /// Of a log of which nothing was looked at.
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            position: Seq(0),
            oldest: Timestamp::default(),
            oldest_failed: Timestamp::default(),
            looked_at_failed: false,
        }
    }

    /// What a step wants to see, if it may find something. At most so many failed tasks.
    #[must_use]
    pub fn look(&self, ended: &Ended, now: Timestamp, limit: usize) -> Option<Look> {
        let is_due = |at: Option<Timestamp>| at.is_some_and(|at| now >= at);
        let others = self.others_crowd(ended, Sum::default()) || is_due(self.next_other(ended));
        let failed = self.failed_crowd(ended, Sum::default()) || is_due(self.next_failed(ended));
        if failed && !(others && self.looked_at_failed) {
            return Some(Look::AtFailed(ended.first_failed(limit)));
        }
        others.then_some(Look::After(self.position))
    }

    /// When something becomes too old, as far as is known.
    #[must_use]
    pub fn next_by_age(&self, ended: &Ended) -> Option<Timestamp> {
        self.next_other(ended).into_iter().chain(self.next_failed(ended)).min()
    }

    /// Takes the events that were asked for, and gives the tasks to forget.
    pub fn step(
        &mut self,
        look: &Look,
        events: &[TaskEvent],
        ended: &Ended,
        now: Timestamp,
    ) -> Vec<Old> {
        self.looked_at_failed = matches!(look, Look::AtFailed(_));
        if self.looked_at_failed {
            self.step_failed(events, ended, now)
        } else {
            self.walk(events, ended, now)
        }
    }

    fn walk(&mut self, events: &[TaskEvent], ended: &Ended, now: Timestamp) -> Vec<Old> {
        let mut trim = Trim::default();
        for event in events {
            let last = ended.find(event.id).filter(|(_, seq)| *seq == event.seq);
            if let Some((Status::Completed | Status::Cancelled, _)) = last {
                self.oldest = event.at;
                if !self.is_old(event.at, now) && !self.others_crowd(ended, trim.sum) {
                    return trim.tasks;
                }
                trim.push(event);
            }
            self.position = event.seq;
        }
        if events.is_empty() {
            self.oldest = now;
        }
        trim.tasks
    }

    fn step_failed(&mut self, events: &[TaskEvent], ended: &Ended, now: Timestamp) -> Vec<Old> {
        let mut trim = Trim::default();
        self.oldest_failed = now;
        for event in events {
            if ended.find(event.id) != Some((Status::Failed, event.seq)) {
                continue;
            }
            if self.is_old(event.at, now) || self.failed_crowd(ended, trim.sum) {
                trim.push(event);
            } else {
                self.oldest_failed = self.oldest_failed.min(event.at);
            }
        }
        trim.tasks
    }

    fn is_old(&self, at: Timestamp, now: Timestamp) -> bool {
        now >= at.plus(self.policy.age)
    }

    fn next_other(&self, ended: &Ended) -> Option<Timestamp> {
        (ended.count() > ended.failed()).then(|| self.oldest.plus(self.policy.age))
    }

    fn next_failed(&self, ended: &Ended) -> Option<Timestamp> {
        (ended.failed() > 0).then(|| self.oldest_failed.plus(self.policy.age))
    }

    /// Whether completed and cancelled tasks are too many even without these.
    fn others_crowd(&self, ended: &Ended, without: Sum) -> bool {
        let count = ended.count().saturating_sub(ended.failed());
        self.is_crowd(count, ended.other_bytes(), self.policy.tasks, without)
    }

    /// Whether failed tasks are too many even without these.
    fn failed_crowd(&self, ended: &Ended, without: Sum) -> bool {
        self.is_crowd(ended.failed(), ended.failed_bytes(), self.policy.failed, without)
    }

    fn is_crowd(&self, count: u64, bytes: u64, most: u64, without: Sum) -> bool {
        let (count, bytes) =
            (count.saturating_sub(without.count), bytes.saturating_sub(without.bytes));
        count > most || (count > 0 && bytes > self.policy.bytes)
    }
}

/// Tasks to forget, and how much they are together.
#[derive(Debug, Default)]
struct Trim {
    tasks: Vec<Old>,
    sum: Sum,
}

#[derive(Debug, Default, Clone, Copy)]
struct Sum {
    count: u64,
    bytes: u64,
}

impl Trim {
    /// Adds the task whose last event this is.
    fn push(&mut self, event: &TaskEvent) {
        let bytes = event.kept_bytes();
        self.tasks.push(Old { id: event.id, last: event.seq, bytes });
        self.sum = Sum { count: self.sum.count + 1, bytes: self.sum.bytes + bytes };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::task::{Change, Reason, Spec};
    use crate::core::task_type::TypeId;

    const HOUR: u64 = 3_600_000;

    #[test]
    fn what_is_too_old_goes_and_the_walk_stops_at_what_is_not() {
        let (events, ended) = world(&[(1, 0), (2, 10), (3, 2 * HOUR)], &[]);
        let mut retention = Retention::new(policy(100, 100));
        assert_eq!(step(&mut retention, &events, &ended, HOUR + 10), [1, 2]);
        assert_eq!(retention.look(&ended, Timestamp(3 * HOUR - 1), 9), None);
        assert_eq!(retention.next_by_age(&ended), Some(Timestamp(3 * HOUR)));
        assert_eq!(retention.look(&ended, Timestamp(3 * HOUR), 9), Some(Look::After(Seq(2))));
    }

    #[test]
    fn what_is_too_many_goes_oldest_first() {
        let (events, ended) = world(&[(1, 0), (2, 0), (3, 0), (4, 0)], &[]);
        let mut retention = Retention::new(policy(2, 100));
        assert_eq!(step(&mut retention, &events, &ended, 1), [1, 2]);
    }

    #[test]
    fn what_has_too_many_bytes_goes_oldest_first() {
        let ends: Vec<(u64, u64)> = (1..=9).map(|id| (id, 0)).collect();
        for (bytes, gone) in [(9 * BYTES, 0), (9 * BYTES - 1, 1), (3 * BYTES, 6), (0, 9)] {
            for failed in [vec![], (1..=9).collect()] {
                let (events, ended) = world(&ends, &failed);
                let mut retention = Retention::new(Policy { bytes, ..policy(100, 100) });
                let trimmed = step(&mut retention, &events, &ended, 1);
                assert!(trimmed.into_iter().eq(1..=gone), "{bytes} bytes, failed {failed:?}");
            }
        }
    }

    #[test]
    fn failed_tasks_are_bounded_apart_and_neither_hold_the_others_back() {
        let ends: Vec<(u64, u64)> = (1..=6).map(|id| (id, 0)).collect();
        let (events, mut ended) = world(&ends, &[2, 3, 5]);
        let mut retention = Retention::new(policy(1, 1));
        assert_eq!(forget(&mut retention, &events, &mut ended), [2, 3]);
        assert_eq!(forget(&mut retention, &events, &mut ended), [1, 4]);
        assert_eq!(retention.look(&ended, Timestamp(1), 9), None);
        // A failed one before all others, and others before all failed ones.
        let (events, mut ended) = world(&ends, &[1, 6]);
        let mut retention = Retention::new(policy(100, 1));
        assert_eq!(forget(&mut retention, &events, &mut ended), [1]);
        assert_eq!(retention.look(&ended, Timestamp(1), 9), None);
    }

    #[test]
    fn failed_tasks_and_others_that_are_both_too_many_take_turns() {
        let ends: Vec<(u64, u64)> = (1..=8).map(|id| (id, 0)).collect();
        let (events, mut ended) = world(&ends, &[1, 2, 3, 4]);
        let mut retention = Retention::new(policy(0, 0));
        let looks = std::iter::from_fn(|| {
            let look = retention.look(&ended, Timestamp(1), 2)?;
            let shown: Vec<TaskEvent> = seen(&look, &events).into_iter().take(2).collect();
            let old = retention.step(&look, &shown, &ended, Timestamp(1));
            for old in old {
                assert!(ended.remove(old.id, old.bytes));
            }
            Some(matches!(look, Look::AtFailed(_)))
        });
        let looks: Vec<bool> = looks.take(20).collect();
        assert_eq!(looks[..4], [true, false, true, false]);
        assert_eq!((ended.count(), ended.other_bytes(), ended.failed_bytes()), (0, 0, 0));
    }

    #[test]
    fn events_that_ended_nothing_and_tasks_that_were_retried_are_passed_by() {
        let (events, mut ended) = world(&[(1, 0), (2, 0)], &[1]);
        ended.remove(TaskId(1), BYTES);
        let mut retention = Retention::new(policy(0, 0));
        assert_eq!(step(&mut retention, &events, &ended, 1), [2]);
        assert_eq!(retention.position, Seq(2));
    }

    /// Of each task, in these tests.
    const BYTES: u64 = 30;

    fn policy(tasks: u64, failed: u64) -> Policy {
        Policy { age: Duration::from_millis(HOUR), tasks, failed, bytes: 1_000 * BYTES }
    }

    /// What a look shows.
    fn seen(look: &Look, events: &[TaskEvent]) -> Vec<TaskEvent> {
        let is_shown = |event: &&TaskEvent| match look {
            Look::After(place) => event.seq > *place,
            Look::AtFailed(places) => places.contains(&event.seq),
        };
        events.iter().filter(is_shown).cloned().collect()
    }

    /// The ids of the tasks that a step forgets.
    fn step(retention: &mut Retention, events: &[TaskEvent], ended: &Ended, now: u64) -> Vec<u64> {
        let Some(look) = retention.look(ended, Timestamp(now), 100) else { return Vec::new() };
        let old = retention.step(&look, &seen(&look, events), ended, Timestamp(now));
        old.iter().map(|old| old.id.0).collect()
    }

    /// The same, and forgets them.
    fn forget(retention: &mut Retention, events: &[TaskEvent], ended: &mut Ended) -> Vec<u64> {
        let ids = step(retention, events, ended, 1);
        for id in &ids {
            assert!(ended.remove(TaskId(*id), BYTES));
        }
        ids
    }

    /// One event for each (id, at), its place being its id.
    fn world(ends: &[(u64, u64)], failed: &[u64]) -> (Vec<TaskEvent>, Ended) {
        let mut ended = Ended::default();
        let events = ends.iter().map(|&(id, at)| {
            let change = if failed.contains(&id) {
                Change::Failed { reason: Reason::Permanent, error: String::new() }
            } else {
                Change::Completed
            };
            ended.insert(TaskId(id), change.status(), Seq(id), BYTES);
            TaskEvent {
                seq: Seq(id),
                id: TaskId(id),
                previous: None,
                at: Timestamp(at),
                spec: spec(),
                attempt: None,
                change,
                result_bytes: 10,
            }
        });
        (events.collect(), ended)
    }

    fn spec() -> Spec {
        Spec {
            type_id: TypeId(0),
            priority: 5,
            created: Timestamp(0),
            run_at: Timestamp(0),
            timeout_ms: 0,
            max_attempts: 3,
            max_crashes: 3,
            group: 0,
            payload_bytes: 20,
        }
    }
}
