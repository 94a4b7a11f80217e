//! A world: its clock, what is due in it, and the loop that lets one thing happen
//! after the other. The same seed and the same bug make the same steps.

mod clients;
mod faults;
mod links;

use std::collections::{BTreeMap, BTreeSet};

use taskgrid::core::id::{Seq, TaskId, Timestamp, Token, millis};
use taskgrid::core::placement::Member;
use taskgrid::core::queue::Standing;
use taskgrid::core::task_type::TypeId;

use self::clients::Client;
use self::links::Link;
use super::bugs::Bug;
use super::dice::Dice;
use super::dispatcher::{Dispatcher, Errand, Known, LEASE, Message, TYPES, Turn, Why};
use super::log::{Group, Log};
use super::oracle::{Bites, Oracle};
use super::plan::{Fault, Plan, SETTLE};
use super::wire::{Answer, Conn, Request};
use super::worker::{Doing, Due, Order, Shift, Worker};

/// When worlds begin.
const BEGIN: u64 = 1_000_000;
/// More steps than any world takes: one that takes them goes round in circles.
const STEPS: u64 = 400_000;

/// What happens next.
#[derive(Debug)]
enum Happening {
    DispatcherStarts,
    /// A turn of the loop of this boot; the number tells it from those that were put
    /// off by an earlier one.
    Turn(u64, u64),
    Committed(u64),
    Fetched(u64, TypeId, Vec<TaskId>),
    Judged(u64, Member, Token),
    Dial(u64, usize),
    Down(u64),
    Up(u64),
    LinkCheck(u64),
    WorkerStarts(usize),
    Due(usize, u64, Token, Due),
    Bell(usize, u64, u64),
    /// A worker that leaves looks at what is left; gives up what runs after this.
    Leaving(usize, u64, u64),
    Call(u64, Request),
    Answered(u64, Answer),
    Client(usize),
    Fault(Fault),
    /// Has everything settled?
    Look,
}

/// How a run ended.
#[derive(Debug)]
pub(crate) struct Ending {
    pub(crate) steps: u64,
    /// What did not hold.
    pub(crate) violation: Option<String>,
    pub(crate) bites: Bites,
    /// What happened, step by step, if that was asked for.
    pub(crate) trace: Vec<String>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct World {
    now: u64,
    step: u64,
    dice: Dice,
    plan: Plan,
    bug: Option<Bug>,
    due: BTreeMap<(u64, u64), Happening>,
    scheduled: u64,
    log: Log,
    oracle: Oracle,
    orders: BTreeMap<u64, Order>,
    dispatcher: Option<Box<Dispatcher>>,
    boot: u64,
    paused_until: u64,
    /// How long the dispatcher was paused in all.
    paused: u64,
    /// When the loop's next turn is due, and its number.
    next_turn: Option<(u64, u64)>,
    workers: Vec<Worker>,
    links: Vec<Link>,
    conns: BTreeMap<u64, Conn>,
    sessions: u64,
    clients: Vec<Client>,
    calls: BTreeMap<u64, usize>,
    next_call: u64,
    next_payload: u64,
    is_over: bool,
}

impl World {
    pub(crate) fn new(seed: u64, bug: Option<Bug>, traced: bool) -> Self {
        let mut dice = Dice::new(seed);
        let plan = Plan::new(BEGIN, &mut dice);
        let names = ["alder", "birch", "cedar"];
        let workers = plan.slots.iter().zip(names).map(|(slots, name)| Worker::new(name, *slots));
        let workers: Vec<Worker> = workers.collect();
        let mut world = Self {
            now: BEGIN,
            step: 0,
            bug,
            due: BTreeMap::new(),
            scheduled: 0,
            log: Log::default(),
            oracle: Oracle::default(),
            orders: BTreeMap::new(),
            dispatcher: None,
            boot: 0,
            paused_until: 0,
            paused: 0,
            next_turn: None,
            links: workers.iter().map(|_| Link::default()).collect(),
            conns: BTreeMap::new(),
            sessions: 0,
            clients: (0..plan.clients).map(|_| Client::new(plan.batches)).collect(),
            calls: BTreeMap::new(),
            next_call: 0,
            next_payload: 1,
            is_over: false,
            workers,
            dice,
            plan,
        };
        world.oracle.trace = traced.then(Vec::new);
        world.begin();
        world
    }

    /// Lets everything happen until it has settled, or something does not hold.
    pub(crate) fn run(mut self) -> Ending {
        while self.oracle.violation.is_none() && !self.is_over {
            let Some(((at, _), happening)) = self.due.pop_first() else {
                self.oracle.violated("nothing is due any more");
                break;
            };
            self.now = self.now.max(at);
            if let Some(until) = self.paused_until(&happening) {
                self.schedule_at(until, happening);
                continue;
            }
            self.step += 1;
            let (step, now) = (self.step, self.now - BEGIN);
            self.oracle.note(|| format!("step {step} at {now}: {happening:?}"));
            self.happen(happening);
            if self.step >= STEPS {
                self.oracle.violated(format!("{STEPS} steps, and no end"));
            }
        }
        let Self { step, oracle, .. } = self;
        let Oracle { violation, bites, trace, .. } = oracle;
        Ending { steps: step, violation, bites, trace: trace.unwrap_or_default() }
    }

    fn begin(&mut self) {
        self.schedule(0, Happening::DispatcherStarts);
        for at in 0..self.workers.len() {
            let after = self.dice.between(0, 200);
            self.schedule(after, Happening::WorkerStarts(at));
        }
        for at in 0..self.clients.len() {
            let after = self.dice.between(0, 300);
            self.schedule(after, Happening::Client(at));
        }
        self.schedule_fault();
        self.schedule_at(self.plan.faults_until + 1, Happening::Look);
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::DispatcherStarts => self.start_dispatcher(),
            Happening::Turn(boot, number) => {
                if boot == self.boot && self.next_turn.is_some_and(|(_, next)| next == number) {
                    self.turn(false);
                }
            }
            Happening::Committed(boot) if boot == self.boot => self.committed(),
            Happening::Fetched(boot, type_id, ids) if boot == self.boot => {
                let row = |id| self.log.tasks.get(&id).map(|(spec, load)| (id, *spec, *load));
                let rows = ids.into_iter().filter_map(row).collect();
                self.tell(Message::Fetched { type_id, rows });
            }
            Happening::Judged(boot, member, token) if boot == self.boot => {
                self.tell(Message::Judged { member, token });
            }
            Happening::Dial(boot, worker) if boot == self.boot => self.dial(worker),
            Happening::Committed(_)
            | Happening::Fetched(..)
            | Happening::Judged(..)
            | Happening::Dial(..) => {}
            Happening::Down(conn) => self.deliver_down(conn),
            Happening::Up(conn) => self.deliver_up(conn),
            Happening::LinkCheck(conn) => self.check_link(conn),
            Happening::WorkerStarts(worker) => self.workers[worker].start(),
            Happening::Due(worker, incarnation, token, due) => {
                if self.is_alive(worker, incarnation) {
                    let died = self.shift(worker, |worker, cx| worker.due(token, due, cx));
                    if died {
                        self.kill_worker(worker);
                    }
                }
            }
            Happening::Bell(worker, incarnation, serial) => {
                if self.is_alive(worker, incarnation) {
                    self.shift(worker, |worker, cx| worker.speak(serial, cx));
                }
            }
            Happening::Leaving(worker, incarnation, patience) => {
                if self.is_alive(worker, incarnation) {
                    self.leave(worker, patience);
                }
            }
            Happening::Call(call, request) => self.called(call, request),
            Happening::Answered(call, answer) => self.answered(call, answer),
            Happening::Client(client) => self.client_acts(client),
            Happening::Fault(fault) => self.strike(fault),
            Happening::Look => self.look(),
        }
    }

    /// When the part that this would happen to goes on, if it is paused.
    fn paused_until(&self, happening: &Happening) -> Option<u64> {
        let until = match happening {
            Happening::Turn(..)
            | Happening::Committed(_)
            | Happening::Fetched(..)
            | Happening::Judged(..)
            | Happening::Dial(..)
            | Happening::Up(_)
            | Happening::LinkCheck(_)
            | Happening::Call(..) => self.paused_until,
            Happening::Due(worker, ..)
            | Happening::Bell(worker, ..)
            | Happening::Leaving(worker, ..) => self.workers[*worker].paused_until,
            Happening::Down(conn) => {
                self.conns.get(conn).map_or(0, |conn| self.workers[conn.worker].paused_until)
            }
            Happening::DispatcherStarts
            | Happening::WorkerStarts(_)
            | Happening::Answered(..)
            | Happening::Client(_)
            | Happening::Fault(_)
            | Happening::Look => 0,
        };
        (until > self.now).then_some(until)
    }

    // The dispatcher.

    fn start_dispatcher(&mut self) {
        let now = Timestamp(self.now);
        let nonce = self.dice.roll();
        let restored = self.log.restore(now, LEASE, nonce, self.bug);
        self.boot += 1;
        self.sessions = 0;
        self.oracle.restarted(&restored.queue, self.now - self.paused);
        self.dispatcher = Some(Box::new(Dispatcher::new(restored, now)));
        self.turn(false);
        for worker in 0..self.workers.len() {
            self.links[worker] = Link::default();
            let after = self.dice.between(0, 200);
            self.schedule(after, Happening::Dial(self.boot, worker));
        }
    }

    /// Puts a message into the inbox and has it looked at soon.
    fn tell(&mut self, message: Message) {
        let Some(dispatcher) = &mut self.dispatcher else { return };
        dispatcher.inbox.push_back(message);
        let at = self.now + self.dice.between(0, 2);
        self.schedule_turn(at);
    }

    fn schedule_turn(&mut self, at: u64) {
        if self.next_turn.is_none_or(|(next, _)| at < next) {
            let number = self.scheduled;
            self.next_turn = Some((at, number));
            self.schedule_at(at, Happening::Turn(self.boot, number));
        }
    }

    /// The group in flight becomes durable, and the loop hears of it.
    fn committed(&mut self) {
        let group = self.dispatcher.as_mut().and_then(|dispatcher| dispatcher.take_in_flight());
        if let Some(group) = group {
            self.append(group);
            self.turn(true);
        }
    }

    fn append(&mut self, group: Group) {
        self.oracle.appended(&group);
        if let Err(what) = self.log.append(group) {
            self.oracle.violated(what);
        }
    }

    fn turn(&mut self, has_committed: bool) {
        self.next_turn = None;
        let Some(mut dispatcher) = self.dispatcher.take() else { return };
        let now = Timestamp(self.now);
        let mut cx = Turn {
            now,
            awake: self.now - self.paused,
            dice: &mut self.dice,
            log: &self.log,
            oracle: &mut self.oracle,
            bug: self.bug,
        };
        if has_committed {
            dispatcher.on_committed(&mut cx);
        }
        let is_over = dispatcher.turn(&mut cx);
        self.oracle.after_turn(&dispatcher.queue, now);
        let errands = std::mem::take(&mut dispatcher.errands);
        let wake = dispatcher.next_wake();
        self.dispatcher = Some(dispatcher);
        for errand in errands {
            self.run_errand(errand);
        }
        if is_over {
            self.end_dispatcher();
        } else if let Some(wake) = wake {
            self.schedule_turn(wake.0);
        }
    }

    fn run_errand(&mut self, errand: Errand) {
        let boot = self.boot;
        match errand {
            Errand::Send(conn, frame) => self.push_down(conn, frame),
            Errand::Receipt(call, first) => self.receipt(call, first),
            Errand::View(call, id, standing, Why::Asked) => self.view(call, id, standing),
            Errand::View(call, id, standing, Why::Retry) => {
                let known = self.again(id, standing);
                self.tell(Message::Retry { call, id, known });
            }
            Errand::Fetch(type_id, ids) => {
                let after = self.latency();
                self.schedule(after, Happening::Fetched(boot, type_id, ids));
            }
            Errand::Judge(member, token, place) => {
                if !self.log.events.contains_key(&place) {
                    self.oracle.violated("an end was looked up before it was stored");
                }
                let after = self.latency();
                self.schedule(after, Happening::Judged(boot, member, token));
            }
            Errand::Joined(conn, member) => self.joined(conn, member),
            Errand::Commit => {
                let slow = self.dice.chance(self.plan.slow);
                let after = self.dice.between(1, if slow { 400 } else { 6 });
                self.schedule(after, Happening::Committed(boot));
            }
        }
    }

    /// What a retry must know of a task that has ended.
    fn again(&self, id: TaskId, standing: Standing) -> Option<Known> {
        let Standing::Ended(_, last) = standing else { return None };
        let mut place: Option<Seq> = Some(last);
        let mut spec = None;
        while let Some((event, _)) = place.and_then(|place| self.log.events.get(&place)) {
            spec = spec.or(Some(event.spec));
            if let (Some(attempt), Some(spec)) = (&event.attempt, spec) {
                let (attempts, token) = (attempt.number, Some(attempt.token));
                return Some(Known { spec, last, attempts, token });
            }
            place = event.previous;
        }
        debug_assert!(self.log.tasks.contains_key(&id), "an ended task is stored");
        spec.map(|spec| Known { spec, last, attempts: 0, token: None })
    }

    // Workers.

    fn is_alive(&self, worker: usize, incarnation: u64) -> bool {
        let worker = &self.workers[worker];
        worker.alive && worker.holder.incarnation == incarnation
    }

    /// Lets a worker do something, and does what it wants done.
    fn shift<T>(&mut self, at: usize, act: impl FnOnce(&mut Worker, &mut Shift<'_>) -> T) -> T {
        let mut cx = Shift {
            now: self.now,
            dice: &mut self.dice,
            oracle: &mut self.oracle,
            orders: &self.orders,
            bug: self.bug,
            doings: Vec::new(),
        };
        let worker = &mut self.workers[at];
        let done = act(worker, &mut cx);
        let (incarnation, doings) = (worker.holder.incarnation, cx.doings);
        for doing in doings {
            match doing {
                Doing::Send(conn, frame) => self.push_up(conn, frame),
                Doing::Due(after, token, due) => {
                    self.schedule(after, Happening::Due(at, incarnation, token, due));
                }
                Doing::Bell(after, serial) => {
                    self.schedule(after, Happening::Bell(at, incarnation, serial));
                }
            }
        }
        done
    }

    // The clock.

    fn schedule(&mut self, after: u64, happening: Happening) {
        self.schedule_at(self.now + after, happening);
    }

    fn schedule_at(&mut self, at: u64, happening: Happening) {
        self.scheduled += 1;
        self.due.insert((at, self.scheduled), happening);
    }

    /// How long a message or a read takes.
    fn latency(&mut self) -> u64 {
        let slow = self.dice.chance(self.plan.slow);
        self.dice.between(0, if slow { 80 } else { 2 })
    }

    fn is_calm(&self) -> bool {
        self.now > self.plan.faults_until
    }

    /// Once faults have stopped, everything must settle, and soon.
    fn look(&mut self) {
        let unsettled = self.what_is_unsettled();
        let Some(what) = unsettled else {
            self.is_over = true;
            return;
        };
        if self.now > self.plan.faults_until + millis(SETTLE) {
            return self.oracle.violated(format!("it does not settle: {what}"));
        }
        self.schedule(200, Happening::Look);
    }

    fn what_is_unsettled(&self) -> Option<String> {
        if self.clients.iter().any(|client| !client.is_done()) {
            return Some("a client waits".to_owned());
        }
        let unsettled = self.oracle.unsettled();
        if !unsettled.is_empty() {
            return Some(format!("tasks {unsettled:?} have not ended"));
        }
        let Some(dispatcher) = &self.dispatcher else {
            return Some("the dispatcher is down".to_owned());
        };
        let queue = &dispatcher.queue;
        if queue.live() > 0 || queue.live_bytes() > 0 || queue.leases.count() > 0 {
            return Some(format!("{} tasks are thought to live", queue.live()));
        }
        let with_session: BTreeSet<_> =
            dispatcher.sessions.values().map(|session| session.holder.clone()).collect();
        for worker in &self.workers {
            let name = &worker.holder.worker;
            if !worker.alive || !with_session.contains(&worker.holder) {
                return Some(format!("worker {name} has no session"));
            }
            if !worker.leases.is_empty() || !worker.is_idle() {
                return Some(format!("worker {name} holds {:?}", worker.leases));
            }
        }
        let held: u32 = dispatcher.sessions.keys().map(|m| dispatcher.fleet.held(*m)).sum();
        let slots: u32 = self.workers.iter().map(|worker| worker.slots).sum();
        if held > 0 || TYPES.iter().any(|type_id| dispatcher.fleet.room(*type_id) < slots) {
            return Some(format!("credit is lost: {:?}", dispatcher.fleet));
        }
        None
    }
}
