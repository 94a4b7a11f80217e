//! The tasks that failed last, for the page. They are asked for only while somebody
//! looks, and one answer serves all who look at that moment.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::client::{Client, ListOptions, TaskView};
use crate::core::task::Status;

/// How many are shown.
const SHOWN: u32 = 10;
/// How long an answer serves.
const FRESH: Duration = Duration::from_secs(2);

/// Cheap to clone.
#[derive(Clone)]
pub(super) struct Failures {
    client: Client,
    last: Arc<Mutex<Option<Answer>>>,
}

/// The tasks, and when they were told.
type Answer = (Instant, Arc<[TaskView]>);

impl Failures {
    pub(super) fn new(client: Client) -> Self {
        Self { client: client.with_patience(Duration::ZERO), last: Arc::default() }
    }

    /// The newest failed tasks, newest first; what was last known where the
    /// dispatcher does not answer.
    pub(super) async fn newest(&self) -> Arc<[TaskView]> {
        let mut last = self.last.lock().await;
        if let Some((at, tasks)) = &*last
            && at.elapsed() < FRESH
        {
            return tasks.clone();
        }
        let options = ListOptions {
            status: Some(Status::Failed),
            page_size: SHOWN,
            ..ListOptions::default()
        };
        let tasks: Arc<[TaskView]> =
            match tokio::time::timeout(FRESH, self.client.list(options)).await {
                Ok(Ok(page)) => page.tasks.into(),
                Ok(Err(error)) => {
                    tracing::debug!(%error, "no failed tasks to show");
                    last.as_ref().map(|(_, tasks)| tasks.clone()).unwrap_or_default()
                }
                Err(_) => last.as_ref().map(|(_, tasks)| tasks.clone()).unwrap_or_default(),
            };
        *last = Some((Instant::now(), tasks.clone()));
        tasks
    }
}
