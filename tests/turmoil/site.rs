//! What the hosts of a world and its director share: the history, the clients' books, and
//! what each host is living through.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use taskgrid::shutdown::Shutdown;

use super::history::Recorder;

/// Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Site {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    history: PathBuf,
    rules: Rules,
    books: Mutex<Books>,
    lives: Mutex<BTreeMap<String, Life>>,
    calm: Shutdown,
}

/// What is the same for the whole of a world.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    pub(crate) seed: u64,
    pub(crate) workers: u64,
    pub(crate) clients: u64,
    pub(crate) slots: u32,
    pub(crate) lease: Duration,
    pub(crate) ttl: Duration,
}

/// What the clients know, and what the workers are at.
#[derive(Debug, Default)]
pub(crate) struct Books {
    pub(crate) receipted: Vec<u64>,
    /// Those of them whose end was not heard of.
    pub(crate) open: BTreeSet<u64>,
    pub(crate) ended: BTreeSet<u64>,
    /// Submits without an answer at this moment.
    pub(crate) asking: u64,
    /// Executions under way, by process.
    pub(crate) running: BTreeMap<String, u64>,
    /// Clients that have no more to ask.
    pub(crate) done: u64,
    /// All has been read, after all had ended.
    pub(crate) settled: bool,
    /// Answers that no client may get here, and roles that ended as they may not.
    pub(crate) wrong: Vec<String>,
}

/// The life of a process.
#[derive(Debug, Clone, Default)]
pub(crate) struct Life {
    /// Names the process: no two have the same.
    pub(crate) process: String,
    number: u64,
    /// Tells it to end.
    pub(crate) end: Shutdown,
}

impl Site {
    pub(crate) fn new(history: PathBuf, rules: Rules) -> Self {
        let (books, lives, calm) = (Mutex::default(), Mutex::default(), Shutdown::new());
        Self { shared: Arc::new(Shared { history, rules, books, lives, calm }) }
    }

    pub(crate) fn rules(&self) -> Rules {
        self.shared.rules
    }

    /// A recorder in the time of the host that is running.
    pub(crate) fn recorder(&self) -> Recorder {
        Recorder::append_to(&self.shared.history).expect("the history can be written")
    }

    pub(crate) fn books(&self) -> MutexGuard<'_, Books> {
        self.shared.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something is wrong.
    pub(crate) fn complain(&self, what: String) {
        self.books().wrong.push(what);
    }

    /// Begun when there will be no more harm.
    pub(crate) fn calm(&self) -> &Shutdown {
        &self.shared.calm
    }

    /// Begins the next life of a host.
    pub(crate) fn live(&self, host: &str) -> Life {
        let mut lives = self.lives();
        let life = lives.entry(host.to_owned()).or_default();
        let number = life.number + 1;
        *life = Life { process: process(host, number), number, end: Shutdown::new() };
        life.clone()
    }

    /// The processes that a host has had since that life of it.
    pub(crate) fn since(&self, host: &str, life: &Life) -> Vec<String> {
        (life.number..=self.life(host).number).map(|number| process(host, number)).collect()
    }

    /// The life that a host is in, or was in last.
    pub(crate) fn life(&self, host: &str) -> Life {
        self.lives().get(host).cloned().unwrap_or_default()
    }

    fn lives(&self) -> MutexGuard<'_, BTreeMap<String, Life>> {
        self.shared.lives.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn process(host: &str, life: u64) -> String {
    format!("{host}.{life}")
}

impl Books {
    /// These are stored.
    pub(crate) fn receipt(&mut self, ids: &[u64]) {
        // The same receipt may come twice.
        let new = ids.iter().filter(|id| !self.receipted.contains(id)).copied();
        let new: Vec<u64> = new.collect();
        self.receipted.extend(&new);
        self.open.extend(new.into_iter().filter(|id| !self.ended.contains(id)));
    }

    /// These have ended.
    pub(crate) fn end(&mut self, ids: impl Iterator<Item = u64>) {
        for id in ids {
            self.open.remove(&id);
            self.ended.insert(id);
        }
    }
}
