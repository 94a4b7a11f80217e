//! A whole grid for tests: real roles, real gRPC, loopback, port 0, in one process.
//!
//! Each role runs on a thread and runtime of its own, so that it can be killed (all
//! its tasks are dropped where they stand, its connections break), paused (it does
//! nothing, as a stopped process) and started again on the same port, while the
//! others go on.
//!
//! ```
//! # #[tokio::main]
//! # async fn main() -> Result<(), taskgrid::testing::Error> {
//! use taskgrid::testing::Grid;
//! use taskgrid::worker::Worker;
//!
//! let mut grid = Grid::start().await?;
//! let worker = grid
//!     .add_worker(Worker::builder().handle_blocking("echo", |_, payload| Ok(payload)))
//!     .await?;
//! let id = grid.client().send_task("echo", "hello").await?;
//! assert_eq!(grid.client().request_result(id).await?, "hello");
//! grid.kill_worker(worker).await;
//! grid.stop().await?;
//! # Ok(())
//! # }
//! ```
//!
//! Nothing here sleeps to be on the safe side: [`Grid::until`] waits for a
//! condition, for at most a patience that `TASKGRID_TEST_PATIENCE` (seconds)
//! stretches on slow machines.

mod role;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;
use tokio::time::Instant;

use self::role::Role;
use crate::client::{self, Client};
use crate::core::task::Status;
use crate::dispatcher::{self, Dispatcher, Storage};
use crate::nameservice::{self, Nameservice};
use crate::rpc::Listen;
use crate::store::Durability;
use crate::wire::v1;
use crate::worker::{self, Builder, Context, Failure, Worker};

/// How long a condition is waited for, unless the environment says otherwise.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// How a grid for tests is made. The defaults make losses show quickly.
#[derive(Debug, Clone)]
pub struct Config {
    /// The leases of the dispatcher. 1 s.
    pub lease: Duration,
    /// The lifetime of registrations. 1 s.
    pub ttl: Duration,
    /// How long open work may take when a role is told to stop. 5 s.
    pub drain_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(1),
            ttl: Duration::from_secs(1),
            drain_timeout: Duration::from_secs(5),
        }
    }
}

/// What went wrong around a test.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A role could not start.
    #[error("{role} could not start: {problem}")]
    Start {
        /// Which role.
        role: String,
        /// Why.
        problem: String,
    },
    /// A role did not end well.
    #[error("{role} did not end well: {problem}")]
    End {
        /// Which role.
        role: String,
        /// How it ended.
        problem: String,
    },
    /// The grid's directory could not be made.
    #[error("cannot make a directory: {0}")]
    Directory(#[from] std::io::Error),
    /// The dispatcher could not be asked.
    #[error(transparent)]
    Client(#[from] client::Error),
    /// A condition did not come true in time.
    #[error("waited {waited:?} in vain for {what}")]
    Patience {
        /// The condition.
        what: String,
        /// How long.
        waited: Duration,
    },
}

/// A worker of the type `nap`: its handler takes as many milliseconds as its payload
/// says, and answers with the number of its attempt.
pub fn nap() -> Builder {
    Worker::builder().handle("nap", |context: Context, payload: Bytes| async move {
        let text = std::str::from_utf8(&payload).map_err(Failure::permanent)?;
        let span = text.parse().map_err(Failure::permanent)?;
        tokio::time::sleep(Duration::from_millis(span)).await;
        Ok(context.attempt().to_string().into())
    })
}

/// Names a worker of a grid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct WorkerKey(usize);

/// A nameservice, a dispatcher with a store on disk, and the workers that a test adds.
#[derive(Debug)]
pub struct Grid {
    config: Config,
    directory: TempDir,
    nameservice: Role,
    dispatcher: Role,
    workers: BTreeMap<WorkerKey, Role>,
    next_worker: usize,
    client: Client,
}

impl Grid {
    /// A grid as [`Config`] has it by default.
    pub async fn start() -> Result<Self, Error> {
        Self::start_with(Config::default()).await
    }

    /// A grid as the test wants it.
    pub async fn start_with(config: Config) -> Result<Self, Error> {
        let directory = TempDir::new()?;
        let nameservice = start_nameservice(&config, own_listen()).await?;
        let dispatcher =
            start_dispatcher(&config, &directory, nameservice.addr(), own_listen()).await?;
        let client = Client::connect(&dispatcher.addr().to_string())?;
        let workers = BTreeMap::new();
        Ok(Self { config, directory, nameservice, dispatcher, workers, next_worker: 0, client })
    }

    /// A client of its dispatcher, which outlives the dispatcher's restarts.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Where the dispatcher listens.
    #[must_use]
    pub fn dispatcher(&self) -> SocketAddr {
        self.dispatcher.addr()
    }

    /// Where the nameservice listens.
    #[must_use]
    pub fn nameservice(&self) -> SocketAddr {
        self.nameservice.addr()
    }

    /// Adds a worker, and waits until the dispatcher has a session with it.
    pub async fn add_worker(&mut self, worker: Builder) -> Result<WorkerKey, Error> {
        self.add_worker_with(worker, worker::Config::default()).await
    }

    /// As [`Grid::add_worker`]; of the configuration, the id, the slots and the
    /// limits count.
    pub async fn add_worker_with(
        &mut self,
        worker: Builder,
        config: worker::Config,
    ) -> Result<WorkerKey, Error> {
        let key = self.enlist(worker, config).await?;
        let id = self.worker_id(key);
        self.until(&format!("a session with {id}"), async |grid| {
            let stats = grid.client.stats().await.ok()?;
            stats.workers.iter().any(|w| w.worker_id == id && w.connected).then_some(())
        })
        .await?;
        Ok(key)
    }

    /// Adds a worker without waiting for its session: the dispatcher may be away.
    pub async fn enlist(
        &mut self,
        worker: Builder,
        config: worker::Config,
    ) -> Result<WorkerKey, Error> {
        let key = WorkerKey(self.next_worker);
        self.next_worker += 1;
        let config = worker::Config {
            listen: Listen::default(),
            nameservices: vec![self.nameservice.addr().to_string()],
            id: Some(config.id.unwrap_or_else(|| format!("worker-{}", key.0))),
            drain_timeout: self.config.drain_timeout,
            ..config
        };
        let name = config.id.clone().unwrap_or_default();
        let role = Role::start(&name, async move || {
            let worker = worker.bind(config).await?;
            let addr = worker.addr();
            Ok::<_, worker::Error>((addr, move |shutdown| worker.run(shutdown)))
        });
        self.workers.insert(key, role.await?);
        Ok(key)
    }

    /// The id under which a worker registers.
    #[must_use]
    pub fn worker_id(&self, key: WorkerKey) -> String {
        self.workers.get(&key).map_or_else(String::new, |role| role.name().to_owned())
    }

    /// Kills a worker: it says nothing more to anybody.
    pub async fn kill_worker(&mut self, key: WorkerKey) {
        if let Some(role) = self.workers.remove(&key) {
            role.kill().await;
        }
    }

    /// Tells a worker to stop, and waits until it has drained.
    pub async fn stop_worker(&mut self, key: WorkerKey) -> Result<(), Error> {
        match self.workers.remove(&key) {
            Some(role) => role.stop().await,
            None => Ok(()),
        }
    }

    /// Stops a worker's clockwork, all but handlers that block a thread of their own.
    pub fn pause_worker(&self, key: WorkerKey) {
        if let Some(role) = self.workers.get(&key) {
            role.pause();
        }
    }

    /// Lets a paused worker go on.
    pub fn resume_worker(&self, key: WorkerKey) {
        if let Some(role) = self.workers.get(&key) {
            role.resume();
        }
    }

    /// Kills the dispatcher.
    pub async fn kill_dispatcher(&mut self) {
        self.dispatcher.take().kill().await;
    }

    /// Starts the dispatcher again after it was killed or stopped: same port, same store.
    pub async fn start_dispatcher(&mut self) -> Result<(), Error> {
        let nameservice = self.nameservice.addr();
        // The killed one lets go of its port and its store when its threads notice.
        let patience = Instant::now() + patience();
        loop {
            let listen = again(self.dispatcher.addr());
            match start_dispatcher(&self.config, &self.directory, nameservice, listen).await {
                Ok(role) => {
                    self.dispatcher = role;
                    return Ok(());
                }
                Err(error) if Instant::now() >= patience => return Err(error),
                Err(_) => tokio::time::sleep(LOOK).await,
            }
        }
    }

    /// Tells the dispatcher to stop, and waits until it has.
    pub async fn stop_dispatcher(&mut self) -> Result<(), Error> {
        self.dispatcher.take().stop().await
    }

    /// Stops the dispatcher's clockwork for so long, and lets it go on.
    pub async fn pause_dispatcher(&self, span: Duration) {
        self.dispatcher.pause();
        tokio::time::sleep(span).await;
        self.dispatcher.resume();
    }

    /// Kills the nameservice.
    pub async fn kill_nameservice(&mut self) {
        self.nameservice.take().kill().await;
    }

    /// Starts the nameservice again, on the same port and knowing nobody.
    pub async fn start_nameservice(&mut self) -> Result<(), Error> {
        let listen = again(self.nameservice.addr());
        self.nameservice = start_nameservice(&self.config, listen).await?;
        Ok(())
    }

    /// Waits until a condition gives something, and gives that.
    pub async fn until<T>(
        &self,
        what: &str,
        condition: impl AsyncFn(&Self) -> Option<T>,
    ) -> Result<T, Error> {
        let waited = patience();
        let deadline = Instant::now() + waited;
        loop {
            if let Some(met) = condition(self).await {
                return Ok(met);
            }
            if Instant::now() >= deadline {
                return Err(Error::Patience { what: what.to_owned(), waited });
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until a task stands so.
    pub async fn until_status(
        &self,
        id: crate::core::id::TaskId,
        status: Status,
    ) -> Result<client::TaskView, Error> {
        self.until(&format!("task {id} to be {}", status.as_str()), async |grid| {
            let task = grid.client.task(id).await.ok()?;
            (task.status == status).then_some(task)
        })
        .await
    }

    /// The dispatcher's numbers over all types.
    pub async fn totals(&self) -> Result<v1::Counts, Error> {
        Ok(self.client.stats().await?.totals.unwrap_or_default())
    }

    /// Stops everything in order, and tells if something did not end well.
    pub async fn stop(self) -> Result<(), Error> {
        let mut ended = Ok(());
        for (_, worker) in self.workers {
            ended = ended.and(worker.stop().await);
        }
        ended = ended.and(self.dispatcher.stop().await);
        ended.and(self.nameservice.stop().await)
    }
}

/// A loopback address that no other grid uses, so that the ports of a role that is away
/// stay free: whoever asks the system for a free port of `127.0.0.1`, or connects from
/// there, gets none of this address. Elsewhere than on Linux it is `127.0.0.1` itself.
pub fn own_host() -> String {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    if cfg!(target_os = "linux") {
        let [.., high, low] = std::process::id().to_be_bytes();
        format!("127.{}.{low}.{}", high | 0x80, NEXT.fetch_add(1, Ordering::Relaxed))
    } else {
        "127.0.0.1".to_owned()
    }
}

fn own_listen() -> Listen {
    Listen { host: own_host(), ..Listen::default() }
}

/// Where a role listened before.
fn again(addr: SocketAddr) -> Listen {
    Listen { host: addr.ip().to_string(), port: addr.port(), ..Listen::default() }
}

async fn start_nameservice(config: &Config, listen: Listen) -> Result<Role, Error> {
    let config = nameservice::Config {
        listen,
        ttl: config.ttl,
        drain_timeout: config.drain_timeout,
        ..nameservice::Config::default()
    };
    Role::start("nameservice", async move || {
        let nameservice = Nameservice::bind(config)?;
        let addr = nameservice.addr();
        Ok::<_, nameservice::Error>((addr, move |shutdown| nameservice.run(shutdown)))
    })
    .await
}

async fn start_dispatcher(
    config: &Config,
    directory: &TempDir,
    nameservice: SocketAddr,
    listen: Listen,
) -> Result<Role, Error> {
    let config = dispatcher::Config {
        listen,
        nameservices: vec![nameservice.to_string()],
        storage: Storage::directory(directory.path(), Durability::Os),
        lease: config.lease,
        drain_timeout: config.drain_timeout,
        ..dispatcher::Config::default()
    };
    Role::start("dispatcher", async move || {
        let dispatcher = Dispatcher::bind(config).await?;
        let addr = dispatcher.addr();
        Ok::<_, dispatcher::Error>((addr, move |shutdown| dispatcher.run(shutdown)))
    })
    .await
}

fn patience() -> Duration {
    #[expect(
        clippy::disallowed_methods,
        reason = "how slow a machine is cannot be a flag of tests"
    )]
    let wished = std::env::var("TASKGRID_TEST_PATIENCE").ok();
    wished.and_then(|text| text.parse().ok()).map_or(PATIENCE, Duration::from_secs)
}
