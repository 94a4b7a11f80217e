//! What waits for one reader: messages, bounded in number and in bytes.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::Stream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tonic::Status;

use crate::wire::v1::{TaskEvent, WatchResponse};

/// Messages that wait for a slow reader.
pub(in crate::dispatcher) const MESSAGES: usize = 16;
/// KiB of them; one that is larger waits alone. More than a fast reader takes at once.
const KIB: u32 = 128;
/// Bytes after which a message is cut: so many wait, and as many are on their way.
pub(super) const BYTES: usize = 128 << 10;

/// The end at which messages are added.
#[derive(Debug)]
pub(in crate::dispatcher) struct Line {
    messages: mpsc::Sender<Waiting>,
    room: Arc<Semaphore>,
}

/// The end at which the reader takes them.
#[derive(Debug)]
pub(in crate::dispatcher) struct Messages(mpsc::Receiver<Waiting>);

#[derive(Debug)]
struct Waiting {
    message: Result<WatchResponse, Status>,
    /// What it takes, until it is taken.
    _room: Option<OwnedSemaphorePermit>,
}

/// Bytes that an event takes while it waits.
pub(super) fn held(event: &TaskEvent) -> usize {
    let result = event.result.as_ref().map_or(0, Bytes::len);
    size_of::<TaskEvent>() + result + event.error.len()
}

/// A line of at most so many messages.
pub(in crate::dispatcher) fn line(messages: usize) -> (Line, Messages) {
    let (sender, receiver) = mpsc::channel(messages.clamp(1, MESSAGES));
    let room = Arc::new(Semaphore::new(usize::try_from(KIB).unwrap_or(usize::MAX)));
    (Line { messages: sender, room }, Messages(receiver))
}

impl Line {
    /// Adds a message once there is room; tells whether the reader is still there.
    pub(super) async fn send(&self, message: WatchResponse) -> bool {
        let names: usize = message.names.iter().map(String::len).sum();
        let bytes = message.events.iter().map(held).sum::<usize>() + names;
        let kib = u32::try_from(bytes >> 10).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.room).acquire_many_owned(kib.clamp(1, KIB));
        let room = tokio::select! {
            room = room => room.ok(),
            () = self.closed() => return false,
        };
        self.messages.send(Waiting { message: Ok(message), _room: room }).await.is_ok()
    }

    /// Waits until there is room for more than a little.
    pub(super) async fn has_room(&self) {
        tokio::select! {
            // It is given back at once.
            room = self.room.acquire_many(KIB / 2) => drop(room),
            () = self.closed() => {}
        }
    }

    /// Waits until the reader has left.
    pub(super) async fn closed(&self) {
        self.messages.closed().await;
    }

    /// Says why there is no more.
    pub(super) async fn end(&self, why: Status) {
        // A reader that has left needs no farewell.
        drop(self.messages.send(Waiting { message: Err(why), _room: None }).await);
    }
}

impl Stream for Messages {
    type Item = Result<WatchResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(cx).map(|waiting| waiting.map(|waiting| waiting.message))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt as _, StreamExt as _};

    use super::*;

    fn message(kib: usize) -> WatchResponse {
        let event =
            TaskEvent { result: Some(Bytes::from(vec![0; kib << 10])), ..TaskEvent::default() };
        WatchResponse { events: vec![event], ..WatchResponse::default() }
    }

    #[tokio::test]
    async fn few_bytes_wait_for_a_reader_that_does_not_read_and_more_once_it_does() {
        let (line, mut messages) = line(MESSAGES);
        assert!(line.send(message(50)).await);
        assert!(line.send(message(50)).await);
        assert_eq!(line.send(message(50)).now_or_never(), None);
        assert_eq!(line.has_room().now_or_never(), None);
        messages.next().await.unwrap().unwrap();
        assert!(line.send(message(50)).now_or_never().unwrap());
        drop(messages);
        assert!(!line.send(message(50)).await);
    }

    #[tokio::test]
    async fn a_message_larger_than_the_room_waits_alone() {
        let (line, mut messages) = line(MESSAGES);
        assert!(line.send(message(4_000)).await);
        assert_eq!(line.send(message(0)).now_or_never(), None);
        messages.next().await.unwrap().unwrap();
        assert!(line.send(message(0)).await);
    }
}
