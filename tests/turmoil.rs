//! The product's roles on a simulated network, in simulated time: nameservice, dispatcher
//! over a store in memory, workers with handlers inline, and clients. Links lose, hold,
//! delay and cut, hosts crash and come back, the disk fails; then everything is mended, and
//! all must end as promised. A process for each seed, because a replay is exact only then.
//!
//! ```sh
//! cargo test --test turmoil                                            # a few seeds
//! TASKGRID_TURMOIL_SEEDS=2000 cargo test --release --test turmoil      # a campaign
//! TASKGRID_TURMOIL_SEED=17 cargo test --test turmoil                   # one again, with its log
//! ```
//!
//! The same seed is the same world, byte by byte on every link: a part of the seeds runs
//! twice, and their digests are compared.

#![expect(clippy::print_stderr, clippy::print_stdout, reason = "it tells what came of it")]

use std::process::ExitCode;

#[path = "campaigns/checker.rs"]
#[expect(dead_code, reason = "the campaigns ask for more figures")]
mod checker;
#[path = "turmoil/checks.rs"]
mod checks;
#[path = "turmoil/clients.rs"]
mod clients;
#[path = "simulation/dice.rs"]
mod dice;
#[path = "turmoil/director.rs"]
mod director;
#[path = "turmoil/disk.rs"]
mod disk;
#[path = "turmoil/ear.rs"]
mod ear;
#[path = "campaigns/history.rs"]
#[expect(dead_code, reason = "the campaigns ask for its path")]
mod history;
#[path = "turmoil/hosts.rs"]
mod hosts;
#[path = "turmoil/network.rs"]
mod network;
#[path = "turmoil/seeds.rs"]
mod seeds;
#[path = "turmoil/site.rs"]
mod site;
#[path = "turmoil/told.rs"]
mod told;
#[path = "campaigns/work.rs"]
mod work;
#[path = "turmoil/world.rs"]
mod world;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).peekable();
    if arguments.next_if(|word| word == seeds::WORLD).is_some() {
        return seeds::be_a_world(arguments);
    }
    // What `cargo test` adds for tests of the usual harness: words choose by names.
    let (flags, words): (Vec<String>, Vec<String>) =
        arguments.partition(|argument| argument.starts_with('-'));
    let lists = flags.iter().any(|flag| flag == "--list");
    let is_meant = |name: &str| words.is_empty() || words.iter().any(|word| name.contains(word));
    let mut failed = false;
    for (name, check) in checks::ALL.iter().filter(|(name, _)| is_meant(name)) {
        if lists {
            println!("{name}: test");
            continue;
        }
        let wrong = check();
        println!("test {name} ... {}", if wrong.is_empty() { "ok" } else { "FAILED" });
        for what in &wrong {
            eprintln!("{name}: {what}");
        }
        failed |= !wrong.is_empty();
    }
    ExitCode::from(u8::from(failed))
}
