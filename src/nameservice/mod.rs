//! The nameservice: tells who serves which task type, and where.
//!
//! One task (`keeper`) owns the registry and hears one request at a time; the
//! service and the prober hold cheap handles to it. Its state is soft: after a
//! restart, workers register again by themselves.
//!
//! What it does not do: it gives no work, and its view ends no lease.

mod keeper;
mod prober;
mod service;
mod vitals;

use std::net::SocketAddr;
use std::time::Duration;

use tonic::service::Routes;
use tracing::info;

use crate::clock::Clock;
use crate::core::limits;
use crate::http;
use crate::rpc::{self, Listen, Listener, Network, ServeLimits};
use crate::shutdown::Shutdown;
use crate::wire::v1::name_service_server::NameServiceServer;

/// Connections at once: every worker, and whoever reads, may have one. Beyond the
/// process's limit of file descriptors, peers wait.
const CONNECTIONS: usize = limits::WORKERS + 1_000;
/// Bytes of one request: a registration with the most and the largest types.
const REQUEST_BYTES: usize = limits::WORKER_TYPES * limits::SCHEMA_BYTES + limits::ENVELOPE_BYTES;
/// Bytes of one answer: all registrations.
const ANSWER_BYTES: usize = limits::REGISTRY_BYTES + limits::ENVELOPE_BYTES;

/// How a nameservice runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where it listens; port 50051 by convention.
    pub listen: Listen,
    /// Where it tells over HTTP how it is: `/healthz`, `/readyz`, `/metrics`. Nowhere
    /// unless said.
    pub http: Option<Listen>,
    /// How long a registration lives after its last heartbeat: 500 ms to an hour,
    /// 15 s unless chosen. Workers beat, and are probed, three times as often, so a
    /// shorter one finds the lost sooner and costs more calls.
    pub ttl: Duration,
    /// How long open calls may take to end once shutdown has begun. 10 s.
    pub drain_timeout: Duration,
    /// On which network it listens and dials. The system's; tests have others.
    pub network: Network,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: Listen { port: 50_051, ..Listen::default() },
            http: None,
            ttl: Duration::from_secs(15),
            drain_timeout: Duration::from_secs(10),
            network: Network::System,
        }
    }
}

/// A nameservice could not start, or stopped by itself.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The port could not be bound, or serving it ended.
    #[error(transparent)]
    Rpc(#[from] rpc::Error),
    /// The TTL is out of bounds.
    #[error("a TTL of {0:?} is not within {min:?} to {max:?}", min = limits::TTL.start(), max = limits::TTL.end())]
    Ttl(Duration),
}

/// A nameservice whose port is bound.
#[derive(Debug)]
pub struct Nameservice {
    listener: Listener,
    http: Option<Listener>,
    config: Config,
}

impl Nameservice {
    /// Checks the configuration and binds the port.
    pub fn bind(config: Config) -> Result<Self, Error> {
        if !limits::TTL.contains(&config.ttl) {
            return Err(Error::Ttl(config.ttl));
        }
        let listener = config.network.bind(&config.listen)?;
        let http = config.http.as_ref().map(rpc::bind).transpose()?;
        Ok(Self { listener, http, config })
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

    /// Serves until `shutdown` begins and at most the drain timeout longer.
    pub async fn run(self, shutdown: Shutdown) -> Result<(), Error> {
        let Self { listener, http, config } = self;
        let (handle, keeper) = keeper::new(Clock::start(), config.ttl);
        let service = service::Service::new(handle.clone(), shutdown.clone());
        let server = NameServiceServer::new(service)
            .max_decoding_message_size(REQUEST_BYTES)
            .max_encoding_message_size(ANSWER_BYTES);
        let limits = ServeLimits { connections: CONNECTIONS, ..ServeLimits::default() };
        let telling = http::serve_vitals(http, vitals::Vitals(handle.clone()), shutdown.clone());
        let prober = prober::run(handle, config.network, config.ttl, shutdown.clone());
        let serving =
            rpc::serve(listener, Routes::new(server), limits, shutdown, config.drain_timeout);
        info!(ttl = ?config.ttl, "nameservice starts with an empty registry");
        let keeping = async { tokio::join!(keeper.run(), prober) };
        let answering = async { tokio::try_join!(serving, telling) };
        tokio::select! {
            ended = answering => { ended?; }
            // Never first: the keeper answers for as long as `serving` holds a handle.
            _ = keeping => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
