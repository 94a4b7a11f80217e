//! What must hold, whatever happens. The oracle sees every step of every part and
//! keeps the truth that no part has: which handlers ran, which tokens were ever
//! given, what clients were told.

mod story;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use taskgrid::core::event::{LeaseNote, TaskEvent};
use taskgrid::core::id::{TaskId, Timestamp, Token, millis};
use taskgrid::core::queue::{Command, Queue, Rejected, Standing};
use taskgrid::core::task::{Change, Holder, Outcome, Reason, Spec, Status};

use self::story::Story;
use super::log::{Group, Log};
use super::wire::Said;

/// What must have happened in a campaign: one in which nothing bites proves nothing.
pub(crate) const WANTED: [&str; 20] = [
    "restart",
    "death of a worker",
    "lease taken back",
    "lost lease taken back",
    "claim fenced",
    "claim of an ended task",
    "claim unknown",
    "outcome fenced",
    "outcome repeated",
    "outcome unknown",
    "outcome after the end",
    "key repeated",
    "lease lost",
    "lease given back",
    "lost in silence",
    "run alone",
    "poison",
    "unknown outcome",
    "cancelled in its run",
    "new round",
];

/// How often what happened.
pub(crate) type Bites = BTreeMap<&'static str, u64>;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Oracle {
    pub(crate) violation: Option<String>,
    pub(crate) bites: Bites,
    /// What happened, if that is wanted.
    pub(crate) trace: Option<Vec<String>>,
    /// The id under which a payload was accepted last.
    ids: BTreeMap<u64, TaskId>,
    /// The payload of each id that anybody was shown.
    payloads: BTreeMap<TaskId, u64>,
    specs: BTreeMap<TaskId, Spec>,
    stories: BTreeMap<TaskId, Story>,
    receipted: BTreeSet<TaskId>,
    /// Every lease ever given, stored or not.
    given: BTreeMap<TaskId, Vec<LeaseNote>>,
    newest: Option<Token>,
    /// What the running boot knows to be the newest lease of a task.
    newest_here: BTreeMap<TaskId, Token>,
    /// Leases that a task may be given: one, and one more for each that ended or
    /// may have been forgotten in a restart.
    allowed: BTreeMap<TaskId, u64>,
    runs: BTreeMap<Token, Run>,
    runs_of: BTreeMap<TaskId, u64>,
    /// What a process was given and has had no final answer for.
    held: BTreeMap<Token, Holder>,
    extended: BTreeMap<Holder, u64>,
    retries: BTreeMap<TaskId, u64>,
    touched: BTreeSet<TaskId>,
    booted: u64,
}

/// One run of a handler.
#[derive(Debug, Clone, Copy)]
struct Run {
    id: TaskId,
    nonce: u64,
    succeeded: bool,
}

impl Oracle {
    pub(crate) fn violated(&mut self, what: impl Into<String>) {
        self.violation.get_or_insert(what.into());
    }

    /// Notes what happens, for a trace.
    pub(crate) fn note(&mut self, what: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(what());
        }
    }

    pub(crate) fn bite(&mut self, what: &'static str) {
        *self.bites.entry(what).or_default() += 1;
    }

    fn check(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.violated(what());
        }
    }

    /// The dispatcher came up.
    pub(crate) fn restarted(&mut self, queue: &Queue, awake: u64) {
        self.note(|| format!("  boot {:?}", queue.epoch().map(|epoch| epoch.boot)));
        self.bite("restart");
        self.booted = awake;
        self.extended.clear();
        self.newest_here.clear();
        self.allowed.values_mut().for_each(|leases| *leases += 1);
        self.nothing_is_lost(queue);
    }

    pub(crate) fn accepted(&mut self, id: TaskId, payload: u64, log: &Log) {
        self.note(|| format!("  task {id}: accepted"));
        let is_shown = self.payloads.contains_key(&id);
        self.check(!is_shown, || format!("id {id} was handed out twice"));
        let before = self.ids.insert(payload, id);
        let stored = before.and_then(|before| log.tasks.get(&before));
        let is_stored = stored.is_some_and(|(_, stored)| *stored == payload);
        self.check(!is_stored, || format!("task {id} had been stored before as {before:?}"));
        self.allowed.insert(id, 1);
        self.given.remove(&id);
    }

    /// A task is sent to a worker: from here on its id is its own for ever.
    pub(crate) fn pushed(&mut self, id: TaskId, payload: u64) {
        let before = self.payloads.insert(id, payload);
        self.check(before.is_none_or(|before| before == payload), || {
            format!("id {id} names two tasks")
        });
    }

    /// A client is told that its batch is stored.
    pub(crate) fn receipt(&mut self, first: TaskId, payloads: &[u64], log: &Log) {
        for (payload, id) in payloads.iter().zip((first.0..).map(TaskId)) {
            let stored = log.tasks.get(&id).map(|(_, payload)| *payload);
            self.check(stored == Some(*payload), || {
                format!("the receipt of task {id} came before the task was stored")
            });
            self.receipted.insert(id);
        }
    }

    pub(crate) fn leased(&mut self, note: &LeaseNote, holder: &Holder, awake: u64) {
        let LeaseNote { id, token, attempt, charged, .. } = *note;
        self.note(|| {
            format!(
                "  task {id}: lease {token}, attempt {attempt}, charged {charged}, to {holder:?}"
            )
        });
        let newest = self.newest.replace(token);
        self.check(newest < Some(token), || format!("token {token} came after {newest:?}"));
        let ended = self.stories.get(&id).map(Story::attempts);
        self.check(ended < Some(attempt), || {
            format!("task {id}: attempt {attempt} was given after attempt {ended:?} had ended")
        });
        self.given.entry(id).or_default().push(*note);
        let count = u64::try_from(self.given[&id].len()).expect("few leases");
        let allowed = self.allowed.get(&id).copied().unwrap_or(0);
        self.check(count <= allowed, || format!("task {id} was leased {count} times for nothing"));
        self.newest_here.insert(id, token);
        self.extended.insert(holder.clone(), awake);
        self.touched.insert(id);
    }

    pub(crate) fn adopted(&mut self, id: TaskId, token: Token, was_lost: bool) {
        self.note(|| format!("  task {id}: lease {token} is taken back"));
        self.bite(if was_lost { "lost lease taken back" } else { "lease taken back" });
        let newest = self.newest_here.insert(id, token);
        self.check(newest <= Some(token), || {
            format!("task {id}: lease {token} was taken back although {newest:?} is newer")
        });
        self.touched.insert(id);
    }

    /// A worker holds a lease that is over.
    pub(crate) fn refused_claim(&mut self, rejected: Rejected) {
        self.bite(match rejected {
            Rejected::Fenced => "claim fenced",
            Rejected::Duplicate => "claim of a settled lease",
            Rejected::Unknown => "claim unknown",
            Rejected::Ended(..) | Rejected::Standing(_) => "claim of an ended task",
        });
    }

    /// A worker's word on an attempt came too late.
    pub(crate) fn refused_outcome(&mut self, rejected: Rejected) {
        self.bite(match rejected {
            Rejected::Fenced => "outcome fenced",
            Rejected::Duplicate => "outcome repeated",
            Rejected::Unknown => "outcome unknown",
            Rejected::Ended(..) | Rejected::Standing(_) => "outcome after the end",
        });
    }

    pub(crate) fn extended(&mut self, holder: &Holder, awake: u64) {
        self.extended.insert(holder.clone(), awake);
    }

    /// Leases of a holder ran out: only a silence of a whole lease ends them, and
    /// the time that the dispatcher itself was away does not count.
    pub(crate) fn expired(&mut self, holder: &Holder, awake: u64, lease: Duration) {
        let heard = self.extended.get(holder).copied().unwrap_or(self.booted);
        let silence = awake.saturating_sub(heard);
        self.check(silence >= millis(lease), || {
            format!("leases of {holder:?} ended after a silence of {silence} ms")
        });
    }

    /// A hello leaves a lease out, which ends it uncharged.
    pub(crate) fn not_listed(&mut self, holder: &Holder, token: Token) {
        let is_held = self.held.get(&token) == Some(holder);
        self.check(!is_held, || format!("{holder:?} threw lease {token} away unanswered"));
    }

    /// A process was given a lease.
    pub(crate) fn received(&mut self, holder: &Holder, token: Token) {
        self.held.insert(token, holder.clone());
    }

    /// A process had the final answer on a lease.
    pub(crate) fn forgotten(&mut self, holder: &Holder, token: Token) {
        if self.held.get(&token) == Some(holder) {
            self.held.remove(&token);
        }
    }

    /// A process is gone.
    pub(crate) fn died(&mut self, holder: &Holder) {
        self.bite("death of a worker");
        self.held.retain(|_, other| other != holder);
    }

    /// A handler starts; gives how often it ran before.
    pub(crate) fn started(&mut self, id: TaskId, token: Token) -> u64 {
        self.note(|| format!("  task {id}: the handler of lease {token} starts"));
        let nonce = u64::try_from(self.runs.len()).expect("few runs") + 1;
        let again = self.runs.insert(token, Run { id, nonce, succeeded: false });
        self.check(again.is_none(), || format!("lease {token} of task {id} was started twice"));
        let runs = self.runs_of.entry(id).or_default();
        *runs += 1;
        let before = *runs - 1;
        let rounds = self.stories.get(&id).map_or(1, Story::rounds);
        let is_once = self.specs.get(&id).is_some_and(Spec::at_most_once);
        self.check(!is_once || before < rounds, || {
            format!("at-most-once task {id} was started {} times", before + 1)
        });
        before
    }

    /// A handler returned; gives its result.
    pub(crate) fn succeeded(&mut self, token: Token) -> u64 {
        let Some(run) = self.runs.get_mut(&token) else { return 0 };
        run.succeeded = true;
        run.nonce
    }

    /// The dispatcher took a worker's word on an attempt.
    pub(crate) fn settled(&mut self, said: &Said, event: &TaskEvent) {
        let (id, token) = (said.id, said.token);
        let settles = event.attempt.as_ref().map(|attempt| attempt.token);
        self.check(settles == Some(token), || {
            format!("task {id}: an outcome of lease {token} settled lease {settles:?}")
        });
        let newest = self.newest_here.get(&id).copied();
        self.check(newest <= Some(token), || {
            format!("task {id}: lease {token} settled it although {newest:?} is newer")
        });
        let reason = event.change.reason();
        let is_fitting = match &said.outcome {
            Outcome::Completed => event.change == Change::Completed,
            Outcome::Failed { reason: why, .. } => {
                reason == Some(*why) || reason == Some(Reason::Released)
            }
            Outcome::Released => {
                let ran_once = event.spec.at_most_once() && said.run_us > 0;
                let expected = if ran_once { Reason::Unknown } else { Reason::Released };
                reason == Some(expected)
            }
            Outcome::Lost => false,
        };
        self.check(is_fitting, || format!("task {id}: {:?} made {:?}", said.outcome, event.change));
    }

    /// A worker is told that its outcome is stored.
    pub(crate) fn answered(&mut self, id: TaskId, token: Token, log: &Log) {
        let of_it = |event: &TaskEvent| {
            event.id == id && event.attempt.as_ref().is_some_and(|end| end.token == token)
        };
        let is_stored = log.events.values().any(|(event, _)| of_it(event));
        self.check(is_stored, || {
            format!("task {id}: the outcome of lease {token} was answered before it was stored")
        });
    }

    /// An event was decided: it may be lost yet.
    pub(crate) fn recorded(&mut self, event: &TaskEvent) {
        self.note(|| {
            let token = event.attempt.as_ref().map(|attempt| attempt.token.to_string());
            format!("  task {}, lease {}: {:?}", event.id, token.unwrap_or_default(), event.change)
        });
        match event.change.reason() {
            Some(Reason::Lost) => self.bite("lease lost"),
            Some(Reason::Poison) => self.bite("poison"),
            Some(Reason::Unknown) => self.bite("unknown outcome"),
            Some(Reason::Released) => self.bite("lease given back"),
            Some(Reason::Silence) => self.bite("lost in silence"),
            Some(Reason::Cancelled) if event.attempt.is_some() => self.bite("cancelled in its run"),
            _ => {}
        }
        if let Change::Retried { .. } = event.change {
            self.bite("new round");
        }
        if !event.change.status().is_terminal() {
            *self.allowed.entry(event.id).or_default() += 1;
        }
        self.touched.insert(event.id);
    }

    /// What was asked for.
    pub(crate) fn spec(&self, id: TaskId, log: &Log) -> Spec {
        log.tasks.get(&id).map_or_else(|| self.specs[&id], |(spec, _)| *spec)
    }

    pub(crate) fn retry_sent(&mut self, id: TaskId) {
        *self.retries.entry(id).or_default() += 1;
    }

    /// A client is told how a task stands: only what is durable is told.
    pub(crate) fn told(&mut self, id: TaskId, standing: Standing, result: Option<u64>, log: &Log) {
        match standing {
            Standing::Ended(status, seq) => {
                let stored = log.events.get(&seq).filter(|(event, _)| event.id == id);
                let is_stored = stored.is_some_and(|(event, stored)| {
                    let expected = (status == Status::Completed).then_some(*stored);
                    event.change.status() == status && result == expected
                });
                self.check(is_stored, || {
                    format!("a client was told of {status:?} task {id} before that was stored")
                });
            }
            Standing::Absent => self.violated(format!("a client was told that task {id} is gone")),
            Standing::Pending(..) | Standing::Running => {}
        }
    }

    /// A group became durable.
    pub(crate) fn appended(&mut self, group: &Group) {
        for (event, result) in &group.entries {
            match event {
                taskgrid::core::event::Event::Submitted { id, spec } => {
                    self.specs.insert(*id, *spec);
                    self.stories.insert(*id, Story::new(spec));
                }
                taskgrid::core::event::Event::Changed(event) => self.changed(event, *result),
                _ => {}
            }
        }
    }

    fn changed(&mut self, event: &TaskEvent, result: u64) {
        let id = event.id;
        let Some(story) = self.stories.get_mut(&id) else {
            return self.violated(format!("task {id} changed before it was stored"));
        };
        if let Err(what) = story.tell(event) {
            return self.violated(format!("task {id}: {what}"));
        }
        let token = event.attempt.as_ref().map(|attempt| attempt.token);
        let run = token.and_then(|token| self.runs.get(&token).copied());
        if let Some(Reason::Lost | Reason::Poison | Reason::Unknown) = event.change.reason() {
            let mut notes = self.given.get(&id).into_iter().flatten();
            let is_charged = notes.any(|note| Some(note.token) == token && note.charged);
            self.check(is_charged || run.is_some(), || {
                format!("task {id} was charged for a crash although it had not started")
            });
        }
        if event.change == Change::Completed {
            let fits = run.is_some_and(|run| run.id == id && run.succeeded && run.nonce == result);
            self.check(fits, || format!("task {id} has result {result}, which no run of it gave"));
        }
        if let Change::Retried { .. } = event.change {
            let wishes = self.retries.entry(id).or_default();
            let is_wished = *wishes > 0;
            *wishes = wishes.saturating_sub(1);
            self.check(is_wished, || format!("task {id} had a new round that nobody asked for"));
        }
    }

    /// What must hold after every turn of the dispatcher.
    pub(crate) fn after_turn(&mut self, queue: &Queue, now: Timestamp) {
        for id in std::mem::take(&mut self.touched) {
            let outcome = || Outcome::Completed;
            let accepts = |note: &&LeaseNote| {
                let command = Command::Settle { token: note.token, outcome: outcome(), run_us: 1 };
                queue.decide(id, command, now, 0).is_ok()
            };
            let current: Vec<Token> = self
                .given
                .get(&id)
                .into_iter()
                .flatten()
                .filter(accepts)
                .map(|n| n.token)
                .collect();
            self.check(current.len() <= 1, || {
                format!("task {id} has several current leases: {current:?}")
            });
        }
        self.nothing_is_lost(queue);
    }

    fn nothing_is_lost(&mut self, queue: &Queue) {
        let lost = self.receipted.iter().find(|id| queue.standing(**id) == Standing::Absent);
        if let Some(id) = lost.copied() {
            self.violated(format!("task {id} had its receipt and is lost"));
        }
    }

    /// The stored tasks that have not ended.
    pub(crate) fn unsettled(&self) -> Vec<TaskId> {
        let live = self.stories.iter().filter(|(_, story)| !story.status().is_terminal());
        live.map(|(id, _)| *id).collect()
    }
}
