//! `clocks`: wall clocks jump forward and back, under load: those of the dispatcher, the
//! nameservice and the workers while they run, and that of the dispatcher before it starts
//! anew. Nothing may end, start or be forgotten for it.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use taskgrid::client::{Task, TaskView};
use taskgrid::core::task::{Reason, Status};

use super::campaign::{Ran, Report, Run};
use super::checker::{History, count};
use super::dice::Dice;
use super::load::Load;
use super::plan::Plan;
use super::site::{Site, drain, progress};
use super::wall::{self, Wall};
use super::work::{self, Deed, Work};

const WORKERS: u64 = 3;
/// Long enough that a busy machine loses no lease by itself.
const FLAGS: [&str; 4] = ["--lease", "3s", "--log-level", wall::LOG_LEVEL];
/// How far a clock jumps, in seconds; never further than a day from the right time.
const JUMPS: [i64; 6] = [1, 5, 60, 3_600, 43_201, 86_400];
const DAY: i64 = 86_400;
/// How late what is due may start at the most, in milliseconds: a free slot is there at
/// any time, but it may be a busy machine.
const LATE: i64 = 3_000;
/// The same after a restart, which first waits for the workers of before.
const LATE_AFTER_START: i64 = 6_000;
/// Timestamps have this grain, and each side rounds by itself.
const GRAIN: i64 = 5;
/// Of the tasks that are timed, of each kind at each jump.
const EACH: usize = 3;

/// Runs it.
pub(crate) fn run(run: &Run) -> Ran {
    let Some(library) = wall::library() else { return Ran::NotRun(wall::WANTED.to_owned()) };
    let (mut report, mut dice) = (Report::default(), run.dice());
    let mut part = Report::default();
    Running::start(&library, &mut dice).run(run.many(12, 100), &mut dice, &mut part);
    report.part("while_running", part);
    let mut part = Report::default();
    restarts(&library, run.many(4, 40), &mut dice, &mut part);
    report.part("before_starts", part);
    Ran::Done(report)
}

/// A task whose time is known.
struct Timed {
    id: u64,
    what: What,
    /// When it was submitted, and when it had its receipt.
    asked: i64,
    receipted: i64,
}

/// What is timed; in milliseconds.
#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    /// Not to be started before.
    Delay(i64),
    /// Its second run is not to be started before.
    Backoff(i64),
    /// To be ended then.
    Timeout(i64),
}

/// What is timed, what its handler does, and how it is asked for.
type Kind = (What, Deed, fn(Task) -> Task);

/// All of them.
const KINDS: [Kind; 5] = [
    (What::Delay(200), Deed::Take(0), |task| task.delay(Duration::from_millis(200))),
    (What::Delay(1_500), Deed::Take(0), |task| task.delay(Duration::from_millis(1_500))),
    (What::Delay(4_000), Deed::Take(0), |task| task.delay(Duration::from_secs(4))),
    (What::Backoff(700), Deed::Fail(700), |task| task),
    (What::Timeout(1_000), Deed::Take(600_000), |task| {
        task.timeout(Duration::from_secs(1)).max_attempts(1)
    }),
];

/// How long the dispatcher ran with one anchor, and how far that was ahead.
#[derive(Debug, Clone, Copy)]
struct Boot {
    from: i64,
    until: i64,
    ahead: i64,
}

fn submit(site: &Site, load: &Load, kinds: &[Kind]) -> Vec<Timed> {
    let mut all = Vec::new();
    for (kind, (what, deed, options)) in kinds.iter().enumerate() {
        let asked = millis(site.recorder.now());
        let works = vec![Work { name: String::new(), deed: *deed, padding: 0 }; EACH];
        let ids = load.submit(&format!("timed-{kind}-{asked}"), &works, *options);
        let receipted = millis(site.recorder.now());
        all.extend(ids.into_iter().map(|id| Timed { id, what: *what, asked, receipted }));
    }
    all
}

fn plan() -> Plan {
    Plan { open: 200, batch: 20, slow: 200, slow_millis: (1, 50), long: 10, ..Plan::default() }
}

/// Three roles, each with a wall clock of its own, that jump while they run.
struct Running {
    site: Site,
    dispatcher: Wall,
    nameservice: Wall,
    workers: Wall,
    load: Load,
    timed: Vec<Timed>,
    boot: Boot,
}

impl Running {
    fn start(library: &Path, dice: &mut Dice) -> Self {
        let mut site = Site::start(&[&FLAGS[..], &["--retain", "12h"]].concat());
        let wall = |name| Wall::new(library, site.recorder.path().parent().unwrap(), name);
        let (dispatcher, nameservice, workers) =
            (wall("dispatcher"), wall("nameservice"), wall("workers"));
        site.grid.nameservice_mut().kill();
        let mut command = site.grid.nameservice_again();
        command.args(["--log-level", wall::LOG_LEVEL]);
        *site.grid.nameservice_mut() = nameservice.start(command);
        site.grid.nameservice().addr();
        site.grid.dispatcher.kill();
        let from = millis(site.recorder.now());
        site.grid.dispatcher = dispatcher.start(site.grid.dispatcher_again());
        site.grid.dispatcher.addr();
        for _ in 0..WORKERS {
            let worker = workers.start(worker(&mut site));
            worker.addr();
            site.grid.workers.push(worker);
        }
        site.grid.wait_for_workers(work::TYPE, WORKERS);
        let load = site.load(plan(), dice.roll());
        let boot = Boot { from, until: i64::MAX, ahead: 0 };
        Self { site, dispatcher, nameservice, workers, load, timed: Vec::new(), boot }
    }

    fn run(mut self, jumps: u64, dice: &mut Dice, report: &mut Report) {
        let (mut seen, mut back, mut elsewhere, mut with_leases) = (0, 0, 0, 0);
        for nth in 0..jumps {
            self.timed.extend(submit(&self.site, &self.load, &KINDS));
            if let Err(stuck) = progress(&self.load, self.load.ended(), dice.between(1, 300)) {
                report.complain(stuck);
                break;
            }
            with_leases += u64::from(self.holds_leases());
            let before = self.dispatcher.ahead();
            // Every fourth goes back, whatever the dice say.
            jump(&mut self.dispatcher, nth % 4 != 3 && dice.chance(667), dice);
            back += u64::from(self.dispatcher.ahead() < before);
            seen += u64::from(self.dispatcher.is_shown_by(&self.site.grid.dispatcher));
            if dice.chance(500) {
                jump(&mut self.nameservice, dice.chance(500), dice);
                elsewhere += u64::from(self.nameservice.is_shown_by(self.site.grid.nameservice()));
            }
            if dice.chance(500) {
                jump(&mut self.workers, dice.chance(500), dice);
                let place = dice.place(self.site.grid.workers.len());
                elsewhere += u64::from(self.workers.is_shown_by(&self.site.grid.workers[place]));
            }
        }
        report.at_least("jumps_shown_by_the_dispatcher", seen, jumps);
        report.at_least("of_them_back", back, jumps / 5);
        report.at_least("jumps_shown_by_others", elsewhere, jumps / 3);
        report.at_least("jumps_with_leases", with_leases, jumps * 9 / 10);
        drain(&mut self.load, report);
        self.spurious(report);
        let (history, _) = self.site.history();
        timely(&self.timed, &history, &[self.boot], report);
        self.site.reread(&self.load);
        let Self { site, load, .. } = self;
        drop(load);
        site.check(report, false);
    }

    fn holds_leases(&self) -> bool {
        self.load.stats().workers.iter().any(|worker| worker.held > 0)
    }

    /// What ended although it should not have, by what the roles logged and by the stories.
    fn spurious(&self, report: &mut Report) {
        let told = |process: &super::process::Process, what: &str| {
            count(process.told(|text| Some(text.matches(what).count())))
        };
        let (dispatcher, nameservice) = (&self.site.grid.dispatcher, self.site.grid.nameservice());
        report.exactly("leases_lost", told(dispatcher, "lease lost"), 0);
        report.exactly("sessions_lost", told(dispatcher, "session lost"), 0);
        let ended = told(nameservice, "registration ended without a heartbeat");
        report.exactly("registrations_lost", ended, 0);
        let views = self.load.read_receipted();
        let lines = views.iter().flat_map(|view| &view.story);
        let spurious = lines.filter(|line| is_spurious(line.reason)).count();
        report.exactly("spurious_ends", count(spurious), 0);
        let created = views.iter().filter(|view| !self.is_right(view)).count();
        report.exactly("timestamps_off", count(created), 0);
        self.timeouts(&views, report);
    }

    /// The dispatcher's clock runs on from its start, whatever the wall shows.
    fn is_right(&self, view: &TaskView) -> bool {
        let now = millis(self.site.recorder.now()) + GRAIN;
        let created = millis(view.timestamp_created.0);
        let ended = view.timestamp_completed.map_or(created, |at| millis(at.0));
        self.boot.from - GRAIN <= created && created <= ended && ended <= now
    }

    fn timeouts(&self, views: &[TaskView], report: &mut Report) {
        let timed = |id| self.timed.iter().any(|t| t.id == id && is_timeout(t.what));
        let asked = self.timed.iter().filter(|timed| is_timeout(timed.what)).count();
        let hung = views.iter().filter(|view| timed(view.id.0));
        let right = hung.filter(|view| view.reason == Some(Reason::Timeout)).count();
        report.exactly("run_timeouts", count(right), count(asked));
        let others = views.iter().filter(|view| !timed(view.id.0));
        let wrong = others.filter(|view| view.status == Status::Failed).count();
        report.exactly("others_that_failed", count(wrong), 0);
    }
}

/// Restarts the dispatcher after each jump: it anchors anew, and what waits goes by that.
fn restarts(library: &Path, starts: u64, dice: &mut Dice, report: &mut Report) {
    // What ended is kept over all that a clock may be wrong.
    let mut site = Site::start(&[&FLAGS[..], &["--retain", "72h"]].concat());
    let mut wall = Wall::new(library, site.recorder.path().parent().unwrap(), "dispatcher");
    let mut options = site.worker_options();
    options.slots = 16;
    site.grid.workers.push(options.start());
    site.grid.wait_for_workers(work::TYPE, 1);
    let mut load = site.load(plan(), dice.roll());
    let mut boots = vec![Boot { from: 0, until: i64::MAX, ahead: 0 }];
    let (mut timed, mut seen, mut back, mut waiting) = (Vec::new(), 0, 0, 0);
    for start in 0..starts {
        timed.extend(submit(&site, &load, &KINDS[..4]));
        if let Err(stuck) = progress(&load, load.ended(), dice.between(1, 300)) {
            report.complain(stuck);
            break;
        }
        waiting += u64::from(!load.read(&ids(&timed)).iter().all(|view| view.status.is_terminal()));
        let before = wall.ahead();
        // At last all that was scheduled is due, however wrong the clock was before.
        if start + 1 < starts {
            jump(&mut wall, start % 2 == 1, dice);
        } else {
            wall.set(DAY + 60);
        }
        back += u64::from(wall.ahead() < before);
        site.kill_dispatcher();
        let now = millis(site.recorder.now());
        boots.last_mut().unwrap().until = now;
        site.grid.dispatcher = wall.start(site.grid.dispatcher_again());
        boots.push(Boot { from: now, until: i64::MAX, ahead: wall.ahead() * 1_000 });
        seen += u64::from(wall.is_shown_by(&site.grid.dispatcher));
    }
    report.at_least("starts_that_show_it", seen, starts);
    report.at_least("of_them_back", back, starts / 4);
    report.at_least("starts_with_tasks_that_wait", waiting, starts * 9 / 10);
    drain(&mut load, report);
    let (history, _) = site.history();
    timely(&timed, &history, &boots, report);
    site.reread(&load);
    drop(load);
    site.check(report, false);
}

/// Whether tasks started when they were due, by the anchors of the dispatcher.
fn timely(timed: &[Timed], history: &History, boots: &[Boot], report: &mut Report) {
    let (mut measured, mut early, mut slowest) = (0, 0, 0);
    for timed in timed {
        let Some((span, moment)) = span(timed, history) else { continue };
        measured += 1;
        early += u64::from(moment < span.earliest(boots) - GRAIN);
        slowest = slowest.max(moment - span.latest(boots));
    }
    report.exactly("timed", measured, count(timed.len()));
    report.exactly("early", early, 0);
    let late = if boots.len() > 1 { LATE_AFTER_START } else { LATE };
    report.at_most("slowest_ms", u64::try_from(slowest).unwrap_or(0), late.unsigned_abs());
}

/// A span of the dispatcher's clock that began between two moments, or with the boot after.
struct Span {
    from: i64,
    to: i64,
    length: i64,
    /// What it began with came from a worker, which may have kept it over a restart.
    is_reported: bool,
}

/// The span of a task, and when it was seen to be over.
fn span(timed: &Timed, history: &History) -> Option<(Span, i64)> {
    let runs = history.runs_of(timed.id);
    let runs: Vec<_> = runs.map(|(began, ended)| (millis(began), ended_at(ended))).collect();
    let is_reported = !matches!(timed.what, What::Delay(_));
    let (from, to, length, moment) = match (timed.what, &runs[..]) {
        (What::Delay(span), [(began, _), ..]) => (timed.asked, timed.receipted, span, *began),
        (What::Backoff(span), [(_, ended), .., (began, _)]) => (*ended, *ended, span, *began),
        // Its handler may take its first step late, and is gone before it can tell the last.
        (What::Timeout(span), [(began, _)]) => {
            (timed.asked, *began, span, millis(history.ended_at(timed.id)?))
        }
        _ => return None,
    };
    Some((Span { from, to, length, is_reported }, moment))
}

impl Span {
    /// What the dispatcher's clock shows when it is over, by each boot in which it may have
    /// begun.
    fn dues(&self, moment: i64, boots: &[Boot]) -> impl Iterator<Item = i64> {
        let later = boots.iter().filter(move |boot| boot.until > moment);
        let later = later.take(if self.is_reported { 2 } else { 1 });
        later.map(move |boot| moment.max(boot.from) + boot.ahead + self.length)
    }

    /// When the first boot showed that it is over, or one that showed less than that.
    fn earliest(&self, boots: &[Boot]) -> i64 {
        let due = self.dues(self.from, boots).min().unwrap_or(i64::MAX);
        let later = boots.iter().filter(|boot| boot.until > self.from);
        let shows = later.filter_map(|boot| {
            let shows = boot.from.max(due - boot.ahead);
            (shows - GRAIN <= boot.until).then_some(shows)
        });
        shows.min().unwrap_or(i64::MAX)
    }

    /// When a boot showed that it is over which then lasted long enough to act on it.
    fn latest(&self, boots: &[Boot]) -> i64 {
        let due = self.dues(self.to, boots).max().unwrap_or(i64::MIN);
        let later = boots.iter().filter(|boot| boot.until > self.to);
        let shows = later.map(|boot| (boot.from.max(due - boot.ahead).max(self.to), boot.until));
        let long_enough = shows.filter(|(shows, until)| shows + LATE_AFTER_START <= *until);
        long_enough.map(|(shows, _)| shows).min().unwrap_or(i64::MAX)
    }
}

fn worker(site: &mut Site) -> Command {
    let mut options = site.worker_options();
    (options.slots, options.log_level) = (16, Some(wall::LOG_LEVEL.to_owned()));
    options.command()
}

/// Lets a clock jump forward, or back, unless it would then be more than a day wrong.
fn jump(wall: &mut Wall, is_forward: bool, dice: &mut Dice) {
    let far = JUMPS[dice.place(JUMPS.len())];
    let (forward, back) = (wall.ahead() + far, wall.ahead() - far);
    let is_forward = forward <= DAY && (is_forward || back < -DAY);
    wall.set(if is_forward { forward } else { back });
}

fn is_spurious(reason: Option<Reason>) -> bool {
    matches!(reason, Some(Reason::Lost | Reason::Released | Reason::Unknown | Reason::Poison))
}

fn is_timeout(what: What) -> bool {
    matches!(what, What::Timeout(_))
}

fn ids(timed: &[Timed]) -> Vec<u64> {
    timed.iter().map(|timed| timed.id).collect()
}

fn millis(at: u64) -> i64 {
    i64::try_from(at).unwrap()
}

fn ended_at(at: u64) -> i64 {
    i64::try_from(at).unwrap_or(i64::MAX)
}
