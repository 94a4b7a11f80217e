//! What verifying a store finds, and that it changes nothing.

use std::collections::BTreeMap;

use tempfile::TempDir;

use super::super::verify::verify;
use super::super::{Durability, Embedded, FILE};
use super::{filled, many};
use crate::core::event::Event;
use crate::core::id::TaskId;
use crate::core::task::Change;
use crate::core::task_type::TypeId;
use crate::store::conformance::engines::copy_files;
use crate::store::conformance::samples::{changed, group, keyed, leased, submitted, task_type};
use crate::store::{Error, Report, Store as _};

type Definition<K> = redb::TableDefinition<'static, K, &'static [u8]>;

/// A closed store with every kind of record.
pub(super) fn every_kind() -> TempDir {
    let dir = TempDir::new().unwrap();
    let store = filled(dir.path(), Durability::Sync);
    let facts = [
        Event::TypeLearned { type_id: TypeId(2), definition: task_type("sum") },
        Event::WorkerSeen {
            holder: crate::store::conformance::samples::holder("w", 3),
            address: "a:1".into(),
        },
        Event::IdsReserved { end: TaskId(1_000) },
        Event::IdsSkipped { from: TaskId(500), to: TaskId(600) },
        keyed(7, b"key"),
        leased(1, 7),
        Event::Stopped { next_id: TaskId(700) },
    ];
    store.append(&group(facts.map(Into::into))).unwrap();
    store.take_epoch(7).unwrap();
    store.take_epoch(8).unwrap();
    dir
}

fn files(dir: &TempDir) -> BTreeMap<std::ffi::OsString, Vec<u8>> {
    let entries = std::fs::read_dir(dir.path()).unwrap().map(Result::unwrap);
    entries.map(|entry| (entry.file_name(), std::fs::read(entry.path()).unwrap())).collect()
}

fn rows(report: &Report) -> Vec<(&'static str, u64)> {
    report.tables.iter().map(|table| (table.name, table.rows)).collect()
}

#[test]
fn a_sound_store_is_told_by_its_tables_and_left_as_it_was() {
    let dir = every_kind();
    let before = files(&dir);
    let report = verify(dir.path()).unwrap();
    assert!(report.is_sound() && report.was_closed, "{report:?}");
    let expected = [
        ("tasks", 200),
        ("payloads", 5),
        ("events", 200),
        ("results", 5),
        ("types", 1),
        ("workers", 1),
        ("keys", 1),
        ("notes", 1),
        ("skipped", 1),
        ("epochs", 2),
        ("meta", 2),
    ];
    assert_eq!(rows(&report), expected);
    assert!(report.tables.iter().all(|table| table.bytes > 0));
    assert!(files(&dir) == before, "it was changed");
}

#[test]
fn a_store_that_was_killed_is_read_as_it_stands_and_left_so() {
    let dir = every_kind();
    let store = Embedded::open(dir.path(), Durability::Sync).unwrap();
    store.append(&group([submitted(900, &[1; 900])])).unwrap();
    let copy = TempDir::new().unwrap();
    copy_files(dir.path(), copy.path());
    let before = files(&copy);
    let report = verify(copy.path()).unwrap();
    assert!(report.is_sound() && !report.was_closed, "{report:?}");
    assert_eq!(rows(&report)[..2], [("tasks", 201), ("payloads", 6)]);
    assert!(files(&copy) == before, "it was changed");
}

#[test]
fn a_store_in_use_is_not_verified_and_one_that_is_verified_is_not_opened() {
    let dir = every_kind();
    let store = Embedded::open(dir.path(), Durability::Sync).unwrap();
    assert!(matches!(verify(dir.path()), Err(Error::InUse { .. })));
    drop(store);
    let look = super::super::directory::Directory::look_into(dir.path()).unwrap();
    assert!(verify(dir.path()).unwrap().is_sound(), "several may look at once");
    let refused = Embedded::open(dir.path(), Durability::Sync).unwrap_err();
    assert!(matches!(refused, Error::InUse { .. }), "{refused}");
    drop(look);
    std::fs::remove_file(dir.path().join("LOCK")).unwrap();
    let report = verify(dir.path()).unwrap();
    assert!(report.is_sound() && !report.was_closed, "nothing says that it was closed");
}

#[test]
fn a_directory_without_a_store_is_not_made() {
    let dir = TempDir::new().unwrap();
    assert!(matches!(verify(dir.path()), Err(Error::Unusable { .. })));
    assert!(matches!(verify(&dir.path().join("none")), Err(Error::Unusable { .. })));
    assert!(files(&dir).is_empty());
}

#[test]
fn an_empty_file_and_one_of_something_else_are_damaged() {
    let dir = TempDir::new().unwrap();
    drop(Embedded::open(dir.path(), Durability::Sync).unwrap());
    for bytes in [b"".as_slice(), b"a letter to my landlord", &[0; 8_192]] {
        std::fs::write(dir.path().join(FILE), bytes).unwrap();
        let report = verify(dir.path()).unwrap();
        assert!(!report.is_sound(), "{report:?}");
    }
}

/// What is told of a store in which this was done behind its back.
fn found(change: impl FnOnce(&redb::WriteTransaction)) -> Vec<String> {
    let dir = every_kind();
    let database = redb::Database::open(dir.path().join(FILE)).unwrap();
    let transaction = database.begin_write().unwrap();
    change(&transaction);
    transaction.commit().unwrap();
    drop(database);
    let report = verify(dir.path()).unwrap();
    assert_eq!(report.damages.len(), usize::try_from(report.damage_count).unwrap());
    report.damages
}

/// Replaces a record by what `change` makes of it; nothing removes it.
pub(super) fn edit<K: for<'k> redb::Key<SelfType<'k> = K> + Copy + 'static>(
    transaction: &redb::WriteTransaction,
    table: &'static str,
    key: K,
    change: impl FnOnce(Vec<u8>) -> Option<Vec<u8>>,
) {
    let mut table = transaction.open_table(Definition::<K>::new(table)).unwrap();
    let record = table.remove(key).unwrap().unwrap().value().to_vec();
    if let Some(record) = change(record) {
        table.insert(key, record.as_slice()).unwrap();
    }
}

#[test]
fn every_damaged_record_is_named_and_the_others_are_read() {
    let flip = |mut record: Vec<u8>| {
        record[5] ^= 1;
        Some(record)
    };
    // A group of 40 tasks begins a run with its first, and a pack with its first large one.
    let found = found(|transaction| {
        edit(transaction, "tasks", 41_u64, flip);
        edit(transaction, "tasks", 81_u64, flip);
        edit(transaction, "results", 37_u64, flip);
        edit(transaction, "epochs", 2_u64, flip);
    });
    let expected = [
        "record 41 of table tasks: its checksum does not match",
        "record 81 of table tasks: its checksum does not match",
        "record 37 of table results: its checksum does not match",
        "record 37 of table results: its checksum does not match",
        "record 2 of table epochs: its checksum does not match",
    ];
    assert_eq!(found, expected, "a result is read with its event, and by itself");
}

#[test]
fn records_that_miss_each_other_are_named() {
    let found_without = |table, key: u64| found(|t| edit(t, table, key, |_| None));
    assert_eq!(found_without("payloads", 37), ["record 37 of table payloads: it is not there"]);
    assert_eq!(
        found_without("tasks", 41),
        [
            "record 41 of table payloads: no record of table tasks has bytes in it",
            "record 41 of table events: its task 41 is not there",
        ]
    );
    assert_eq!(
        found_without("events", 41),
        ["record 41 of table results: no record of table events has bytes in it"]
    );
    assert_eq!(
        found_without("epochs", 1),
        ["record 1 of table epochs: it is not there, but later ones are"]
    );
}

/// What is told of a store to which this was appended.
fn found_after(append: impl FnOnce(&Embedded)) -> Vec<String> {
    let dir = every_kind();
    append(&Embedded::open(dir.path(), Durability::Os).unwrap());
    verify(dir.path()).unwrap().damages
}

#[test]
fn ids_and_places_that_do_not_fit_are_named() {
    let event = |seq, id, previous| {
        found_after(|store| {
            store.append(&group([changed(seq, id, previous, Change::Completed)])).unwrap();
        })
    };
    assert_eq!(event(300, 17, Some(17)), <[&str; 0]>::default());
    assert_eq!(
        event(300, 17, Some(18)),
        ["record 300 of table events: the event before it, 18, is of another task"]
    );
    assert_eq!(
        event(300, 17, Some(299)),
        ["record 300 of table events: the event before it, 299, is not there"]
    );
    assert_eq!(
        event(300, 17, Some(300)),
        ["record 300 of table events: the event before it, 300, comes after it"]
    );
    let task = |id| found_after(|store| store.append(&group([submitted(id, b"")])).unwrap());
    assert_eq!(task(999), <[&str; 0]>::default());
    assert_eq!(task(1_000), ["record 1000 of table tasks: ids are reserved only up to 1000"]);
    assert_eq!(
        task(501),
        ["record 500 of table skipped: its ids named no task, but there is task 501"]
    );
}

#[test]
fn a_page_that_was_hit_is_told_with_the_record_in_it() {
    let dir = TempDir::new().unwrap();
    drop(many(dir.path()));
    let path = dir.path().join(FILE);
    let mut bytes = std::fs::read(&path).unwrap();
    let place = bytes.windows(100).position(|window| window == [b'p'; 100]).unwrap();
    bytes[place + 50] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let report = verify(dir.path()).unwrap();
    assert_eq!(report.damage_count, 2, "the page and the record: {report:?}");
    assert!(report.damages[1].contains("of table tasks: its checksum does not match"));
    let (name, shown) = rows(&report)[0];
    assert!(name == "tasks" && (super::MANY - 100..super::MANY).contains(&shown), "{shown}");
    assert!(std::fs::read(&path).unwrap() == bytes, "it was changed");
}

#[test]
fn of_many_damages_the_first_are_told_and_all_are_counted() {
    let dir = TempDir::new().unwrap();
    drop(many(dir.path()));
    let path = dir.path().join(FILE);
    let mut bytes = std::fs::read(&path).unwrap();
    let mut hits = 0;
    // At most one in a page, and so one in a run.
    for page in bytes.chunks_mut(4_096) {
        let place = page.windows(100).position(|window| window == [b'p'; 100]);
        if let Some(place) = place.filter(|_| hits < 50) {
            page[place + 50] ^= 1;
            hits += 1;
        }
    }
    std::fs::write(&path, &bytes).unwrap();
    let report = verify(dir.path()).unwrap();
    assert_eq!((report.damages.len(), report.damage_count), (20, hits + 1));
}
