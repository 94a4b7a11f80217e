//! The network that a role is on: that of the system, or one that somebody hands in,
//! such as a simulated one.
//!
//! What it does not do: it speaks no protocol and has no limits; those are the
//! server's and the channel's, whatever the network.

use std::fmt;
use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use rustix::process::geteuid;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tonic::codegen::{BoxFuture, Service, StdError, http::Uri};
use tonic::transport::Endpoint;

use super::gather::Gathered;
use super::nudge::Nudged;
use super::{Channel, Error, Listen, Listener, channel, local};

/// Where ports are bound and peers dialled. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub enum Network {
    /// The system's own: TCP, and for peers of one user on one machine a Unix socket
    /// beside the port, where there is one.
    #[default]
    System,
    /// TCP alone.
    Tcp,
    /// Another. What binds and dials on it does so without blocking.
    Other(Arc<dyn Transport>),
}

/// A network beside that of the system.
pub trait Transport: fmt::Debug + Send + Sync {
    /// Binds a port, at once.
    ///
    /// # Errors
    /// As a socket of the system.
    fn bind(&self, listen: &Listen) -> io::Result<Box<dyn Acceptor>>;

    /// Connects to a port of a host, which is a name or an address.
    fn connect(&self, host: &str, port: u16) -> Connecting<'static>;
}

/// A bound port of such a network. Dropping it closes the port.
pub trait Acceptor: fmt::Debug + Send + Sync {
    /// By which address peers reach it.
    fn addr(&self) -> SocketAddr;

    /// The next connection.
    fn accept(&self) -> Connecting<'_>;
}

/// A connection of such a network.
pub trait Wire: AsyncRead + AsyncWrite + fmt::Debug + Send + Unpin {}

impl<W: AsyncRead + AsyncWrite + fmt::Debug + Send + Unpin> Wire for W {}

/// A connection in the making.
pub type Connecting<'a> = Pin<Box<dyn Future<Output = io::Result<Box<dyn Wire>>> + Send + 'a>>;

impl Network {
    /// Binds a port, as [`super::bind`] does.
    ///
    /// # Errors
    /// When it cannot be bound.
    pub fn bind(&self, listen: &Listen) -> Result<Listener, Error> {
        let transport = match self {
            Self::System => return Ok(super::bind(listen)?.with_local()),
            Self::Tcp => return super::bind(listen),
            Self::Other(transport) => transport,
        };
        let Listen { host, port, .. } = listen;
        let acceptor = transport
            .bind(listen)
            .map_err(|source| Error::Resolve { host: format!("{host}:{port}"), source })?;
        Ok(Listener::new(acceptor.addr(), Socket::Other(acceptor)))
    }

    /// A channel, as [`super::channel`] makes one.
    ///
    /// # Errors
    /// When the address is none.
    pub fn channel(&self, address: &str) -> Result<Channel, Error> {
        Ok(self.connect_lazily(&channel::pinging(address)?))
    }

    /// A channel, as [`super::foreign_channel`] makes one.
    ///
    /// # Errors
    /// When the address is none.
    pub fn foreign_channel(&self, address: &str) -> Result<Channel, Error> {
        Ok(self.connect_lazily(&channel::silent(address)?))
    }

    fn connect_lazily(&self, endpoint: &Endpoint) -> Channel {
        let dialler = match self {
            Self::System => Dialler::System { tcp: tcp(endpoint), tries_local: true },
            Self::Tcp => Dialler::System { tcp: tcp(endpoint), tries_local: false },
            Self::Other(transport) => Dialler::Other(Arc::clone(transport)),
        };
        Nudged::new(endpoint.connect_with_connector_lazy(dialler))
    }

    /// Whether binding a port may block its thread: names are resolved.
    #[must_use]
    pub fn blocks(&self) -> bool {
        !matches!(self, Self::Other(_))
    }
}

impl PartialEq for Network {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::System, Self::System) | (Self::Tcp, Self::Tcp) => true,
            (Self::Other(this), Self::Other(other)) => Arc::ptr_eq(this, other),
            (Self::System | Self::Tcp | Self::Other(_), _) => false,
        }
    }
}

impl Eq for Network {}

/// A bound port.
#[derive(Debug)]
pub(super) enum Socket {
    System { tcp: std::net::TcpListener, local: Option<std::os::unix::net::UnixListener> },
    Other(Box<dyn Acceptor>),
}

/// A port that is served.
pub(crate) enum Port {
    System { tcp: TcpListener, local: Option<UnixListener> },
    Other(Box<dyn Acceptor>),
}

impl Port {
    /// Asks the system to keep so many peers until they are accepted.
    pub(super) fn listen(&self, backlog: i32) -> io::Result<()> {
        match self {
            Self::System { tcp, local } => {
                rustix::net::listen(tcp, backlog)?;
                Ok(local.as_ref().map_or(Ok(()), |local| rustix::net::listen(local, backlog))?)
            }
            Self::Other(_) => Ok(()),
        }
    }

    pub(super) async fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::System { tcp, local } => {
                let near = async {
                    match local {
                        Some(local) => local.accept().await,
                        None => pending().await,
                    }
                };
                tokio::select! {
                    accepted = tcp.accept() => accepted.map(|(tcp, _)| Stream::Tcp(tcp)),
                    accepted = near => accepted.map(|(local, _)| Stream::Local(local)),
                }
            }
            Self::Other(acceptor) => acceptor.accept().await.map(Stream::Other),
        }
    }
}

impl TryFrom<Socket> for Port {
    type Error = io::Error;

    fn try_from(socket: Socket) -> io::Result<Self> {
        Ok(match socket {
            Socket::System { tcp, local } => Self::System {
                tcp: TcpListener::from_std(tcp)?,
                local: local.map(UnixListener::from_std).transpose()?,
            },
            Socket::Other(acceptor) => Self::Other(acceptor),
        })
    }
}

/// A connection. Those of the system are called directly: all bytes pass here.
#[derive(Debug)]
pub(crate) enum Stream {
    Tcp(TcpStream),
    Local(UnixStream),
    Other(Box<dyn Wire>),
}

impl Stream {
    /// Small messages go out at once.
    pub(crate) fn set_nodelay(&self) -> io::Result<()> {
        match self {
            Self::Tcp(tcp) => tcp.set_nodelay(true),
            Self::Local(_) | Self::Other(_) => Ok(()),
        }
    }

    /// A peer that takes nothing of what it was sent for so many milliseconds is gone.
    pub(crate) fn set_user_timeout(&self, millis: u32) -> io::Result<()> {
        match self {
            Self::Tcp(tcp) => Ok(rustix::net::sockopt::set_tcp_user_timeout(tcp, millis)?),
            Self::Local(_) | Self::Other(_) => Ok(()),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_read(cx, into),
            Self::Local(local) => Pin::new(local).poll_read(cx, into),
            Self::Other(wire) => Pin::new(wire).poll_read(cx, into),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_write(cx, bytes),
            Self::Local(local) => Pin::new(local).poll_write(cx, bytes),
            Self::Other(wire) => Pin::new(wire).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_write_vectored(cx, slices),
            Self::Local(local) => Pin::new(local).poll_write_vectored(cx, slices),
            Self::Other(wire) => Pin::new(wire).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(tcp) => tcp.is_write_vectored(),
            Self::Local(local) => local.is_write_vectored(),
            Self::Other(wire) => wire.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_flush(cx),
            Self::Local(local) => Pin::new(local).poll_flush(cx),
            Self::Other(wire) => Pin::new(wire).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Local(local) => Pin::new(local).poll_shutdown(cx),
            Self::Other(wire) => Pin::new(wire).poll_shutdown(cx),
        }
    }
}

/// Dials for channels.
#[derive(Debug, Clone)]
enum Dialler {
    System { tcp: HttpConnector, tries_local: bool },
    Other(Arc<dyn Transport>),
}

/// As tonic dials by itself.
fn tcp(endpoint: &Endpoint) -> HttpConnector {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(endpoint.get_tcp_nodelay());
    tcp.set_connect_timeout(endpoint.get_connect_timeout());
    tcp.set_keepalive(endpoint.get_tcp_keepalive());
    tcp.set_keepalive_interval(endpoint.get_tcp_keepalive_interval());
    tcp.set_keepalive_retries(endpoint.get_tcp_keepalive_retries());
    tcp
}

impl Service<Uri> for Dialler {
    type Response = TokioIo<Gathered<Stream>>;
    type Error = StdError;
    type Future = BoxFuture<Self::Response, StdError>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StdError>> {
        match self {
            Self::System { tcp, .. } => tcp.poll_ready(cx).map_err(Into::into),
            Self::Other(_) => Poll::Ready(Ok(())),
        }
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        // A channel is made only for what has both.
        let (host, port) = (uri.host().unwrap_or_default(), uri.port_u16().unwrap_or_default());
        let stream: BoxFuture<Stream, StdError> = match self {
            Self::System { tcp, tries_local } => {
                let (mut tcp, tries_local) = (tcp.clone(), *tries_local);
                let host = super::bare(host).to_owned();
                Box::pin(async move {
                    if tries_local && let Some(local) = local::connect(&host, port, geteuid()).await
                    {
                        return Ok(Stream::Local(local));
                    }
                    Ok(Stream::Tcp(tcp.call(uri).await?.into_inner()))
                })
            }
            Self::Other(transport) => {
                let connecting = transport.connect(super::bare(host), port);
                Box::pin(async { Ok(Stream::Other(connecting.await?)) })
            }
        };
        Box::pin(async { Ok(TokioIo::new(Gathered::new(stream.await?))) })
    }
}

#[cfg(test)]
mod tests;
