//! Sends batches, and judges what becomes of their tasks.
//!
//! Whatever the grid does, this goes on: a call that does not reach it is made
//! again, a submit under the same key, until it does. What is late stays asked for
//! beside the batches that follow it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::time::Duration;

use bytes::Bytes;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::time::{Instant, sleep, timeout};

use super::super::super::exit::Failure;
use super::super::submit::place;
use super::cases::{self, Case, Type};
use super::report::{Event, Report, Subject, Tally, shown, span};
use crate::client::{Client, Error, Found, GetOptions, SubmitOptions, Task, TaskView};
use crate::core::id::{TaskId, millis};
use crate::core::task::Status;
use crate::shutdown::Shutdown;

/// How often it is looked what has ended, and whether the grid is there.
const LOOK: Duration = Duration::from_secs(1);
/// How long the tasks under way are waited for once the test is told to end: well
/// within what those who stop processes give them.
const LAST_LOOK: Duration = Duration::from_secs(3);
/// Late tasks that are asked for. With more of them nothing further is sent: a grid
/// without workers is not filled up.
const LATE: usize = 1_000;

/// How to test.
#[derive(Debug, Clone, Copy)]
pub(super) struct Settings {
    /// The time from one batch to the next.
    pub(super) interval: Duration,
    /// Tasks of one batch.
    pub(super) batch: usize,
    /// Tasks of all; `None` for no end.
    pub(super) count: Option<u64>,
    /// How long a task may take until it is late.
    pub(super) deadline: Duration,
    /// Of the dice that make the tasks.
    pub(super) seed: u64,
}

/// Tests until `shutdown` begins, or until so many tasks were sent and have ended
/// or are late.
pub(super) async fn run<Out: Write>(
    client: &Client,
    settings: Settings,
    report: Report<Out>,
    shutdown: &Shutdown,
) -> Result<Tally, Failure> {
    let mut run = Run::new(client, settings, report);
    run.report.tell(Event::Note, &format!("testing {}, seed {}", client.url(), settings.seed))?;
    tokio::select! {
        ended = run.batches() => ended?,
        () = shutdown.begun() => run.look_for_the_last_time().await?,
    }
    run.end()
}

/// A task that was sent, and whose end was not seen.
#[derive(Debug)]
struct Open {
    case: Case,
    /// Since when the grid could have ended it: its submit, or the last outage's end.
    since: Instant,
    is_late: bool,
}

#[derive(Debug)]
struct Outage {
    since: Instant,
    /// What the grid is meanwhile.
    what: &'static str,
}

struct Run<Out> {
    /// Tries each call once: who is away is told of, and asked again, here.
    client: Client,
    settings: Settings,
    report: Report<Out>,
    dice: StdRng,
    /// No other run's batches have keys that begin with it, not even those with the
    /// same seed.
    key: [u8; 16],
    submits: u64,
    due: Option<Instant>,
    open: BTreeMap<TaskId, Open>,
    outage: Option<Outage>,
    tally: Tally,
    /// Tasks under way, or ended, since the last sum was told.
    unsummed: bool,
    /// What was said once.
    said: BTreeSet<String>,
}

impl<Out: Write> Run<Out> {
    fn new(client: &Client, settings: Settings, report: Report<Out>) -> Self {
        Self {
            client: client.clone().with_patience(Duration::ZERO),
            settings,
            report,
            dice: StdRng::seed_from_u64(settings.seed),
            key: rand::random(),
            submits: 0,
            due: Some(Instant::now()),
            open: BTreeMap::new(),
            outage: None,
            tally: Tally::default(),
            unsummed: false,
            said: BTreeSet::new(),
        }
    }

    async fn batches(&mut self) -> Result<(), Failure> {
        loop {
            if self.open.len() >= LATE {
                self.say("1,000 tasks are late: none is sent until some of them have ended")?;
            } else if self.left() > 0 && self.due.is_some_and(|due| due <= Instant::now()) {
                self.due = Instant::now().checked_add(self.settings.interval);
                self.send().await?;
            }
            while self.open.values().any(|open| !open.is_late) {
                self.look(LOOK).await?;
            }
            self.sum_up()?;
            if self.settings.count == Some(self.tally.sent) {
                return Ok(());
            }
            let left = self.due.map(|due| due.saturating_duration_since(Instant::now()));
            sleep(left.map_or(LOOK, |left| left.min(LOOK))).await;
            self.look(Duration::ZERO).await?;
        }
    }

    /// How many tasks the next batch may have.
    fn left(&self) -> usize {
        let left = self.settings.count.map_or(u64::MAX, |count| count - self.tally.sent);
        let room = LATE.saturating_sub(self.open.len());
        self.settings.batch.min(usize::try_from(left).unwrap_or(usize::MAX)).min(room)
    }

    async fn send(&mut self) -> Result<(), Failure> {
        let types = self.types().await?;
        if types.is_empty() {
            self.say("no type is known that can be tested: waiting for a worker")?;
            // The first that is known is tested at once.
            self.due = Some(Instant::now());
            return Ok(());
        }
        let mut batch = cases::batch(&types, self.left(), &mut self.dice);
        while !batch.is_empty() {
            let tasks: Vec<Task> = batch.iter().map(task).collect();
            let options = SubmitOptions { key: Some(self.next_key()), group: 0 };
            let submit = async |client: &Client| client.submit(&tasks, &options).await;
            match self.persist(submit).await {
                Ok(receipt) => {
                    self.sent(&receipt.ids, batch);
                    return Ok(());
                }
                Err(Failed::Call(error)) => batch = self.refused(&error, batch)?,
                Err(Failed::Report(failure)) => return Err(failure),
            }
        }
        Ok(())
    }

    /// The types that are known and can be tested. The others are told once.
    async fn types(&mut self) -> Result<Vec<Type>, Failure> {
        let stats = self.persist(async |client: &Client| client.stats().await).await?;
        let mut types = Vec::new();
        for name in stats.types.into_iter().filter_map(|stats| Some(stats.r#type?.name)) {
            match cases::type_of(&name) {
                Some(known) => types.push(known),
                None => self.say(&format!(
                    "{name} is not tested: only its worker knows what must come back"
                ))?,
            }
        }
        Ok(types)
    }

    fn next_key(&mut self) -> Bytes {
        self.submits += 1;
        [&self.key[..], &self.submits.to_be_bytes()[..]].concat().into()
    }

    fn sent(&mut self, ids: &[TaskId], batch: Vec<Case>) {
        let since = Instant::now();
        self.unsummed = true;
        for (&id, case) in ids.iter().zip(batch) {
            self.tally.sent += 1;
            self.open.insert(id, Open { case, since, is_late: false });
        }
    }

    /// Tells of the task that the dispatcher named, or of all if it named none, and
    /// gives the others.
    fn refused(&mut self, error: &Error, mut batch: Vec<Case>) -> Result<Vec<Case>, Failure> {
        if matches!(error, Error::NotAllowed { .. }) {
            return Err(error.clone().into());
        }
        let told = error.to_string();
        let named = place(&told).filter(|&place| place < batch.len());
        let rest = named.map(|place| batch.split_off(place + 1));
        let before = batch.split_off(named.unwrap_or(0));
        for case in before {
            self.unsummed = true;
            self.tally.sent += 1;
            self.tally.refused += 1;
            self.report.task(Event::Refused, Subject { id: None, case: &case }, &told)?;
        }
        batch.extend(rest.unwrap_or_default());
        Ok(batch)
    }

    /// Judges what has ended, for which those that are not late are waited for.
    async fn look(&mut self, wait: Duration) -> Result<(), Failure> {
        let of = |is_late| {
            let open = self.open.iter().filter(move |(_, open)| open.is_late == is_late);
            open.map(|(id, _)| *id).collect::<Vec<TaskId>>()
        };
        let (late, under_way) = (of(true), of(false));
        if self.open.is_empty() {
            // Nothing to ask for: it is seen all the same when the grid goes away.
            self.persist(async |client: &Client| client.stats().await).await?;
        }
        for (ids, wait) in [(under_way, wait), (late, Duration::ZERO)] {
            let options = GetOptions { wait, omit_payload: true, story: false };
            let get = async |client: &Client| client.get(&ids, options).await;
            let found = self.persist(get).await?;
            self.judge_all(found)?;
        }
        Ok(())
    }

    fn judge_all(&mut self, found: Vec<Found>) -> Result<(), Failure> {
        for one in found {
            let id = one.id();
            match one {
                Found::Task(task) if !task.status.is_terminal() => self.not_ended(&task)?,
                Found::Task(task) => {
                    let Some(open) = self.close(id) else { continue };
                    self.judge(&task, &open.case)?;
                }
                Found::Expired(_) | Found::NotFound(_) => {
                    let Some(open) = self.close(id) else { continue };
                    self.tally.lost += 1;
                    let told = "a receipt was given for it, and it is not known";
                    let subject = Subject { id: Some(id), case: &open.case };
                    self.report.task(Event::Lost, subject, told)?;
                }
            }
        }
        Ok(())
    }

    fn close(&mut self, id: TaskId) -> Option<Open> {
        let open = self.open.remove(&id)?;
        self.tally.late -= u64::from(open.is_late);
        self.unsummed = true;
        Some(open)
    }

    fn not_ended(&mut self, task: &TaskView) -> Result<(), Failure> {
        let Some(open) = self.open.get_mut(&task.id) else { return Ok(()) };
        let waited = open.since.elapsed();
        if open.is_late || waited < self.settings.deadline {
            return Ok(());
        }
        open.is_late = true;
        self.tally.late += 1;
        let told = format!("still {} after {}", task.status.as_str(), span(waited));
        let subject = Subject { id: Some(task.id), case: &open.case };
        self.report.task(Event::Late, subject, &told)
    }

    fn judge(&mut self, task: &TaskView, case: &Case) -> Result<(), Failure> {
        let result = task.result.as_deref().unwrap_or_default();
        let ended = task.timestamp_completed.unwrap_or_default();
        let ms = millis(ended.since(task.timestamp_created));
        let (event, told) = if task.status != Status::Completed {
            self.tally.failed += 1;
            let why = task.reason.map(|reason| format!(" ({})", reason.as_str()));
            let why = why.unwrap_or_default();
            let told = format!("{}{why} after {ms} ms: {}", task.status.as_str(), task.error);
            (Event::Failed, told)
        } else if result == case.expected.as_bytes() {
            self.tally.right += 1;
            (Event::Right, format!("{} after {ms} ms", shown(result)))
        } else {
            self.tally.wrong += 1;
            let (expected, given) = (shown(case.expected.as_bytes()), shown(result));
            (Event::Wrong, format!("must be {expected}, and {} gave {given}", task.worker))
        };
        self.report.task(event, Subject { id: Some(task.id), case }, &told)
    }

    fn sum_up(&mut self) -> Result<(), Failure> {
        if std::mem::take(&mut self.unsummed) {
            self.report.tell(Event::Sum, &self.tally.to_string())?;
        }
        Ok(())
    }

    /// Says something that need not be said again.
    fn say(&mut self, text: &str) -> Result<(), Failure> {
        if self.said.insert(text.to_owned()) { self.report.tell(Event::Note, text) } else { Ok(()) }
    }

    /// Calls until the grid is there and takes the call.
    async fn persist<T>(
        &mut self,
        call: impl AsyncFn(&Client) -> Result<T, Error>,
    ) -> Result<T, Failed> {
        loop {
            let answer = call(&self.client).await;
            let what = match &answer {
                Err(Error::Unreachable { .. }) => "unreachable",
                Err(Error::NotReady { .. }) => "not ready",
                Err(Error::Refused { .. }) => "full",
                Ok(_) | Err(_) => "",
            };
            if what.is_empty() {
                self.back()?;
                return answer.map_err(Failed::Call);
            }
            if self.outage.is_none()
                && let Err(error) = answer
            {
                self.outage = Some(Outage { since: Instant::now(), what });
                self.report.tell(Event::Away, &error.to_string())?;
            }
            sleep(LOOK).await;
        }
    }

    fn back(&mut self) -> Result<(), Failure> {
        let Some(outage) = self.end_of_outage() else { return Ok(()) };
        for open in self.open.values_mut() {
            open.since = Instant::now();
        }
        let told = format!("grid {} for {}", outage.what, span(outage.since.elapsed()));
        self.report.tell(Event::Back, &told)
    }

    fn end_of_outage(&mut self) -> Option<Outage> {
        let outage = self.outage.take()?;
        self.tally.outages += 1;
        self.tally.away += outage.since.elapsed();
        Some(outage)
    }

    /// What is under way when the test is told to end may yet end. A grid that ends
    /// together with the test is no error of it.
    async fn look_for_the_last_time(&mut self) -> Result<(), Failure> {
        let ids: Vec<TaskId> = self.open.keys().copied().collect();
        if self.outage.is_some() {
            return Ok(());
        }
        let options = GetOptions { wait: LAST_LOOK / 2, omit_payload: true, story: false };
        match timeout(LAST_LOOK, self.client.get(&ids, options)).await {
            Ok(Ok(found)) => self.judge_all(found),
            Ok(Err(error)) => self.report.tell(Event::Away, &error.to_string()),
            Err(_) => self.report.tell(Event::Away, "the grid does not answer"),
        }
    }

    fn end(mut self) -> Result<Tally, Failure> {
        self.end_of_outage();
        self.report.tell(Event::Sum, &format!("at the end {}", self.tally))?;
        Ok(self.tally)
    }
}

/// Why a call that reached the grid gave nothing.
enum Failed {
    /// The dispatcher's answer.
    Call(Error),
    /// It could not be told that the grid came or went.
    Report(Failure),
}

impl From<Failure> for Failed {
    fn from(failure: Failure) -> Self {
        Self::Report(failure)
    }
}

impl From<Failed> for Failure {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Call(error) => error.into(),
            Failed::Report(failure) => failure,
        }
    }
}

fn task(case: &Case) -> Task {
    Task::new(case.type_name, case.payload.clone())
}
