//! Connections as they come in: bounded in number, cut when they do not say hello
//! in time, and cut when serving ends.
//!
//! An HTTP/2 client speaks first, with 24 fixed bytes. They are read here, so that
//! a peer that says nothing, or something else, never reaches the server behind,
//! which would wait for it without a deadline; then they are played back.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, Stream, StreamExt as _, unfold};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;
use tracing::{debug, warn};

use super::ServeLimits;
use super::network::{Port, Stream as Wire};

/// What an HTTP/2 client sends first: RFC 9113, section 3.4.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The pause after a failed accept. At the limit of file descriptors accept fails
/// at once, again and again: without a pause it would use a whole core.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A peer that said hello.
pub(super) struct Connection {
    stream: Wire,
    /// How many bytes of the preface the server behind has seen.
    replayed: usize,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    _permit: OwnedSemaphorePermit,
}

/// The connections that `port` accepts. Once `cut` is cancelled, reading from
/// and writing to any of them fails. Dropping the stream closes the port and drops
/// the peers that have not said hello.
pub(super) fn stream(
    port: Port,
    limits: &ServeLimits,
    cut: CancellationToken,
) -> impl Stream<Item = io::Result<Connection>> + Send + use<> {
    let door = Door {
        port,
        permits: Arc::new(Semaphore::new(limits.connections)),
        preface_deadline: limits.preface_deadline,
        cut,
        greetings: FuturesUnordered::new(),
        paused_until: None,
    };
    unfold(door, async |mut door| {
        let connection = door.next().await;
        Some((Ok(connection), door))
    })
}

type Greeting = Pin<Box<dyn Future<Output = Option<Connection>> + Send>>;

struct Door {
    port: Port,
    permits: Arc<Semaphore>,
    preface_deadline: Duration,
    cut: CancellationToken,
    /// Peers that have not said hello.
    greetings: FuturesUnordered<Greeting>,
    paused_until: Option<Instant>,
}

impl Door {
    async fn next(&mut self) -> Connection {
        loop {
            tokio::select! {
                Some(greeted) = self.greetings.next() => {
                    if let Some(connection) = greeted {
                        return connection;
                    }
                }
                accepted = accept(&self.port, &self.permits, self.paused_until) => {
                    self.paused_until = None;
                    match accepted {
                        Ok((stream, permit)) => self.welcome(stream, permit),
                        Err(error) => {
                            warn!(%error, "cannot accept a connection");
                            self.paused_until = Some(Instant::now() + ACCEPT_PAUSE);
                        }
                    }
                }
            }
        }
    }

    fn welcome(&self, stream: Wire, permit: OwnedSemaphorePermit) {
        let cut = self.cut.clone();
        let patience = self.preface_deadline;
        self.greetings.push(Box::pin(async move {
            match timeout(patience, greet(stream, permit, cut)).await {
                Ok(Ok(connection)) => Some(connection),
                Ok(Err(error)) => {
                    debug!(%error, "a peer did not begin with the preface of HTTP/2");
                    None
                }
                Err(_) => {
                    debug!(?patience, "a peer did not say hello in time");
                    None
                }
            }
        }));
    }
}

/// The permit comes first: beyond the limit, peers wait in the system's backlog.
async fn accept(
    port: &Port,
    permits: &Arc<Semaphore>,
    paused_until: Option<Instant>,
) -> io::Result<(Wire, OwnedSemaphorePermit)> {
    if let Some(until) = paused_until {
        sleep_until(until).await;
    }
    let permit = Arc::clone(permits).acquire_owned().await.map_err(io::Error::other)?;
    Ok((port.accept().await?, permit))
}

async fn greet(
    mut stream: Wire,
    permit: OwnedSemaphorePermit,
    cut: CancellationToken,
) -> io::Result<Connection> {
    // Messages are batched before they get here.
    stream.set_nodelay()?;
    let mut hello = [0; PREFACE.len()];
    stream.read_exact(&mut hello).await?;
    if &hello != PREFACE {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not HTTP/2"));
    }
    Ok(Connection { stream, replayed: 0, cut: Box::pin(cut.cancelled_owned()), _permit: permit })
}

impl Connection {
    /// Fails once the connection is cut; wakes the caller when that happens.
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.cut.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::ErrorKind::ConnectionAborted.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx)?;
        let rest = PREFACE.get(self.replayed..).unwrap_or_default();
        if !rest.is_empty() {
            let some = rest.len().min(into.remaining());
            into.put_slice(rest.get(..some).unwrap_or_default());
            self.replayed += some;
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
        Poll::Ready(Ok(()))
    }
}

impl Connected for Connection {
    /// Nobody asks who calls.
    type ConnectInfo = ();

    fn connect_info(&self) {}
}
