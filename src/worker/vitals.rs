//! What a worker tells of itself over HTTP.

use std::sync::Arc;

use tokio::sync::watch;

use super::pool::{Pool, Served};
use crate::http;
use crate::metrics::{self, Exposition};

/// See the module.
pub(super) struct Vitals {
    pub(super) pool: Pool,
    pub(super) types: Arc<[Served]>,
    /// With how many nameservices it is registered.
    pub(super) registered: watch::Receiver<usize>,
    /// Whether it was told of any.
    pub(super) registers: bool,
}

impl http::Vitals for Vitals {
    async fn lacks(&self) -> Vec<String> {
        let mut lacks = Vec::new();
        if self.registers && *self.registered.borrow() == 0 {
            lacks.push("a registration: no nameservice knows this worker".to_owned());
        }
        if self.pool.numbers().draining {
            lacks.push("time: it is about to stop".to_owned());
        }
        lacks
    }

    async fn metrics(&self) -> Exposition {
        let numbers = self.pool.numbers();
        let mut all = Exposition::default();
        all.add(&metrics::SLOTS, &[], numbers.slots);
        all.add(&metrics::SLOTS_BUSY, &[], numbers.busy);
        all.add(&metrics::TASKS_WAITING, &[], numbers.waiting);
        all.add(&metrics::SESSIONS, &[], numbers.sessions);
        all.add(&metrics::OUTCOMES_UNANSWERED, &[], numbers.unanswered);
        for (served, counts) in self.types.iter().zip(numbers.types) {
            let name = served.task_type.name.as_str();
            all.add(&metrics::ATTEMPTS_STARTED, &[("type", name)], counts.started);
            for (end, count) in [
                ("completed", counts.completed),
                ("failed", counts.failed),
                ("released", counts.released),
            ] {
                all.add(&metrics::ATTEMPTS_ENDED, &[("type", name), ("end", end)], count);
            }
        }
        all
    }
}
