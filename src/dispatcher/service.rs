//! The gRPC face of the dispatcher: parse, ask the loop, answer.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, watch as channel};
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use super::answers::{self, Asked, Wanted, first};
use super::batch::Admission;
use super::numbers::Numbers;
use super::scheduler::{Again, Gone, Handle, Listing, Message, Refusal, Snapshot, Stored};
use super::watch::{Cursors, MESSAGES, Messages, Watcher, line};
use crate::core::id::{Seq, TaskId};
use crate::core::limits;
use crate::core::queue::Standing;
use crate::core::task::Spec;
use crate::discovery::View;
use crate::shutdown::Shutdown;
use crate::store::{self, Store};
use crate::wire::v1::dispatcher_server::Dispatcher;
use crate::wire::{self, Malformed, v1};

/// Pages of ids looked through for one page of a type's tasks.
const PAGES: usize = 20;
/// Answers that are read from the store at once: enough to keep any disk busy, and each
/// may be of some MiB.
pub(super) const READS: usize = 16;

/// What the calls need.
pub(super) struct Service {
    pub(super) handle: Handle,
    pub(super) store: Arc<dyn Store>,
    pub(super) view: channel::Receiver<Arc<View>>,
    pub(super) cursors: Cursors,
    pub(super) numbers: Numbers,
    pub(super) max_payload: u64,
    pub(super) shutdown: Shutdown,
    /// Answers that may be read from the store at once.
    pub(super) reads: Semaphore,
}

#[tonic::async_trait]
impl Dispatcher for Service {
    async fn submit(
        &self,
        request: Request<v1::SubmitRequest>,
    ) -> Result<Response<v1::SubmitResponse>, Status> {
        let types = self.handle.types();
        let complete = self.view.borrow().complete;
        let admission = Admission { types: &types, complete, max_payload: self.max_payload };
        let batch = admission.parse(request.into_inner())?;
        let wait = batch.wait;
        let stored = self.handle.ask(|reply| Message::Submit { batch, reply }).await??;
        let Stored { receipt, tasks } = stored;
        let asked = self.until_ended(tasks, wait).await?;
        let wanted = Wanted { payload: false, result: true, story: false };
        let ids = (0..u64::from(receipt.count)).map(|step| receipt.first.plus(step).0);
        Ok(Response::new(v1::SubmitResponse {
            ids: ids.collect(),
            cursor: self.cursors.encode(receipt.cursor),
            duplicate: receipt.created.is_none(),
            timestamp_created: receipt.created.map(answers::time),
            found: self.found(asked, wanted).await?,
        }))
    }

    async fn get(
        &self,
        request: Request<v1::GetRequest>,
    ) -> Result<Response<v1::GetResponse>, Status> {
        let request = request.into_inner();
        let ids = parse_ids(&request.ids)?;
        let wait = Duration::from_millis(request.wait_ms).min(limits::WAIT);
        let asked = self.look(ids, wait).await?;
        let wanted = Wanted { payload: !request.omit_payload, result: true, story: request.story };
        let found = self.found(asked, wanted).await?;
        Ok(Response::new(v1::GetResponse { found }))
    }

    type WatchStream = Messages;

    async fn watch(
        &self,
        request: Request<v1::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let (handle, store) = (self.handle.clone(), self.store.clone());
        let end = self.last_place().await?;
        let watcher = Watcher::new(handle, store, self.cursors, request.into_inner(), end)?;
        let (line, messages) = line(MESSAGES);
        tokio::spawn(watcher.run(line, self.shutdown.clone()));
        Ok(Response::new(messages))
    }

    async fn list(
        &self,
        request: Request<v1::ListRequest>,
    ) -> Result<Response<v1::ListResponse>, Status> {
        self.page(&request.into_inner()).await.map(Response::new)
    }

    async fn cancel(
        &self,
        request: Request<v1::CancelRequest>,
    ) -> Result<Response<v1::CancelResponse>, Status> {
        let ids = parse_ids(&request.into_inner().ids)?;
        let read = move |store: &dyn Store| {
            let specs = store.specs(&ids)?;
            Ok(ids.into_iter().zip(specs).collect())
        };
        let tasks: Vec<(TaskId, Option<Spec>)> = read_apart(&self.store, read).await?;
        let snapshots = self.handle.ask(|reply| Message::Cancel { tasks, reply }).await?;
        let found = self.brief(snapshots).await?;
        Ok(Response::new(v1::CancelResponse { found }))
    }

    async fn retry(
        &self,
        request: Request<v1::RetryRequest>,
    ) -> Result<Response<v1::RetryResponse>, Status> {
        let ids = parse_ids(&request.into_inner().ids)?;
        let asked = self.look(ids, Duration::ZERO).await?;
        let read = move |store: &dyn Store| {
            asked.iter().map(|asked| again(store, &asked.snapshot)).collect()
        };
        let tasks: Vec<Again> = read_apart(&self.store, read).await?;
        let snapshots = self.handle.ask(|reply| Message::Retry { tasks, reply }).await?;
        let found = self.brief(snapshots).await?;
        Ok(Response::new(v1::RetryResponse { found }))
    }

    async fn stats(
        &self,
        _request: Request<v1::StatsRequest>,
    ) -> Result<Response<v1::StatsResponse>, Status> {
        Ok(Response::new(self.numbers.tell().await?))
    }
}

impl Service {
    /// How tasks stand, once all of them have ended or `wait` has passed.
    async fn look(&self, ids: Vec<TaskId>, wait: Duration) -> Result<Vec<Asked>, Status> {
        let question = |reply| Message::Look { ids, wait: !wait.is_zero(), reply };
        let snapshots = self.handle.ask(question).await?;
        self.until_ended(snapshots, wait).await
    }

    /// The same tasks, once all of them have ended or `wait` has passed.
    async fn until_ended(
        &self,
        snapshots: Vec<Snapshot>,
        wait: Duration,
    ) -> Result<Vec<Asked>, Status> {
        let deadline = Instant::now() + wait;
        let mut asked = Vec::with_capacity(snapshots.len());
        let mut open = Vec::new();
        for mut snapshot in snapshots {
            let Some(ends) = snapshot.ends.take() else {
                asked.push(Asked { snapshot, ended: None });
                continue;
            };
            let ended = tokio::select! {
                ended = tokio::time::timeout_at(deadline, ends) => ended.ok().and_then(Result::ok),
                () = self.shutdown.begun() => return Err(Gone.into()),
            };
            if ended.is_none() {
                open.push(snapshot.id);
            }
            asked.push(Asked { snapshot, ended });
        }
        if open.is_empty() {
            return Ok(asked);
        }
        // Meanwhile they may have begun.
        let question = |reply| Message::Look { ids: open, wait: false, reply };
        let mut now = self.handle.ask(question).await?.into_iter().peekable();
        for asked in &mut asked {
            if let Some(snapshot) = now.next_if(|now| now.id == asked.snapshot.id) {
                asked.snapshot = snapshot;
            }
        }
        Ok(asked)
    }

    async fn found(&self, asked: Vec<Asked>, wanted: Wanted) -> Result<Vec<v1::Found>, Status> {
        if asked.is_empty() {
            // A plain receipt waits for nobody's reads.
            return Ok(Vec::new());
        }
        // Nobody closes it.
        let _turn = self.reads.acquire().await.map_err(|_| Gone)?;
        answers::found(self.store.clone(), self.handle.types(), asked, wanted).await
    }

    /// Answers without payloads and results.
    async fn brief(&self, snapshots: Vec<Snapshot>) -> Result<Vec<v1::Found>, Status> {
        let asked = snapshots.into_iter().map(|snapshot| Asked { snapshot, ended: None }).collect();
        self.found(asked, Wanted { payload: false, result: false, story: false }).await
    }

    /// The end of the log at this moment.
    async fn last_place(&self) -> Result<Seq, Status> {
        Ok(self.handle.ask(|reply| Message::End { reply }).await?)
    }

    async fn page(&self, request: &v1::ListRequest) -> Result<v1::ListResponse, Status> {
        let limit = match usize::try_from(request.page_size).unwrap_or(usize::MAX) {
            0 => 100,
            size if size <= limits::PAGE => size,
            _ => return Err(Malformed::new("page_size", "a page has at most 1000 tasks").into()),
        };
        let types = self.handle.types();
        let type_id = match request.r#type.as_str() {
            "" => None,
            name => {
                let id = types.find(name);
                Some(id.ok_or_else(|| Status::not_found(types.explain_unknown(name)))?)
            }
        };
        let mut before = parse_page_token(&request.page_token)?;
        let wanted =
            Wanted { payload: request.with_bytes, result: request.with_bytes, story: false };
        let mut tasks: Vec<v1::Task> = Vec::new();
        for _ in 0..PAGES {
            let status = wire::status(request.status());
            let listing = Listing { status, type_id, before, limit };
            let snapshots = self.handle.ask(|reply| Message::List { listing, reply }).await?;
            let looked = snapshots.len();
            let asked = snapshots.into_iter().map(|snapshot| Asked { snapshot, ended: None });
            let found = self.found(asked.collect(), wanted).await?;
            let was_cut = found.len() < looked;
            let mut found = found.into_iter();
            while tasks.len() < limit
                && let Some(next) = found.next()
            {
                match next.answer {
                    Some(v1::found::Answer::Task(task)) => {
                        before = TaskId(task.id);
                        if request.r#type.is_empty() || task.r#type == request.r#type {
                            tasks.push(task);
                        }
                    }
                    Some(v1::found::Answer::Expired(id) | v1::found::Answer::NotFound(id)) => {
                        before = TaskId(id);
                    }
                    None => {}
                }
            }
            let is_last = looked < limit && !was_cut && found.len() == 0;
            if is_last {
                return Ok(v1::ListResponse { tasks, next_page_token: bytes::Bytes::new() });
            }
            if tasks.len() == limit || was_cut {
                break;
            }
        }
        let next_page_token = before.0.to_be_bytes().to_vec().into();
        Ok(v1::ListResponse { tasks, next_page_token })
    }
}

/// What a retry must know of a task that has ended.
fn again(store: &dyn Store, snapshot: &Snapshot) -> Result<Again, store::Error> {
    let Standing::Ended(_, last) = snapshot.standing else {
        return Ok(Again { id: snapshot.id, known: None });
    };
    let mut place = Some(last);
    let mut spec = None;
    while let Some(event) = place.map(|at| store.facts(&[at])).transpose()?.and_then(first) {
        spec = spec.or(Some(event.spec));
        if let (Some(attempt), Some(spec)) = (event.attempt, spec) {
            let known = Some((spec, last, attempt.number, Some(attempt.token)));
            return Ok(Again { id: snapshot.id, known });
        }
        place = event.previous;
    }
    Ok(Again { id: snapshot.id, known: spec.map(|spec| (spec, last, 0, None)) })
}

pub(super) async fn read_apart<T: Send + 'static>(
    store: &Arc<dyn Store>,
    read: impl FnOnce(&dyn Store) -> Result<T, store::Error> + Send + 'static,
) -> Result<T, Status> {
    store::apart(store, read).await.map_err(|error| answers::unread(&error))
}

fn parse_ids(ids: &[u64]) -> Result<Vec<TaskId>, Malformed> {
    if ids.is_empty() || ids.len() > limits::IDS {
        return Err(Malformed::new(
            "ids",
            format!("{} ids; 1 to {} are taken", ids.len(), limits::IDS),
        ));
    }
    Ok(ids.iter().map(|id| TaskId(*id)).collect())
}

fn parse_page_token(token: &[u8]) -> Result<TaskId, Malformed> {
    if token.is_empty() {
        return Ok(TaskId(u64::MAX));
    }
    let bytes = token
        .try_into()
        .map_err(|_| Malformed::new("page_token", "not one of this dispatcher's"))?;
    Ok(TaskId(u64::from_be_bytes(bytes)))
}

impl From<Gone> for Status {
    fn from(gone: Gone) -> Self {
        Self::unavailable(gone.to_string())
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::KeyConflict => Self::already_exists(refusal.to_string()),
            Refusal::KeysFull
            | Refusal::NeverFits { .. }
            | Refusal::TooMany { .. }
            | Refusal::TooLarge { .. }
            | Refusal::NoSpace
            | Refusal::Slow => Self::resource_exhausted(refusal.to_string()),
            Refusal::Waits | Refusal::Draining => Self::unavailable(refusal.to_string()),
        }
    }
}
