//! What is asked of the seeds.

use std::collections::BTreeMap;

use super::seeds::{How, run};
use super::told::Told;

/// Seeds of an ordinary run.
const SEEDS: u64 = 8;
/// Of a campaign's seeds, so many run twice; of an ordinary run's, a fourth.
const REPLAYS: u64 = 100;
/// A disk that lies must be found out within so many seeds.
const SEEDS_FOR_A_LIE: u64 = 8;

/// One of what a world tells.
type Figure = fn(&Told) -> u64;

/// What must have happened, and in how many worlds of a hundred at least.
const BITES: [(&str, u64, Figure); 13] = [
    ("messages lost", 50, |told| told.lost),
    ("messages held", 25, |told| told.held),
    ("links cut", 50, |told| told.cuts),
    ("links slow", 25, |told| told.slow_links),
    ("dispatcher crashed with work in flight", 25, |told| told.dispatcher_crashes_at_work),
    ("dispatcher's disk failed", 10, |told| told.disk_failures),
    ("worker crashed while it ran handlers", 25, |told| told.worker_crashes_at_work),
    ("nameservice crashed", 10, |told| told.nameservice_crashes),
    ("role told to end", 25, |told| told.drains),
    ("submit without an answer", 25, |told| told.unknown),
    ("execution lost with its worker", 25, |told| told.lost_executions),
    ("task executed again", 50, |told| told.again),
    ("task cancelled", 25, |told| told.cancelled),
];

/// Rare ones, of which there must be some in a campaign.
const RARE: [(&str, Figure); 1] = [("result of a lease that was over", |told| told.stale)];

/// A check: its name, and what it finds wrong.
pub(crate) type Check = (&'static str, fn() -> Vec<String>);

pub(crate) const ALL: [Check; 3] = [
    ("no_seed_breaks_a_promise", no_seed_breaks_a_promise),
    ("the_same_seed_is_the_same_world", the_same_seed_is_the_same_world),
    ("a_disk_that_lies_is_found_out", a_disk_that_lies_is_found_out),
];

fn no_seed_breaks_a_promise() -> Vec<String> {
    if let Some(seed) = number("TASKGRID_TURMOIL_SEED") {
        let mut wrong = Vec::new();
        run(&[seed], How::Telling, |told| {
            eprintln!("{told:#?}");
            wrong = told.wrong;
        });
        return wrong;
    }
    let seeds: Vec<u64> = (1..=seeds()).collect();
    let (mut wrong, mut all) = (Vec::new(), Vec::new());
    run(&seeds, How::Usual, |told| {
        for what in &told.wrong {
            eprintln!("VIOLATION seed {}: {what}", told.seed);
            wrong.push(format!("seed {}: {what}", told.seed));
        }
        all.push(told);
    });
    sum_up(&all);
    for (what, floor, of) in BITES {
        let worlds = count(all.iter().filter(|told| of(told) > 0).count());
        if worlds * 100 < floor * count(seeds.len()) {
            wrong.push(format!("the faults did not bite: {what} in {worlds} worlds alone"));
        }
    }
    for (what, of) in RARE {
        if seeds.len() >= 100 && !all.iter().any(|told| of(told) > 0) {
            wrong.push(format!("the faults did not bite: {what} in no world"));
        }
    }
    wrong
}

/// Byte by byte on every link, and in what clients and workers wrote down.
fn the_same_seed_is_the_same_world() -> Vec<String> {
    let seeds = seeds();
    let replays = REPLAYS.min(seeds / 4).max(1);
    let chosen = (1..=replays).map(|place| place * seeds / replays);
    // Both runs of a seed are in the list, one after the other.
    let twice: Vec<u64> = chosen.flat_map(|seed| [seed, seed]).collect();
    let mut met: BTreeMap<u64, Told> = BTreeMap::new();
    let (mut same, mut wrong, mut digests) = (0, Vec::new(), Vec::new());
    run(&twice, How::Usual, |told| {
        // It names a file of this run alone; what it says stands in the history.
        let told = Told { wrong: Vec::new(), ..told };
        let Some(first) = met.remove(&told.seed) else {
            digests.push(told.network.clone());
            met.insert(told.seed, told);
            return;
        };
        if first == told {
            same += 1;
        } else {
            wrong.push(format!("two runs differ: {first:?} and {told:?}"));
        }
    });
    println!("{same} of {replays} replays are equal");
    digests.sort_unstable();
    digests.dedup();
    if count(digests.len()) < replays {
        wrong.push("different seeds have the same digest".to_owned());
    }
    wrong
}

/// That this can fail: a dispatcher loses its last group with each crash.
fn a_disk_that_lies_is_found_out() -> Vec<String> {
    for seed in 1..=SEEDS_FOR_A_LIE {
        let mut found = Vec::new();
        run(&[seed], How::Lying, |told| found = told.wrong);
        if let Some(first) = found.first() {
            println!("seed {seed}: {first}");
            return Vec::new();
        }
    }
    vec![format!("not found out within {SEEDS_FOR_A_LIE} seeds")]
}

fn sum_up(all: &[Told]) {
    let sum = |of: Figure| all.iter().map(of).sum::<u64>();
    let figures = serde_json::json!({
        "seeds": all.len(),
        "virtual_seconds": sum(|told| told.virtual_ms) / 1_000,
        "messages": sum(|told| told.sent),
        "lost": sum(|told| told.lost),
        "held": sum(|told| told.held),
        "cuts": sum(|told| told.cuts),
        "holds": sum(|told| told.holds),
        "slow_links": sum(|told| told.slow_links),
        "lossy_links": sum(|told| told.lossy_links),
        "dispatcher_crashes": sum(|told| told.dispatcher_crashes),
        "dispatcher_crashes_at_work": sum(|told| told.dispatcher_crashes_at_work),
        "disk_failures": sum(|told| told.disk_failures),
        "worker_crashes": sum(|told| told.worker_crashes),
        "worker_crashes_at_work": sum(|told| told.worker_crashes_at_work),
        "nameservice_crashes": sum(|told| told.nameservice_crashes),
        "drains": sum(|told| told.drains),
        "receipted": sum(|told| told.receipted),
        "unknown": sum(|told| told.unknown),
        "executions": sum(|told| told.executions),
        "again": sum(|told| told.again),
        "cancelled": sum(|told| told.cancelled),
        "lost_executions": sum(|told| told.lost_executions),
        "stale": sum(|told| told.stale),
        "violations": all.iter().filter(|told| !told.wrong.is_empty()).count(),
    });
    println!("{figures}");
}

fn seeds() -> u64 {
    number("TASKGRID_TURMOIL_SEEDS").unwrap_or(SEEDS).max(1)
}

#[expect(clippy::disallowed_methods, reason = "how much to test is the environment's to say")]
fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")))
}

fn count(length: usize) -> u64 {
    u64::try_from(length).expect("a length fits")
}
