//! What happened, as those saw it who took part: one line of JSON for each fact, in
//! one file, appended by the campaign and by all its workers.
//!
//! A fact is written at once, in one write to a file that is opened for appending, so
//! that whatever is killed next, it stands there. A line that was being written when
//! its writer was killed may be torn; each begins with a line break, so that it spoils
//! no other.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use taskgrid::clock::Clock;
use taskgrid::core::task::Status;

/// A fact and when it was written, in Unix milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Line {
    pub(crate) at: u64,
    #[serde(flatten)]
    pub(crate) fact: Fact,
}

/// One thing that somebody saw. Campaigns may need more of them: add a variant, and
/// what the checker makes of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fact", rename_all = "snake_case")]
pub(crate) enum Fact {
    /// A client is about to submit the tasks `{key}/0`, `{key}/1` …, whose payloads have
    /// these hashes.
    Asked { key: String, hashes: Vec<String>, at_most_once: bool },
    /// It heard that they are stored.
    Receipt { key: String, ids: Vec<u64> },
    /// It does not know what became of them.
    Unknown { key: String },
    /// A client is about to cancel.
    Cancels { ids: Vec<u64> },
    /// It heard that these are cancelled.
    Cancelled { ids: Vec<u64> },
    /// A client was told how tasks stand.
    Read { by: By, began: u64, tasks: Vec<Seen> },
    /// A client was told that these ended, and are kept no longer.
    Expired { ids: Vec<u64> },
    /// A handler begins. The token's parts: boot, nonce of the boot, sequence.
    Started {
        nonce: String,
        task: u64,
        name: String,
        attempt: u32,
        token: (u64, u64, u64),
        worker: String,
    },
    /// The handler of that nonce gives its answer.
    Ended { nonce: String, how: How },
    /// This process of a worker was killed, or stopped for longer than a lease.
    WorkerLost { worker: String },
    /// From `began` until this was written these could not be reached as they should, or
    /// were stopped.
    CutOff { workers: Vec<String>, began: u64 },
    /// The dispatcher was killed.
    DispatcherLost,
}

/// How a client came to see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum By {
    /// An event of a watch, which tells of each end once.
    Watch,
    /// It asked for the task by its id.
    Get,
    /// A list of all tasks, after the drain; the last word.
    List,
}

/// A task as it was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Seen {
    pub(crate) id: u64,
    /// `None` for a task that there never was.
    pub(crate) status: Option<Status>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) result: Option<String>,
    /// Its name and the hash of its payload, where that was read as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) payload: Option<(String, String)>,
}

/// What a handler answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum How {
    /// A result.
    Done,
    /// A failure, a panic, or more than fits.
    Failed,
}

/// Appends facts. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Recorder {
    path: Arc<Path>,
    file: Arc<File>,
    clock: Clock,
}

impl Recorder {
    /// Appends to this file, which is made if it is not there.
    pub(crate) fn append_to(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).open(path)?;
        Ok(Self { path: path.into(), file: Arc::new(file), clock: Clock::start() })
    }

    /// Writes a fact. When this returns, a kill does not undo it.
    pub(crate) fn write(&self, fact: Fact) {
        self.write_at(self.now(), fact);
    }

    /// The same, for somebody who has the time from elsewhere.
    pub(crate) fn write_at(&self, at: u64, fact: Fact) {
        let line = Line { at, fact };
        let mut text = b"\n".to_vec();
        serde_json::to_writer(&mut text, &line).expect("a fact is JSON");
        text.push(b'\n');
        (&*self.file).write_all(&text).expect("the history can be written");
    }

    /// This moment, in the time of the history.
    pub(crate) fn now(&self) -> u64 {
        self.clock.now().0
    }

    /// The file.
    pub(crate) fn path(&self) -> PathBuf {
        self.path.to_path_buf()
    }

    /// Hands over all lines that are whole, in their order; tells how many are not.
    pub(crate) fn read(&self, take: impl FnMut(Line)) -> io::Result<u64> {
        parse(BufReader::new(File::open(&self.path)?), take)
    }
}

/// Hands over the lines of a history that are whole, in their order; tells how many are not.
pub(crate) fn parse(text: impl BufRead, mut take: impl FnMut(Line)) -> io::Result<u64> {
    let mut torn = 0;
    for line in text.lines() {
        let line = line?;
        match serde_json::from_str(&line) {
            Ok(line) => take(line),
            Err(_) => torn += u64::from(!line.is_empty()),
        }
    }
    Ok(torn)
}
