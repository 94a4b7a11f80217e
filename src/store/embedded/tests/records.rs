//! Records that were changed behind the store's back, one of each table at a time, in ways
//! that the pages under them do not tell.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use super::super::verify::verify;
use super::super::{Durability, Embedded, FILE};
use super::verify::{edit, every_kind};
use crate::core::id::{Seq, TaskId};
use crate::store::{Error, Store as _};

/// A record of each table, as a store with every kind of record has them.
#[derive(Debug, Clone, Copy)]
enum Victim {
    Number(&'static str, u64),
    Name(&'static str, &'static str),
}

const VICTIMS: [Victim; 11] = [
    Victim::Number("tasks", 41),
    Victim::Number("events", 41),
    Victim::Number("types", 2),
    Victim::Number("keys", 7),
    Victim::Number("notes", 1),
    Victim::Number("skipped", 500),
    Victim::Number("epochs", 1),
    Victim::Number("payloads", 37),
    Victim::Number("results", 37),
    Victim::Name("workers", "w"),
    Victim::Name("meta", "reserved"),
];

/// As [`edit`], where a key is a name.
fn edit_named(
    transaction: &redb::WriteTransaction,
    table: &'static str,
    key: &str,
    change: impl FnOnce(Vec<u8>) -> Option<Vec<u8>>,
) {
    let definition = redb::TableDefinition::<&str, &[u8]>::new(table);
    let mut table = transaction.open_table(definition).unwrap();
    let record = table.remove(key).unwrap().unwrap().value().to_vec();
    if let Some(record) = change(record) {
        table.insert(key, record.as_slice()).unwrap();
    }
}

/// Reads everything that a store holds, and begins a boot; the first complaint.
fn read_all(dir: &std::path::Path) -> Result<(), Error> {
    let store = Embedded::open(dir, Durability::Os)?;
    store.scan(&mut drop)?;
    let ids: Vec<TaskId> = (1..=200).map(TaskId).collect();
    let places: Vec<Seq> = (1..=200).map(Seq).collect();
    store.tasks(&ids)?;
    store.specs(&ids)?;
    store.events(&places)?;
    store.facts(&places)?;
    store.events_after(Seq(0), 1_000, usize::MAX)?;
    store.take_epoch(9)?;
    Ok(())
}

proptest! {
    // Each makes, opens and reads a store.
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn a_changed_record_of_any_table_is_refused_by_all_who_read_it(
        victim in proptest::sample::select(VICTIMS.to_vec()),
        hits in vec(any::<(Index, u8)>(), 1..4),
        cut in proptest::option::weighted(0.3, any::<Index>()),
    ) {
        let dir = every_kind();
        let mut is_changed = false;
        {
            let database = redb::Database::open(dir.path().join(FILE)).unwrap();
            let transaction = database.begin_write().unwrap();
            let change = |record: Vec<u8>| {
                let mut changed = record.clone();
                for (index, byte) in &hits {
                    let place = index.index(changed.len());
                    changed[place] = *byte;
                }
                if let Some(cut) = cut {
                    changed.truncate(cut.index(changed.len()));
                }
                is_changed = changed != record;
                Some(changed)
            };
            match victim {
                Victim::Number(table, key) => edit(&transaction, table, key, change),
                Victim::Name(table, key) => edit_named(&transaction, table, key, change),
            }
            transaction.commit().unwrap();
        }
        let report = verify(dir.path()).unwrap();
        prop_assert_eq!(report.is_sound(), !is_changed, "{:?}", report.damages);
        let read = read_all(dir.path());
        if is_changed {
            prop_assert!(matches!(read, Err(Error::Damaged { .. })), "{:?}", read);
        } else {
            prop_assert!(read.is_ok(), "{:?}", read);
        }
    }
}
