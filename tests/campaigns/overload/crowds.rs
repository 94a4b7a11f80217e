//! Crowds at each kind of port, at a limit of 1,024 file descriptors.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::time::timeout;

use super::crowd::{AT_CALLS, AT_HTTP, Crowd, Manner, answer_pings};
use super::honest::{Honest, Whom};
use super::meter::Meter;
use super::{NOISE, WINDOW, in_rounds, limited};
use crate::campaign::{Report, Run};
use crate::checker::count;
use crate::dice::Dice;
use crate::grid;
use crate::process::{Process, taskgrid};
use crate::site::Site;
use crate::waits::within;

/// File descriptors that a role may open.
const DESCRIPTORS: u64 = 1_024;
/// Peers that come, and come back when they are cut.
const PEERS: u64 = 2_000;
/// So many of a role's descriptors are taken before a crowd counts as one: more than half
/// at a port of gRPC, a tenth at one of HTTP.
const TAKEN_AT_CALLS: u64 = 600;
const TAKEN_AT_HTTP: u64 = 110;
/// Descriptors that may still be taken when a crowd has left: connections of the moment.
const LEFT: u64 = 10;
/// How long a decoy keeps a peer: a little longer than a gate that others wait at. And how many
/// wait to be taken.
const HELD: Duration = Duration::from_secs(2);
const BACKLOG: i32 = 1_024;
/// How long a crowd may take to gather, and to be gone.
const TO_GATHER: Duration = Duration::from_secs(30);
/// Somebody new gets an answer within this time.
const TO_GET_IN: Duration = Duration::from_secs(10);
/// Thousandths of a core that a role may use for peers that sit there.
const SITTING: u64 = 100;
/// And for a crowd of which some thousand come back each second or two.
const CHURNING: u64 = 600;
/// MiB that a role may need for a crowd: 64 KiB for each.
const MEMORY: u64 = PEERS * 64 / 1_024;

/// A port, and who works there.
struct Place {
    whom: Whom,
    addr: SocketAddr,
    pid: u32,
    manners: &'static [Manner],
    /// Descriptors that are taken when the crowd is there.
    taken: u64,
}

/// Gathers them.
pub(super) fn run(run: &Run, dice: &mut Dice) -> Report {
    let mut report = Report::default();
    report.part("dispatcher", at_dispatcher(run, dice));
    report.part("nameservice", at_nameservice(run, dice));
    report.part("monitor", at_monitor(run, dice));
    report
}

fn at_dispatcher(run: &Run, dice: &mut Dice) -> Report {
    let mut site = Site::with_workers(&[], 2);
    site.grid.dispatcher.kill();
    let command = limited(&site.grid.dispatcher_again(), DESCRIPTORS);
    site.grid.dispatcher = Process::spawn(command, b"");
    let addr = site.grid.dispatcher.addr();
    let place = Place {
        whom: Whom::Dispatcher(addr),
        addr,
        pid: site.grid.dispatcher.id(),
        manners: &AT_CALLS,
        taken: TAKEN_AT_CALLS,
    };
    gather(run, &place, dice)
}

fn at_nameservice(run: &Run, dice: &mut Dice) -> Report {
    let flags = ["nameservice", "--port", "0", "--ttl", "3s"];
    let nameservice = Process::spawn(limited(&taskgrid(&flags), DESCRIPTORS), b"");
    let addr = nameservice.addr();
    let dir = tempfile::tempdir().expect("a directory can be made");
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let dispatcher = grid::dispatcher(listen, addr, dir.path(), &[]);
    let worker = crate::worker::Options::new(addr, &dir.path().join("history.jsonl"), "w1").start();
    worker.addr();
    // Who works: the dispatcher's own watch, the worker's heartbeats, and the callers.
    let tasks = Honest::start(Whom::Dispatcher(dispatcher.addr()));
    let place = Place {
        whom: Whom::Nameservice(addr),
        addr,
        pid: nameservice.id(),
        manners: &AT_CALLS,
        taken: TAKEN_AT_CALLS,
    };
    let known = within(TO_GATHER, || tasks.newcomer().ok());
    let mut report = gather(run, &place, dice);
    if known.is_none() {
        report.complain("no task was ever run");
    }
    report
}

fn at_monitor(run: &Run, dice: &mut Dice) -> Report {
    let grid = grid::Grid::start(&[]);
    let (nameservice, dispatcher) =
        (grid.nameservice_addr.to_string(), grid.dispatcher_addr.to_string());
    let mut command = taskgrid(&["monitor", "--port", "0", "--http-port", "0"]);
    command.args(["--nameservice", &nameservice, "--dispatcher", &dispatcher]);
    let monitor = Process::spawn(limited(&command, DESCRIPTORS), b"");
    let addr = monitor.told(|text| {
        let (_, rest) = text.split_once("listening for HTTP address=")?;
        rest.split_once('\n')?.0.trim().parse().ok()
    });
    let place = Place {
        whom: Whom::Monitor(addr),
        addr,
        pid: monitor.id(),
        manners: &AT_HTTP,
        taken: TAKEN_AT_HTTP,
    };
    gather(run, &place, dice)
}

/// Gathers a crowd until it is clear what harm it does.
fn gather(run: &Run, place: &Place, dice: &mut Dice) -> Report {
    let mut report = Report::default();
    let meter = Meter::of(place.pid);
    let honest = Honest::start(place.whom);
    in_rounds(run, &mut report, |part| once(run, place, &honest, meter, dice, part));
    let wrong = honest.complaints();
    report.exactly("honest_failures", count(wrong.len()), 0);
    report.complain_of(wrong.into_iter().take(3).collect());
    report
}

/// One crowd: how much slower honest work was, in thousandths.
fn once(
    run: &Run,
    place: &Place,
    honest: &Honest,
    meter: Meter,
    dice: &mut Dice,
    report: &mut Report,
) -> Result<u64, String> {
    let windows = run.many(1, 15);
    honest.goes_on(WINDOW)?;
    let before = honest.p99(windows, WINDOW)?;
    let elsewhere = elsewhere(windows, place, honest, dice, report)?;
    honest.goes_on(WINDOW)?;
    let (memory, at_rest) = (meter.memory(), meter.descriptors());
    let watching = meter.watch_memory();
    honest.forget();
    let crowd = Crowd::gather(place.addr, PEERS, place.manners, dice);
    let is_there = || crowd.came() >= PEERS && meter.descriptors() >= place.taken;
    let gathered = within(TO_GATHER, || is_there().then_some(()));
    if gathered.is_none() {
        report.complain("the crowd did not gather");
    }
    report.figure("p99_us_while_it_gathers", honest.p99_so_far());
    let (came, began) = (crowd.came(), Instant::now());
    let during = honest.p99(windows, WINDOW)?;
    report.figure("came_per_second", per_second(crowd.came() - came, began));
    report.at_least("descriptors", meter.descriptors(), place.taken);
    report.figure("peers_here", crowd.here());
    newcomers(run, honest, report)?;
    honest.rests(true);
    let churning = meter.cores_during(run_for(run));
    report.in_time(run, "per_mille_of_a_core_churning", churning, CHURNING);
    crowd.stays_away();
    // Who is on the way back still comes.
    std::thread::park_timeout(Duration::from_secs(2));
    report.figure("peers_sitting", crowd.here());
    let sitting = meter.cores_during(run_for(run));
    report.in_time(run, "per_mille_of_a_core_sitting", sitting, SITTING);
    honest.rests(false);
    report.at_least("came", crowd.came(), PEERS);
    report.at_least("cut", crowd.cut(), PEERS / 4);
    crowd.leave();
    // What is left of the crowd is no part of an honest caller's usual time.
    within(TO_GATHER, || (meter.descriptors() <= at_rest + LEFT).then_some(()));
    honest.goes_on(WINDOW)?;
    let after = honest.p99(windows, WINDOW)?;
    let grown = watching.most().saturating_sub(memory) / 1_024;
    report.at_most("memory_mib", grown, MEMORY);
    report.figure("p99_us_before", before);
    report.figure("p99_us_with_the_crowd_elsewhere", elsewhere);
    report.figure("p99_us_during", during);
    report.figure("p99_us_after", after);
    Ok(during.max(NOISE) * 1_000 / before.max(elsewhere).max(NOISE))
}

/// How long honest work takes while the same crowd comes and goes at a port that is nobody's:
/// what two thousand peers take of the machine, whoever they come to.
fn elsewhere(
    windows: u64,
    place: &Place,
    honest: &Honest,
    dice: &mut Dice,
    report: &mut Report,
) -> Result<u64, String> {
    let decoy = Decoy::open().map_err(|error| format!("no decoy: {error}"))?;
    let crowd = Crowd::gather(decoy.addr, PEERS, place.manners, dice);
    if within(TO_GATHER, || (crowd.came() >= PEERS).then_some(())).is_none() {
        report.complain("the crowd did not gather elsewhere");
    }
    let (came, began) = (crowd.came(), Instant::now());
    let p99 = honest.p99(windows, WINDOW)?;
    report.figure("came_elsewhere_per_second", per_second(crowd.came() - came, began));
    crowd.leave();
    Ok(p99)
}

fn per_second(came: u64, since: Instant) -> u64 {
    came * 1_000 / u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX).max(1)
}

/// Takes whoever comes, and ends it a while later.
struct Decoy {
    addr: SocketAddr,
    /// Ends with it.
    _runtime: Runtime,
}

impl Decoy {
    fn open() -> std::io::Result<Self> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        rustix::net::listen(&listener, BACKLOG)?;
        let addr = listener.local_addr()?;
        let listener = runtime.block_on(async { TcpListener::from_std(listener) })?;
        runtime.spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move { timeout(HELD, answer_pings(&mut stream)).await.ok() });
            }
        });
        Ok(Self { addr, _runtime: runtime })
    }
}

/// How long a process is looked at.
fn run_for(run: &Run) -> Duration {
    Duration::from_secs(run.many(1, 10))
}

/// Some come meanwhile, one after the other.
fn newcomers(run: &Run, honest: &Honest, report: &mut Report) -> Result<(), String> {
    let mut slowest = Duration::ZERO;
    for _ in 0..run.many(3, 100) {
        slowest = slowest.max(honest.newcomer()?);
    }
    let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    report.at_most("slowest_newcomer_ms", millis(slowest), millis(TO_GET_IN));
    Ok(())
}
