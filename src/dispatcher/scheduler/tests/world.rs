//! A loop that runs, the store under it, and who talks to it.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::gated::Gated;
use crate::clock::Clock;
use crate::core::event::Event;
use crate::core::id::{Epoch, Seq, TaskId, Token};
use crate::core::payload::Checker;
use crate::core::placement::Member;
use crate::core::queue::{Claim, Standing};
use crate::core::retention::Policy;
use crate::core::task::{Holder, Outcome, Reason, Status};
use crate::core::task_type::{PayloadKind, TaskType};
use crate::dispatcher::batch::{Admission, Batch};
use crate::dispatcher::recovery;
use crate::dispatcher::scheduler::message::Receipt;
use crate::dispatcher::scheduler::{
    Handle, Join, Message, Refusal, Report, Rules, Scheduler, Settlement, Snapshot, Stored,
};
use crate::dispatcher::types::{Known, Types};
use crate::shutdown::Shutdown;
use crate::store::{self, Group, Memory, Store as _, StoredEvent};
use crate::wire::v1::session_request::Frame;
use crate::wire::{self, v1};

/// Long enough for the slowest machine; nothing waits for it unless it fails.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

pub(super) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("no {what} in time"))
}

/// How a loop is set up.
#[derive(Debug, Clone)]
pub(super) struct Setup {
    pub(super) rules: Rules,
    pub(super) policy: Policy,
}

impl Default for Setup {
    fn default() -> Self {
        let rules = Rules {
            lease: Duration::from_secs(10),
            max_queued: 100_000,
            max_queued_bytes: 1 << 30,
        };
        let policy =
            Policy { age: Duration::from_secs(3_600), tasks: 1_000, failed: 1_000, bytes: 1 << 30 };
        Self { rules, policy }
    }
}

/// A setup whose leases end soon.
pub(super) fn short_lease() -> Setup {
    let mut setup = Setup::default();
    setup.rules.lease = Duration::from_millis(500);
    setup
}

/// One boot of a dispatcher's loop.
pub(super) struct World {
    pub(super) handle: Handle,
    pub(super) store: Gated,
    pub(super) epoch: Epoch,
    setup: Setup,
    shutdown: Shutdown,
    run: JoinHandle<Result<(), store::Error>>,
}

impl World {
    /// A first boot that knows the types `hash` and `sum`.
    pub(super) async fn new() -> Self {
        Self::with(Setup::default()).await
    }

    pub(super) async fn with(setup: Setup) -> Self {
        let world = Self::boot(Memory::new(), setup);
        let types = vec![known("hash"), known("sum")];
        world.handle.tell(Message::Learn { types }).await.unwrap();
        world.durable().await;
        world
    }

    /// A loop over what is in the store, standing still.
    pub(super) async fn still(mut self) -> (Scheduler, Handle) {
        self.shutdown.begin();
        self.ended().await.unwrap();
        let store = Gated::new(self.store.memory.clone());
        let (mut scheduler, handle, _) = load(&store, &self.setup);
        let mut rest = scheduler.loading.as_mut().and_then(|loading| loading.rest.take()).unwrap();
        while scheduler.loading.is_some() {
            scheduler.loaded(rest.read(&store));
        }
        (scheduler, handle)
    }

    fn boot(memory: Memory, setup: Setup) -> Self {
        Self::boot_over(Gated::new(memory), setup)
    }

    fn boot_over(store: Gated, setup: Setup) -> Self {
        let (scheduler, handle, epoch) = load(&store, &setup);
        let shutdown = Shutdown::new();
        let run = tokio::spawn(scheduler.run(shutdown.clone()));
        Self { handle, store, epoch, setup, shutdown, run }
    }

    /// Stops in good order, and boots again.
    pub(super) async fn restart(mut self) -> Self {
        self.shutdown.begin();
        self.ended().await.unwrap();
        Self::boot(self.store.memory.clone(), self.setup.clone())
    }

    /// Ends at once: what is not durable is gone. Boots again.
    pub(super) async fn crash(mut self) -> Self {
        self.run.abort();
        assert!(soon("end of the loop", &mut self.run).await.unwrap_err().is_cancelled());
        self.store.fail();
        Self::boot(self.store.memory.clone(), self.setup.clone())
    }

    /// As [`World::restart`], but the history is not read until it is released.
    pub(super) async fn restart_before_its_history(mut self) -> Self {
        self.shutdown.begin();
        self.ended().await.unwrap();
        let store = Gated::new(self.store.memory.clone());
        store.hold_history();
        Self::boot_over(store, self.setup.clone())
    }

    /// Stops in good order, puts a fact into the log, and boots again.
    pub(super) async fn restart_with(mut self, event: Event) -> Self {
        self.shutdown.begin();
        self.ended().await.unwrap();
        let group = Group { entries: vec![event.into()], ..Group::default() };
        self.store.memory.append(&group).unwrap();
        Self::boot(self.store.memory.clone(), self.setup.clone())
    }

    /// Begins to drain, without waiting for its end.
    pub(super) fn drain(&self) {
        self.shutdown.begin();
    }

    /// How the loop ended.
    pub(super) async fn ended(&mut self) -> Result<(), store::Error> {
        soon("end of the loop", &mut self.run).await.unwrap()
    }

    /// Whether the loop has ended.
    pub(super) fn has_ended(&self) -> bool {
        self.run.is_finished()
    }

    /// Returns once the loop has done everything that it was told before: a turn
    /// ends with what it sends, and the second answer is of a later turn or of one
    /// that was told all of it.
    pub(super) async fn barrier(&self) {
        for _ in 0..2 {
            self.stats().await;
        }
    }

    /// Returns once everything that was decided is durable.
    pub(super) async fn durable(&self) {
        self.look(&[1]).await;
    }

    pub(super) async fn stats(&self) -> v1::StatsResponse {
        soon("numbers", self.handle.ask(|reply| Message::Stats { reply })).await.unwrap().stats
    }

    /// The numbers of `hash`.
    pub(super) async fn counts(&self) -> v1::Counts {
        let stats = self.stats().await;
        let of = |wanted: &str| {
            let named = |t: &&v1::TypeStats| t.r#type.as_ref().is_some_and(|t| t.name == wanted);
            stats.types.iter().find(named).and_then(|t| t.counts).unwrap()
        };
        of("hash")
    }

    /// Waits until the numbers are so.
    pub(super) async fn until(&self, what: &str, is_so: impl Fn(&v1::StatsResponse) -> bool) {
        soon(what, async {
            while !is_so(&self.stats().await) {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    /// Waits until nothing is known of these tasks.
    pub(super) async fn until_absent(&self, ids: &[u64]) {
        soon("end of what was kept", async {
            while self.look(ids).await.iter().any(|s| s.standing != Standing::Absent) {
                tokio::task::yield_now().await;
            }
        })
        .await;
        self.durable().await;
    }

    pub(super) async fn look(&self, ids: &[u64]) -> Vec<Snapshot> {
        let ids = ids.iter().map(|id| TaskId(*id)).collect();
        let question = |reply| Message::Look { ids, wait: false, reply };
        soon("snapshots", self.handle.ask(question)).await.unwrap()
    }

    pub(super) async fn standing(&self, id: u64) -> Standing {
        self.look(&[id]).await[0].standing
    }

    /// How a task ended.
    pub(super) async fn status(&self, id: u64) -> Option<Status> {
        match self.standing(id).await {
            Standing::Ended(status, _) => Some(status),
            Standing::Pending(..) => Some(Status::Pending),
            Standing::Running => Some(Status::Running),
            Standing::Absent => None,
        }
    }

    /// The event that a task ended with, from the store.
    pub(super) async fn end_of(&self, id: u64) -> StoredEvent {
        let Standing::Ended(_, place) = self.standing(id).await else { panic!("{id} runs") };
        self.store.events(&[place]).unwrap().remove(0).unwrap()
    }

    /// The reasons of a task's events, in order.
    pub(super) fn story(&self, id: u64) -> Vec<(Status, Option<Reason>)> {
        let events = self.store.events_after(Seq(0), usize::MAX, usize::MAX).unwrap();
        let of_task = events.iter().filter(|stored| stored.event.id == TaskId(id));
        of_task.map(|s| (s.event.change.status(), s.event.change.reason())).collect()
    }

    /// Submits, and leaves the receipt to be waited for.
    pub(super) async fn submitting(&self, request: v1::SubmitRequest) -> Receiving {
        let batch = parse(&self.handle.types(), request);
        let (reply, receiving) = oneshot::channel();
        self.handle.tell(Message::Submit { batch, reply }).await.unwrap();
        receiving
    }

    pub(super) async fn try_submit(&self, request: v1::SubmitRequest) -> Result<Receipt, Refusal> {
        let receiving = self.submitting(request).await;
        soon("receipt", receiving).await.unwrap().map(|stored| stored.receipt)
    }

    /// Submits tasks that are accepted, and gives the first id.
    pub(super) async fn submit(&self, tasks: Vec<v1::NewTask>) -> u64 {
        self.try_submit(batch(tasks)).await.unwrap().first.0
    }

    pub(super) async fn cancel(&self, id: u64) -> Vec<Snapshot> {
        let rows = self.store.memory.tasks(&[TaskId(id)]).unwrap();
        let tasks = vec![(TaskId(id), rows[0].as_ref().map(|row| row.spec))];
        soon("answer", self.handle.ask(|reply| Message::Cancel { tasks, reply })).await.unwrap()
    }

    pub(super) async fn join(&self, hello: Hello) -> Fake {
        let (join, frames) = hello.into_join();
        let joined = self.handle.ask(|reply| Message::Join { join, reply });
        let member = soon("place among the workers", joined).await.unwrap().member;
        Fake {
            member,
            handle: self.handle.clone(),
            epoch: self.epoch,
            frames,
            assigned: VecDeque::new(),
            answers: VecDeque::new(),
            cancelled: VecDeque::new(),
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // A commit that is held back would hold its thread for ever, and so would a read.
        self.store.fail();
        self.store.damage_history();
        self.run.abort();
    }
}

fn load(store: &Gated, setup: &Setup) -> (Scheduler, Handle, Epoch) {
    let (clock, store) = (Clock::start(), Arc::new(store.clone()));
    let now = clock.now();
    let restored = recovery::restore(store.as_ref(), setup.policy, now, 7).unwrap();
    let epoch = restored.epoch;
    let (scheduler, handle) = Scheduler::new(setup.rules.clone(), clock, store, restored).unwrap();
    (scheduler, handle, epoch)
}

pub(super) type Receiving = oneshot::Receiver<Result<Stored, Refusal>>;

/// What a worker says when a session begins.
#[derive(Debug, Clone)]
pub(super) struct Hello {
    pub(super) worker: &'static str,
    pub(super) incarnation: u64,
    pub(super) types: Vec<&'static str>,
    pub(super) slots: u32,
    pub(super) claims: Vec<Claim>,
    pub(super) session: u64,
}

impl Hello {
    /// What the loop gets of it, and what it sends to the worker.
    fn into_join(self) -> (Join, mpsc::UnboundedReceiver<v1::SessionRequest>) {
        let (sender, frames) = mpsc::unbounded_channel();
        let join = Join {
            holder: Holder { worker: self.worker.into(), incarnation: self.incarnation },
            address: "127.0.0.1:1".into(),
            types: self.types.iter().map(|name| known(name)).collect(),
            slots: self.slots,
            claims: Some(self.claims),
            draining: false,
            frames: sender,
            session: self.session,
        };
        (join, frames)
    }
}

/// A worker of `hash` with so many slots.
pub(super) fn hello(worker: &'static str, slots: u32) -> Hello {
    Hello { worker, incarnation: 1, types: vec!["hash"], slots, claims: Vec::new(), session: 1 }
}

/// A worker: the other end of the pipe.
pub(super) struct Fake {
    pub(super) member: Member,
    handle: Handle,
    epoch: Epoch,
    frames: mpsc::UnboundedReceiver<v1::SessionRequest>,
    assigned: VecDeque<v1::Assignment>,
    answers: VecDeque<(Token, v1::Answer)>,
    cancelled: VecDeque<Token>,
}

impl Fake {
    /// The next task it is given.
    pub(super) async fn assignment(&mut self) -> v1::Assignment {
        loop {
            if let Some(assignment) = self.assigned.pop_front() {
                return assignment;
            }
            self.read("assignment").await;
        }
    }

    /// The next answer to an outcome.
    pub(super) async fn answer(&mut self) -> (Token, v1::Answer) {
        loop {
            if let Some(answer) = self.answers.pop_front() {
                return answer;
            }
            self.read("answer").await;
        }
    }

    /// The next lease that it shall stop.
    pub(super) async fn stopped(&mut self) -> Token {
        loop {
            if let Some(token) = self.cancelled.pop_front() {
                return token;
            }
            self.read("cancel").await;
        }
    }

    /// The ids of what it was given and no test has taken yet.
    pub(super) fn given(&mut self) -> Vec<u64> {
        self.drain();
        self.assigned.drain(..).map(|assignment| assignment.task_id).collect()
    }

    /// The answers that no test has taken yet.
    pub(super) fn answered(&mut self) -> Vec<v1::Answer> {
        self.drain();
        self.answers.drain(..).map(|(_, answer)| answer).collect()
    }

    /// Whether the dispatcher has let go of the pipe.
    pub(super) async fn is_let_go(&mut self) -> bool {
        soon("end of the session", async { while self.frames.recv().await.is_some() {} }).await;
        self.frames.is_closed()
    }

    pub(super) fn token(&self, assignment: &v1::Assignment) -> Token {
        Token { epoch: self.epoch, sequence: assignment.sequence }
    }

    /// What it says in the next hello of the lease.
    pub(super) fn claim(&self, world: &World, assignment: &v1::Assignment, started: bool) -> Claim {
        let id = TaskId(assignment.task_id);
        let row = world.store.memory.tasks(&[id]).unwrap().remove(0);
        let (token, attempt) = (self.token(assignment), assignment.attempt);
        Claim { id, token, attempt, started, spec: row.map(|row| row.spec) }
    }

    pub(super) async fn report(&self, report: Report) {
        self.handle.tell(Message::Report { member: self.member, report }).await.unwrap();
    }

    pub(super) async fn start(&self, assignment: &v1::Assignment) {
        let started = vec![(TaskId(assignment.task_id), self.token(assignment))];
        self.report(Report { started, ..Report::default() }).await;
    }

    pub(super) async fn end(&self, id: u64, token: Token, outcome: Outcome) {
        let result = if outcome == Outcome::Completed { "done" } else { "" };
        let outcomes = vec![Settlement {
            id: TaskId(id),
            token,
            outcome,
            result: Bytes::from_static(result.as_bytes()),
            run_us: 5,
        }];
        self.report(Report { outcomes, ..Report::default() }).await;
    }

    pub(super) async fn complete(&self, assignment: &v1::Assignment) {
        self.end(assignment.task_id, self.token(assignment), Outcome::Completed).await;
    }

    /// Completes many in one report.
    pub(super) async fn complete_all(&self, assignments: &[v1::Assignment]) {
        let outcomes = assignments.iter().map(|assignment| Settlement {
            id: TaskId(assignment.task_id),
            token: self.token(assignment),
            outcome: Outcome::Completed,
            result: Bytes::new(),
            run_us: 5,
        });
        let outcomes = outcomes.collect();
        self.report(Report { outcomes, ..Report::default() }).await;
    }

    pub(super) async fn fail(&self, assignment: &v1::Assignment, reason: Reason) {
        let retry_after = Some(Duration::ZERO);
        let outcome = Outcome::Failed { reason, message: "no".to_owned(), retry_after };
        self.end(assignment.task_id, self.token(assignment), outcome).await;
    }

    pub(super) async fn prefetch(&self, tasks: u32) {
        self.report(Report { prefetch: vec![(0, tasks)], ..Report::default() }).await;
    }

    pub(super) async fn leave(&self, goodbye: bool) {
        self.handle.tell(Message::Leave { member: self.member, goodbye }).await.unwrap();
    }

    async fn read(&mut self, what: &str) {
        let frame = soon(what, self.frames.recv()).await;
        let frame = frame.unwrap_or_else(|| panic!("the session ended before an {what}"));
        self.take(frame);
    }

    fn drain(&mut self) {
        while let Ok(frame) = self.frames.try_recv() {
            self.take(frame);
        }
    }

    fn take(&mut self, message: v1::SessionRequest) {
        match message.frame.unwrap() {
            Frame::Assign(assign) => self.assigned.extend(assign.tasks),
            Frame::Settled(settled) => self.answers.extend(settled.answers.into_iter().map(|a| {
                let answer = a.answer();
                (wire::heard_in_session(a.token.unwrap(), self.epoch), answer)
            })),
            Frame::Cancel(cancel) => {
                let tokens = cancel.tokens.into_iter();
                let heard = |token| wire::heard_in_session(token, self.epoch);
                self.cancelled.extend(tokens.map(heard));
            }
            frame @ (Frame::Hello(_) | Frame::Recall(_)) => panic!("unexpected {frame:?}"),
        }
    }
}

pub(super) fn known(name: &str) -> Known {
    let payload = PayloadKind::Bytes;
    let checker = Arc::new(Checker::compile(&payload).unwrap());
    Known { definition: TaskType { name: name.parse().unwrap(), payload }, checker }
}

/// A `hash` task.
pub(super) fn task() -> v1::NewTask {
    of_type("hash")
}

pub(super) fn of_type(name: &str) -> v1::NewTask {
    v1::NewTask { r#type: name.into(), payload: "text".into(), ..v1::NewTask::default() }
}

/// A `hash` task that must not be started twice.
pub(super) fn at_most_once() -> v1::NewTask {
    v1::NewTask { max_attempts: Some(1), max_crashes: Some(0), ..task() }
}

/// A request as the loop gets it.
pub(super) fn parse(types: &Types, request: v1::SubmitRequest) -> Batch {
    Admission { types, complete: true, max_payload: 16 << 20 }.parse(request).unwrap()
}

pub(super) fn batch(tasks: Vec<v1::NewTask>) -> v1::SubmitRequest {
    v1::SubmitRequest { tasks, ..v1::SubmitRequest::default() }
}

/// Lets a batch line up at a loop that stands still.
pub(super) fn line_up(scheduler: &mut Scheduler, request: v1::SubmitRequest) -> Receiving {
    let (reply, receiving) = oneshot::channel();
    scheduler.line_up(parse(&scheduler.types, request), reply);
    receiving
}

/// Submits to a loop that stands still.
pub(super) fn submit(scheduler: &mut Scheduler, request: v1::SubmitRequest) -> Receiving {
    let (reply, receiving) = oneshot::channel();
    scheduler.submit(&parse(&scheduler.types, request), reply);
    receiving
}

/// Lets a worker of `hash` with one slot join a loop that stands still. It hears nothing.
pub(super) async fn join(scheduler: &mut Scheduler, worker: &'static str) -> Member {
    let (reply, joined) = oneshot::channel();
    scheduler.join(&hello(worker, 1).into_join().0, reply);
    joined.await.unwrap().member
}

/// Waits for the commit under way of a loop that stands still.
pub(super) async fn commit(scheduler: &mut Scheduler) {
    assert!(scheduler.in_flight.is_some(), "nothing is being committed");
    let answer = soon("commit", scheduler.committed.recv()).await.unwrap();
    scheduler.on_committed(answer).unwrap();
}
