//! Links to workers: for each worker that the nameservice names, one task that
//! dials it, holds a session, and dials again when that is lost.
//!
//! A live session outranks the registry: a link ends only when its session is lost
//! and the worker is no longer registered.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::Channel;
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
use crate::wire::Malformed;
use crate::wire::registration::worker_name;
use crate::wire::v1::worker_client::WorkerClient;
use crate::wire::v1::{self, session_request, session_response};

/// What every link needs.
#[derive(Debug)]
pub(crate) struct Links {
    /// The loop that owns the tasks.
    pub(crate) handle: Handle,
    /// Who is registered.
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
    #[error(transparent)]
    Gone(#[from] Gone),
    #[error("reading the store: {0}")]
    Store(String),
}

impl Links {
    /// Keeps links to all registered workers until the shutdown.
    pub(crate) async fn run(self, shutdown: Shutdown) {
        let links = Arc::new(self);
        let mut view = links.view.clone();
        let mut running = JoinSet::new();
        let mut linked: BTreeSet<Arc<str>> = BTreeSet::new();
        loop {
            let current = view.borrow_and_update().clone();
            if links.tell_directory(&current).await.is_err() {
                break;
            }
            for worker in current.endpoints.keys() {
                if linked.insert(worker.clone()) {
                    let (links, worker) = (links.clone(), worker.clone());
                    running.spawn(async move {
                        links.keep(&worker).await;
                        worker
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
                    Ok(worker) => _ = linked.remove(&worker),
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
    /// registered. A link that fails again and again is left alone for a while, longer
    /// each time up to half a lease, then tried once; what handlers do never counts.
    async fn keep(&self, worker: &Arc<str>) {
        // However long it was away: a worker that is back works again within a lease.
        let longest_pause = self.lease / 2;
        let mut backoff = Backoff::new();
        let mut breaker = Breaker::with_pauses_up_to(longest_pause);
        let mut problem = String::new();
        loop {
            let Some(registration) = self.registration(worker) else { return };
            if !breaker.admits(self.clock.now()) {
                let chance = breaker.next_chance(self.clock.now()).unwrap_or_default();
                tokio::time::sleep_until(self.clock.instant(chance).into()).await;
                continue;
            }
            let trial = breaker.state(self.clock.now()) == State::HalfOpen;
            if trial && self.tell_link(&registration, State::HalfOpen, &problem).await.is_err() {
                return;
            }
            let mut stood = false;
            let lost = match self.session(&registration, &mut stood).await {
                Ok(()) | Err(Lost::Gone(_)) => return,
                Err(lost) => lost,
            };
            problem = lost.to_string();
            let address = &registration.address;
            if stood {
                tracing::info!(%worker, %address, %lost, "session lost");
                breaker.succeeded();
                backoff.reset();
            } else {
                let before = breaker.state(self.clock.now());
                breaker.failed(self.clock.now());
                let state = breaker.state(self.clock.now());
                if before == State::Closed && state != State::Closed {
                    tracing::warn!(%worker, %address, %lost, "worker cannot be reached: the link pauses");
                } else {
                    tracing::debug!(%worker, %address, %lost, "no session");
                }
            }
            let state = breaker.state(self.clock.now());
            if self.tell_link(&registration, state, &problem).await.is_err() {
                return;
            }
            tokio::time::sleep(backoff.next().min(longest_pause)).await;
        }
    }

    async fn tell_link(
        &self,
        registration: &Arc<Registration>,
        state: State,
        problem: &str,
    ) -> Result<(), Gone> {
        let state = match state {
            State::Closed => v1::LinkState::Closed,
            State::Open { .. } => v1::LinkState::Open,
            State::HalfOpen => v1::LinkState::HalfOpen,
        };
        let (registration, problem) = (registration.clone(), problem.to_owned());
        self.handle.tell(Message::Link { registration, state, problem }).await
    }

    fn registration(&self, worker: &Arc<str>) -> Option<Arc<Registration>> {
        let view = self.view.borrow();
        view.endpoints.get(worker).map(|endpoint| endpoint.registration.clone())
    }

    /// One session, from hello to its end.
    async fn session(&self, registration: &Registration, stood: &mut bool) -> Result<(), Lost> {
        let (frames, requests) = mpsc::unbounded_channel();
        let session = self.sessions.fetch_add(1, Ordering::Relaxed) + 1;
        let address = &registration.address;
        let mut client = self.client(self.network.channel(address)?);
        // The receiving end is in this function.
        drop(frames.send(self.hello(session)));
        let patience = rpc::CONNECT_TIMEOUT + rpc::CALL_TIMEOUT;
        let opening = client.session(UnboundedReceiverStream::new(requests));
        let opened = timeout(patience, opening).await.map_err(|_| Lost::Silent)?;
        let mut reports = match opened {
            Ok(opened) => opened.into_inner(),
            Err(status) if status.code() == Code::Unimplemented => {
                return self.calls(registration, session, stood).await;
            }
            Err(status) => return Err(status.into()),
        };
        let first = timeout(patience, reports.message()).await.map_err(|_| Lost::Silent)?;
        let Some(session_response::Frame::Hello(hello)) = first?.and_then(|first| first.frame)
        else {
            return Err(Malformed::new("hello", "the first message is no hello").into());
        };
        let join = self.parse_hello(hello, address, session, frames).await?;
        if join.holder.worker != registration.worker {
            return Err(Lost::Another { found: join.holder.worker });
        }
        let joined = self.handle.ask(|reply| Message::Join { join, reply }).await?;
        *stood = true;
        let ended = self.listen(joined.member, &mut reports).await;
        let goodbye = matches!(ended, Err(Lost::Closed));
        self.handle.tell(Message::Leave { member: joined.member, goodbye }).await?;
        ended
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
            claims: Vec::new(),
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
        let status = calls.run(requests).await?;
        self.handle.tell(Message::Leave { member: joined.member, goodbye: false }).await?;
        Err(status.into())
    }

    fn client(&self, channel: Channel) -> WorkerClient<Channel> {
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
                    let report = reports::parse(report, self.max_payload)?;
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
            claims,
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
                token: token.try_into()?,
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
