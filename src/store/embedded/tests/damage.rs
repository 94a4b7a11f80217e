//! Files that are not what was written: refused, or read exactly; never a panic.

use std::path::Path;

use tempfile::TempDir;

use super::super::{Durability, Embedded, FILE, journal, pack_file};
use super::{filled, many};
use crate::core::id::TaskId;
use crate::store::conformance::engines::{Dump, copy_files, dump};
use crate::store::conformance::samples::{group, submitted};
use crate::store::{Error, Store};

/// Bits that are flipped, one a turn.
const FLIPS: usize = 100;
/// Bytes of a page of the engine.
const PAGE: usize = 4_096;

/// A closed store, the bytes of its database, and what it holds.
fn closed_store() -> (TempDir, Vec<u8>, Dump) {
    let dir = TempDir::new().unwrap();
    let store = filled(dir.path(), Durability::Os);
    let held = dump(&store);
    drop(store);
    let bytes = std::fs::read(dir.path().join(FILE)).unwrap();
    (dir, bytes, held)
}

/// What a store with this file holds, if it opens.
fn read(dir: &Path, bytes: &[u8]) -> Result<Dump, Error> {
    std::fs::write(dir.join(FILE), bytes).unwrap();
    Embedded::open(dir, Durability::Os).map(|store| dump(&store))
}

#[test]
fn a_flipped_bit_is_refused_or_changes_nothing() {
    let (dir, original, held) = closed_store();
    let used: Vec<usize> = (0..original.len() / PAGE)
        .filter(|page| original[page * PAGE..][..PAGE].iter().any(|&byte| byte != 0))
        .collect();
    let mut refused = 0;
    for turn in 0..FLIPS {
        // Spread over the used pages, and within them by a stride that is odd.
        let page = used[turn * used.len() / FLIPS];
        let bit = page * PAGE * 8 + turn * 7_919 % (PAGE * 8);
        let mut flipped = original.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        match read(dir.path(), &flipped) {
            Ok(read) => assert_eq!(read, held, "bit {bit}"),
            Err(Error::Damaged { what }) => {
                assert!(what.contains("put back a copy"), "{what}");
                refused += 1;
            }
            Err(Error::Format { .. }) => refused += 1,
            Err(other) => panic!("bit {bit}: {other}"),
        }
    }
    assert!(refused >= FLIPS / 4, "only {refused} flips were noticed: they missed the rows");
}

#[test]
fn a_file_that_was_cut_is_refused_or_changes_nothing() {
    let (dir, original, held) = closed_store();
    let whole = original.len();
    for length in [0, 1, 100, PAGE, whole / 4, whole / 2, whole - PAGE, whole - 1] {
        match read(dir.path(), &original[..length]) {
            Ok(read) => assert_eq!(read, held, "{length} bytes"),
            Err(Error::Damaged { .. }) => {}
            Err(other) => panic!("{length} bytes: {other}"),
        }
    }
    let longer = [original, vec![0; PAGE]].concat();
    match read(dir.path(), &longer) {
        Ok(read) => assert_eq!(read, held),
        Err(Error::Damaged { .. }) => {}
        Err(other) => panic!("longer: {other}"),
    }
}

#[test]
fn a_file_of_something_else_is_refused() {
    let (dir, ..) = closed_store();
    let refused = read(dir.path(), b"a letter to my landlord").unwrap_err();
    assert!(matches!(refused, Error::Damaged { .. }), "{refused}");
}

#[test]
fn a_damaged_record_is_named_and_the_others_are_read() {
    let dir = TempDir::new().unwrap();
    drop(filled(dir.path(), Durability::Os));
    {
        let database = redb::Database::open(dir.path().join(FILE)).unwrap();
        let transaction = database.begin_write().unwrap();
        // The first run of the second group begins with its first task.
        let tasks = redb::TableDefinition::<u64, &[u8]>::new("tasks");
        let mut tasks = transaction.open_table(tasks).unwrap();
        let mut run = tasks.remove(41).unwrap().unwrap().value().to_vec();
        run[5] ^= 1;
        tasks.insert(41, run.as_slice()).unwrap();
        // Task 37 is the first of its group whose payload is no part of its row.
        let payloads = redb::TableDefinition::<u64, &[u8]>::new("payloads");
        transaction.open_table(payloads).unwrap().remove(37).unwrap().unwrap();
        drop(tasks);
        transaction.commit().unwrap();
    }
    let store = Embedded::open(dir.path(), Durability::Os).unwrap();
    assert!(store.tasks(&[TaskId(36), TaskId(81)]).unwrap().iter().all(Option::is_some));
    let named = |refused: Error, name: &str| {
        assert!(matches!(&refused, Error::Damaged { what } if what.contains(name)), "{refused}");
    };
    named(store.tasks(&[TaskId(42)]).unwrap_err(), "record 41 of table tasks");
    named(store.scan(&mut |_| {}).unwrap_err(), "record 41 of table tasks");
    named(store.specs(&[TaskId(41)]).unwrap_err(), "record 41 of table tasks");
    named(store.tasks(&[TaskId(38)]).unwrap_err(), "record 37 of table payloads");
    assert!(store.specs(&[TaskId(38)]).unwrap()[0].is_some(), "a payload that nobody asks for");
}

#[test]
fn a_scan_ends_at_a_damaged_record_however_many_follow_it() {
    let dir = TempDir::new().unwrap();
    drop(many(dir.path()));
    {
        let database = redb::Database::open(dir.path().join(FILE)).unwrap();
        let transaction = database.begin_write().unwrap();
        let tasks = redb::TableDefinition::<u64, &[u8]>::new("tasks");
        transaction.open_table(tasks).unwrap().insert(1, b"no row".as_slice()).unwrap();
        transaction.commit().unwrap();
    }
    let store = Embedded::open(dir.path(), Durability::Os).unwrap();
    let mut shown = 0;
    let refused = store.scan(&mut |_| shown += 1).unwrap_err();
    assert!(refused.to_string().contains("record 1 of table tasks"), "{refused}");
    assert_eq!(shown, 0);
}

/// Flips a bit in the middle of a page.
fn hit(path: &Path, page: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[page * PAGE + PAGE / 2] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

/// A store that is open, as its directory was before the last commit of its database and
/// after it.
struct Killed {
    before: TempDir,
    after: TempDir,
    held: [Dump; 2],
    /// The pages that the commit wrote, but for the one with which the file begins.
    pages: Vec<usize>,
}

fn killed() -> Killed {
    let dir = TempDir::new().unwrap();
    let store = filled(dir.path(), Durability::Sync);
    let copy = || {
        let copy = TempDir::new().unwrap();
        copy_files(dir.path(), copy.path());
        (copy, dump(&store))
    };
    let (before, held_before) = copy();
    // Too large for the journal.
    store.append(&group([submitted(1_000, &vec![b'l'; 70_000])])).unwrap();
    let (after, held_after) = copy();
    let [old, new] = [&before, &after].map(|dir| std::fs::read(dir.path().join(FILE)).unwrap());
    let pages = old.chunks(PAGE).zip(new.chunks(PAGE)).enumerate();
    let pages = pages.filter(|(page, (old, new))| *page > 0 && old != new);
    let pages: Vec<usize> = pages.map(|(page, _)| page).collect();
    assert!(pages.len() >= 3, "{pages:?}");
    Killed { before, after, held: [held_before, held_after], pages }
}

#[test]
fn a_killed_store_is_not_read_without_the_last_commit_that_was_synced() {
    let killed = killed();
    let mut told = 0;
    for page in killed.pages {
        let dir = TempDir::new().unwrap();
        copy_files(killed.after.path(), dir.path());
        hit(&dir.path().join(FILE), page);
        let verified = crate::store::verify(dir.path()).unwrap();
        match Embedded::open(dir.path(), Durability::Sync) {
            Ok(store) => {
                assert_eq!(dump(&store), killed.held[1], "page {page}");
                assert!(verified.is_sound(), "page {page}: {verified:?}");
            }
            Err(Error::Damaged { what }) => {
                told += usize::from(what.contains("was synced") && what.contains("put back"));
                assert!(!verified.is_sound(), "page {page}: {verified:?}");
                let again = Embedded::open(dir.path(), Durability::Sync).unwrap_err();
                assert!(matches!(again, Error::Damaged { .. }), "it does not wear off: {again}");
            }
            Err(other) => panic!("page {page}: {other}"),
        }
    }
    assert!(told > 0);
}

#[test]
fn a_commit_that_was_interrupted_is_not_there_and_the_store_is_sound() {
    let killed = killed();
    for page in killed.pages {
        let dir = TempDir::new().unwrap();
        copy_files(killed.before.path(), dir.path());
        // Everything but one page of it is on the disk, and nobody was told.
        for file in [FILE, pack_file::FILE] {
            std::fs::copy(killed.after.path().join(file), dir.path().join(file)).unwrap();
        }
        hit(&dir.path().join(FILE), page);
        assert!(crate::store::verify(dir.path()).unwrap().is_sound(), "page {page}");
        let held = dump(&Embedded::open(dir.path(), Durability::Sync).unwrap());
        assert!(killed.held.contains(&held), "page {page}");
    }
}

#[test]
fn a_store_that_is_begun_anew_needs_nothing_of_the_one_that_was_there() {
    let killed = killed();
    for file in [FILE, journal::FILE] {
        std::fs::remove_file(killed.after.path().join(file)).unwrap();
    }
    drop(Embedded::open(killed.after.path(), Durability::Sync).unwrap());
    // One that was put back after a clean end is older, and as good.
    let dir = TempDir::new().unwrap();
    let store = filled(dir.path(), Durability::Sync);
    let old = killed.before.path().join(FILE);
    drop(store);
    std::fs::copy(old, dir.path().join(FILE)).unwrap();
    drop(Embedded::open(dir.path(), Durability::Sync).unwrap());
}

#[test]
fn a_page_that_is_hit_under_an_open_store_is_refused_wherever_it_is_read() {
    let (dir, original, held) = closed_store();
    let path = dir.path().join(FILE);
    let (mut read_ones, mut refused) = (0, 0);
    for page in 1..original.len() / PAGE {
        std::fs::write(&path, &original).unwrap();
        let store = Embedded::open(dir.path(), Durability::Os).unwrap();
        hit(&path, page);
        let ids: Vec<TaskId> = (1..=200).map(TaskId).collect();
        match store.scan(&mut |_| {}).and_then(|_| store.tasks(&ids)) {
            Ok(tasks) => {
                assert!(tasks.iter().all(Option::is_some), "page {page}");
                read_ones += 1;
            }
            Err(Error::Damaged { what }) => {
                assert!(what.contains("is not what was written; put back a copy"), "{what}");
                refused += 1;
                let next = store.tasks(&ids).unwrap_err();
                assert!(matches!(next, Error::Damaged { .. }), "{next}");
            }
            Err(other) => panic!("page {page}: {other}"),
        }
        drop(store);
    }
    assert!(refused > 10 && held.kept_tasks() == 200, "{refused} refused, {read_ones} not");
}
