//! Workers whose handlers do as the test needs it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use taskgrid::client::{SubmitOptions, Task};
use taskgrid::core::id::TaskId;
use taskgrid::testing::Grid;
use taskgrid::worker::{Builder, Context, Failure, Worker};
use tokio::sync::Semaphore;

/// A worker of the type `slow`, whose handler answers with the worker's name once
/// it is let go.
pub(crate) fn slow(name: &'static str, go: &Arc<Semaphore>) -> Builder {
    let go = go.clone();
    Worker::builder().handle("slow", move |_context: Context, _payload: Bytes| {
        let go = go.clone();
        async move {
            go.acquire().await.map_err(Failure::from)?.forget();
            Ok(Bytes::from_static(name.as_bytes()))
        }
    })
}

/// A worker of the type `flaky`, whose handler fails until its attempt is that of
/// the payload; and the number of its starts.
pub(crate) fn flaky() -> (Builder, Arc<AtomicU32>) {
    let starts = Arc::new(AtomicU32::new(0));
    let counted = starts.clone();
    let worker = Worker::builder().handle("flaky", move |context: Context, payload: Bytes| {
        counted.fetch_add(1, Ordering::Relaxed);
        async move {
            let wanted: u32 = std::str::from_utf8(&payload)?.parse()?;
            if context.attempt() < wanted {
                let problem = format!("attempt {} is too early", context.attempt());
                return Err(Failure::error(problem).retry_after(Duration::ZERO));
            }
            Ok(Bytes::from("at last"))
        }
    });
    (worker, starts)
}

/// Submits one task.
pub(crate) async fn submit(grid: &Grid, task: Task) -> TaskId {
    grid.client().submit(&[task], &SubmitOptions::default()).await.unwrap().ids[0]
}
