//! The file of packs: what shares the disk with whom, and what is made of one that is not
//! what was written.

use std::path::Path;

use tempfile::TempDir;

use super::super::pack_file::FILE;
use super::super::{Durability, Embedded};
use super::flush;
use super::verify::edit;
use crate::core::id::{Seq, TaskId};
use crate::core::task::Change;
use crate::store::conformance::engines::{copy_files, dump};
use crate::store::conformance::samples::{changed, group, submitted};
use crate::store::record::{Table, pack};
use crate::store::{Error, Group, Store as _, Trim, verify};

const BOTH: [Durability; 2] = [Durability::Sync, Durability::Os];

/// Bytes of a task's payload and result, which are its own: many in a pack, and one alone.
fn bytes_of(id: u64) -> Vec<u8> {
    let length = usize::try_from(id * 7_919 % 9_000).unwrap();
    let length = if id.is_multiple_of(16) { length + (1 << 20) } else { length };
    (0_u64..).flat_map(|word| (word ^ (id << 32)).to_le_bytes()).take(length).collect()
}

/// Tasks with these ids, done.
fn done(ids: std::ops::RangeInclusive<u64>) -> Group {
    group(ids.flat_map(|id| {
        let bytes = bytes_of(id);
        [submitted(id, &bytes), changed(id, id, None, Change::Completed).with(&bytes)]
    }))
}

fn trim(ids: impl IntoIterator<Item = u64>) -> Group {
    let tasks = ids.into_iter().map(|id| (TaskId(id), Seq(id))).collect();
    Group { trim: Trim { tasks, ..Trim::default() }, ..Group::default() }
}

/// Fails unless exactly these tasks are there, with their payloads and results.
fn assert_holds(store: &Embedded, ids: impl Iterator<Item = u64>) {
    let kept: Vec<u64> = ids.collect();
    let last = kept.last().copied().unwrap_or_default() + 10;
    let tasks = store.tasks(&(1..=last).map(TaskId).collect::<Vec<_>>()).unwrap();
    let events = store.events(&(1..=last).map(Seq).collect::<Vec<_>>()).unwrap();
    for (id, (task, event)) in (1..=last).zip(tasks.into_iter().zip(events)) {
        let is_kept = kept.contains(&id);
        assert_eq!((task.is_some(), event.is_some()), (is_kept, is_kept), "task {id}");
        assert!(task.is_none_or(|task| task.payload == bytes_of(id)), "payload {id}");
        assert!(event.is_none_or(|event| event.result == bytes_of(id)), "result {id}");
    }
}

fn length(dir: &Path) -> u64 {
    dir.join(FILE).metadata().unwrap().len()
}

#[test]
fn large_payloads_and_results_are_read_back_after_every_end() {
    for durability in BOTH {
        let dir = TempDir::new().unwrap();
        let store = Embedded::open(dir.path(), durability).unwrap();
        store.append(&done(1..=100)).unwrap();
        store.append(&done(101..=150)).unwrap();
        assert!(length(dir.path()) > 18 << 20, "they are in the file");
        assert_holds(&store, 1..=150);
        let killed = TempDir::new().unwrap();
        copy_files(dir.path(), killed.path());
        drop(store);
        for dir in [&dir, &killed] {
            let report = verify(dir.path()).unwrap();
            assert!(report.is_sound(), "{report:?}");
            assert_eq!(report.packs_bytes, length(dir.path()));
            let told = |name| report.tables.iter().find(|table| table.name == name).unwrap().bytes;
            assert!(told("payloads") > 9 << 20 && told("results") > 9 << 20, "{report:?}");
            let store = Embedded::open(dir.path(), durability).unwrap();
            assert_holds(&store, 1..=150);
        }
    }
}

#[test]
fn the_room_of_what_was_trimmed_is_used_again_and_given_back_at_the_end() {
    for durability in BOTH {
        let dir = TempDir::new().unwrap();
        let mut store = Embedded::open(dir.path(), durability).unwrap();
        store.append(&done(1..=200)).unwrap();
        let full = length(dir.path());
        for turn in 1..=10 {
            // All but one in each turn: what is kept lies anywhere, and pins nothing else.
            store.append(&trim((turn - 1) * 200 + 1..turn * 200)).unwrap();
            flush(&store);
            if turn % 3 == 0 {
                drop(store);
                store = Embedded::open(dir.path(), durability).unwrap();
            }
            store.append(&done(turn * 200 + 1..=(turn + 1) * 200)).unwrap();
        }
        assert!(length(dir.path()) < 2 * full, "{} of {full} bytes", length(dir.path()));
        let kept = || (1..=10).map(|turn| turn * 200);
        assert_holds(&store, kept().chain(2_001..=2_200));
        store.append(&trim(kept().chain(2_001..=2_200))).unwrap();
        // The next start cuts off what no pack has; only the first block is no pack's.
        drop(store);
        let store = Embedded::open(dir.path(), durability).unwrap();
        assert_eq!(length(dir.path()), 4_096);
        assert_holds(&store, 0..0);
        drop(store);
        assert!(verify(dir.path()).unwrap().is_sound());
    }
}

#[test]
fn who_began_to_read_before_a_trim_reads_what_was_there() {
    for durability in BOTH {
        let dir = TempDir::new().unwrap();
        let store = Embedded::open(dir.path(), durability).unwrap();
        store.append(&done(1..=50)).unwrap();
        let ids: Vec<TaskId> = (1..=50).map(TaskId).collect();
        let before = length(dir.path());
        let read = store.read(|reader| {
            // Both see to it that the blocks would be wanted at once.
            store.append(&trim(1..=50)).unwrap();
            store.append(&done(51..=100)).unwrap();
            store.append(&done(101..=150)).unwrap();
            reader.tasks(&ids, usize::MAX)
        });
        let read = read.unwrap().into_iter().map(|task| task.unwrap().payload);
        assert!(read.eq((1..=50).map(bytes_of)), "it was overwritten");
        assert!(length(dir.path()) > before, "what came next had to go elsewhere");
        // Later ones have the room.
        let grown = length(dir.path());
        store.append(&done(151..=200)).unwrap();
        assert!(length(dir.path()) < grown + (1 << 20), "they do not fit into each other's gaps");
        assert_holds(&store, 51..=200);
    }
}

/// Opens a store whose file of packs was changed behind its back.
fn opened(dir: &Path, change: impl FnOnce(&mut Vec<u8>)) -> Result<(), Error> {
    let copy = TempDir::new().unwrap();
    copy_files(dir, copy.path());
    let path = copy.path().join(FILE);
    let mut bytes = std::fs::read(&path).unwrap();
    change(&mut bytes);
    std::fs::write(&path, bytes).unwrap();
    let verified = verify(copy.path()).unwrap();
    let opened =
        Embedded::open(copy.path(), Durability::Sync).map(|store| assert_holds(&store, 1..=60));
    assert_eq!(opened.is_ok(), verified.is_sound(), "{opened:?}, {verified:?}");
    opened
}

#[test]
fn a_flipped_bit_of_any_pack_is_refused_by_name_and_others_change_nothing() {
    let dir = TempDir::new().unwrap();
    let store = Embedded::open(dir.path(), Durability::Sync).unwrap();
    store.append(&done(1..=60)).unwrap();
    drop(store);
    let length = usize::try_from(length(dir.path())).unwrap();
    let mut refused = 0;
    for turn in 0..60 {
        let bit = turn * length / 60 * 8 + turn * 7_919 % 32_768;
        let flipped = opened(dir.path(), |bytes| bytes[bit / 8] ^= 1 << (bit % 8));
        let Err(error) = flipped else { continue };
        let Error::Damaged { what } = &error else { panic!("bit {bit}: {error}") };
        assert!(what.contains("is not what was written; put back a copy"), "{what}");
        assert!(
            what.contains("of table payloads: its piece")
                || what.contains("of table results: its piece"),
            "{what}"
        );
        refused += 1;
    }
    assert!(refused > 50, "{refused} of 60");
}

#[test]
fn a_file_of_packs_that_was_cut_or_taken_away_is_refused() {
    let dir = TempDir::new().unwrap();
    let store = Embedded::open(dir.path(), Durability::Sync).unwrap();
    store.append(&done(1..=60)).unwrap();
    drop(store);
    let whole = usize::try_from(length(dir.path())).unwrap();
    for length in [0, 4_096, whole / 2, whole - 4_096] {
        let error = opened(dir.path(), |bytes| bytes.truncate(length)).unwrap_err();
        let Error::Damaged { what } = &error else { panic!("{length} bytes: {error}") };
        assert!(what.contains("PACKS ends before byte"), "{what}");
    }
    opened(dir.path(), |bytes| bytes.extend([7; 10_000])).unwrap();
    std::fs::remove_file(dir.path().join(FILE)).unwrap();
    let verified = verify(dir.path()).unwrap_err();
    let opened = Embedded::open(dir.path(), Durability::Sync).unwrap_err();
    for error in [opened, verified] {
        assert!(
            error.to_string().contains("PACKS: it is gone, and the database is there"),
            "{error}"
        );
    }
    assert!(!dir.path().join(FILE).exists(), "none was made in its place");
}

#[test]
fn what_is_hit_under_an_open_store_is_refused_when_it_is_read() {
    let dir = TempDir::new().unwrap();
    let store = Embedded::open(dir.path(), Durability::Os).unwrap();
    store.append(&done(1..=60)).unwrap();
    let path = dir.path().join(FILE);
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    let whole = bytes_of(16);
    let place = std::fs::read(&path).unwrap().windows(64).position(|w| *w == whole[..64]).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"hit", u64::try_from(place).unwrap()).unwrap();
    let error = store.tasks(&[TaskId(16)]).unwrap_err();
    assert!(
        matches!(&error, Error::Damaged { what } if what.contains("of table payloads: its piece")),
        "{error}"
    );
    assert!(store.tasks(&[TaskId(48)]).unwrap()[0].is_some());
}

#[test]
fn a_full_disk_and_a_failed_sync_leave_no_pack_that_was_not_promised() {
    let dir = TempDir::new().unwrap();
    let store = Embedded::open(dir.path(), Durability::Sync).unwrap();
    store.append(&done(1..=60)).unwrap();
    let before = dump(&store);
    // Of the file of packs there is a place for half of what comes.
    store.medium.faults.limit_space(length(dir.path()) + (2 << 20));
    let refused = store.append(&done(61..=120));
    assert!(matches!(refused, Err(Error::Full)), "{refused:?}");
    store.reopen().unwrap();
    assert_eq!(dump(&store), before);
    store.append(&trim(1..=40)).unwrap();
    flush(&store);
    store.append(&done(61..=80)).unwrap();
    assert_holds(&store, 41..=80);
    store.medium.faults.limit_space(0);
    store.append(&done(81..=120)).unwrap();
    let before = dump(&store);
    store.medium.faults.fail_syncs(true);
    let refused = store.append(&done(121..=180));
    assert!(matches!(refused, Err(Error::Failed { .. })), "{refused:?}");
    store.medium.faults.fail_syncs(false);
    assert!(store.append(&done(181..=181)).is_err(), "what is on the disk is unknown");
    drop(store);
    let store = Embedded::open(dir.path(), Durability::Sync).unwrap();
    assert_eq!(dump(&store), before);
}

#[test]
fn two_packs_in_one_place_are_refused() {
    let dir = TempDir::new().unwrap();
    let store = Embedded::open(dir.path(), Durability::Sync).unwrap();
    store.append(&done(16..=16)).unwrap();
    drop(store);
    let database = redb::Database::open(dir.path().join(super::super::FILE)).unwrap();
    let transaction = database.begin_write().unwrap();
    // Where the result of the same size begins.
    let block = 1 + u64::try_from(bytes_of(16).len().div_ceil(4_096)).unwrap();
    let extent = pack::Extent { block, length: 1 };
    let mut record = Vec::new();
    pack::write_apart(Table::Payloads, 16, 16, &mut record, extent, &[0]).unwrap();
    edit(&transaction, "payloads", 16_u64, |_| Some(record));
    transaction.commit().unwrap();
    drop(database);
    let refused = Embedded::open(dir.path(), Durability::Sync).unwrap_err();
    assert!(refused.to_string().contains("is used twice"), "{refused}");
    let verified = verify(dir.path()).unwrap();
    assert!(verified.damages.iter().any(|damage| damage.contains("is used twice")), "{verified:?}");
}
