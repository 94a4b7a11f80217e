//! Full disks and failed syncs.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tempfile::TempDir;

use super::super::directory::Directory;
use super::super::synced::Synced;
use super::super::{Durability, Embedded, FILE};
use super::filled;
use crate::core::id::TaskId;
use crate::store::conformance::engines::dump;
use crate::store::conformance::samples::{group, submitted};
use crate::store::{Error, Store};

/// Faults of the file, by wish.
#[derive(Debug, Default)]
pub(in crate::store::embedded) struct Faults {
    no_space: AtomicBool,
    /// Bytes of the file that have space; 0 for all.
    space: AtomicU64,
    /// There is no space until the reserve is given up.
    only_reserve: AtomicBool,
    no_sync: AtomicBool,
}

impl Faults {
    /// Lets every write find no space.
    pub(in crate::store::embedded) fn fill_up(&self, full: bool) {
        self.no_space.store(full, Ordering::SeqCst);
    }

    /// Lets writes beyond so many bytes find no space, as on a disk that others have
    /// filled; 0 for none.
    pub(super) fn limit_space(&self, bytes: u64) {
        self.space.store(bytes, Ordering::SeqCst);
    }

    /// Lets every write find no space until the reserve is given up.
    pub(super) fn fill_up_to_the_reserve(&self) {
        self.only_reserve.store(true, Ordering::SeqCst);
    }

    /// Called when the reserve was given up.
    pub(in crate::store::embedded) fn give_up_reserve(&self) {
        self.only_reserve.store(false, Ordering::SeqCst);
    }

    /// Lets every sync fail.
    pub(super) fn fail_syncs(&self, fail: bool) {
        self.no_sync.store(fail, Ordering::SeqCst);
    }

    /// Called before each write.
    pub(in crate::store::embedded) fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let end = offset + u64::try_from(bytes.len()).expect("the file holds it");
        let space = self.space.load(Ordering::SeqCst);
        let is_full = [&self.no_space, &self.only_reserve].map(|is| is.load(Ordering::SeqCst));
        if is_full.contains(&true) || (space > 0 && end > space) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    /// Called before each sync.
    pub(in crate::store::embedded) fn sync(&self) -> io::Result<()> {
        if self.no_sync.load(Ordering::SeqCst) {
            // Even this one: what a failed sync left is unknown.
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }
}

#[test]
fn a_full_disk_loses_the_group_and_nothing_else_and_the_store_reopens() {
    for durability in [Durability::Sync, Durability::Os] {
        let dir = TempDir::new().unwrap();
        let store = filled(dir.path(), durability);
        let before = dump(&store);
        store.medium.faults.fill_up(true);
        // Large, so that the file grows before a write finds no space.
        let refused = store.append(&group([submitted(1_000, &vec![1; 8 << 20])]));
        assert!(matches!(refused, Err(Error::Full)), "{refused:?}");
        let refused = store.append(&group([submitted(1_000, b"")]));
        assert!(matches!(refused, Err(Error::Full)), "the engine is poisoned: {refused:?}");
        let refused = store.reopen();
        assert!(matches!(refused, Err(Error::Full)), "it is still full: {refused:?}");
        let refused = store.append(&group([submitted(1_000, b"")]));
        assert!(refused.is_err(), "it is not open");
        store.medium.faults.fill_up(false);
        store.reopen().unwrap();
        assert_eq!(dump(&store), before);
        store.append(&group([submitted(1_000, b"")])).unwrap();
        drop(store);
        let store = Embedded::open(dir.path(), durability).unwrap();
        assert!(store.tasks(&[TaskId(1_000)]).unwrap()[0].is_some());
    }
}

#[test]
fn a_store_on_a_full_disk_is_read_while_it_is_full() {
    for durability in [Durability::Sync, Durability::Os] {
        let dir = TempDir::new().unwrap();
        let store = filled(dir.path(), durability);
        let before = dump(&store);
        // The file is longer than what was written into it, and the rest has no space.
        let bytes = std::fs::read(dir.path().join(FILE)).unwrap();
        let written = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
        store.medium.faults.limit_space(u64::try_from(written).unwrap());
        for _ in 0..3 {
            let refused = store.append(&group([submitted(1_000, &vec![1; 8 << 20])]));
            assert!(matches!(refused, Err(Error::Full)), "{refused:?}");
            store.reopen().unwrap();
            assert_eq!(dump(&store), before);
        }
        store.medium.faults.limit_space(0);
        store.append(&group([submitted(1_000, &vec![1; 8 << 20])])).unwrap();
        drop(store);
        let store = Embedded::open(dir.path(), durability).unwrap();
        assert!(store.tasks(&[TaskId(1_000)]).unwrap()[0].is_some());
    }
}

#[test]
fn a_failed_sync_is_never_tried_again() {
    // In the journal, and in the database.
    for bytes in [0, 70_000] {
        let dir = TempDir::new().unwrap();
        let store = filled(dir.path(), Durability::Sync);
        let kept = dump(&store).kept_tasks();
        store.medium.faults.fail_syncs(true);
        let refused = store.append(&group([submitted(1_000, &vec![1; bytes])]));
        assert!(matches!(refused, Err(Error::Failed { .. })), "{refused:?}");
        store.medium.faults.fail_syncs(false);
        for later in [0, 70_000] {
            let refused = store.append(&group([submitted(1_001, &vec![1; later])]));
            assert!(matches!(refused, Err(Error::Failed { .. })), "{bytes}, {later}: {refused:?}");
        }
        assert!(matches!(store.reopen(), Err(Error::Failed { .. })));
        drop(store);
        let store = Embedded::open(dir.path(), Durability::Sync).unwrap();
        // Whether the group is there is unknown; the one after it is not.
        let unknown = usize::from(store.tasks(&[TaskId(1_000)]).unwrap()[0].is_some());
        assert_eq!(dump(&store).kept_tasks(), kept + unknown);
    }
}

#[test]
fn what_a_failed_sync_was_to_write_is_in_doubt_until_the_next_start_and_nothing_else() {
    let dir = TempDir::new().unwrap();
    let doubts = || {
        let directory = Directory::look_into(dir.path()).unwrap();
        let length = dir.path().join(FILE).metadata().unwrap().len();
        let doubts = Synced::open(&directory).unwrap().doubts(length).unwrap();
        (doubts.iter().map(|range| range.end - range.start).sum::<u64>(), length)
    };
    let store = filled(dir.path(), Durability::Sync);
    store.append(&group((1_000..100_000).map(|id| submitted(id, &[1; 250])))).unwrap();
    drop(store);
    // What the file grew by and nobody wrote is noted by the next start.
    drop(Embedded::open(dir.path(), Durability::Sync).unwrap());
    assert_eq!(doubts().0, 0, "it was closed in good order");
    let store = Embedded::open(dir.path(), Durability::Sync).unwrap();
    store.medium.faults.fail_syncs(true);
    let many = (100_000..100_500).map(|id| submitted(id, &[1; 250]));
    assert!(store.append(&group(many)).is_err());
    store.medium.faults.fail_syncs(false);
    drop(store);
    let (bytes, length) = doubts();
    assert!(bytes > 0 && bytes < length, "{bytes} of {length} bytes");
    drop(Embedded::open(dir.path(), Durability::Sync).unwrap());
    assert_eq!(doubts().0, 0);
}

#[test]
fn without_syncs_what_was_written_stays_in_doubt() {
    let dir = TempDir::new().unwrap();
    let store = filled(dir.path(), Durability::Os);
    store.append(&group((1_000..9_000).map(|id| submitted(id, &[1; 250])))).unwrap();
    let length = dir.path().join(FILE).metadata().unwrap().len();
    assert_ne!(store.medium.on_disk.doubts(length).unwrap(), []);
    drop(store);
}

#[test]
fn without_syncs_an_epoch_is_synced_all_the_same() {
    let dir = TempDir::new().unwrap();
    let store = filled(dir.path(), Durability::Os);
    store.medium.faults.fail_syncs(true);
    store.append(&group([submitted(1_000, b"")])).unwrap();
    assert!(matches!(store.take_epoch(7), Err(Error::Failed { .. })));
}
