//! The worker: runs the tasks of the types it serves, on so many slots, for every
//! dispatcher that dials it. Part of the library's public face.
//!
//! ```no_run
//! use bytes::Bytes;
//! use taskgrid::shutdown::Shutdown;
//! use taskgrid::worker::{Config, Context, TypeSpec, Worker};
//!
//! # async fn example() -> Result<(), taskgrid::worker::Error> {
//! let worker = Worker::builder()
//!     .handle(TypeSpec::new("greet").text(), async |_context: Context, payload: Bytes| {
//!         Ok([b"hello, ", payload.as_ref()].concat().into())
//!     })
//!     .handle_blocking("length", |_context, payload| Ok(payload.len().to_string().into()))
//!     .bind(Config::default())
//!     .await?;
//! worker.run(Shutdown::new()).await
//! # }
//! ```
//!
//! It stores nothing: an outcome is kept in memory until the dispatcher that gave
//! the lease has its final answer for it, across broken sessions and restarts of
//! the dispatcher. It does not dial dispatchers, and decides nothing about retries.

mod address;
mod builder;
pub mod builtin;
mod handler;
mod pool;
mod prefetch;
mod service;
mod session;
mod vitals;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tonic::service::Routes;

pub use self::builder::{Builder, TypeSpec};
pub use self::handler::{Context, Failure, Handler};
use self::pool::{Pool, Served};
use self::service::{Identity, Service};
use crate::clock::Clock;
use crate::core::limits;
use crate::core::payload::BadSchema;
use crate::core::registry::Registration;
use crate::core::task_type::BadTypeName;
use crate::discovery::Announcer;
use crate::http;
use crate::rpc;
use crate::shutdown::Shutdown;
use crate::wire::v1::worker_server::WorkerServer;

/// How long, beyond the drain's deadline, dispatchers have for answering the last
/// outcomes, and connections for closing.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How a worker runs.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where it listens: any free port of loopback unless said otherwise. Whoever
    /// reaches the port can run tasks here.
    pub listen: rpc::Listen,
    /// Where it tells over HTTP how it is: `/healthz`, `/readyz`, `/metrics`. Nowhere
    /// unless said.
    pub http: Option<rpc::Listen>,
    /// The `host:port` by which dispatchers and nameservices reach it. Unless said,
    /// the bound address, or on all addresses the one that faces the nameservice.
    pub advertise: Option<String>,
    /// Where to register: `http://host:port`. With none it registers nowhere.
    pub nameservices: Vec<String>,
    /// How many tasks it runs at once, 1 to 65,536. Unless said, one for each core;
    /// more where its types mostly wait ([`Builder::slots_at_least`]).
    pub slots: Option<u32>,
    /// Names it across its restarts: 1 to 128 printable ASCII characters without
    /// spaces. Unless said, its advertised address.
    pub id: Option<String>,
    /// How long running tasks may go on once shutdown began. 10 s.
    pub drain_timeout: Duration,
    /// The largest payload taken, in bytes; one that is larger breaks the session,
    /// so it must be no less than what dispatchers take. 64 MiB, the most that a
    /// dispatcher can be configured for. Results have the dispatcher's limit.
    pub max_payload: u64,
    /// On which network it listens and dials. The system's; tests have others.
    pub network: rpc::Network,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: rpc::Listen::default(),
            http: None,
            advertise: None,
            nameservices: Vec::new(),
            slots: None,
            id: None,
            drain_timeout: Duration::from_secs(10),
            max_payload: limits::PAYLOAD_BYTES_MAX,
            network: rpc::Network::System,
        }
    }
}

/// A worker that is bound: it has its port, and runs once it is told to.
pub struct Worker {
    listener: rpc::Listener,
    http: Option<rpc::Listener>,
    types: Arc<[Served]>,
    identity: Identity,
    announcer: Announcer,
    advertised: String,
    config: Config,
}

impl Worker {
    /// A worker that serves nothing yet.
    pub fn builder() -> Builder {
        Builder::default()
    }

    async fn bind(
        types: Arc<[Served]>,
        slots_at_least: u32,
        config: Config,
    ) -> Result<Self, Error> {
        let slots = config.slots.unwrap_or_else(|| default_slots().max(slots_at_least));
        if slots == 0 || slots > limits::SLOTS {
            return Err(Error::Slots(slots));
        }
        let Config { listen, http, advertise, nameservices, network, .. } = config.clone();
        // Binding and resolving may block.
        let blocks = network.blocks();
        let bind = move || {
            let listener = network.bind(&listen)?;
            let http = http.as_ref().map(rpc::bind).transpose()?;
            let advertised = address::advertised(advertise, listener.addr(), &nameservices)?;
            Ok::<_, Error>((listener, http, advertised))
        };
        let bound = if blocks {
            tokio::task::spawn_blocking(bind).await.map_err(|_| Error::Interrupted)?
        } else {
            bind()
        };
        let (listener, http, advertised) = bound?;
        let worker_id = config.id.clone().unwrap_or_else(|| advertised.clone());
        let fine = |id: &str| {
            (1..=limits::WORKER_ID_BYTES).contains(&id.len())
                && id.bytes().all(|b| b.is_ascii_graphic())
        };
        if !fine(&worker_id) {
            return Err(Error::BadId(worker_id));
        }
        let identity = Identity { worker_id, incarnation: incarnation(), slots };
        let registration = Registration {
            worker: identity.worker_id.as_str().into(),
            incarnation: identity.incarnation,
            address: advertised.as_str().into(),
            types: types.iter().map(|served| served.task_type.clone()).collect(),
            slots,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let announcer = Announcer::new(&config.network, &config.nameservices, &registration)?;
        Ok(Self { listener, http, types, identity, announcer, advertised, config })
    }

    /// Where it listens, with the real port.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.listener.addr()
    }

    /// The `host:port` that it registers.
    #[must_use]
    pub fn advertised(&self) -> &str {
        &self.advertised
    }

    /// Where it tells how it is, if it does.
    #[must_use]
    pub fn http_addr(&self) -> Option<SocketAddr> {
        self.http.as_ref().map(rpc::Listener::addr)
    }

    /// The name that it registers.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.identity.worker_id
    }

    /// Runs until `shutdown` begins, then drains: leaves the nameservice, gives
    /// back what waits, lets handlers finish for as long as configured, gives back
    /// what still runs, and waits a moment for the last outcomes to be answered.
    ///
    /// Dropping the future ends everything at once.
    pub async fn run(self, shutdown: Shutdown) -> Result<(), Error> {
        let Self { listener, http, types, identity, announcer, config, .. } = self;
        let pool = Pool::new(Arc::clone(&types), identity.slots);
        let _stop_if_dropped = StopOnDrop(pool.clone());
        let health = listener.health();
        let vitals = vitals::Vitals {
            pool: pool.clone(),
            types: types.clone(),
            registered: announcer.registered(),
            registers: !config.nameservices.is_empty(),
        };
        let service = Service { pool: pool.clone(), types, identity };
        let server = WorkerServer::new(service)
            .max_decoding_message_size(rpc::message_bytes(config.max_payload))
            .max_encoding_message_size(rpc::message_bytes(limits::PAYLOAD_BYTES_MAX));
        let end = Shutdown::new();
        let serving = rpc::serve(
            listener,
            Routes::new(server),
            rpc::ServeLimits::default(),
            end.clone(),
            LAST_WORDS,
        );
        let telling = http::serve_vitals(http, vitals, shutdown.clone());
        let leave = async {
            shutdown.begun().await;
            health.set_serving(false).await;
            drain(&pool, config.drain_timeout).await;
            pool.stop();
        };
        // When shutdown begins the announcer leaves first; the watch ends when the
        // pool is stopped.
        let life = async {
            tokio::join!(announcer.run(shutdown.clone()), leave, pool.watch_deadlines(), telling)
        };
        let mut serving = std::pin::pin!(serving);
        tokio::select! {
            ended = &mut serving => return Ok(ended?),
            ((), (), (), told) = life => told?,
        }
        end.begin();
        Ok(serving.await?)
    }
}

async fn drain(pool: &Pool, patience: Duration) {
    let began = Instant::now();
    tracing::info!(?patience, "draining");
    pool.drain();
    if timeout(patience, pool.idle()).await.is_err() {
        tracing::warn!("giving back tasks that did not finish in time");
        pool.give_up();
    }
    let last = patience.saturating_sub(began.elapsed()).max(LAST_WORDS);
    if timeout(last, pool.answered()).await.is_err() {
        tracing::warn!("leaving with outcomes that no dispatcher answered");
    }
}

/// Ends runners and sessions however the run ends.
struct StopOnDrop(Pool);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// One for each core that this program may use.
fn default_slots() -> u32 {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    u32::try_from(cores).map_or(limits::SLOTS, |cores| cores.min(limits::SLOTS))
}

/// Milliseconds of the wall clock, so that a later start is greater, and a die, so
/// that two starts in one millisecond differ.
fn incarnation() -> u64 {
    const DIE_BITS: u32 = 20;
    let die = u64::from(rand::random::<u32>() >> (u32::BITS - DIE_BITS));
    (Clock::start().now().0 << DIE_BITS) | die
}

/// Why a worker cannot be bound or did not go on. It holds nothing then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A type's name is not well-formed.
    #[error(transparent)]
    BadTypeName(#[from] BadTypeName),
    /// A type has two handlers.
    #[error("the task type {0} has two handlers; give it one")]
    TypeTwice(String),
    /// No types, or too many.
    #[error("a worker serves 1 to 64 task types, not {0}")]
    Types(usize),
    /// A type's schema cannot be used.
    #[error("the task type {name}: {source}")]
    BadSchema {
        /// The type.
        name: String,
        /// What is wrong.
        source: BadSchema,
    },
    /// A type's schema is too large.
    #[error("the task type {0}: its schema is larger than 64 KiB")]
    SchemaTooLarge(String),
    /// Slots out of range.
    #[error("a worker has 1 to 65,536 slots, not {0}")]
    Slots(u32),
    /// The worker's id cannot be used.
    #[error("{0:?} is no worker id: 1 to 128 printable ASCII characters without spaces")]
    BadId(String),
    /// The address to advertise cannot be used.
    #[error("{0:?} is no address to advertise: it looks like host:port")]
    BadAddress(String),
    /// The worker listens on all addresses, and which others reach is not known.
    #[error("cannot tell by which address others reach this worker; say it with --advertise")]
    NoAddress,
    /// The runtime was shut down meanwhile.
    #[error("the runtime was shut down while the port was being bound")]
    Interrupted,
    /// The port could not be bound or served.
    #[error(transparent)]
    Rpc(#[from] rpc::Error),
}

#[cfg(test)]
mod tests;
