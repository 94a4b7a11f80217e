//! Tasks that kill whoever runs them, among many that do not. A part of `workers`.

use taskgrid::client::TaskView;
use taskgrid::core::task::{Reason, Status};

use super::campaign::{Report, Run};
use super::checker::count;
use super::dice::Dice;
use super::fleet::Fleet;
use super::plan::Plan;
use super::process::PATIENCE;
use super::site::{Site, drain};
use super::waits::within;
use super::work::{Deed, Work};

const WORKERS: u64 = 6;
/// The crashes of the budget and the run alone.
const MOST_RUNS: u64 = 3 + 1;

/// Runs it.
pub(super) fn run(run: &Run, report: &mut Report) {
    let (poisons, all) = (run.many(3, 20), run.many(300, 10_000));
    let mut dice = Dice::new(run.seed ^ 2);
    let mut site = Site::start(&["--lease", "1s"]);
    let mut fleet = Fleet::start(&mut site, WORKERS);
    let mut load = site.load(Plan { clients: 0, ..Plan::default() }, dice.roll());
    let works: Vec<Work> = works(poisons, all, &mut dice);
    let ids = load.submit("mixed", &works, |task| task);

    let mut deaths = 0;
    let ended = within(PATIENCE * 4, || {
        deaths += fleet.revive(&mut site);
        (load.open() == 0).then_some(())
    });
    if ended.is_none() {
        report.complain(format!("{} tasks never ended", load.open()));
    }
    drain(&mut load, report);
    let views = load.read(&ids);
    site.reread(&load);
    drop((load, fleet));
    let is_poison = |view: &&TaskView| view.reason == Some(Reason::Poison);
    let completed = views.iter().filter(|view| view.status == Status::Completed);
    // Nothing but poison kills, and it kills a few times each.
    report.at_least("worker_deaths", deaths, poisons);
    report.at_most("most_worker_deaths", deaths, poisons * MOST_RUNS);
    report.exactly("completed", count(completed.count()), all - poisons);
    report.exactly("dead_lettered", count(views.iter().filter(is_poison).count()), poisons);
    let history = site.check(report, false);
    let ran: Vec<_> = views.iter().filter(is_poison).map(|view| history.ran(view.id.0)).collect();
    let alone = ran.iter().filter(|(_, alone)| *alone).count();
    report.exactly("last_run_alone", count(alone), poisons);
    let most = ran.iter().map(|(runs, _)| *runs).max().unwrap_or(0);
    report.at_most("most_runs_of_one", most, MOST_RUNS);
}

/// So many, of which so many are poison.
fn works(poisons: u64, all: u64, dice: &mut Dice) -> Vec<Work> {
    let works = (0..all).map(|_| {
        let deed = Deed::Take(if dice.chance(100) { dice.between(1, 20) } else { 0 });
        Work { name: String::new(), deed, padding: dice.place(50) }
    });
    let mut works: Vec<Work> = works.collect();
    let mut left = poisons;
    while left > 0 {
        let work = dice.place(works.len());
        if works[work].deed != Deed::Kill {
            works[work].deed = Deed::Kill;
            left -= 1;
        }
    }
    works
}
