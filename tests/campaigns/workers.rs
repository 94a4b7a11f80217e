//! `workers`: workers are killed, stopped until their leases are over and woken again, and
//! replaced at the same address; handlers panic, hang and give too much; tasks kill whoever
//! runs them.

use std::collections::BTreeMap;
use std::time::Duration;

use taskgrid::client::TaskView;
use taskgrid::core::task::{Reason, Status};

use super::campaign::{Ran, Report, Run};
use super::checker::{History, Lost, count};
use super::dice::Dice;
use super::fleet::Fleet;
use super::load::Load;
use super::plan::Plan;
use super::poison;
use super::process::PATIENCE;
use super::site::{Site, drain, progress};
use super::waits::within;
use super::work::{Deed, Work};

const WORKERS: u64 = 10;
/// In milliseconds, as in the flags.
const LEASE: u64 = 1_000;
const FLAGS: [&str; 4] = ["--lease", "1s", "--max-payload", "64KiB"];
/// How long a worker is stopped: its lease is over, and others have run its tasks.
const STOPPED: Duration = Duration::from_millis(2_500);
/// A lost task can be given to others so long after its lease at the latest.
const GRACE: u64 = 1_000;

/// Runs it.
pub(crate) fn run(run: &Run) -> Ran {
    let mut report = Report::default();
    losses(run, &mut report);
    let mut part = Report::default();
    poison::run(run, &mut part);
    report.part("poison", part);
    Ran::Done(report)
}

fn losses(run: &Run, report: &mut Report) {
    let (kills, zombies, mut dice) = (run.many(20, 1_000), run.many(9, 300), run.dice());
    let mut site = Site::start(&FLAGS);
    let mut fleet = Fleet::start(&mut site, WORKERS);
    let plan = Plan {
        open: 200,
        batch: 20,
        slow: 1_000,
        slow_millis: (1, 60),
        long: 20,
        ..Plan::default()
    };
    let mut load = site.load(plan, dice.roll());
    odd_handlers(&load, report);
    if let Err(stuck) = harm(&mut site, &mut fleet, &load, kills, zombies, &mut dice) {
        report.complain(stuck);
    }
    drain(&mut load, report);
    report.figure("kills", kills);
    report.figure("zombies", zombies);
    let fenced = load.stats().totals.map_or(0, |totals| totals.fenced);
    let (history, _) = site.history();
    bite(&history, fenced, kills, zombies, report);
    requeues(&history, &load, (kills + zombies) * 7 / 10, report);
    site.reread(&load);
    drop((load, fleet));
    site.check(report, false);
}

/// Tasks whose handlers do what they should not.
fn odd_handlers(load: &Load, report: &mut Report) {
    const EACH: usize = 5;
    let works = |deed| vec![Work { name: String::new(), deed, padding: 0 }; EACH];
    let large = load.submit("large", &works(Deed::Give(100_000)), |task| task);
    let panics = load.submit("panics", &works(Deed::Panic), |task| task);
    let hangs = load.submit("hangs", &works(Deed::Take(600_000)), |task| {
        task.timeout(Duration::from_millis(200)).max_attempts(1)
    });
    let ended = |ids: &[u64]| {
        let views = within(PATIENCE, || {
            let views = load.read(ids);
            views.iter().all(|view| view.status.is_terminal()).then_some(views)
        });
        views.unwrap_or_default()
    };
    let mut tell = |name, views: &[TaskView], is_right: fn(&TaskView) -> bool| {
        report.exactly(name, count(views.iter().filter(|v| is_right(v)).count()), count(EACH));
    };
    tell("too_large_results_refused", &ended(&large), |view| {
        (view.reason, view.attempts) == (Some(Reason::Permanent), 1)
    });
    tell("panics_survived", &ended(&panics), |view| {
        (view.status, view.attempts) == (Status::Completed, 2)
    });
    tell("hangs_ended", &ended(&hangs), |view| view.reason == Some(Reason::Timeout));
}

/// Kills and stops workers that hold tasks.
fn harm(
    site: &mut Site,
    fleet: &mut Fleet,
    load: &Load,
    kills: u64,
    zombies: u64,
    dice: &mut Dice,
) -> Result<(), String> {
    let (mut killed, mut stopped) = (0, 0);
    while killed < kills || stopped < zombies || fleet.stopped() > 0 {
        fleet.resume(STOPPED, site);
        progress(load, load.ended(), dice.between(1, 10))?;
        let busy = fleet.busy(&load.stats());
        // Somebody must be left who takes the tasks up.
        if busy.len() < 3 {
            continue;
        }
        let place = busy[dice.place(busy.len())];
        if stopped < zombies && fleet.stopped() < fleet.len() / 3 && dice.chance(500) {
            fleet.stop(place, site);
            stopped += 1;
        } else if killed < kills {
            fleet.kill(place, site);
            killed += 1;
        }
    }
    Ok(())
}

/// Whether kills took executions with them, and zombies offered what nobody wants.
fn bite(history: &History, fenced: u64, kills: u64, zombies: u64, report: &mut Report) {
    let mut workers: Vec<String> = history.lost().into_iter().map(|lost| lost.worker).collect();
    workers.sort();
    workers.dedup();
    let losses = kills + zombies;
    report.at_least("losses_with_executions", count(workers.len()), losses * 7 / 10);
    let (stale, contested) = history.stale();
    report.figure("stale_results", stale);
    // A late result is refused for two reasons: the task has ended, or it runs anew.
    report.at_least("stale_while_a_newer_one_ran", contested, (zombies / 10).max(1));
    report.at_least("stale_outcomes_refused", fenced, zombies * 250 / 300);
}

/// How long it took until a lost execution's task could be given to others. A stopped worker's
/// late success may be welcome, and then nothing was lost.
fn requeues(history: &History, load: &Load, floor: u64, report: &mut Report) {
    let lost = history.lost();
    let ids: Vec<u64> = lost.iter().map(|lost| lost.task).collect();
    let views: BTreeMap<u64, TaskView> =
        load.read(&ids).into_iter().map(|view| (view.id.0, view)).collect();
    let delays: Vec<u64> = lost.iter().filter_map(|lost| delay(lost, &views)).collect();
    report.at_least("lost_executions", count(delays.len()), floor);
    let slowest = delays.iter().copied().max().unwrap_or(0);
    report.at_most("slowest_requeue_ms", slowest, LEASE + GRACE);
    let poisoned = views.values().filter(|view| view.reason == Some(Reason::Poison));
    report.figure("failed_as_poison", count(poisoned.count()));
}

/// From the loss to the end of the lease, unless it ended otherwise.
fn delay(lost: &Lost, views: &BTreeMap<u64, TaskView>) -> Option<u64> {
    let story = &views.get(&lost.task)?.story;
    let line = story.iter().find(|line| line.attempt == lost.attempt)?;
    let is_lost = matches!(
        line.reason,
        Some(Reason::Lost | Reason::Released | Reason::Unknown | Reason::Poison)
    );
    is_lost.then(|| line.timestamp_ended.map(|end| end.0.saturating_sub(lost.at)))?
}
