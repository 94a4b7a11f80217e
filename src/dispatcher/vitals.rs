//! What a dispatcher tells of itself over HTTP.

use tokio::sync::watch;

use super::numbers::Numbers;
use crate::discovery::SourceState;
use crate::http;
use crate::metrics::{self, Exposition};

/// See the module.
pub(super) struct Vitals {
    pub(super) numbers: Numbers,
    pub(super) sources: watch::Receiver<Vec<SourceState>>,
}

impl http::Vitals for Vitals {
    /// It can take tasks of types that it knows, with or without a nameservice.
    async fn lacks(&self) -> Vec<String> {
        let mut lacks = Vec::new();
        let heard = self.sources.borrow().iter().any(SourceState::was_heard);
        if !heard && !self.numbers.knows_types() {
            lacks.push("a nameservice: none was reached, and no task type is known".to_owned());
        }
        if let Err(status) = self.numbers.tell().await {
            lacks.push(format!("an answer of its own loop: {}", status.message()));
        }
        lacks
    }

    async fn metrics(&self) -> Exposition {
        match self.numbers.tell().await {
            Ok(stats) => metrics::of_dispatcher(&stats),
            Err(status) => {
                tracing::debug!(reason = status.message(), "no numbers to tell");
                Exposition::default()
            }
        }
    }
}
