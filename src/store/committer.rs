//! The one thread that appends to a store.
//!
//! Groups are handed over without waiting and appended in that order, each in
//! one commit; while one is being synced the next can fill. After the first
//! error nothing more is appended: what the failed commit left is unknown, so a
//! later group could stand on something that is not there.
//!
//! What this module does not do: it joins no groups, waits for no more of them,
//! and tries nothing twice.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;

use super::{Error, Group, Store};

/// Owns the thread. Dropped without [`Committer::stop`], the thread still
/// finishes what was handed over, but nobody waits for it.
#[derive(Debug)]
pub struct Committer {
    groups: mpsc::Sender<Arc<Group>>,
    thread: JoinHandle<()>,
}

impl Committer {
    /// Starts the thread. `done` is called on it once for each group, in order.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(
        store: Arc<dyn Store>,
        mut done: impl FnMut(Result<(), Error>) + Send + 'static,
    ) -> std::io::Result<Self> {
        let (groups, handed_over) = mpsc::channel::<Arc<Group>>();
        let thread = std::thread::Builder::new().name("committer".to_owned()).spawn(move || {
            let mut failure = None;
            for group in handed_over {
                done(commit(store.as_ref(), &group, &mut failure));
            }
        })?;
        Ok(Self { groups, thread })
    }

    /// Hands a group over, at once. An empty one is answered after those before it.
    pub fn commit(&self, group: Arc<Group>) {
        // The thread ends before its channel only by a panic of `done`, which
        // `stop` passes on; there is nobody left to answer then.
        if self.groups.send(group).is_err() {
            tracing::error!("the committer has ended");
        }
    }

    /// Waits until everything that was handed over is answered, and ends the thread.
    ///
    /// # Panics
    /// When `done` panicked.
    pub fn stop(self) {
        drop(self.groups);
        if let Err(panic) = self.thread.join() {
            std::panic::resume_unwind(panic);
        }
    }
}

/// Why nothing more is appended.
enum Failure {
    Full,
    Other(String),
}

fn commit(store: &dyn Store, group: &Group, failure: &mut Option<Failure>) -> Result<(), Error> {
    match failure {
        Some(Failure::Full) => return Err(Error::Full),
        Some(Failure::Other(first)) => {
            return Err(Error::Failed { what: format!("an earlier group failed: {first}") });
        }
        None => {}
    }
    // A panic is an answer like any other failure: a caller that waits for a
    // group that will never be answered would hang instead of stopping.
    let appended = catch_unwind(AssertUnwindSafe(|| store.append(group)))
        .unwrap_or_else(|_| Err(Error::Failed { what: "the engine panicked".to_owned() }));
    if let Err(error) = &appended {
        *failure = Some(match error {
            Error::Full => Failure::Full,
            other => Failure::Other(other.to_string()),
        });
    }
    appended
}

#[cfg(test)]
mod tests;
