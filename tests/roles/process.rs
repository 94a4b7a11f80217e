//! Processes of the binary: started with nothing of this environment, read until they
//! end, and killed by their own id when they are dropped.

use std::io::{self, Read, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Longer than anything takes that does not hang.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A process that runs, or ran.
pub(crate) struct Process {
    name: String,
    child: Child,
    stdout: Arc<Stream>,
    stderr: Arc<Stream>,
}

/// What a process left when it had ended.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The command line, for messages.
    pub(crate) name: String,
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Answer {
    /// Exactly this on stdout, nothing else anywhere, and success.
    pub(crate) fn prints(&self, stdout: &str) {
        assert_eq!((self.code, &*self.stdout, &*self.stderr), (Some(0), stdout, ""), "{self:?}");
    }

    /// Success; gives what stands on stdout.
    pub(crate) fn succeeds(&self) -> &str {
        assert_eq!(self.code, Some(0), "{self:?}");
        &self.stdout
    }

    /// One `error:` line with all these words, this exit code, nothing on stdout.
    pub(crate) fn is_refused(&self, code: i32, words: &[&str]) {
        assert_eq!((self.code, &*self.stdout), (Some(code), ""), "{self:?}");
        let errors: Vec<&str> =
            self.stderr.lines().filter(|line| line.starts_with("error: ")).collect();
        let [error] = errors[..] else { panic!("not one error but {}: {self:?}", errors.len()) };
        for word in words {
            assert!(error.contains(word), "{word:?} is not in it: {self:?}");
        }
    }

    /// Refused by a call of the client, which says nothing besides but a hint.
    pub(crate) fn is_refused_call(&self, code: i32, words: &[&str]) {
        self.is_refused(code, words);
        let is_told = |line: &str| line.starts_with("error: ") || line.starts_with("hint: ");
        assert!(self.stderr.lines().all(is_told), "{self:?}");
    }
}

/// The binary with these arguments.
pub(crate) fn taskgrid(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_taskgrid"));
    command.args(arguments).env_clear();
    command
}

impl Process {
    /// Starts the binary with nothing on its stdin.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        Self::spawn(taskgrid(arguments), b"")
    }

    /// Starts a command, and writes `stdin` to it meanwhile.
    pub(crate) fn spawn(mut command: Command, stdin: &[u8]) -> Self {
        let arguments: Vec<_> = command.get_args().map(|word| word.to_string_lossy()).collect();
        let name = arguments.join(" ");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (mut pipe, stdin) = (child.stdin.take().unwrap(), stdin.to_owned());
        // Who does not read all of it may end before.
        thread::spawn(move || pipe.write_all(&stdin).ok());
        let stdout = Stream::drain(child.stdout.take().unwrap());
        let stderr = Stream::drain(child.stderr.take().unwrap());
        Self { name, child, stdout, stderr }
    }

    /// Where a role listens, once it does: the address that it logs.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.stderr.wait(PATIENCE, |text| {
            let (_, rest) = text.split_once("listening address=")?;
            let (address, _) = rest.split_once('\n')?;
            address.trim().parse().ok()
        })
    }

    /// What `probe` finds in what was printed to stdout so far, once it finds it.
    pub(crate) fn printed<Found>(&self, probe: impl FnMut(&str) -> Option<Found>) -> Found {
        self.stdout.wait(PATIENCE, probe)
    }

    /// The same of stderr.
    pub(crate) fn told<Found>(&self, probe: impl FnMut(&str) -> Option<Found>) -> Found {
        self.stderr.wait(PATIENCE, probe)
    }

    /// What the system knows it by.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Ends it as a crash would, and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks it to end.
    pub(crate) fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Sends it a signal; it must be there.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits for its end.
    pub(crate) fn answer(self) -> Answer {
        self.answer_within(PATIENCE)
    }

    /// Waits for its end, which must come in time: then both pipes are closed.
    pub(crate) fn answer_within(mut self, patience: Duration) -> Answer {
        let deadline = Instant::now() + patience;
        for stream in [&self.stdout, &self.stderr] {
            stream.wait_for_end(deadline.saturating_duration_since(Instant::now()), &self.name);
        }
        let code = self.child.wait().unwrap().code();
        Answer {
            name: self.name.clone(),
            code,
            stdout: self.stdout.text(),
            stderr: self.stderr.text(),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // One that has ended cannot be killed, which is fine.
        self.child.kill().ok();
        self.child.wait().ok();
        if thread::panicking() {
            eprintln!("--- {}\n{}", self.name, self.stderr.text());
        }
    }
}

/// Asks until there is an answer, which takes at most [`PATIENCE`].
pub(crate) fn until<Found>(what: &str, mut probe: impl FnMut() -> Option<Found>) -> Found {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if let Some(found) = probe() {
            return found;
        }
        thread::yield_now();
    }
    panic!("never {what}");
}

/// The lines of a file of this repository.
pub(crate) fn of_this_repository(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// One of the two pipes, read by a thread so that it never fills.
#[derive(Default)]
struct Stream {
    came: Mutex<Came>,
    changed: Condvar,
}

#[derive(Default)]
struct Came {
    bytes: Vec<u8>,
    ended: bool,
}

impl Stream {
    fn drain(source: impl Read + Send + 'static) -> Arc<Self> {
        let stream = Arc::new(Self::default());
        let filled = Arc::clone(&stream);
        thread::spawn(move || filled.fill(source));
        stream
    }

    fn fill(&self, mut source: impl Read) {
        let mut chunk = [0; 1 << 14];
        loop {
            let length = match source.read(&mut chunk) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other.unwrap_or(0),
            };
            let mut came = self.lock();
            came.bytes.extend_from_slice(&chunk[..length]);
            came.ended = length == 0;
            self.changed.notify_all();
            if came.ended {
                return;
            }
        }
    }

    fn wait<Found>(
        &self,
        patience: Duration,
        mut probe: impl FnMut(&str) -> Option<Found>,
    ) -> Found {
        let deadline = Instant::now() + patience;
        let mut came = self.lock();
        loop {
            let text = String::from_utf8_lossy(&came.bytes);
            if let Some(found) = probe(&text) {
                return found;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!came.ended && !left.is_zero(), "not in what it said:\n{text}");
            came = self.changed.wait_timeout(came, left).unwrap().0;
        }
    }

    fn wait_for_end(&self, patience: Duration, name: &str) {
        let came = self.lock();
        let waited = self.changed.wait_timeout_while(came, patience, |came| !came.ended);
        assert!(!waited.unwrap().1.timed_out(), "it did not end in time: {name}");
    }

    /// Also for a test that has failed: it shows what there is.
    fn lock(&self) -> MutexGuard<'_, Came> {
        self.came.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.lock().bytes).into_owned()
    }
}
