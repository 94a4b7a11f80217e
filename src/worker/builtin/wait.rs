//! `wait`: sleeps for as long as the payload says. For trying things out.

use std::time::Duration;

use bytes::Bytes;

use crate::core::payload;
use crate::worker::{Context, Failure, Handler};

/// The longest wait taken unless configured.
pub const WAIT_LIMIT: Duration = Duration::from_secs(3600);

pub(super) fn handler(limit: Duration) -> impl Handler {
    move |_context: Context, payload: Bytes| async move {
        let duration = payload::utf8(&payload)
            .and_then(|text| payload::parse_duration_within(text, limit))
            .map_err(Failure::permanent)?;
        tokio::time::sleep(duration).await;
        Ok(format!("waited {}", humantime::format_duration(duration)).into())
    }
}
