//! A whole grid in this process: what `taskgrid up` runs.
//!
//! Real roles that talk over loopback, nothing else: what works here works on many
//! machines. What this module does not do: it has no switches of its own for the
//! roles; their configurations are handed in.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::client::{self, Client};
use crate::dispatcher::{self, Dispatcher, Storage};
use crate::monitor::{self, Monitor};
use crate::nameservice::{self, Nameservice};
use crate::rpc::{Listen, Network};
use crate::shutdown::Shutdown;
use crate::worker::{self, Worker, builtin};

/// The lifetime of registrations: short, because all roles are here, and a type that
/// no worker serves is refused only once it has passed.
const TTL: Duration = Duration::from_secs(2);
/// How long the grid may take until a task of each type can go through.
const READY: Duration = Duration::from_secs(20);
/// How often that is looked at.
const LOOK: Duration = Duration::from_millis(10);

/// What runs.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where tasks and results are kept.
    pub storage: Storage,
    /// On the usual ports, or on any free ones.
    pub usual_ports: bool,
    /// How long open work may take once shutdown has begun. 10 s.
    pub drain_timeout: Duration,
    /// On which network the roles listen and dial.
    pub network: Network,
}

/// A grid could not start, or a part of it stopped by itself.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The nameservice.
    #[error(transparent)]
    Nameservice(#[from] nameservice::Error),
    /// The dispatcher.
    #[error(transparent)]
    Dispatcher(#[from] dispatcher::Error),
    /// A worker.
    #[error(transparent)]
    Worker(#[from] worker::Error),
    /// The monitor.
    #[error(transparent)]
    Monitor(#[from] monitor::Error),
    /// A built-in type does not exist: a bug.
    #[error(transparent)]
    Type(#[from] builtin::NotBuiltIn),
    /// The dispatcher could not be asked.
    #[error(transparent)]
    Client(#[from] client::Error),
    /// A task of each type could not go through in time.
    #[error("the grid is not ready after {READY:?}: no worker serves {missing}")]
    NotReady {
        /// The types without a worker.
        missing: String,
    },
    /// A role panicked: a bug.
    #[error("a role panicked: {0}")]
    Panicked(String),
}

/// A grid whose ports are bound.
pub struct Grid {
    nameservice: Nameservice,
    dispatcher: Dispatcher,
    workers: Vec<(&'static str, Worker)>,
    monitor: Monitor,
}

/// Where the parts of a grid are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addresses {
    /// The nameservice.
    pub nameservice: SocketAddr,
    /// The dispatcher.
    pub dispatcher: SocketAddr,
    /// The workers, each with its type.
    pub workers: Vec<(&'static str, SocketAddr)>,
    /// The monitor, for gRPC.
    pub monitor: SocketAddr,
    /// The monitor, for HTTP: `/stats` and the page.
    pub http: SocketAddr,
}

impl Grid {
    /// Binds all ports and opens the store.
    pub async fn bind(config: Config) -> Result<Self, Error> {
        let listen =
            |port| Listen { port: if config.usual_ports { port } else { 0 }, ..Listen::default() };
        let (drain_timeout, network) = (config.drain_timeout, config.network);
        let nameservice = Nameservice::bind(nameservice::Config {
            listen: listen(nameservice::Config::default().listen.port),
            ttl: TTL,
            drain_timeout,
            network: network.clone(),
            ..nameservice::Config::default()
        })?;
        let nameservices = vec![nameservice.addr().to_string()];
        let dispatcher = Dispatcher::bind(dispatcher::Config {
            listen: listen(dispatcher::Config::default().listen.port),
            nameservices: nameservices.clone(),
            storage: config.storage,
            drain_timeout,
            network: network.clone(),
            ..dispatcher::Config::default()
        })
        .await?;
        let mut workers = Vec::new();
        for name in builtin::names() {
            let config = worker::Config {
                listen: listen(builtin::default_port(&[name])),
                nameservices: nameservices.clone(),
                id: Some(format!("{name}-1")),
                drain_timeout,
                network: network.clone(),
                ..worker::Config::default()
            };
            let worker = builtin::register(Worker::builder(), name)?.bind(config).await?;
            workers.push((name, worker));
        }
        let usual = monitor::Config::default();
        let monitor = Monitor::bind(monitor::Config {
            listen: listen(usual.listen.port),
            http: listen(usual.http.port),
            nameservices,
            dispatcher: dispatcher.addr().to_string(),
            drain_timeout,
            network,
            ..usual
        })?;
        Ok(Self { nameservice, dispatcher, workers, monitor })
    }

    /// Where everything is.
    #[must_use]
    pub fn addr(&self) -> Addresses {
        Addresses {
            nameservice: self.nameservice.addr(),
            dispatcher: self.dispatcher.addr(),
            workers: self.workers.iter().map(|(name, worker)| (*name, worker.addr())).collect(),
            monitor: self.monitor.addr(),
            http: self.monitor.http_addr(),
        }
    }

    /// Runs all roles until `shutdown` begins, or until one of them fails. They end
    /// in turn: monitor, workers, dispatcher, nameservice.
    pub async fn run(self, shutdown: Shutdown) -> Result<(), Error> {
        let [mut nameservice, mut dispatcher, mut workers, mut monitor] =
            std::array::from_fn(|_| Part::new(&shutdown));
        let until = nameservice.end.clone();
        nameservice.spawn(async move { Ok(self.nameservice.run(until).await?) });
        let until = dispatcher.end.clone();
        dispatcher.spawn(async move { Ok(self.dispatcher.run(until).await?) });
        for (_, worker) in self.workers {
            let until = workers.end.clone();
            workers.spawn(async move { Ok(worker.run(until).await?) });
        }
        let until = monitor.end.clone();
        monitor.spawn(async move { Ok(self.monitor.run(until).await?) });
        shutdown.begun().await;
        let mut ended = Ok(());
        for part in [monitor, workers, dispatcher, nameservice] {
            let part = part.stop().await;
            ended = ended.and(part);
        }
        ended
    }
}

/// Waits until the grid's dispatcher has a worker for each built-in type: from then
/// on a task goes through.
pub async fn ready(client: &Client) -> Result<(), Error> {
    let deadline = tokio::time::Instant::now() + READY;
    loop {
        let stats = client.stats().await?;
        let serves = |name: &str| {
            let mut types = stats.types.iter();
            types.any(|t| t.workers > 0 && t.r#type.as_ref().is_some_and(|t| t.name == name))
        };
        let missing: Vec<&str> = builtin::names().filter(|name| !serves(name)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        if tokio::time::Instant::now() >= deadline {
            return Err(Error::NotReady { missing: missing.join(", ") });
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Roles that end together.
struct Part {
    /// Begins the end of the whole grid.
    all: Shutdown,
    /// Begins the end of this part.
    end: Shutdown,
    roles: Vec<JoinHandle<Result<(), Error>>>,
}

impl Part {
    fn new(all: &Shutdown) -> Self {
        Self { all: all.clone(), end: Shutdown::new(), roles: Vec::new() }
    }

    /// Runs a role; when it ends, whyever, so does the grid.
    fn spawn(&mut self, role: impl Future<Output = Result<(), Error>> + Send + 'static) {
        let all = self.all.clone();
        self.roles.push(tokio::spawn(async move {
            let ended = role.await;
            all.begin();
            ended
        }));
    }

    async fn stop(self) -> Result<(), Error> {
        self.end.begin();
        let mut ended = Ok(());
        for role in self.roles {
            let role = role.await.unwrap_or_else(|panic| Err(Error::Panicked(panic.to_string())));
            ended = ended.and(role);
        }
        ended
    }
}
