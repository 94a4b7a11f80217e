//! Faults at named system calls: a process is started under `strace`, which kills it,
//! delays it, or fails the call, at the n-th of them.

use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::Signal;

use super::process::Process;

/// What happens at a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// SIGKILL as the call is entered: it is not made.
    Killed,
    /// The call is made, and its thread then held for so many milliseconds.
    HeldAfter(u32),
    /// The call is not made, and fails with EIO.
    Failed,
    /// From this call on each of them waits for so many milliseconds before it is made.
    Slow(u32),
}

/// Calls that are met. `strace` counts each kind of call of each thread by itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Calls<'a> {
    /// Their names, with commas between them: whichever of them is made so often first.
    pub(crate) names: &'a str,
    /// Only those that are made on this file.
    pub(crate) file: Option<&'a Path>,
}

/// What makes what was written last.
pub(crate) const SYNCS: Calls<'static> = Calls { names: "fdatasync", file: None };

/// Whether there is a `strace` that may trace.
pub(crate) fn is_here() -> bool {
    let mut command = Command::new("strace");
    command.args(["-f", "-o", "/dev/null", "true"]).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// What to tell who has none.
pub(crate) const WANTED: &str = "strace that may trace processes (apt-get install strace)";

/// Starts a command that meets the effect at the n-th of these calls of one of its threads. The
/// process is the command's own: the tracer is one beside it, and ends with it. It tells
/// the calls on the same stderr.
pub(crate) fn start(command: &Command, calls: Calls<'_>, effect: Effect, nth: u64) -> Process {
    let Calls { names, file } = calls;
    let what = match effect {
        Effect::Killed => "signal=KILL".to_owned(),
        Effect::HeldAfter(millis) => format!("delay_exit={}", u64::from(millis) * 1_000),
        Effect::Failed => "error=EIO".to_owned(),
        Effect::Slow(millis) => format!("delay_enter={}", u64::from(millis) * 1_000),
    };
    let all = if matches!(effect, Effect::Slow(_)) { "+" } else { "" };
    let mut traced = Command::new("strace");
    traced.env_clear().args(["-D", "-f"]);
    // Stops at no other call; a signal cannot be sent this way.
    if effect != Effect::Killed {
        traced.arg("--seccomp-bpf");
    }
    if let Some(file) = file {
        traced.arg("-P").arg(file);
    }
    traced.args(["-e", &format!("trace={names}"), "-e", "signal=none"]);
    traced.args(["-e", &format!("inject={names}:{what}:when={nth}{all}")]);
    traced.arg(command.get_program()).args(command.get_args());
    Process::spawn(traced, b"")
}

/// Whether it has come to that: the process was killed, or a thread of it is held.
pub(crate) fn has_come(process: &mut Process, effect: Effect) -> bool {
    match effect {
        Effect::Killed => {
            process.ended().is_some_and(|status| status.signal() == Some(Signal::KILL.as_raw()))
        }
        Effect::HeldAfter(_) | Effect::Slow(_) => {
            process.told(|text| Some(text.contains("(DELAYED)")))
        }
        Effect::Failed => process.told(|text| Some(text.contains("(INJECTED)"))),
    }
}
