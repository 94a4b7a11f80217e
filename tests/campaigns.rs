//! Campaigns: a grid of real processes under load, faults of one kind, and a checker that
//! reads what clients and workers saw and says whether the promises were kept.
//!
//! ```sh
//! cargo test --test campaigns                                            # all of them, short
//! cargo test --release --test campaigns -- crashes --seed 7              # one of them again
//! cargo test --release --test campaigns -- crashes --full                # as much as is promised
//! cargo test --release --test campaigns -- overload                      # all whose name has it
//! ```
//!
//! To add one: a file in `tests/campaigns` with `pub(crate) fn run(run: &Run) -> Ran`, its
//! `mod` below, and a line in [`ALL`]. It takes a [`site::Site`] (a grid, workers, the
//! history), begins a [`load::Load`] on it, does its harm, writes into the history what it
//! did ([`history::Fact`]), has the site settled and the history checked ([`checker`]), and
//! tells its figures in a [`campaign::Report`]. What proves that the faults bit goes in with
//! [`campaign::Report::at_least`]: below its floor a run fails, even if nothing else is wrong.
//! What it needs and does not find it answers with [`campaign::Ran::NotRun`].

#![expect(clippy::unwrap_used, reason = "what goes wrong in a test shall end it")]
#![expect(clippy::print_stderr, clippy::print_stdout, reason = "a campaign tells what came of it")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

#[path = "campaigns/campaign.rs"]
mod campaign;
#[path = "campaigns/checker.rs"]
mod checker;
#[path = "campaigns/clocks.rs"]
mod clocks;
#[path = "campaigns/crashes.rs"]
mod crashes;
#[path = "campaigns/damage.rs"]
mod damage;
#[path = "simulation/dice.rs"]
mod dice;
#[path = "campaigns/disks.rs"]
mod disks;
#[path = "campaigns/drains.rs"]
mod drains;
#[path = "campaigns/fleet.rs"]
mod fleet;
#[path = "campaigns/gauges.rs"]
mod gauges;
#[path = "roles/grid.rs"]
#[expect(dead_code, reason = "the tests of the roles ask more of a grid")]
mod grid;
#[path = "campaigns/history.rs"]
mod history;
#[path = "campaigns/load.rs"]
mod load;
#[path = "campaigns/mount.rs"]
mod mount;
#[path = "campaigns/network.rs"]
mod network;
#[path = "campaigns/options.rs"]
mod options;
#[path = "campaigns/overload.rs"]
mod overload;
#[path = "campaigns/plan.rs"]
mod plan;
#[path = "campaigns/points.rs"]
mod points;
#[path = "campaigns/poison.rs"]
mod poison;
#[path = "campaigns/power_cuts.rs"]
mod power_cuts;
#[path = "roles/process.rs"]
#[expect(dead_code, reason = "the tests of the roles ask more of a process")]
mod process;
#[path = "campaigns/recorded.rs"]
mod recorded;
#[path = "campaigns/site.rs"]
mod site;
#[path = "campaigns/soak.rs"]
mod soak;
#[path = "campaigns/strace.rs"]
mod strace;
#[path = "campaigns/waits.rs"]
mod waits;
#[path = "campaigns/wall.rs"]
mod wall;
#[path = "campaigns/work.rs"]
mod work;
#[path = "campaigns/worker.rs"]
mod worker;
#[path = "campaigns/workers.rs"]
mod workers;

use campaign::{Campaign, Ran, Report, Run};
use options::Options;

/// All campaigns, in the order in which they run.
static ALL: [Campaign; 14] = [
    Campaign {
        name: "crashes",
        about: "the dispatcher is killed at random moments and at named points",
        run: crashes::run,
    },
    Campaign {
        name: "workers",
        about: "workers are killed, stopped and replaced, and given tasks that kill them",
        run: workers::run,
    },
    Campaign {
        name: "drains",
        about: "workers and the dispatcher are told to end, with streams and silent peers",
        run: drains::run,
    },
    Campaign {
        name: "damage",
        about: "bits of a recorded store are flipped and its end is cut off",
        run: damage::run,
    },
    Campaign {
        name: "disks",
        about: "the dispatcher's syncs fail and are slow, and its disk fails and is full",
        run: disks::run,
    },
    Campaign {
        name: "power-cuts",
        about: "the file system under the dispatcher's data goes away without a flush",
        run: power_cuts::run,
    },
    Campaign {
        name: "overload-floods",
        about: "frames that no client sends, as fast as they can be written",
        run: overload::floods,
    },
    Campaign {
        name: "overload-queues",
        about: "more is submitted than the queue takes",
        run: overload::queues,
    },
    Campaign {
        name: "overload-readers",
        about: "watches and answers that nobody reads, messages that are never whole",
        run: overload::readers,
    },
    Campaign {
        name: "overload-crowds",
        about: "two thousand peers that do nothing and come back, at each port",
        run: overload::crowds,
    },
    Campaign {
        name: "network",
        about: "links are cut and slow, peers freeze, the nameservice is away, many come back",
        run: network::run,
    },
    Campaign {
        name: "clocks",
        about: "wall clocks jump forward and back, also between two starts of the dispatcher",
        run: clocks::run,
    },
    Campaign {
        name: "soak-faults",
        about: "a steady load with faults throughout, while memory and disk are measured",
        run: soak::faults,
    },
    Campaign {
        name: "soak-open",
        about: "as much load as the machine takes, while memory and disk are measured",
        run: soak::open,
    },
];

/// Set where what a campaign needs must be there: one that cannot run is a failure.
const MUST_RUN: &str = "TASKGRID_TEST_CAMPAIGNS";

/// What is told on stdout of each.
#[derive(serde::Serialize)]
struct Line<'a> {
    campaign: &'a str,
    seed: u64,
    size: String,
    seconds: u64,
    figures: &'a Report,
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).peekable();
    if arguments.next_if(|word| word == worker::WORD).is_some() {
        return worker::main(arguments);
    }
    let options = Options::read();
    let chosen = options.choose(&ALL);
    if options.lists() {
        for campaign in chosen {
            println!("{}: test", campaign.name);
        }
        return ExitCode::SUCCESS;
    }
    if chosen.is_empty() {
        let names: Vec<&str> = ALL.iter().map(|campaign| campaign.name).collect();
        eprintln!("no such campaign; there are: {}", names.join(", "));
        // A name that was meant for other tests is nobody's mistake.
        return ExitCode::from(u8::from(options.is_for_campaigns()));
    }
    let run = options.run();
    let failed = chosen.iter().filter(|campaign| !carry_out(campaign, run)).count();
    ExitCode::from(u8::from(failed > 0))
}

/// Runs one, and tells what came of it; whether it is well.
fn carry_out(campaign: &Campaign, run: Run) -> bool {
    let Campaign { name, about, .. } = campaign;
    let Run { seed, size } = run;
    eprintln!("--- {name}, {size}, seed {seed}: {about}");
    let began = Instant::now();
    let ran = catch_unwind(AssertUnwindSafe(|| (campaign.run)(&run)));
    let seconds = began.elapsed().as_secs();
    let is_well = match ran {
        Ok(Ran::Done(report)) => {
            let size = size.to_string();
            let line = Line { campaign: name, seed, size, seconds, figures: &report };
            println!("{}", serde_json::to_string(&line).unwrap());
            report.complaints().iter().for_each(|what| eprintln!("VIOLATION {name}: {what}"));
            report.complaints().is_empty()
        }
        Ok(Ran::NotRun(wanted)) => {
            eprintln!("\n!!! NOT RUN: {name}: it needs {wanted}\n");
            #[expect(clippy::disallowed_methods, reason = "a switch of the machine, not of a run")]
            std::env::var_os(MUST_RUN).is_none()
        }
        // What it was is told where it happened.
        Err(_) => {
            eprintln!("VIOLATION {name}: it could not go on, after {seconds} s");
            false
        }
    };
    let again = format!("cargo test --release --test campaigns -- {name}{}", options::again(run));
    eprintln!("--- {name}: {}; again: {again}", if is_well { "well" } else { "FAILED" });
    is_well
}
