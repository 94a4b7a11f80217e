//! gRPC as every role serves and calls it: with its limits, deadlines and health.
//!
//! What this module does not do: it knows no service of the grid. A role hands in
//! its routes; the sizes of its messages it sets on its generated server, with
//! [`message_bytes`].
//!
//! The defaults of tonic and hyper are not safe on an open port: there is no limit
//! of streams, no deadline for a peer that connects and says nothing, a graceful
//! shutdown that waits for ever, and an accept loop that spins when descriptors
//! run out. [`serve`] closes each of these. Peers that do nothing keep nobody out.

mod calls;
mod channel;
mod frames;
mod gate;
mod gather;
mod incoming;
mod local;
mod network;
mod nudge;
mod serve;

use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs as _};

pub use channel::{Backoff, CALL_TIMEOUT, CONNECT_TIMEOUT, channel, foreign_channel, reason};
pub(crate) use gate::{For, Gate, Guest};
pub use network::{Acceptor, Connecting, Network, Transport, Wire};
pub use nudge::Channel;
pub use serve::{Health, ServeLimits, serve};

use self::network::Socket;
use crate::core::limits;
pub(crate) use network::{Port, Stream};

/// Where a role listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// A name or an address; a name is resolved when binding. `127.0.0.1` unless
    /// others need to reach the role.
    pub host: String,
    /// The port; 0 for any free one.
    pub port: u16,
    /// Whether it was said (`--insecure`) that everyone who reaches the port may
    /// use it. Without it, only loopback is listened on.
    pub insecure: bool,
}

impl Default for Listen {
    fn default() -> Self {
        Self { host: "127.0.0.1".to_owned(), port: 0, insecure: false }
    }
}

/// A bound port: peers can connect to it, and are answered once it is served.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    addr: SocketAddr,
    health: Health,
}

impl Listener {
    fn new(addr: SocketAddr, socket: Socket) -> Self {
        Self { socket, addr, health: Health::new() }
    }

    /// With a socket for peers on this machine beside the port.
    fn with_local(mut self) -> Self {
        if let Socket::System { local, .. } = &mut self.socket {
            *local = local::bind(self.addr);
        }
        self
    }

    /// Where it listens, with the real port.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The port, to be served.
    pub(crate) fn into_port(self) -> Result<Port, Error> {
        let Self { socket, addr: address, .. } = self;
        Port::try_from(socket).map_err(|source| Error::Listen { address, source })
    }

    /// A handle to what `grpc.health.v1` answers on this port.
    #[must_use]
    pub fn health(&self) -> Health {
        self.health.clone()
    }
}

/// Binds a TCP port, and nothing beside it. A host name is resolved here, which may block
/// for as long as the system's resolver takes; the first of its addresses that can be
/// bound is taken.
pub fn bind(listen: &Listen) -> Result<Listener, Error> {
    let Listen { host, port, insecure } = listen;
    let name = bare(host);
    let addresses: Vec<SocketAddr> = (name, *port)
        .to_socket_addrs()
        .map_err(|source| Error::Resolve { host: host.clone(), source })?
        .collect();
    if !insecure && let Some(open) = addresses.iter().find(|a| !a.ip().is_loopback()) {
        return Err(Error::NotLoopback { address: *open });
    }
    let mut problem = Error::Resolve {
        host: host.clone(),
        source: io::Error::new(io::ErrorKind::NotFound, "it has no address"),
    };
    for address in addresses {
        match bind_to(address) {
            Ok(listener) => return Ok(listener),
            Err(source) if source.kind() == io::ErrorKind::AddrInUse => {
                problem = Error::AddressInUse { address };
            }
            Err(source) => problem = Error::Listen { address, source },
        }
    }
    Err(problem)
}

/// The most bytes of one message where a task's payload and result may each take
/// `max_payload`: the limit to set on generated servers and clients, both for
/// decoding and for encoding.
///
/// A batch or a page of small tasks may be large by itself; one task with the
/// largest payload and the largest result always fits.
#[must_use]
pub fn message_bytes(max_payload: u64) -> usize {
    let payload = usize::try_from(max_payload).unwrap_or(usize::MAX);
    limits::BATCH_BYTES
        .max(limits::ANSWER_BYTES)
        .saturating_add(payload.saturating_mul(2))
        .saturating_add(limits::ENVELOPE_BYTES)
}

/// A port could not be bound or served, or an address not be dialled.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Others could reach the port, and nothing would ask them who they are.
    #[error(
        "will not listen on {address}: everyone who reaches it could use it; \
         say --insecure if that is meant"
    )]
    NotLoopback {
        /// The address asked for.
        address: SocketAddr,
    },
    /// Something listens there.
    #[error("cannot listen on {address}: address in use")]
    AddressInUse {
        /// The address asked for.
        address: SocketAddr,
    },
    /// The system refused the address for another reason.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The host's name has no address.
    #[error("cannot resolve {host:?}: {source}")]
    Resolve {
        /// The name.
        host: String,
        /// What the system said.
        source: io::Error,
    },
    /// What should be dialled is no address of a gRPC server.
    #[error("{url:?} is no address of a server: {problem}; it looks like http://host:port")]
    BadUrl {
        /// What was given.
        url: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Serving ended by itself. Connections in flight were cut.
    #[error("serving ended: {0}")]
    Serve(#[from] tonic::transport::Error),
}

fn bind_to(address: SocketAddr) -> io::Result<Listener> {
    let tcp = TcpListener::bind(address)?;
    tcp.set_nonblocking(true)?;
    let addr = tcp.local_addr()?;
    Ok(Listener::new(addr, Socket::System { tcp, local: None }))
}

/// An IPv6 address may be written in brackets, as in a URL.
fn bare(host: &str) -> &str {
    host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host)
}

#[cfg(test)]
mod tests;
