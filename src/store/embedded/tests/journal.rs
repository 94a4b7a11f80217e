//! Commits that the journal has and the database lacks: after a crash they are all there, or
//! the store is refused; what nobody was told of may be missing.

use std::path::Path;

use tempfile::TempDir;

use super::super::journal;
use super::super::{Durability, Embedded, FILE};
use super::flush;
use crate::core::event::Entry;
use crate::core::id::{Seq, TaskId};
use crate::core::task::Change;
use crate::store::conformance::engines::copy_files;
use crate::store::conformance::samples::{changed, group, submitted};
use crate::store::{Error, Group, Store as _, Trim};

/// Bytes between records.
const BLOCK: usize = 4_096;
/// Commits of a [`killed`] store that the database lacks.
const WAITING: u64 = 12;

/// A task that has ended.
fn ended(id: u64) -> [Entry; 2] {
    [submitted(id, &[1; 300]), changed(id, id, None, Change::Completed)]
}

fn small(id: u64) -> Group {
    group(ended(id))
}

/// The journal holds no more than this.
fn large(id: u64) -> Group {
    group([submitted(id, &vec![2; 70_000])])
}

/// What is left of a store that is killed with these commits in its journal.
fn killed(durability: Durability) -> TempDir {
    let (dir, copy) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let store = Embedded::open(dir.path(), durability).unwrap();
    store.take_epoch(7).unwrap();
    for id in 1..=WAITING {
        store.append(&small(id)).unwrap();
    }
    copy_files(dir.path(), copy.path());
    copy
}

/// The ids of the tasks that a store holds, if it opens.
fn held(dir: &Path) -> Result<Vec<u64>, Error> {
    let store = Embedded::open(dir, Durability::Sync)?;
    let ids: Vec<TaskId> = (0..2_000).map(TaskId).collect();
    let tasks = store.tasks(&ids)?.into_iter().flatten();
    Ok(tasks.map(|task| task.id.0).collect())
}

/// Flips a bit of the journal.
fn hit(dir: &Path, place: usize) {
    let path = dir.join(journal::FILE);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[place] ^= 1;
    std::fs::write(&path, bytes).unwrap();
}

#[test]
fn the_database_takes_many_small_groups_at_once_and_before_anybody_reads() {
    let dir = TempDir::new().unwrap();
    let store = Embedded::open(dir.path(), Durability::Sync).unwrap();
    let database = || std::fs::read(dir.path().join(FILE)).unwrap();
    let before = database();
    for id in 1..=WAITING {
        store.append(&small(id)).unwrap();
    }
    assert!(database() == before, "they are in the journal");
    assert!(store.tasks(&[TaskId(WAITING)]).unwrap()[0].is_some());
    assert!(database() != before);
    let before = database();
    store.append(&small(WAITING + 1)).unwrap();
    assert!(database() == before);
    store.append(&large(WAITING + 2)).unwrap();
    assert!(database() != before);
    assert!(!store.tail().lags(), "it was taken with the large one");
}

#[test]
fn a_small_group_is_taken_at_once_where_no_disk_is_waited_for() {
    let dir = TempDir::new().unwrap();
    let store = Embedded::open(dir.path(), Durability::Os).unwrap();
    store.append_at_once(&small(1)).unwrap().unwrap();
    let many = group((2..100).map(|id| submitted(id, b"")));
    let trim = Trim { tasks: vec![(TaskId(1), Seq(1)); 100], ..Trim::default() };
    let forgetting = Group { trim, ..Group::default() };
    for (what, other) in [
        ("large", large(2)),
        ("many", many),
        ("much to forget", forgetting),
        ("nothing", Group::default()),
    ] {
        assert!(store.append_at_once(&other).is_none(), "{what}");
    }
    let twice = store.append_at_once(&small(1)).unwrap().unwrap_err();
    assert!(twice.to_string().contains("stored already"), "{twice}");
    let tail = store.tail();
    assert!(store.append_at_once(&small(2)).is_none(), "somebody has the journal");
    drop(tail);
    store.append_at_once(&small(2)).unwrap().unwrap();
    let copy = TempDir::new().unwrap();
    copy_files(dir.path(), copy.path());
    assert_eq!(held(copy.path()).unwrap(), [1, 2]);
    assert!(store.tasks(&[TaskId(2)]).unwrap()[0].is_some(), "who reads finds it");
    drop(store);
    let store = Embedded::open(dir.path(), Durability::Sync).unwrap();
    assert!(store.append_at_once(&small(3)).is_none(), "the disk is waited for");
    drop(store);
    assert_eq!(held(dir.path()).unwrap(), [1, 2]);
}

#[test]
fn what_is_taken_at_once_leaves_a_full_journal_to_others() {
    let dir = TempDir::new().unwrap();
    let store = Embedded::open(dir.path(), Durability::Os).unwrap();
    let taken = (1..2_000).find(|&id| match store.append_at_once(&small(id)) {
        None => true,
        Some(taken) => {
            taken.unwrap();
            false
        }
    });
    let next = taken.expect("it is full before that");
    store.append(&small(next)).unwrap();
    assert!(!store.tail().lags(), "the database took it with all that waited");
    store.append_at_once(&small(next + 1)).unwrap().unwrap();
    drop(store);
    assert!(held(dir.path()).unwrap().into_iter().eq(1..=next + 1));
}

#[test]
fn a_killed_store_has_what_its_journal_had() {
    for durability in [Durability::Sync, Durability::Os] {
        let killed = killed(durability);
        assert!(held(killed.path()).unwrap().into_iter().eq(1..=WAITING));
        assert!(held(killed.path()).unwrap().into_iter().eq(1..=WAITING), "and has it still");
    }
}

#[test]
fn a_full_journal_begins_again_and_is_never_longer() {
    let (dir, length) = (TempDir::new().unwrap(), |dir: &TempDir| {
        std::fs::metadata(dir.path().join(journal::FILE)).unwrap().len()
    });
    let store = Embedded::open(dir.path(), Durability::Os).unwrap();
    let whole = length(&dir);
    let (mut laps, mut did_lag) = (0, false);
    for id in 1..2_000 {
        store.append(&small(id)).unwrap();
        let is_behind = store.tail().lags();
        let is_end_of_lap = did_lag && !is_behind;
        did_lag = is_behind;
        if is_end_of_lap {
            laps += 1;
            let copy = TempDir::new().unwrap();
            copy_files(dir.path(), copy.path());
            assert!(held(copy.path()).unwrap().into_iter().eq(1..=id), "lap {laps}");
        }
    }
    assert!(laps >= 3, "{laps}");
    assert_eq!(length(&dir), whole);
}

#[test]
fn a_journal_that_was_hit_is_refused_and_not_cut_short() {
    let killed = killed(Durability::Sync);
    for number in 0..usize::try_from(WAITING).unwrap() {
        for place in [0, 5, 9, 300] {
            let dir = TempDir::new().unwrap();
            copy_files(killed.path(), dir.path());
            hit(dir.path(), number * BLOCK + place);
            assert!(!crate::store::verify(dir.path()).unwrap().is_sound(), "group {number}");
            for _ in 0..2 {
                let refused = held(dir.path()).unwrap_err();
                assert!(matches!(refused, Error::Damaged { .. }), "group {number}: {refused}");
            }
        }
    }
}

#[test]
fn a_journal_that_is_gone_or_cut_is_missed() {
    for left in [None, Some(0), Some(1), Some(BLOCK), Some(BLOCK + 100)] {
        let killed = killed(Durability::Sync);
        let path = killed.path().join(journal::FILE);
        match left {
            None => std::fs::remove_file(&path).unwrap(),
            Some(left) => {
                let bytes = std::fs::read(&path).unwrap();
                std::fs::write(&path, &bytes[..left]).unwrap();
            }
        }
        assert!(!crate::store::verify(killed.path()).unwrap().is_sound(), "{left:?}");
        let refused = held(killed.path()).unwrap_err().to_string();
        assert!(refused.contains("was synced"), "{left:?}: {refused}");
    }
}

#[test]
fn a_database_that_is_gone_is_missed_by_its_journal() {
    let killed = killed(Durability::Sync);
    let files = || std::fs::read_dir(killed.path()).unwrap().count();
    std::fs::remove_file(killed.path().join(FILE)).unwrap();
    let before = files();
    for _ in 0..2 {
        let refused = held(killed.path()).unwrap_err();
        assert!(matches!(refused, Error::Damaged { .. }), "{refused}");
        assert!(refused.to_string().contains("it is gone"), "{refused}");
    }
    let verified = crate::store::verify(killed.path()).unwrap_err();
    assert!(matches!(verified, Error::Damaged { .. }), "{verified}");
    assert_eq!(files(), before);
}

/// As a power cut may leave it, before the system has written the note of what was synced.
#[test]
fn the_last_group_may_be_half_written_and_no_other() {
    let last = usize::try_from(WAITING).unwrap() - 1;
    for number in 0..=last {
        let killed = killed(Durability::Sync);
        std::fs::remove_file(killed.path().join("LOCK")).unwrap();
        hit(killed.path(), number * BLOCK + 100);
        let verified = crate::store::verify(killed.path()).unwrap();
        assert_eq!(verified.is_sound(), number == last, "{number}: {verified:?}");
        match held(killed.path()) {
            Ok(held) => assert!(held.into_iter().eq(1..WAITING) && number == last, "{number}"),
            Err(Error::Damaged { what }) => {
                assert!(what.contains("is behind it") && number < last, "{number}: {what}");
            }
            Err(other) => panic!("{number}: {other}"),
        }
    }
}

#[test]
fn what_another_store_left_is_not_taken() {
    let (mine, other) = (TempDir::new().unwrap(), killed(Durability::Sync));
    let store = Embedded::open(mine.path(), Durability::Sync).unwrap();
    store.take_epoch(8).unwrap();
    drop(store);
    std::fs::copy(other.path().join(journal::FILE), mine.path().join(journal::FILE)).unwrap();
    assert_eq!(held(mine.path()).unwrap(), <[u64; 0]>::default());
    assert!(crate::store::verify(mine.path()).unwrap().is_sound());
}

#[test]
fn an_id_that_waits_in_the_journal_is_not_given_again() {
    let dir = TempDir::new().unwrap();
    let store = Embedded::open(dir.path(), Durability::Sync).unwrap();
    store.append(&small(5)).unwrap();
    let again = changed(5, 5, None, Change::Completed);
    for twice in [small(5), small(4), group([submitted(6, b""), again]), large(5)] {
        let refused = store.append(&twice).unwrap_err();
        assert!(refused.to_string().contains("is stored already; this is a bug"), "{refused}");
    }
    assert!(store.tail().lags());
    flush(&store);
    store.append(&small(6)).unwrap();
    drop(store);
    assert_eq!(held(dir.path()).unwrap(), [5, 6]);
}

#[test]
fn an_id_that_a_killed_store_had_in_its_journal_is_not_given_again() {
    let killed = killed(Durability::Os);
    let store = Embedded::open(killed.path(), Durability::Os).unwrap();
    for twice in [small(1), small(WAITING), large(WAITING)] {
        let refused = store.append(&twice).unwrap_err();
        assert!(refused.to_string().contains("is stored already; this is a bug"), "{refused}");
    }
    store.append(&small(WAITING + 1)).unwrap();
}

#[test]
fn a_journal_without_space_is_told_like_any_full_disk() {
    let dir = TempDir::new().unwrap();
    let store = Embedded::open(dir.path(), Durability::Os).unwrap();
    store.append(&small(1)).unwrap();
    store.medium.faults.fill_up(true);
    let refused = store.append_at_once(&small(2));
    assert!(matches!(refused, Some(Err(Error::Full))), "{refused:?}");
    for _ in 0..2 {
        let refused = store.append(&small(2));
        assert!(matches!(refused, Err(Error::Full)), "{refused:?}");
        let refused = store.tasks(&[TaskId(1)]);
        assert!(matches!(refused, Err(Error::Full)), "it has no space for what waits: {refused:?}");
    }
    assert!(matches!(store.reopen(), Err(Error::Full)));
    store.medium.faults.fill_up(false);
    store.reopen().unwrap();
    assert!(store.tasks(&[TaskId(1)]).unwrap()[0].is_some());
    store.append(&small(2)).unwrap();
    drop(store);
    assert_eq!(held(dir.path()).unwrap(), [1, 2]);
}

#[test]
fn who_reads_on_a_full_disk_reads_all_and_the_next_group_is_told() {
    let dir = TempDir::new().unwrap();
    let store = Embedded::open(dir.path(), Durability::Sync).unwrap();
    store.append(&small(1)).unwrap();
    store.medium.faults.fill_up_to_the_reserve();
    assert!(store.tasks(&[TaskId(1)]).unwrap()[0].is_some());
    let refused = store.append(&small(2));
    assert!(matches!(refused, Err(Error::Full)), "{refused:?}");
    store.reopen().unwrap();
    for id in [2, 3] {
        store.append(&small(id)).unwrap();
        assert!(!store.tail().lags(), "nothing waits for space that may be gone by then");
    }
    assert!(store.has_room());
    store.append(&small(4)).unwrap();
    assert!(store.tail().lags());
    drop(store);
    assert_eq!(held(dir.path()).unwrap(), [1, 2, 3, 4]);
}

#[test]
fn a_store_that_cannot_be_flushed_at_its_end_is_not_closed_in_good_order() {
    let dir = TempDir::new().unwrap();
    let store = Embedded::open(dir.path(), Durability::Sync).unwrap();
    store.append(&small(1)).unwrap();
    store.medium.faults.fill_up(true);
    drop(store);
    assert!(!crate::store::verify(dir.path()).unwrap().was_closed);
    assert_eq!(held(dir.path()).unwrap(), [1]);
}
