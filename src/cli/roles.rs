//! The flags of the roles, and what they mean: the one place where they become a
//! role's configuration.

use std::path::{Path, PathBuf};

use bytesize::ByteSize;
use clap::{Args, ValueEnum};

use super::demo;
use super::exit::{Exit, Failure};
use super::flags::{DATA_DIR, DataDir, NetworkFlags, yes_or_no};
use super::output;
use crate::client::Client;
use crate::core::limits;
use crate::dispatcher::{self, Storage};
use crate::grid::{self, Grid};
use crate::monitor;
use crate::nameservice;
use crate::rpc::Listen;
use crate::shutdown::Shutdown;
use crate::store;
use crate::worker::{self, builtin};

/// Run a whole grid in this process: nameservice, dispatcher, workers and monitor
#[derive(Debug, Args)]
pub(super) struct Up {
    /// Send one task of each type, and show what became of them
    #[arg(long)]
    demo: bool,
    /// Stop when the demonstration is over
    #[arg(long, requires = "demo")]
    once: bool,
    /// Where tasks and results are kept [default: ./taskgrid-data; with --once, a
    /// temporary one]
    #[arg(long, env = "TASKGRID_UP_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
    #[command(flatten)]
    shared: Shared,
}

/// Run the nameservice: who serves which task type, and where
#[derive(Debug, Args)]
pub(super) struct Nameservice {
    /// The address to listen on
    #[arg(long, env = "TASKGRID_NAMESERVICE_HOST", default_value = "127.0.0.1")]
    host: String,
    /// The port to listen on; 0 for any free one
    #[arg(long, env = "TASKGRID_NAMESERVICE_PORT", default_value_t = 50051)]
    port: u16,
    /// How long a registration outlives its last heartbeat
    #[arg(long, env = "TASKGRID_NAMESERVICE_TTL", value_name = "DURATION", default_value = "15s")]
    ttl: humantime::Duration,
    /// The port for /healthz, /readyz and /metrics [default: none]
    #[arg(long, env = "TASKGRID_NAMESERVICE_HTTP_PORT", value_name = "PORT")]
    http_port: Option<u16>,
    #[command(flatten)]
    shared: Shared,
}

/// Run a dispatcher: the durable queue, which pushes tasks to workers and keeps results
#[derive(Debug, Args)]
pub(super) struct Dispatcher {
    /// The address to listen on
    #[arg(long, env = "TASKGRID_DISPATCHER_HOST", default_value = "127.0.0.1")]
    host: String,
    /// The port to listen on; 0 for any free one
    #[arg(long, env = "TASKGRID_DISPATCHER_PORT", default_value_t = 50052)]
    port: u16,
    #[command(flatten)]
    nameservices: Nameservices,
    #[command(flatten)]
    data: DataDir,
    /// What a receipt survives: a power cut (sync), or a crash of this process (os)
    #[arg(
        long,
        env = "TASKGRID_DISPATCHER_DURABILITY",
        value_name = "MODE",
        value_enum,
        default_value = "sync",
        hide_possible_values = true
    )]
    durability: Durability,
    /// Memory for pages of the store, at least 1MiB
    #[arg(
        long,
        env = "TASKGRID_DISPATCHER_STORE_CACHE",
        value_name = "SIZE",
        default_value = "64MiB",
        value_parser = cache_size
    )]
    store_cache: ByteSize,
    /// How long a silent worker keeps its tasks
    #[arg(long, env = "TASKGRID_DISPATCHER_LEASE", value_name = "DURATION", default_value = "10s")]
    lease: humantime::Duration,
    /// How long results are kept
    #[arg(
        long,
        env = "TASKGRID_DISPATCHER_RETAIN",
        value_name = "DURATION",
        default_value = "24h"
    )]
    retain: humantime::Duration,
    /// How many ended tasks are kept at most
    #[arg(
        long,
        env = "TASKGRID_DISPATCHER_RETAIN_TASKS",
        value_name = "N",
        default_value_t = limits::RETAIN_TASKS
    )]
    retain_tasks: u64,
    /// How many bytes of payloads and results are kept at most; of failed tasks as many again
    #[arg(
        long,
        env = "TASKGRID_DISPATCHER_RETAIN_BYTES",
        value_name = "SIZE",
        default_value = "64GiB"
    )]
    retain_bytes: ByteSize,
    /// The largest payload, and the largest result, at most 64MiB
    #[arg(
        long,
        env = "TASKGRID_DISPATCHER_MAX_PAYLOAD",
        value_name = "SIZE",
        default_value = "4MiB",
        value_parser = payload_size
    )]
    max_payload: ByteSize,
    /// How many tasks may wait and run; more are refused
    #[arg(
        long,
        env = "TASKGRID_DISPATCHER_MAX_QUEUED",
        value_name = "N",
        default_value_t = limits::QUEUED_TASKS
    )]
    max_queued: u64,
    /// How many bytes of payloads may wait and run; more are refused
    #[arg(
        long,
        env = "TASKGRID_DISPATCHER_MAX_QUEUED_BYTES",
        value_name = "SIZE",
        default_value = "64GiB"
    )]
    max_queued_bytes: ByteSize,
    /// The port for /healthz, /readyz and /metrics [default: none]
    #[arg(long, env = "TASKGRID_DISPATCHER_HTTP_PORT", value_name = "PORT")]
    http_port: Option<u16>,
    #[command(flatten)]
    shared: Shared,
}

/// Run a worker of built-in task types
#[derive(Debug, Args)]
pub(super) struct Worker {
    /// A task type to serve
    #[arg(
        long = "type",
        env = "TASKGRID_WORKER_TYPE",
        value_name = "TYPE",
        value_delimiter = ',',
        required = true,
        help = types_help()
    )]
    types: Vec<String>,
    /// The address to listen on
    #[arg(long, env = "TASKGRID_WORKER_HOST", default_value = "127.0.0.1")]
    host: String,
    /// The port to listen on
    #[arg(long, env = "TASKGRID_WORKER_PORT", help = port_help())]
    port: Option<u16>,
    /// How many tasks it runs at once [default: the number of cores; more for wait]
    #[arg(
        long,
        env = "TASKGRID_WORKER_SLOTS",
        value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..=i64::from(limits::SLOTS))
    )]
    slots: Option<u32>,
    /// Where dispatchers reach it [default: this host as others see it]
    #[arg(long, env = "TASKGRID_WORKER_ADVERTISE", value_name = "HOST:PORT")]
    advertise: Option<String>,
    #[command(flatten)]
    nameservices: Nameservices,
    /// Names it across its restarts [default: made of its types and its address]
    #[arg(long, env = "TASKGRID_WORKER_ID", value_name = "ID")]
    id: Option<String>,
    /// The port for /healthz, /readyz and /metrics [default: none]
    #[arg(long, env = "TASKGRID_WORKER_HTTP_PORT", value_name = "PORT")]
    http_port: Option<u16>,
    #[command(flatten)]
    shared: Shared,
}

/// Run the monitor: the whole grid in numbers, over HTTP and gRPC, and a page to look at
#[derive(Debug, Args)]
pub(super) struct Monitor {
    /// The address to listen on
    #[arg(long, env = "TASKGRID_MONITOR_HOST", default_value = "127.0.0.1")]
    host: String,
    /// The port to listen on for gRPC; 0 for any free one
    #[arg(long, env = "TASKGRID_MONITOR_PORT", default_value_t = 50053)]
    port: u16,
    /// The port to listen on for HTTP; 0 for any free one
    #[arg(long, env = "TASKGRID_MONITOR_HTTP_PORT", value_name = "PORT", default_value_t = 8080)]
    http_port: u16,
    /// A name under which it answers HTTP, beside addresses and names without a dot;
    /// may be repeated
    #[arg(
        long = "allow-host",
        env = "TASKGRID_MONITOR_ALLOW_HOST",
        value_name = "NAME",
        value_delimiter = ','
    )]
    allowed_hosts: Vec<String>,
    #[command(flatten)]
    nameservices: Nameservices,
    /// Where the dispatcher is
    #[arg(
        long,
        env = "TASKGRID_DISPATCHER",
        value_name = "URL",
        default_value = "http://127.0.0.1:50052"
    )]
    dispatcher: String,
    #[command(flatten)]
    shared: Shared,
}

/// What all roles take.
#[derive(Debug, Args)]
struct Shared {
    /// Allow listening beyond this machine although nobody is asked who they are
    #[arg(long, env = "TASKGRID_INSECURE", value_parser = yes_or_no)]
    insecure: bool,
    /// How long open work may take once the role was told to stop
    #[arg(long, env = "TASKGRID_DRAIN_TIMEOUT", value_name = "DURATION", default_value = "10s")]
    drain_timeout: humantime::Duration,
    #[command(flatten)]
    network: NetworkFlags,
}

#[derive(Debug, Args)]
struct Nameservices {
    /// Where the nameservice is; several are separated by commas
    #[arg(
        long = "nameservice",
        env = "TASKGRID_NAMESERVICE",
        value_name = "URL",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:50051"
    )]
    urls: Vec<String>,
}

/// What a receipt survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Durability {
    Sync,
    Os,
}

impl Up {
    /// Runs a whole grid until `shutdown` begins, or until its demonstration is
    /// over.
    pub(super) async fn run(self, shutdown: Shutdown) -> Result<Exit, Failure> {
        let temporary =
            if self.once && self.data_dir.is_none() { Some(tempfile::tempdir()?) } else { None };
        let path = match &temporary {
            Some(directory) => directory.path().to_owned(),
            None => self.data_dir.unwrap_or_else(|| DATA_DIR.into()),
        };
        let storage = Storage::directory(&path, Durability::Sync.into());
        let drain_timeout = self.shared.drain_timeout.into();
        let network = self.shared.network.network();
        let config =
            grid::Config { storage, usual_ports: true, drain_timeout, network: network.clone() };
        let grid = Grid::bind(config).await?;
        let addresses = grid.addr();
        let client = Client::connect_on(&network, &addresses.dispatcher.to_string())?;
        let running = tokio::spawn(grid.run(shutdown.clone()));
        let shown = async {
            grid::ready(&client).await?;
            output::tell(&whereabouts(&addresses, &path));
            if !self.demo {
                return Ok::<_, Failure>(Exit::Done);
            }
            demo::show(&client).await
        };
        let shown = tokio::select! {
            shown = shown => shown,
            () = shutdown.begun() => Ok(Exit::Done),
        };
        if self.once || shown.is_err() {
            shutdown.begin();
        }
        let ended = running.await;
        ended.map_err(|panic| grid::Error::Panicked(panic.to_string()))??;
        if let Some(directory) = temporary {
            directory.close()?;
        }
        shown
    }
}

/// Where everything is, for a person.
fn whereabouts(addresses: &grid::Addresses, path: &Path) -> String {
    let mut lines = vec![
        "taskgrid is up".to_owned(),
        format!("  nameservice    {}", addresses.nameservice),
        format!("  dispatcher     {}", addresses.dispatcher),
        format!("  monitor        {}", addresses.monitor),
    ];
    for (name, address) in &addresses.workers {
        lines.push(format!("  worker {name:<7} {address}"));
    }
    lines.push(format!("  page           http://{}/", addresses.http));
    lines.push(format!("  data           {}", path.display()));
    lines.push("try: taskgrid client send sum \"[1,2,3]\"".to_owned());
    lines.join("\n")
}

impl Nameservice {
    /// Runs the nameservice until `shutdown` begins.
    pub(super) async fn run(self, shutdown: Shutdown) -> Result<Exit, Failure> {
        let role = nameservice::Nameservice::bind(nameservice::Config {
            http: self.shared.listen_http(&self.host, self.http_port),
            listen: self.shared.listen(self.host, self.port),
            ttl: self.ttl.into(),
            drain_timeout: self.shared.drain_timeout.into(),
            network: self.shared.network.network(),
        })?;
        role.run(shutdown).await?;
        Ok(Exit::Done)
    }
}

impl Dispatcher {
    /// Runs a dispatcher until `shutdown` begins.
    pub(super) async fn run(self, shutdown: Shutdown) -> Result<Exit, Failure> {
        let role = dispatcher::Dispatcher::bind(dispatcher::Config {
            http: self.shared.listen_http(&self.host, self.http_port),
            listen: self.shared.listen(self.host, self.port),
            nameservices: self.nameservices.urls,
            storage: Storage::Directory {
                path: self.data.path,
                durability: self.durability.into(),
                cache_bytes: usize::try_from(self.store_cache.as_u64()).unwrap_or(usize::MAX),
            },
            lease: self.lease.into(),
            retain: self.retain.into(),
            retain_tasks: self.retain_tasks,
            retain_bytes: self.retain_bytes.as_u64(),
            max_payload: self.max_payload.as_u64(),
            max_queued: self.max_queued,
            max_queued_bytes: self.max_queued_bytes.as_u64(),
            drain_timeout: self.shared.drain_timeout.into(),
            network: self.shared.network.network(),
        });
        // It is large.
        Box::pin(role.await?.run(shutdown)).await?;
        Ok(Exit::Done)
    }
}

impl Worker {
    /// Runs a worker until `shutdown` begins.
    pub(super) async fn run(self, shutdown: Shutdown) -> Result<Exit, Failure> {
        let port = self.port.unwrap_or_else(|| builtin::default_port(&self.types));
        let mut builder = worker::Worker::builder();
        for name in &self.types {
            builder = builtin::register(builder, name)?;
        }
        let role = builder.bind(worker::Config {
            http: self.shared.listen_http(&self.host, self.http_port),
            listen: self.shared.listen(self.host, port),
            advertise: self.advertise,
            nameservices: self.nameservices.urls,
            slots: self.slots,
            id: self.id,
            drain_timeout: self.shared.drain_timeout.into(),
            network: self.shared.network.network(),
            ..worker::Config::default()
        });
        role.await?.run(shutdown).await?;
        Ok(Exit::Done)
    }
}

impl Monitor {
    /// Runs the monitor until `shutdown` begins.
    pub(super) async fn run(self, shutdown: Shutdown) -> Result<Exit, Failure> {
        let role = monitor::Monitor::bind(monitor::Config {
            http: self.shared.listen(self.host.clone(), self.http_port),
            listen: self.shared.listen(self.host, self.port),
            allowed_hosts: self.allowed_hosts,
            nameservices: self.nameservices.urls,
            dispatcher: self.dispatcher,
            drain_timeout: self.shared.drain_timeout.into(),
            network: self.shared.network.network(),
        })?;
        role.run(shutdown).await?;
        Ok(Exit::Done)
    }
}

impl Durability {
    /// As it is written on the command line.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Sync => "sync",
            Self::Os => "os",
        }
    }
}

impl From<Durability> for store::Durability {
    fn from(durability: Durability) -> Self {
        match durability {
            Durability::Sync => Self::Sync,
            Durability::Os => Self::Os,
        }
    }
}

impl Shared {
    fn listen(&self, host: String, port: u16) -> Listen {
        Listen { host, port, insecure: self.insecure }
    }

    fn listen_http(&self, host: &str, port: Option<u16>) -> Option<Listen> {
        port.map(|port| self.listen(host.to_owned(), port))
    }
}

fn types_help() -> String {
    let names: Vec<&str> = builtin::names().collect();
    format!("A task type to serve: {}; may be repeated", names.join(", "))
}

fn port_help() -> String {
    let ports =
        builtin::names().map(|name| format!("{} for {name}", builtin::default_port(&[name])));
    let ports: Vec<String> = ports.collect();
    format!("The port to listen on; 0 for any free one [default: {}]", ports.join(", "))
}

/// A size that the store can work with.
fn cache_size(text: &str) -> Result<ByteSize, String> {
    let size: ByteSize = text.parse()?;
    if size >= ByteSize::mib(1) {
        Ok(size)
    } else {
        Err("the store needs 1 MiB or more".to_owned())
    }
}

/// A size that a payload may be limited to.
pub(super) fn payload_size(text: &str) -> Result<ByteSize, String> {
    let size: ByteSize = text.parse()?;
    if (1..=limits::PAYLOAD_BYTES_MAX).contains(&size.as_u64()) {
        Ok(size)
    } else {
        Err("a payload may have 1 B to 64 MiB".to_owned())
    }
}
