//! Many seeds: a process for each, two at a time.
//!
//! The clock of this program is the simulator's, and stands still outside of a world: the
//! parent measures no time, and what bounds a world is a limit on its processor time.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::told::Told;
use super::world;

/// The first argument of a process that is a world.
pub(crate) const WORLD: &str = "be-a-world";

/// Worlds beside each other.
const AT_ONCE: usize = 2;
/// Seconds of processor time after which a world is killed. It takes some.
const AT_MOST: u64 = 120;

/// How a world is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// Quietly.
    Usual,
    /// With what the roles log on stderr.
    Telling,
    /// Over a disk that forgets what it said it had stored.
    Lying,
}

impl How {
    fn word(self) -> &'static str {
        match self {
            Self::Usual => "usual",
            Self::Telling => "telling",
            Self::Lying => "lying",
        }
    }
}

/// What the process of a world does.
pub(crate) fn be_a_world(mut arguments: impl Iterator<Item = String>) -> ExitCode {
    let seed: u64 = arguments.next().and_then(|seed| seed.parse().ok()).expect("a seed");
    let how = arguments.next().expect("how");
    let history = arguments.next().expect("a file for the history");
    let limit = Rlimit { current: Some(AT_MOST), ..getrlimit(Resource::Cpu) };
    setrlimit(Resource::Cpu, limit).expect("a process may limit itself");
    // From here on all chance of this process comes from the seed, and all time from the
    // simulator.
    mad_turmoil::rand::set_rng(StdRng::seed_from_u64(seed));
    let clocks = mad_turmoil::time::SimClocksGuard::init();
    let (lies, tells) = (how == How::Lying.word(), how == How::Telling.word());
    let told = world::run(seed, lies, tells, Path::new(&history));
    drop(clocks);
    println!("{}", serde_json::to_string(&told).expect("it is JSON"));
    ExitCode::SUCCESS
}

/// Runs the worlds of these seeds, and hands over what they tell, as it comes.
pub(crate) fn run(seeds: &[u64], how: How, take: impl FnMut(Told) + Send) {
    let next = AtomicU64::new(0);
    let take = Mutex::new(take);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let place = next.fetch_add(1, Ordering::SeqCst);
                    let seed = usize::try_from(place).ok().and_then(|place| seeds.get(place));
                    let Some(seed) = seed else { return };
                    let told = one(*seed, how, place);
                    (take.lock().expect("nobody panicked under it"))(told);
                }
            });
        }
    });
}

/// Runs one world.
fn one(seed: u64, how: How, place: u64) -> Told {
    let history = history_of(seed, how, place);
    // An earlier one of a run that was broken off.
    std::fs::remove_file(&history).ok();
    let program = std::env::current_exe().expect("the path of this program is known");
    let mut command = Command::new(program);
    command.args([WORLD, &seed.to_string(), how.word()]).arg(&history);
    command.env_clear().env("RUST_BACKTRACE", "1");
    let stderr = if how == How::Lying { Stdio::null() } else { Stdio::inherit() };
    let ran = command.stderr(stderr).output().expect("this program can be started");
    let told = String::from_utf8_lossy(&ran.stdout);
    let mut told: Told = serde_json::from_str(&told).unwrap_or_else(|_| Told {
        seed,
        wrong: vec![ran.status.to_string()],
        ..Told::default()
    });
    if told.wrong.is_empty() || how == How::Lying {
        std::fs::remove_file(&history).expect("a history can be removed");
    } else {
        told.wrong.push(format!("its history is in {}", history.display()));
    }
    told
}

fn history_of(seed: u64, how: How, place: u64) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
    directory.join(format!("turmoil-{seed}-{}-{place}.jsonl", how.word()))
}
