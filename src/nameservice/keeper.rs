//! The task that owns the registry, and the handle to it.
//!
//! Requests are taken one at a time, so that a snapshot and the changes after it
//! fit without a gap. Between requests it sweeps out what ended.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::time::sleep_until;
use tracing::{info, warn};

use crate::clock::Clock;
use crate::core::id::Timestamp;
use crate::core::registry::{Change, Endpoint, Health, Registration, Registry, Rejected};
use crate::core::task_type::TypeName;

/// Requests that wait. Each takes microseconds: more only adds latency.
const REQUESTS: usize = 1_024;
/// Changes that a watcher may fall behind before it gets a new snapshot instead.
const CHANGES: usize = 4_096;
/// Requests taken before the clock is asked again.
const TURN: usize = 256;

/// All registrations at one moment.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) endpoints: Vec<Endpoint>,
    /// When it was taken.
    pub(super) now: Timestamp,
    /// The time since the nameservice started.
    pub(super) uptime: Duration,
    pub(super) ttl: Duration,
}

/// A change, and when it was made.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) change: Change,
    pub(super) now: Timestamp,
}

/// What happened since the start, and the health of everyone who is registered.
#[derive(Debug, Clone, Default)]
pub(super) struct Counts {
    pub(super) health: Vec<Health>,
    pub(super) registered: u64,
    pub(super) heartbeats: u64,
    pub(super) refused: u64,
    pub(super) deregistered: u64,
    pub(super) expired: u64,
    pub(super) probes_failed: u64,
}

/// The nameservice is ending.
#[derive(Debug)]
pub(super) struct Ending;

/// Asks the keeper. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Handle {
    requests: mpsc::Sender<Request>,
    ttl: Duration,
}

#[derive(Debug)]
enum Request {
    Register(Registration, oneshot::Sender<Result<(), Rejected>>),
    Heartbeat(Arc<str>, u64, oneshot::Sender<Result<(), Rejected>>),
    Deregister(Arc<str>, u64, oneshot::Sender<()>),
    Lookup(TypeName, oneshot::Sender<Snapshot>),
    List(oneshot::Sender<Snapshot>),
    Watch(oneshot::Sender<(Snapshot, broadcast::Receiver<Arc<Told>>)>),
    Probed(Arc<str>, u64, bool),
    Counts(oneshot::Sender<Counts>),
}

impl Handle {
    pub(super) fn ttl(&self) -> Duration {
        self.ttl
    }

    pub(super) async fn register(
        &self,
        registration: Registration,
    ) -> Result<Result<(), Rejected>, Ending> {
        self.ask(|reply| Request::Register(registration, reply)).await
    }

    pub(super) async fn heartbeat(
        &self,
        worker: Arc<str>,
        incarnation: u64,
    ) -> Result<Result<(), Rejected>, Ending> {
        self.ask(|reply| Request::Heartbeat(worker, incarnation, reply)).await
    }

    pub(super) async fn deregister(
        &self,
        worker: Arc<str>,
        incarnation: u64,
    ) -> Result<(), Ending> {
        self.ask(|reply| Request::Deregister(worker, incarnation, reply)).await
    }

    pub(super) async fn lookup(&self, name: TypeName) -> Result<Snapshot, Ending> {
        self.ask(|reply| Request::Lookup(name, reply)).await
    }

    pub(super) async fn list(&self) -> Result<Snapshot, Ending> {
        self.ask(Request::List).await
    }

    /// A snapshot, and every change after it.
    pub(super) async fn watch(&self) -> Result<(Snapshot, broadcast::Receiver<Arc<Told>>), Ending> {
        self.ask(Request::Watch).await
    }

    pub(super) async fn counts(&self) -> Result<Counts, Ending> {
        self.ask(Request::Counts).await
    }

    pub(super) async fn probed(
        &self,
        worker: Arc<str>,
        incarnation: u64,
        answered: bool,
    ) -> Result<(), Ending> {
        let probed = Request::Probed(worker, incarnation, answered);
        self.requests.send(probed).await.map_err(|_| Ending)
    }

    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<T>) -> Request,
    ) -> Result<T, Ending> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(request(reply)).await.map_err(|_| Ending)?;
        answer.await.map_err(|_| Ending)
    }
}

/// The keeper of an empty registry, and a handle to it.
pub(super) fn new(clock: Clock, ttl: Duration) -> (Handle, Keeper) {
    let (sender, requests) = mpsc::channel(REQUESTS);
    let keeper = Keeper {
        registry: Registry::new(ttl),
        requests,
        changes: broadcast::Sender::new(CHANGES),
        clock,
        started: clock.now(),
        ttl,
        counts: Counts::default(),
    };
    (Handle { requests: sender, ttl }, keeper)
}

/// Owns the registry.
#[derive(Debug)]
pub(super) struct Keeper {
    registry: Registry,
    requests: mpsc::Receiver<Request>,
    changes: broadcast::Sender<Arc<Told>>,
    clock: Clock,
    started: Timestamp,
    ttl: Duration,
    counts: Counts,
}

impl Keeper {
    /// Answers until the last handle is gone.
    pub(super) async fn run(mut self) {
        let mut batch = Vec::with_capacity(TURN);
        loop {
            let due = self.registry.next_end();
            let wake = async {
                match due {
                    Some(at) => sleep_until(self.clock.instant(at).into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                taken = self.requests.recv_many(&mut batch, TURN) => {
                    if taken == 0 {
                        return;
                    }
                }
                () = wake => {}
            }
            let now = self.clock.now();
            self.excuse_own_pause(due, now);
            for request in batch.drain(..) {
                self.answer(request, now);
            }
            let swept = self.registry.sweep(now);
            for change in &swept {
                if let Change::Removed(worker) = change {
                    self.counts.expired += 1;
                    info!(%worker, "registration ended without a heartbeat");
                }
            }
            self.tell(swept, now);
        }
    }

    /// Whoever stood still cannot tell that others did: heartbeats may wait unread.
    fn excuse_own_pause(&mut self, due: Option<Timestamp>, now: Timestamp) {
        let late = due.map_or(Duration::ZERO, |due| now.since(due));
        if late > self.ttl / 3 {
            warn!(?late, "nameservice stood still: registrations live that much longer");
            self.registry.postpone(late + self.ttl / 3);
        }
    }

    fn answer(&mut self, request: Request, now: Timestamp) {
        match request {
            Request::Register(registration, reply) => {
                let worker = Arc::clone(&registration.worker);
                let answer = self.registry.register(registration, now).map(|changes| {
                    if !changes.is_empty() {
                        info!(%worker, "registered");
                    }
                    self.tell(changes, now);
                });
                self.count(answer.is_ok(), |counts| &mut counts.registered);
                send(reply, answer);
            }
            Request::Heartbeat(worker, incarnation, reply) => {
                let answer = self.registry.heartbeat(&worker, incarnation, now);
                self.count(answer.is_ok(), |counts| &mut counts.heartbeats);
                send(reply, answer);
            }
            Request::Deregister(worker, incarnation, reply) => {
                let changes = self.registry.deregister(&worker, incarnation);
                if !changes.is_empty() {
                    info!(%worker, "deregistered");
                    self.counts.deregistered += 1;
                }
                self.tell(changes, now);
                send(reply, ());
            }
            Request::Lookup(name, reply) => {
                send(reply, self.snapshot(self.registry.lookup(&name).cloned().collect(), now));
            }
            Request::List(reply) => send(reply, self.everything(now)),
            Request::Watch(reply) => {
                send(reply, (self.everything(now), self.changes.subscribe()));
            }
            Request::Probed(worker, incarnation, answered) => {
                self.counts.probes_failed += u64::from(!answered);
                let change = self.registry.probed(&worker, incarnation, answered);
                if change.is_some() && !answered {
                    warn!(%worker, "does not answer probes: not offered until it does");
                }
                self.tell(change, now);
            }
            Request::Counts(reply) => {
                let health = self.registry.list().map(|endpoint| endpoint.health).collect();
                send(reply, Counts { health, ..self.counts.clone() });
            }
        }
    }

    fn count(&mut self, accepted: bool, which: impl FnOnce(&mut Counts) -> &mut u64) {
        let counter = if accepted { which(&mut self.counts) } else { &mut self.counts.refused };
        *counter += 1;
    }

    fn everything(&self, now: Timestamp) -> Snapshot {
        self.snapshot(self.registry.list().cloned().collect(), now)
    }

    fn snapshot(&self, endpoints: Vec<Endpoint>, now: Timestamp) -> Snapshot {
        Snapshot { endpoints, now, uptime: now.since(self.started), ttl: self.ttl }
    }

    fn tell(&self, changes: impl IntoIterator<Item = Change>, now: Timestamp) {
        for change in changes {
            // An error means that nobody watches.
            drop(self.changes.send(Arc::new(Told { change, now })));
        }
    }
}

/// Whoever asked may have left.
fn send<T>(reply: oneshot::Sender<T>, answer: T) {
    drop(reply.send(answer));
}
