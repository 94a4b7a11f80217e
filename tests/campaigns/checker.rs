//! Whether a history keeps the promises: a function for each invariant, which gives
//! its complaints.
//!
//! The checker believes nobody but the history: ids come from receipts, payloads from
//! what was asked for, executions from the workers' own lines.

use std::collections::{BTreeMap, BTreeSet};

use taskgrid::core::task::Status;

use super::history::{By, Fact, How, Line, Seen};
use super::work;

/// A history, sorted by what it is about.
#[derive(Debug, Default)]
pub(crate) struct History {
    batches: BTreeMap<String, Batch>,
    /// By id. Also tasks that nobody has a receipt of.
    tasks: BTreeMap<u64, Story>,
    /// By nonce.
    executions: BTreeMap<String, Execution>,
    workers_lost: BTreeMap<String, Vec<u64>>,
    /// From when to when each worker was cut off.
    cut_off: BTreeMap<String, Vec<(u64, u64)>>,
    dispatcher_lost: Vec<u64>,
    /// Whether a list of all tasks was read: the last word on what there is.
    listed: bool,
    /// Whether ended tasks were to be forgotten before the history is over.
    forgets: bool,
}

#[derive(Debug, Default)]
struct Batch {
    hashes: Vec<String>,
    at_most_once: bool,
    /// The ids of each receipt.
    receipts: Vec<Vec<u64>>,
    unknown: u64,
}

#[derive(Debug, Default)]
struct Story {
    /// The batch and the place in it, once a receipt told.
    receipt: Option<(String, usize)>,
    reads: Vec<Read>,
    /// The nonces of its executions.
    executions: Vec<String>,
    /// When the last call to cancel it was about to be made.
    cancels: Option<u64>,
    /// When it was first heard that it is cancelled.
    cancelled: Option<u64>,
    /// Whether it was heard that it is kept no longer.
    expired: bool,
}

#[derive(Debug)]
struct Read {
    by: By,
    began: u64,
    at: u64,
    seen: Seen,
}

#[derive(Debug)]
struct Execution {
    task: u64,
    name: String,
    token: (u64, u64, u64),
    worker: String,
    attempt: u32,
    at: u64,
    ended: Option<How>,
    ended_at: u64,
}

/// An execution that was under way when its worker was lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lost {
    pub(crate) task: u64,
    pub(crate) attempt: u32,
    pub(crate) worker: String,
    /// When the worker was lost.
    pub(crate) at: u64,
}

/// What a history holds, in numbers.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sums {
    /// Tasks with a receipt.
    pub(crate) receipted: u64,
    /// Submits whose fate was not known at first.
    pub(crate) unknown: u64,
    pub(crate) executions: u64,
    /// Executions beyond the first of their tasks.
    pub(crate) again: u64,
    /// Cancels that were acknowledged.
    pub(crate) cancelled: u64,
    /// Answers about ended tasks that were read.
    pub(crate) reads: u64,
}

/// How long before and after it is cut off a worker may have, or get, news that are lost: TCP
/// sends again only after a while, and sessions stand again. In milliseconds.
const AFTERMATH: u64 = 3_000;

/// How much later than it happened a loss may be written down, in milliseconds.
const NOTED: u64 = 250;

type Invariant = (&'static str, fn(&History) -> Vec<String>);

/// All invariants.
pub(crate) const INVARIANTS: [Invariant; 9] = [
    ("I1: a receipted task has exactly one end", receipted_tasks_end_once),
    ("I2: all reads of a result are the same", results_never_change),
    ("I3: a result is of an execution with the current lease", results_have_a_current_lease),
    ("I4: there is no task that nobody submitted", nothing_comes_from_nowhere),
    ("I5: an unknown submit is stored whole, once, or not at all", batches_are_stored_once),
    ("I6: a further execution has a cause", executions_have_causes),
    ("I7: an at-most-once task ran at most once", at_most_once_holds),
    ("I8: an end never changes", ends_never_change),
    ("I9: an acknowledged cancel is final", cancels_are_final),
];

/// Everything that is wrong with a history; of each invariant the first few.
pub(crate) fn check(history: &History) -> Vec<String> {
    const SHOWN: usize = 5;
    let mut all = Vec::new();
    for (name, invariant) in INVARIANTS {
        let complaints = invariant(history);
        let more = complaints.len().saturating_sub(SHOWN);
        all.extend(complaints.into_iter().take(SHOWN).map(|what| format!("{name}: {what}")));
        if more > 0 {
            all.push(format!("{name}: and {more} more"));
        }
    }
    all
}

impl History {
    /// Ended tasks may be forgotten: the dispatcher was told to keep only some.
    pub(crate) fn forgets(self) -> Self {
        Self { forgets: true, ..self }
    }

    /// In numbers.
    pub(crate) fn sums(&self) -> Sums {
        let executions = count(self.executions.len());
        let executed = self.tasks.values().filter(|story| !story.executions.is_empty());
        Sums {
            receipted: count(self.receipted().count()),
            unknown: self.batches.values().map(|batch| batch.unknown).sum(),
            executions,
            again: executions - count(executed.count()),
            cancelled: count(self.tasks.values().filter(|s| s.cancelled.is_some()).count()),
            reads: count(self.tasks.values().map(|s| s.ends().count()).sum()),
        }
    }

    /// Executions that were under way when their workers were lost.
    pub(crate) fn lost(&self) -> Vec<Lost> {
        let mut all = Vec::new();
        for run in self.executions.values() {
            let moments = self.workers_lost.get(&run.worker).into_iter().flatten();
            let during = moments.copied().find(|at| (run.at..run.ended_at).contains(at));
            all.extend(during.map(|at| Lost {
                task: run.task,
                attempt: run.attempt,
                worker: run.worker.clone(),
                at,
            }));
        }
        all
    }

    /// Executions that were under way on these workers at that moment.
    pub(crate) fn under_way(&self, workers: &[String], at: u64) -> u64 {
        let there = self.executions.values().filter(|run| workers.contains(&run.worker));
        count(there.filter(|run| run.at <= at && at < run.ended_at).count())
    }

    /// Results that were given when a later lease of their task had begun to run; and those
    /// of them that were given while it still ran.
    pub(crate) fn stale(&self) -> (u64, u64) {
        let given = self.executions.values().filter(|run| run.ended == Some(How::Done));
        let (mut stale, mut contested) = (0, 0);
        for run in given {
            let story = self.tasks.get(&run.task).into_iter();
            let others = story.flat_map(|story| self.runs(story));
            let newer = others.filter(|other| other.token > run.token && other.at < run.ended_at);
            let ends: Vec<u64> = newer.map(|other| other.ended_at).collect();
            stale += u64::from(!ends.is_empty());
            contested += u64::from(ends.iter().any(|end| *end > run.ended_at));
        }
        (stale, contested)
    }

    /// How often a task was executed, and whether nothing else was under way on the last
    /// one's worker.
    pub(crate) fn ran(&self, task: u64) -> (u64, bool) {
        let Some(story) = self.tasks.get(&task) else { return (0, false) };
        let last = self.runs(story).max_by_key(|run| run.token);
        let alone = last.is_some_and(|last| {
            let others = self.executions.values().filter(|run| run.worker == last.worker);
            let mut others = others.filter(|run| run.token != last.token);
            others.all(|run| run.ended_at <= last.at)
        });
        (count(story.executions.len()), alone)
    }

    /// When the executions of a task began and ended, in the order of their leases.
    pub(crate) fn runs_of(&self, task: u64) -> impl Iterator<Item = (u64, u64)> {
        let story = self.tasks.get(&task).into_iter();
        let mut runs: Vec<_> = story.flat_map(|story| self.runs(story)).collect();
        runs.sort_by_key(|run| run.token);
        runs.into_iter().map(|run| (run.at, run.ended_at))
    }

    /// When a watch first told that the task ended.
    pub(crate) fn ended_at(&self, task: u64) -> Option<u64> {
        let told = self.tasks.get(&task)?.ends().filter(|read| read.by == By::Watch);
        told.map(|read| read.at).min()
    }

    /// Sorts in what comes next.
    pub(crate) fn take(&mut self, Line { at, fact }: Line) {
        match fact {
            Fact::Asked { key, hashes, at_most_once } => {
                let batch = self.batches.entry(key).or_default();
                (batch.hashes, batch.at_most_once) = (hashes, at_most_once);
            }
            Fact::Receipt { key, ids } => {
                for (place, id) in ids.iter().enumerate() {
                    self.task(*id).receipt = Some((key.clone(), place));
                }
                self.batches.entry(key).or_default().receipts.push(ids);
            }
            Fact::Unknown { key } => self.batches.entry(key).or_default().unknown += 1,
            Fact::Cancels { ids } => {
                for id in ids {
                    self.task(id).cancels = Some(at);
                }
            }
            Fact::Cancelled { ids } => {
                for id in ids {
                    self.task(id).cancelled.get_or_insert(at);
                }
            }
            Fact::Read { by, began, tasks } => {
                self.listed |= by == By::List;
                for seen in tasks {
                    self.task(seen.id).reads.push(Read { by, began, at, seen });
                }
            }
            Fact::Expired { ids } => {
                for id in ids {
                    self.task(id).expired = true;
                }
            }
            Fact::Started { nonce, task, name, attempt, token, worker } => {
                self.task(task).executions.push(nonce.clone());
                let (ended, ended_at) = (None, u64::MAX);
                let execution =
                    Execution { task, name, token, worker, attempt, at, ended, ended_at };
                self.executions.insert(nonce, execution);
            }
            Fact::Ended { nonce, how } => {
                if let Some(execution) = self.executions.get_mut(&nonce) {
                    (execution.ended, execution.ended_at) = (Some(how), at);
                }
            }
            Fact::WorkerLost { worker } => {
                self.workers_lost.entry(worker).or_default().push(at);
            }
            Fact::CutOff { workers, began } => {
                for worker in workers {
                    self.cut_off.entry(worker).or_default().push((began, at));
                }
            }
            Fact::DispatcherLost => self.dispatcher_lost.push(at),
        }
    }

    fn task(&mut self, id: u64) -> &mut Story {
        self.tasks.entry(id).or_default()
    }

    fn receipted(&self) -> impl Iterator<Item = (u64, &Story)> {
        self.stories().filter(|(_, story)| story.receipt.is_some())
    }

    fn stories(&self) -> impl Iterator<Item = (u64, &Story)> {
        self.tasks.iter().map(|(id, story)| (*id, story))
    }

    /// The hash of the payload that was submitted under a name.
    fn hash_of(&self, name: &str) -> Option<&str> {
        let (key, place) = name.rsplit_once('/')?;
        let place: usize = place.parse().ok()?;
        self.batches.get(key)?.hashes.get(place).map(String::as_str)
    }

    fn asked(&self, name: &str) -> bool {
        self.hash_of(name).is_some()
    }

    fn runs<'a>(&'a self, story: &'a Story) -> impl Iterator<Item = &'a Execution> {
        story.executions.iter().filter_map(|nonce| self.executions.get(nonce))
    }

    /// What may have cost an execution of the task, beside its handler's failures. What came
    /// when the last one had begun is the cause of none.
    fn losses(&self, story: &Story) -> usize {
        let first = self.runs(story).map(|run| run.at).min().unwrap_or(u64::MAX);
        let last = self.runs(story).map(|run| run.at).max().unwrap_or(0) + NOTED;
        let dispatcher = self.dispatcher_lost.iter().filter(|at| (first..=last).contains(*at));
        let workers = self.runs(story).filter(|run| {
            let until = run.ended_at.saturating_add(AFTERMATH).min(last);
            let moments = self.workers_lost.get(&run.worker);
            moments.is_some_and(|moments| moments.iter().any(|at| (run.at..=until).contains(at)))
                || self
                    .cut_off
                    .get(&run.worker)
                    .is_some_and(|cuts| cuts.iter().any(|cut| cut.0 <= last && run.met(*cut)))
        });
        dispatcher.count() + workers.count()
    }
}

impl Execution {
    /// Whether it, or the news of its end, may have been lost when its worker was cut off.
    fn met(&self, (from, to): (u64, u64)) -> bool {
        self.at <= to + AFTERMATH && self.ended_at.saturating_add(AFTERMATH) >= from
    }
}

impl Story {
    /// The reads that saw it ended.
    fn ends(&self) -> impl Iterator<Item = &Read> {
        self.reads.iter().filter(|read| read.seen.status.is_some_and(Status::is_terminal))
    }

    fn name(&self) -> Option<String> {
        self.receipt.as_ref().map(|(key, place)| format!("{key}/{place}"))
    }
}

/// I1. Also: the end stands in the list of all tasks, and a watch tells it once.
pub(crate) fn receipted_tasks_end_once(history: &History) -> Vec<String> {
    let mut complaints = Vec::new();
    for (id, story) in history.receipted() {
        let last = story.reads.last().and_then(|read| read.seen.status);
        let has_ended = last.is_some_and(Status::is_terminal);
        if !has_ended && !story.expired {
            complaints.push(format!("task {id} was last seen as {last:?}"));
        }
        // What is forgotten had its end, though nobody may have seen it.
        let has_run = history.runs(story).any(|run| run.ended.is_some());
        let could_end = has_ended || has_run || story.cancels.is_some();
        if story.expired && !(history.forgets && could_end) {
            complaints.push(format!("task {id} was forgotten"));
        }
        let by = |by| story.ends().filter(|read| read.by == by).count();
        if history.listed && !history.forgets && by(By::List) == 0 {
            complaints.push(format!("task {id} is not in the list of all tasks"));
        }
        if by(By::Watch) > 1 {
            complaints.push(format!("task {id} ended {} times in a watch", by(By::Watch)));
        }
    }
    complaints
}

/// I2.
pub(crate) fn results_never_change(history: &History) -> Vec<String> {
    let mut complaints = Vec::new();
    for (id, story) in history.stories() {
        let results: BTreeSet<_> = story.ends().map(|read| &read.seen.result).collect();
        if results.len() > 1 {
            complaints.push(format!("task {id} has {results:?}"));
        }
    }
    complaints
}

/// I3. The execution was of this task, with this payload, gave its answer, and no later
/// lease of the task had begun to run.
pub(crate) fn results_have_a_current_lease(history: &History) -> Vec<String> {
    let mut complaints = Vec::new();
    for (id, story) in history.stories() {
        let Some(read) = story.ends().find(|read| read.seen.status == Some(Status::Completed))
        else {
            continue;
        };
        let result = read.seen.result.as_deref().unwrap_or_default();
        let Some((hash, nonce)) = work::parts(result) else {
            complaints.push(format!("task {id} has {result:?}, which no handler gives"));
            continue;
        };
        let Some(run) = history.executions.get(nonce) else {
            complaints.push(format!("task {id} has a result of no execution: {nonce}"));
            continue;
        };
        if run.task != id {
            complaints.push(format!("task {id} has the result of task {}", run.task));
        }
        let name = story.name();
        if history.hash_of(&run.name) != Some(hash) || name.is_some_and(|name| name != run.name) {
            complaints.push(format!("task {id} has a result for another payload: {}", run.name));
        }
        if run.ended != Some(How::Done) {
            complaints.push(format!("task {id} has a result, but {nonce} gave none"));
        }
        if let Some(newer) = history.runs(story).find(|other| other.token > run.token) {
            complaints.push(format!(
                "task {id} has the result of lease {:?}, but {:?} had begun",
                run.token, newer.token
            ));
        }
    }
    complaints
}

/// I4.
pub(crate) fn nothing_comes_from_nowhere(history: &History) -> Vec<String> {
    let mut complaints = Vec::new();
    for (id, story) in history.stories() {
        let mut is_known = story.receipt.is_some();
        // What was forgotten before it was listed: the payload that its handler got.
        is_known |= history.forgets && history.runs(story).any(|run| history.asked(&run.name));
        for (name, hash) in story.reads.iter().filter_map(|read| read.seen.payload.as_ref()) {
            is_known |= history.hash_of(name) == Some(hash);
            if history.hash_of(name) != Some(hash) {
                complaints.push(format!("task {id} has a payload that nobody sent: {name}"));
            }
            if story.name().is_some_and(|receipt| receipt != *name) {
                complaints.push(format!("task {id} has the payload of {name}"));
            }
        }
        if !is_known && story.ends().next().is_some() {
            complaints.push(format!("task {id} ended, and nobody submitted it"));
        }
    }
    complaints
}

/// I5.
pub(crate) fn batches_are_stored_once(history: &History) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut stored: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (_, story) in history.stories() {
        let listed = story.reads.iter().find(|read| read.by == By::List);
        let Some((name, _)) = listed.and_then(|read| read.seen.payload.as_ref()) else { continue };
        let key = name.rsplit_once('/').map_or("", |(key, _)| key);
        stored.entry(key).or_default().push(name);
    }
    for (key, batch) in &history.batches {
        let ids: BTreeSet<_> = batch.receipts.iter().collect();
        if ids.len() > 1 {
            complaints.push(format!("batch {key} has {} receipts that differ", ids.len()));
        }
        if let Some(ids) = ids.iter().find(|ids| ids.len() != batch.hashes.len()) {
            let (ids, asked) = (ids.len(), batch.hashes.len());
            complaints.push(format!("batch {key} of {asked} tasks has {ids} ids"));
        }
        let names = stored.get(&**key).map(Vec::as_slice).unwrap_or_default();
        let different: BTreeSet<_> = names.iter().collect();
        if names.len() > different.len() {
            complaints.push(format!("batch {key} is there more than once"));
        } else if !history.forgets && ![0, batch.hashes.len()].contains(&names.len()) {
            let (there, asked) = (names.len(), batch.hashes.len());
            complaints.push(format!("batch {key} of {asked} tasks is there with {there}"));
        }
    }
    complaints
}

/// I6.
pub(crate) fn executions_have_causes(history: &History) -> Vec<String> {
    let mut complaints = Vec::new();
    for (id, story) in history.stories() {
        let runs = story.executions.len();
        let failures = history.runs(story).filter(|run| run.ended == Some(How::Failed)).count();
        let losses = history.losses(story);
        if runs > 1 + losses + failures {
            complaints.push(format!(
                "task {id} ran {runs} times, with {losses} losses and {failures} failures"
            ));
        }
    }
    complaints
}

/// I7.
pub(crate) fn at_most_once_holds(history: &History) -> Vec<String> {
    let mut complaints = Vec::new();
    for (id, story) in history.stories() {
        let names: BTreeSet<&str> = history.runs(story).map(|run| run.name.as_str()).collect();
        let asked = names.iter().filter_map(|name| name.rsplit_once('/'));
        let at_most_once =
            asked.filter_map(|(key, _)| history.batches.get(key)).any(|batch| batch.at_most_once);
        if at_most_once && story.executions.len() > 1 {
            complaints.push(format!("task {id} ran {} times", story.executions.len()));
        }
    }
    complaints
}

/// I8. A call that began before the end was heard of may see the task without it.
pub(crate) fn ends_never_change(history: &History) -> Vec<String> {
    let mut complaints = Vec::new();
    for (id, story) in history.stories() {
        let ends: BTreeSet<_> = story.ends().map(|read| read.seen.status).collect();
        if ends.len() > 1 {
            complaints.push(format!("task {id} ended as {ends:?}"));
        }
        let Some(end) = story.ends().map(|read| read.at).min() else { continue };
        let later = story.reads.iter().filter(|read| read.began > end);
        let open = later.filter(|read| !read.seen.status.is_some_and(Status::is_terminal));
        for read in open {
            complaints.push(format!("task {id} had ended, and then was {:?}", read.seen.status));
        }
    }
    complaints
}

/// I9. And nothing is cancelled that nobody cancelled.
pub(crate) fn cancels_are_final(history: &History) -> Vec<String> {
    let mut complaints = Vec::new();
    for (id, story) in history.stories() {
        let other = |read: &&Read| read.seen.status != Some(Status::Cancelled);
        if let Some(cancelled) = story.cancelled
            && let Some(read) = story.reads.iter().filter(other).find(|r| r.began > cancelled)
        {
            complaints.push(format!("task {id} was cancelled, and then {:?}", read.seen.status));
        }
        let is_cancelled = story.ends().any(|read| read.seen.status == Some(Status::Cancelled));
        if is_cancelled && story.cancels.is_none() {
            complaints.push(format!("task {id} is cancelled, and nobody cancelled it"));
        }
    }
    complaints
}

pub(crate) fn count(length: usize) -> u64 {
    u64::try_from(length).expect("a length fits")
}
