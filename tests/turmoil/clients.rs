//! The clients of a world. They submit, cancel, read and watch, and write down what they
//! hear before they do anything with it. Each submit has a key and is tried once; whoever
//! hears nothing certain tries again under the same key, or now and then lets it be.

use std::time::Duration;

use bytes::Bytes;
use taskgrid::client::{
    Client, Error, Found, GetOptions, ListOptions, SubmitOptions, Task, TaskView, Watch,
};
use taskgrid::core::id::TaskId;
use taskgrid::core::task::Status;
use tokio::time::timeout;

use super::dice::Dice;
use super::history::{By, Fact, Recorder, Seen};
use super::hosts::DISPATCHER;
use super::network::simulated;
use super::site::Site;
use super::work::{self, Deed, Work};

/// Receipted tasks that may be open before clients wait.
const OPEN: usize = 80;
/// Before a client that heard nothing certain asks again.
const PAUSE: Duration = Duration::from_millis(50);
/// Ids in one call.
const PAGE: usize = 200;

/// One client, until it has an answer for everything, after the harm is over.
pub(crate) async fn client(site: Site, number: u64) -> turmoil::Result {
    let seed = site.rules().seed.wrapping_mul(31).wrapping_add(number);
    let client = Peer::new(site.clone()).work(number, Dice::new(seed));
    if number == 0 {
        tokio::spawn(Peer::new(site.clone()).watch());
    }
    client.await;
    site.books().done += 1;
    if number == 0 {
        Peer::new(site).audit().await;
    }
    Ok(())
}

/// One submit, which may be made several times.
struct Batch {
    key: String,
    tasks: Vec<Task>,
    at_most_once: bool,
}

struct Peer {
    site: Site,
    recorder: Recorder,
    client: Client,
}

impl Peer {
    fn new(site: Site) -> Self {
        let url = format!("{DISPATCHER}:50052");
        let client = Client::connect_on(&simulated(), &url).expect("a dispatcher's address");
        let (recorder, client) = (site.recorder(), client.with_patience(Duration::ZERO));
        Self { site, recorder, client }
    }

    async fn work(self, number: u64, mut dice: Dice) {
        let mut batches: u64 = 0;
        while !self.site.calm().has_begun() {
            pause(Duration::from_millis(dice.between(20, 500))).await;
            if self.site.books().open.len() >= OPEN {
                continue;
            }
            let batch = invent(&format!("{number}-{batches}"), &mut dice);
            batches += 1;
            let Some(ids) = self.submit(&batch, &mut dice).await else { continue };
            if dice.chance(150) {
                let some: Vec<u64> = ids.iter().filter(|_| dice.chance(400)).copied().collect();
                self.cancel(some).await;
            }
            if dice.chance(150) {
                let earlier = self.earlier(&mut dice);
                // One that is away is read again in the end.
                self.get(&earlier, Duration::ZERO).await.ok();
            }
        }
    }

    /// Tries until there is a receipt; now and then lets it be when there is none yet, or
    /// asks for it again when there is.
    async fn submit(&self, batch: &Batch, dice: &mut Dice) -> Option<Vec<u64>> {
        let hashes = batch.tasks.iter().map(|task| work::hash(task.payload())).collect();
        let (key, at_most_once) = (batch.key.clone(), batch.at_most_once);
        self.recorder.write(Fact::Asked { key, hashes, at_most_once });
        loop {
            if let Some(ids) = self.try_batch(batch).await {
                if dice.chance(50) {
                    self.try_batch(batch).await;
                }
                return Some(ids);
            }
            if dice.chance(60) {
                return None;
            }
            pause(PAUSE).await;
        }
    }

    async fn try_batch(&self, batch: &Batch) -> Option<Vec<u64>> {
        let key = batch.key.clone();
        let options = SubmitOptions { key: Some(Bytes::from(key.clone())), group: 0 };
        self.site.books().asking += 1;
        let answer = self.client.submit(&batch.tasks, &options).await;
        self.site.books().asking -= 1;
        match answer {
            Ok(receipt) => {
                let ids: Vec<u64> = receipt.ids.iter().map(|id| id.0).collect();
                self.recorder.write(Fact::Receipt { key, ids: ids.clone() });
                self.site.books().receipt(&ids);
                Some(ids)
            }
            Err(Error::Unreachable { .. } | Error::NotReady { .. }) => {
                self.recorder.write(Fact::Unknown { key });
                None
            }
            Err(Error::Refused { .. }) => None,
            // No worker may have registered by now; from the first receipt on one has.
            Err(Error::UnknownType { .. }) if self.site.books().receipted.is_empty() => None,
            Err(wrong) => {
                self.site.complain(format!("batch {key} was answered: {wrong}"));
                None
            }
        }
    }

    async fn cancel(&self, ids: Vec<u64>) {
        self.recorder.write(Fact::Cancels { ids: ids.clone() });
        let asked: Vec<TaskId> = ids.into_iter().map(TaskId).collect();
        let Ok(found) = self.client.cancel(&asked).await else { return };
        let cancelled = found.into_iter().filter_map(|found| match found {
            Found::Task(task) => (task.status == Status::Cancelled).then_some(task.id.0),
            Found::Expired(_) | Found::NotFound(_) => None,
        });
        self.recorder.write(Fact::Cancelled { ids: cancelled.collect() });
    }

    /// Some tasks that have a receipt.
    fn earlier(&self, dice: &mut Dice) -> Vec<u64> {
        let books = self.site.books();
        let all = &books.receipted;
        (0..10).filter(|_| !all.is_empty()).map(|_| all[dice.place(all.len())]).collect()
    }

    async fn get(&self, ids: &[u64], wait: Duration) -> Result<(), Error> {
        if ids.is_empty() {
            return Ok(());
        }
        let began = self.recorder.now();
        let asked: Vec<TaskId> = ids.iter().copied().map(TaskId).collect();
        let options = GetOptions { wait, story: false, omit_payload: true };
        let (mut tasks, mut expired) = (Vec::new(), Vec::new());
        for found in self.client.get(&asked, options).await? {
            match found {
                Found::Task(view) => tasks.push(seen(&view, false)),
                Found::Expired(id) => expired.push(id.0),
                Found::NotFound(id) => {
                    tasks.push(Seen { id: id.0, status: None, result: None, payload: None });
                }
            }
        }
        let ended = tasks.iter().filter(|task| task.status.is_some_and(Status::is_terminal));
        self.site.books().end(ended.map(|task| task.id));
        self.recorder.write(Fact::Read { by: By::Get, began, tasks });
        if !expired.is_empty() {
            self.recorder.write(Fact::Expired { ids: expired });
        }
        Ok(())
    }

    async fn list(&self) -> Result<(), Error> {
        let page_size = u32::try_from(PAGE).expect("a page fits");
        let mut options = ListOptions { page_size, with_bytes: true, ..ListOptions::default() };
        loop {
            let began = self.recorder.now();
            let page = self.client.list(options.clone()).await?;
            let tasks = page.tasks.iter().map(|task| seen(task, true)).collect();
            self.recorder.write(Fact::Read { by: By::List, began, tasks });
            if page.next_page_token.is_empty() {
                return Ok(());
            }
            options.page_token = page.next_page_token;
        }
    }

    /// Hears of every end, for as long as the world lasts.
    async fn watch(self) {
        let watch = || Watch { ends_only: true, ..Watch::default() };
        let mut watching = loop {
            match self.client.watch(watch()).await {
                Ok(watching) => break watching,
                Err(_) => pause(PAUSE).await,
            }
        };
        loop {
            match watching.next().await {
                Ok(events) => {
                    let tasks = events.events.iter().map(|event| Seen {
                        id: event.id.0,
                        status: Some(event.status),
                        result: event.result.as_deref().map(text),
                        payload: None,
                    });
                    let (tasks, began) = (tasks.collect(), self.recorder.now());
                    self.recorder.write(Fact::Read { by: By::Watch, began, tasks });
                    self.site.books().end(events.events.iter().map(|event| event.id.0));
                }
                Err(Error::Unreachable { .. } | Error::NotReady { .. }) => pause(PAUSE).await,
                Err(wrong) => {
                    return self.site.complain(format!("the watch was answered: {wrong}"));
                }
            }
        }
    }

    /// When nobody submits any more: waits until all has ended, and reads all of it.
    async fn audit(self) {
        while self.site.books().done < self.site.rules().clients {
            pause(PAUSE).await;
        }
        loop {
            let open: Vec<u64> = self.site.books().open.iter().copied().take(PAGE).collect();
            if open.is_empty() {
                break;
            }
            if self.get(&open, Duration::from_secs(5)).await.is_err() {
                pause(PAUSE).await;
            }
        }
        let ids = self.site.books().receipted.clone();
        for ids in ids.chunks(PAGE) {
            if let Err(error) = self.get(ids, Duration::ZERO).await {
                self.site.complain(format!("after all harm a read was answered: {error}"));
            }
        }
        if let Err(error) = self.list().await {
            self.site.complain(format!("after all harm a list was answered: {error}"));
        }
        self.site.books().settled = true;
    }
}

/// A moment of simulated time.
async fn pause(span: Duration) {
    timeout(span, std::future::pending::<()>()).await.ok();
}

fn invent(key: &str, dice: &mut Dice) -> Batch {
    let at_most_once = dice.chance(80);
    let urgency = u8::try_from(dice.between(0, 9)).expect("a digit fits");
    let delay = Duration::from_millis(if dice.chance(100) { dice.between(1, 3_000) } else { 0 });
    let tasks = (0..dice.between(1, 12)).map(|place| {
        let deed = match dice.between(0, 99) {
            0..=39 => Deed::Take(0),
            40..=82 => Deed::Take(dice.between(1, 300)),
            83..=94 => Deed::Take(dice.between(500, 6_000)),
            _ if at_most_once => Deed::Take(1),
            95..=97 => Deed::Fail(0),
            _ => Deed::Panic,
        };
        let padding = dice.place(60);
        let payload = Work { name: format!("{key}/{place}"), deed, padding }.payload();
        let task = Task::new(work::TYPE, payload).priority(urgency).delay(delay);
        if at_most_once { task.max_attempts(1).max_crashes(0) } else { task }
    });
    Batch { tasks: tasks.collect(), key: key.to_owned(), at_most_once }
}

fn seen(view: &TaskView, with_payload: bool) -> Seen {
    let payload = with_payload.then(|| {
        let work: Result<Work, _> = text(&view.payload).parse();
        let name = work.map_or_else(|wrong| wrong.to_string(), |work| work.name);
        (name, work::hash(&view.payload))
    });
    let result = view.result.as_deref().map(text);
    Seen { id: view.id.0, status: Some(view.status), result, payload }
}

fn text(bytes: &(impl AsRef<[u8]> + ?Sized)) -> String {
    String::from_utf8_lossy(bytes.as_ref()).into_owned()
}
