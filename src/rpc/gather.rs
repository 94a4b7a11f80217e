//! What is written within one turn of the runtime leaves in one packet.
//!
//! A call is a frame of headers and one of its message. The connection's task writes the
//! headers as soon as it has them, because the message gets its share of the window only
//! when they are out of its hands: two writes, two packets, and the peer is woken for one
//! that says nothing yet. So a write is put off until the tasks that are ready have had
//! their turn. No timer is in this, and a write that was put off is not put off again.
//!
//! What this module does not do: it holds no bytes; whoever writes keeps them meanwhile.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes of a write that waits: more fill packets of their own.
const SMALL: usize = 4 << 10;

/// A connection whose small writes wait for a turn.
#[derive(Debug)]
pub(super) struct Gathered<C> {
    connection: C,
    /// The next write has waited.
    has_waited: bool,
}

impl<C: AsyncWrite + Unpin> Gathered<C> {
    pub(super) fn new(connection: C) -> Self {
        Self { connection, has_waited: false }
    }

    fn write(
        &mut self,
        cx: &mut Context<'_>,
        bytes: usize,
        write: impl FnOnce(Pin<&mut C>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if bytes < SMALL && !self.has_waited {
            self.has_waited = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let written = write(Pin::new(&mut self.connection), cx);
        // A peer that takes nothing now is waited for long enough.
        self.has_waited = written.is_pending();
        written
    }
}

impl<C: AsyncRead + Unpin> AsyncRead for Gathered<C> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_read(cx, into)
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for Gathered<C> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.write(cx, bytes.len(), |connection, cx| connection.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let bytes = slices.iter().map(|slice| slice.len()).sum();
        self.write(cx, bytes, |connection, cx| connection.poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        self.connection.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
