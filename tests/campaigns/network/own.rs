//! A network of a campaign's own: a namespace in which one thread lives, with all threads and
//! processes that it starts. It has a loopback and nothing else, and goes with the last of them.
//!
//! Packets are harmed as they come in, so that their sender has sent them.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::fd::AsFd as _;
use std::panic::resume_unwind;
use std::process::{Child, Command, Stdio};
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// What to tell who cannot have one.
pub(crate) const WANTED: &str = "to be root and make a network namespace, with unshare, ip and \
    iptables (apt-get install util-linux iproute2 iptables)";

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is gone, and nobody is told.
    Dropped,
    /// So many in a thousand are dropped.
    Lossy(u64),
    /// It is gone, and its connection is reset.
    Reset,
}

/// Does something on a thread that is in a network of its own.
pub(crate) fn within_own<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let inside = scope.spawn(|| {
            enter()?;
            Ok(work())
        });
        inside.join().unwrap_or_else(|panic| resume_unwind(panic))
    })
}

/// From now on this is the fate of packets that match one of these.
pub(crate) fn harm(matches: &[String], fate: Fate) -> io::Result<()> {
    let fate = match fate {
        Fate::Dropped => "-j DROP".to_owned(),
        Fate::Lossy(per_mille) => {
            let share = format!("{}.{:03}", per_mille / 1_000, per_mille % 1_000);
            format!("-m statistic --mode random --probability {share} -j DROP")
        }
        Fate::Reset => "-j REJECT --reject-with tcp-reset".to_owned(),
    };
    let rules = matches.iter().map(|what| format!("-A INPUT -p tcp {what} {fate}\n"));
    let rules = format!("*filter\n{}COMMIT\n", rules.collect::<String>());
    // All at once: half a partition is another one.
    run(Command::new("iptables-restore").arg("--noflush"), rules.as_bytes())
}

/// From now on all packets arrive.
pub(crate) fn heal() -> io::Result<()> {
    run(Command::new("iptables").args(["-F", "INPUT"]), b"")
}

fn enter() -> io::Result<()> {
    let mut first = Command::new("unshare")
        .args(["--net", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let entered = follow(&mut first);
    // It ends with its input, and is needed no more.
    drop(first.stdin.take());
    first.wait()?;
    entered?;
    run(Command::new("ip").args(["link", "set", "lo", "up"]), b"")?;
    harm(&["-s 127.9.0.0".to_owned()], Fate::Lossy(1))?;
    harm(&["-s 127.9.0.0".to_owned()], Fate::Reset)?;
    heal()
}

/// Enters the namespace of a process that was started in one of its own.
fn follow(first: &mut Child) -> io::Result<()> {
    let (Some(input), Some(output)) = (&mut first.stdin, &mut first.stdout) else {
        return Err(io::Error::other("it has no pipes"));
    };
    // What it repeats it has read where it is to be.
    input.write_all(b"there\n")?;
    let mut word = String::new();
    BufReader::new(output).read_line(&mut word)?;
    if word != "there\n" {
        return Err(io::Error::other("unshare made no namespace"));
    }
    let place = File::open(format!("/proc/{}/ns/net", first.id()))?;
    Ok(move_into_link_name_space(place.as_fd(), Some(LinkNameSpaceType::Network))?)
}

fn run(command: &mut Command, stdin: &[u8]) -> io::Result<()> {
    let mut child = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(stdin)?;
    }
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(io::Error::other(format!("{}: {said}", command.get_program().to_string_lossy())))
}
