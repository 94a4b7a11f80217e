//! Submits batches, several at once, and gathers what becomes of their tasks.
//!
//! Results come over one watch of the run's group, which begins before the first
//! batch was stored. A task whose end may lie before that (its batch was known
//! from an earlier run, or the watch had to begin anew) is asked for once, after
//! the watch stands: so its end is seen by one of both.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::super::super::exit::{Exit, Failure, complain};
use super::super::super::output;
use super::super::end_of;
use super::input::{BadLine, Batch};
use super::printer::{Ended, Line, Lines};
use super::store::{Stored, store};
use crate::client::{Client, Error, Event, Events, Found, GetOptions, Receipt, Task, Watch};
use crate::core::id::{TaskId, Timestamp};
use crate::core::limits;
use crate::core::task::Status;

/// Batches and questions in flight at once.
const IN_FLIGHT: usize = 16;
/// Tasks, and bytes of their payloads, that are stored and have not ended. Beyond,
/// no further batch is submitted until some have: payloads are kept for the output.
const OPEN_TASKS: usize = 200_000;
const OPEN_BYTES: usize = 256 << 20;
/// Ends that are heard of before the receipt that tells whose they are. More than
/// the batches in flight can cause are those of an earlier run; those are asked
/// for when their receipt comes.
const EARLY: usize = 50_000;

/// How to run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Settings {
    /// Stop at the first bad line.
    pub(super) strict: bool,
    /// Do not wait for results.
    pub(super) detach: bool,
    /// How long the dispatcher may be away, or full.
    pub(super) patience: Duration,
    /// Show a progress bar to whoever looks at stderr.
    pub(super) progress: bool,
}

/// What came of it all.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Summary {
    /// Tasks that are stored.
    pub(super) stored: u64,
    /// Of those, stored by an earlier run.
    pub(super) known: u64,
    /// Tasks with a result.
    pub(super) completed: u64,
    /// Tasks that failed.
    pub(super) failed: u64,
    /// Tasks that were cancelled.
    pub(super) cancelled: u64,
    /// Tasks whose results are no longer kept.
    pub(super) expired: u64,
    /// Lines that are no tasks, or that the dispatcher refused.
    pub(super) bad: u64,
}

/// Submits everything and waits for every end.
pub(super) async fn run(
    client: &Client,
    mut batches: mpsc::Receiver<io::Result<Batch>>,
    lines: Lines,
    settings: Settings,
) -> Result<Summary, Failure> {
    let mut run = Run::new(client.clone(), lines, settings);
    loop {
        if run.reading && !run.is_full() {
            tokio::select! {
                biased;
                Some(ended) = run.steps.join_next() => run.step(ended).await?,
                events = next(&mut run.watch) => run.events(events).await?,
                batch = batches.recv() => run.batch(batch.transpose()?),
            }
        } else if run.steps.is_empty() && run.open.is_empty() {
            run.progress.finish_and_clear();
            return Ok(run.summary);
        } else {
            tokio::select! {
                Some(ended) = run.steps.join_next() => run.step(ended).await?,
                events = next(&mut run.watch) => run.events(events).await?,
            }
        }
        if run.stopped {
            batches.close();
        }
        run.show();
    }
}

type Watching = Pin<Box<dyn Stream<Item = Result<Events, Error>> + Send>>;

/// What a call in flight brings.
#[derive(Debug)]
enum Step {
    Stored(Stored),
    Found(Vec<Found>),
}

/// A stored task that has not ended, as far as is known.
#[derive(Debug)]
struct Open {
    task: Task,
    /// `None` until it was asked for: its batch was known before.
    created: Option<Timestamp>,
    /// Its end, heard of before `created`.
    end: Option<Event>,
}

struct Run {
    client: Client,
    lines: Lines,
    settings: Settings,
    summary: Summary,
    progress: ProgressBar,
    /// There may be more batches.
    reading: bool,
    /// A bad line ended the reading.
    stopped: bool,
    /// The group of this run; `None` before its first batch.
    group: Option<u64>,
    watch: Option<Watching>,
    /// Ends may have been missed: whoever gets a receipt is asked for.
    missed: bool,
    steps: JoinSet<Result<Step, Error>>,
    open: BTreeMap<TaskId, Open>,
    open_bytes: usize,
    early: BTreeMap<TaskId, Event>,
}

impl Run {
    fn new(client: Client, lines: Lines, settings: Settings) -> Self {
        Self {
            client,
            lines,
            settings,
            summary: Summary::default(),
            progress: progress(settings),
            reading: true,
            stopped: false,
            group: None,
            watch: None,
            missed: false,
            steps: JoinSet::new(),
            open: BTreeMap::new(),
            open_bytes: 0,
            early: BTreeMap::new(),
        }
    }

    /// Until the watch stands, one batch is in flight: a receipt's cursor lies
    /// before its own batch only.
    fn is_full(&self) -> bool {
        let watches = self.watch.is_some() || self.settings.detach;
        // What comes behind a bad line is not to be on its way.
        let in_flight = if watches && !self.settings.strict { IN_FLIGHT } else { 1 };
        self.steps.len() >= in_flight
            || self.open.len() >= OPEN_TASKS
            || self.open_bytes >= OPEN_BYTES
    }

    fn batch(&mut self, batch: Option<Batch>) {
        let Some(mut batch) = batch else {
            self.reading = false;
            return;
        };
        let group = *self.group.get_or_insert_with(|| group_of(&batch.key));
        let bad = std::mem::take(&mut batch.bad);
        self.refused(&bad);
        if !self.stopped && !batch.tasks.is_empty() {
            let (client, Settings { strict, patience, .. }) = (self.client.clone(), self.settings);
            self.steps.spawn(async move {
                store(&client, batch, group, patience, strict).await.map(Step::Stored)
            });
        }
    }

    /// Reports lines that became no tasks.
    fn refused(&mut self, bad: &[BadLine]) {
        for BadLine { line, problem } in bad {
            self.summary.bad += 1;
            self.progress.suspend(|| complain(&format!("line {line}: {problem}")));
            if self.settings.strict {
                self.reading = false;
                self.stopped = true;
                return;
            }
        }
    }

    async fn step(
        &mut self,
        ended: Result<Result<Step, Error>, tokio::task::JoinError>,
    ) -> Result<(), Failure> {
        match ended.map_err(|bug| Failure::new(Exit::Internal, bug))?? {
            Step::Stored(stored) => self.stored(stored).await,
            Step::Found(found) => self.found(found).await,
        }
    }

    async fn stored(&mut self, stored: Stored) -> Result<(), Failure> {
        self.refused(&stored.refused);
        let Some(receipt) = stored.receipt else { return Ok(()) };
        let count = u64::try_from(receipt.ids.len()).unwrap_or(u64::MAX);
        self.summary.stored += count;
        if receipt.duplicate {
            self.summary.known += count;
        }
        if self.settings.detach {
            return self.print(receipt.ids.into_iter().map(Line::Stored).collect()).await;
        }
        if self.watch.is_none() {
            // A known batch may be so old that its cursor is not kept.
            let fresh = !receipt.duplicate;
            self.watch_from(if fresh { receipt.cursor.clone() } else { Bytes::new() }).await?;
        }
        self.expect(&receipt, stored.tasks).await
    }

    /// Waits for the tasks of a receipt, some of which may have ended.
    async fn expect(&mut self, receipt: &Receipt, tasks: Vec<Task>) -> Result<(), Failure> {
        let mut lines = Vec::new();
        for (&id, task) in receipt.ids.iter().zip(tasks) {
            self.open_bytes += task.payload().len();
            self.open.insert(id, Open { task, created: receipt.timestamp_created, end: None });
            if let Some(event) = self.early.remove(&id) {
                lines.extend(self.ended(event));
            }
        }
        if receipt.timestamp_created.is_none() || receipt.duplicate || self.missed {
            self.ask(receipt.ids.clone());
        }
        self.print(lines).await
    }

    async fn watch_from(&mut self, cursor: Bytes) -> Result<(), Error> {
        let group = self.group.unwrap_or_default();
        let watch = Watch { cursor, group, ends_only: true, ..Watch::default() };
        let watching = match self.client.watch(watch.clone()).await {
            Err(Error::CursorTooOld { .. }) => {
                self.missed = true;
                self.client.watch(Watch { cursor: Bytes::new(), ..watch }).await?
            }
            other => other?,
        };
        self.watch = Some(Box::pin(watching.into_stream()));
        Ok(())
    }

    async fn events(&mut self, events: Result<Events, Error>) -> Result<(), Failure> {
        match events {
            Ok(events) => {
                let ended = events.events.into_iter().filter(|event| event.status.is_terminal());
                let lines = ended.filter_map(|event| self.ended(event)).collect();
                self.print(lines).await
            }
            Err(Error::CursorTooOld { .. }) => {
                self.missed = true;
                self.watch_from(Bytes::new()).await?;
                let open: Vec<TaskId> = self.open.keys().copied().collect();
                for ids in open.chunks(limits::IDS) {
                    self.ask(ids.to_vec());
                }
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    fn ask(&mut self, ids: Vec<TaskId>) {
        let client = self.client.clone();
        let options = GetOptions { omit_payload: true, ..GetOptions::default() };
        self.steps.spawn(async move { client.get(&ids, options).await.map(Step::Found) });
    }

    async fn found(&mut self, found: Vec<Found>) -> Result<(), Failure> {
        let mut lines = Vec::new();
        for one in found {
            let id = one.id();
            match one {
                Found::Task(task) => {
                    let Some(open) = self.open.get_mut(&id) else { continue };
                    open.created = Some(task.timestamp_created);
                    let heard = open.end.take();
                    let end = if task.status.is_terminal() { Some(end_of(*task)) } else { heard };
                    lines.extend(end.and_then(|event| self.ended(event)));
                }
                Found::Expired(_) | Found::NotFound(_) => {
                    if self.close(id).is_some() {
                        self.summary.expired += 1;
                        let problem = format!("task {id} has expired: its result is not kept");
                        self.progress.suspend(|| complain(&problem));
                    }
                }
            }
        }
        self.print(lines).await
    }

    /// Takes a task's end, if it is the first that is heard of it and its receipt
    /// is there.
    fn ended(&mut self, event: Event) -> Option<Line> {
        let id = event.id;
        let Some(open) = self.open.get_mut(&id) else {
            if self.early.len() < EARLY {
                self.early.insert(id, event);
            } else {
                self.missed = true;
            }
            return None;
        };
        let Some(created) = open.created else {
            open.end = Some(event);
            return None;
        };
        match event.status {
            Status::Completed => self.summary.completed += 1,
            Status::Failed => self.summary.failed += 1,
            Status::Cancelled => self.summary.cancelled += 1,
            Status::Pending | Status::Running => return None,
        }
        let task = self.close(id)?;
        Some(Line::Ended(Box::new(Ended { task, created, event })))
    }

    fn close(&mut self, id: TaskId) -> Option<Task> {
        let task = self.open.remove(&id)?.task;
        self.open_bytes = self.open_bytes.saturating_sub(task.payload().len());
        Some(task)
    }

    async fn print(&self, lines: Vec<Line>) -> Result<(), Failure> {
        if lines.is_empty() || self.lines.send(lines).await.is_ok() {
            return Ok(());
        }
        Err(if self.reading || !self.steps.is_empty() {
            Failure::new(
                Exit::Interrupted,
                "nobody reads the results, and not all tasks are stored",
            )
        } else {
            io::Error::from(io::ErrorKind::BrokenPipe).into()
        })
    }

    fn show(&self) {
        let Summary { stored, completed, failed, cancelled, expired, .. } = self.summary;
        self.progress.set_length(stored);
        self.progress.set_position(completed + failed + cancelled + expired);
    }
}

impl Summary {
    /// Says it to stderr, and gives the exit code.
    pub(super) fn tell(&self, strict: bool) -> Exit {
        let counts = [
            (self.stored, "stored"),
            (self.known, "known from an earlier run"),
            (self.completed, "completed"),
            (self.failed, "failed"),
            (self.cancelled, "cancelled"),
            (self.expired, "expired"),
            (self.bad, "bad lines"),
        ];
        let told: Vec<String> = counts
            .iter()
            .filter(|(count, name)| *count > 0 || *name == "stored")
            .map(|(count, name)| format!("{count} {name}"))
            .collect();
        output::tell(&told.join(", "));
        if self.bad > 0 {
            if strict {
                output::tell("correct that line and run the same command again");
            } else if self.stored > 0 {
                output::tell(
                    "submit the corrected lines by themselves: among the others they would have \
                     those run again",
                );
            }
            Exit::WrongInput
        } else if self.expired > 0 {
            Exit::NotFound
        } else if self.failed + self.cancelled > 0 {
            Exit::TaskFailed
        } else {
            Exit::Done
        }
    }
}

/// The next events; never, without a watch. A watch that ended had its error told.
async fn next(watch: &mut Option<Watching>) -> Result<Events, Error> {
    match watch {
        None => std::future::pending().await,
        Some(watching) => match watching.next().await {
            Some(events) => events,
            None => std::future::pending().await,
        },
    }
}

/// The group is made of the first batch's key; 0 would be none.
fn group_of(key: &[u8; 32]) -> u64 {
    let first = key.first_chunk().copied().unwrap_or_default();
    u64::from_le_bytes(first).max(1)
}

fn progress(settings: Settings) -> ProgressBar {
    if !settings.progress || !output::shows_progress() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template(
        "{elapsed_precise} {wide_bar} {human_pos} of {human_len} stored tasks ended, {per_sec}",
    );
    let bar = ProgressBar::new(0);
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
