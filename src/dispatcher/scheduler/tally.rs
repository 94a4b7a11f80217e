//! The numbers: counted as things happen, never by a scan.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::commits::Commits;
use super::message::Join;
use crate::core::event::TaskEvent;
use crate::core::id::{TaskId, Timestamp, millis};
use crate::core::leases::Leases;
use crate::core::placement::Fleet;
use crate::core::queue::Queue;
use crate::core::registry::Registration;
use crate::core::task::{Reason, Spec, Status};
use crate::core::task_type::TypeId;
use crate::dispatcher::types::Types;
use crate::wire::v1;

/// Counters since the start, by type and by worker.
#[derive(Debug)]
pub(super) struct Tally {
    started: Timestamp,
    types: BTreeMap<TypeId, v1::Counts>,
    workers: BTreeMap<Arc<str>, v1::WorkerStats>,
    health: BTreeMap<String, v1::Health>,
    directory_complete: bool,
    fenced: u64,
    pub(super) commits: Commits,
}

impl Tally {
    pub(super) fn new(started: Timestamp) -> Self {
        Self {
            started,
            types: BTreeMap::new(),
            workers: BTreeMap::new(),
            health: BTreeMap::new(),
            directory_complete: false,
            fenced: 0,
            commits: Commits::default(),
        }
    }

    /// Leases of the last boot that are still open run on.
    pub(super) fn resume(&mut self, leases: &Leases) {
        for id in leases.newest(TaskId(u64::MAX), usize::MAX) {
            if let Some(held) = leases.find(id) {
                self.leased(held.spec.type_id);
            }
        }
    }

    pub(super) fn uptime_ms(&self, now: Timestamp) -> u64 {
        millis(now.since(self.started))
    }

    pub(super) fn submitted(&mut self, spec: &Spec) {
        self.of(spec.type_id).submitted += 1;
    }

    pub(super) fn leased(&mut self, type_id: TypeId) {
        self.of(type_id).running += 1;
    }

    /// A lease came back that was not known to be open.
    pub(super) fn adopted(&mut self, spec: Option<&Spec>) {
        if let Some(spec) = spec {
            self.leased(spec.type_id);
        }
    }

    pub(super) fn fenced(&mut self) {
        self.fenced += 1;
    }

    /// Counts an event of a task. One that was not running may end too: it was
    /// cancelled, or its lease was over when its worker came with the result.
    pub(super) fn count(&mut self, event: &TaskEvent, was_running: bool) {
        let counts = self.of(event.spec.type_id);
        if was_running {
            counts.running = counts.running.saturating_sub(1);
        }
        match event.change.status() {
            Status::Completed => {
                counts.completed += 1;
                counts.run_us += event.attempt.as_ref().map_or(0, |attempt| attempt.run_us);
            }
            Status::Failed => counts.failed += 1,
            Status::Cancelled => counts.cancelled += 1,
            Status::Pending | Status::Running => {}
        }
        match event.change.reason() {
            Some(Reason::Error | Reason::Permanent | Reason::Timeout | Reason::Panic) => {
                counts.errors += 1;
            }
            Some(Reason::Lost | Reason::Poison | Reason::Unknown) => counts.lost += 1,
            Some(Reason::Released | Reason::Silence | Reason::Cancelled) | None => {}
        }
    }

    /// Counts the end of an attempt for its worker.
    pub(super) fn settled(&mut self, worker: Option<&Arc<str>>, event: &TaskEvent) {
        let Some(stats) = worker.and_then(|worker| self.workers.get_mut(worker)) else { return };
        match event.change.status() {
            Status::Completed => {
                stats.completed += 1;
                stats.run_us += event.attempt.as_ref().map_or(0, |attempt| attempt.run_us);
            }
            Status::Failed => stats.failed += 1,
            Status::Pending => match event.change.reason() {
                Some(Reason::Released | Reason::Silence) => {}
                _ => stats.failed += 1,
            },
            Status::Running | Status::Cancelled => {}
        }
    }

    pub(super) fn joined(&mut self, join: &Join, types: &Types) {
        let stats = self.workers.entry(join.holder.worker.clone()).or_default();
        stats.worker_id = join.holder.worker.to_string();
        stats.address = join.address.to_string();
        stats.connected = true;
        stats.set_link(v1::LinkState::Closed);
        stats.link_error.clear();
        stats.draining = join.draining;
        stats.slots = join.slots;
        let names = join.types.iter().map(|known| known.definition.name.as_str());
        stats.types = names.filter(|name| types.find(name).is_some()).map(str::to_owned).collect();
    }

    pub(super) fn draining(&mut self, worker: &str) {
        if let Some(stats) = self.workers.get_mut(worker) {
            stats.draining = true;
        }
    }

    /// What the breaker of the link to a worker lets through.
    pub(super) fn link(
        &mut self,
        registration: &Registration,
        link: v1::LinkState,
        problem: String,
    ) {
        let stats = self.workers.entry(registration.worker.clone()).or_default();
        if stats.worker_id.is_empty() {
            stats.worker_id = registration.worker.to_string();
            stats.slots = registration.slots;
            stats.types = registration.types.iter().map(|t| t.name.to_string()).collect();
        }
        stats.address = registration.address.to_string();
        stats.set_link(link);
        stats.link_error = problem;
        self.forget_absent();
    }

    /// A worker's session ended. It stays listed while the nameservice knows it.
    pub(super) fn left(&mut self, worker: &str) {
        if let Some(stats) = self.workers.get_mut(worker) {
            stats.connected = false;
        }
        self.forget_absent();
    }

    /// Takes over what the nameservice says of the workers.
    pub(super) fn set_endpoints(
        &mut self,
        endpoints: BTreeMap<String, v1::Health>,
        complete: bool,
    ) {
        self.health = endpoints;
        self.directory_complete = complete;
        self.forget_absent();
    }

    /// Whether the nameservice has told all that it knows, and that without this one.
    pub(super) fn is_unregistered(&self, worker: &str) -> bool {
        self.directory_complete && !self.health.contains_key(worker)
    }

    fn forget_absent(&mut self) {
        let health = &self.health;
        self.workers.retain(|id, stats| stats.connected || health.contains_key(id.as_ref()));
    }

    /// All numbers of this moment, but for the uptime.
    pub(super) fn report(
        &self,
        types: &Types,
        queue: &Queue,
        fleet: &Fleet,
        held: &BTreeMap<Arc<str>, u32>,
    ) -> v1::StatsResponse {
        let mut totals = v1::Counts::default();
        let by_type = types.by_name().filter_map(|(_, id)| {
            let known = types.get(id)?;
            let mut counts = self.types.get(&id).copied().unwrap_or_default();
            counts.scheduled = queue.lanes.scheduled(id);
            counts.pending = queue.lanes.ready(id) + counts.scheduled;
            add(&mut totals, &counts);
            Some(v1::TypeStats {
                r#type: Some((&known.definition).into()),
                counts: Some(counts),
                workers: u32::try_from(fleet.serving(id)).unwrap_or(u32::MAX),
                oldest_pending_ms: None,
            })
        });
        let types = by_type.collect();
        totals.fenced = self.fenced;
        let workers = self.workers.iter().map(|(id, stats)| {
            let mut stats = stats.clone();
            stats.held = held.get(id).copied().unwrap_or(0);
            stats.set_health(self.health.get(id.as_ref()).copied().unwrap_or_default());
            stats
        });
        v1::StatsResponse {
            totals: Some(totals),
            types,
            workers: workers.collect(),
            uptime_ms: 0,
            epoch: queue.epoch().map(Into::into),
            queued_bytes: queue.live_bytes(),
            directory_complete: self.directory_complete,
            oldest_pending_ms: None,
            commits: Some(self.commits.report()),
        }
    }

    fn of(&mut self, type_id: TypeId) -> &mut v1::Counts {
        self.types.entry(type_id).or_default()
    }
}

fn add(totals: &mut v1::Counts, counts: &v1::Counts) {
    totals.pending += counts.pending;
    totals.scheduled += counts.scheduled;
    totals.running += counts.running;
    totals.submitted += counts.submitted;
    totals.completed += counts.completed;
    totals.failed += counts.failed;
    totals.cancelled += counts.cancelled;
    totals.errors += counts.errors;
    totals.lost += counts.lost;
    totals.run_us += counts.run_us;
}
