//! What holds whatever happens: several workers that crash, fall silent and come
//! back, outcomes that are delayed, doubled and reordered, a dispatcher that is
//! killed, and people who cancel and retry.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop_oneof, proptest};

use super::world::{LEASE, World, at_most_once, failed, task};
use crate::core::event::TaskEvent;
use crate::core::id::{TaskId, Timestamp, Token};
use crate::core::queue::{Claim, Rejected, Standing};
use crate::core::task::{Change, Holder, Outcome, Reason, Spec, Status};

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn no_result_is_lost_or_doubled_whatever_happens(
        steps in proptest::collection::vec(step(), 1..120),
    ) {
        let mut grid = Grid::new();
        for step in steps {
            grid.play(step);
            grid.assert_sound();
        }
        grid.settle_down();
        grid.assert_sound();
        grid.assert_all_ended();
    }
}

/// What may happen next. Numbers choose among what there is.
#[derive(Debug, Clone)]
enum Step {
    Submit(Kind),
    Pass(u16),
    Lease(usize, usize),
    /// A worker starts the handler of one of its tasks.
    Start(usize, usize),
    /// A handler ends; its outcome is on its way.
    Finish(usize, usize, Outcome),
    /// One outcome arrives, or arrives and will again.
    Deliver(usize, bool),
    /// A worker's session is alive.
    Extend(usize),
    /// A worker's session begins anew: it says what it holds.
    Hello(usize),
    /// A worker is killed; another process of it starts.
    Crash(usize),
    Note(usize),
    Cancel(usize),
    Retry(usize),
    Restart,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Plain,
    Scheduled,
    Timed,
    Fragile,
    Once,
}

fn step() -> impl Strategy<Value = Step> {
    let kinds = [Kind::Plain, Kind::Scheduled, Kind::Timed, Kind::Fragile, Kind::Once];
    let outcomes = [
        Outcome::Completed,
        Outcome::Completed,
        Outcome::Released,
        failed(Reason::Error),
        failed(Reason::Panic),
        failed(Reason::Permanent),
    ];
    let (at, worker) = (any::<usize>(), 0..3_usize);
    prop_oneof![
        3 => proptest::sample::select(kinds.to_vec()).prop_map(Step::Submit),
        4 => (0..6_000_u16).prop_map(Step::Pass),
        8 => (worker.clone(), at).prop_map(|(worker, at)| Step::Lease(worker, at)),
        4 => (worker.clone(), at).prop_map(|(worker, at)| Step::Start(worker, at)),
        6 => (worker.clone(), at, proptest::sample::select(outcomes.to_vec()))
            .prop_map(|(worker, at, outcome)| Step::Finish(worker, at, outcome)),
        8 => (at, any::<bool>()).prop_map(|(at, again)| Step::Deliver(at, again)),
        2 => worker.clone().prop_map(Step::Extend),
        2 => worker.clone().prop_map(Step::Hello),
        1 => worker.clone().prop_map(Step::Crash),
        3 => worker.prop_map(Step::Note),
        1 => at.prop_map(Step::Cancel),
        2 => at.prop_map(Step::Retry),
        1 => Just(Step::Restart),
    ]
}

/// A dispatcher's world and the workers around it.
struct Grid {
    world: World,
    workers: [Worker; 3],
    /// Outcomes on their way.
    mail: Vec<(TaskId, Token, Outcome)>,
    /// How often the handler of a task was started, over all workers.
    starts: BTreeMap<TaskId, u32>,
    /// The newest token that was given for a task.
    tokens: BTreeMap<TaskId, Token>,
}

/// One process of a worker.
struct Worker {
    holder: Holder,
    /// What it was given and has not finished: token, attempt, whether it started.
    tasks: BTreeMap<TaskId, (Token, u32, bool)>,
}

impl Grid {
    fn new() -> Self {
        let worker = |name: &str| Worker {
            holder: Holder { worker: name.into(), incarnation: 1 },
            tasks: BTreeMap::new(),
        };
        Self {
            world: World::new(),
            workers: ["a", "b", "c"].map(worker),
            mail: Vec::new(),
            starts: BTreeMap::new(),
            tokens: BTreeMap::new(),
        }
    }

    fn play(&mut self, step: Step) {
        match step {
            Step::Submit(kind) => {
                let spec = kind.spec(self.world.now);
                self.world.submit(spec);
            }
            Step::Pass(ms) => {
                self.world.wait(Duration::from_millis(ms.into()));
                self.world.sweep();
            }
            Step::Lease(worker, at) => {
                let ready: Vec<_> = self.world.queue.lanes.next(task().type_id).collect();
                if let Some(id) = pick(&ready, at) {
                    self.lease(worker, id);
                }
            }
            Step::Start(worker, at) => self.start(worker, at),
            Step::Finish(worker, at, outcome) => self.finish(worker, at, outcome),
            Step::Deliver(at, again) => self.deliver(at, again),
            Step::Extend(worker) => {
                let until = self.world.now.plus(LEASE);
                self.world.queue.leases.extend(&self.workers[worker].holder, until);
            }
            Step::Hello(worker) => self.hello(worker),
            Step::Crash(worker) => {
                self.workers[worker].holder.incarnation += 1;
                self.workers[worker].tasks.clear();
                self.hello(worker);
            }
            Step::Note(worker) => self.world.note(&self.workers[worker].holder),
            Step::Cancel(at) => {
                if let Some(id) = self.any_task(at) {
                    let was_over = matches!(self.world.queue.standing(id), Standing::Ended(..));
                    assert_eq!(self.world.cancel(id).is_err(), was_over);
                }
            }
            Step::Retry(at) => {
                if let Some(id) = self.any_task(at) {
                    _ = self.world.retry(id).is_ok();
                }
            }
            Step::Restart => self.world.restart(),
        }
    }

    /// A task that may be started once has its start stored before the push.
    fn lease(&mut self, worker: usize, id: TaskId) {
        let holder = self.workers[worker].holder.clone();
        let once = self.world.log.tasks[&id].at_most_once();
        let lease = self.world.lease(id, &holder, once).expect("a ready task can be leased");
        if once {
            self.world.note(&holder);
        }
        let before = self.tokens.insert(id, lease.token);
        assert!(before < Some(lease.token), "tokens only rise");
        let ended = self.world.log.events.iter().filter(|event| event.id == id);
        let attempts = ended.filter_map(|event| event.attempt.as_ref()).map(|end| end.number).max();
        assert!(attempts < Some(lease.attempt), "attempts only rise");
        self.workers[worker].tasks.insert(id, (lease.token, lease.attempt, false));
    }

    fn start(&mut self, worker: usize, at: usize) {
        let Worker { holder, tasks } = &mut self.workers[worker];
        let waiting = tasks.iter_mut().filter(|(_, task)| !task.2);
        let mut waiting: Vec<_> = waiting.collect();
        if waiting.is_empty() {
            return;
        }
        let chosen = at % waiting.len();
        let (id, task) = &mut waiting[chosen];
        task.2 = true;
        *self.starts.entry(**id).or_default() += 1;
        let held = self.world.queue.leases.find(**id);
        if held.is_some_and(|held| held.lease.token == task.0 && held.lease.holder == *holder) {
            self.world.queue.leases.start(**id, self.world.now);
        }
    }

    /// Only a handler that started has an outcome; one that did not is given back.
    fn finish(&mut self, worker: usize, at: usize, outcome: Outcome) {
        let tasks = &mut self.workers[worker].tasks;
        let ids: Vec<_> = tasks.keys().copied().collect();
        let Some(id) = pick(&ids, at) else { return };
        let Some((token, _, started)) = tasks.remove(&id) else { return };
        let outcome = match outcome {
            Outcome::Released if started => Outcome::Completed,
            other if started => other,
            _ => Outcome::Released,
        };
        self.mail.push((id, token, outcome));
    }

    fn deliver(&mut self, at: usize, again: bool) {
        if self.mail.is_empty() {
            return;
        }
        let at = at % self.mail.len();
        let (id, token, outcome) =
            if again { self.mail[at].clone() } else { self.mail.swap_remove(at) };
        let before = self.world.queue.standing(id);
        let held = self.world.queue.leases.find(id).map(|held| held.lease.token);
        let newest = held.or(self.world.queue.progress(id).token);
        let answer = self.world.settle(id, token, outcome.clone());
        match (before, &answer) {
            (Standing::Ended(..), Ok(_)) => panic!("an outcome changed a task that had ended"),
            (Standing::Ended(status, seq), Err(rejected)) => {
                assert_eq!(*rejected, Rejected::Ended(status, seq));
            }
            (Standing::Running | Standing::Pending(..), Ok(event)) => {
                assert_eq!(newest, Some(token), "only the newest lease that is known settles");
                assert_eq!(outcome == Outcome::Completed, event.change == Change::Completed);
            }
            (Standing::Running | Standing::Pending(..), Err(_)) => {}
            (Standing::Absent, _) => panic!("no task of this world is forgotten"),
        }
    }

    /// The worker lists what it holds. What the dispatcher has of it and it does not
    /// list is given back, unless its outcome is on its way; leases of its earlier
    /// processes are lost; what is over stops.
    fn hello(&mut self, worker: usize) {
        let Worker { holder, tasks } = &mut self.workers[worker];
        let world = &mut self.world;
        for predecessor in world.queue.leases.predecessors(holder) {
            for id in world.queue.leases.of(&predecessor) {
                let token = world.queue.leases.find(id).expect("held").lease.token;
                world.settle(id, token, Outcome::Lost).expect("a held lease ends");
            }
        }
        tasks.retain(|id, (token, attempt, started)| {
            let spec = world.log.tasks.get(id).copied();
            let (id, token, attempt, started) = (*id, *token, *attempt, *started);
            world.adopt(holder, &Claim { id, token, attempt, started, spec }).is_ok()
        });
        for id in world.queue.leases.of(holder) {
            let token = world.queue.leases.find(id).expect("held").lease.token;
            let on_its_way = self.mail.iter().any(|mail| (mail.0, mail.1) == (id, token));
            if !on_its_way && !tasks.contains_key(&id) {
                world.settle(id, token, Outcome::Released).expect("a held lease ends");
            }
        }
    }

    /// All faults stop: outcomes arrive, workers come back and finish what they have.
    fn settle_down(&mut self) {
        for _ in 0..40 {
            while !self.mail.is_empty() {
                self.deliver(0, false);
            }
            (0..3).for_each(|worker| self.hello(worker));
            self.play(Step::Pass(u16::MAX));
            while let Some(id) = self.world.next_ready() {
                self.lease(0, id);
            }
            for worker in 0..3 {
                while self.workers[worker].tasks.values().any(|task| !task.2) {
                    self.start(worker, 0);
                }
                while !self.workers[worker].tasks.is_empty() {
                    self.finish(worker, 0, Outcome::Completed);
                }
            }
        }
    }

    fn assert_all_ended(&self) {
        for id in self.world.log.tasks.keys() {
            let standing = self.world.queue.standing(*id);
            assert!(matches!(standing, Standing::Ended(..)), "task {id} is {standing:?}");
        }
        assert_eq!((self.world.queue.live(), self.world.queue.live_bytes()), (0, 0));
        assert_eq!(self.world.queue.leases.count(), 0);
    }

    /// Everything that must hold at every moment.
    fn assert_sound(&mut self) {
        self.world.assert_replays();
        self.assert_one_place_each();
        for (id, spec) in &self.world.log.tasks {
            let events = self.world.log.events.iter().filter(|event| event.id == *id);
            let rounds = assert_story(*id, spec, &events.collect::<Vec<_>>());
            let starts = self.starts.get(id).copied().unwrap_or(0);
            assert!(!spec.at_most_once() || starts <= rounds, "task {id} was started twice");
        }
    }

    /// A task waits, runs or has ended; the figures are sums over those that live.
    fn assert_one_place_each(&self) {
        let queue = &self.world.queue;
        let waiting = queue.lanes.newest(None, TaskId(u64::MAX), usize::MAX);
        let waiting: BTreeSet<_> = waiting.into_iter().collect();
        let (mut live, mut bytes) = (0, 0);
        for (id, spec) in &self.world.log.tasks {
            let places = [
                waiting.contains(id),
                queue.leases.find(*id).is_some(),
                queue.ended.find(*id).is_some(),
            ];
            let count = places.iter().filter(|is_in| **is_in).count();
            assert_eq!(count, 1, "task {id} waits, runs, has ended: {places:?}");
            if !places[2] {
                live += 1;
                bytes += u64::from(spec.payload_bytes);
            }
        }
        assert_eq!((queue.live(), queue.live_bytes()), (live, bytes));
        let type_id = task().type_id;
        let figures = queue.lanes.ready(type_id) + queue.lanes.scheduled(type_id);
        assert_eq!(figures, u64::try_from(waiting.len()).unwrap());
    }

    fn any_task(&self, at: usize) -> Option<TaskId> {
        let ids: Vec<_> = self.world.log.tasks.keys().copied().collect();
        pick(&ids, at)
    }
}

impl Kind {
    fn spec(self, now: Timestamp) -> Spec {
        let plain = Spec { created: now, run_at: now, ..task() };
        match self {
            Self::Plain => plain,
            Self::Scheduled => Spec { run_at: now.plus(Duration::from_secs(7)), ..plain },
            Self::Timed => Spec { timeout_ms: 1_500, payload_bytes: 7, ..plain },
            Self::Fragile => Spec { max_attempts: 2, max_crashes: 1, ..plain },
            Self::Once => Spec { created: now, run_at: now, ..at_most_once() },
        }
    }
}

/// The story of a task keeps its budgets, has one result at most, changes after an
/// end by a new round alone, and is chained. Gives the number of its rounds.
fn assert_story(id: TaskId, spec: &Spec, events: &[&TaskEvent]) -> u32 {
    let mut status = Status::Pending;
    let (mut errors, mut crashes, mut rounds) = (0, 0, 1);
    let (mut last, mut newest) = (None, None);
    for event in events {
        assert_eq!(event.previous, last, "task {id}: its story is a chain");
        assert!(Some(event.seq) > last, "task {id}: places rise");
        last = Some(event.seq);
        if let Change::Retried { .. } = event.change {
            assert!(matches!(status, Status::Failed | Status::Cancelled), "task {id}");
            (errors, crashes, rounds) = (0, 0, rounds + 1);
        } else {
            assert!(!status.is_terminal(), "task {id} changed after its end");
        }
        match event.change.reason() {
            Some(Reason::Error | Reason::Timeout | Reason::Panic | Reason::Permanent) => {
                errors += 1;
            }
            Some(Reason::Lost | Reason::Poison | Reason::Unknown) => crashes += 1,
            Some(Reason::Released | Reason::Silence | Reason::Cancelled) | None => {}
        }
        assert!(errors <= spec.max_attempts, "task {id} had more errors than attempts");
        assert!(crashes <= spec.max_crashes + 1, "task {id} crashed after its run alone");
        let token = event.attempt.as_ref().map(|attempt| attempt.token);
        assert!(token.is_none() || token >= newest, "task {id}: an older lease settled it");
        newest = token.or(newest);
        status = event.change.status();
    }
    rounds
}

fn pick(ids: &[TaskId], at: usize) -> Option<TaskId> {
    ids.get(at.checked_rem(ids.len())?).copied()
}
