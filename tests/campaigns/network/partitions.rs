//! Links that are cut, and come back: nothing is lost, and soon all is as fast as before.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use taskgrid::client::TaskView;
use taskgrid::core::task::{Reason, Status};

use super::super::campaign::{Report, Run};
use super::super::checker::count;
use super::super::dice::Dice;
use super::super::load::Load;
use super::super::plan::Plan;
use super::super::process::PATIENCE;
use super::super::site::drain;
use super::own::{self, Fate};
use super::place::{Place, Side};
use super::pulse::Pulse;

const WORKERS: u8 = 6;
const SLOTS: u32 = 8;
const LEASE: Duration = Duration::from_secs(1);
const TTL: &str = "1500ms";
const FLAGS: [&str; 2] = ["--lease", "1s"];
/// Nine tenths of the throughput are promised back within this.
const BOUND: Duration = LEASE.saturating_add(Duration::from_secs(2));

/// What is done to links, or to those at their ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    TwoWay,
    Towards,
    Away,
    Resets,
    Loss,
    Frozen,
    Delay,
    Throttle,
    Silent,
}

/// Those that are counted as partitions.
const PARTITIONS: [Kind; 6] =
    [Kind::TwoWay, Kind::Towards, Kind::Away, Kind::Resets, Kind::Loss, Kind::Frozen];
/// Those that only make a link bad.
const OTHERS: [Kind; 3] = [Kind::Delay, Kind::Throttle, Kind::Silent];

/// One of them, from its plan to its end.
#[derive(Debug)]
struct Fault {
    kind: Kind,
    side: Side,
    length: Duration,
    /// In the time of the history.
    began: u64,
    /// Whose executions it may cost.
    workers: Vec<String>,
    /// Ends a second.
    before: u64,
    fell: bool,
    was_in_flight: bool,
    back: Option<Duration>,
}

/// Runs it.
pub(super) fn run(run: &Run, report: &mut Report) {
    let mut dice = Dice::new(run.seed ^ 3);
    let mut faults = plan(run, &mut dice);
    let mut place = Place::start(TTL, &FLAGS, WORKERS, SLOTS);
    let plan =
        Plan { open: 300, batch: 10, slow: 1_000, slow_millis: (150, 170), ..Plan::default() };
    let mut load = place.load(plan, dice.roll());
    let mut pulse = Pulse::of(&load);
    pulse.watch(Duration::from_secs(2));
    let usual = pulse.rate();
    for fault in &mut faults {
        if let Err(stuck) = fault.happen(&place, &mut pulse, usual, &mut dice) {
            report.complain(stuck);
            break;
        }
    }
    drop(pulse);
    drain(&mut load, report);
    report.figure("ends_a_second", usual);
    tell(run, &faults, report);
    outcomes(&load, &faults, report);
    place.site.reread(&load);
    drop(load);
    let history = place.into_site().check(report, false);
    let bit = |fault: &&Fault| match (&fault.side, fault.kind) {
        // A dispatcher that stands still costs no worker anything.
        (Side::Clients, _) | (Side::Dispatcher, Kind::Frozen) => fault.was_in_flight,
        (Side::Workers(_) | Side::Doors(_) | Side::Dispatcher, _) => {
            history.under_way(&fault.workers, fault.began) > 0
        }
    };
    let bit = count(faults.iter().filter(bit).count());
    report.at_least("with_work_in_flight", bit, count(faults.len()) * 9 / 10);
}

/// As many of each kind, on all sides and for longer and shorter than a lease, in any order.
fn plan(run: &Run, dice: &mut Dice) -> Vec<Fault> {
    let (each, others) = (run.many(1, 20), run.many(0, 10));
    let kinds = PARTITIONS.into_iter().enumerate().map(|kind| (kind, each));
    // In a short run there is time for one of them.
    let one = OTHERS[dice.place(OTHERS.len())];
    let others = OTHERS.into_iter().enumerate().map(|(place, kind)| {
        ((place, kind), if others == 0 { u64::from(kind == one) } else { others })
    });
    let mut faults: Vec<Fault> = kinds
        .chain(others)
        .flat_map(|((place, kind), times)| {
            let first = u64::try_from(place).expect("a place fits");
            (first..first + times).map(move |round| (round, kind))
        })
        // Much longer than a lease, if there is the time.
        .map(|(round, kind)| Fault::plan(kind, round, each > 1 && round % 7 == 3, dice))
        .collect();
    for place in (1..faults.len()).rev() {
        faults.swap(place, dice.place(place + 1));
    }
    faults
}

impl Fault {
    fn plan(kind: Kind, round: u64, is_far: bool, dice: &mut Dice) -> Self {
        let workers = || (0..usize::from(WORKERS)).collect::<Vec<_>>();
        let some = |dice: &mut Dice| {
            let mut some = workers();
            for _ in 0..dice.between(2, 4) {
                some.remove(dice.place(some.len()));
            }
            some
        };
        let side = match (round % 6, kind) {
            (0, _) => Side::Workers(some(dice)),
            (2, _) | (1, Kind::Silent) => Side::Doors(some(dice)),
            (1, _) => Side::Clients,
            (3, _) => Side::Workers(workers()),
            (5, _) | (_, Kind::Silent) => Side::Doors(workers()),
            _ => Side::Dispatcher,
        };
        let lease = u64::try_from(LEASE.as_millis()).expect("a lease fits");
        let millis = match kind {
            Kind::Silent => 0,
            _ if is_far && PARTITIONS.contains(&kind) => dice.between(lease * 4, lease * 10),
            _ if round % 4 < 2 => dice.between(lease * 12 / 10, lease * 25 / 10),
            _ => dice.between(lease / 5, lease * 9 / 10),
        };
        Self {
            kind,
            side,
            length: Duration::from_millis(millis),
            began: 0,
            workers: Vec::new(),
            before: 0,
            fell: false,
            was_in_flight: false,
            back: None,
        }
    }

    /// Lets it begin, end, and pass.
    fn happen(
        &mut self,
        place: &Place,
        pulse: &mut Pulse<'_>,
        usual: u64,
        dice: &mut Dice,
    ) -> Result<(), String> {
        pulse.forget();
        let is_usual =
            |pulse: &Pulse<'_>| Some(pulse.rate()).filter(|rate| *rate * 20 >= usual * 17);
        let before = pulse.watch_for(PATIENCE, is_usual);
        let before = before.ok_or_else(|| format!("never as usual again, before {self:?}"))?;
        // What was held up by the one before may have come within that second.
        self.before = before.min(usual);
        self.was_in_flight = pulse.load().is_in_flight();
        self.began = place.site.recorder.now();
        let began = Instant::now();
        self.begin(place, dice);
        pulse.watch(self.length);
        self.heal(place);
        self.back = pulse.watch_for_return(self.before, PATIENCE);
        self.fell = pulse.fell(began, self.before);
        if self.back.is_none() {
            return Err(format!("never as fast as before again, after {self:?}"));
        }
        if !place.all_are_back(pulse.load()) {
            return Err(format!("workers never came back after {self:?}"));
        }
        Ok(())
    }

    fn begin(&mut self, place: &Place, dice: &mut Dice) {
        if !matches!((self.kind, &self.side), (Kind::Frozen, Side::Dispatcher)) {
            self.workers = place.names(&self.side);
        }
        let matches = place.matches(&self.side);
        let doors = place.doors(&self.side);
        let harmed = match self.kind {
            Kind::TwoWay => own::harm(&matches.both(), Fate::Dropped),
            Kind::Towards => own::harm(&matches.towards, Fate::Dropped),
            Kind::Away => own::harm(&matches.away, Fate::Dropped),
            Kind::Resets => own::harm(&matches.both(), Fate::Reset),
            Kind::Loss => own::harm(&matches.both(), Fate::Lossy(dice.between(200, 600))),
            Kind::Frozen => {
                place.signal(&self.side, Signal::STOP);
                Ok(())
            }
            Kind::Delay => {
                let by = Duration::from_millis(dice.between(50, 500));
                for door in doors {
                    door.delay(by);
                }
                Ok(())
            }
            Kind::Throttle => {
                let bytes = dice.between(1_000, 4_000);
                for door in doors {
                    door.throttle(bytes);
                }
                Ok(())
            }
            Kind::Silent => {
                for door in doors {
                    door.silence();
                }
                Ok(())
            }
        };
        harmed.expect("rules that were tried before can be set");
    }

    fn heal(&self, place: &Place) {
        match self.kind {
            Kind::Frozen => place.signal(&self.side, Signal::CONT),
            Kind::Delay | Kind::Throttle => {
                for door in place.doors(&self.side) {
                    door.heal();
                }
            }
            Kind::Silent => {}
            Kind::TwoWay | Kind::Towards | Kind::Away | Kind::Resets | Kind::Loss => {
                own::heal().expect("rules that were set can be taken back");
            }
        }
        place.were_cut_off(self.workers.clone(), self.began);
    }

    fn is_partition(&self) -> bool {
        PARTITIONS.contains(&self.kind)
    }

    /// Whether nothing can go on at this side for longer than a lease.
    fn is_hard(&self) -> bool {
        let is_soft = matches!(self.kind, Kind::Loss | Kind::Delay | Kind::Throttle);
        !is_soft && (self.length > LEASE || self.kind == Kind::Silent)
    }
}

/// How it went.
fn tell(run: &Run, faults: &[Fault], report: &mut Report) {
    let partitions = faults.iter().filter(|fault| fault.is_partition());
    report.figure("partitions", count(partitions.count()));
    report.figure("other_faults", count(faults.iter().filter(|f| !f.is_partition()).count()));
    let longer = faults.iter().filter(|fault| fault.length > LEASE);
    report.at_least("longer_than_a_lease", count(longer.count()), count(faults.len()) / 3);
    let (mut hard, mut fell) = (0, 0);
    for fault in faults.iter().filter(|fault| fault.is_hard()) {
        hard += 1;
        fell += u64::from(fault.fell);
    }
    report.figure("hard_ones", hard);
    report.at_least("hard_ones_that_slowed", fell, hard * 9 / 10);
    let slow = |fault: &&Fault| !run.is_short() && fault.back.is_some_and(|back| back > BOUND);
    for fault in faults.iter().filter(slow) {
        report.complain(format!("too slow to be back: {fault:?}"));
    }
    for kind in PARTITIONS.into_iter().chain(OTHERS) {
        let backs = faults.iter().filter(|fault| fault.kind == kind).filter_map(|f| f.back);
        let slowest = backs.max().unwrap_or_default();
        let millis = u64::try_from(slowest.as_millis()).unwrap_or(u64::MAX);
        let name = format!("slowest_back_ms_{kind:?}").to_lowercase();
        report.in_time(run, &name, millis, u64::try_from(BOUND.as_millis()).unwrap_or(u64::MAX));
    }
}

/// What became of the tasks.
fn outcomes(load: &Load, faults: &[Fault], report: &mut Report) {
    let totals = load.stats().totals.unwrap_or_default();
    let long =
        |fault: &&Fault| fault.is_hard() && matches!(fault.side, Side::Workers(_) | Side::Doors(_));
    let long = count(faults.iter().filter(long).count());
    report.at_least("attempts_lost", totals.lost, long);
    report.at_least("late_outcomes_refused", totals.fenced, long);
    let views = load.read_receipted();
    let failed =
        |view: &&TaskView| view.status == Status::Failed && view.reason != Some(Reason::Unknown);
    let failed: Vec<_> = views.iter().filter(failed).collect();
    if let Some(first) = failed.first() {
        report.complain(format!("task {} failed: {:?}", first.id, first.story));
    }
    report.exactly("failed", count(failed.len()), 0);
    let unknown = views.iter().filter(|view| view.reason == Some(Reason::Unknown));
    report.figure("at_most_once_and_unknown", count(unknown.count()));
}
