//! Named points at which the dispatcher is killed: what the system calls of a commit and
//! of a start tell apart. The second half of the campaign `crashes`.
//!
//! ```text
//!  append ──▶ sync ──▶ answers          a start: reads ──▶ repair, epoch ──▶ syncs ──▶ listens
//!  pwrite*    fdatasync  writev                  pread64    pwrite*          fdatasync
//! ```
//!
//! A commit of small tasks is one of the journal, of which the database takes many at once
//! later; one of large tasks is one of the database. So some points are met by a load of small
//! tasks, and some by one of large ones.
//!
//! A start is made by a thread of its own, and calls are counted by threads. So a number that
//! no start reaches is met by a commit, and by no start. Only calls on the point's file count.
//!
//! A kill as a call is entered is one before it. For one after it the thread is held
//! when the call is over, and then the process is killed.

use std::time::Duration;

use super::campaign::{Report, Run};
use super::dice::Dice;
use super::load::Load;
use super::plan::Plan;
use super::site::{Site, progress};
use super::strace::{self, Calls, Effect};
use super::waits::within;

/// How long a point is waited for. A traced process is slow.
const PATIENCE: Duration = Duration::from_secs(30);
/// Longer than the campaign takes to see that a thread is held. The tracer lets go of a
/// killed process only when this is over.
const HELD: Effect = Effect::HeldAfter(1_500);
/// The database in its directory, the journal, and the file of packs.
const DATABASE: &str = "taskgrid.redb";
const JOURNAL: &str = "JOURNAL";
const PACKS: &str = "PACKS";
/// Padding of tasks whose batches are too large for the journal.
const LARGE: usize = 10_000;
/// Ended tasks that are kept: so few that every group of commits trims.
const KEPT: &str = "200";

#[derive(Debug, Clone, Copy)]
struct Point {
    name: &'static str,
    /// The file on which the call is made; `None` for sockets.
    file: Option<&'static str>,
    call: &'static str,
    effect: Effect,
    /// Which of these calls, one of `from` to `to`.
    from: u64,
    to: u64,
    when: When,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    /// At once.
    AtOnce,
    /// Once clients wait for the next group, which is decided and not appended.
    NextGroupWaits,
}

type Call = (Option<&'static str>, &'static str);

const fn point(name: &'static str, call: Call, effect: Effect, calls: (u64, u64)) -> Point {
    let (file, call) = call;
    Point { name, file, call, effect, from: calls.0, to: calls.1, when: When::AtOnce }
}

/// How often a point is tried for each time that it is to be hit: under load the call that
/// was counted on may not come.
const TRIES: u64 = 3;

/// However the pages of a commit are written: each by itself, or many in one call.
const WRITE: Call = (Some(DATABASE), "pwrite64,pwritev,pwritev2");
const SYNC: Call = (Some(DATABASE), "fdatasync");
const JOURNAL_WRITE: Call = (Some(JOURNAL), WRITE.1);
const JOURNAL_SYNC: Call = (Some(JOURNAL), SYNC.1);
const PACKS_WRITE: Call = (Some(PACKS), WRITE.1);
const PACKS_SYNC: Call = (Some(PACKS), SYNC.1);
/// The only calls that are made on other files: sockets.
const ANSWER: Call = (None, "writev");

/// Syncs and writes of a commit: beyond those of any start, of which there are some ten and
/// some thirty. A commit has one sync, and at least one write; large ones take their time.
const SYNCS: (u64, u64) = (20, 30);
const WRITES: (u64, u64) = (40, 120);
/// Those in the journal, of which a start syncs one and writes none.
const IN_JOURNAL: (u64, u64) = (2, 60);

/// Those of the file of packs, in which a start writes one block.
const IN_PACKS: (u64, u64) = (2, 40);

/// Points of a commit in the journal.
const SMALL_COMMIT: [Point; 6] = [
    Point { when: When::NextGroupWaits, ..point("before_append", JOURNAL_SYNC, HELD, IN_JOURNAL) },
    point("within_append", JOURNAL_WRITE, Effect::Killed, IN_JOURNAL),
    point("before_sync", JOURNAL_SYNC, Effect::Killed, IN_JOURNAL),
    point("after_sync", JOURNAL_SYNC, HELD, IN_JOURNAL),
    point("before_answer", ANSWER, Effect::Killed, (10, 200)),
    point("after_answer", ANSWER, HELD, (10, 200)),
];

/// Points of a commit of the database, which takes what is in the journal, too, and has large
/// payloads in the file of packs.
const LARGE_COMMIT: [Point; 7] = [
    point("within_packs", PACKS_WRITE, Effect::Killed, IN_PACKS),
    point("before_packs_sync", PACKS_SYNC, Effect::Killed, IN_PACKS),
    point("after_packs_sync", PACKS_SYNC, HELD, IN_PACKS),
    Point { when: When::NextGroupWaits, ..point("before_large_append", SYNC, HELD, SYNCS) },
    point("within_large_append", WRITE, Effect::Killed, WRITES),
    point("before_large_sync", SYNC, Effect::Killed, SYNCS),
    point("after_large_sync", SYNC, HELD, SYNCS),
];

/// The point after the file grew: that is often only while it is small.
const GROWTH: [Point; 1] = [point("after_growth", (Some(DATABASE), "ftruncate"), HELD, (1, 2))];
/// How often it is hit in one store.
const GROWTHS: u64 = 4;

/// Points of a commit that also trims.
const TRIM: [Point; 3] = [
    point("within_trim", WRITE, Effect::Killed, WRITES),
    point("before_trim_sync", SYNC, Effect::Killed, SYNCS),
    point("after_trim_sync", SYNC, HELD, SYNCS),
];

/// Points of the start after a kill. Its repair, what it takes from the journal, and its epoch
/// take some syncs.
const START: [Point; 6] = [
    point("start_reading", (Some(DATABASE), "pread64"), Effect::Killed, (1, 60)),
    point("start_reading_journal", (Some(JOURNAL), "pread64"), Effect::Killed, (1, 1)),
    point("start_writing", WRITE, Effect::Killed, (1, 8)),
    point("start_before_sync", SYNC, Effect::Killed, (1, 8)),
    point("start_after_sync", SYNC, HELD, (1, 8)),
    point("start_before_drop_of_pages", (Some(JOURNAL), "fadvise64"), Effect::Killed, (1, 1)),
];

/// Hits each point, and has the histories checked.
pub(super) fn run(run: &Run, report: &mut Report) {
    let times = run.many(1, 20);
    let mut dice = Dice::new(run.seed ^ 1);
    let small = Plan { open: 400, ..Plan::default() };
    let large = Plan { padding: LARGE, ..small.clone() };
    let trimmed = Plan { forgets: true, ..large.clone() };
    let keeps = ["--lease", "3s"];
    let mut part = Report::default();
    let points = [&SMALL_COMMIT[..], &START[..]].concat();
    at(&points, times, &small, &keeps, &mut dice, &mut part);
    report.part("points", part);
    let mut part = Report::default();
    at(&LARGE_COMMIT, times, &large, &keeps, &mut dice, &mut part);
    report.part("large", part);
    let mut part = Report::default();
    let forgets = ["--lease", "3s", "--retain-tasks", KEPT];
    at(&TRIM, times, &trimmed, &forgets, &mut dice, &mut part);
    report.part("trims", part);
    for store in 0..times.div_ceil(GROWTHS) {
        let mut part = Report::default();
        at(&GROWTH, times.min(GROWTHS), &large, &keeps, &mut dice, &mut part);
        report.part(&format!("growth {store}"), part);
    }
}

fn at(
    points: &[Point],
    times: u64,
    plan: &Plan,
    flags: &[&str],
    dice: &mut Dice,
    report: &mut Report,
) {
    let mut site = Site::with_workers(flags, 2);
    let mut load = site.load(plan.clone(), dice.roll());
    let mut stuck = Ok(());
    for point in points {
        let (mut hits, mut tries) = (0, 0);
        while hits < times && tries < times * TRIES {
            tries += 1;
            stuck = stuck.and_then(|()| progress(&load, load.ended(), 50));
            site.kill_dispatcher();
            hits += u64::from(hit(&mut site, &load, point, dice));
            site.start_dispatcher();
            site.grid.dispatcher.addr();
        }
        report.at_least(point.name, hits, times);
        report.figure(&format!("{}_tries", point.name), tries);
    }
    if let Err(stuck) = stuck {
        report.complain(stuck);
    }
    site.settle(&mut load, report);
    drop(load);
    site.check(report, plan.forgets);
}

/// Starts the dispatcher, and kills it at the point; whether it got there.
fn hit(site: &mut Site, load: &Load, point: &Point, dice: &mut Dice) -> bool {
    let nth = dice.between(point.from, point.to);
    let command = site.grid.dispatcher_again();
    let file = point.file.map(|name| site.grid.data_dir().join(name));
    let calls = Calls { names: point.call, file: file.as_deref() };
    let mut traced = strace::start(&command, calls, point.effect, nth);
    let met =
        within(PATIENCE, || strace::has_come(&mut traced, point.effect).then_some(())).is_some();
    let waits = match point.when {
        When::AtOnce => Some(()),
        When::NextGroupWaits => within(PATIENCE, || load.is_asking().then_some(())),
    };
    traced.kill();
    site.dispatcher_is_gone();
    met && waits.is_some() && load.is_in_flight()
}
