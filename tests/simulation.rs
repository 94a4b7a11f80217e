//! Worlds of seeded chance, made of the core's own parts: clients, a dispatcher over
//! a log, workers, and the connections between. Messages are lost, late and
//! repeated, processes crash, stop and pause between any two steps. What is promised
//! is checked at every step; then the faults stop, and everything must settle.
//!
//! What stands around the core here mirrors the real parts step by step, without
//! sockets, threads and time. It does not prove that those parts are wired up: the
//! tests of a whole grid do.
//!
//! ```text
//! TASKGRID_SIM_SEEDS=20000 cargo test --release --test simulation   a campaign
//! TASKGRID_SIM_SEED=17 cargo test --test simulation one_seed -- --nocapture
//! ```

#[path = "simulation/bugs.rs"]
mod bugs;
#[path = "simulation/dice.rs"]
mod dice;
#[path = "simulation/dispatcher/mod.rs"]
mod dispatcher;
#[path = "simulation/log.rs"]
mod log;
#[path = "simulation/oracle/mod.rs"]
mod oracle;
#[path = "simulation/plan.rs"]
mod plan;
#[path = "simulation/wire.rs"]
mod wire;
#[path = "simulation/worker.rs"]
mod worker;
#[path = "simulation/world/mod.rs"]
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use bugs::{BUGS, Bug};
use oracle::{Bites, WANTED};
use world::{Ending, World};

/// Seeds of an ordinary run.
const SEEDS: u64 = 2_000;
/// A seeded bug must be found within so many seeds.
const SEEDS_FOR_A_BUG: u64 = 3_000;

#[test]
fn no_seed_breaks_a_promise() {
    let seeds = number("TASKGRID_SIM_SEEDS").unwrap_or(SEEDS);
    let (bites, failure) = search(seeds, seeded_bug());
    if let Some((seed, ending)) = failure {
        panic!("{}", complaint(seed, &ending));
    }
    println!("{seeds} seeds from 1 on: {bites:#?}");
    if seeds >= SEEDS {
        let absent = WANTED.iter().filter(|what| !bites.contains_key(*what));
        let absent: Vec<_> = absent.collect();
        assert!(absent.is_empty(), "what never happened was never tested: {absent:?}");
    }
}

#[test]
fn every_seeded_bug_is_found() {
    let mut missed = Vec::new();
    for bug in BUGS {
        match first_failure(bug) {
            Some((seed, ending)) => {
                let what = ending.violation.unwrap_or_default();
                println!("{bug:?}: seed {seed}, step {}: {what}", ending.steps);
            }
            None => missed.push(bug),
        }
    }
    assert!(missed.is_empty(), "not found within {SEEDS_FOR_A_BUG} seeds: {missed:?}");
}

#[test]
fn a_failing_seed_fails_again_at_the_same_step() {
    for bug in [Bug::OnceUnnoted, Bug::SetAsideForever] {
        let (seed, first) = first_failure(bug).expect("the bug is found");
        let again = run(seed, Some(bug), true);
        assert_eq!((again.steps, &again.violation), (first.steps, &first.violation));
        let mut steps = again.trace.iter().filter(|line| line.starts_with("step "));
        let last = steps.next_back().expect("a traced run has steps");
        assert!(last.starts_with(&format!("step {} ", first.steps)), "{last}");
        let third = run(seed, Some(bug), true);
        assert_eq!(third.trace, again.trace);
    }
}

/// Replays the seed that the environment names, with every step.
#[test]
fn one_seed() {
    let seed = number("TASKGRID_SIM_SEED").unwrap_or(1);
    let ending = run(seed, seeded_bug(), true);
    if number("TASKGRID_SIM_SEED").is_some() {
        for line in &ending.trace {
            println!("{line}");
        }
    }
    assert!(ending.violation.is_none(), "{}", complaint(seed, &ending));
}

/// The bug that the environment names, to look at what it does.
fn seeded_bug() -> Option<Bug> {
    let name = variable("TASKGRID_SIM_BUG")?;
    let bug = BUGS.into_iter().find(|bug| format!("{bug:?}") == name);
    Some(bug.unwrap_or_else(|| panic!("{name} is none of {BUGS:?}")))
}

fn first_failure(bug: Bug) -> Option<(u64, Ending)> {
    search(SEEDS_FOR_A_BUG, Some(bug)).1
}

/// Runs the seeds from 1 on, on all cores, until one fails; gives the least that does.
fn search(seeds: u64, bug: Option<Bug>) -> (Bites, Option<(u64, Ending)>) {
    let next = AtomicU64::new(1);
    let found = Mutex::new((Bites::new(), None::<(u64, Ending)>));
    let work = || {
        let mut bites = Bites::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed > seeds {
                break;
            }
            let ending = run(seed, bug, false);
            add(&mut bites, &ending.bites);
            if ending.violation.is_some() {
                // Lesser seeds have begun already, and will be compared.
                next.fetch_add(seeds, Ordering::Relaxed);
                let failure = &mut found.lock().expect("no thread panics").1;
                if failure.as_ref().is_none_or(|(least, _)| seed < *least) {
                    *failure = Some((seed, ending));
                }
            }
        }
        add(&mut found.lock().expect("no thread panics").0, &bites);
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    found.into_inner().expect("no thread panics")
}

/// Runs one world. A panic of the core is a violation too.
fn run(seed: u64, bug: Option<Bug>, traced: bool) -> Ending {
    let run = || World::new(seed, bug, traced).run();
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("?");
        let violation = Some(format!("a part panicked: {text}"));
        Ending { steps: 0, violation, bites: Bites::new(), trace: Vec::new() }
    })
}

fn complaint(seed: u64, ending: &Ending) -> String {
    let what = ending.violation.as_deref().unwrap_or("nothing is wrong");
    format!(
        "seed {seed}, step {}: {what}\nreplay: TASKGRID_SIM_SEED={seed} cargo test --test simulation one_seed -- --nocapture",
        ending.steps
    )
}

fn add(sum: &mut Bites, bites: &Bites) {
    for (what, count) in bites {
        *sum.entry(what).or_default() += count;
    }
}

fn number(name: &str) -> Option<u64> {
    let text = variable(name)?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is {text:?}, which is no number")))
}

#[expect(clippy::disallowed_methods, reason = "a campaign and a replay are asked for from outside")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}
