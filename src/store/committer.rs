//! Appends groups to a store, in order, for a loop that must not wait.
//!
//! ```text
//!             ┌─ the store does not block ─────▶ here, at once
//!  a group ───┼─ none waits, and it is brief ──▶ here, at once (`Store::append_at_once`)
//!             └─ else ─────────────────────────▶ the committer's thread
//! ```
//!
//! The loop hands a group over and goes on; while that one is synced the next can fill. A
//! group that finds no space waits on the thread, with all behind it: the store is opened
//! anew, and the group tried again. After any other error nothing more is appended: what the
//! failed commit left is unknown, so that a later group could stand on something that is not
//! there.
//!
//! What this module does not do: it joins no groups, and waits for no more of them.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::{Error, Group, Store};

/// The first pause before a group that found no space is tried again; doubled each
/// time up to the last, because opening the store reads all of it.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(5);

/// Owns the thread. Dropped without [`Committer::stop`], the thread still
/// finishes what was handed over, but nobody waits for it.
pub struct Committer {
    place: Place,
}

/// Is told what became of each group.
type Told = Box<dyn FnMut(Answer) + Send>;

/// Where groups are appended.
enum Place {
    Apart {
        groups: mpsc::Sender<Arc<Group>>,
        /// Groups that the thread has not answered yet.
        unanswered: Arc<AtomicUsize>,
        /// Shared with the thread, which holds it while it appends: the loop takes it only when
        /// the thread has nothing to append, so that it never waits for it.
        appender: Arc<Mutex<Appender>>,
        /// Dropped when a group shall wait no longer for space.
        patience: mpsc::Sender<()>,
        thread: JoinHandle<()>,
    },
    /// Where they are handed over.
    Here(Box<Appender>),
}

/// What became of the oldest group that has no answer.
#[derive(Debug)]
pub enum Answer {
    /// It is durable, since then.
    Durable(Instant),
    /// There is no space for it: it waits. Another answer follows.
    Waits,
    /// It is not known what of it is durable, or it waited in vain.
    Failed(Error),
}

impl Committer {
    /// Starts the thread, if the store wants one. `answer` is called for each group, in
    /// order: once, but for groups that wait for space. It is called on the thread, or
    /// before [`Committer::commit`] returns.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(
        store: Arc<dyn Store>,
        answer: impl FnMut(Answer) + Send + 'static,
    ) -> std::io::Result<Self> {
        let (patience, impatience) = mpsc::channel();
        let blocks = store.blocks();
        let answer: Told = Box::new(answer);
        let appender = Appender { store, answer, impatience, failure: None };
        if !blocks {
            // Nobody waits for space in memory.
            return Ok(Self { place: Place::Here(Box::new(appender)) });
        }
        let appender = Arc::new(Mutex::new(appender));
        let unanswered = Arc::new(AtomicUsize::new(0));
        let (groups, handed_over) = mpsc::channel::<Arc<Group>>();
        let run = {
            let (appender, unanswered) = (Arc::clone(&appender), Arc::clone(&unanswered));
            move || {
                for group in handed_over {
                    locked(&appender).take(&group);
                    unanswered.fetch_sub(1, Ordering::Release);
                }
            }
        };
        let thread = std::thread::Builder::new().name("committer".to_owned()).spawn(run)?;
        Ok(Self { place: Place::Apart { groups, unanswered, appender, patience, thread } })
    }

    /// Hands a group over, at once. An empty one is answered after those before it.
    pub fn commit(&mut self, group: Arc<Group>) {
        match &mut self.place {
            Place::Here(appender) => appender.take(&group),
            // The thread ends before its channel only by a panic of `answer`, which
            // `stop` passes on; there is nobody left to answer then.
            Place::Apart { groups, unanswered, appender, .. } => {
                let none_waits = unanswered.load(Ordering::Acquire) == 0;
                if none_waits && locked(appender).take_at_once(&group) {
                    return;
                }
                unanswered.fetch_add(1, Ordering::Relaxed);
                if groups.send(group).is_err() {
                    tracing::error!("the committer has ended");
                }
            }
        }
    }

    /// Waits until everything that was handed over is answered, and ends the thread.
    /// What waits for space has failed then.
    ///
    /// # Panics
    /// When `answer` panicked.
    pub fn stop(self) {
        let Place::Apart { groups, patience, thread, .. } = self.place else { return };
        drop((groups, patience));
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    }
}

impl fmt::Debug for Committer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Committer").finish_non_exhaustive()
    }
}

fn locked(appender: &Mutex<Appender>) -> MutexGuard<'_, Appender> {
    appender.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Appender {
    store: Arc<dyn Store>,
    answer: Told,
    /// Ends when nobody waits for space any more.
    impatience: mpsc::Receiver<()>,
    /// Why nothing more is appended.
    failure: Option<String>,
}

impl Appender {
    /// Appends a group that the store takes at once; whether it did, or failed to.
    fn take_at_once(&mut self, group: &Group) -> bool {
        if self.failure.is_some() {
            return false;
        }
        match caught(|| self.store.append_at_once(group).transpose()).transpose() {
            // For space the thread waits.
            None | Some(Err(Error::Full)) => false,
            Some(appended) => {
                self.tell(appended);
                true
            }
        }
    }

    fn take(&mut self, group: &Group) {
        if let Some(first) = &self.failure {
            let what = format!("an earlier group failed: {first}");
            (self.answer)(Answer::Failed(Error::Failed { what }));
            return;
        }
        let mut appended = self.append(group);
        if matches!(appended, Err(Error::Full)) {
            (self.answer)(Answer::Waits);
            appended = self.append_once_there_is_space(group);
        }
        self.tell(appended);
    }

    fn tell(&mut self, appended: Result<(), Error>) {
        (self.answer)(match appended {
            Ok(()) => Answer::Durable(Instant::now()),
            Err(error) => {
                self.failure = Some(error.to_string());
                Answer::Failed(error)
            }
        });
    }

    fn append(&self, group: &Group) -> Result<(), Error> {
        caught(|| self.store.append(group))
    }

    fn append_once_there_is_space(&self, group: &Group) -> Result<(), Error> {
        let mut pause = FIRST_PAUSE;
        loop {
            // At once, for those who read: after a write that failed the engine only
            // says that there was one.
            let opened = self.store.reopen();
            if !matches!(opened, Ok(()) | Err(Error::Full)) {
                return opened;
            }
            let woken = self.impatience.recv_timeout(pause);
            if woken == Err(RecvTimeoutError::Disconnected) {
                return Err(Error::Full);
            }
            pause = (pause * 2).min(LAST_PAUSE);
            if opened.is_ok() {
                match self.append(group) {
                    Err(Error::Full) => {}
                    done => return done,
                }
            }
        }
    }
}

/// A panic is an answer like any other failure: a caller that waits for a group that will never
/// be answered would hang instead of stopping.
fn caught<T>(append: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    catch_unwind(AssertUnwindSafe(append))
        .unwrap_or_else(|_| Err(Error::Failed { what: "the engine panicked".to_owned() }))
}

#[cfg(test)]
mod tests;
