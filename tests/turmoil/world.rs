//! One seed: a grid on a simulated network, a director who does it harm, and what came of
//! it.
//!
//! ```text
//!  two quiet seconds ──▶ harm ──▶ everything is mended ──▶ all tasks end, and are read
//! ```

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use turmoil::{Builder, Sim};

use super::checker::{self, History};
use super::dice::Dice;
use super::director::Director;
use super::disk::Disk;
use super::ear::Ear;
use super::history::Recorder;
use super::hosts::{self, DISPATCHER, NAMESERVICE, worker_name};
use super::site::{Rules, Site};
use super::{clients, told::Told};

/// One step of the simulator: what is sent in it arrives in a later one.
const TICK: Duration = Duration::from_millis(5);
/// Before the harm.
const QUIET: Duration = Duration::from_secs(2);
/// How long everything may take to settle after the harm: the pauses of those who call
/// again, three leases, and the retries of what failed.
const SETTLED_WITHIN: Duration = Duration::from_secs(120);

/// A panic that nobody asked for.
static PANICKED: AtomicBool = AtomicBool::new(false);

/// Runs the world of a seed. The history is written to this file.
pub(crate) fn run(seed: u64, lies: bool, tells: bool, history: &Path) -> Told {
    notice_panics();
    let ear = Ear::listen(tells);
    let mut dice = Dice::new(seed);
    let rules = Rules {
        seed,
        workers: dice.between(2, 4),
        clients: 2,
        slots: u32::try_from(dice.between(1, 3)).expect("a few slots fit"),
        lease: Duration::from_millis(dice.between(1_000, 3_000)),
        ttl: Duration::from_millis(dice.between(1_000, 4_000)),
    };
    let site = Site::new(history.to_owned(), rules);
    let disk = if lies { Disk::lying() } else { Disk::default() };
    let mut sim = build(&mut dice);
    settle_hosts(&mut sim, &site, &disk);
    let harm_ends = QUIET + Duration::from_millis(dice.between(8_000, 20_000));
    let mut director = Director::new(site.clone(), disk, dice, QUIET, harm_ends);
    let mut ended = Ok(());
    while ended.is_ok() && !site.books().settled {
        let now = sim.elapsed();
        ear.tick(checker::count(usize::try_from(now.as_millis()).unwrap_or(usize::MAX)));
        if now > harm_ends + SETTLED_WITHIN {
            let books = site.books();
            let open: Vec<&u64> = books.open.iter().take(5).collect();
            let (clients, tasks) = (books.done, books.open.len());
            ended = Err(format!(
                "it did not settle: {clients} clients done, {tasks} tasks open, {open:?}"
            ));
            break;
        }
        director.act(&mut sim);
        ended = sim.step().map(drop).map_err(|error| format!("a host failed: {error}"));
    }
    let mut told = Told { seed, ..Told::default() };
    told.virtual_ms = u64::try_from(sim.elapsed().as_millis()).unwrap_or(u64::MAX);
    told.network = format!("{:016x}", ear.digest());
    director.end(&sim, &mut told);
    {
        let heard = ear.heard();
        (told.sent, told.lost, told.held) = (heard.sent, heard.lost, heard.held);
    }
    told.wrong.extend(ended.err());
    told.wrong.append(&mut site.books().wrong);
    if PANICKED.load(Ordering::SeqCst) {
        told.wrong.push("something panicked".to_owned());
    }
    // What runs is no longer of interest; it must not write any more.
    std::mem::forget(sim);
    read(history, &mut told);
    told
}

fn build(dice: &mut Dice) -> Sim<'static> {
    let least = dice.between(5, 10);
    Builder::new()
        .rng_seed(dice.roll())
        .tick_duration(TICK)
        // The director has an end of its own.
        .simulation_duration(Duration::from_secs(3_600))
        .min_message_latency(Duration::from_millis(least))
        .max_message_latency(Duration::from_millis(least + dice.between(1, 60)))
        .tcp_capacity(1_024)
        .build()
}

fn settle_hosts(sim: &mut Sim<'static>, site: &Site, disk: &Disk) {
    let of_nameservice = site.clone();
    sim.host(NAMESERVICE, move || hosts::nameservice(of_nameservice.clone()));
    let (of_dispatcher, disk) = (site.clone(), disk.clone());
    sim.host(DISPATCHER, move || hosts::dispatcher(of_dispatcher.clone(), disk.clone()));
    for number in 1..=site.rules().workers {
        let site = site.clone();
        sim.host(worker_name(number), move || hosts::worker(site.clone(), number));
    }
    for number in 0..site.rules().clients {
        sim.client(client_name(number), clients::client(site.clone(), number));
    }
}

/// The name of a client's host.
pub(crate) fn client_name(number: u64) -> String {
    format!("client-{number}")
}

/// What the history says, and whether it keeps the promises.
fn read(path: &Path, told: &mut Told) {
    let recorder = Recorder::append_to(path).expect("the history is there");
    let mut history = History::default();
    let torn = recorder.read(|line| history.take(line)).expect("the history can be read");
    assert_eq!(torn, 0, "nobody was killed while it wrote");
    let sums = history.sums();
    told.receipted = sums.receipted;
    told.unknown = sums.unknown;
    told.executions = sums.executions;
    told.again = sums.again;
    told.cancelled = sums.cancelled;
    told.lost_executions = checker::count(history.lost().len());
    (told.stale, _) = history.stale();
    told.wrong.extend(checker::check(&history));
    let text = std::fs::read(path).expect("the history can be read");
    told.history = super::work::hash(&text);
}

/// Handlers that panic were asked to. A panic anywhere else may end no more than a task of
/// the runtime, and nobody would hear of it.
fn notice_panics() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let said = panic.payload().downcast_ref::<String>().map(String::as_str);
        if said != Some(hosts::ASKED) {
            PANICKED.store(true, Ordering::SeqCst);
            usual(panic);
        }
    }));
}
