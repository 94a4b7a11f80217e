//! What a nameservice tells of itself over HTTP.

use super::keeper::Handle;
use crate::core::registry::Health;
use crate::http;
use crate::metrics::{self, Exposition};

/// See the module.
pub(super) struct Vitals(pub(super) Handle);

impl http::Vitals for Vitals {
    /// It serves from its first moment: what it does not know yet comes to it.
    async fn lacks(&self) -> Vec<String> {
        match self.0.counts().await {
            Ok(_) => Vec::new(),
            Err(_) => vec!["time: it is about to stop".to_owned()],
        }
    }

    async fn metrics(&self) -> Exposition {
        let mut all = Exposition::default();
        let Ok(counts) = self.0.counts().await else { return all };
        for (health, name) in [
            (Health::Unknown, "unknown"),
            (Health::Healthy, "healthy"),
            (Health::Unhealthy, "unhealthy"),
        ] {
            let workers = counts.health.iter().filter(|found| **found == health).count();
            all.add(&metrics::REGISTRATIONS, &[("health", name)], workers);
        }
        for (event, count) in [
            ("registered", counts.registered),
            ("heartbeat", counts.heartbeats),
            ("refused", counts.refused),
            ("deregistered", counts.deregistered),
            ("expired", counts.expired),
            ("probe_failed", counts.probes_failed),
        ] {
            all.add(&metrics::REGISTRY_EVENTS, &[("event", event)], count);
        }
        all
    }
}
