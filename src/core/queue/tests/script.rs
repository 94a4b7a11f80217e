//! Plays one task through a script and compares what is told at each step.

use std::time::Duration;

use super::world::{World, refused, told, worker};
use crate::core::event::LeaseNote;
use crate::core::id::TaskId;
use crate::core::queue::{Claim, Standing};
use crate::core::task::{Outcome, Spec};

/// What happens next. Leases are numbered from 1 in the order they were given.
#[derive(Debug, Clone)]
pub(super) enum Step {
    /// A worker is given the task.
    Lease(&'static str),
    /// The same, with the start stored before the push.
    LeaseCharged(&'static str),
    /// A handler starts.
    Start(usize),
    /// An attempt ends, or is said to have ended.
    Settle(usize, Outcome),
    /// The worker comes back with a lease.
    Adopt(&'static str, usize),
    /// All that the worker holds is good for another while.
    Extend(&'static str),
    /// Milliseconds pass.
    Wait(u64),
    /// What ran out is ended.
    Sweep,
    /// A client wants it to end.
    Cancel,
    /// A client wants a new round.
    Retry,
    /// The leases of a worker are written to the log.
    Note(&'static str),
    /// The dispatcher is killed and started.
    Restart,
}

/// One task on its way.
#[derive(Debug)]
pub(super) struct Script {
    pub(super) world: World,
    pub(super) id: TaskId,
    pub(super) leases: Vec<LeaseNote>,
}

/// Plays the steps on a new task. What each tells is the second half of its line;
/// after each, a restart would know what the queue knows.
pub(super) fn play(spec: Spec, steps: &[(Step, &str)]) -> Script {
    let mut world = World::new();
    let id = world.submit(spec);
    let mut script = Script { world, id, leases: Vec::new() };
    script.play(steps);
    script
}

impl Script {
    pub(super) fn play(&mut self, steps: &[(Step, &str)]) {
        let mut happened = Vec::new();
        for (step, _) in steps {
            let what = self.step(step);
            happened.push(format!("{step:?} → {what}"));
            self.world.assert_replays();
        }
        let expected: Vec<_> =
            steps.iter().map(|(step, what)| format!("{step:?} → {what}")).collect();
        assert_eq!(happened, expected);
    }

    fn step(&mut self, step: &Step) -> String {
        let (world, id) = (&mut self.world, self.id);
        match step {
            Step::Lease(name) | Step::LeaseCharged(name) => {
                let charged = matches!(step, Step::LeaseCharged(_));
                let Some(lease) = world.lease(id, &worker(name), charged) else {
                    return "nothing to lease".to_owned();
                };
                self.leases.push(lease);
                return format!("attempt {}", lease.attempt);
            }
            Step::Start(lease) => {
                assert!(*lease > 0 && *lease <= self.leases.len());
                world.queue.leases.start(id, world.now);
            }
            Step::Settle(lease, outcome) => {
                let token = self.leases[lease - 1].token;
                return told(&world.settle(id, token, outcome.clone()));
            }
            Step::Adopt(name, lease) => {
                let LeaseNote { token, attempt, .. } = self.leases[lease - 1];
                let spec = world.log.tasks.get(&id).copied();
                let claim = Claim { id, token, attempt, started: true, spec };
                if let Err(rejected) = world.adopt(&worker(name), &claim) {
                    return refused(rejected);
                }
            }
            Step::Extend(name) => {
                let until = world.now.plus(super::world::LEASE);
                world.queue.leases.extend(&worker(name), until);
            }
            Step::Wait(ms) => world.wait(Duration::from_millis(*ms)),
            Step::Sweep => {
                if let [event] = world.sweep().as_slice() {
                    return told(&Ok(event.clone()));
                }
            }
            Step::Cancel => return told(&world.cancel(id)),
            Step::Retry => return told(&world.retry(id)),
            Step::Note(name) => world.note(&worker(name)),
            Step::Restart => world.restart(),
        }
        self.standing()
    }

    fn standing(&self) -> String {
        let queue = &self.world.queue;
        match queue.standing(self.id) {
            Standing::Running => "runs".to_owned(),
            Standing::Ended(status, _) => format!("is {}", status.as_str()),
            Standing::Absent => "is gone".to_owned(),
            Standing::Pending(..) => {
                let spec = self.world.log.tasks[&self.id];
                let alone = queue.lanes.next_alone(spec.type_id);
                let mut ready = queue.lanes.next(spec.type_id).chain(alone);
                let is_ready = ready.any(|id| id == self.id);
                if is_ready { "is ready".to_owned() } else { "waits".to_owned() }
            }
        }
    }
}
