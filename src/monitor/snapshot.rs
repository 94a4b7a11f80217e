//! The whole grid at one moment, merged from what the nameservice and the dispatcher
//! told, at the same or at different times. Pure: what is known goes in, numbers come
//! out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::rates::PerSecond;
use crate::core::id::{Timestamp, millis};
use crate::discovery::{Endpoint, SourceState, View};
use crate::wire::v1::{
    GridStats, Health, StatsResponse, StatsSource, TypeFigures, TypeStats, WorkerFigures,
    WorkerStats,
};

/// What is known of the grid.
#[derive(Debug, Clone, Default)]
pub(super) struct Known {
    /// Who is registered.
    pub(super) view: Arc<View>,
    /// How the nameservices stand.
    pub(super) nameservices: Vec<SourceState>,
    /// The dispatcher's last answer.
    pub(super) dispatcher: Told,
}

/// What a dispatcher told.
#[derive(Debug, Clone, Default)]
pub(super) struct Told {
    /// Where it is.
    pub(super) url: String,
    /// Its last answer, if it ever gave one.
    pub(super) stats: Option<Arc<StatsResponse>>,
    /// When that was.
    pub(super) at: Timestamp,
    /// The rates at that moment.
    pub(super) rates: PerSecond,
    /// Why it did not answer since; empty if it did.
    pub(super) problem: String,
}

impl Known {
    /// The numbers at `now`.
    pub(super) fn stats(&self, now: Timestamp) -> GridStats {
        let nothing = StatsResponse::default();
        let told = self.dispatcher.stats.as_deref().unwrap_or(&nothing);
        let totals = told.totals.unwrap_or_default();
        let workers = self.workers(told);
        let active = workers.iter().filter(|worker| self.is_active(worker)).count();
        let types = told.types.iter().map(|of_type| self.of_type(of_type)).collect();
        let mut stats = GridStats {
            timestamp: i64::try_from(now.0).unwrap_or(i64::MAX),
            active_workers: u32::try_from(active).unwrap_or(u32::MAX),
            pending_tasks: totals.pending,
            scheduled_tasks: totals.scheduled,
            running_tasks: totals.running,
            submitted_tasks: totals.submitted,
            completed_tasks: totals.completed,
            failed_tasks: totals.failed,
            cancelled_tasks: totals.cancelled,
            attempt_errors: totals.errors,
            attempts_lost: totals.lost,
            outcomes_fenced: totals.fenced,
            average_processing_time_ms: average_ms(totals.run_us, totals.completed),
            tasks_per_second: self.dispatcher.rates.total.filter(|_| self.dispatcher_answers()),
            oldest_pending_ms: told.oldest_pending_ms,
            queued_bytes: told.queued_bytes,
            dispatcher_uptime_ms: self.dispatcher.stats.is_some().then_some(told.uptime_ms),
            missing: Vec::new(),
            workers,
            types,
            sources: self.sources(now),
        };
        stats.missing = missing(&stats);
        stats
    }

    fn dispatcher_answers(&self) -> bool {
        self.dispatcher.stats.is_some() && self.dispatcher.problem.is_empty()
    }

    /// Sessions say most about who can be given tasks; while nobody tells of them, the
    /// registry does.
    fn is_active(&self, worker: &WorkerFigures) -> bool {
        let reachable = if self.dispatcher_answers() {
            worker.connected
        } else {
            worker.health() == Health::Healthy
        };
        reachable && !worker.draining
    }

    fn workers(&self, told: &StatsResponse) -> Vec<WorkerFigures> {
        let registered = self.view.endpoints.iter();
        let mut workers: BTreeMap<String, WorkerFigures> =
            registered.map(|(id, endpoint)| (id.to_string(), of_endpoint(endpoint))).collect();
        for stats in &told.workers {
            let worker = workers.entry(stats.worker_id.clone()).or_default();
            add_stats(worker, stats, self.dispatcher_answers());
        }
        workers.into_values().collect()
    }

    fn of_type(&self, of_type: &TypeStats) -> TypeFigures {
        let counts = of_type.counts.unwrap_or_default();
        let name = of_type.r#type.as_ref().map(|t| t.name.clone()).unwrap_or_default();
        let rate = self.dispatcher.rates.types.get(&name).copied();
        TypeFigures {
            workers: of_type.workers,
            pending: counts.pending,
            scheduled: counts.scheduled,
            running: counts.running,
            submitted: counts.submitted,
            completed: counts.completed,
            failed: counts.failed,
            cancelled: counts.cancelled,
            average_processing_time_ms: average_ms(counts.run_us, counts.completed),
            tasks_per_second: rate.filter(|_| self.dispatcher_answers()),
            oldest_pending_ms: of_type.oldest_pending_ms,
            r#type: name,
        }
    }

    fn sources(&self, now: Timestamp) -> Vec<StatsSource> {
        let nameservices = self.nameservices.iter().map(|state| StatsSource {
            role: "nameservice".to_owned(),
            url: state.url.clone(),
            reachable: state.reachable,
            age_ms: state.was_heard().then(|| state.lost.map_or(0, |at| millis(now.since(at)))),
            error: state.problem.clone(),
        });
        let told = &self.dispatcher;
        let dispatcher = StatsSource {
            role: "dispatcher".to_owned(),
            url: told.url.clone(),
            reachable: self.dispatcher_answers(),
            age_ms: told.stats.as_ref().map(|_| millis(now.since(told.at))),
            error: told.problem.clone(),
        };
        nameservices.chain([dispatcher]).collect()
    }
}

fn of_endpoint(endpoint: &Endpoint) -> WorkerFigures {
    let registration = &endpoint.registration;
    WorkerFigures {
        id: registration.worker.to_string(),
        types: registration.types.iter().map(|t| t.name.to_string()).collect(),
        address: registration.address.to_string(),
        health: Health::from(endpoint.health).into(),
        slots: registration.slots,
        ..WorkerFigures::default()
    }
}

/// Of a dispatcher that does not answer, the counters stand; whether it has a session
/// is not known.
fn add_stats(worker: &mut WorkerFigures, stats: &WorkerStats, answers: bool) {
    worker.id.clone_from(&stats.worker_id);
    worker.address.clone_from(&stats.address);
    worker.types.clone_from(&stats.types);
    worker.connected = answers && stats.connected;
    worker.set_link(stats.link());
    worker.link_error.clone_from(&stats.link_error);
    worker.draining = stats.draining;
    worker.slots = stats.slots;
    worker.busy = stats.held.min(stats.slots);
    worker.held = stats.held;
    worker.completed = stats.completed;
    worker.failed = stats.failed;
    worker.average_processing_time_ms = average_ms(stats.run_us, stats.completed);
}

/// What is not as it should be, in words.
fn missing(stats: &GridStats) -> Vec<String> {
    let sources = stats.sources.iter().filter(|source| !source.reachable).map(|source| {
        format!("the {} at {} does not answer: {}", source.role, source.url, source.error)
    });
    let answers = stats.sources.iter().any(|s| s.role == "dispatcher" && s.reachable);
    let workers = stats.workers.iter().filter_map(move |worker| {
        let WorkerFigures { id, address, .. } = worker;
        if worker.health() == Health::Unhealthy {
            Some(format!("the worker {id} at {address} does not answer probes"))
        } else if answers && !worker.connected {
            let why = if worker.link_error.is_empty() { "not yet" } else { &worker.link_error };
            Some(format!("the dispatcher has no session with the worker {id}: {why}"))
        } else {
            None
        }
    });
    let types = stats.types.iter().filter(|of_type| answers && of_type.workers == 0);
    let types = types.map(|of_type| match of_type.pending {
        0 => format!("no worker serves the type {}", of_type.r#type),
        pending => format!("no worker serves the type {}; {pending} tasks wait", of_type.r#type),
    });
    sources.chain(workers).chain(types).collect()
}

fn average_ms(run_us: u64, count: u64) -> Option<f64> {
    // Whole microseconds: more was not measured.
    let average = Duration::from_micros(run_us.checked_div(count)?);
    Some(average.as_secs_f64() * 1_000.0)
}

#[cfg(test)]
mod tests;
