//! Peers on one machine meet on a Unix socket beside the port.
//!
//! A byte over the loopback of TCP costs two to three times the processor time of one over a
//! Unix socket. So who serves a port of the loopback also listens on a socket whose name is
//! made of that address, in Linux's abstract namespace: it is seen by whom the port is seen,
//! the same network namespace, leaves no file behind, and is gone with its process.
//!
//! What this module does not do: it decides nothing for good. Where there is no such socket,
//! or another user's, the port is there.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener};

use rustix::process::Uid;
use tokio::net::UnixStream;
use tracing::debug;

/// Listens beside the port at `addr`, if peers on this machine reach that over its loopback.
pub(super) fn bind(addr: SocketAddr) -> Option<UnixListener> {
    let name = name(addr)?;
    let bound = UnixAddr::from_abstract_name(&name).and_then(|name| {
        let socket = UnixListener::bind_addr(&name)?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    });
    bound.inspect_err(|error| debug!(%error, name, "there is no local socket beside the port")).ok()
}

/// Connects to who serves the port of this host, if it is on this machine and `user`'s: a name
/// in the abstract namespace is anybody's who takes it first.
pub(super) async fn connect(host: &str, port: u16, user: Uid) -> Option<UnixStream> {
    for ip in loopbacks(host) {
        let Some(name) = name(SocketAddr::new(ip, port)) else { continue };
        // Nobody listens there, or too many wait: over TCP it is told which.
        let Ok(stream) = UnixStream::connect(format!("\0{name}")).await else { continue };
        match serves(&stream) {
            Ok(uid) if uid == user => return Some(stream),
            served => debug!(?served, name, "a local socket is not of the same user"),
        }
    }
    None
}

fn serves(stream: &UnixStream) -> io::Result<Uid> {
    Ok(rustix::net::sockopt::socket_peercred(stream)?.uid)
}

/// The addresses of this machine's loopback that a host is, in the order in which they are dialled.
fn loopbacks(host: &str) -> Vec<IpAddr> {
    if host.eq_ignore_ascii_case("localhost") {
        return vec![Ipv6Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into()];
    }
    host.parse().into_iter().filter(IpAddr::is_loopback).collect()
}

/// The name of the socket beside a port; only a port that is reached over the loopback has one.
fn name(addr: SocketAddr) -> Option<String> {
    let ip = match addr.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    ip.is_loopback().then(|| format!("taskgrid/{}", SocketAddr::new(ip, addr.port())))
}

#[cfg(test)]
mod tests;
