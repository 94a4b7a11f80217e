//! Very many workers, who all have to come back at once: to a dispatcher that was killed,
//! over links that were reset or cut, and to a nameservice that knows nobody.

use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use taskgrid::wire::v1::ListWorkersRequest;
use taskgrid::wire::v1::name_service_client::NameServiceClient;

use super::super::campaign::{Report, Run};
use super::super::checker::count;
use super::super::dice::Dice;
use super::super::load::Load;
use super::super::plan::Plan;
use super::super::process::{PATIENCE, Process};
use super::super::site::{drain, progress};
use super::super::waits::within;
use super::super::work;
use super::own::{self, Fate};
use super::place::{Place, connected};
use super::pulse::Pulse;

const TTL: &str = "5s";
/// All of them listen there.
const HOST: &str = "127.8.0.1";
/// Descriptors that one process needs.
const FILES: u64 = 8_000;
/// Longer than anything takes that does not hang.
const LONG: Duration = PATIENCE.saturating_mul(2);

/// The slowest return after each of these.
#[derive(Default)]
struct Returns {
    kill: Duration,
    reset: Duration,
    cut: Duration,
    registry: Duration,
    /// How often nearly all sessions were lost by a harm to the links.
    lost: u64,
}

/// Allows this process, and those that it will start, as many open files as it may, and tells
/// whether that is enough.
pub(super) fn may_open_files() -> bool {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    raised.is_ok() && maximum.is_none_or(|most| most >= FILES)
}

/// Runs it.
pub(super) fn run(run: &Run, report: &mut Report) {
    let (all, rounds) = (run.many(100, 1_000), run.many(1, 10));
    // The more there are, the more a busy machine has to do to lose no lease by itself.
    let lease = Duration::from_secs(run.many(1, 3));
    let mut dice = Dice::new(run.seed ^ 5);
    let mut place = Place::start(TTL, &["--lease", &format!("{}s", lease.as_secs())], 0, 0);
    let began = Instant::now();
    let herd = start(&mut place, all, lease);
    place.site.grid.wait_for_workers(work::TYPE, all);
    tell(report, "first_met_ms", began.elapsed());
    let plan =
        Plan { open: 200, batch: 20, slow: 1_000, slow_millis: (300, 600), ..Plan::default() };
    let mut load = place.load(plan, dice.roll());
    let (mut returns, mut in_flight) = (Returns::default(), 0);
    for _ in 0..rounds {
        match returns.round(&mut place, &load, &herd, &mut dice) {
            Ok(busy) => in_flight += busy,
            Err(stuck) => {
                report.complain(stuck);
                break;
            }
        }
    }
    drain(&mut load, report);
    report.figure("workers", all);
    report.figure("rounds", rounds);
    report.at_least("with_work_in_flight", in_flight, rounds * 3);
    report.at_least("links_harmed_for_nearly_all", returns.lost, rounds * 2);
    tell(report, "slowest_back_ms_after_a_kill", returns.kill);
    tell(report, "slowest_back_ms_after_resets", returns.reset);
    tell(report, "slowest_back_ms_after_a_cut", returns.cut);
    tell(report, "slowest_registered_ms", returns.registry);
    place.site.reread(&load);
    drop((load, herd.process));
    let history = place.into_site().check(report, false);
    report.at_least("lost_and_run_again", history.sums().again, rounds * 10);
}

/// The process of all of them.
struct Herd {
    process: Process,
    names: Vec<String>,
    lease: Duration,
}

fn start(place: &mut Place, all: u64, lease: Duration) -> Herd {
    let mut options = place.site.worker_options();
    options.many = u32::try_from(all).expect("there are not so many");
    (options.host, options.slots) = (HOST.to_owned(), 1);
    Herd { process: options.start(), names: options.names().collect(), lease }
}

impl Returns {
    /// Each of them once; how often work was in flight.
    fn round(
        &mut self,
        place: &mut Place,
        load: &Load,
        herd: &Herd,
        dice: &mut Dice,
    ) -> Result<u64, String> {
        let mut in_flight = 0;
        let mut busy = || {
            in_flight += u64::from(load.is_in_flight());
        };
        progress(load, load.ended(), dice.between(100, 300))?;
        busy();
        place.site.kill_dispatcher();
        place.site.start_dispatcher();
        place.site.grid.dispatcher.addr();
        self.kill = self.kill.max(all_back(load, herd)?);

        progress(load, load.ended(), dice.between(100, 300))?;
        busy();
        // A peer that says nothing itself learns of a reset by the other's silence.
        let time = herd.lease + Duration::from_millis(dice.between(400, 1_000));
        self.lost += u64::from(harm(place, load, herd, Fate::Reset, time));
        self.reset = self.reset.max(all_back(load, herd)?);

        progress(load, load.ended(), dice.between(100, 300))?;
        busy();
        let time = herd.lease + Duration::from_millis(dice.between(400, 1_000));
        self.lost += u64::from(harm(place, load, herd, Fate::Dropped, time));
        self.cut = self.cut.max(all_back(load, herd)?);

        progress(load, load.ended(), dice.between(100, 300))?;
        place.nameservice.kill();
        place.start_nameservice();
        self.registry = self.registry.max(all_registered(place, herd)?);
        Ok(in_flight)
    }
}

/// No worker is reached for so long; whether nearly all sessions were lost.
fn harm(place: &Place, load: &Load, herd: &Herd, fate: Fate, time: Duration) -> bool {
    let began = place.site.recorder.now();
    own::harm(&[format!("-d {HOST}"), format!("-s {HOST}")], fate).expect("rules can be set");
    Pulse::of(load).watch(time);
    let is_lost = connected(load) * 10 < herd.names.len();
    own::heal().expect("rules that were set can be taken back");
    place.were_cut_off(herd.names.clone(), began);
    is_lost
}

/// How long it takes until there are sessions with all of them.
fn all_back(load: &Load, herd: &Herd) -> Result<Duration, String> {
    let began = Instant::now();
    let all = within(LONG, || (connected(load) == herd.names.len()).then_some(()));
    all.ok_or_else(|| format!("only {} of the herd came back", connected(load)))?;
    Ok(began.elapsed())
}

/// How long it takes until all of them are registered.
fn all_registered(place: &Place, herd: &Herd) -> Result<Duration, String> {
    let began = Instant::now();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let url = place.site.grid.nameservice_addr.to_string();
    let registered = || {
        runtime.block_on(async {
            let channel = taskgrid::rpc::channel(&url).ok()?;
            let mut names = NameServiceClient::new(channel);
            let answer = names.list(ListWorkersRequest::default()).await.ok()?.into_inner();
            Some(count(answer.endpoints.len()))
        })
    };
    let all = count(herd.names.len());
    let found = within(LONG, || registered().filter(|found| *found == all));
    found.ok_or_else(|| format!("only {:?} of the herd registered again", registered()))?;
    Ok(began.elapsed())
}

fn tell(report: &mut Report, name: &str, time: Duration) {
    report.figure(name, u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
}
