//! The dispatcher: stores tasks durably, has workers run them, keeps their results.
//!
//! ```text
//!  client ─▶ service ─▶ batch (parse) ─▶ scheduler ─▶ store (committer)
//!                                          │   ▲
//!  nameservice ─▶ discovery ─▶ links ◀─────┘   │ reports
//!                                └─▶ worker ───┘
//! ```
//!
//! The `scheduler` is the one loop that owns all tasks; everything else here
//! parses what comes in and tells what came out. To follow a task, read `service`,
//! `batch`, `scheduler/submit`, `scheduler/assign`, `links`, `scheduler/outcomes`.

mod answers;
mod batch;
mod links;
mod numbers;
mod recovery;
mod reports;
mod scheduler;
mod service;
mod types;
mod unary;
mod vitals;
mod watch;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use rand::Rng as _;
use tokio::sync::Semaphore;
use tonic::service::Routes;

use self::links::Links;
use self::numbers::Numbers;
use self::scheduler::{Handle, Rules, Scheduler};
use self::service::Service;
use self::vitals::Vitals;
use self::watch::Cursors;
use crate::clock::Clock;
use crate::core::id::Epoch;
use crate::core::limits;
use crate::core::retention::Policy;
use crate::discovery::Directory;
use crate::http;
use crate::rpc::{self, Listen, Listener, Network, ServeLimits};
use crate::shutdown::Shutdown;
use crate::store::{self, Durability, Embedded, Memory, Store};
use crate::wire::v1::dispatcher_server::DispatcherServer;

/// Streams of one connection: waits of a client that waits for many tasks at once.
const STREAMS: u32 = 1_024;

/// How a dispatcher runs.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where it listens; port 50052 by convention.
    pub listen: Listen,
    /// Where it tells over HTTP how it is: `/healthz`, `/readyz`, `/metrics`. Nowhere
    /// unless said.
    pub http: Option<Listen>,
    /// The nameservices, each `http://host:port` or `host:port`.
    pub nameservices: Vec<String>,
    /// Where tasks and results are kept.
    pub storage: Storage,
    /// A worker that is silent for so long loses its leases: 500 ms to an hour, 10 s
    /// unless chosen. A shorter one moves the tasks of a lost worker sooner and
    /// mistakes more slow networks for lost workers.
    pub lease: Duration,
    /// How long ended tasks are kept. 24 h.
    pub retain: Duration,
    /// How many completed and cancelled tasks are kept. 10 million.
    pub retain_tasks: u64,
    /// How many bytes of their payloads and results are kept at most; of failed ones as many
    /// again.
    pub retain_bytes: u64,
    /// Bytes of the largest payload, and of the largest result. 4 MiB, at most 64 MiB.
    pub max_payload: u64,
    /// Tasks that may wait and run; more are refused.
    pub max_queued: u64,
    /// Bytes of payloads that may wait and run; more are refused.
    pub max_queued_bytes: u64,
    /// How long open calls may take to end once shutdown has begun. 10 s.
    pub drain_timeout: Duration,
    /// On which network it listens and dials. The system's; tests have others.
    pub network: Network,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: Listen { port: 50_052, ..Listen::default() },
            http: None,
            nameservices: vec!["http://127.0.0.1:50051".to_owned()],
            storage: Storage::Memory,
            lease: Duration::from_secs(10),
            retain: limits::RETAIN,
            retain_tasks: limits::RETAIN_TASKS,
            retain_bytes: limits::RETAIN_BYTES,
            max_payload: limits::PAYLOAD_BYTES,
            max_queued: limits::QUEUED_TASKS,
            max_queued_bytes: limits::QUEUED_BYTES,
            drain_timeout: Duration::from_secs(10),
            network: Network::System,
        }
    }
}

/// Where tasks and results are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Storage {
    /// In this process only: for tests.
    Memory,
    /// In files of a directory that belongs to this dispatcher alone.
    Directory {
        /// The directory; made if it is missing.
        path: PathBuf,
        /// What a receipt survives.
        durability: Durability,
        /// Bytes of memory for pages of the files. 64 MiB.
        cache_bytes: usize,
    },
}

impl Storage {
    /// A directory, and all else as usual.
    #[must_use]
    pub fn directory(path: impl Into<PathBuf>, durability: Durability) -> Self {
        Self::Directory { path: path.into(), durability, cache_bytes: store::CACHE_BYTES }
    }
}

/// A dispatcher could not start, or stopped by itself.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The port could not be bound, or an address cannot be dialled.
    #[error(transparent)]
    Rpc(#[from] rpc::Error),
    /// The store could not be opened, or failed: what was receipted is safe, and a
    /// restart reads what is there.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The lease is out of bounds.
    #[error("a lease of {0:?} is not within {min:?} to {max:?}", min = limits::LEASE.start(), max = limits::LEASE.end())]
    Lease(Duration),
    /// The system gave no thread, or one panicked: a bug.
    #[error("cannot run the dispatcher: {0}")]
    Thread(String),
}

/// A dispatcher whose port is bound and whose store is open.
#[derive(Debug)]
pub struct Dispatcher {
    listener: Listener,
    http: Option<Listener>,
    store: Arc<dyn Store>,
    scheduler: Scheduler,
    handle: Handle,
    directory: Directory,
    clock: Clock,
    epoch: Epoch,
    cursors: Cursors,
    config: Config,
}

impl Dispatcher {
    /// Binds the port, opens the store and reads what it holds beside tasks.
    pub async fn bind(config: Config) -> Result<Self, Error> {
        let prepared = Prepared::new(&config)?;
        let storage = config.storage.clone();
        // Opening checks every page.
        let opened = tokio::task::spawn_blocking(move || open(&storage)).await;
        let store = opened.map_err(|panic| Error::Thread(panic.to_string()))??;
        Box::pin(Self::load(config, prepared, store)).await
    }

    /// As [`Dispatcher::bind`], over a store that is open, whatever the configuration
    /// says of one. It is nobody else's.
    ///
    /// # Errors
    /// As [`Dispatcher::bind`].
    pub async fn bind_over(config: Config, store: Arc<dyn Store>) -> Result<Self, Error> {
        let prepared = Prepared::new(&config)?;
        Box::pin(Self::load(config, prepared, store)).await
    }

    async fn load(
        config: Config,
        prepared: Prepared,
        store: Arc<dyn Store>,
    ) -> Result<Self, Error> {
        let Prepared { listener, http, clock, directory } = prepared;
        let policy = Policy {
            age: config.retain,
            tasks: config.retain_tasks,
            failed: limits::RETAIN_FAILED,
            bytes: config.retain_bytes,
        };
        let restore = move |store: &dyn Store| {
            recovery::restore(store, policy, clock.now(), rand::rng().next_u64())
        };
        let restored = store::apart(&store, restore).await?;
        let (epoch, cursors) = (restored.epoch, Cursors { store_id: restored.store_id });
        tracing::info!(boot = epoch.boot, workers = restored.workers.len(), "store opened");
        let rules = Rules {
            lease: config.lease,
            max_queued: config.max_queued,
            max_queued_bytes: config.max_queued_bytes,
        };
        let seen = restored.workers.iter();
        let seen = seen.map(|(worker, (_, address))| (worker.clone(), address.clone())).collect();
        let (scheduler, handle) = Scheduler::new(rules, clock, store.clone(), restored)
            .map_err(|error| Error::Thread(error.to_string()))?;
        let directory =
            directory.remembering(seen, clock.now().plus(scheduler::KNOWN_WORKERS_WAIT));
        Ok(Self {
            listener,
            http,
            store,
            scheduler,
            handle,
            directory,
            clock,
            epoch,
            cursors,
            config,
        })
    }

    /// Where it listens, with the real port.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.listener.addr()
    }

    /// Where it tells how it is, if it does.
    #[must_use]
    pub fn http_addr(&self) -> Option<SocketAddr> {
        self.http.as_ref().map(Listener::addr)
    }

    /// Serves until `shutdown` begins and at most the drain timeout longer, or until
    /// the store fails.
    pub async fn run(self, shutdown: Shutdown) -> Result<(), Error> {
        let Self {
            listener,
            http,
            store,
            scheduler,
            handle,
            directory,
            clock,
            epoch,
            cursors,
            config,
        } = self;
        // The parts end with the role, whichever of them ends first.
        let parts = shutdown.child();
        let view = directory.view();
        let links = Links {
            handle: handle.clone(),
            view: view.clone(),
            store: store.clone(),
            dispatcher_id: format!("{:016x}", cursors.store_id),
            epoch,
            lease: config.lease,
            max_payload: config.max_payload,
            network: config.network,
            clock,
            sessions: AtomicU64::new(0),
        };
        let numbers = Numbers::new(handle.clone(), store.clone());
        let vitals = Vitals { numbers: numbers.clone(), sources: directory.sources() };
        let telling = http::serve_vitals(http, vitals, parts.clone());
        let service = Service {
            handle,
            store,
            view,
            cursors,
            numbers,
            max_payload: config.max_payload,
            shutdown: parts.clone(),
            reads: Semaphore::new(service::READS),
        };
        let bytes = rpc::message_bytes(config.max_payload);
        let server = DispatcherServer::new(service)
            .max_decoding_message_size(bytes)
            .max_encoding_message_size(bytes);
        let limits = ServeLimits { streams: STREAMS, ..ServeLimits::default() };
        let serving =
            rpc::serve(listener, Routes::new(server), limits, parts.clone(), config.drain_timeout);
        let directory = tokio::spawn(directory.run(parts.clone()));
        let links = tokio::spawn(links.run(parts.clone()));
        let running = tokio::spawn(scheduler.run(parts.clone()));
        let answering = async {
            let ended = serving.await;
            parts.begin();
            ended
        };
        let scheduled = async {
            let ended = running.await;
            parts.begin();
            ended
        };
        let (serve_ended, ended, told) = tokio::join!(answering, scheduled, telling);
        for part in [directory, links] {
            part.await.map_err(|panic| Error::Thread(panic.to_string()))?;
        }
        ended.map_err(|panic| Error::Thread(panic.to_string()))??;
        serve_ended?;
        Ok(told?)
    }
}

/// What a configuration makes before the store is touched: one that is wrong leaves that alone.
struct Prepared {
    listener: Listener,
    http: Option<Listener>,
    clock: Clock,
    directory: Directory,
}

impl Prepared {
    fn new(config: &Config) -> Result<Self, Error> {
        if !limits::LEASE.contains(&config.lease) {
            return Err(Error::Lease(config.lease));
        }
        let listener = config.network.bind(&config.listen)?;
        let http = config.http.as_ref().map(rpc::bind).transpose()?;
        let clock = Clock::start();
        let directory = Directory::new(&config.network, &config.nameservices, clock)?;
        Ok(Self { listener, http, clock, directory })
    }
}

fn open(storage: &Storage) -> Result<Arc<dyn Store>, store::Error> {
    Ok(match storage {
        Storage::Memory => Arc::new(Memory::new()),
        Storage::Directory { path, durability, cache_bytes } => {
            Arc::new(Embedded::open_with(path, *durability, *cache_bytes)?)
        }
    })
}
