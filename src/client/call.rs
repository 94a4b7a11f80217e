//! One call, tried again while its fate is unknown.
//!
//! Every call of the dispatcher may be repeated: a submit carries its key, all
//! others change nothing that a repetition would change again.

use std::time::Duration;

use tokio::time::Instant;
use tonic::{Response, Status};

use super::error::{Error, fate_is_unknown};

/// The first pause between two attempts, doubled up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// How long failures in a row are put up with.
#[derive(Debug)]
pub(super) struct Patience {
    total: Duration,
    since: Option<Instant>,
    failures: u32,
}

impl Patience {
    pub(super) fn new(total: Duration) -> Self {
        Self { total, since: None, failures: 0 }
    }

    /// Something went well: the next failure is the first.
    pub(super) fn restore(&mut self) {
        self.since = None;
        self.failures = 0;
    }

    /// Pauses before the next attempt; false if patience would be over by then.
    pub(super) async fn pause(&mut self) -> bool {
        let since = *self.since.get_or_insert_with(Instant::now);
        let ceiling = FIRST_PAUSE.saturating_mul(1 << self.failures.min(16)).min(LONGEST_PAUSE);
        self.failures = self.failures.saturating_add(1);
        // Between half the ceiling and all of it, so that clients that lost the
        // same dispatcher do not come back in step.
        let pause = ceiling.mul_f64(rand::random_range(0.5..=1.0));
        if since.elapsed() + pause > self.total {
            return false;
        }
        tokio::time::sleep(pause).await;
        true
    }
}

/// Calls until an answer is final or `patience` is over.
pub(super) async fn persist<T, Call>(
    url: &str,
    patience: Duration,
    mut call: impl FnMut() -> Call,
) -> Result<T, Error>
where
    Call: Future<Output = Result<Response<T>, Status>>,
{
    let mut patience = Patience::new(patience);
    loop {
        match call().await {
            Ok(response) => return Ok(response.into_inner()),
            Err(status) if fate_is_unknown(&status) && patience.pause().await => {
                tracing::debug!(url, code = %status.code(), "dispatcher unavailable, trying again");
            }
            Err(status) => return Err(Error::from_status(url, &status)),
        }
    }
}
