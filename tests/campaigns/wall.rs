//! Wall clocks of processes that jump while these run: `libfaketime` in front of the C
//! library, told by a file, which it reads at each question for the time.
//!
//! Monotonic time is left alone, as a step of the system's clock leaves it. A process
//! shows its own view of the wall in the line that it logs about a peer that speaks no
//! HTTP/2.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use taskgrid::clock::Clock;
use taskgrid::core::id::Timestamp;

use super::process::{PATIENCE, Process};

/// What a process must log, so that it shows its wall clock.
pub(crate) const LOG_LEVEL: &str = "info,taskgrid::rpc::incoming=debug";
/// Stands in the line that tells of a peer that speaks something else.
const LINE: &str = "a peer did not begin with the preface of HTTP/2";

/// What to tell who has none.
pub(crate) const WANTED: &str = "libfaketime (apt-get install faketime)";

/// Of a log's timestamps and of the history's, in milliseconds.
const GRAIN: i64 = 2;

/// The library, where it is installed.
pub(crate) fn library() -> Option<PathBuf> {
    const NAME: &str = "faketime/libfaketimeMT.so.1";
    let own = ["/usr/lib", "/usr/lib64", "/usr/local/lib"].map(PathBuf::from);
    let multiarch = std::fs::read_dir("/usr/lib").ok()?.filter_map(Result::ok);
    let mut all = own.into_iter().chain(multiarch.map(|entry| entry.path()));
    all.find_map(|dir| Some(dir.join(NAME)).filter(|path| path.is_file()))
}

/// The wall clock of one or several processes.
#[derive(Debug)]
pub(crate) struct Wall {
    library: PathBuf,
    file: PathBuf,
    ahead: i64,
}

impl Wall {
    /// One that shows the right time.
    pub(crate) fn new(library: &Path, dir: &Path, name: &str) -> Self {
        let mut wall = Self { library: library.to_owned(), file: dir.join(name), ahead: 0 };
        wall.set(0);
        wall
    }

    /// So many seconds ahead of the right time, or behind it, from this moment on.
    pub(crate) fn set(&mut self, ahead: i64) {
        // Whoever reads it meanwhile must see the one or the other.
        let new = self.file.with_extension("new");
        std::fs::write(&new, format!("{ahead:+}")).unwrap();
        std::fs::rename(&new, &self.file).unwrap();
        self.ahead = ahead;
    }

    /// In seconds.
    pub(crate) fn ahead(&self) -> i64 {
        self.ahead
    }

    /// Starts a command that sees this wall clock.
    pub(crate) fn start(&self, mut command: Command) -> Process {
        command.env("LD_PRELOAD", &self.library);
        command.env("FAKETIME_TIMESTAMP_FILE", &self.file);
        command.env("FAKETIME_NO_CACHE", "1");
        command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        Process::spawn(command, b"")
    }

    /// Whether a process shows this time, as far as a second can be told from another.
    pub(crate) fn is_shown_by(&self, process: &Process) -> bool {
        let told = |text: &str| text.matches(LINE).count();
        let (earlier, before) = (process.told(|text| Some(told(text))), now());
        poke(process.addr());
        let shown = process.told(|text| {
            let line = text.lines().filter(|line| line.contains(LINE)).nth(earlier)?;
            let (stamp, _) = line.split_once(' ')?;
            humantime::parse_rfc3339(stamp).ok()
        });
        let shown = millis(shown) - self.ahead * 1_000;
        (before - GRAIN..=now() + GRAIN).contains(&shown)
    }
}

/// Says something that is no HTTP/2, and hears that this is the end.
fn poke(peer: SocketAddr) {
    let mut stream = TcpStream::connect_timeout(&peer, PATIENCE).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n and so on\r\n").unwrap();
    // What it answers, or how it hangs up, is its own affair.
    stream.read_to_end(&mut Vec::new()).ok();
}

fn now() -> i64 {
    i64::try_from(Clock::start().now().0).unwrap()
}

fn millis(at: SystemTime) -> i64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(Timestamp::default().plus(since).0).unwrap()
}
