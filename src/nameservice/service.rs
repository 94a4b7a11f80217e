//! `NameService` on the wire: parses, asks the keeper, answers.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::stream::{Stream, StreamExt as _, once, unfold};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast};
use tonic::{Request, Response, Status};
use tracing::debug;

use super::keeper::{Ending, Handle, Snapshot, Told};
use crate::core::id::millis;
use crate::core::registry::{Change, Registration, Rejected};
use crate::core::task_type::{BadTypeName, TypeName};
use crate::shutdown::Shutdown;
use crate::wire::registration::{endpoint, worker_name};
use crate::wire::v1::name_service_server::NameService;
use crate::wire::v1::watch_workers_response::Change as Message;
use crate::wire::{Malformed, v1};

/// Watches at once: dispatchers, monitors, people. Each may cost a snapshot.
const WATCHES: usize = 1_024;

/// The service; cheap to share.
#[derive(Debug)]
pub(super) struct Service {
    handle: Handle,
    watches: Arc<Semaphore>,
    shutdown: Shutdown,
}

impl Service {
    pub(super) fn new(handle: Handle, shutdown: Shutdown) -> Self {
        Self { handle, watches: Arc::new(Semaphore::new(WATCHES)), shutdown }
    }
}

#[tonic::async_trait]
impl NameService for Service {
    async fn register(
        &self,
        request: Request<v1::RegisterRequest>,
    ) -> Result<Response<v1::RegisterResponse>, Status> {
        let message = request
            .into_inner()
            .registration
            .ok_or_else(|| Malformed::new("registration", "missing"))?;
        let registration = Registration::try_from(message)?;
        self.handle.register(registration).await?.map_err(refusal)?;
        Ok(Response::new(v1::RegisterResponse { ttl_ms: millis(self.handle.ttl()) }))
    }

    async fn heartbeat(
        &self,
        request: Request<v1::HeartbeatRequest>,
    ) -> Result<Response<v1::HeartbeatResponse>, Status> {
        let v1::HeartbeatRequest { worker_id, incarnation } = request.into_inner();
        self.handle.heartbeat(worker_id, incarnation).await?.map_err(refusal)?;
        Ok(Response::new(v1::HeartbeatResponse { ttl_ms: millis(self.handle.ttl()) }))
    }

    async fn deregister(
        &self,
        request: Request<v1::DeregisterRequest>,
    ) -> Result<Response<v1::DeregisterResponse>, Status> {
        let v1::DeregisterRequest { worker_id, incarnation } = request.into_inner();
        self.handle.deregister(worker_id, incarnation).await?;
        Ok(Response::new(v1::DeregisterResponse {}))
    }

    async fn lookup(
        &self,
        request: Request<v1::LookupRequest>,
    ) -> Result<Response<v1::LookupResponse>, Status> {
        let name: TypeName = request
            .into_inner()
            .r#type
            .parse()
            .map_err(|bad: BadTypeName| Malformed::new("type", bad.to_string()))?;
        let found = self.handle.lookup(name).await?;
        Ok(Response::new(v1::LookupResponse { endpoints: endpoints(&found) }))
    }

    async fn list(
        &self,
        _request: Request<v1::ListWorkersRequest>,
    ) -> Result<Response<v1::ListWorkersResponse>, Status> {
        let all = self.handle.list().await?;
        Ok(Response::new(v1::ListWorkersResponse { endpoints: endpoints(&all) }))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<v1::WatchWorkersResponse, Status>> + Send>>;

    async fn watch(
        &self,
        _request: Request<v1::WatchWorkersRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let permit = Arc::clone(&self.watches)
            .try_acquire_owned()
            .map_err(|_| Status::resource_exhausted("too many watch this nameservice"))?;
        let (snapshot, changes) = self.handle.watch().await?;
        let first = message(Message::Snapshot(told_whole(&snapshot)));
        let watch = Watch {
            handle: self.handle.clone(),
            changes,
            shutdown: self.shutdown.clone(),
            _permit: permit,
        };
        let rest = unfold(watch, async |mut watch| {
            let next = watch.next().await?;
            Some((Ok(next), watch))
        });
        Ok(Response::new(Box::pin(once(async { Ok(first) }).chain(rest))))
    }
}

struct Watch {
    handle: Handle,
    changes: broadcast::Receiver<Arc<Told>>,
    shutdown: Shutdown,
    _permit: OwnedSemaphorePermit,
}

impl Watch {
    /// The next message; `None` ends the stream.
    async fn next(&mut self) -> Option<v1::WatchWorkersResponse> {
        let told = tokio::select! {
            () = self.shutdown.begun() => return None,
            told = self.changes.recv() => told,
        };
        match told {
            Ok(told) => Some(message(told_change(&told))),
            Err(RecvError::Closed) => None,
            Err(RecvError::Lagged(missed)) => {
                debug!(missed, "a watcher fell behind and gets a new snapshot");
                let (snapshot, changes) = self.handle.watch().await.ok()?;
                self.changes = changes;
                Some(message(Message::Snapshot(told_whole(&snapshot))))
            }
        }
    }
}

impl From<Ending> for Status {
    fn from(Ending: Ending) -> Self {
        Self::unavailable("the nameservice is ending")
    }
}

fn refusal(rejected: Rejected) -> Status {
    let text = rejected.to_string();
    match rejected {
        Rejected::Older { .. } => Status::failed_precondition(text),
        Rejected::NotRegistered { .. } => Status::not_found(text),
        Rejected::Full { .. } => Status::resource_exhausted(text),
    }
}

fn endpoints(snapshot: &Snapshot) -> Vec<v1::Endpoint> {
    snapshot.endpoints.iter().map(|known| endpoint(known, snapshot.now)).collect()
}

fn told_whole(snapshot: &Snapshot) -> v1::RegistrySnapshot {
    v1::RegistrySnapshot {
        endpoints: endpoints(snapshot),
        uptime_ms: millis(snapshot.uptime),
        ttl_ms: millis(snapshot.ttl),
    }
}

fn told_change(told: &Told) -> Message {
    match &told.change {
        Change::Put(put) => Message::Put(endpoint(put, told.now)),
        Change::Removed(worker) => Message::Removed(worker.as_ref().to_owned()),
    }
}

fn message(change: Message) -> v1::WatchWorkersResponse {
    v1::WatchWorkersResponse { change: Some(change) }
}
