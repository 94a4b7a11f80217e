//! Watches: what happens to tasks, from a cursor on.
//!
//! A watcher has a place in the log and nothing else. It reads what is committed as
//! it comes; one that falls behind reads from the store until it has caught up, and
//! no sooner than there is room for what it reads, so that a slow reader costs nobody
//! memory.

mod line;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes};
use tokio::sync::broadcast::error::RecvError;
use tokio::time::timeout;
use tonic::Status;

pub(super) use self::line::{Line, MESSAGES, Messages, line};
use super::answers::{self, Names};
use super::scheduler::Handle;
use crate::core::event::{Event, TaskEvent};
use crate::core::id::{Seq, TaskId};
use crate::core::limits;
use crate::shutdown::Shutdown;
use crate::store::{self, Group, Store, StoredEvent};
use crate::wire::{Malformed, v1};

/// Events read from the store at once.
const PAGE: usize = 500;
/// How many small events are in a message.
const SMALL_EVENTS: usize = line::BYTES / size_of::<v1::TaskEvent>();
/// How long a group of events is kept for a slow reader. Afterwards it is read from the
/// store, when there is room for it.
const PATIENCE: Duration = Duration::from_secs(1);

/// Events that a reader wants nothing of, after which it is told where they end all the same:
/// else its cursor would grow old while it waits for a task that is seldom.
pub(super) const PASSED: u64 = if cfg!(test) { 100 } else { 10_000 };

/// A place in the log of one store, as clients hold it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursors {
    /// Names the store: a cursor of another one is refused.
    pub(super) store_id: u64,
}

impl Cursors {
    pub(super) fn encode(self, place: Seq) -> Bytes {
        let mut bytes = Vec::with_capacity(16);
        bytes.put_u64(self.store_id);
        bytes.put_u64(place.0);
        bytes.into()
    }

    fn decode(self, mut cursor: &[u8]) -> Result<Seq, Malformed> {
        if cursor.len() != 16 || cursor.get_u64() != self.store_id {
            return Err(Malformed::new("cursor", "not one of this dispatcher's"));
        }
        Ok(Seq(cursor.get_u64()))
    }
}

/// One watch.
pub(super) struct Watcher {
    handle: Handle,
    store: Arc<dyn Store>,
    cursors: Cursors,
    place: Seq,
    /// The place of the last cursor that the reader got.
    told: Seq,
    request: v1::WatchRequest,
    ids: BTreeSet<TaskId>,
}

impl Watcher {
    /// A watch as the request wants it; one without a cursor begins at `end`.
    pub(super) fn new(
        handle: Handle,
        store: Arc<dyn Store>,
        cursors: Cursors,
        request: v1::WatchRequest,
        end: Seq,
    ) -> Result<Self, Status> {
        if request.ids.len() > limits::WATCH_IDS {
            let problem = format!("{} ids; at most {}", request.ids.len(), limits::WATCH_IDS);
            return Err(Malformed::new("ids", problem).into());
        }
        let is_new = request.cursor.is_empty();
        let place = if is_new { end } else { cursors.decode(&request.cursor)? };
        if place < handle.trimmed_to() {
            return Err(too_old());
        }
        let ids = request.ids.iter().map(|id| TaskId(*id)).collect();
        Ok(Self { handle, store, cursors, place, told: place, request, ids })
    }

    /// Sends messages until the reader leaves or the shutdown begins.
    pub(super) async fn run(mut self, line: Line, shutdown: Shutdown) {
        let mut committed = self.handle.committed();
        let mut behind = true;
        // Told at once, so that a watch from now has a cursor to go on from.
        let cursor = self.cursors.encode(self.place);
        let hello = v1::WatchResponse { cursor, ..v1::WatchResponse::default() };
        if !line.send(hello).await {
            return;
        }
        loop {
            if behind {
                let is_there = tokio::select! {
                    is_there = self.catch_up(&line) => is_there,
                    () = shutdown.begun() => return line.end(stops()).await,
                };
                if !is_there {
                    return;
                }
            }
            let group = tokio::select! {
                group = committed.recv() => group,
                () = line.closed() => return,
                () = shutdown.begun() => return line.end(stops()).await,
            };
            match group {
                Ok(group) if group.is_empty() => behind = true,
                Ok(group) => behind = !self.send_group(&group, &line).await,
                Err(RecvError::Lagged(_)) => behind = true,
                Err(RecvError::Closed) => return,
            }
        }
    }

    /// Reads from the store up to its end; tells whether the reader is still there.
    async fn catch_up(&mut self, line: &Line) -> bool {
        loop {
            line.has_room().await;
            let place = self.place;
            let read = move |store: &dyn Store| store.events_after(place, PAGE, line::BYTES);
            let events = match store::apart(&self.store, read).await {
                Ok(events) => events,
                Err(error) => {
                    line.end(answers::unread(&error)).await;
                    return false;
                }
            };
            // Looked at after the read: what is trimmed is told of before it is done.
            if self.place < self.handle.trimmed_to() {
                line.end(too_old()).await;
                return false;
            }
            if events.is_empty() {
                return true;
            }
            let messages = self.tell_all(&events);
            // Not to be held while the reader takes its time.
            drop(events);
            for message in messages {
                if !line.send(message).await {
                    return false;
                }
            }
        }
    }

    /// Tells of a group; false if the reader did not take it in time, or has left: then
    /// the place is where it was told last.
    async fn send_group(&mut self, group: &Group, line: &Line) -> bool {
        let mut events = group.entries.iter().filter_map(|entry| match &entry.event {
            Event::Changed(event) => Some((event, &entry.bytes)),
            _ => None,
        });
        loop {
            let before = (self.place, self.told);
            let Some(message) = self.tell(&mut events) else { return true };
            if !timeout(PATIENCE, line.send(message)).await.unwrap_or(false) {
                (self.place, self.told) = before;
                return false;
            }
        }
    }

    fn tell_all(&mut self, events: &[StoredEvent]) -> Vec<v1::WatchResponse> {
        let mut events = events.iter().map(|read| (&read.event, &read.result));
        std::iter::from_fn(|| self.tell(&mut events)).collect()
    }

    /// What the reader wants of the next of these events, as many as fit into a message;
    /// nothing if it wants none of them, unless it has heard nothing for long. Moves on behind
    /// those that were looked at.
    fn tell<'a>(
        &mut self,
        events: &mut impl Iterator<Item = (&'a TaskEvent, &'a Bytes)>,
    ) -> Option<v1::WatchResponse> {
        let types = self.handle.types();
        let mut names = Names::default();
        let most = events.size_hint().1.unwrap_or_default().min(SMALL_EVENTS);
        let (mut told, mut bytes) = (Vec::new(), 0);
        for (event, result) in events {
            if event.seq <= self.place {
                continue;
            }
            self.place = event.seq;
            if self.wants(event) {
                if told.is_empty() {
                    // Who wants one of a group is likely to want more.
                    told.reserve_exact(most);
                }
                let result = (!self.request.omit_results).then_some(result);
                let event = answers::event(event, result, &types, &mut names);
                bytes += line::held(&event);
                told.push(event);
            }
            if bytes > line::BYTES {
                break;
            }
        }
        let cursor = self.cursors.encode(self.place);
        // It may wait for long for its reader, and is counted by what is in it.
        told.shrink_to_fit();
        let names = names.into_list();
        if told.is_empty() && self.place.0 - self.told.0 < PASSED {
            return None;
        }
        self.told = self.place;
        Some(v1::WatchResponse { events: told, cursor, names })
    }

    fn wants(&self, event: &TaskEvent) -> bool {
        (self.request.group == 0 || self.request.group == event.spec.group)
            && (self.ids.is_empty() || self.ids.contains(&event.id))
            && (!self.request.ends_only || event.change.status().is_terminal())
    }
}

fn stops() -> Status {
    Status::unavailable("the dispatcher stops; watch again")
}

fn too_old() -> Status {
    Status::out_of_range("the cursor is older than what is kept: ask for the tasks by their ids")
}
