//! `disks`: what a bad disk does to a dispatcher under load. Its syncs fail, one of them in
//! each boot; it does not take what is written, and the system shows it all the same; its
//! syncs are slow, all of them; it is full, and has space again.
//!
//! A sync that fails by order leaves the bytes in the page cache, where the next start would
//! find them. So the power is cut after each: what was acknowledged although its sync had
//! failed would be gone, and the history would tell. After one that fails because the disk
//! does, the next start has to find out by itself what not to believe; that it did is seen
//! once memory has forgotten everything.

use std::time::{Duration, Instant};

use taskgrid::core::task::Status;

use super::campaign::{Ran, Report, Run};
use super::dice::Dice;
use super::load::Load;
use super::mount::{self, Mount};
use super::plan::Plan;
use super::process::PATIENCE;
use super::site::{Site, drain, progress};
use super::strace::{self, Effect};
use super::waits::within;
use super::work::{Deed, Work};

const WORKERS: u64 = 2;
/// Long enough that a busy machine loses no lease by itself.
const FLAGS: [&str; 2] = ["--lease", "5s"];
/// What a dispatcher has to end after a sync that failed.
const TO_END: Duration = Duration::from_secs(1);
/// What each sync takes when they are slow.
const SLOW: u32 = 150;
/// Bytes of the disk that is filled, and what is added for the tasks of each cycle.
const SMALL: u64 = 128 << 20;
const FOR_A_CYCLE: u64 = 16 << 20;
/// Bytes of the disk below the one that fails, of which its log takes a third, what is added for
/// each failure, and bytes of a task at most: in its row, so that what grows all the time is the
/// file that is written through memory. A write past it would say itself that it failed.
const BELOW: u64 = 192 << 20;
const FOR_A_FAILURE: u64 = 10 << 20;
const GROWS: usize = 250;
/// What a task takes that is running when the disk is filled, in milliseconds.
const RUNS: u64 = 1_000;
/// Tasks that are read while the disk is full.
const READ: usize = 20;

/// Runs it.
pub(crate) fn run(run: &Run) -> Ran {
    if !strace::is_here() {
        return Ran::NotRun(strace::WANTED.to_owned());
    }
    let small = SMALL + full_cycles(run) * FOR_A_CYCLE;
    let mounts = Mount::ext4().and_then(|disk| {
        let below = Mount::in_memory(BELOW + failures(run) * FOR_A_FAILURE)?;
        Ok((disk, Mount::xfs_within(&below)?, below, Mount::in_memory(small)?))
    });
    let (disk, failing, below, small) = match mounts {
        Ok(mounts) => mounts,
        Err(error) => return Ran::NotRun(format!("{}: {error}", mount::WANTED)),
    };
    let mut report = Report::default();
    let mut dice = run.dice();
    report.part("sync_errors", sync_errors(run, &disk, &mut dice));
    report.part("failing_disks", failing_disks(run, &failing, &below, &mut dice));
    report.part("slow_syncs", slow_syncs(run, &mut dice));
    report.part("full_disks", full_disks(run, &small, &mut dice));
    Ran::Done(report)
}

fn sync_errors(run: &Run, disk: &Mount, dice: &mut Dice) -> Report {
    let mut report = Report::default();
    let errors = run.many(3, 200);
    let mut site = Site::start_in(&disk.path().join("data"), &FLAGS);
    site.add_workers(WORKERS);
    let mut load = site.load(Plan::default(), dice.roll());
    let (mut met, mut in_flight) = (0, 0);
    let mut slowest = Duration::ZERO;
    for turn in 0..errors {
        site.kill_dispatcher();
        let command = site.grid.dispatcher_again();
        // The first ones are those of the start.
        let nth = dice.between(1, 60);
        let mut traced = strace::start(&command, strace::SYNCS, Effect::Failed, nth);
        let failed =
            within(PATIENCE, || strace::has_come(&mut traced, Effect::Failed).then_some(()));
        let at = Instant::now();
        in_flight += u64::from(load.is_in_flight());
        met += u64::from(failed.is_some());
        match within(TO_END * 5, || traced.ended()) {
            Some(status) if status.code() == Some(70) => slowest = slowest.max(at.elapsed()),
            Some(status) => {
                let told = traced.told(|text| Some(last_lines(text)));
                report
                    .complain(format!("error {turn}, sync {nth}: it ended with {status}: {told}"));
            }
            None => {
                let told = traced.told(|text| Some(last_lines(text)));
                report.complain(format!("error {turn}, sync {nth}: it did not end: {told}"));
            }
        }
        traced.kill();
        site.dispatcher_is_gone();
        disk.cut_power().expect("the power can be cut");
        disk.mount_again().expect("what was on the disk can be mounted");
        site.start_dispatcher();
        let up = site.dispatcher_is_up().and_then(|()| progress(&load, load.ended(), 50));
        if let Err(told) = up {
            report.complain(format!("error {turn}, sync {nth}: not up again: {told}"));
            break;
        }
    }
    site.settle(&mut load, &mut report);
    report.figure("errors", errors);
    report.at_least("errors_that_came", met, errors);
    report.at_least("errors_in_flight", in_flight, errors * 9 / 10);
    report.at_most("slowest_end_ms", millis(slowest), millis(TO_END));
    drop(load);
    site.check(&mut report, false);
    report
}

fn failures(run: &Run) -> u64 {
    run.many(3, 40)
}

fn failing_disks(run: &Run, disk: &Mount, below: &Mount, dice: &mut Dice) -> Report {
    let mut report = Report::default();
    let failures = failures(run);
    let mut site = Site::start_in(&disk.path().join("data"), &FLAGS);
    site.add_workers(WORKERS);
    let mut load = site.load(Plan { padding: GROWS, large: 0, ..Plan::default() }, dice.roll());
    let mut met = 0;
    for turn in 0..failures {
        if let Err(stuck) = progress(&load, load.ended(), dice.between(50, 600)) {
            report.complain(stuck);
            break;
        }
        below.fill().expect("it can be filled");
        let ended = within(PATIENCE, || site.grid.dispatcher.ended());
        met += u64::from(ended.is_some_and(|status| status.code() == Some(70)));
        site.kill_dispatcher();
        below.empty().expect("it can be emptied");
        let up = start_after_a_failure(&mut site).and_then(|()| progress(&load, load.ended(), 50));
        if let Err(told) = up {
            report.complain(format!("failure {turn}: not up again: {told}"));
            return report;
        }
    }
    drain(&mut load, &mut report);
    site.kill_dispatcher();
    disk.mount_again().expect("nobody has it any more");
    if let Err(told) = start_after_a_failure(&mut site) {
        report.complain(format!("once memory had forgotten it: not up again: {told}"));
        return report;
    }
    load.read_all();
    report.figure("failures", failures);
    report.exactly("failures_met", met, failures);
    drop(load);
    site.check(&mut report, false);
    report
}

/// Starts the dispatcher, again if the system tells this one of writes of the one before.
fn start_after_a_failure(site: &mut Site) -> Result<(), String> {
    site.start_dispatcher();
    match site.dispatcher_is_up() {
        Err(told) if told.contains("cannot sync") => {
            site.start_dispatcher();
            site.dispatcher_is_up()
        }
        done => done,
    }
}

fn slow_syncs(run: &Run, dice: &mut Dice) -> Report {
    let mut report = Report::default();
    let mut site = Site::with_workers(&FLAGS, WORKERS);
    let mut load = site.load(Plan::default(), dice.roll());
    site.kill_dispatcher();
    let command = site.grid.dispatcher_again();
    site.grid.dispatcher = strace::start(&command, strace::SYNCS, Effect::Slow(SLOW), 1);
    let mut fastest = Duration::MAX;
    for turn in 0..run.many(10, 200) {
        let began = Instant::now();
        let work = Work { name: String::new(), deed: Deed::Take(0), padding: 10 };
        load.submit(&format!("slow-{turn}"), &[work], |task| task);
        fastest = fastest.min(began.elapsed());
    }
    if let Err(stuck) = progress(&load, load.ended(), run.many(100, 5_000)) {
        report.complain(stuck);
    }
    // No receipt came before its sync.
    report.at_least("fastest_receipt_ms", millis(fastest), u64::from(SLOW));
    site.settle(&mut load, &mut report);
    drop(load);
    site.check(&mut report, false);
    report
}

fn full_cycles(run: &Run) -> u64 {
    run.many(2, 50)
}

fn full_disks(run: &Run, disk: &Mount, dice: &mut Dice) -> Report {
    let mut report = Report::default();
    let cycles = full_cycles(run);
    let mut site = Site::start_in(&disk.path().join("data"), &FLAGS);
    site.add_workers(WORKERS);
    let mut load = site.load(Plan::default(), dice.roll());
    let mut kept = Vec::new();
    let (mut refused, mut read, mut finished) = (0_u64, 0_u64, 0_u64);
    let mut slowest = Duration::ZERO;
    for cycle in 0..cycles {
        if let Err(stuck) = progress(&load, load.ended(), dice.between(50, 600)) {
            report.complain(stuck);
            break;
        }
        kept.extend(load.submit(&format!("kept-{cycle}"), &[one(0)], |task| task));
        let ended = within(PATIENCE, || is_completed(&load, &kept[kept.len() - 1..]).then_some(()));
        if ended.is_none() {
            report.complain(format!("cycle {cycle}: a task did not end"));
        }
        let running = load.submit(&format!("running-{cycle}"), &[one(RUNS)], |task| task);
        disk.fill().expect("it can be filled");
        let some = &kept[kept.len().saturating_sub(READ)..];
        let holds = || {
            read += u64::from(is_completed(&load, some));
            let outcome = within(PATIENCE, || is_completed(&load, &running).then_some(()));
            finished += u64::from(outcome.is_some());
        };
        let full = while_full(&load, cycle, holds, disk);
        refused += u64::from(full.was_refused);
        if let Err(stuck) = progress(&load, load.ended(), 50) {
            report.complain(stuck);
            break;
        }
        slowest = slowest.max(full.recovery);
    }
    let went_away = site.grid.dispatcher.ended();
    site.settle(&mut load, &mut report);
    if let Some(status) = went_away {
        report.complain(format!("the dispatcher ended: {status}"));
    }
    report.figure("cycles", cycles);
    report.exactly("cycles_refused", refused, cycles);
    report.exactly("cycles_read_meanwhile", read, cycles);
    report.exactly("cycles_finished_meanwhile", finished, cycles);
    report.figure("slowest_recovery_ms", millis(slowest));
    drop(load);
    site.check(&mut report, false);
    report
}

/// Whether all of these can be read with their results.
fn is_completed(load: &Load, ids: &[u64]) -> bool {
    let read = load.read(ids);
    read.len() == ids.len()
        && read.iter().all(|task| task.status == Status::Completed && task.result.is_some())
}

/// How it went on a disk without space.
struct WhileFull {
    /// A submit was refused, for this reason.
    was_refused: bool,
    /// From when there was space until what had been submitted without any had a receipt.
    recovery: Duration,
}

/// Submits until one is refused, looks what goes on meanwhile, and gives the space back.
fn while_full(load: &Load, cycle: u64, look: impl FnOnce(), disk: &Mount) -> WhileFull {
    let before = load.refused().0;
    let (was_refused, freed) = std::thread::scope(|scope| {
        let mut was_refused = false;
        // The first one may be in the group that finds no space: it waits with it.
        for part in 0..5 {
            scope.spawn(move || {
                load.submit(&format!("full-{cycle}-{part}"), &[one(0)], |task| task);
            });
            let refused = within(Duration::from_secs(2), || {
                let (refused, told) = load.refused();
                (refused > before && told.contains("no space")).then_some(())
            });
            was_refused = refused.is_some();
            if was_refused {
                break;
            }
        }
        look();
        disk.empty().expect("it can be emptied");
        // What was submitted meanwhile has its receipts when the scope is over.
        (was_refused, Instant::now())
    });
    WhileFull { was_refused, recovery: freed.elapsed() }
}

fn one(takes: u64) -> Work {
    Work { name: String::new(), deed: Deed::Take(takes), padding: 2_000 }
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().rev().take(5).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join(" / ")
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
