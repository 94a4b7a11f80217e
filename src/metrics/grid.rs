//! The dispatcher's numbers as metrics: its own exposition, and the monitor's.

use std::time::Duration;

use super::{Exposition, Metric, Spread};
use crate::wire::v1::{CommitStats, Counts, LinkState, StatsResponse, WorkerStats};

/// Everything that a dispatcher counts.
#[must_use]
pub fn of_dispatcher(stats: &StatsResponse) -> Exposition {
    let mut all = Exposition::default();
    for of_type in &stats.types {
        let name = of_type.r#type.as_ref().map_or("", |task_type| task_type.name.as_str());
        let labels = [("type", name)];
        let counts = of_type.counts.unwrap_or_default();
        for (metric, count) in by_type(&counts) {
            all.add(metric, &labels, count);
        }
        all.add(&super::TASK_RUN, &labels, Duration::from_micros(counts.run_us));
        let oldest = Duration::from_millis(of_type.oldest_pending_ms.unwrap_or(0));
        all.add(&super::OLDEST_PENDING, &labels, oldest);
        all.add(&super::TYPE_WORKERS, &labels, of_type.workers);
    }
    let totals = stats.totals.unwrap_or_default();
    all.add(&super::OUTCOMES_FENCED, &[], totals.fenced);
    all.add(&super::QUEUED, &[], stats.queued_bytes);
    if let Some(commits) = &stats.commits {
        all.add(&super::COMMIT, &[], spread(commits));
    }
    for worker in &stats.workers {
        add_worker(&mut all, worker);
    }
    for (state, name) in [
        (LinkState::Closed, "closed"),
        (LinkState::HalfOpen, "half_open"),
        (LinkState::Open, "open"),
    ] {
        let links = stats.workers.iter().filter(|worker| worker.link() == state).count();
        all.add(&super::LINKS, &[("state", name)], links);
    }
    all
}

fn spread(commits: &CommitStats) -> Spread {
    let seconds = |us| Duration::from_micros(us).as_secs_f64();
    let bucket = |up_to: Option<u64>, count| (up_to.map_or(f64::INFINITY, seconds), count);
    Spread {
        sum: seconds(commits.total_us),
        buckets: commits.buckets.iter().map(|b| bucket(b.up_to_us, b.count)).collect(),
    }
}

fn by_type(counts: &Counts) -> [(&'static Metric, u64); 9] {
    [
        (&super::TASKS_SUBMITTED, counts.submitted),
        (&super::TASKS_COMPLETED, counts.completed),
        (&super::TASKS_FAILED, counts.failed),
        (&super::TASKS_CANCELLED, counts.cancelled),
        (&super::TASKS_PENDING, counts.pending),
        (&super::TASKS_SCHEDULED, counts.scheduled),
        (&super::TASKS_RUNNING, counts.running),
        (&super::ATTEMPT_ERRORS, counts.errors),
        (&super::ATTEMPTS_LOST, counts.lost),
    ]
}

fn add_worker(all: &mut Exposition, worker: &WorkerStats) {
    let labels = [("worker", worker.worker_id.as_str())];
    all.add(&super::WORKER_CONNECTED, &labels, worker.connected);
    all.add(&super::WORKER_SLOTS, &labels, worker.slots);
    all.add(&super::WORKER_HELD, &labels, worker.held);
    all.add(&super::WORKER_COMPLETED, &labels, worker.completed);
    all.add(&super::WORKER_FAILED, &labels, worker.failed);
}
