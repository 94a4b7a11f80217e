//! `drains`: workers and the dispatcher get SIGTERM in the midst of work, with watches and
//! sessions open, and with peers attached that say nothing, or not enough. Each must end
//! in good order and in time, and no task may be run twice or charged for it.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use taskgrid::client::TaskView;
use taskgrid::core::task::Reason;

use super::campaign::{Ran, Report, Run};
use super::checker::count;
use super::dice::Dice;
use super::fleet::Fleet;
use super::load::Load;
use super::plan::Plan;
use super::site::{Site, drain, progress};
use super::waits::within;

const WORKERS: u64 = 3;
/// Nothing may take longer to end.
const PATIENCE: Duration = Duration::from_secs(10);
/// Silent peers at each process that is told to end; half of them begin to speak.
const PEERS: usize = 6;
/// The beginning of what a client of HTTP/2 says first.
const HALF_A_PREFACE: &[u8] = b"PRI * HTTP/2.0";

/// How those that were told to end did so.
#[derive(Default)]
struct Ends {
    told: u64,
    well: u64,
    slowest: Duration,
}

/// Runs it.
pub(crate) fn run(run: &Run) -> Ran {
    let (each, mut dice) = (run.many(3, 30), run.dice());
    let mut report = Report::default();
    let mut site = Site::start(&["--lease", "3s"]);
    let mut fleet = Fleet::start(&mut site, WORKERS);
    let plan = Plan {
        open: 200,
        batch: 20,
        slow: 300,
        slow_millis: (1, 200),
        failing: 0,
        ..Plan::default()
    };
    let mut load = site.load(plan, dice.roll());
    load.also_watch(3);
    let (mut workers, mut dispatchers) = (Ends::default(), Ends::default());
    let mut in_flight = 0;
    for _ in 0..each {
        let done = rounds(&mut site, &mut fleet, &load, &mut dice, &mut workers, &mut dispatchers);
        match done {
            Ok(busy) => in_flight += busy,
            Err(stuck) => {
                report.complain(stuck);
                break;
            }
        }
    }
    drain(&mut load, &mut report);
    workers.tell("workers", each, &mut report);
    dispatchers.tell("dispatchers", each, &mut report);
    report.at_least("told_with_work_in_flight", in_flight, each * 2 * 9 / 10);
    charged(&load, &mut report);
    site.reread(&load);
    drop((load, fleet));
    site.check(&mut report, false);
    Ran::Done(report)
}

/// A worker is told to end, and then the dispatcher; how often work was in flight.
fn rounds(
    site: &mut Site,
    fleet: &mut Fleet,
    load: &Load,
    dice: &mut Dice,
    workers: &mut Ends,
    dispatchers: &mut Ends,
) -> Result<u64, String> {
    let mut in_flight = 0;
    progress(load, load.ended(), dice.between(20, 200))?;
    // One that holds tasks.
    let busy = within(PATIENCE, || fleet.busy(&load.stats()).first().copied());
    let place = busy.ok_or("no worker holds a task")?;
    let peers = silent_peers(fleet.addr(place));
    in_flight += u64::from(load.is_in_flight());
    workers.add(fleet.terminate(place, site, PATIENCE));
    drop(peers);

    progress(load, load.ended(), dice.between(20, 200))?;
    let peers = silent_peers(site.grid.dispatcher_addr);
    in_flight += u64::from(load.is_in_flight());
    let asked = Instant::now();
    site.grid.dispatcher.terminate();
    let ended = within(PATIENCE, || site.grid.dispatcher.ended());
    dispatchers.add((ended, asked.elapsed()));
    drop(peers);
    site.start_dispatcher();
    site.grid.dispatcher.addr();
    Ok(in_flight)
}

/// Connections that say nothing, or stop in the middle of the first word.
fn silent_peers(addr: SocketAddr) -> Vec<TcpStream> {
    let peers = (0..PEERS).map(|number| {
        let mut peer = TcpStream::connect(addr).expect("a role takes connections");
        if number % 2 == 1 {
            peer.write_all(HALF_A_PREFACE).expect("a peer can speak");
        }
        peer
    });
    peers.collect()
}

/// No task was charged with anything.
fn charged(load: &Load, report: &mut Report) {
    let views = load.read_receipted();
    let charged = |view: &&TaskView| {
        let mut reasons = view.story.iter().filter_map(|line| line.reason);
        reasons.any(|reason| !matches!(reason, Reason::Released | Reason::Cancelled))
    };
    let charged: Vec<_> = views.iter().filter(charged).collect();
    if let Some(first) = charged.first() {
        report.complain(format!("task {} was charged: {:?}", first.id, first.story));
    }
    report.exactly("charged", count(charged.len()), 0);
    let given_back = views.iter().filter(|view| view.attempts > 1);
    report.figure("given_back", count(given_back.count()));
}

impl Ends {
    fn add(&mut self, (ended, took): (Option<ExitStatus>, Duration)) {
        self.told += 1;
        self.well += u64::from(ended.is_some_and(|status| status.success()));
        self.slowest = self.slowest.max(took);
    }

    fn tell(&self, who: &str, each: u64, report: &mut Report) {
        report.at_least(&format!("{who}_told"), self.told, each);
        report.exactly(&format!("{who}_ended_well"), self.well, self.told);
        let slowest = u64::try_from(self.slowest.as_millis()).unwrap_or(u64::MAX);
        report.figure(&format!("{who}_slowest_ms"), slowest);
    }
}
