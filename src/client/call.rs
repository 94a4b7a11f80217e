//! One call, tried again while its fate is unknown.
//!
//! Every call of the dispatcher may be repeated: a submit carries its key, all
//! others change nothing that a repetition would change again.

use std::time::Duration;

use tokio::time::Instant;
use tonic::{Response, Status};

use super::error::{Error, fate_is_unknown};
use crate::rpc::{self, Backoff};

/// How long failures in a row are put up with.
#[derive(Debug)]
pub(super) struct Patience {
    total: Duration,
    since: Option<Instant>,
    backoff: Backoff,
}

impl Patience {
    pub(super) fn new(total: Duration) -> Self {
        Self { total, since: None, backoff: Backoff::new() }
    }

    /// Something went well: the next failure is the first.
    pub(super) fn restore(&mut self) {
        self.since = None;
        self.backoff.reset();
    }

    /// Pauses before the next attempt, the last of which is made when patience
    /// ends; false if it is over.
    pub(super) async fn pause(&mut self, url: &str, status: &Status) -> bool {
        let first = self.since.is_none();
        let since = *self.since.get_or_insert_with(Instant::now);
        let left = self.total.saturating_sub(since.elapsed());
        if left.is_zero() {
            return false;
        }
        if first {
            let (error, patience) = (rpc::reason(status), self.total);
            tracing::warn!(url, error, ?patience, "dispatcher unavailable, trying again");
        }
        tokio::time::sleep(self.backoff.next().min(left)).await;
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
            Err(status) if fate_is_unknown(&status) && patience.pause(url, &status).await => {}
            Err(status) => return Err(Error::from_status(url, &status)),
        }
    }
}
