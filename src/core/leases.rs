//! The leases that are held, by task and by holder.
//!
//! A lease has no end of its own: it ends with its holder's, which every report of
//! the holder's session moves. So extending a thousand leases is one assignment.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::id::{TaskId, Timestamp};
use super::number_map::{NumberMap, NumberSet};
use super::task::{Holder, Lease, Progress, Spec};

/// How much longer than its timeout a handler is waited for, before the dispatcher
/// ends the attempt in the worker's place: the worker's own timer comes first.
const TIMEOUT_GRACE: Duration = Duration::from_secs(2);

/// All open leases.
#[derive(Debug, Default)]
pub struct Leases {
    by_task: NumberMap<TaskId, Held>,
    holders: BTreeMap<Holder, Holding>,
    timeouts: Timeouts,
}

/// One leased task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Its lease.
    pub lease: Lease,
    /// What was asked for.
    pub spec: Spec,
    /// What it went through before this lease.
    pub progress: Progress,
    /// The note of this lease in the log, if it was written.
    pub note: Option<u64>,
}

/// What one holder has.
#[derive(Debug, Default)]
struct Holding {
    /// Its leases end then, unless moved.
    until: Timestamp,
    tasks: NumberSet<TaskId>,
}

impl Holding {
    /// Its tasks, by rising ids.
    fn in_order(&self) -> Vec<TaskId> {
        let mut tasks: Vec<TaskId> = self.tasks.iter().copied().collect();
        tasks.sort_unstable();
        tasks
    }
}

/// When the handlers of tasks with a timeout have run too long.
#[derive(Debug, Default)]
struct Timeouts {
    by_end: BTreeSet<(Timestamp, TaskId)>,
    ends: NumberMap<TaskId, Timestamp>,
}

impl Timeouts {
    fn insert(&mut self, id: TaskId, end: Timestamp) {
        self.remove(id);
        self.ends.insert(id, end);
        self.by_end.insert((end, id));
    }

    fn remove(&mut self, id: TaskId) {
        if let Some(end) = self.ends.remove(&id) {
            self.by_end.remove(&(end, id));
        }
    }

    fn postpone(&mut self, gap: Duration) {
        for (end, id) in std::mem::take(&mut self.by_end) {
            self.insert(id, end.plus(gap));
        }
    }
}

impl Leases {
    /// Adds a lease that ends at `until` unless its holder's end is later already.
    pub fn insert(&mut self, id: TaskId, held: Held, until: Timestamp) {
        if let Some(holding) = self.holders.get_mut(&held.lease.holder) {
            holding.until = holding.until.max(until);
            holding.tasks.insert(id);
        } else {
            let holding = Holding { until, tasks: [id].into_iter().collect() };
            self.holders.insert(held.lease.holder.clone(), holding);
        }
        if let Some(end) = timeout_of(&held) {
            self.timeouts.insert(id, end);
        }
        self.by_task.insert(id, held);
    }

    /// Ends a lease.
    pub fn remove(&mut self, id: TaskId) -> Option<Held> {
        let held = self.by_task.remove(&id)?;
        self.timeouts.remove(id);
        if let Some(holding) = self.holders.get_mut(&held.lease.holder) {
            holding.tasks.remove(&id);
        }
        Some(held)
    }

    /// The lease of a task.
    #[must_use]
    pub fn find(&self, id: TaskId) -> Option<&Held> {
        self.by_task.get(&id)
    }

    /// Notes that a lease's handler started.
    pub fn start(&mut self, id: TaskId, at: Timestamp) {
        let Some(held) = self.by_task.get_mut(&id) else { return };
        if held.lease.started.is_none() {
            held.lease.started = Some(at);
            if let Some(end) = timeout_of(held) {
                self.timeouts.insert(id, end);
            }
        }
    }

    /// Notes that a lease stands in the log.
    pub fn note(&mut self, id: TaskId, note: u64) {
        if let Some(held) = self.by_task.get_mut(&id) {
            held.note = Some(note);
        }
    }

    /// Moves the end of all leases of a holder.
    pub fn extend(&mut self, holder: &Holder, until: Timestamp) {
        if let Some(holding) = self.holders.get_mut(holder) {
            holding.until = holding.until.max(until);
        }
    }

    /// Moves the end of all leases: the dispatcher itself was away for so long.
    pub fn postpone(&mut self, gap: Duration) {
        for holding in self.holders.values_mut() {
            holding.until = holding.until.plus(gap);
        }
    }

    /// Moves the end of all handlers that may run only for so long: what their workers said
    /// of them while the dispatcher was away is still to be heard.
    pub fn postpone_timeouts(&mut self, gap: Duration) {
        self.timeouts.postpone(gap);
    }

    /// The tasks a holder has.
    #[must_use]
    pub fn of(&self, holder: &Holder) -> Vec<TaskId> {
        self.holders.get(holder).map_or_else(Vec::new, Holding::in_order)
    }

    /// Other processes of the same worker that hold leases.
    #[must_use]
    pub fn predecessors(&self, holder: &Holder) -> Vec<Holder> {
        let same = self.holders.iter().filter(|(other, holding)| {
            other.worker == holder.worker && *other != holder && !holding.tasks.is_empty()
        });
        same.map(|(other, _)| other.clone()).collect()
    }

    /// The tasks whose holder's end has passed. Forgets holders without tasks.
    pub fn expired(&mut self, now: Timestamp) -> Vec<TaskId> {
        self.holders.retain(|_, holding| holding.until > now || !holding.tasks.is_empty());
        let over = self.holders.values().filter(|holding| holding.until <= now);
        over.flat_map(Holding::in_order).collect()
    }

    /// The tasks whose handler has run too long, and whose worker did not say so.
    #[must_use]
    pub fn overdue(&self, now: Timestamp) -> Vec<TaskId> {
        let over = self.timeouts.by_end.iter().take_while(|(end, _)| *end <= now);
        over.map(|(_, id)| *id).collect()
    }

    /// When [`Leases::expired`] or [`Leases::overdue`] has something next.
    #[must_use]
    pub fn next_end(&self) -> Option<Timestamp> {
        let held = self.holders.values().filter(|holding| !holding.tasks.is_empty());
        let timeout = self.timeouts.by_end.first().map(|(end, _)| *end);
        held.map(|holding| holding.until).chain(timeout).min()
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.by_task.len()
    }

    /// The leased ids below `before`, greatest first.
    #[must_use]
    pub fn newest(&self, before: TaskId, limit: usize) -> Vec<TaskId> {
        let ids = self.by_task.keys().copied().filter(|id| *id < before);
        let mut ids: Vec<TaskId> = ids.collect();
        if limit < ids.len() {
            ids.select_nth_unstable_by(limit, |a, b| b.cmp(a));
            ids.truncate(limit);
        }
        ids.sort_unstable_by(|a, b| b.cmp(a));
        ids
    }
}

/// When the dispatcher itself ends the attempt as timed out.
fn timeout_of(held: &Held) -> Option<Timestamp> {
    let started = held.lease.started?;
    (held.spec.timeout_ms > 0)
        .then(|| started.plus(Duration::from_millis(held.spec.timeout_ms)).plus(TIMEOUT_GRACE))
}

#[cfg(test)]
mod tests;
