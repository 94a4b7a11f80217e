//! The nameservice is killed and told to end, again and again, and then is away for long: the
//! work goes on, nothing fails, and who came meanwhile is found once it is back.

use std::time::{Duration, Instant};

use super::super::campaign::{Report, Run};
use super::super::dice::Dice;
use super::super::plan::Plan;
use super::super::process::PATIENCE;
use super::super::site::drain;
use super::super::waits::within;
use super::place::{Place, connected};
use super::pulse::Pulse;

const WORKERS: u8 = 3;
const SLOTS: u32 = 8;
const TTL: &str = "1s";
/// Long enough that a busy machine loses no lease by itself: nobody is to lose any.
const FLAGS: [&str; 2] = ["--lease", "3s"];
/// In one of so many of its absences a worker comes that it never heard of.
const NEWCOMERS: u64 = 20;

/// What came of its absences.
#[derive(Default)]
struct Absences {
    in_flight: u64,
    newcomers: u64,
    slowest_found: Duration,
    /// In per cent of before, while it was away for long.
    throughput: u64,
}

/// Runs it.
pub(super) fn run(run: &Run, report: &mut Report) {
    let (restarts, seconds) = (run.many(4, 100), run.many(2, 120));
    let mut dice = Dice::new(run.seed ^ 4);
    let mut place = Place::start(TTL, &FLAGS, WORKERS, SLOTS);
    let plan =
        Plan { open: 150, batch: 10, slow: 1_000, slow_millis: (150, 170), ..Plan::default() };
    let mut load = place.load(plan, dice.roll());
    let mut pulse = Pulse::of(&load);
    let mut absences = Absences::default();
    let mut went = Ok(());
    for restart in 0..restarts {
        went = went.and_then(|()| {
            pulse.forget();
            absences.short(restart, &mut place, &mut pulse, &mut dice)
        });
    }
    went = went.and_then(|()| absences.long(Duration::from_secs(seconds), &mut place, &mut pulse));
    drop(pulse);
    if let Err(stuck) = went {
        report.complain(stuck);
    }
    drain(&mut load, report);
    report.figure("restarts", restarts);
    report.figure("dead_seconds", seconds);
    report.at_least("with_work_in_flight", absences.in_flight, restarts * 9 / 10);
    report.at_least("newcomers_found", absences.newcomers, 1 + restarts.div_ceil(NEWCOMERS));
    let found = u64::try_from(absences.slowest_found.as_millis()).unwrap_or(u64::MAX);
    report.figure("slowest_found_ms", found);
    report.at_least("throughput_while_dead_percent", absences.throughput, 75);
    let totals = load.stats().totals.unwrap_or_default();
    report.exactly("failed", totals.failed, 0);
    report.exactly("attempts_lost", totals.lost, 0);
    place.site.reread(&load);
    drop(load);
    place.into_site().check(report, false);
}

impl Absences {
    /// It goes, and comes again soon.
    fn short(
        &mut self,
        restart: u64,
        place: &mut Place,
        pulse: &mut Pulse<'_>,
        dice: &mut Dice,
    ) -> Result<(), String> {
        pulse.watch(Duration::from_millis(dice.between(20, 700)));
        self.in_flight += u64::from(pulse.load().is_in_flight());
        if restart.is_multiple_of(2) {
            place.nameservice.kill();
        } else {
            place.nameservice.terminate();
            let ended = within(PATIENCE, || place.nameservice.ended());
            if !ended.is_some_and(|status| status.success()) {
                return Err(format!("told to end, the nameservice ended as {ended:?}"));
            }
        }
        let is_met = restart.is_multiple_of(NEWCOMERS);
        if is_met {
            place.add_worker(SLOTS);
        }
        pulse.watch(Duration::from_millis(dice.between(0, 300)));
        place.start_nameservice();
        if is_met { self.meet(place, pulse) } else { Ok(()) }
    }

    /// It goes, and is away for so long.
    fn long(
        &mut self,
        time: Duration,
        place: &mut Place,
        pulse: &mut Pulse<'_>,
    ) -> Result<(), String> {
        pulse.watch(Duration::from_secs(1));
        let before = pulse.rate();
        place.nameservice.kill();
        place.add_worker(SLOTS);
        let (died, ended) = (Instant::now(), pulse.load().ended());
        pulse.watch(time);
        let ends = pulse.load().ended() - ended;
        let rate = ends * 1_000 / u64::try_from(died.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.throughput = rate * 100 / before.max(1);
        if connected(pulse.load()) == place.workers() {
            return Err("a worker was found without a nameservice".to_owned());
        }
        place.start_nameservice();
        self.meet(place, pulse)
    }

    /// Waits until the dispatcher has found the newest worker, too.
    fn meet(&mut self, place: &Place, pulse: &Pulse<'_>) -> Result<(), String> {
        let back = Instant::now();
        if !place.all_are_back(pulse.load()) {
            return Err("a worker that started meanwhile was never found".to_owned());
        }
        self.newcomers += 1;
        self.slowest_found = self.slowest_found.max(back.elapsed());
        Ok(())
    }
}
