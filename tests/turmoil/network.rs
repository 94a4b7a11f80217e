//! The simulated network, as the product's roles are given one.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use futures_util::FutureExt as _;
use taskgrid::rpc::{Acceptor, Connecting, Listen, Network, Transport, Wire};
use turmoil::net::{TcpListener, TcpStream};

/// The network of the host that is running.
pub(crate) fn simulated() -> Network {
    Network::Other(Arc::new(Simulated))
}

#[derive(Debug)]
struct Simulated;

impl Transport for Simulated {
    fn bind(&self, listen: &Listen) -> io::Result<Box<dyn Acceptor>> {
        let at = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), listen.port);
        let bound =
            TcpListener::bind(at).now_or_never().expect("a simulated port is bound at once");
        Ok(Box::new(Bound(bound?)))
    }

    fn connect(&self, host: &str, port: u16) -> Connecting<'static> {
        let peer = (host.to_owned(), port);
        Box::pin(async move {
            let stream: Box<dyn Wire> = Box::new(TcpStream::connect(peer).await?);
            Ok(stream)
        })
    }
}

struct Bound(TcpListener);

impl Acceptor for Bound {
    fn addr(&self) -> SocketAddr {
        self.0.local_addr().expect("a bound port has an address")
    }

    fn accept(&self) -> Connecting<'_> {
        Box::pin(async {
            let stream: Box<dyn Wire> = Box::new(self.0.accept().await?.0);
            Ok(stream)
        })
    }
}

impl fmt::Debug for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Bound").field(&self.0.local_addr()).finish()
    }
}
