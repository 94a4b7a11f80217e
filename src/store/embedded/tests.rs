//! What only the embedded engine does: its files, its lock, its faults.

mod crash;
mod damage;
mod faults;
mod journal;
mod packs;
mod records;
mod verify;

use redb::ReadableTableMetadata as _;
use tempfile::TempDir;

use super::*;
use crate::store::Trim;
use crate::store::conformance::samples::{changed, group, submitted};
use crate::store::conformance::trims;
use crate::store::record::Table;

pub(super) use self::faults::Faults;

/// A store with a few hundred rows, small and large, in five commits of the database.
fn filled(dir: &Path, durability: Durability) -> Embedded {
    let store = Embedded::open(dir, durability).unwrap();
    for batch in 0..5_u64 {
        let entries = (1..=40).flat_map(|step| {
            let number = batch * 40 + step;
            let size = usize::try_from(number * 7 % 600).unwrap();
            [
                submitted(number, &vec![b'p'; size]),
                changed(number, number, None, crate::core::task::Change::Completed)
                    .with(&vec![b'r'; size]),
            ]
        });
        store.append(&group(entries)).unwrap();
        flush(&store);
    }
    store
}

/// Has the database take what waits in the journal, as everybody who reads does.
fn flush(store: &Embedded) {
    store.read(|_| Ok(())).unwrap();
}

/// Tasks of a store of [`many`].
const MANY: u64 = 20_000;

/// A store with more tasks than a scan reads ahead.
fn many(dir: &Path) -> Embedded {
    let store = Embedded::open(dir, Durability::Os).unwrap();
    store.append(&group((1..=MANY).map(|id| submitted(id, &[b'p'; 100])))).unwrap();
    store
}

#[test]
fn a_scan_that_reads_ahead_shows_every_task_in_order() {
    let dir = TempDir::new().unwrap();
    let mut ids = Vec::new();
    let scanned = many(dir.path()).scan(&mut |event| match event {
        Event::Submitted { id, .. } => ids.push(id.0),
        other => panic!("nobody stored {other:?}"),
    });
    assert_eq!(scanned.unwrap().last_id, Some(TaskId(MANY)));
    assert!(ids.into_iter().eq(1..=MANY));
}

#[test]
fn nothing_is_left_of_tasks_that_were_all_trimmed() {
    let dir = TempDir::new().unwrap();
    let store = Embedded::open(dir.path(), Durability::Os).unwrap();
    store.append(&trims::many_of_all_sizes()).unwrap();
    let records = |store: &Embedded| {
        flush(store);
        let read = store.with(|database| {
            let transaction = database.begin_read().map_err(engine)?;
            let records = [Table::Tasks, Table::Events, Table::Payloads, Table::Results];
            Ok(records.map(|table| {
                transaction.open_table(tables::definition::<u64>(table)).unwrap().len().unwrap()
            }))
        });
        read.unwrap()
    };
    assert!(records(&store).iter().all(|records| *records >= 5), "{:?}", records(&store));
    // From both ends to the middle, a few at a time.
    let order = (1..=trims::MANY / 2).flat_map(|id| [id, trims::MANY + 1 - id]);
    for dead in order.map(trims::last_of).collect::<Vec<_>>().chunks(17) {
        let trim = Trim { tasks: dead.to_vec(), ..Trim::default() };
        store.append(&Group { trim, ..Group::default() }).unwrap();
    }
    assert_eq!(records(&store), [0; 4]);
}

#[test]
fn a_durability_is_read_from_the_word_that_it_prints() {
    for durability in [Durability::Sync, Durability::Os] {
        assert_eq!(durability.to_string().parse(), Ok(durability));
    }
    let refused = "disk".parse::<Durability>().unwrap_err();
    assert_eq!(
        refused.to_string(),
        "\"disk\" is no durability: sync (survives a power cut) or os (survives a killed process)"
    );
}

#[test]
fn a_directory_has_one_store_at_a_time() {
    let dir = TempDir::new().unwrap();
    let store = Embedded::open(dir.path(), Durability::Sync).unwrap();
    let second = Embedded::open(dir.path(), Durability::Os);
    let us = Some(std::process::id());
    assert!(matches!(&second, Err(Error::InUse { path, .. }) if path == dir.path()));
    if cfg!(target_os = "linux") {
        assert!(matches!(second, Err(Error::InUse { pid, .. }) if pid == us), "{second:?}");
    }
    store.append(&group([submitted(1, b"")])).unwrap();
    drop(store);
    let store = Embedded::open(dir.path(), Durability::Os).unwrap();
    assert!(store.tasks(&[TaskId(1)]).unwrap()[0].is_some());
}

#[test]
fn directories_are_made_as_deep_as_needed_and_for_this_user_only() {
    use std::os::unix::fs::PermissionsExt;

    let dir = TempDir::new().unwrap();
    let deep = dir.path().join("a/b/c");
    drop(Embedded::open(&deep, Durability::Sync).unwrap());
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o077;
    assert_eq!(mode(&deep), 0);
    assert_eq!(mode(&deep.join(FILE)), 0);
}

#[test]
fn a_directory_that_cannot_be_made_is_named() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, b"not a directory").unwrap();
    let under = file.join("data");
    let refused = Embedded::open(&under, Durability::Sync).unwrap_err();
    assert!(matches!(&refused, Error::Unusable { path, .. } if *path == under), "{refused}");
}

#[test]
fn a_file_of_another_format_is_refused_and_left_alone() {
    let dir = TempDir::new().unwrap();
    drop(filled(dir.path(), Durability::Sync));
    let path = dir.path().join(FILE);
    let set_format = |format: u32| {
        let database = Database::open(&path).unwrap();
        let transaction = database.begin_write().unwrap();
        let table = redb::TableDefinition::<&str, u32>::new("format");
        transaction.open_table(table).unwrap().insert("format", format).unwrap();
        transaction.commit().unwrap();
    };
    set_format(4);
    let refused = Embedded::open(dir.path(), Durability::Sync).unwrap_err();
    assert!(matches!(refused, Error::Format { found: 4, expected: 3, .. }), "{refused}");
    // The one before had no packs beside it.
    set_format(2);
    std::fs::rename(dir.path().join(pack_file::FILE), dir.path().join("aside")).unwrap();
    let refused = Embedded::open(dir.path(), Durability::Sync).unwrap_err();
    assert!(matches!(refused, Error::Format { found: 2, expected: 3, .. }), "{refused}");
    let refused = verify(dir.path()).unwrap_err();
    assert!(matches!(refused, Error::Format { found: 2, expected: 3, .. }), "{refused}");
    std::fs::rename(dir.path().join("aside"), dir.path().join(pack_file::FILE)).unwrap();
    set_format(3);
    let store = Embedded::open(dir.path(), Durability::Sync).unwrap();
    assert!(store.tasks(&[TaskId(200)]).unwrap()[0].is_some());
}

#[test]
fn an_unfinished_new_file_is_made_anew() {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join(FILE_IN_THE_MAKING), b"half of somethi").unwrap();
    drop(Embedded::open(dir.path(), Durability::Sync).unwrap());
    assert!(!dir.path().join(FILE_IN_THE_MAKING).exists());
}

#[test]
fn the_lock_tells_whether_the_store_was_closed_in_good_order() {
    let dir = TempDir::new().unwrap();
    let was_closed = || Directory::take(dir.path()).unwrap().was_closed();
    let store = filled(dir.path(), Durability::Sync);
    drop(store);
    assert!(was_closed());
    assert!(!was_closed(), "one who takes it and does not close it leaves it open");
    let store = Embedded::open(dir.path(), Durability::Sync).unwrap();
    store.medium.faults.fail_syncs(true);
    assert!(store.append(&group([submitted(1_000, b"")])).is_err());
    drop(store);
    assert!(!was_closed(), "a failed sync is not good order");
}
