//! What the monitor tells of itself over HTTP: as metrics, everything that it
//! collected.

use std::time::Duration;

use super::collector::Handle;
use crate::http;
use crate::metrics::{self, Exposition};

/// See the module.
pub(super) struct Vitals(pub(super) Handle);

impl http::Vitals for Vitals {
    async fn lacks(&self) -> Vec<String> {
        let (nameservice, dispatcher) = self.0.heard();
        let parts = [(nameservice, "a nameservice"), (dispatcher, "the dispatcher")];
        let unheard = parts.into_iter().filter(|(heard, _)| !heard);
        unheard.map(|(_, part)| format!("{part}: it was never reached")).collect()
    }

    async fn metrics(&self) -> Exposition {
        let known = self.0.fresh().await;
        let told = known.dispatcher.stats.as_deref();
        let mut all = told.map(metrics::of_dispatcher).unwrap_or_default();
        for source in known.stats(self.0.clock().now()).sources {
            let labels = [("role", source.role.as_str()), ("url", source.url.as_str())];
            all.add(&metrics::SOURCE_UP, &labels, source.reachable);
            if let Some(age) = source.age_ms {
                all.add(&metrics::SOURCE_AGE, &labels, Duration::from_millis(age));
            }
        }
        all
    }
}
