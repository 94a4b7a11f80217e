//! `crashes`: the dispatcher is killed with SIGKILL under load, at random moments and at
//! named points of a commit and of its own start, and started again where it was.

use std::time::{Duration, Instant};

use super::campaign::{Ran, Report, Run};
use super::plan::Plan;
use super::points;
use super::process::PATIENCE;
use super::site::{Site, progress};
use super::strace;
use super::waits::within;

const WORKERS: u64 = 3;
/// Long enough that a busy machine loses no lease by itself: only kills may.
const FLAGS: [&str; 2] = ["--lease", "3s"];

/// Runs it.
pub(crate) fn run(run: &Run) -> Ran {
    if !strace::is_here() {
        return Ran::NotRun(strace::WANTED.to_owned());
    }
    let mut report = Report::default();
    at_random(run, &mut report);
    points::run(run, &mut report);
    Ran::Done(report)
}

/// Kills at random moments: after so many ends of this boot, or so long after the start,
/// which may be before it is even ready.
fn at_random(run: &Run, report: &mut Report) {
    let (kills, mut dice) = (run.many(10, 500), run.dice());
    let mut site = Site::with_workers(&FLAGS, WORKERS);
    let mut load = site.load(Plan::default(), dice.roll());
    let (mut in_flight, mut early) = (0, 0);
    let mut slowest = Duration::ZERO;
    for kill in 0..kills {
        let is_early = kill % 5 == 4;
        if is_early {
            let moment = Instant::now() + Duration::from_millis(dice.between(0, 300));
            within(PATIENCE, || (Instant::now() >= moment).then_some(()));
            early += 1;
        } else if let Err(stuck) = progress(&load, load.ended(), dice.between(1, 1_000)) {
            report.complain(stuck);
            break;
        }
        in_flight += u64::from(load.is_in_flight());
        site.kill_dispatcher();
        let killed = Instant::now();
        site.start_dispatcher();
        if dice.chance(500) {
            site.grid.dispatcher.addr();
            slowest = slowest.max(killed.elapsed());
        }
    }
    site.settle(&mut load, report);
    report.figure("kills", kills);
    report.figure("kills_early", early);
    report.at_least("kills_in_flight", in_flight, kills * 9 / 10);
    report.figure("slowest_start_ms", u64::try_from(slowest.as_millis()).unwrap_or(u64::MAX));
    let receipted = load.receipted();
    drop(load);
    site.check(report, false);
    if receipted < kills * 400 {
        report.complain(format!("the faults did not bite: only {receipted} receipted tasks"));
    }
}
