//! The gRPC face of the monitor.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status};

use super::collector::Handle;
use super::web::every;
use crate::shutdown::Shutdown;
use crate::wire::v1;
use crate::wire::v1::monitor_server::Monitor;

/// Watches at once.
const WATCHES: usize = 256;
/// The shortest time between two messages of a watch: how often numbers are new.
const SHORTEST: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct Service {
    handle: Handle,
    shutdown: Shutdown,
    watches: Arc<Semaphore>,
}

impl Service {
    pub(super) fn new(handle: Handle, shutdown: Shutdown) -> Self {
        Self { handle, shutdown, watches: Arc::new(Semaphore::new(WATCHES)) }
    }
}

#[tonic::async_trait]
impl Monitor for Service {
    async fn get_stats(
        &self,
        _request: Request<v1::GetStatsRequest>,
    ) -> Result<Response<v1::GetStatsResponse>, Status> {
        let stats = Some(self.handle.stats().await);
        Ok(Response::new(v1::GetStatsResponse { stats }))
    }

    type WatchStatsStream =
        Pin<Box<dyn Stream<Item = Result<v1::WatchStatsResponse, Status>> + Send>>;

    async fn watch_stats(
        &self,
        request: Request<v1::WatchStatsRequest>,
    ) -> Result<Response<Self::WatchStatsStream>, Status> {
        let permit = self.watches.clone().try_acquire_owned().map_err(|_| {
            Status::resource_exhausted(format!("{WATCHES} watch the numbers already; try later"))
        })?;
        let interval = Duration::from_millis(request.into_inner().interval_ms).max(SHORTEST);
        let handle = self.handle.clone();
        let stream = every(interval, self.shutdown.clone()).map(move |()| {
            let _held = &permit;
            Ok(v1::WatchStatsResponse { stats: Some(handle.known_stats()) })
        });
        Ok(Response::new(Box::pin(stream)))
    }
}
