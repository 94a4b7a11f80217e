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
        let worker = worker_name(worker_id)?;
        self.handle.heartbeat(worker, incarnation).await?.map_err(refusal)?;
        Ok(Response::new(v1::HeartbeatResponse { ttl_ms: millis(self.handle.ttl()) }))
    }

    async fn deregister(
        &self,
        request: Request<v1::DeregisterRequest>,
    ) -> Result<Response<v1::DeregisterResponse>, Status> {
        let v1::DeregisterRequest { worker_id, incarnation } = request.into_inner();
        let worker = worker_name(worker_id)?;
        self.handle.deregister(worker, incarnation).await?;
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

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::keeper;
    use super::*;
    use crate::clock::Clock;
    use crate::core::task_type::{PayloadKind, TaskType};

    #[tokio::test]
    async fn a_watcher_that_fell_behind_gets_a_snapshot_and_what_follows_it() {
        let (handle, keeper) = keeper::new(Clock::start(), Duration::from_secs(3600));
        let keeping = tokio::spawn(keeper.run());
        let (_, changes) = handle.watch().await.unwrap();
        let permit = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        let shutdown = Shutdown::new();
        let mut watch =
            Watch { handle: handle.clone(), changes, shutdown: shutdown.clone(), _permit: permit };

        // One change that is read in time, and then too many.
        register(&handle, 0).await;
        assert!(matches!(next(&mut watch).await, Some(Message::Put(_))));
        for slots in 1..=5_000 {
            register(&handle, slots).await;
        }
        let Some(Message::Snapshot(whole)) = next(&mut watch).await else {
            panic!("no snapshot after a lag");
        };
        let slots: Vec<u32> =
            whole.endpoints.into_iter().map(|e| e.registration.unwrap().slots).collect();
        assert_eq!(slots, [5_000]);

        handle.deregister("w1".into(), 1).await.unwrap();
        assert_eq!(next(&mut watch).await, Some(Message::Removed("w1".into())));
        shutdown.begin();
        assert_eq!(next(&mut watch).await, None);
        drop((watch, handle));
        keeping.await.unwrap();
    }

    async fn next(watch: &mut Watch) -> Option<Message> {
        watch.next().await.and_then(|message| message.change)
    }

    async fn register(handle: &Handle, slots: u32) {
        let hash = TaskType { name: "hash".parse().unwrap(), payload: PayloadKind::Bytes };
        let registration = Registration {
            worker: "w1".into(),
            incarnation: 1,
            address: "localhost:1".into(),
            types: vec![hash],
            slots,
            version: String::new(),
        };
        handle.register(registration).await.unwrap().unwrap();
    }
}
