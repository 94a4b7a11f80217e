//! The load: clients that submit, watch, get, cancel and list, and write down what they
//! hear before they do anything with it.
//!
//! They are tasks of the campaign's own process, which is never killed. Each submit has
//! a key and is tried once; whoever hears nothing certain tries again under the same
//! key, or now and then lets it be. So what is unknown is in the history, too.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use taskgrid::client::{
    Client, Error, Event, Found, GetOptions, ListOptions, SubmitOptions, Task, TaskView, Watch,
    Watching,
};
use taskgrid::core::id::TaskId;
use taskgrid::core::task::Status;
use taskgrid::shutdown::Shutdown;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use super::checker::count;
use super::dice::Dice;
use super::history::{By, Fact, Recorder, Seen};
use super::plan::Plan;
use super::waits::within;
use super::work::{self, Deed, Work};

/// Ids in one call that reads.
const PAGE: usize = 1_000;
/// Before a client asks again.
const PAUSE: Duration = Duration::from_millis(5);

/// Clients that work until they are told to stop.
pub(crate) struct Load {
    runtime: Runtime,
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<()>>,
    stop: Shutdown,
    end: Shutdown,
}

/// What the clients share.
#[derive(Debug)]
struct Shared {
    url: String,
    recorder: Recorder,
    plan: Plan,
    books: Mutex<Books>,
    began: Instant,
    /// Submits without an answer at this moment.
    asking: AtomicU64,
}

/// Ids of receipts, and ids of ends that were heard of.
#[derive(Debug, Default)]
struct Books {
    open: BTreeSet<u64>,
    ended: BTreeSet<u64>,
    receipted: Vec<u64>,
    /// Submits that were refused for now, and what the last of them was told.
    refused: u64,
    refusal: String,
    /// Answers that no client may get here.
    wrong: Vec<String>,
}

impl Load {
    /// Begins to watch, and then to submit.
    pub(crate) fn start(url: &str, recorder: &Recorder, plan: Plan, seed: u64) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime can be built");
        let shared = Arc::new(Shared {
            url: url.to_owned(),
            recorder: recorder.clone(),
            plan,
            books: Mutex::default(),
            began: Instant::now(),
            asking: AtomicU64::new(0),
        });
        let (stop, end) = (Shutdown::new(), Shutdown::new());
        let mut dice = Dice::new(seed);
        let watching = runtime.block_on(async { shared.client().watch(watch()).await });
        let watching = watching.expect("a watch stands");
        runtime.spawn(Arc::clone(&shared).watch(watching, end.clone()));
        let clients = (0..shared.plan.clients).map(|number| {
            let client = Arc::clone(&shared).work(number, dice.roll(), stop.clone());
            runtime.spawn(client)
        });
        let clients = clients.collect();
        Self { runtime, shared, clients, stop, end }
    }

    /// Opens further watches, of which nothing is expected but that they are there.
    pub(crate) fn also_watch(&self, count: usize) {
        for _ in 0..count {
            let (shared, end) = (Arc::clone(&self.shared), self.end.clone());
            self.runtime.spawn(async move {
                let Ok(mut watching) = shared.client().watch(Watch::default()).await else {
                    return;
                };
                let watches = async { while watching.next().await.is_ok() {} };
                tokio::select! { () = watches => {}, () = end.begun() => {} }
            });
        }
    }

    /// Opens a watch of everything, for the caller to read or to leave.
    pub(crate) fn watch(&self) -> Option<Watching> {
        self.runtime.block_on(async { self.shared.client().watch(Watch::default()).await.ok() })
    }

    /// Tasks with a receipt.
    pub(crate) fn receipted(&self) -> u64 {
        count(self.shared.books().receipted.len())
    }

    /// Ends that were heard of.
    pub(crate) fn ended(&self) -> u64 {
        count(self.shared.books().ended.len())
    }

    /// Receipted tasks whose end was not heard of.
    pub(crate) fn open(&self) -> u64 {
        count(self.shared.books().open.len())
    }

    /// How many submits were refused for now, and what the last of them was told.
    pub(crate) fn refused(&self) -> (u64, String) {
        let books = self.shared.books();
        (books.refused, books.refusal.clone())
    }

    /// Whether a submit has no answer at this moment.
    pub(crate) fn is_asking(&self) -> bool {
        self.shared.asking.load(Ordering::SeqCst) > 0
    }

    /// Whether a submit has no answer, or a receipted task no end, at this moment.
    pub(crate) fn is_in_flight(&self) -> bool {
        self.is_asking() || !self.shared.books().open.is_empty()
    }

    /// Submits tasks of the campaign's own, in batches, until each has a receipt.
    pub(crate) fn submit(&self, key: &str, tasks: &[Work], options: fn(Task) -> Task) -> Vec<u64> {
        let (shared, mut ids) = (&self.shared, Vec::new());
        for (number, part) in tasks.chunks(PAGE).enumerate() {
            let key = if tasks.len() > PAGE { format!("{key}.{number}") } else { key.to_owned() };
            let part = part.iter().enumerate();
            let part =
                part.map(|(place, work)| Work { name: format!("{key}/{place}"), ..work.clone() });
            let batch = Batch::new(key.clone(), &part.collect::<Vec<_>>(), false, options);
            shared.asked(&batch);
            ids.extend(self.runtime.block_on(async {
                let client = shared.client();
                loop {
                    if let Some(ids) = shared.try_batch(&client, &batch).await {
                        shared.receipt(&ids);
                        return ids;
                    }
                    pause().await;
                }
            }));
        }
        ids
    }

    /// Tasks as they stand, with their stories; what is read is written down.
    pub(crate) fn read(&self, ids: &[u64]) -> Vec<TaskView> {
        self.runtime.block_on(self.shared.read(ids, Duration::ZERO))
    }

    /// Reads the newest receipted tasks so many times at once.
    pub(crate) fn read_at_once(&self, times: usize) {
        let ids = self.shared.books().receipted.iter().rev().take(100).copied().collect::<Vec<_>>();
        let calls = (0..times).map(|_| {
            let (shared, ids) = (Arc::clone(&self.shared), ids.clone());
            self.runtime.spawn(async move { shared.read_once(&shared.client(), &ids).await })
        });
        let calls: Vec<_> = calls.collect();
        self.runtime.block_on(async {
            for call in calls {
                call.await.expect("a client does not panic");
            }
        });
    }

    /// All receipted tasks, with their stories.
    pub(crate) fn read_receipted(&self) -> Vec<TaskView> {
        let ids = self.shared.books().receipted.clone();
        ids.chunks(PAGE).flat_map(|ids| self.read(ids)).collect()
    }

    /// What the dispatcher counts.
    pub(crate) fn stats(&self) -> taskgrid::wire::v1::StatsResponse {
        let stats = self.runtime.block_on(async { self.shared.client().stats().await });
        stats.expect("a dispatcher tells its numbers")
    }

    /// Tells the clients to stop, waits until every receipted task has ended, and reads
    /// all of them: by their ids, and in a list of all tasks. Gives what is wrong.
    pub(crate) fn drain(&mut self, patience: Duration) -> Vec<String> {
        self.stop.begin();
        let clients = std::mem::take(&mut self.clients);
        let left = self.runtime.block_on(async {
            let all = async {
                for client in clients {
                    client.await.expect("a client does not panic");
                }
            };
            tokio::time::timeout(patience, all).await
        });
        if left.is_err() {
            return vec!["a client still has no certain answer".to_owned()];
        }
        let drained = within(patience, || self.shared.books().open.is_empty().then_some(()));
        let mut wrong = std::mem::take(&mut self.shared.books().wrong);
        if drained.is_none() {
            let open = self.shared.books().open.clone();
            let first: Vec<_> = open.iter().take(5).collect();
            wrong.push(format!("{} receipted tasks never ended, the first {first:?}", open.len()));
        }
        self.read_all();
        wrong
    }

    /// Reads every receipted task again, by its id and in a list of all tasks.
    pub(crate) fn read_all(&self) {
        let ids = self.shared.books().receipted.clone();
        self.runtime.block_on(async {
            for ids in ids.chunks(PAGE) {
                self.shared.read(ids, Duration::ZERO).await;
            }
            self.shared.list().await;
        });
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.begin();
        self.end.begin();
    }
}

/// One submit, which may be made several times.
struct Batch {
    key: String,
    tasks: Vec<Task>,
    at_most_once: bool,
}

impl Batch {
    fn new(key: String, works: &[Work], at_most_once: bool, options: fn(Task) -> Task) -> Self {
        let tasks = works.iter().map(|work| options(Task::new(work::TYPE, work.payload())));
        Self { tasks: tasks.collect(), key, at_most_once }
    }
}

impl Shared {
    /// A client that tries once, and tells what came of it.
    fn client(&self) -> Client {
        Client::connect(&self.url).expect("the dispatcher's address is one")
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn work(self: Arc<Self>, number: u64, seed: u64, stop: Shutdown) {
        let (patient, mut dice) = (self.client(), Dice::new(seed));
        let client = patient.clone().with_patience(Duration::ZERO);
        let mut batches: u64 = 0;
        while !stop.has_begun() {
            if self.books().open.len() >= self.plan.open || self.is_ahead() {
                pause().await;
                continue;
            }
            let batch = self.invent(&format!("{number}-{batches}"), &mut dice);
            batches += 1;
            let Some(ids) = self.submit(&client, &batch, &mut dice).await else { continue };
            if dice.chance(self.plan.cancels) {
                let some = ids.iter().filter(|_| dice.chance(300)).copied().collect();
                self.cancel(&client, some).await;
            }
            if dice.chance(100) {
                let earlier = self.earlier(&mut dice);
                self.read_once(&client, &earlier).await;
            }
        }
    }

    /// Whether there were as many tasks as the rate allows up to this moment.
    fn is_ahead(&self) -> bool {
        let millis = self.began.elapsed().as_millis();
        let allowed = |rate: u64| u128::from(rate) * millis / 1_000;
        let receipted = u128::from(count(self.books().receipted.len()));
        self.plan.rate.is_some_and(|rate| receipted >= allowed(rate))
    }

    fn invent(&self, key: &str, dice: &mut Dice) -> Batch {
        let at_most_once = dice.chance(self.plan.at_most_once);
        let size = dice.between(1, self.plan.batch);
        let works = (0..size).map(|place| {
            let deed = if dice.chance(self.plan.long) {
                Deed::Take(dice.between(1_000, 4_000))
            } else if dice.chance(self.plan.slow) {
                let (from, to) = self.plan.slow_millis;
                Deed::Take(dice.between(from, to))
            } else if at_most_once || !dice.chance(self.plan.failing) {
                Deed::Take(0)
            } else if dice.chance(500) {
                Deed::Fail(0)
            } else {
                Deed::Panic
            };
            // Large ones have a place of their own in the store.
            let most = if dice.chance(self.plan.large) { 10_000 } else { self.plan.padding };
            let padding = dice.place(most);
            Work { name: format!("{key}/{place}"), deed, padding }
        });
        let works: Vec<_> = works.collect();
        let once = |task: Task| task.max_attempts(1).max_crashes(0);
        let options = if at_most_once { once } else { |task| task };
        Batch::new(key.to_owned(), &works, at_most_once, options)
    }

    /// Tries until there is a receipt; now and then lets it be when there is none yet, or
    /// asks for it again when there is.
    async fn submit(&self, client: &Client, batch: &Batch, dice: &mut Dice) -> Option<Vec<u64>> {
        self.asked(batch);
        loop {
            if let Some(ids) = self.try_batch(client, batch).await {
                self.receipt(&ids);
                if dice.chance(30) {
                    self.try_batch(client, batch).await;
                }
                return Some(ids);
            }
            if dice.chance(100) || self.is_wrong() {
                return None;
            }
            pause().await;
        }
    }

    fn is_wrong(&self) -> bool {
        !self.books().wrong.is_empty()
    }

    fn asked(&self, batch: &Batch) {
        let hashes = batch.tasks.iter().map(|task| work::hash(task.payload())).collect();
        let (key, at_most_once) = (batch.key.clone(), batch.at_most_once);
        self.recorder.write(Fact::Asked { key, hashes, at_most_once });
    }

    async fn try_batch(&self, client: &Client, batch: &Batch) -> Option<Vec<u64>> {
        let key = batch.key.clone();
        let options = SubmitOptions { key: Some(Bytes::from(key.clone())), group: 0 };
        self.asking.fetch_add(1, Ordering::SeqCst);
        let answer = client.submit(&batch.tasks, &options).await;
        self.asking.fetch_sub(1, Ordering::SeqCst);
        match answer {
            Ok(receipt) => {
                let ids: Vec<u64> = receipt.ids.iter().map(|id| id.0).collect();
                self.recorder.write(Fact::Receipt { key, ids: ids.clone() });
                Some(ids)
            }
            Err(Error::Unreachable { .. } | Error::NotReady { .. }) => {
                self.recorder.write(Fact::Unknown { key });
                None
            }
            Err(Error::Refused { problem }) => {
                let mut books = self.books();
                books.refused += 1;
                books.refusal = problem;
                None
            }
            Err(wrong) => {
                self.books().wrong.push(format!("batch {key} was answered: {wrong}"));
                None
            }
        }
    }

    fn receipt(&self, ids: &[u64]) {
        let mut books = self.books();
        books.receipted.extend(ids);
        let open = ids.iter().filter(|id| !books.ended.contains(id)).copied();
        let open: Vec<u64> = open.collect();
        books.open.extend(open);
    }

    async fn cancel(&self, client: &Client, ids: Vec<u64>) {
        self.recorder.write(Fact::Cancels { ids: ids.clone() });
        let asked: Vec<TaskId> = ids.into_iter().map(TaskId).collect();
        let Ok(found) = client.cancel(&asked).await else { return };
        let cancelled = found.into_iter().filter_map(|found| match found {
            Found::Task(task) => (task.status == Status::Cancelled).then_some(task.id.0),
            Found::Expired(_) | Found::NotFound(_) => None,
        });
        self.recorder.write(Fact::Cancelled { ids: cancelled.collect() });
    }

    /// Some tasks that have a receipt.
    fn earlier(&self, dice: &mut Dice) -> Vec<u64> {
        let books = self.books();
        let all = &books.receipted;
        (0..20).filter(|_| !all.is_empty()).map(|_| all[dice.place(all.len())]).collect()
    }

    async fn read(&self, ids: &[u64], wait: Duration) -> Vec<TaskView> {
        let client = self.client();
        let found = self.get(&client, ids, wait).await;
        found.expect("a dispatcher that is there answers")
    }

    async fn read_once(&self, client: &Client, ids: &[u64]) {
        // One that is away is read again later.
        self.get(client, ids, Duration::ZERO).await.ok();
    }

    async fn get(
        &self,
        client: &Client,
        ids: &[u64],
        wait: Duration,
    ) -> Result<Vec<TaskView>, Error> {
        let began = self.recorder.now();
        let asked: Vec<TaskId> = ids.iter().copied().map(TaskId).collect();
        let options = GetOptions { wait, story: true, omit_payload: true };
        let found = client.get(&asked, options).await?;
        let (mut tasks, mut expired, mut views) = (Vec::new(), Vec::new(), Vec::new());
        for found in found {
            match found {
                Found::Task(view) => {
                    tasks.push(seen(&view, false));
                    views.push(*view);
                }
                Found::Expired(id) => expired.push(id.0),
                Found::NotFound(id) => {
                    tasks.push(Seen { id: id.0, status: None, result: None, payload: None });
                }
            }
        }
        self.recorder.write(Fact::Read { by: By::Get, began, tasks });
        if !expired.is_empty() {
            self.recorder.write(Fact::Expired { ids: expired });
        }
        Ok(views)
    }

    async fn list(&self) {
        let client = self.client();
        let page_size = u32::try_from(PAGE).expect("a page fits");
        let mut options = ListOptions { page_size, with_bytes: true, ..ListOptions::default() };
        loop {
            let began = self.recorder.now();
            let page = client.list(options.clone()).await.expect("a dispatcher lists its tasks");
            let tasks = page.tasks.iter().map(|task| seen(task, true)).collect();
            self.recorder.write(Fact::Read { by: By::List, began, tasks });
            if page.next_page_token.is_empty() {
                return;
            }
            options.page_token = page.next_page_token;
        }
    }

    async fn watch(self: Arc<Self>, mut watching: Watching, end: Shutdown) {
        loop {
            let next = tokio::select! {
                next = watching.next() => next,
                () = end.begun() => return,
            };
            match next {
                Ok(events) => self.heard(&events.events),
                // Longer away than a client is patient: it goes on from where it was.
                Err(Error::Unreachable { .. } | Error::NotReady { .. }) => {}
                Err(Error::CursorTooOld { .. }) if self.plan.forgets => {
                    match self.client().watch(watch()).await {
                        Ok(anew) => watching = anew,
                        Err(_) => pause().await,
                    }
                    self.look_after_open_ones().await;
                }
                Err(wrong) => {
                    self.books().wrong.push(format!("the watch was answered: {wrong}"));
                    return;
                }
            }
        }
    }

    /// Reads the tasks that have no end yet: a watch may have missed it.
    async fn look_after_open_ones(&self) {
        let open: Vec<u64> = self.books().open.iter().copied().collect();
        let Ok(views) = self.get(&self.client(), &open, Duration::ZERO).await else { return };
        let is_open =
            |id: &u64| views.iter().any(|view| view.id.0 == *id && !view.status.is_terminal());
        let ended: Vec<u64> = open.into_iter().filter(|id| !is_open(id)).collect();
        self.books().end(&ended);
    }

    fn heard(&self, events: &[Event]) {
        let tasks = events.iter().map(|event| Seen {
            id: event.id.0,
            status: Some(event.status),
            result: event.result.as_deref().map(text),
            payload: None,
        });
        let (tasks, began) = (tasks.collect(), self.recorder.now());
        self.recorder.write(Fact::Read { by: By::Watch, began, tasks });
        let ended: Vec<u64> = events.iter().map(|event| event.id.0).collect();
        self.books().end(&ended);
    }
}

impl Books {
    fn end(&mut self, ids: &[u64]) {
        for id in ids {
            self.open.remove(id);
            self.ended.insert(*id);
        }
    }
}

/// A moment for whoever found the dispatcher away, or full.
async fn pause() {
    tokio::time::timeout(PAUSE, std::future::pending::<()>()).await.ok();
}

fn watch() -> Watch {
    Watch { ends_only: true, ..Watch::default() }
}

fn seen(view: &TaskView, with_payload: bool) -> Seen {
    let payload = with_payload.then(|| {
        let work: Result<Work, _> = text(&view.payload).parse();
        let name = work.map_or_else(|wrong| wrong.to_string(), |work| work.name);
        (name, work::hash(&view.payload))
    });
    Seen {
        id: view.id.0,
        status: Some(view.status),
        result: view.result.as_deref().map(text),
        payload,
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
