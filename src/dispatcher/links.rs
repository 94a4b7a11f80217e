//! Links to workers: for each worker that the nameservice names, one task that
//! dials it, holds a session, and dials again when that is lost. So it is for the
//! workers that the log names, until a nameservice tells who is there: a dispatcher
//! that starts while there is none goes on with those it had.
//!
//! A live session outranks the registry: a link ends only when its session is lost
//! and the worker is no longer registered.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Code, Status, Streaming};

use super::reports;
use super::scheduler::{Gone, Handle, Join, Message};
use super::types::Known;
use super::unary::Calls;
use crate::clock::Clock;
use crate::core::breaker::{Breaker, State};
use crate::core::id::{Epoch, TaskId, millis};
use crate::core::limits;
use crate::core::payload::Checker;
use crate::core::placement::Member;
use crate::core::queue::Claim;
use crate::core::registry::Registration;
use crate::core::task::Holder;
use crate::core::task_type::TaskType;
use crate::discovery::View;
use crate::rpc::{self, Backoff, Network};
use crate::shutdown::Shutdown;
use crate::store::{self, Store};
use crate::wire::registration::worker_name;
use crate::wire::v1::worker_client::WorkerClient;
use crate::wire::v1::{self, session_request, session_response};
use crate::wire::{self, Malformed};

/// What every link needs.
#[derive(Debug)]
pub(crate) struct Links {
    /// The loop that owns the tasks.
    pub(crate) handle: Handle,
    /// Who is registered, and who is remembered.
    pub(crate) view: watch::Receiver<Arc<View>>,
    /// Tells what the log has of the tasks that a worker says it holds.
    pub(crate) store: Arc<dyn Store>,
    /// Names this dispatcher across its restarts.
    pub(crate) dispatcher_id: String,
    /// This boot.
    pub(crate) epoch: Epoch,
    /// A session that is silent for so long is over.
    pub(crate) lease: Duration,
    /// Bytes of the largest payload, and of the largest result.
    pub(crate) max_payload: u64,
    /// Where workers are dialled.
    pub(crate) network: Network,
    /// Tells when a link may be tried again.
    pub(crate) clock: Clock,
    /// Numbers the sessions of this boot.
    pub(crate) sessions: AtomicU64,
}

/// Why a session ended, or did not begin.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error(transparent)]
    Address(#[from] rpc::Error),
    #[error("{}", rpc::reason(.0))]
    Status(#[from] Status),
    #[error("the worker was silent for too long")]
    Silent,
    #[error("the worker ended the session")]
    Closed,
    #[error("the worker said something malformed: {0}")]
    Malformed(#[from] Malformed),
    #[error("the worker there is {found}")]
    Another { found: Arc<str> },
    /// The log tells of a worker neither its types nor its slots.
    #[error("no sessions there: what it serves stands in its registration alone")]
    Unregistered,
    #[error("a nameservice told otherwise")]
    Replaced,
    #[error(transparent)]
    Gone(#[from] Gone),
    #[error("reading the store: {0}")]
    Store(String),
}

/// A worker's hello, and what it says after.
type Opened = (Join, Streaming<v1::SessionResponse>);

/// A worker to dial.
#[derive(Debug)]
enum Peer {
    /// A nameservice names it.
    Registered(Arc<Registration>),
    /// The log alone does.
    Remembered { worker: Arc<str>, address: Arc<str> },
}

impl Peer {
    fn worker(&self) -> &Arc<str> {
        match self {
            Self::Registered(registration) => &registration.worker,
            Self::Remembered { worker, .. } => worker,
        }
    }

    fn address(&self) -> &Arc<str> {
        match self {
            Self::Registered(registration) => &registration.address,
            Self::Remembered { address, .. } => address,
        }
    }

    /// Whether the nameservices told that a remembered worker is elsewhere, or nowhere.
    /// A registered one is looked up anew each time.
    fn is_replaced(&self, view: &View) -> bool {
        match self {
            Self::Registered(_) => false,
            Self::Remembered { worker, address } => match view.endpoints.get(worker) {
                Some(endpoint) => endpoint.registration.address != *address,
                None => !view.remembered.contains_key(worker),
            },
        }
    }

    /// Whether there is nothing to dial again. Where another worker is, each dial would
    /// end the session that it has.
    fn is_nowhere(&self, lost: &Lost) -> bool {
        let is_remembered = matches!(self, Self::Remembered { .. });
        is_remembered && matches!(lost, Lost::Another { .. } | Lost::Unregistered)
    }
}

impl Links {
    /// Keeps links to all workers that are registered or remembered, until the shutdown.
    pub(crate) async fn run(self, shutdown: Shutdown) {
        let links = Arc::new(self);
        let mut view = links.view.clone();
        let mut running = JoinSet::new();
        let mut linked: BTreeSet<Arc<str>> = BTreeSet::new();
        let mut left: BTreeSet<Arc<str>> = BTreeSet::new();
        loop {
            let current = view.borrow_and_update().clone();
            if links.tell_directory(&current).await.is_err() {
                break;
            }
            let remembered = current.remembered.keys().filter(|worker| !left.contains(*worker));
            for worker in current.endpoints.keys().chain(remembered) {
                if linked.insert(worker.clone()) {
                    let (links, worker) = (links.clone(), worker.clone());
                    running.spawn(async move {
                        let is_left = links.keep(&worker).await;
                        (worker, is_left)
                    });
                }
            }
            tokio::select! {
                changed = view.changed() => {
                    if changed.is_err() {
                        break;
                    }
                }
                Some(ended) = running.join_next() => match ended {
                    Ok((worker, is_left)) => {
                        linked.remove(&worker);
                        if is_left {
                            left.insert(worker);
                        }
                    }
                    Err(panic) => tracing::error!(%panic, "a link to a worker ended; this is a bug"),
                },
                () = shutdown.begun() => break,
            }
        }
        running.shutdown().await;
    }

    /// Tells the loop which types and workers are registered.
    async fn tell_directory(&self, view: &View) -> Result<(), Gone> {
        let known = self.handle.types();
        let mut news: BTreeMap<_, Known> = BTreeMap::new();
        for endpoint in view.endpoints.values() {
            for definition in &endpoint.registration.types {
                if !known.knows(definition)
                    && let Ok(known) = compile(definition.clone())
                {
                    news.insert(definition.name.clone(), known);
                }
            }
        }
        if !news.is_empty() {
            self.handle.tell(Message::Learn { types: news.into_values().collect() }).await?;
        }
        let health = view.endpoints.iter();
        let endpoints = health.map(|(id, e)| (id.to_string(), e.health.into())).collect();
        self.handle.tell(Message::Endpoints { endpoints, complete: view.complete }).await
    }

    /// Holds sessions with one worker, one after the other, for as long as it is
    /// registered or remembered. A link that fails again and again is left alone for a
    /// while, longer each time up to half a lease, then tried once; what handlers do
    /// never counts. Tells whether what the log has of the worker is of no use.
    async fn keep(&self, worker: &Arc<str>) -> bool {
        // However long it was away: a worker that is back works again within a lease.
        let longest_pause = self.lease / 2;
        let mut backoff = Backoff::new();
        let mut breaker = Breaker::with_pauses_up_to(longest_pause);
        let mut problem = String::new();
        let Some(mut peer) = self.peer(worker) else { return false };
        // What was found at an address of the log says nothing of a registered one.
        while !peer.is_replaced(&self.view.borrow()) {
            match self.peer(worker) {
                Some(found) => peer = found,
                None => return false,
            }
            let now = self.clock.now();
            if !breaker.admits(now) {
                let chance = breaker.next_chance(now).unwrap_or_default();
                self.pause_until(self.clock.instant(chance).into(), &peer).await;
                continue;
            }
            let trial = breaker.state(now) == State::HalfOpen;
            if trial && self.tell_link(&peer, State::HalfOpen, &problem).await.is_err() {
                return false;
            }
            let mut stood = false;
            let lost = match self.session(&peer, &mut stood).await {
                Ok(()) | Err(Lost::Gone(_) | Lost::Replaced) => return false,
                Err(lost) => lost,
            };
            if peer.is_nowhere(&lost) {
                tracing::info!(%worker, address = %peer.address(), %lost, "a worker of the log is left to the nameservice");
                return true;
            }
            problem = lost.to_string();
            if stood {
                tracing::info!(%worker, address = %peer.address(), %lost, "session lost");
                breaker.succeeded();
                backoff.reset();
            } else {
                self.count_failure(&mut breaker, &peer, &lost);
            }
            let state = breaker.state(self.clock.now());
            if self.tell_link(&peer, state, &problem).await.is_err() {
                return false;
            }
            let pause = backoff.next().min(longest_pause);
            self.pause_until(Instant::now() + pause, &peer).await;
        }
        false
    }

    fn count_failure(&self, breaker: &mut Breaker, peer: &Peer, lost: &Lost) {
        let before = breaker.state(self.clock.now());
        breaker.failed(self.clock.now());
        let state = breaker.state(self.clock.now());
        let (worker, address) = (peer.worker(), peer.address());
        if before == State::Closed && state != State::Closed {
            tracing::warn!(%worker, %address, %lost, "worker cannot be reached: the link pauses");
        } else {
            tracing::debug!(%worker, %address, %lost, "no session");
        }
    }

    /// Waits, but not with what a nameservice has told otherwise of.
    async fn pause_until(&self, end: Instant, peer: &Peer) {
        tokio::select! {
            () = tokio::time::sleep_until(end) => {}
            () = self.replaced(peer) => {}
        }
    }

    /// Ends once [`Peer::is_replaced`].
    async fn replaced(&self, peer: &Peer) {
        let mut view = self.view.clone();
        if view.wait_for(|view| peer.is_replaced(view)).await.is_err() {
            // Nobody tells any more: the dispatcher stops.
            std::future::pending::<()>().await;
        }
    }

    /// How a worker is known; `None` if it is not, or not any more.
    fn peer(&self, worker: &Arc<str>) -> Option<Peer> {
        let view = self.view.borrow();
        if let Some(endpoint) = view.endpoints.get(worker) {
            return Some(Peer::Registered(endpoint.registration.clone()));
        }
        let address = view.remembered.get(worker)?.clone();
        Some(Peer::Remembered { worker: worker.clone(), address })
    }

    async fn tell_link(&self, peer: &Peer, state: State, problem: &str) -> Result<(), Gone> {
        // Only who is registered is listed without a session.
        let Peer::Registered(registration) = peer else { return Ok(()) };
        let state = match state {
            State::Closed => v1::LinkState::Closed,
            State::Open { .. } => v1::LinkState::Open,
            State::HalfOpen => v1::LinkState::HalfOpen,
        };
        let (registration, problem) = (registration.clone(), problem.to_owned());
        self.handle.tell(Message::Link { registration, state, problem }).await
    }

    /// One session, from hello to its end.
    async fn session(&self, peer: &Peer, stood: &mut bool) -> Result<(), Lost> {
        let session = self.sessions.fetch_add(1, Ordering::Relaxed) + 1;
        let opened = tokio::select! {
            opened = self.open(peer, session) => opened?,
            () = self.replaced(peer) => return Err(Lost::Replaced),
        };
        let Some((join, mut reports)) = opened else {
            let Peer::Registered(registration) = peer else { return Err(Lost::Unregistered) };
            return self.calls(registration, session, stood).await;
        };
        let joined = self.handle.ask(|reply| Message::Join { join, reply }).await?;
        *stood = true;
        let ended = self.listen(joined.member, &mut reports).await;
        let goodbye = matches!(ended, Err(Lost::Closed));
        self.handle.tell(Message::Leave { member: joined.member, goodbye }).await?;
        ended
    }

    /// Dials a worker and reads its hello; `None` if it serves no sessions.
    async fn open(&self, peer: &Peer, session: u64) -> Result<Option<Opened>, Lost> {
        let (frames, requests) = mpsc::unbounded_channel();
        let mut client = self.client(self.network.channel(peer.address())?);
        // The receiving end is in this function.
        drop(frames.send(self.hello(session)));
        let patience = rpc::CONNECT_TIMEOUT + rpc::CALL_TIMEOUT;
        let opening = client.session(UnboundedReceiverStream::new(requests));
        let opened = timeout(patience, opening).await.map_err(|_| Lost::Silent)?;
        let mut reports = match opened {
            Ok(opened) => opened.into_inner(),
            Err(status) if status.code() == Code::Unimplemented => return Ok(None),
            Err(status) => return Err(status.into()),
        };
        let first = timeout(patience, reports.message()).await.map_err(|_| Lost::Silent)?;
        let Some(session_response::Frame::Hello(hello)) = first?.and_then(|first| first.frame)
        else {
            return Err(Malformed::new("hello", "the first message is no hello").into());
        };
        let join = self.parse_hello(hello, peer.address(), session, frames).await?;
        if join.holder.worker != *peer.worker() {
            return Err(Lost::Another { found: join.holder.worker });
        }
        Ok(Some((join, reports)))
    }

    /// The stand-in for a session with a worker that only serves Execute.
    async fn calls(
        &self,
        registration: &Registration,
        session: u64,
        stood: &mut bool,
    ) -> Result<(), Lost> {
        let (frames, requests) = mpsc::unbounded_channel();
        let types: Vec<Known> =
            registration.types.iter().cloned().map(compile).collect::<Result<_, _>>()?;
        let names = types.iter().map(|known| known.definition.name.as_str().into()).collect();
        let worker = registration.worker.clone();
        let join = Join {
            holder: Holder { worker, incarnation: registration.incarnation },
            address: registration.address.clone(),
            types,
            slots: registration.slots,
            claims: None,
            draining: false,
            frames,
            session,
        };
        let joined = self.handle.ask(|reply| Message::Join { join, reply }).await?;
        *stood = true;
        tracing::info!(worker = %registration.worker, "no sessions there: tasks go by Execute");
        let calls = Calls {
            handle: self.handle.clone(),
            // Servers of another make end connections that ping as often as ours.
            client: self.client(self.network.foreign_channel(&registration.address)?),
            member: joined.member,
            epoch: self.epoch,
            types: names,
            max_result: self.max_payload,
            extend: self.lease / 3,
        };
        let status = calls.run(requests, self.changed(registration)).await?;
        self.handle.tell(Message::Leave { member: joined.member, goodbye: false }).await?;
        Err(status.into())
    }

    /// Ends once a worker is registered otherwise than so.
    async fn changed(&self, registration: &Registration) {
        let mut view = self.view.clone();
        let differs = |view: &Arc<View>| {
            let endpoint = view.endpoints.get(&registration.worker);
            endpoint.is_some_and(|endpoint| *endpoint.registration != *registration)
        };
        if view.wait_for(differs).await.is_err() {
            // Nobody tells any more: the dispatcher stops.
            std::future::pending::<()>().await;
        }
    }

    fn client(&self, channel: rpc::Channel) -> WorkerClient<rpc::Channel> {
        let bytes = rpc::message_bytes(self.max_payload);
        WorkerClient::new(channel).max_decoding_message_size(bytes).max_encoding_message_size(bytes)
    }

    fn hello(&self, session: u64) -> v1::SessionRequest {
        let hello = session_request::Frame::Hello(v1::DispatcherHello {
            dispatcher_id: self.dispatcher_id.clone(),
            epoch: Some(self.epoch.into()),
            session,
            lease_ms: millis(self.lease),
            max_result_bytes: self.max_payload,
        });
        v1::SessionRequest { frame: Some(hello) }
    }

    async fn listen(
        &self,
        member: Member,
        reports: &mut Streaming<v1::SessionResponse>,
    ) -> Result<(), Lost> {
        loop {
            let message = timeout(self.lease, reports.message()).await.map_err(|_| Lost::Silent)?;
            let Some(message) = message? else { return Err(Lost::Closed) };
            match message.frame {
                Some(session_response::Frame::Report(report)) => {
                    let report = reports::parse(report, self.epoch, self.max_payload)?;
                    self.handle.tell(Message::Report { member, report }).await?;
                }
                Some(session_response::Frame::Hello(_)) => {
                    return Err(Malformed::new("hello", "a second hello").into());
                }
                // A frame of a later version: nothing that this one could act on.
                None => {}
            }
        }
    }

    async fn parse_hello(
        &self,
        hello: v1::WorkerHello,
        address: &Arc<str>,
        session: u64,
        frames: mpsc::UnboundedSender<v1::SessionRequest>,
    ) -> Result<Join, Lost> {
        if hello.slots == 0 || hello.slots > limits::SLOTS {
            let problem = format!("{}; a worker has 1 to {} slots", hello.slots, limits::SLOTS);
            return Err(Malformed::new("hello.slots", problem).into());
        }
        if hello.types.is_empty() || hello.types.len() > limits::WORKER_TYPES {
            let (types, most) = (hello.types.len(), limits::WORKER_TYPES);
            let problem = format!("{types}; a worker serves 1 to {most} types");
            return Err(Malformed::new("hello.types", problem).into());
        }
        let types = hello.types.into_iter().map(|message| compile(TaskType::try_from(message)?));
        let types = types.collect::<Result<Vec<_>, Malformed>>()?;
        let claims = self.parse_claims(hello.held).await?;
        let worker = worker_name(hello.worker_id)?;
        Ok(Join {
            holder: Holder { worker, incarnation: hello.incarnation },
            address: address.clone(),
            types,
            slots: hello.slots,
            claims: Some(claims),
            draining: hello.draining,
            frames,
            session,
        })
    }

    async fn parse_claims(&self, held: Vec<v1::HeldLease>) -> Result<Vec<Claim>, Lost> {
        if held.is_empty() {
            return Ok(Vec::new());
        }
        let ids: Vec<TaskId> = held.iter().map(|lease| TaskId(lease.task_id)).collect();
        let specs = store::apart(&self.store, move |store| store.specs(&ids)).await;
        let specs = specs.map_err(|error| Lost::Store(error.to_string()))?;
        let claims = held.into_iter().zip(specs).map(|(lease, spec)| {
            let token = lease.token.ok_or_else(|| Malformed::new("held.token", "missing"))?;
            Ok(Claim {
                id: TaskId(lease.task_id),
                token: wire::heard_in_session(token, self.epoch),
                attempt: lease.attempt,
                started: lease.started,
                spec,
            })
        });
        Ok(claims.collect::<Result<_, Malformed>>()?)
    }
}

fn compile(definition: TaskType) -> Result<Known, Malformed> {
    let checker = Checker::compile(&definition.payload)
        .map_err(|bad| Malformed::new("types.json_schema", bad.to_string()))?;
    Ok(Known { definition, checker: Arc::new(checker) })
}

#[cfg(test)]
mod tests;
