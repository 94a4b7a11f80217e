//! TaskGrid's own measuring tool as a process: it starts nameservice, dispatcher and
//! workers as processes, checks every result, and tells what it measured.

use std::io::Read as _;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use super::work::{Failure, LONGEST};

/// Long enough for the processes of a grid to end.
const FAREWELL: Duration = Duration::from_secs(10);

/// What `taskgrid client bench --spawn -o json` says with these arguments.
pub(crate) fn bench(arguments: &str) -> Result<Value, Failure> {
    let mut tool = Tool(
        Command::new(env!("CARGO_BIN_EXE_taskgrid"))
            .args(["client", "bench", "--spawn", "-o", "json"])
            .args(arguments.split_whitespace())
            .env_clear()
            .env("TMPDIR", std::env::temp_dir())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?,
    );
    let mut stdout = tool.0.stdout.take().ok_or("there is no output")?;
    let (sender, told) = mpsc::channel();
    thread::spawn(move || {
        let mut text = String::new();
        let read = stdout.read_to_string(&mut text).map(|_| text);
        // Who waits no longer has said why.
        sender.send(read).ok();
    });
    let text = match told.recv_timeout(LONGEST) {
        Ok(text) => text?,
        Err(RecvTimeoutError::Timeout) => return Err("the run takes too long".into()),
        Err(RecvTimeoutError::Disconnected) => return Err("the reader panicked".into()),
    };
    let status = tool.0.wait()?;
    if !status.success() {
        return Err(format!("taskgrid client bench {arguments}: {status}: {text}").into());
    }
    Ok(serde_json::from_str(&text)?)
}

/// A number of a report, by its JSON pointer.
pub(crate) fn number(report: &Value, pointer: &str) -> Result<u64, Failure> {
    let number = report.pointer(pointer).and_then(Value::as_u64);
    Ok(number.ok_or_else(|| format!("{pointer} is no number in {report}"))?)
}

/// The tool. It is asked to end with this value, so that it ends what it started.
struct Tool(Child);

impl Drop for Tool {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(Some(_))) {
            return;
        }
        let pid = rustix::process::Pid::from_child(&self.0);
        // One that has ended hears nothing, which is fine.
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).ok();
        let deadline = std::time::Instant::now() + FAREWELL;
        while matches!(self.0.try_wait(), Ok(None)) && std::time::Instant::now() < deadline {
            thread::park_timeout(Duration::from_millis(10));
        }
        self.0.kill().ok();
        self.0.wait().ok();
    }
}
