//! The disk of a simulated dispatcher: a store in memory that outlives its lives, and
//! that can fail, or lie.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use taskgrid::core::event::{Event, TaskEvent};
use taskgrid::core::id::{Epoch, Seq, TaskId};
use taskgrid::core::task::Spec;
use taskgrid::store::{Error, Group, Memory, Position, Recovered, Store, StoredEvent, StoredTask};

/// Tasks and events of a part of the history.
const PART: usize = 20;

/// What is handed from one life of the dispatcher to the next. A clone is the same disk.
#[derive(Debug, Clone, Default)]
pub(crate) struct Disk {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    memory: Mutex<Memory>,
    fails: AtomicU8,
    /// What was written, in order: only kept by a disk that lies.
    written: Mutex<Vec<Written>>,
    lies: bool,
}

#[derive(Debug, Clone)]
enum Written {
    Epoch(u64),
    Group(Group),
}

/// How an append fails; what of it is stored then, its caller cannot know.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fails {
    /// Nothing is stored.
    Before,
    /// All is stored.
    After,
}

impl Disk {
    /// A disk that says that it has stored what it has not: a crash takes its last group.
    pub(crate) fn lying() -> Self {
        Self { shared: Arc::new(Shared { lies: true, ..Shared::default() }) }
    }

    /// The next append fails.
    pub(crate) fn fail(&self, how: Fails) {
        let how = match how {
            Fails::Before => 1,
            Fails::After => 2,
        };
        self.shared.fails.store(how, Ordering::SeqCst);
    }

    /// What the next life of the dispatcher finds.
    pub(crate) fn mount(&self) -> Arc<dyn Store> {
        self.shared.fails.store(0, Ordering::SeqCst);
        if self.shared.lies {
            self.shared.lose_the_last_group();
        }
        Arc::new(self.clone())
    }
}

impl Shared {
    fn memory(&self) -> Memory {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn written(&self) -> MutexGuard<'_, Vec<Written>> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lose_the_last_group(&self) {
        let mut written = self.written();
        let last = written.iter().rposition(|step| matches!(step, Written::Group(_)));
        let Some(last) = last else { return };
        written.truncate(last);
        let memory = Memory::new();
        for step in written.iter() {
            match step {
                Written::Epoch(nonce) => drop(memory.take_epoch(*nonce).expect("an epoch")),
                Written::Group(group) => memory.append(group).expect("a group, a second time"),
            }
        }
        *self.memory.lock().unwrap_or_else(PoisonError::into_inner) = memory;
    }
}

impl Store for Disk {
    fn blocks(&self) -> bool {
        false
    }

    fn take_epoch(&self, nonce: u64) -> Result<Vec<Epoch>, Error> {
        if self.shared.lies {
            self.shared.written().push(Written::Epoch(nonce));
        }
        self.shared.memory().take_epoch(nonce)
    }

    fn append(&self, group: &Group) -> Result<(), Error> {
        let failed = |what: &str| Err(Error::Failed { what: what.to_owned() });
        match self.shared.fails.swap(0, Ordering::SeqCst) {
            0 => {}
            1 => return failed("as it was told to, before it stored anything"),
            _ => {
                self.shared.memory().append(group)?;
                return failed("as it was told to, after it stored everything");
            }
        }
        if self.shared.lies {
            self.shared.written().push(Written::Group(group.clone()));
        }
        self.shared.memory().append(group)
    }

    fn summary(&self, visit: &mut dyn FnMut(Event)) -> Result<Recovered, Error> {
        self.shared.memory().summary(visit)
    }

    fn history(
        &self,
        from: Position,
        to: Recovered,
        limit: usize,
        visit: &mut dyn FnMut(Event),
    ) -> Result<Option<Position>, Error> {
        // So little at once that a start is in many parts.
        self.shared.memory().history(from, to, limit.min(PART), visit)
    }

    fn tasks_within(&self, ids: &[TaskId], bytes: usize) -> Result<Vec<Option<StoredTask>>, Error> {
        self.shared.memory().tasks_within(ids, bytes)
    }

    fn specs(&self, ids: &[TaskId]) -> Result<Vec<Option<Spec>>, Error> {
        self.shared.memory().specs(ids)
    }

    fn events(&self, places: &[Seq]) -> Result<Vec<Option<StoredEvent>>, Error> {
        self.shared.memory().events(places)
    }

    fn facts(&self, places: &[Seq]) -> Result<Vec<Option<TaskEvent>>, Error> {
        self.shared.memory().facts(places)
    }

    fn events_after(
        &self,
        place: Seq,
        limit: usize,
        bytes: usize,
    ) -> Result<Vec<StoredEvent>, Error> {
        self.shared.memory().events_after(place, limit, bytes)
    }

    fn has_room(&self) -> bool {
        true
    }

    fn reopen(&self) -> Result<(), Error> {
        Ok(())
    }
}
