//! Connections as they come in: bounded in number, cut when they do not say hello
//! in time, and cut when serving ends.
//!
//! An HTTP/2 client speaks first, with 24 fixed bytes. They are read here, so that
//! a peer that says nothing, or something else, never reaches the server behind,
//! which would wait for it without a deadline; then they are played back.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, Stream, StreamExt as _, unfold};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;
use tracing::debug;

use super::ServeLimits;
use super::frames::Frames;
use super::gate::{For, Gate, Guest, Place};
use super::network::{Port, Stream as Wire};

/// What an HTTP/2 client sends first: RFC 9113, section 3.4.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A peer that said hello.
pub(super) struct Connection {
    stream: Wire,
    /// How many bytes of the preface the server behind has seen.
    replayed: usize,
    /// What comes behind it.
    frames: Frames,
    /// Bytes that count as held of a frame that is not whole.
    held: u64,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    place: Place,
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
        gate: Gate::new(port, limits.connections, For::Calls, cut),
        preface_deadline: limits.preface_deadline,
        greetings: FuturesUnordered::new(),
    };
    unfold(door, async |mut door| {
        let connection = door.next().await;
        Some((Ok(connection), door))
    })
}

type Greeting = Pin<Box<dyn Future<Output = Option<Connection>> + Send>>;

struct Door {
    gate: Gate,
    preface_deadline: Duration,
    /// Peers that have not said hello.
    greetings: FuturesUnordered<Greeting>,
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
                (stream, place) = self.gate.next() => self.welcome(stream, place),
            }
        }
    }

    fn welcome(&self, stream: Wire, place: Place) {
        let patience = self.preface_deadline;
        self.greetings.push(Box::pin(async move {
            let cut = place.guest().cut().clone();
            let greeted = cut.run_until_cancelled(timeout(patience, greet(stream, place))).await;
            match greeted {
                Some(Ok(Ok(connection))) => Some(connection),
                Some(Ok(Err(error))) => {
                    debug!(%error, "a peer did not begin with the preface of HTTP/2");
                    None
                }
                Some(Err(_)) => {
                    debug!(?patience, "a peer did not say hello in time");
                    None
                }
                None => None,
            }
        }));
    }
}

async fn greet(mut stream: Wire, place: Place) -> io::Result<Connection> {
    // Messages are batched before they get here.
    stream.set_nodelay()?;
    let mut hello = [0; PREFACE.len()];
    stream.read_exact(&mut hello).await?;
    if &hello != PREFACE {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not HTTP/2"));
    }
    let cut = Box::pin(place.guest().cut().clone().cancelled_owned());
    Ok(Connection { stream, replayed: 0, frames: Frames::default(), held: 0, cut, place })
}

impl Connection {
    /// Fails once the connection is cut; wakes the caller when that happens.
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.cut.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::ErrorKind::ConnectionAborted.into()),
            Poll::Pending => Ok(()),
        }
    }

    /// Counts what came as held, as far as it is of a frame that is not whole.
    fn came(&mut self, bytes: &[u8]) {
        let held = self.frames.come(bytes);
        let before = std::mem::replace(&mut self.held, held);
        if held > before {
            self.place.guest().holds(held - before);
        } else if held < before {
            self.place.guest().lets_go(before - held);
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.place.guest().lets_go(self.held);
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
        let there = into.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, into);
        self.came(into.filled().get(there..).unwrap_or_default());
        polled
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl Connected for Connection {
    type ConnectInfo = Guest;

    fn connect_info(&self) -> Guest {
        self.place.guest().clone()
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpStream;

    use super::*;
    use crate::rpc::{Listen, bind};

    #[tokio::test]
    async fn a_peer_that_is_cut_while_it_reads_nothing_is_written_to_no_more() {
        let listener = bind(&Listen::default()).unwrap();
        let addr = listener.addr();
        let limits = ServeLimits::default();
        let connections = stream(listener.into_port().unwrap(), &limits, CancellationToken::new());
        let mut connections = pin!(connections);
        let mut peer = TcpStream::connect(addr).await.unwrap();
        peer.write_all(PREFACE).await.unwrap();
        let mut connection = connections.next().await.unwrap().unwrap();
        let bytes = vec![0; 1 << 16];
        let mut cx = Context::from_waker(std::task::Waker::noop());
        while Pin::new(&mut connection).poll_write(&mut cx, &bytes).is_ready() {
            tokio::task::yield_now().await;
        }
        connection.place.guest().cut().cancel();
        let written = timeout(Duration::from_secs(30), connection.write(&bytes)).await.unwrap();
        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
        assert!(connection.shutdown().await.is_err());
    }

    #[tokio::test]
    async fn what_came_of_a_large_frame_counts_until_it_is_whole() {
        const LENGTH: usize = 100_000;
        const CAME: usize = 70_000;

        let listener = bind(&Listen::default()).unwrap();
        let addr = listener.addr();
        let limits = ServeLimits::default();
        let connections = stream(listener.into_port().unwrap(), &limits, CancellationToken::new());
        let mut connections = pin!(connections);
        let mut peer = TcpStream::connect(addr).await.unwrap();
        peer.write_all(PREFACE).await.unwrap();
        let mut connection = connections.next().await.unwrap().unwrap();
        let header = u32::try_from(LENGTH << 8).unwrap().to_be_bytes();
        let frame = [&header[..3], &vec![0; 6 + LENGTH]].concat();
        let mut read = vec![0; PREFACE.len() + CAME];
        peer.write_all(&frame[..CAME]).await.unwrap();
        connection.read_exact(&mut read).await.unwrap();
        assert_eq!(connection.held, u64::try_from(CAME - (16 << 10)).unwrap());
        peer.write_all(&frame[CAME..]).await.unwrap();
        connection.read_exact(&mut read[..frame.len() - CAME]).await.unwrap();
        assert_eq!(connection.held, 0);
    }
}
