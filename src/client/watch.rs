//! A stream of what happens to tasks, which outlives the connections it runs over.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::Stream;
use tonic::{Code, Status, Streaming};

use super::call::Patience;
use super::error::{Error, fate_is_unknown};
use super::task::{known_status, moment};
use super::{Client, Connection};
use crate::core::id::{TaskId, Timestamp};
use crate::core::task;
use crate::wire::{self, Malformed, v1};

/// What to watch. The default is every event of every task, from now on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Watch {
    /// From where: the cursor of a receipt or of earlier events; empty for now.
    pub cursor: Bytes,
    /// Only tasks submitted under this group; 0 for all.
    pub group: u64,
    /// Only these tasks, at most 10,000; none for all.
    pub ids: Vec<TaskId>,
    /// Only events that end a task.
    pub ends_only: bool,
    /// Without the results.
    pub omit_results: bool,
}

/// Some events, in the order they became durable, and where the stream stands
/// after them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Events {
    /// At least one.
    pub events: Vec<Event>,
    /// A watch from it goes on behind them. Opaque; survives restarts of the
    /// dispatcher.
    pub cursor: Bytes,
}

/// Something that happened to a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Which task.
    pub id: TaskId,
    /// How it stands after it.
    pub status: task::Status,
    /// The attempt it belongs to; 0 for none.
    pub attempt: u32,
    /// When.
    pub timestamp: Timestamp,
    /// The result, when completed and not left out.
    pub result: Option<Bytes>,
    /// Why, when an attempt did not succeed.
    pub reason: Option<task::Reason>,
    /// The handler's error; empty if there was none.
    pub error: String,
    /// The worker of the attempt; empty if there was none.
    pub worker: Arc<str>,
}

impl TryFrom<v1::WatchResponse> for Events {
    type Error = Malformed;

    fn try_from(message: v1::WatchResponse) -> Result<Self, Malformed> {
        let names: Vec<Arc<str>> = message.names.into_iter().map(Arc::from).collect();
        let events = message.events.into_iter().map(|event| Event::read(event, &names));
        Ok(Self { events: events.collect::<Result<_, _>>()?, cursor: message.cursor })
    }
}

impl Event {
    /// An event of a message with these names.
    fn read(message: v1::TaskEvent, names: &[Arc<str>]) -> Result<Self, Malformed> {
        let worker = match message.worker_index {
            None => Arc::default(),
            Some(index) => {
                let name = usize::try_from(index).ok().and_then(|place| names.get(place));
                name.ok_or_else(|| Malformed::new("event.worker_index", "names nobody"))?.clone()
            }
        };
        Ok(Self {
            id: TaskId(message.id),
            status: known_status("event.status", message.status())?,
            attempt: message.attempt,
            timestamp: moment(message.timestamp),
            reason: wire::reason(message.reason()),
            result: message.result,
            error: message.error,
            worker,
        })
    }
}

/// A watch that stands. See [`Client::watch`].
#[derive(Debug)]
pub struct Watching {
    client: Client,
    request: v1::WatchRequest,
    stream: Option<Streaming<v1::WatchResponse>>,
    /// The first message of the stream, if it was read and not told.
    first: Option<v1::WatchResponse>,
    patience: Patience,
}

impl Watching {
    pub(super) async fn open(client: Client, watch: Watch) -> Result<Self, Error> {
        let request = v1::WatchRequest {
            cursor: watch.cursor,
            group: watch.group,
            ids: watch.ids.into_iter().map(|id| id.0).collect(),
            ends_only: watch.ends_only,
            omit_results: watch.omit_results,
        };
        let patience = Patience::new(client.patience);
        let mut watching = Self { client, request, stream: None, first: None, patience };
        watching.connect().await?;
        Ok(watching)
    }

    /// The next events. Connects again by itself, from the last cursor, until the
    /// client's patience is over. After an error the watch may be asked again: it
    /// then begins a new round of patience. Dropping the future loses nothing.
    ///
    /// # Errors
    /// [`Error::CursorTooOld`] when the dispatcher no longer keeps what comes
    /// after the last cursor; [`Error::Unreachable`] or [`Error::NotReady`] when
    /// patience is over.
    pub async fn next(&mut self) -> Result<Events, Error> {
        loop {
            self.connect().await?;
            let Some(stream) = &mut self.stream else { continue };
            let message = match self.first.take() {
                Some(first) => Ok(first),
                None => stream.message().await.and_then(|next| next.ok_or_else(ended)),
            };
            match message {
                Ok(message) => {
                    self.patience.restore();
                    self.request.cursor = message.cursor.clone();
                    if message.events.is_empty() {
                        continue;
                    }
                    return Ok(message.try_into()?);
                }
                Err(status) => self.lost(&status).await?,
            }
        }
    }

    /// As a stream, which ends after its first error.
    pub fn into_stream(self) -> impl Stream<Item = Result<Events, Error>> + Send {
        futures_util::stream::unfold(Some(self), |watching| async {
            let mut watching = watching?;
            match watching.next().await {
                Ok(events) => Some((Ok(events), Some(watching))),
                Err(error) => Some((Err(error), None)),
            }
        })
    }

    async fn connect(&mut self) -> Result<(), Error> {
        while self.stream.is_none() {
            let mut connection: Connection = self.client.watches();
            let mut stream = match connection.watch(self.request.clone()).await {
                Ok(response) => response.into_inner(),
                Err(status) => {
                    self.lost(&status).await?;
                    continue;
                }
            };
            // A watch from now has no place to go on from until it is told one: without,
            // a connection that is lost would lose what happens before the next.
            if self.request.cursor.is_empty() {
                match stream.message().await.and_then(|first| first.ok_or_else(ended)) {
                    Ok(first) => {
                        self.request.cursor = first.cursor.clone();
                        self.first = Some(first);
                    }
                    Err(status) => {
                        self.lost(&status).await?;
                        continue;
                    }
                }
            }
            self.stream = Some(stream);
        }
        Ok(())
    }

    async fn lost(&mut self, status: &Status) -> Result<(), Error> {
        self.stream = None;
        if fate_is_unknown(status) && self.patience.pause(self.client.url(), status).await {
            return Ok(());
        }
        self.patience.restore();
        if status.code() == Code::OutOfRange {
            return Err(Error::CursorTooOld { problem: status.message().to_owned() });
        }
        Err(Error::from_status(self.client.url(), status))
    }
}

/// A dispatcher that drains ends its streams in good order.
fn ended() -> Status {
    Status::unavailable("the dispatcher ended the stream")
}
