//! `overload-…`: more than a role can serve, each kind of it a campaign. A crowd of peers
//! that say nothing, or not enough, or do not read, at a small limit of file descriptors;
//! floods of frames that no client sends; more tasks than the queue takes; readers that do
//! not read.
//!
//! Beside all of it, honest work goes on, on connections that are open and on new ones, and
//! is measured before, during and after. The machine's own noise only ever makes it slower:
//! so a crowd gathers up to three times, and the round with the least harm is believed.

#[path = "overload/crowd.rs"]
mod crowd;
#[path = "overload/crowds.rs"]
mod crowds;
#[path = "overload/floods.rs"]
mod floods;
#[path = "overload/frames.rs"]
mod frames;
#[path = "overload/honest.rs"]
mod honest;
#[path = "overload/meter.rs"]
mod meter;
#[path = "overload/queues.rs"]
mod queues;
#[path = "overload/readers.rs"]
mod readers;

use std::process::Command;

use rustix::process::{Resource, getrlimit, setrlimit};

use super::campaign::{Ran, Report, Run};
use super::dice::Dice;

/// What the campaign itself needs: a crowd, and what else it holds.
const DESCRIPTORS: u64 = 4_096;
/// Times that harm is done at most until it is told from that of the machine.
const ROUNDS: u64 = 3;
/// Percentiles below this are as good as this: noise of the machine, in microseconds.
const NOISE: u64 = 1_000;
/// Calls of one window, of which the slowest hundredth counts.
const WINDOW: usize = 200;
/// Honest work may take twice as long: in thousandths.
const DOUBLED: u64 = 2_000;

/// Runs its floods.
pub(crate) fn floods(run: &Run) -> Ran {
    part(run, floods::run)
}

/// Runs its full queues.
pub(crate) fn queues(run: &Run) -> Ran {
    part(run, queues::run)
}

/// Runs its readers that do not read.
pub(crate) fn readers(run: &Run) -> Ran {
    part(run, readers::run)
}

/// Runs its crowds.
pub(crate) fn crowds(run: &Run) -> Ran {
    part(run, crowds::run)
}

fn part(run: &Run, part: impl FnOnce(&Run, &mut Dice) -> Report) -> Ran {
    if !may_open(DESCRIPTORS) {
        return Ran::NotRun(format!("{DESCRIPTORS} file descriptors (ulimit -n {DESCRIPTORS})"));
    }
    Ran::Done(part(run, &mut run.dice()))
}

/// Does harm until it is told from that of the machine, a few times at most. `once` tells how
/// much slower honest work was, in thousandths of its time before; the least of it counts.
fn in_rounds(
    run: &Run,
    report: &mut Report,
    mut once: impl FnMut(&mut Report) -> Result<u64, String>,
) {
    let mut least = u64::MAX;
    for round in 1..=ROUNDS {
        let mut part = Report::default();
        let slower = once(&mut part);
        let is_clear = run.is_short() || slower.as_ref().map_or(true, |slower| *slower <= DOUBLED);
        match slower {
            Ok(slower) => least = least.min(slower),
            Err(wrong) => part.complain(wrong),
        }
        report.part(&format!("round_{round}"), part);
        if is_clear {
            break;
        }
    }
    report.in_time(run, "p99_per_mille_of_before", least, DOUBLED);
}

/// Lets this process open so many files, if it may.
fn may_open(descriptors: u64) -> bool {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= descriptors) {
        return true;
    }
    limit.current = Some(descriptors);
    setrlimit(Resource::Nofile, limit).is_ok()
}

/// A command that may open so many files at most.
fn limited(command: &Command, descriptors: u64) -> Command {
    let mut limited = Command::new("/bin/sh");
    limited.env_clear().args(["-c", &format!("ulimit -n {descriptors} && exec \"$0\" \"$@\"")]);
    limited.arg(command.get_program()).args(command.get_args());
    limited
}
