//! Queues that are full: clients submit more than the queue may hold, for as long as it
//! lasts. What is refused says why, what is accepted is run, and there is room again.

use std::time::Duration;

use crate::campaign::{Report, Run};
use crate::dice::Dice;
use crate::plan::Plan;
use crate::site::Site;
use crate::waits::within;

/// A full size takes half of this at 200 tasks a second.
const PATIENCE: Duration = Duration::from_secs(300);

/// The usual limit, which is not met here.
const NONE: u64 = u64::MAX;

/// Fills them.
pub(super) fn run(run: &Run, dice: &mut Dice) -> Report {
    let mut report = Report::default();
    report.part("tasks", full(run, "--max-queued", 300, NONE, dice));
    report.part("bytes", full(run, "--max-queued-bytes", NONE, 40_000, dice));
    report
}

fn full(run: &Run, flag: &str, tasks: u64, bytes: u64, dice: &mut Dice) -> Report {
    let mut report = Report::default();
    let value = tasks.min(bytes).to_string();
    let mut site = Site::with_workers(&["--lease", "3s", flag, &value], 2);
    // Much more than the queue may hold, of tasks that take so long that it stays full.
    let plan =
        Plan { open: 100_000, batch: 20, slow: 1_000, slow_millis: (1, 10), ..Plan::default() };
    let mut load = site.load(plan, dice.roll());
    let (refusals, ends) = (run.many(60, 20_000), run.many(150, 20_000));
    let (mut most_tasks, mut most_bytes) = (0, 0);
    let came = within(PATIENCE, || {
        let stats = load.stats();
        let totals = stats.totals.unwrap_or_default();
        most_tasks = most_tasks.max(totals.pending + totals.running);
        most_bytes = most_bytes.max(stats.queued_bytes);
        (load.refused().0 >= refusals && load.ended() >= ends).then_some(())
    });
    if came.is_none() {
        report.complain("the grid stood still");
    }
    let (refused, told) = load.refused();
    report.at_least("refused", refused, refusals);
    report.at_least("ended_meanwhile", load.ended(), ends);
    report.at_most("most_tasks", most_tasks, tasks);
    report.at_most("most_bytes", most_bytes, bytes);
    // It was full indeed.
    let fullest = (most_tasks * 1_000 / tasks).max(most_bytes * 1_000 / bytes);
    report.at_least("fullest_per_mille", fullest, 900);
    if !told.contains(flag) {
        report.complain(format!("the refusal does not say what to do: {told:?}"));
    }
    site.settle(&mut load, &mut report);
    drop(load);
    site.check(&mut report, false);
    report
}
