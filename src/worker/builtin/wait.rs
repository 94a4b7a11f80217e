//! `wait`: sleeps for as long as the payload says. For trying things out.

use std::time::Duration;

use bytes::Bytes;

use crate::core::payload;
use crate::worker::{Builder, Context, Failure, TypeSpec};

/// The longest wait taken.
const LIMIT: Duration = Duration::from_secs(3600);
/// Its tasks sleep, so that more of them than cores run at once.
const SLOTS: u32 = 64;

pub(super) fn serve(builder: Builder, spec: TypeSpec) -> Builder {
    builder.handle(spec.duration(Some(LIMIT)), run).slots_at_least(SLOTS)
}

async fn run(_context: Context, payload: Bytes) -> Result<Bytes, Failure> {
    let duration = payload::utf8(&payload)
        .and_then(|text| payload::parse_duration_within(text, LIMIT))
        .map_err(Failure::permanent)?;
    tokio::time::sleep(duration).await;
    Ok(format!("waited {}", humantime::format_duration(duration)).into())
}
