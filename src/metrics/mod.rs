//! What is counted and measured, under which names: every metric of every role, with
//! its unit and its help, in one table; and their exposition as text.
//!
//! Names follow the Prometheus conventions (<https://prometheus.io/docs/practices/naming/>):
//! base units, `_total` for what only grows. No label holds an id of a task: labels
//! are bounded by the number of types and workers.

mod grid;
mod process;

use std::collections::BTreeMap;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

pub use grid::of_dispatcher;
pub use process::of_process;

/// One metric: a family of numbers that differ in their labels.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Without the suffixes of its unit and kind.
    name: &'static str,
    unit: Option<Measure>,
    kind: Kind,
    help: &'static str,
}

#[derive(Debug, Clone, Copy)]
enum Measure {
    Seconds,
    Bytes,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    /// Only grows while the role runs.
    Counter,
    Gauge,
    /// How many were how large, while the role runs.
    Histogram,
}

use Measure::{Bytes, Seconds};

/// The version that runs, as a label.
pub static BUILD: Metric = gauge("taskgrid_build_info", "The version that runs; always 1.");

/// Of the dispatcher, by type.
pub static TASKS_SUBMITTED: Metric =
    counter("taskgrid_tasks_submitted", "Tasks accepted since the dispatcher started.");
/// Of the dispatcher, by type.
pub static TASKS_COMPLETED: Metric =
    counter("taskgrid_tasks_completed", "Tasks completed since the dispatcher started.");
/// Of the dispatcher, by type.
pub static TASKS_FAILED: Metric =
    counter("taskgrid_tasks_failed", "Tasks failed since the dispatcher started.");
/// Of the dispatcher, by type.
pub static TASKS_CANCELLED: Metric =
    counter("taskgrid_tasks_cancelled", "Tasks cancelled since the dispatcher started.");
/// Of the dispatcher, by type.
pub static TASKS_PENDING: Metric =
    gauge("taskgrid_tasks_pending", "Tasks that wait, scheduled ones included.");
/// Of the dispatcher, by type.
pub static TASKS_SCHEDULED: Metric =
    gauge("taskgrid_tasks_scheduled", "Tasks that wait and are not yet due.");
/// Of the dispatcher, by type.
pub static TASKS_RUNNING: Metric = gauge("taskgrid_tasks_running", "Tasks that workers hold.");
/// Of the dispatcher, by type.
pub static OLDEST_PENDING: Metric = measured(
    Seconds,
    gauge("taskgrid_oldest_pending", "For how long the oldest waiting task has been due."),
);
/// Of the dispatcher, by type.
pub static ATTEMPT_ERRORS: Metric =
    counter("taskgrid_attempt_errors", "Attempts that an error of their handler ended.");
/// Of the dispatcher, by type.
pub static ATTEMPTS_LOST: Metric =
    counter("taskgrid_attempts_lost", "Attempts whose worker was lost.");
/// Of the dispatcher, by type.
pub static TASK_RUN: Metric = measured(
    Seconds,
    counter("taskgrid_task_run", "Time that handlers took for completed attempts."),
);
/// Of the dispatcher.
pub static OUTCOMES_FENCED: Metric =
    counter("taskgrid_outcomes_fenced", "Outcomes refused because their lease was over.");
/// Of the dispatcher.
pub static COMMIT: Metric = measured(
    Seconds,
    histogram("taskgrid_commit", "Time that commits to the store took, syncs included."),
);
/// Of the dispatcher.
pub static QUEUED: Metric =
    measured(Bytes, gauge("taskgrid_queued", "Payloads of tasks that wait or run."));
/// Of the dispatcher, by type.
pub static TYPE_WORKERS: Metric =
    gauge("taskgrid_type_workers", "Workers with a session that serve the type.");
/// Of the dispatcher, by the state of the circuit breaker.
pub static LINKS: Metric =
    gauge("taskgrid_links", "Links to workers by the state of their circuit breaker.");
/// Of the dispatcher, by worker.
pub static WORKER_CONNECTED: Metric =
    gauge("taskgrid_worker_connected", "Whether a session with the worker stands: 1 or 0.");
/// Of the dispatcher, by worker.
pub static WORKER_SLOTS: Metric =
    gauge("taskgrid_worker_slots", "Tasks that the worker runs at once.");
/// Of the dispatcher, by worker.
pub static WORKER_HELD: Metric =
    gauge("taskgrid_worker_tasks_held", "Tasks that the worker holds, prefetched ones included.");
/// Of the dispatcher, by worker.
pub static WORKER_COMPLETED: Metric = counter(
    "taskgrid_worker_tasks_completed",
    "Tasks that the worker completed since the dispatcher started.",
);
/// Of the dispatcher, by worker.
pub static WORKER_FAILED: Metric = counter(
    "taskgrid_worker_attempts_failed",
    "Attempts that failed at the worker since the dispatcher started.",
);

/// Of the nameservice, by health.
pub static REGISTRATIONS: Metric =
    gauge("taskgrid_registrations", "Registered workers by what the probes found.");
/// Of the nameservice, by what happened.
pub static REGISTRY_EVENTS: Metric = counter(
    "taskgrid_registry_events",
    "Registrations, heartbeats, refusals, ends and failed probes since the start.",
);

/// Of a worker.
pub static SLOTS: Metric = gauge("taskgrid_slots", "Tasks that this worker runs at once.");
/// Of a worker.
pub static SLOTS_BUSY: Metric = gauge("taskgrid_slots_busy", "Slots in which a handler runs.");
/// Of a worker.
pub static TASKS_WAITING: Metric =
    gauge("taskgrid_tasks_waiting", "Tasks that wait for a slot of this worker.");
/// Of a worker.
pub static SESSIONS: Metric = gauge("taskgrid_sessions", "Dispatchers with an open session.");
/// Of a worker, by type.
pub static ATTEMPTS_STARTED: Metric =
    counter("taskgrid_attempts_started", "Handlers started since this worker started.");
/// Of a worker, by type and end.
pub static ATTEMPTS_ENDED: Metric = counter(
    "taskgrid_attempts_ended",
    "Attempts that ended since this worker started, by how they ended.",
);
/// Of a worker.
pub static OUTCOMES_UNANSWERED: Metric =
    gauge("taskgrid_outcomes_unanswered", "Outcomes that wait for a dispatcher's final answer.");

/// Of the monitor, by source.
pub static SOURCE_UP: Metric =
    gauge("taskgrid_source_up", "Whether the source answered when last asked: 1 or 0.");
/// Of the monitor, by source.
pub static SOURCE_AGE: Metric =
    measured(Seconds, gauge("taskgrid_source_age", "The time since the source last answered."));

const fn counter(name: &'static str, help: &'static str) -> Metric {
    Metric { name, unit: None, kind: Kind::Counter, help }
}

const fn gauge(name: &'static str, help: &'static str) -> Metric {
    Metric { name, unit: None, kind: Kind::Gauge, help }
}

const fn histogram(name: &'static str, help: &'static str) -> Metric {
    Metric { name, unit: None, kind: Kind::Histogram, help }
}

const fn measured(unit: Measure, metric: Metric) -> Metric {
    Metric { unit: Some(unit), ..metric }
}

/// One number, or how many there were of each size.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A count.
    Whole(u64),
    /// A measure.
    Real(f64),
    /// Of a histogram.
    Spread(Spread),
}

/// How many were how large.
#[derive(Debug, Clone, PartialEq)]
pub struct Spread {
    /// Of all of them.
    pub sum: f64,
    /// Each upper bound, and how many were up to it but above the one before. The last
    /// bound is `f64::INFINITY`.
    pub buckets: Vec<(f64, u64)>,
}

impl From<Spread> for Value {
    fn from(spread: Spread) -> Self {
        Self::Spread(spread)
    }
}

impl From<u64> for Value {
    fn from(count: u64) -> Self {
        Self::Whole(count)
    }
}

impl From<u32> for Value {
    fn from(count: u32) -> Self {
        Self::Whole(count.into())
    }
}

impl From<usize> for Value {
    fn from(count: usize) -> Self {
        Self::Whole(u64::try_from(count).unwrap_or(u64::MAX))
    }
}

impl From<bool> for Value {
    fn from(is_so: bool) -> Self {
        Self::Whole(is_so.into())
    }
}

impl From<std::time::Duration> for Value {
    fn from(span: std::time::Duration) -> Self {
        Self::Real(span.as_secs_f64())
    }
}

type Labels = Vec<(&'static str, String)>;

/// The numbers of one moment.
#[derive(Debug, Default)]
pub struct Exposition {
    families: BTreeMap<&'static str, Family>,
}

#[derive(Debug)]
struct Family {
    metric: &'static Metric,
    samples: Vec<(Labels, Value)>,
}

impl Exposition {
    /// Adds a number.
    pub fn add(
        &mut self,
        metric: &'static Metric,
        labels: &[(&'static str, &str)],
        value: impl Into<Value>,
    ) {
        let labels = labels.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        let family = || Family { metric, samples: Vec::new() };
        self.families
            .entry(metric.name)
            .or_insert_with(family)
            .samples
            .push((labels, value.into()));
    }

    /// As OpenMetrics text, version 1.0.
    #[must_use]
    pub fn open_metrics(self) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        // Writing into a string fails only where a number refuses to be written.
        encode(&mut text, &registry).unwrap_or_else(|_| text.clear());
        text
    }

    /// As Prometheus text, version 0.0.4, for readers that do not ask for OpenMetrics:
    /// there, a counter's family carries the suffix of its samples, and there are no
    /// units and no end mark.
    #[must_use]
    pub fn prometheus_text(self) -> String {
        let counters: Vec<String> = self
            .families
            .values()
            .filter(|family| matches!(family.metric.kind, Kind::Counter))
            .map(|family| family.metric.full_name())
            .collect();
        let mut text = String::new();
        for line in self.open_metrics().lines() {
            let described = line.strip_prefix("# ").and_then(|rest| {
                let (keyword, rest) = rest.split_once(' ')?;
                let (name, rest) = rest.split_once(' ')?;
                Some((keyword, name, rest))
            });
            match described {
                Some(("UNIT", ..)) => continue,
                Some((keyword, name, rest)) if counters.iter().any(|counter| counter == name) => {
                    text.extend(["# ", keyword, " ", name, "_total ", rest]);
                }
                None if line == "# EOF" => continue,
                Some(_) | None => text.push_str(line),
            }
            text.push('\n');
        }
        text
    }
}

impl Metric {
    fn full_name(&self) -> String {
        match self.unit {
            Some(Seconds) => format!("{}_seconds", self.name),
            Some(Bytes) => format!("{}_bytes", self.name),
            None => self.name.to_owned(),
        }
    }
}

impl Collector for Exposition {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        for family in self.families.values() {
            let Metric { name, unit, help, .. } = family.metric;
            let unit = unit.map(|unit| match unit {
                Seconds => Unit::Seconds,
                Bytes => Unit::Bytes,
            });
            let metric =
                encoder.encode_descriptor(name, help, unit.as_ref(), family.metric_type())?;
            family.encode(metric)?;
        }
        Ok(())
    }
}

impl EncodeMetric for Family {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        for (labels, value) in &self.samples {
            if labels.is_empty() {
                self.encode_value(&mut encoder, value)?;
            } else {
                self.encode_value(&mut encoder.encode_family(labels)?, value)?;
            }
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        match self.metric.kind {
            Kind::Counter => MetricType::Counter,
            Kind::Gauge => MetricType::Gauge,
            Kind::Histogram => MetricType::Histogram,
        }
    }
}

impl Family {
    fn encode_value(
        &self,
        sample: &mut MetricEncoder<'_>,
        value: &Value,
    ) -> Result<(), std::fmt::Error> {
        match (self.metric.kind, value) {
            (Kind::Counter, Value::Whole(value)) => {
                sample.encode_counter::<NoLabelSet, _, u64>(value, None)
            }
            (Kind::Counter, Value::Real(value)) => {
                sample.encode_counter::<NoLabelSet, _, u64>(value, None)
            }
            (Kind::Gauge, Value::Whole(value)) => sample.encode_gauge(value),
            (Kind::Gauge, Value::Real(value)) => sample.encode_gauge(value),
            (Kind::Histogram, Value::Spread(Spread { sum, buckets })) => {
                let count = buckets.iter().map(|(_, count)| count).sum();
                sample.encode_histogram::<NoLabelSet>(*sum, count, buckets, None)
            }
            // No metric is given a value of another kind.
            (Kind::Counter | Kind::Gauge, Value::Spread(_))
            | (Kind::Histogram, Value::Whole(_) | Value::Real(_)) => Err(std::fmt::Error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_gauges_units_and_labels_are_written_as_open_metrics() {
        assert_eq!(
            sample().open_metrics(),
            "# HELP taskgrid_oldest_pending_seconds For how long the oldest waiting task has been due.\n\
             # TYPE taskgrid_oldest_pending_seconds gauge\n\
             # UNIT taskgrid_oldest_pending_seconds seconds\n\
             taskgrid_oldest_pending_seconds{type=\"sum\"} 0.25\n\
             # HELP taskgrid_tasks_completed Tasks completed since the dispatcher started.\n\
             # TYPE taskgrid_tasks_completed counter\n\
             taskgrid_tasks_completed_total{type=\"a\\\"b\"} 3\n\
             taskgrid_tasks_completed_total{type=\"sum\"} 10000\n\
             # EOF\n"
        );
    }

    #[test]
    fn older_readers_find_counters_described_under_their_full_names() {
        assert_eq!(
            sample().prometheus_text(),
            "# HELP taskgrid_oldest_pending_seconds For how long the oldest waiting task has been due.\n\
             # TYPE taskgrid_oldest_pending_seconds gauge\n\
             taskgrid_oldest_pending_seconds{type=\"sum\"} 0.25\n\
             # HELP taskgrid_tasks_completed_total Tasks completed since the dispatcher started.\n\
             # TYPE taskgrid_tasks_completed_total counter\n\
             taskgrid_tasks_completed_total{type=\"a\\\"b\"} 3\n\
             taskgrid_tasks_completed_total{type=\"sum\"} 10000\n"
        );
    }

    #[test]
    fn a_histogram_adds_its_buckets_up() {
        let mut exposition = Exposition::default();
        let buckets = vec![(0.001, 2), (0.01, 0), (f64::INFINITY, 1)];
        exposition.add(&COMMIT, &[], Spread { sum: 1.5, buckets });
        assert_eq!(
            exposition.prometheus_text(),
            "# HELP taskgrid_commit_seconds Time that commits to the store took, syncs included.\n\
             # TYPE taskgrid_commit_seconds histogram\n\
             taskgrid_commit_seconds_sum 1.5\n\
             taskgrid_commit_seconds_count 3\n\
             taskgrid_commit_seconds_bucket{le=\"0.001\"} 2\n\
             taskgrid_commit_seconds_bucket{le=\"0.01\"} 2\n\
             taskgrid_commit_seconds_bucket{le=\"+Inf\"} 3\n"
        );
    }

    fn sample() -> Exposition {
        let mut exposition = Exposition::default();
        exposition.add(&TASKS_COMPLETED, &[("type", "a\"b")], 3_u64);
        let age = std::time::Duration::from_millis(250);
        exposition.add(&OLDEST_PENDING, &[("type", "sum")], age);
        exposition.add(&TASKS_COMPLETED, &[("type", "sum")], 10_000_u64);
        exposition
    }
}
