//! The engines under test, and what can be seen of one.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use tempfile::TempDir;

use super::scan;
use crate::core::event::Event;
use crate::core::id::{Seq, TaskId};
use crate::store::embedded::{Durability, Embedded};
use crate::store::{Memory, Recovered, Store, StoredEvent, StoredTask};

/// Opens one store, again and again.
pub(super) trait Engine {
    /// Opens it.
    fn open(&self) -> Box<dyn Store>;

    /// Closes it in good order and opens it again.
    fn restart(&self, store: Box<dyn Store>) -> Box<dyn Store> {
        drop(store);
        self.open()
    }

    /// Opens what is on disk while it is open: what a killed process leaves.
    fn crash(&self, store: Box<dyn Store>) -> Box<dyn Store>;
}

/// The store in memory.
pub(super) struct InMemory(Memory);

impl InMemory {
    pub(super) fn new() -> Self {
        Self(Memory::new())
    }
}

impl Engine for InMemory {
    fn open(&self) -> Box<dyn Store> {
        Box::new(self.0.clone())
    }

    fn crash(&self, store: Box<dyn Store>) -> Box<dyn Store> {
        self.restart(store)
    }
}

/// The store in a directory. After a crash it lives on in a copy.
pub(super) struct OnDisk {
    durability: Durability,
    directories: Mutex<Vec<TempDir>>,
}

impl OnDisk {
    pub(super) fn sync() -> Self {
        Self::new(Durability::Sync)
    }

    pub(super) fn os() -> Self {
        Self::new(Durability::Os)
    }

    fn new(durability: Durability) -> Self {
        Self { durability, directories: Mutex::new(vec![TempDir::new().unwrap()]) }
    }

    fn newest(&self) -> PathBuf {
        self.directories.lock().unwrap().last().unwrap().path().to_owned()
    }
}

impl Engine for OnDisk {
    fn open(&self) -> Box<dyn Store> {
        Box::new(Embedded::open(&self.newest(), self.durability).unwrap())
    }

    fn crash(&self, store: Box<dyn Store>) -> Box<dyn Store> {
        let copy = TempDir::new().unwrap();
        copy_files(&self.newest(), copy.path());
        drop(store);
        self.directories.lock().unwrap().push(copy);
        self.open()
    }
}

/// Copies the files of one directory into another.
pub(in crate::store) fn copy_files(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// All that can be seen of a store without changing it.
#[derive(Debug, Default, PartialEq)]
pub(in crate::store) struct Dump {
    scanned: Vec<Event>,
    recovered: Recovered,
    tasks: Vec<Option<StoredTask>>,
    events: Vec<Option<StoredEvent>>,
    after: Vec<StoredEvent>,
}

impl Dump {
    /// The tasks that are kept.
    pub(in crate::store) fn kept_tasks(&self) -> usize {
        self.tasks.iter().flatten().count()
    }
}

/// Reads a store by all its calls.
pub(in crate::store) fn dump(store: &dyn Store) -> Dump {
    let (scanned, recovered) = scan(store);
    let ids: Vec<TaskId> =
        recovered.last_id.map_or(vec![], |last| (0..=last.0).map(TaskId).collect());
    let places: Vec<Seq> = (1..=recovered.last_seq.0).map(Seq).collect();
    let (tasks, events) = (store.tasks(&ids).unwrap(), store.events(&places).unwrap());
    let specs = tasks.iter().map(|task| task.as_ref().map(|task| task.spec));
    assert!(store.specs(&ids).unwrap().into_iter().eq(specs), "the same without payloads");
    let facts = events.iter().map(|stored| stored.as_ref().map(|stored| stored.event.clone()));
    assert!(store.facts(&places).unwrap().into_iter().eq(facts), "the same without results");
    Dump {
        scanned,
        recovered,
        tasks,
        events,
        after: store.events_after(Seq(0), usize::MAX, usize::MAX).unwrap(),
    }
}
