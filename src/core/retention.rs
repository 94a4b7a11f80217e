//! Which ended tasks are no longer kept.
//!
//! Walks the log upwards from the oldest event. Completed and cancelled tasks go
//! when they are too old or too many. Failed ones are bounded apart, and are set
//! aside where the walk passes them. An event that did not end its task is passed
//! by: it goes with its task.

use std::collections::VecDeque;
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
}

/// How far the walk has come.
#[derive(Debug)]
pub struct Retention {
    policy: Policy,
    position: Seq,
    failed: VecDeque<(TaskId, Seq, Timestamp)>,
    oldest: Timestamp,
}

impl Retention {
    /// A walk that begins at the oldest event.
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        Self { policy, position: Seq(0), failed: VecDeque::new(), oldest: Timestamp::default() }
    }

    /// Where the walk goes on: [`Retention::step`] wants the events after this place.
    #[must_use]
    pub fn position(&self) -> Seq {
        self.position
    }

    /// Whether a step may find something.
    #[must_use]
    pub fn is_due(&self, ended: &Ended, now: Timestamp) -> bool {
        ended.count() > 0 && (self.is_crowded(ended, 0) || now >= self.next_by_age())
    }

    /// When something becomes too old, as far as is known.
    #[must_use]
    pub fn next_by_age(&self) -> Timestamp {
        let failed = self.failed.front().map_or(self.oldest, |(_, _, at)| *at);
        failed.min(self.oldest).plus(self.policy.age)
    }

    /// Takes the next events of the log, in order, and gives the tasks to forget.
    pub fn step(
        &mut self,
        events: &[TaskEvent],
        ended: &Ended,
        now: Timestamp,
    ) -> Vec<(TaskId, Seq)> {
        let mut trim = self.trim_failed(ended, now);
        let mut trimmed = u64::try_from(trim.len()).unwrap_or(u64::MAX);
        for event in events {
            let last = ended.find(event.id).filter(|(_, seq)| *seq == event.seq);
            match last {
                None | Some((Status::Pending | Status::Running, _)) => {}
                Some((Status::Failed, _)) => {
                    self.failed.push_back((event.id, event.seq, event.at));
                }
                Some((Status::Completed | Status::Cancelled, _)) => {
                    self.oldest = event.at;
                    if !self.is_old(event.at, now) && !self.is_crowded(ended, trimmed) {
                        return trim;
                    }
                    trim.push((event.id, event.seq));
                    trimmed += 1;
                }
            }
            self.position = event.seq;
        }
        if events.is_empty() {
            self.oldest = now;
        }
        trim
    }

    fn trim_failed(&mut self, ended: &Ended, now: Timestamp) -> Vec<(TaskId, Seq)> {
        let mut trim = Vec::new();
        while let Some((id, seq, at)) = self.failed.front().copied() {
            let many = u64::try_from(self.failed.len()).unwrap_or(u64::MAX) > self.policy.failed;
            let is_kept = ended.find(id) == Some((Status::Failed, seq));
            if is_kept && !many && !self.is_old(at, now) {
                break;
            }
            self.failed.pop_front();
            if is_kept {
                trim.push((id, seq));
            }
        }
        trim
    }

    fn is_old(&self, at: Timestamp, now: Timestamp) -> bool {
        now >= at.plus(self.policy.age)
    }

    fn is_crowded(&self, ended: &Ended, trimmed: u64) -> bool {
        let others = ended.count().saturating_sub(ended.failed());
        others.saturating_sub(trimmed) > self.policy.tasks
            || u64::try_from(self.failed.len()).unwrap_or(u64::MAX) > self.policy.failed
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
        let trim = retention.step(&events, &ended, Timestamp(HOUR + 10));
        assert_eq!(trim, [(TaskId(1), Seq(1)), (TaskId(2), Seq(2))]);
        assert_eq!(retention.position(), Seq(2));
        assert!(!retention.is_due(&ended, Timestamp(3 * HOUR - 1)));
        assert!(retention.is_due(&ended, Timestamp(3 * HOUR)));
    }

    #[test]
    fn what_is_too_many_goes_oldest_first() {
        let (events, ended) = world(&[(1, 0), (2, 0), (3, 0), (4, 0)], &[]);
        let mut retention = Retention::new(policy(2, 100));
        assert!(retention.is_due(&ended, Timestamp(1)));
        let trim = retention.step(&events, &ended, Timestamp(1));
        assert_eq!(trim.iter().map(|(id, _)| id.0).collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn failed_tasks_are_bounded_apart_and_do_not_stop_the_walk() {
        let (events, ended) = world(&[(1, 0), (2, 0), (3, 0), (4, 0), (5, 0)], &[1, 2, 3]);
        let mut retention = Retention::new(policy(0, 2));
        let trim = retention.step(&events, &ended, Timestamp(1));
        assert_eq!(trim.iter().map(|(id, _)| id.0).collect::<Vec<_>>(), [4, 5]);
        let trim = retention.step(&[], &ended, Timestamp(1));
        assert_eq!(trim.iter().map(|(id, _)| id.0).collect::<Vec<_>>(), [1]);
    }

    #[test]
    fn events_that_ended_nothing_and_tasks_that_were_retried_are_passed_by() {
        let (events, mut ended) = world(&[(1, 0), (2, 0)], &[1]);
        ended.remove(TaskId(1));
        let mut retention = Retention::new(policy(0, 0));
        assert_eq!(retention.step(&events, &ended, Timestamp(1)), [(TaskId(2), Seq(2))]);
        assert_eq!(retention.position(), Seq(2));
    }

    fn policy(tasks: u64, failed: u64) -> Policy {
        Policy { age: Duration::from_millis(HOUR), tasks, failed }
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
            ended.insert(TaskId(id), change.status(), Seq(id));
            TaskEvent {
                seq: Seq(id),
                id: TaskId(id),
                previous: None,
                at: Timestamp(at),
                spec: spec(),
                attempt: None,
                change,
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
            payload_bytes: 0,
        }
    }
}
