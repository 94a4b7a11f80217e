//! `soak-faults`: a steady load with faults throughout, over dispatchers whose caps are low,
//! so that they are reached at once: after that nothing may grow. And `soak-open`: the same
//! without faults, under as much load as the machine takes.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use taskgrid::client::Watching;

use super::campaign::{Ran, Report, Run, Size};
use super::checker::count;
use super::dice::Dice;
use super::fleet::Fleet;
use super::gauges::{self, Allowance, Gauge};
use super::grid::Grid;
use super::load::Load;
use super::plan::Plan;
use super::process::{PATIENCE, Process};
use super::site::{Site, drain, progress};
use super::waits::within;

/// Workers that are killed and stopped, beside one that is left alone.
const WORKERS: u64 = 4;
const LEASE: &str = "3s";
/// Less than what the store holds, so that the cache is full from the beginning.
const STORE_CACHE: &str = "4MiB";
/// How long a worker is stopped: longer than its lease.
const STOPPED: Duration = Duration::from_secs(4);
/// Watches that nobody reads, at most at once.
const UNREAD: usize = 4;
/// Calls that read at once, now and then.
const READS: usize = 100;
/// How often it does so to begin with.
const FILLING: usize = 5;
/// Ended tasks go in steps, so that there are some more for a moment.
const MORE_KEPT: u64 = 4_000;

/// What belongs to a size.
#[derive(Debug, Clone, Copy)]
struct Scale {
    /// The steady load, and the open one.
    length: Duration,
    open: Duration,
    /// Tasks a second of the steady one.
    rate: u64,
    /// Ended tasks that the dispatcher keeps.
    kept: u64,
    /// The same under the open load, where a watch that comes a second late must still find
    /// what it was not told.
    kept_open: u64,
    /// Tasks of one round of it.
    round: u64,
    /// Between two samples; and between two faults.
    sampled: Duration,
    harmed: Duration,
    /// Between two restarts of the dispatcher or the nameservice.
    restarted: Duration,
    /// From the start of a process until it is measured.
    warm: Duration,
    allowed: Allowance,
    /// The same under the open load, where the allocator has more to keep.
    allowed_open: Allowance,
    disk_kib: u64,
}

impl Scale {
    fn of(run: &Run) -> Self {
        let seconds = Duration::from_secs;
        // Restarts, keys and watches leave the allocator some room that it does not give
        // back. A thread more or less is one of those that wait for the disk, a few
        // descriptors are the connections of the moment.
        let allowed = Allowance { kib: 4 << 10, percent: 5, threads: 4, descriptors: 6 };
        let full = Self {
            length: seconds(run.many(0, 1_800)),
            open: seconds(run.many(0, 360)),
            rate: 1_000,
            kept: 20_000,
            kept_open: 300_000,
            round: 100_000,
            sampled: seconds(2),
            harmed: Duration::from_millis(700),
            restarted: seconds(8),
            warm: seconds(run.many(0, 120)),
            allowed,
            allowed_open: Allowance { kib: 16 << 10, ..allowed },
            disk_kib: 16 << 10,
        };
        if run.size != Size::Short {
            return full;
        }
        Self {
            length: seconds(12),
            open: seconds(3),
            rate: 400,
            kept: 1_000,
            kept_open: 10_000,
            round: 20_000,
            sampled: Duration::from_millis(100),
            harmed: Duration::from_millis(200),
            restarted: Duration::from_millis(600),
            warm: seconds(2),
            // Over so few tasks it sees a leak only of some kilobytes a task.
            allowed: Allowance { percent: 10, ..allowed },
            disk_kib: 4 << 10,
            ..full
        }
    }

    /// The samples that a half of the steady load must have.
    fn samples(self, length: Duration) -> u64 {
        let all = length.saturating_sub(self.warm).as_millis() / self.sampled.as_millis();
        u64::try_from(all / 2).unwrap_or(u64::MAX)
    }
}

/// What a dispatcher is told that keeps so many ended tasks.
fn flags(kept: u64) -> [String; 6] {
    let kept = kept.to_string();
    let flags = ["--lease", LEASE, "--retain-tasks", &kept, "--store-cache", STORE_CACHE];
    flags.map(str::to_owned)
}

/// Runs the steady load.
pub(crate) fn faults(run: &Run) -> Ran {
    measured(|report| steady(Scale::of(run), &mut run.dice(), report))
}

/// Runs the open load.
pub(crate) fn open(run: &Run) -> Ran {
    measured(|report| as_much_as_it_takes(Scale::of(run), report))
}

fn measured(part: impl FnOnce(&mut Report)) -> Ran {
    if !std::path::Path::new("/proc/self/status").exists() {
        return Ran::NotRun("/proc, where processes show what they take".to_owned());
    }
    let mut report = Report::default();
    part(&mut report);
    Ran::Done(report)
}

fn steady(scale: Scale, dice: &mut Dice, report: &mut Report) {
    let flags = flags(scale.kept);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let mut site = Site::with_workers(&flags, 1);
    let fleet = Fleet::start_beside(&mut site, WORKERS, 1);
    let plan = Plan {
        rate: Some(scale.rate),
        // Few keys: they are remembered for a day, which no flag lowers.
        batch: scale.rate * 2 / 5,
        slow: 200,
        slow_millis: (1, 50),
        forgets: true,
        ..Plan::default()
    };
    let load = site.load(plan, dice.roll());
    let mut soak = Soak {
        site,
        fleet,
        load,
        scale,
        unread: Vec::new(),
        deck: Vec::new(),
        harm: Harm::default(),
        measured: Measured::default(),
    };
    let half = scale.length * 45 / 100;
    soak.half(half, dice);
    soak.measured.tell("first_half", scale, half, report);
    soak.restarts(scale.length / 10, dice);
    soak.measured = Measured::default();
    soak.half(half, dice);
    soak.measured.tell("second_half", scale, half, report);
    soak.end(report);
}

/// A grid under load and harm, and what it takes.
struct Soak {
    site: Site,
    fleet: Fleet,
    load: Load,
    scale: Scale,
    unread: Vec<Watching>,
    /// The harms that are still to come before each came again as often as in [`DECK`].
    deck: Vec<Kind>,
    harm: Harm,
    measured: Measured,
}

/// A harm.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Kill,
    Stop,
    Reads,
    WatchThatGoes,
    WatchUnread,
}

/// How often each comes among ten. They are dealt in a random order, not thrown, so that a
/// short run meets all of them as well.
const DECK: [Kind; 10] = {
    use Kind::{Kill, Reads, Stop, WatchThatGoes, WatchUnread};
    [Kill, Kill, Kill, Kill, Stop, Stop, Reads, WatchThatGoes, WatchUnread, WatchUnread]
};

/// What was done to it.
#[derive(Debug, Default)]
struct Harm {
    kills: u64,
    stops: u64,
    watches_left: u64,
    bursts: u64,
    watches_unread: u64,
    dispatcher_kills: u64,
    dispatcher_ends: u64,
    nameservice_kills: u64,
}

/// What the roles took, from when they were warm.
#[derive(Debug, Default)]
struct Measured {
    dispatcher: Gauge,
    nameservice: Gauge,
    worker: Gauge,
    length: Vec<u64>,
    taken: Vec<u64>,
}

impl Soak {
    /// Harms all but the dispatcher and the nameservice, which are to live long.
    fn half(&mut self, length: Duration, dice: &mut Dice) {
        // The threads for reads are one of the caps, which something to read must fill. Reads
        // that come together by chance do not always need all of them.
        progress(&self.load, self.load.ended(), 500).expect("the grid works");
        (0..FILLING).for_each(|_| self.load.read_at_once(READS));
        let began = Instant::now();
        let (mut sampled, mut harmed) = (began, began);
        while began.elapsed() < length {
            self.fleet.resume(STOPPED, &self.site);
            if sampled.elapsed() >= self.scale.sampled {
                sampled = Instant::now();
                if began.elapsed() >= self.scale.warm {
                    self.measured.sample(&self.site);
                }
            }
            if harmed.elapsed() >= self.scale.harmed {
                harmed = Instant::now();
                self.harm_once(dice);
            }
            let next = (sampled + self.scale.sampled).min(harmed + self.scale.harmed);
            std::thread::park_timeout(next.saturating_duration_since(Instant::now()));
        }
    }

    fn harm_once(&mut self, dice: &mut Dice) {
        if self.deck.is_empty() {
            self.deck.extend(DECK);
        }
        match self.deck.swap_remove(dice.place(self.deck.len())) {
            Kind::Kill => {
                let Some(place) = self.busy() else { return };
                self.fleet.kill(place, &mut self.site);
                self.harm.kills += 1;
            }
            Kind::Stop => {
                if self.fleet.stopped() > 0 {
                    return;
                }
                let Some(place) = self.busy() else { return };
                self.fleet.stop(place, &self.site);
                self.harm.stops += 1;
            }
            Kind::Reads => {
                self.load.read_at_once(READS);
                self.harm.bursts += 1;
            }
            Kind::WatchThatGoes => {
                self.harm.watches_left += u64::from(self.load.watch().is_some());
            }
            Kind::WatchUnread => {
                if self.unread.len() == UNREAD {
                    self.unread.remove(0);
                }
                self.unread.extend(self.load.watch());
                self.harm.watches_unread += 1;
            }
        }
    }

    /// A worker that holds tasks, if one comes to do so before two harms are due: at least one
    /// batch comes meanwhile.
    fn busy(&self) -> Option<usize> {
        within(self.scale.harmed * 2, || self.fleet.busy(&self.load.stats()).first().copied())
    }

    /// Kills and ends the dispatcher, and kills the nameservice, in turn.
    fn restarts(&mut self, length: Duration, dice: &mut Dice) {
        let began = Instant::now();
        let mut turn = 0;
        while began.elapsed() < length || turn < 3 {
            let restarted = Instant::now();
            self.restart(turn);
            turn += 1;
            self.harm_once(dice);
            within(self.scale.restarted, || {
                self.fleet.resume(STOPPED, &self.site);
                (restarted.elapsed() >= self.scale.restarted).then_some(())
            });
        }
    }

    fn restart(&mut self, turn: u64) {
        let grid = &mut self.site.grid;
        match turn % 3 {
            0 => {
                self.site.kill_dispatcher();
                self.harm.dispatcher_kills += 1;
            }
            1 => {
                grid.nameservice_mut().kill();
                *grid.nameservice_mut() = Process::spawn(grid.nameservice_again(), b"");
                grid.nameservice().addr();
                self.harm.nameservice_kills += 1;
                return;
            }
            _ => {
                grid.dispatcher.signal(Signal::TERM);
                let ended = within(PATIENCE, || grid.dispatcher.ended());
                assert!(ended.is_some_and(|how| how.success()), "the dispatcher ended badly");
                self.site.dispatcher_is_gone();
                self.harm.dispatcher_ends += 1;
            }
        }
        self.site.start_dispatcher();
        self.site.grid.dispatcher.addr();
    }

    fn end(mut self, report: &mut Report) {
        let (harm, scale) = (&self.harm, self.scale);
        let faults = u64::try_from(scale.length.as_millis() / scale.harmed.as_millis()).unwrap();
        report.at_least("worker_kills", harm.kills, faults / 10);
        report.at_least("worker_stops", harm.stops, 1 + faults / 100);
        report.at_least("watches_that_went", harm.watches_left, faults / 40);
        report.at_least("bursts_of_reads", harm.bursts, faults / 40);
        report.at_least("watches_that_nobody_read", harm.watches_unread, faults / 20);
        report.at_least("dispatcher_kills", harm.dispatcher_kills, 1);
        report.at_least("dispatcher_ends", harm.dispatcher_ends, 1);
        report.at_least("nameservice_kills", harm.nameservice_kills, 1);
        self.fleet.resume(Duration::ZERO, &self.site);
        self.unread.clear();
        drain(&mut self.load, report);
        let asked = scale.length.as_secs() * scale.rate;
        report.at_least("receipted_at_the_rate", self.load.receipted(), asked * 7 / 10);
        report.at_least("times_the_cap", self.load.receipted() / scale.kept, 3);
        let kept = count(self.load.read_receipted().len());
        report.at_most("kept", kept, scale.kept + MORE_KEPT);
        self.site.reread(&self.load);
        let Self { site, load, fleet, .. } = self;
        drop((load, fleet));
        site.check(report, true);
    }
}

impl Measured {
    fn sample(&mut self, site: &Site) {
        self.dispatcher.sample(site.grid.dispatcher.id());
        self.nameservice.sample(site.grid.nameservice().id());
        self.worker.sample(site.grid.workers[0].id());
        let (length, taken) = gauges::disk(site.grid.data_dir());
        self.length.push(length);
        self.taken.push(taken);
    }

    fn tell(&self, name: &str, scale: Scale, length: Duration, report: &mut Report) {
        let mut half = Report::default();
        let floor = scale.samples(length);
        let roles = [
            ("dispatcher", &self.dispatcher),
            ("nameservice", &self.nameservice),
            ("worker", &self.worker),
        ];
        for (role, gauge) in roles {
            let mut part = Report::default();
            gauge.tell(floor, scale.allowed, &mut part);
            half.part(role, part);
        }
        let store = [("store_kib", &self.length), ("store_taken_kib", &self.taken)];
        for (name, samples) in store {
            gauges::grows(name, gauges::medians(samples), scale.disk_kib, &mut half);
        }
        report.part(name, half);
    }
}

/// As many tasks as the machine takes, in whole rounds, until the time is over.
fn as_much_as_it_takes(scale: Scale, report: &mut Report) {
    let flags = flags(scale.kept_open);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let mut grid = Grid::start(&flags);
    grid.worker("hash", &[]);
    grid.wait_for_workers("hash", 1);
    let (began, mut sampled) = (Instant::now(), Instant::now());
    let (mut gauge, mut store, mut tasks, mut rounds) = (Gauge::default(), Vec::new(), 0, 0);
    // The first half is for the caps to be reached in, and for the allocator to have what each
    // thread needs at most.
    let warm = scale.open / 2;
    // No more can wait than a round has: that is one of the caps.
    let round = scale.round.to_string();
    while began.elapsed() < scale.open || rounds < 2 {
        // Few keys here as well: each submit has one, for ten minutes.
        let arguments = ["bench", "--tasks", &round, "--batch", "5000", "-o", "json"];
        let mut bench = grid.begin(&arguments, b"");
        while bench.ended().is_none() {
            let long_ago = began.elapsed() > warm && sampled.elapsed() >= scale.sampled / 2;
            if long_ago {
                sampled = Instant::now();
                gauge.sample(grid.dispatcher.id());
                store.push(gauges::disk(grid.data_dir()).1);
            }
            std::thread::park_timeout(scale.sampled / 10);
        }
        let answer = bench.answer();
        if answer.code != Some(0) {
            return report
                .complain(format!("the load ended with {:?}: {}", answer.code, answer.stderr));
        }
        let told: Value = serde_json::from_str(&answer.stdout).unwrap();
        for name in ["lost", "duplicated", "wrong"] {
            if told[name].as_u64() != Some(0) {
                report.complain(format!("{name} is {}", told[name]));
            }
        }
        tasks += told["tasks"].as_u64().unwrap();
        rounds += 1;
    }
    report.at_least("tasks", tasks, scale.kept * 10);
    report.figure("rounds", rounds);
    gauge.tell(scale.samples(scale.open).min(10), scale.allowed_open, report);
    gauges::grows("store_taken_kib", gauges::medians(&store), scale.disk_kib, report);
}
