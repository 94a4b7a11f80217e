//! A dispatcher that follows a script: real gRPC on a real port, tasks that end at
//! once, and the faults that a test asks for.
//!
//! What a task of it does is in its type: `echo` completes with its payload and a
//! `!`, `fail` fails, `hang` stays pending; `nope` is no known type, and the
//! payload `bad` is refused.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use tokio::sync::watch;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

use super::{Client, TaskView};
use crate::core::id::{TaskId, Timestamp};
use crate::core::{limits, task};
use crate::rpc::{self, Listen, ServeLimits};
use crate::shutdown::Shutdown;
use crate::wire::v1;
use crate::wire::v1::dispatcher_server::{Dispatcher, DispatcherServer};

/// When everything happens here.
pub(crate) const CREATED: i64 = 1_764_000_000_000;
pub(crate) const ENDED: i64 = CREATED + 12;
/// Who runs all tasks.
const WORKER: &str = "echo-1";

/// The faults to come, and what was asked.
#[derive(Debug, Default)]
pub(crate) struct Script {
    /// The answers to the next submits, in order. The fault strikes after the
    /// batch was stored.
    pub(crate) lose_answers: VecDeque<Status>,
    /// Refusals of the next submits, in order, before anything is stored.
    pub(crate) refuse: VecDeque<Status>,
    /// Gets are answered for so many ids at most; 0 for all.
    pub(crate) get_at_most: usize,
    /// Each of the next watches ends after so many events.
    pub(crate) cut_watches_after: VecDeque<usize>,
    /// So many of the next watches end before they say a word.
    pub(crate) silent_watches: usize,
    /// The next watch with a cursor is told that it is too old.
    pub(crate) cursors_too_old: bool,
    /// What was submitted, in order.
    pub(crate) submits: Vec<v1::SubmitRequest>,
    /// The cursors that were watched from, in order.
    pub(crate) watches: Vec<Bytes>,
    /// How many Gets there were.
    pub(crate) gets: usize,
    tasks: Vec<v1::Task>,
    keys: BTreeMap<Bytes, Vec<u64>>,
    events: Vec<(u64, v1::TaskEvent)>,
}

/// A fake that serves until it is dropped.
#[derive(Debug, Clone)]
pub(crate) struct Fake {
    script: Arc<Mutex<Script>>,
    events: watch::Sender<usize>,
    addr: SocketAddr,
    _ends: Arc<Ends>,
}

#[derive(Debug)]
struct Ends(Shutdown);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.begin();
    }
}

impl Fake {
    pub(crate) fn start() -> Self {
        let listener = rpc::bind(&Listen::default()).unwrap();
        let shutdown = Shutdown::new();
        let fake = Self {
            script: Arc::default(),
            events: watch::Sender::new(0),
            addr: listener.addr(),
            _ends: Arc::new(Ends(shutdown.clone())),
        };
        let service = Service { script: fake.script.clone(), events: fake.events.clone() };
        let most = rpc::message_bytes(limits::PAYLOAD_BYTES);
        let server = DispatcherServer::new(service).max_decoding_message_size(most);
        let routes = Routes::new(server);
        let limits = ServeLimits::default();
        tokio::spawn(rpc::serve(listener, routes, limits, shutdown, Duration::ZERO));
        fake
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(&self.url()).unwrap()
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    pub(crate) fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap()
    }

    /// Ends a task that hangs.
    pub(crate) fn end(&self, id: TaskId) {
        let mut script = self.script();
        let index = usize::try_from(id.0).unwrap() - 1;
        let mut task = script.tasks[index].clone();
        complete(&mut task);
        script.end(task.clone());
        script.tasks[index] = task;
        self.events.send_replace(script.events.len());
    }
}

/// A task as the client would show it.
pub(crate) fn view(id: u64, status: task::Status) -> TaskView {
    let mut message = v1::Task {
        id,
        r#type: "echo".to_owned(),
        payload: Bytes::from_static(b"hello"),
        timestamp_created: CREATED,
        timestamp_run_at: CREATED,
        priority: 5,
        ..v1::Task::default()
    };
    message.set_status(status.into());
    TaskView::try_from(message).unwrap()
}

/// The moment at which every task here was accepted.
pub(crate) fn created() -> Timestamp {
    Timestamp(u64::try_from(CREATED).unwrap())
}

impl Script {
    fn store(&mut self, request: &v1::SubmitRequest) -> Vec<u64> {
        let mut ids = Vec::new();
        for new in &request.tasks {
            let id = u64::try_from(self.tasks.len() + 1).unwrap();
            let mut task = v1::Task {
                id,
                r#type: new.r#type.clone(),
                payload: new.payload.clone(),
                timestamp_created: CREATED,
                timestamp_run_at: CREATED,
                priority: new.priority.unwrap_or(5),
                group: request.group,
                ..v1::Task::default()
            };
            task.set_status(v1::Status::Pending);
            match new.r#type.as_str() {
                "hang" => {}
                "fail" => {
                    task.set_status(v1::Status::Failed);
                    task.set_reason(v1::Reason::Permanent);
                    "no way".clone_into(&mut task.error);
                    task.timestamp_completed = Some(ENDED);
                    task.attempts = 1;
                }
                _ => complete(&mut task),
            }
            if new.r#type != "hang" {
                self.end(task.clone());
            }
            self.tasks.push(task);
            ids.push(id);
        }
        ids
    }

    fn end(&mut self, task: v1::Task) {
        let (status, reason) = (task.status(), task.reason());
        let mut event = v1::TaskEvent {
            id: task.id,
            attempt: 1,
            timestamp: ENDED,
            result: task.result,
            error: task.error,
            worker_index: (!task.worker.is_empty()).then_some(0),
            ..v1::TaskEvent::default()
        };
        event.set_status(status);
        event.set_reason(reason);
        self.events.push((task.group, event));
    }

    fn found(&self, id: u64) -> v1::Found {
        let index = usize::try_from(id).unwrap().wrapping_sub(1);
        let answer = match self.tasks.get(index) {
            Some(task) => v1::found::Answer::Task(task.clone()),
            None => v1::found::Answer::NotFound(id),
        };
        v1::Found { answer: Some(answer) }
    }
}

fn complete(task: &mut v1::Task) {
    task.set_status(v1::Status::Completed);
    task.result = Some([&task.payload[..], b"!"].concat().into());
    task.timestamp_completed = Some(ENDED);
    task.attempts = 1;
    WORKER.clone_into(&mut task.worker);
}

fn refusal(request: &v1::SubmitRequest) -> Option<Status> {
    request.tasks.iter().enumerate().find_map(|(place, task)| {
        if task.r#type == "nope" {
            return Some(Status::not_found(format!("tasks[{place}].type: \"nope\" is unknown")));
        }
        (task.payload == "bad")
            .then(|| Status::invalid_argument(format!("tasks[{place}].payload: not good")))
    })
}

#[derive(Debug)]
struct Service {
    script: Arc<Mutex<Script>>,
    events: watch::Sender<usize>,
}

#[tonic::async_trait]
impl Dispatcher for Service {
    async fn submit(
        &self,
        request: Request<v1::SubmitRequest>,
    ) -> Result<Response<v1::SubmitResponse>, Status> {
        let mut request = request.into_inner();
        let mut script = self.script.lock().unwrap();
        script.submits.push(request.clone());
        for task in request.tasks.iter_mut().filter(|task| task.r#type.is_empty()) {
            task.r#type.clone_from(&request.r#type);
        }
        if let Some(status) = script.refuse.pop_front() {
            return Err(status);
        }
        if let Some(status) = refusal(&request) {
            return Err(status);
        }
        let cursor = Bytes::from(script.events.len().to_string());
        let known = script.keys.get(&request.key).cloned();
        let duplicate = known.is_some();
        let ids = known.unwrap_or_else(|| script.store(&request));
        script.keys.insert(request.key.clone(), ids.clone());
        self.events.send_replace(script.events.len());
        if let Some(status) = script.lose_answers.pop_front() {
            return Err(status);
        }
        let timestamp_created = (!duplicate).then_some(CREATED);
        let waited = if request.wait_ms > 0 { ids.clone() } else { Vec::new() };
        let mut found: Vec<_> = waited.into_iter().map(|id| script.found(id)).collect();
        for found in &mut found {
            if let Some(v1::found::Answer::Task(task)) = &mut found.answer {
                task.payload = Bytes::new();
            }
        }
        Ok(Response::new(v1::SubmitResponse { ids, cursor, duplicate, timestamp_created, found }))
    }

    async fn get(
        &self,
        request: Request<v1::GetRequest>,
    ) -> Result<Response<v1::GetResponse>, Status> {
        let request = request.into_inner();
        let mut script = self.script.lock().unwrap();
        script.gets += 1;
        let most = if script.get_at_most == 0 { usize::MAX } else { script.get_at_most };
        let found = request.ids.iter().take(most).map(|&id| script.found(id)).collect();
        Ok(Response::new(v1::GetResponse { found }))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<v1::WatchResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<v1::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let request = request.into_inner();
        let mut script = self.script.lock().unwrap();
        script.watches.push(request.cursor.clone());
        if script.cursors_too_old && !request.cursor.is_empty() {
            script.cursors_too_old = false;
            return Err(Status::out_of_range("it is from yesterday"));
        }
        if script.silent_watches > 0 {
            script.silent_watches -= 1;
            return Ok(Response::new(stream::empty().boxed()));
        }
        let at = match std::str::from_utf8(&request.cursor).unwrap() {
            "" => script.events.len(),
            cursor => cursor.parse().unwrap(),
        };
        let most = script.cut_watches_after.pop_front().unwrap_or(usize::MAX);
        let (group, script) = (request.group, self.script.clone());
        let messages = stream::unfold((at, self.events.subscribe()), move |(at, mut events)| {
            let script = script.clone();
            async move {
                events.wait_for(|&count| count > at).await.ok()?;
                let (of, event) = script.lock().unwrap().events[at].clone();
                let wanted = group == 0 || group == of;
                let events_now = if wanted { vec![event] } else { Vec::new() };
                let cursor = Bytes::from((at + 1).to_string());
                let names = vec![WORKER.to_owned()];
                let message = v1::WatchResponse { events: events_now, cursor, names };
                Some((Ok(message), (at + 1, events)))
            }
        });
        let cursor = at.to_string().into();
        let first = v1::WatchResponse { cursor, ..v1::WatchResponse::default() };
        let all = stream::once(async { Ok(first) }).chain(messages.take(most));
        Ok(Response::new(all.boxed()))
    }

    async fn list(
        &self,
        request: Request<v1::ListRequest>,
    ) -> Result<Response<v1::ListResponse>, Status> {
        let request = request.into_inner();
        let script = self.script.lock().unwrap();
        let wanted = |task: &&v1::Task| request.status == 0 || request.status == task.status;
        let tasks = script.tasks.iter().rev().filter(wanted).cloned().collect();
        Ok(Response::new(v1::ListResponse { tasks, next_page_token: Bytes::new() }))
    }

    async fn cancel(
        &self,
        request: Request<v1::CancelRequest>,
    ) -> Result<Response<v1::CancelResponse>, Status> {
        let script = self.script.lock().unwrap();
        let found = request.into_inner().ids.into_iter().map(|id| script.found(id)).collect();
        Ok(Response::new(v1::CancelResponse { found }))
    }

    async fn retry(
        &self,
        request: Request<v1::RetryRequest>,
    ) -> Result<Response<v1::RetryResponse>, Status> {
        let script = self.script.lock().unwrap();
        let found = request.into_inner().ids.into_iter().map(|id| script.found(id)).collect();
        Ok(Response::new(v1::RetryResponse { found }))
    }

    async fn stats(
        &self,
        _: Request<v1::StatsRequest>,
    ) -> Result<Response<v1::StatsResponse>, Status> {
        Ok(Response::new(v1::StatsResponse::default()))
    }
}
