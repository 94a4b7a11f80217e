//! Calls, as the gate knows them: who waits for whom.
//!
//! ```text
//!  the peer speaks ──▶ the server works ──▶ the peer takes the answer, piece by piece
//!      (stuck)                                  (stuck, until it asks for the next)
//! ```
//!
//! A piece of an answer is asked for once the peer has taken the one before, so a body
//! that is not asked again tells of a peer that does not read. One whose next piece is
//! not there waits for the server.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::Buf;
use hyper::body::{Body, Frame, SizeHint};

use super::gate::Guest;

/// A call that a guest has begun and that is not over. It is over when nobody has it.
#[derive(Debug, Clone)]
pub(crate) struct Call(Arc<Open>);

#[derive(Debug)]
struct Open {
    guest: Guest,
    is_stuck: AtomicBool,
    /// Its answer has begun: who then still speaks does so in its own time.
    is_answered: AtomicBool,
}

impl Call {
    pub(super) fn new(guest: Guest) -> Self {
        let (is_stuck, is_answered) = (AtomicBool::new(false), AtomicBool::new(false));
        Self(Arc::new(Open { guest, is_stuck, is_answered }))
    }

    /// What the peer says.
    pub(crate) fn hears<B: Body>(&self, body: B) -> Heard<B> {
        if !body.is_end_stream() {
            self.waits_for_peer(true);
        }
        Heard { body, call: self.clone(), held: 0 }
    }

    /// What the peer is told.
    pub(crate) fn tells<B: Body>(self, body: B) -> Told<B> {
        self.0.is_answered.store(true, Ordering::Relaxed);
        self.waits_for_peer(false);
        Told { body, call: self, held: 0 }
    }

    fn waits_for_peer(&self, waits: bool) {
        if self.0.is_stuck.swap(waits, Ordering::Relaxed) != waits {
            self.0.guest.is_stuck(waits);
        }
    }

    /// Counts the bytes of a piece as held.
    fn holds<D: Buf, E>(&self, polled: &Poll<Option<Result<Frame<D>, E>>>) -> u64 {
        let Poll::Ready(Some(Ok(frame))) = polled else { return 0 };
        let bytes = frame.data_ref().map_or(0, Buf::remaining);
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.0.guest.holds(bytes);
        bytes
    }

    fn is_answered(&self) -> bool {
        self.0.is_answered.load(Ordering::Relaxed)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if *self.is_stuck.get_mut() {
            self.guest.is_stuck(false);
        }
        self.guest.ends();
    }
}

/// The body of a request.
#[derive(Debug)]
pub(crate) struct Heard<B> {
    body: B,
    call: Call,
    /// Bytes that came of a message that is not whole.
    held: u64,
}

impl<B: Body + Unpin> Body for Heard<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if polled.is_ready() {
            self.call.0.guest.moves();
            if !self.call.is_answered() {
                self.held += self.call.holds(&polled);
            }
            if self.body.is_end_stream() || !matches!(polled, Poll::Ready(Some(Ok(_)))) {
                self.has_ended();
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B> Heard<B> {
    fn has_ended(&mut self) {
        let held = std::mem::take(&mut self.held);
        self.call.0.guest.lets_go(held);
        // Afterwards it is the answer that tells.
        if !self.call.is_answered() {
            self.call.waits_for_peer(false);
        }
    }
}

impl<B> Drop for Heard<B> {
    /// Who answers does not want to hear the rest.
    fn drop(&mut self) {
        self.has_ended();
    }
}

/// The body of an answer.
#[derive(Debug)]
pub(crate) struct Told<B> {
    body: B,
    call: Call,
    /// Bytes of the piece that is being sent.
    held: u64,
}

impl<B: Body + Unpin> Body for Told<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let held = std::mem::take(&mut self.held);
        self.call.0.guest.lets_go(held);
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        self.held = self.call.holds(&polled);
        let has_more = matches!(polled, Poll::Ready(Some(Ok(_))));
        if has_more {
            self.call.0.guest.moves();
        }
        self.call.waits_for_peer(has_more);
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B> Drop for Told<B> {
    fn drop(&mut self) {
        self.call.0.guest.lets_go(self.held);
    }
}
