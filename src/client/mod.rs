//! The client: submits tasks to a dispatcher, waits for their results, tells how
//! they stand.
//!
//! ```no_run
//! use taskgrid::client::{Client, Task};
//!
//! # async fn example() -> Result<(), taskgrid::client::Error> {
//! let client = Client::connect("http://127.0.0.1:50052")?;
//! assert_eq!(client.run_task("sum", "[1,2,3]").await?, "6");
//! // The same in two steps.
//! let id = client.send_task("sum", "[1,2,3]").await?;
//! assert_eq!(client.request_result(id).await?, "6");
//!
//! let tasks = [Task::new("hash", "a"), Task::new("hash", "b").priority(1)];
//! let receipt = client.submit(&tasks, &Default::default()).await?;
//! # Ok(()) }
//! ```
//!
//! A call whose fate is unknown, because the dispatcher is away or the connection
//! broke, is tried again until the client's patience is over; a submit carries a
//! key, so that trying again never makes new tasks. What this module does not do:
//! it prints nothing and keeps nothing; results live at the dispatcher.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use crate::core::id::{TaskId, Timestamp, millis};
use crate::core::limits;
use crate::core::task::Status;
use crate::rpc::{self, Network};
use crate::wire::v1;
use crate::wire::v1::dispatcher_client::DispatcherClient;

mod answered;
mod call;
mod error;
pub mod json;
mod task;
mod watch;

#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod tests;

use answered::Answered;
pub use error::Error;
pub use task::{AttemptView, Found, Task, TaskView};
pub use watch::{Event, Events, Watch, Watching};

type Connection = DispatcherClient<rpc::Channel>;

/// How long a client goes on trying while the dispatcher is away, unless told
/// otherwise: a restart with a large queue fits in.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Waits of one client that are open at once. A connection carries 128 streams;
/// further calls on it would stand still behind them.
const WAITS_AT_ONCE: usize = 100;
/// The longest that a submit is tried again under a key of its own: half of what that is
/// remembered for, as a try may be under way for long.
const CALL_PATIENCE: Duration = Duration::from_secs(limits::CALL_KEY_KEPT.as_secs() / 2);
/// One call of a longer wait: short enough to outlive impatient proxies between.
const WAIT_SLICE: Duration = Duration::from_secs(60);
/// How long the submit of a run waits for its tasks by itself: a short task is answered by
/// that one call, and of a longer one the caller has the receipt soon.
pub const RUN_WAIT: Duration = Duration::from_millis(250);

/// A client of one dispatcher. Cheap to clone; clones share their connections.
#[derive(Debug, Clone)]
pub struct Client {
    shared: Arc<Shared>,
    patience: Duration,
}

#[derive(Debug)]
struct Shared {
    url: String,
    /// Calls that are answered at once.
    calls: Connection,
    /// Long waits have a connection of their own: they must not stand in the way.
    waits: Connection,
    /// So have watches, which may stay for ever.
    watches: Connection,
    waiting: Semaphore,
    answered: Answered,
}

/// What goes for a whole batch. See [`Client::submit`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SubmitOptions {
    /// Names the batch, 1 to 128 bytes: the same key with the same tasks gives the
    /// same ids again, for 24 hours and at least as long as the tasks live. Without
    /// one, only this call's own retries are recognised.
    pub key: Option<Bytes>,
    /// A number of the caller's choice under which the tasks can be watched; 0 for
    /// none.
    pub group: u64,
}

/// A batch is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// One id for each task, in the order of the batch, rising.
    pub ids: Vec<TaskId>,
    /// A place from before the batch was stored: a watch from it misses nothing.
    pub cursor: Bytes,
    /// The key was known: the ids are those of its first use.
    pub duplicate: bool,
    /// When the tasks were accepted; `None` for a duplicate.
    pub timestamp_created: Option<Timestamp>,
}

/// A batch was run. See [`Client::run`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// It is stored.
    pub receipt: Receipt,
    /// How its tasks stand, in the order of the batch, without their payloads.
    pub found: Vec<Found>,
}

/// What to bring with the tasks. See [`Client::get`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GetOptions {
    /// Answer once all of them have ended, or when this has passed; zero: at once.
    pub wait: Duration,
    /// With the story of their attempts.
    pub story: bool,
    /// Without payloads.
    pub omit_payload: bool,
}

/// Which tasks to list. See [`Client::list`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListOptions {
    /// Only tasks in this status.
    pub status: Option<Status>,
    /// Only tasks of this type.
    pub type_name: Option<String>,
    /// At most this many on a page, 1 to 1,000; 100 when 0.
    pub page_size: u32,
    /// From the page before, with the same filters; empty for the first.
    pub page_token: Bytes,
    /// With payloads and results.
    pub with_bytes: bool,
}

/// One page of tasks, newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Its tasks.
    pub tasks: Vec<TaskView>,
    /// Ask with it for the next page; empty when this was the last.
    pub next_page_token: Bytes,
}

impl Client {
    /// A client of the dispatcher at `url` (`http://host:port`, or `host:port`).
    /// Connects with the first call, and again by itself whenever it must: to a port of
    /// this machine's loopback by the socket beside it, see [`Network::System`]. Call it
    /// within a Tokio runtime.
    ///
    /// # Errors
    /// [`Error::WrongInput`] when `url` is none.
    pub fn connect(url: &str) -> Result<Self, Error> {
        Self::connect_on(&Network::System, url)
    }

    /// As [`Client::connect`], on this network.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub fn connect_on(network: &Network, url: &str) -> Result<Self, Error> {
        let most = most_bytes();
        let connection = || -> Result<Connection, Error> {
            let channel = network
                .channel(url)
                .map_err(|bad| Error::WrongInput { problem: bad.to_string() })?;
            Ok(DispatcherClient::new(channel)
                .max_decoding_message_size(most)
                .max_encoding_message_size(most))
        };
        let shared = Shared {
            url: url.to_owned(),
            calls: connection()?,
            waits: connection()?,
            watches: connection()?,
            waiting: Semaphore::new(WAITS_AT_ONCE),
            answered: Answered::default(),
        };
        Ok(Self { shared: Arc::new(shared), patience: PATIENCE })
    }

    /// The same client with another patience: how long a dispatcher that cannot be
    /// reached, or is not ready, is put up with before a call ends in
    /// [`Error::Unreachable`] or [`Error::NotReady`]. Zero tries once.
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Submits one task. See [`Client::submit`].
    ///
    /// # Errors
    /// As [`Client::submit`].
    pub async fn send_task(
        &self,
        type_name: &str,
        payload: impl Into<Bytes>,
    ) -> Result<TaskId, Error> {
        let tasks = [Task::new(type_name, payload)];
        let receipt = self.submit(&tasks, &SubmitOptions::default()).await?;
        receipt.ids.first().copied().ok_or_else(|| miscounted(1, 0))
    }

    /// Submits one task, waits until it has ended, for as long as it takes, and gives its
    /// result: [`Client::send_task`] and [`Client::request_result`], in one call if the task
    /// is a short one.
    ///
    /// # Errors
    /// As [`Client::submit`] and [`Client::request_result`].
    pub async fn run_task(
        &self,
        type_name: &str,
        payload: impl Into<Bytes>,
    ) -> Result<Bytes, Error> {
        let tasks = [Task::new(type_name, payload)];
        let run = self.run(&tasks, &SubmitOptions::default(), Duration::MAX).await?;
        let found = run.found.into_iter().next().ok_or_else(|| miscounted(1, 0))?;
        found.into_task()?.into_result(Duration::MAX)
    }

    /// Waits until a task has ended, for as long as it takes, and gives its result.
    ///
    /// # Errors
    /// [`Error::TaskFailed`] and [`Error::TaskCancelled`], with the task, when it
    /// ended without one; [`Error::NotFound`] and [`Error::Expired`].
    pub async fn request_result(&self, id: TaskId) -> Result<Bytes, Error> {
        self.request_result_within(id, Duration::MAX).await
    }

    /// As [`Client::request_result`], but not longer than `wait`.
    ///
    /// # Errors
    /// Also [`Error::TimedOut`]; the task goes on.
    pub async fn request_result_within(&self, id: TaskId, wait: Duration) -> Result<Bytes, Error> {
        let options = GetOptions { wait, omit_payload: true, story: false };
        self.get_one(id, options).await?.into_result(wait)
    }

    /// Stores a batch of 1 to 10,000 tasks, whole or not at all. The receipt means
    /// that it is on disk. A batch of 8 MiB always fits into its message, and one task
    /// of the largest payload.
    ///
    /// # Errors
    /// [`Error::WrongInput`], [`Error::UnknownType`] (both name the task as
    /// `tasks[17]`), [`Error::TooLarge`], [`Error::Conflict`], [`Error::Refused`]:
    /// nothing is stored.
    /// [`Error::Unreachable`], [`Error::NotReady`]: unknown; only a key of the caller's
    /// own finds out.
    pub async fn submit(&self, tasks: &[Task], options: &SubmitOptions) -> Result<Receipt, Error> {
        let answer = self.submit_once(&self.shared.calls, tasks, options, Duration::ZERO).await?;
        Ok(receipt(answer).0)
    }

    /// Stores a batch, and waits until all of its tasks have ended, but not longer than
    /// `wait`. There is no receipt before all of this is over; [`Client::submit`] and
    /// [`Client::get`] are the same in two steps.
    ///
    /// # Errors
    /// As [`Client::submit`].
    pub async fn run(
        &self,
        tasks: &[Task],
        options: &SubmitOptions,
        wait: Duration,
    ) -> Result<Run, Error> {
        let deadline = Instant::now().checked_add(wait);
        let at_first = if tasks.len() > limits::IDS { Duration::ZERO } else { wait.min(RUN_WAIT) };
        let answer = match self.shared.waiting.try_acquire() {
            Ok(_place) => self.submit_once(&self.shared.waits, tasks, options, at_first).await?,
            Err(_) => self.submit_once(&self.shared.calls, tasks, options, Duration::ZERO).await?,
        };
        let (receipt, found) = receipt(answer);
        if found.len() == tasks.len() && found.iter().all(has_ended) {
            let found = found.into_iter().map(Found::try_from).collect::<Result<_, _>>()?;
            return Ok(Run { receipt, found });
        }
        let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
        let wait = left.unwrap_or(Duration::MAX);
        let options = GetOptions { wait, omit_payload: true, story: false };
        Ok(Run { found: self.get(&receipt.ids, options).await?, receipt })
    }

    async fn submit_once(
        &self,
        connection: &Connection,
        tasks: &[Task],
        options: &SubmitOptions,
        wait: Duration,
    ) -> Result<v1::SubmitResponse, Error> {
        let (key, scope) = match &options.key {
            Some(key) => (key.clone(), v1::KeyScope::Caller),
            None => (random_key(), v1::KeyScope::Call),
        };
        let batch_type = batch_type(tasks);
        let request = v1::SubmitRequest {
            tasks: tasks.iter().map(|task| task.to_message(batch_type)).collect(),
            key,
            key_scope: scope.into(),
            group: options.group,
            wait_ms: millis(wait),
            answered_keys: self.shared.answered.take(),
            r#type: batch_type.to_owned(),
        };
        check_bytes(request.encoded_len()).map_err(|error| error.of_batch(tasks))?;
        let mut tries = 0;
        let call = || {
            tries += 1;
            let (request, mut calls) = (request.clone(), connection.clone());
            async move { calls.submit(request).await }
        };
        // A key of the call's own must not be forgotten before its last try: that would make
        // new tasks.
        let patience = match scope {
            v1::KeyScope::Caller => self.patience,
            _ => self.patience.min(CALL_PATIENCE),
        };
        let answer = call::persist(&self.shared.url, patience, call).await;
        let answer = answer.map_err(|error| error.of_batch(tasks))?;
        if answer.ids.len() != tasks.len() {
            return Err(miscounted(tasks.len(), answer.ids.len()));
        }
        if tries == 1 && scope == v1::KeyScope::Call {
            self.shared.answered.add(request.key);
        }
        Ok(answer)
    }

    /// One task with the story of its attempts.
    ///
    /// # Errors
    /// [`Error::NotFound`] and [`Error::Expired`].
    pub async fn task(&self, id: TaskId) -> Result<TaskView, Error> {
        self.get_one(id, GetOptions { story: true, ..GetOptions::default() }).await
    }

    /// What is known of these ids, any number of them, in their order.
    ///
    /// # Errors
    /// None of its own: an id without a task is a [`Found`] that says so.
    pub async fn get(&self, ids: &[TaskId], options: GetOptions) -> Result<Vec<Found>, Error> {
        // A wait too long for the clock is one without an end.
        let deadline = Instant::now().checked_add(options.wait);
        let mut found = Vec::with_capacity(ids.len());
        while let Some(rest) = ids.get(found.len()..).filter(|rest| !rest.is_empty()) {
            let asked = rest.get(..limits::IDS).unwrap_or(rest);
            let answer = self.get_ended(asked, options, deadline).await?;
            if answer.is_empty() || answer.len() > asked.len() {
                return Err(miscounted(asked.len(), answer.len()));
            }
            for one in answer {
                found.push(Found::try_from(one)?);
            }
        }
        Ok(found)
    }

    /// A watch that stands: what happens after this returns is not missed.
    /// [`Watching::next`] gives the events, and [`Watching::into_stream`] makes a
    /// stream of them.
    ///
    /// # Errors
    /// [`Error::CursorTooOld`], and [`Error::WrongInput`] when the cursor is not
    /// one of this dispatcher's.
    pub async fn watch(&self, watch: Watch) -> Result<Watching, Error> {
        Watching::open(self.clone(), watch).await
    }

    /// One page of tasks, newest first.
    ///
    /// # Errors
    /// [`Error::WrongInput`] for a page token of other filters.
    pub async fn list(&self, options: ListOptions) -> Result<Page, Error> {
        let request = v1::ListRequest {
            status: options.status.map_or(v1::Status::Unspecified, Into::into).into(),
            r#type: options.type_name.unwrap_or_default(),
            page_size: options.page_size,
            page_token: options.page_token,
            with_bytes: options.with_bytes,
        };
        let call = || {
            let (request, mut calls) = (request.clone(), self.shared.calls.clone());
            async move { calls.list(request).await }
        };
        let answer = self.persist(call).await?;
        let tasks = answer.tasks.into_iter().map(TaskView::try_from).collect::<Result<_, _>>()?;
        Ok(Page { tasks, next_page_token: answer.next_page_token })
    }

    /// Ends tasks, any number of them: pending ones at once, running ones by
    /// stopping their handlers. Gives them as they stand after it, in their order;
    /// one that had ended before keeps its status.
    ///
    /// # Errors
    /// None of its own.
    pub async fn cancel(&self, ids: &[TaskId]) -> Result<Vec<Found>, Error> {
        let mut found = Vec::with_capacity(ids.len());
        for ids in ids.chunks(limits::IDS) {
            let request = v1::CancelRequest { ids: ids.iter().map(|id| id.0).collect() };
            let call = || {
                let (request, mut calls) = (request.clone(), self.shared.calls.clone());
                async move { calls.cancel(request).await }
            };
            gather(&mut found, ids.len(), self.persist(call).await?.found)?;
        }
        Ok(found)
    }

    /// Opens a new round for failed and cancelled tasks, any number of them: same
    /// ids, fresh budgets. Gives them as they stand after it, in their order; one
    /// that was neither keeps its status.
    ///
    /// # Errors
    /// None of its own.
    pub async fn retry(&self, ids: &[TaskId]) -> Result<Vec<Found>, Error> {
        let mut found = Vec::with_capacity(ids.len());
        for ids in ids.chunks(limits::IDS) {
            let request = v1::RetryRequest { ids: ids.iter().map(|id| id.0).collect() };
            let call = || {
                let (request, mut calls) = (request.clone(), self.shared.calls.clone());
                async move { calls.retry(request).await }
            };
            gather(&mut found, ids.len(), self.persist(call).await?.found)?;
        }
        Ok(found)
    }

    /// The dispatcher in numbers: totals, types, workers.
    ///
    /// # Errors
    /// None of its own.
    pub async fn stats(&self) -> Result<v1::StatsResponse, Error> {
        let call = || {
            let mut calls = self.shared.calls.clone();
            async move { calls.stats(v1::StatsRequest {}).await }
        };
        self.persist(call).await
    }

    /// Where the dispatcher is looked for.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.shared.url
    }

    /// One task. See [`Client::get`].
    ///
    /// # Errors
    /// Also [`Error::NotFound`] and [`Error::Expired`].
    pub async fn get_one(&self, id: TaskId, options: GetOptions) -> Result<TaskView, Error> {
        let found = self.get(&[id], options).await?;
        found.into_iter().next().ok_or_else(|| miscounted(1, 0))?.into_task()
    }

    /// One answer to a Get, asked for again while it waits for tasks to end.
    async fn get_ended(
        &self,
        ids: &[TaskId],
        options: GetOptions,
        deadline: Option<Instant>,
    ) -> Result<Vec<v1::Found>, Error> {
        loop {
            let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            let wait = left.unwrap_or(WAIT_SLICE).min(WAIT_SLICE);
            let request = v1::GetRequest {
                ids: ids.iter().map(|id| id.0).collect(),
                wait_ms: millis(wait),
                story: options.story,
                omit_payload: options.omit_payload,
            };
            let found = self.get_once(request).await?;
            if wait.is_zero() || found.iter().all(has_ended) {
                return Ok(found);
            }
        }
    }

    /// A place among the calls that wait, if one becomes free within the time that the call
    /// would wait itself. Without one it asks how things stand.
    async fn may_wait(&self, wait: Duration) -> Option<SemaphorePermit<'_>> {
        if wait.is_zero() {
            return None;
        }
        tokio::time::timeout(wait, self.shared.waiting.acquire()).await.ok()?.ok()
    }

    async fn get_once(&self, mut request: v1::GetRequest) -> Result<Vec<v1::Found>, Error> {
        let until = Instant::now() + Duration::from_millis(request.wait_ms);
        let permit = self.may_wait(Duration::from_millis(request.wait_ms)).await;
        request.wait_ms = millis(until.saturating_duration_since(Instant::now()));
        let connection = if permit.is_some() { &self.shared.waits } else { &self.shared.calls };
        let call = || {
            let (request, mut connection) = (request.clone(), connection.clone());
            async move { connection.get(request).await }
        };
        let answer = self.persist(call).await;
        drop(permit);
        Ok(answer?.found)
    }

    fn watches(&self) -> Connection {
        self.shared.watches.clone()
    }

    async fn persist<T, Call>(&self, call: impl FnMut() -> Call) -> Result<T, Error>
    where
        Call: Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    {
        call::persist(&self.shared.url, self.patience, call).await
    }
}

fn receipt(answer: v1::SubmitResponse) -> (Receipt, Vec<v1::Found>) {
    let receipt = Receipt {
        ids: answer.ids.into_iter().map(TaskId).collect(),
        cursor: answer.cursor,
        duplicate: answer.duplicate,
        timestamp_created: answer.timestamp_created.map(task::moment),
    };
    (receipt, answer.found)
}

/// The most bytes of a message to or from any dispatcher. What this dispatcher's own limit
/// is, only the dispatcher knows.
fn most_bytes() -> usize {
    rpc::message_bytes(limits::PAYLOAD_BYTES_MAX)
}

/// The type that a batch says for its tasks: most are of one. A task without a type is not
/// to be taken for one of it.
fn batch_type(tasks: &[Task]) -> &str {
    let has_nameless = tasks.iter().any(|task| task.type_name().is_empty());
    tasks.first().filter(|_| !has_nameless).map_or("", Task::type_name)
}

/// Refuses what no dispatcher takes. The transport would do so as well, but only after it
/// has encoded all of it, and with an error like that of a connection that broke: the call
/// would be tried again until patience is over.
fn check_bytes(bytes: usize) -> Result<(), Error> {
    let most = most_bytes();
    if bytes > most {
        let sizes = format!("found {bytes} bytes, the limit is: {most} bytes");
        return Err(Error::too_large(&sizes));
    }
    Ok(())
}

fn random_key() -> Bytes {
    Bytes::copy_from_slice(&rand::random::<[u8; 16]>())
}

fn has_ended(found: &v1::Found) -> bool {
    match &found.answer {
        Some(v1::found::Answer::Task(task)) => {
            crate::wire::status(task.status()).is_none_or(Status::is_terminal)
        }
        Some(v1::found::Answer::Expired(_) | v1::found::Answer::NotFound(_)) | None => true,
    }
}

fn gather(all: &mut Vec<Found>, asked: usize, answer: Vec<v1::Found>) -> Result<(), Error> {
    if answer.len() != asked {
        return Err(miscounted(asked, answer.len()));
    }
    for found in answer {
        all.push(Found::try_from(found)?);
    }
    Ok(())
}

fn miscounted(asked: usize, answered: usize) -> Error {
    Error::Internal {
        problem: format!("asked the dispatcher about {asked} tasks, it answered for {answered}"),
    }
}
