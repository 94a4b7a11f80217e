//! The monitor: shows the whole grid, over HTTP and gRPC.
//!
//! ```text
//!  nameservice ─▶ discovery ─┐
//!                            ├─▶ collector ─▶ snapshot ─▶ web, service, vitals
//!  dispatcher ──▶ Stats ─────┘
//! ```
//!
//! The `collector` keeps the last answers of both; a `snapshot` merges them into
//! numbers, with what failed to answer beside what did. Losing the monitor loses
//! freshness only: it stores nothing, and nobody waits for it.

mod collector;
mod failures;
mod page;
mod rates;
mod service;
mod snapshot;
mod vitals;
mod web;

use std::net::SocketAddr;
use std::time::Duration;

use tonic::service::Routes;

use self::collector::Collector;
use self::failures::Failures;
use self::service::Service;
use self::vitals::Vitals;
use self::web::Web;
use crate::client::{self, Client};
use crate::clock::Clock;
use crate::discovery::Directory;
use crate::http::{self, AllowedHosts};
use crate::rpc::{self, Listen, Listener, Network, ServeLimits};
use crate::shutdown::Shutdown;
use crate::wire::v1::monitor_server::MonitorServer;

/// How long a page's read of a task goes on trying while the dispatcher is away: a
/// reader rather hears that it is.
const PATIENCE: Duration = Duration::from_secs(1);

/// How a monitor runs.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where it listens for gRPC; port 50053 by convention.
    pub listen: Listen,
    /// Where it listens for HTTP; port 8080 by convention.
    pub http: Listen,
    /// The names under which it answers HTTP, beside addresses and names without a
    /// dot: those of proxies before it.
    pub allowed_hosts: Vec<String>,
    /// The nameservices, each `http://host:port` or `host:port`.
    pub nameservices: Vec<String>,
    /// The dispatcher, `http://host:port` or `host:port`.
    pub dispatcher: String,
    /// How long open calls may take to end once shutdown has begun. 10 s.
    pub drain_timeout: Duration,
    /// On which network it listens and dials; HTTP is served over TCP.
    pub network: Network,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: Listen { port: 50_053, ..Listen::default() },
            http: Listen { port: 8_080, ..Listen::default() },
            allowed_hosts: Vec::new(),
            nameservices: vec!["http://127.0.0.1:50051".to_owned()],
            dispatcher: "http://127.0.0.1:50052".to_owned(),
            drain_timeout: Duration::from_secs(10),
            network: Network::System,
        }
    }
}

/// A monitor could not start, or stopped by itself.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A port could not be bound or served, or an address cannot be dialled.
    #[error(transparent)]
    Rpc(#[from] rpc::Error),
    /// The dispatcher's address is none.
    #[error(transparent)]
    Client(#[from] client::Error),
    /// A part of it panicked: a bug.
    #[error("a part of the monitor panicked: {0}")]
    Panicked(#[from] tokio::task::JoinError),
}

/// A monitor whose ports are bound.
#[derive(Debug)]
pub struct Monitor {
    listener: Listener,
    http: Listener,
    client: Client,
    directory: Directory,
    config: Config,
}

impl Monitor {
    /// Binds both ports. Must be called within a tokio runtime.
    pub fn bind(config: Config) -> Result<Self, Error> {
        let network = &config.network;
        let listener = network.bind(&config.listen)?;
        let http = rpc::bind(&config.http)?;
        let client = Client::connect_on(network, &config.dispatcher)?.with_patience(PATIENCE);
        let directory = Directory::new(network, &config.nameservices, Clock::start())?;
        Ok(Self { listener, http, client, directory, config })
    }

    /// Where it listens for gRPC, with the real port.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.listener.addr()
    }

    /// Where it listens for HTTP, with the real port.
    #[must_use]
    pub fn http_addr(&self) -> SocketAddr {
        self.http.addr()
    }

    /// Serves until `shutdown` begins and at most the drain timeout longer.
    pub async fn run(self, shutdown: Shutdown) -> Result<(), Error> {
        let Self { listener, http, client, directory, config } = self;
        // The parts end with the role, whichever of them ends first.
        let parts = shutdown.child();
        let clock = Clock::start();
        let dispatcher = config.network.channel(&config.dispatcher)?;
        let (collector, handle) =
            Collector::new(clock, &directory, config.dispatcher.clone(), dispatcher);
        let collecting = tokio::spawn(collector.run(parts.clone()));
        let watching = tokio::spawn(directory.run(parts.clone()));

        let service = MonitorServer::new(Service::new(handle.clone(), parts.clone()));
        let limits = ServeLimits::default();
        let routes = Routes::new(service);
        let answering = rpc::serve(listener, routes, limits, parts.clone(), config.drain_timeout);
        let web = Web {
            handle: handle.clone(),
            failures: Failures::new(client.clone()),
            client,
            shutdown: parts.clone(),
        };
        let pages = http::vitals(Vitals(handle)).merge(web::routes(web));
        let hosts = AllowedHosts::new(config.allowed_hosts);
        let showing = http::serve(http, pages, hosts, parts.clone(), config.drain_timeout);

        let ended = tokio::try_join!(answering, showing);
        parts.begin();
        collecting.await?;
        watching.await?;
        ended?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
