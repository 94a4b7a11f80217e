//! What is due by the clock: schedules, leases that ran out, handlers that ran too
//! long, old keys, old results.

use std::time::Duration;

use super::{Message, READ_AGAIN, Scheduler};
use crate::core::event::TaskEvent;
use crate::core::id::{Seq, TaskId, Timestamp};
use crate::core::queue::Standing;
use crate::core::retention::{Look, Old};
use crate::core::task::Outcome;
use crate::store::{self, Store};

/// Events looked at in one step of trimming, at least; deleting that many takes the store
/// a few milliseconds. There is a step for each group: if that was larger, so is the step,
/// so that no more comes in than may go.
const TRIM: usize = 2_000;
/// Bytes of results read on the way, at least.
const TRIM_BYTES: usize = 4 << 20;
/// Keys that are worth a commit of their own.
const KEYS: usize = 1_000;
/// Tasks of keys whose time has come that are looked at in one turn: what takes less than a
/// millisecond, or one batch.
const KEYED_TASKS: usize = 10_000;
/// Keys wait for each other so long, rather than wake the loop one by one.
const KEYS_WAIT: Duration = Duration::from_secs(1);
/// How often the loop looks at what has no time of its own: waiters that left, and
/// workers that are gone.
const SLOW: Duration = Duration::from_secs(60);

impl Scheduler {
    /// Does all that is due.
    pub(super) fn upkeep(&mut self) {
        let now = self.last_turn;
        self.queue.lanes.wake(now);
        if self.draining {
            return;
        }
        self.look_for_room(now);
        if self.loading.is_some() {
            return;
        }
        if now >= self.next_sweep {
            self.next_sweep = now.plus(self.sweep_interval());
            for id in self.queue.leases.expired(now) {
                self.end_lease(id, Outcome::Lost);
            }
            for id in self.queue.leases.overdue(now) {
                self.time_out(id);
            }
            if self.has_unnoted() && self.open.group.is_empty() && self.in_flight.is_none() {
                self.note_all_leases();
            }
        }
        if now >= self.next_slow {
            self.next_slow = now.plus(SLOW);
            self.forget_workers();
            self.waiters.retain(|_, waiters| {
                waiters.retain(|waiter| !waiter.is_closed());
                !waiters.is_empty()
            });
        }
        self.forget_keys(now);
        self.begin_trim(now);
        self.over_notes.extend(self.queue.notes.take_over());
    }

    /// When [`Scheduler::upkeep`] has something to do next.
    pub(super) fn next_wake(&self) -> Timestamp {
        let now = self.last_turn;
        let commit = self.open.unhurried_until().filter(|_| self.in_flight.is_none());
        let room = self.space.look_at();
        let line = self.next_room();
        if self.loading.is_some() {
            return commit
                .into_iter()
                .chain(room)
                .chain(line)
                .min()
                .unwrap_or(now.plus(SLOW))
                .max(now.plus(MILLI));
        }
        let has_leases = self.queue.leases.count() > 0;
        let sweep = has_leases.then_some(self.next_sweep);
        let waiters = (!self.waiters.is_empty()).then_some(self.next_slow);
        let may_trim = !self.trimming && self.in_flight.is_none() && self.queue.ended.count() > 0;
        let trim = may_trim.then(|| self.retention.next_by_age(&self.queue.ended)).flatten();
        let due = self.queue.lanes.next_due();
        let keys = self.keys.next_end().map(|at| at.plus(KEYS_WAIT));
        let gate = self.gate.opens_at(now);
        let times = [sweep, waiters, trim, due, keys, gate, commit, room, line];
        times.into_iter().flatten().min().unwrap_or(now.plus(SLOW)).max(now.plus(MILLI))
    }

    /// Often enough that an end is noticed well within a lease.
    fn sweep_interval(&self) -> Duration {
        (self.rules.lease / 10).min(Duration::from_millis(500))
    }

    fn forget_keys(&mut self, now: Timestamp) {
        let queue = &self.queue;
        let lives = |first: TaskId, count: u32| {
            // The last one first: it is the likeliest to live.
            let mut ids = (0..u64::from(count)).rev().map(|step| first.plus(step));
            ids.any(|id| matches!(queue.standing(id), Standing::Running | Standing::Pending(..)))
        };
        let over = self.keys.forget(now, KEYED_TASKS, |batch| lives(batch.first, batch.count));
        self.over_keys.extend(over);
        if self.over_keys.len() >= KEYS {
            self.open.group.trim.keys.append(&mut self.over_keys);
        }
    }

    fn begin_trim(&mut self, now: Timestamp) {
        // What is being committed is not there to be read: it has its turn after.
        if self.trimming || self.in_flight.is_some() {
            return;
        }
        let (limit, bytes) =
            (TRIM.max(self.last_group.entries), TRIM_BYTES.max(self.last_group.bytes));
        let Some(look) = self.retention.look(&self.queue.ended, now, limit) else { return };
        let Some(inbox) = self.shared.inbox.upgrade() else { return };
        self.trimming = true;
        let store = self.store.clone();
        tokio::spawn(async move {
            let wanted = look.clone();
            let read = move |store: &dyn Store| match wanted {
                Look::After(place) => {
                    let events = store.events_after(place, limit, bytes)?;
                    Ok(events.into_iter().map(|stored| stored.event).collect())
                }
                Look::AtFailed(places) => Ok(store.facts(&places)?.into_iter().flatten().collect()),
            };
            let events = store::apart(&store, read).await;
            if matches!(events, Err(store::Error::Full)) {
                tokio::time::sleep(READ_AGAIN).await;
            }
            // A loop that has ended trims no more.
            drop(inbox.send(Message::Trimmable { look, events }).await);
        });
    }

    pub(super) fn trim(&mut self, look: &Look, events: Result<Vec<TaskEvent>, store::Error>) {
        self.trimming = false;
        let events = match events {
            Ok(events) => events,
            Err(store::Error::Full) => return,
            Err(error) => {
                self.announced_end = Some(error);
                return;
            }
        };
        let trim = self.retention.step(look, &events, &self.queue.ended, self.last_turn);
        if trim.is_empty() || self.draining {
            return;
        }
        tracing::debug!(tasks = trim.len(), "forgetting old results");
        for Old { id, last, bytes } in trim {
            self.queue.ended.remove(id, bytes);
            self.open.trims_to = self.open.trims_to.max(Some(last).filter(|last| *last > Seq(0)));
            self.open.group.trim.tasks.push((id, last));
        }
    }
}

/// The clock's own grain.
const MILLI: Duration = Duration::from_millis(1);
