//! Bytes that are nothing, and bytes that are nearly a record, in every table: refused, or
//! what they say, and never a panic.

use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::TestCaseError;

use super::super::*;
use super::{any_bytes, written_event};
use crate::core::event::{KeyedBatch, LeaseNotes, TaskEvent};
use crate::core::id::TaskId;
use crate::core::task::Spec;
use crate::core::task_type::TaskType;
use crate::store::conformance::samples::any_event;

/// Something that happens to a record.
#[derive(Debug, Clone)]
enum Change {
    Replace(Index, u8),
    Insert(Index, u8),
    Remove(Index),
    Cut(Index),
    Twice,
}

impl Change {
    fn of(&self, bytes: &mut Vec<u8>) {
        let place = |index: &Index, length: usize| (length > 0).then(|| index.index(length));
        match self {
            Self::Replace(index, byte) => {
                if let Some(place) = place(index, bytes.len()) {
                    bytes[place] = *byte;
                }
            }
            Self::Insert(index, byte) => bytes.insert(index.index(bytes.len() + 1), *byte),
            Self::Remove(index) => {
                if let Some(place) = place(index, bytes.len()) {
                    bytes.remove(place);
                }
            }
            Self::Cut(index) => bytes.truncate(index.index(bytes.len() + 1)),
            Self::Twice => bytes.extend(bytes.clone()),
        }
    }
}

fn any_changes() -> impl Strategy<Value = Vec<Change>> {
    let change = prop_oneof![
        6 => any::<(Index, u8)>().prop_map(|(index, byte)| Change::Replace(index, byte)),
        2 => any::<(Index, u8)>().prop_map(|(index, byte)| Change::Insert(index, byte)),
        2 => any::<Index>().prop_map(Change::Remove),
        1 => any::<Index>().prop_map(Change::Cut),
        1 => Just(Change::Twice),
    ];
    vec(change, 1..4)
}

fn any_table() -> impl Strategy<Value = Table> {
    proptest::sample::select(Table::ALL.to_vec())
}

/// What every reader of a table makes of a record: it is refused, or what is read out of it
/// reads the same once it is written again.
fn reads(table: Table, key: u64, record: &[u8]) -> Result<bool, TestCaseError> {
    match table {
        Table::Tasks => reads_run::<Spec>(table, key, record),
        Table::Events => reads_run::<TaskEvent>(table, key, record),
        Table::Payloads | Table::Results => reads_pack(table, key, record),
        Table::Types => reads_row::<TaskType>(table, key.into(), record),
        Table::Workers => reads_row::<(u64, Arc<str>)>(table, "a worker".into(), record),
        Table::Keys => reads_row::<KeyedBatch>(table, key.into(), record),
        Table::Notes => reads_row::<LeaseNotes>(table, key.into(), record),
        Table::Skipped => reads_row::<TaskId>(table, key.into(), record),
        Table::Epochs => reads_row::<u64>(table, key.into(), record),
        Table::Meta => reads_row::<u64>(table, "reserved".into(), record),
    }
}

fn reads_row<T>(table: Table, key: Key<'_>, record: &[u8]) -> Result<bool, TestCaseError>
where
    T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let Some(read) = refused_or(row::<T>(table, key, record))? else { return Ok(false) };
    let mut encoder = Encoder::default();
    let again = encoder.row(table, key, &read.value, read.place).unwrap();
    prop_assert_eq!(row::<T>(table, key, again).unwrap(), read);
    Ok(true)
}

fn reads_run<T>(table: Table, first: u64, record: &[u8]) -> Result<bool, TestCaseError>
where
    T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let Some(rows) = refused_or(run::rows(table, first, record))? else { return Ok(false) };
    for read in rows {
        let Some((key, bytes)) = refused_or(read)? else { return Ok(false) };
        refused_or(pack_of(table, key.into(), bytes))?;
        let Some(read) = refused_or(decode::<T>(table, key.into(), bytes))? else {
            return Ok(false);
        };
        let mut again = Vec::new();
        put_row(&mut again, &read.value, read.place).unwrap();
        prop_assert_eq!(decode::<T>(table, key.into(), &again).unwrap(), read);
    }
    Ok(true)
}

fn reads_pack(table: Table, key: u64, record: &[u8]) -> Result<bool, TestCaseError> {
    let Some(read) = refused_or(pack::read(table, key, record))? else { return Ok(false) };
    let mut again = Vec::new();
    match read.bytes {
        pack::Bytes::Held(bytes) => {
            pack::write_held(table, key, read.last, &mut again, |record| record.extend(bytes));
            prop_assert_eq!(again, record);
        }
        pack::Bytes::Apart(extent, _) => {
            let count = usize::try_from(extent.length).unwrap().div_ceil(pack::PIECE_BYTES);
            let sums = vec![0; count];
            pack::write_apart(table, key, read.last, &mut again, extent, &sums).unwrap();
            let again = pack::read(table, key, &again).unwrap();
            prop_assert_eq!((again.last, again.extent()), (read.last, read.extent()));
        }
    }
    Ok(true)
}

/// What was read, or nothing if it was refused in the one way that there is.
fn refused_or<T>(read: Result<T, Error>) -> Result<Option<T>, TestCaseError> {
    match read {
        Ok(read) => Ok(Some(read)),
        Err(Error::Damaged { .. }) => Ok(None),
        Err(other) => Err(TestCaseError::fail(format!("{other:?}"))),
    }
}

/// With a checksum that says that it is right, as only a broken writer would make it.
fn sealed(table: Table, key: u64, body: &[u8]) -> Vec<u8> {
    let mut record = body.to_vec();
    match table {
        Table::Workers => seal(table, "a worker".into(), &mut record),
        Table::Meta => seal(table, "reserved".into(), &mut record),
        Table::Tasks
        | Table::Payloads
        | Table::Results
        | Table::Events
        | Table::Types
        | Table::Keys
        | Table::Notes
        | Table::Skipped
        | Table::Epochs => seal(table, key.into(), &mut record),
    }
    record
}

proptest! {
    #[test]
    fn any_bytes_in_any_table_are_refused(table in any_table(), key: u64, bytes in any_bytes()) {
        prop_assert!(!reads(table, key, &bytes)?);
    }

    #[test]
    fn any_sealed_bytes_are_refused_or_read_the_same_again(
        table in any_table(),
        key: u64,
        bytes in any_bytes(),
    ) {
        reads(table, key, &sealed(table, key, &bytes))?;
        reads(table, key, &sealed(table, key, &[&[VERSION], &*bytes].concat()))?;
    }

    #[test]
    fn what_is_nearly_a_record_is_refused(
        event in any_event(),
        bytes in any_bytes(),
        changes in any_changes(),
    ) {
        let (record, reads_back) = written_event(event, bytes);
        let mut changed = record.clone();
        for change in changes {
            change.of(&mut changed);
        }
        let read = reads_back(&changed);
        if changed == record {
            prop_assert!(read.unwrap());
        } else {
            let is_damaged = matches!(read, Err(Error::Damaged { .. }));
            prop_assert!(is_damaged, "{:?}", read);
        }
    }

    #[test]
    fn a_record_that_is_nearly_right_and_sealed_is_refused_or_reads_the_same_again(
        event in any_event(),
        bytes in any_bytes(),
        changes in any_changes(),
        table in any_table(),
        key: u64,
    ) {
        let (record, _) = written_event(event, bytes);
        let mut body = record[..record.len() - CRC_BYTES].to_vec();
        for change in changes {
            change.of(&mut body);
        }
        reads(table, key, &sealed(table, key, &body))?;
        // As the only row of a run.
        let mut run = vec![VERSION];
        put(&mut run, &(0_u64, body.len())).unwrap();
        run.extend(body.get(1..).unwrap_or_default());
        reads(table, key, &sealed(table, key, &run))?;
    }

    #[test]
    fn a_record_of_one_table_or_key_is_none_of_another(
        table in any_table(),
        other in any_table(),
        keys in any::<[u64; 2]>(),
        bytes in any_bytes(),
    ) {
        let record = sealed(table, keys[0], &[&[VERSION], &*bytes].concat());
        if table != other {
            prop_assert!(!reads(other, keys[0], &record)?);
        }
        // These two have names as keys here, always the same.
        if keys[0] != keys[1] && !matches!(table, Table::Workers | Table::Meta) {
            prop_assert!(!reads(table, keys[1], &record)?);
        }
    }
}
