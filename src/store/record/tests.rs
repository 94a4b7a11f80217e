use proptest::prelude::*;

use super::*;
use crate::core::event::{Event, KeyedBatch, LeaseNotes, TaskEvent};
use crate::core::id::TaskId;
use crate::core::task::{Change, Spec};
use crate::core::task_type::TaskType;
use crate::store::conformance::samples::{any_event, changed, spec};

/// A row as a store would write it, and whether a record reads back as its part.
type ReadsBack = Box<dyn Fn(&[u8]) -> Result<bool, Error>>;

fn written<T>(table: Table, key: Key<'static>, value: T, bytes: Vec<u8>) -> (Vec<u8>, ReadsBack)
where
    T: Serialize + DeserializeOwned + PartialEq + 'static,
{
    let mut encoder = Encoder::default();
    let record = encoder.row(table, key, &value, Place::of(&bytes)).unwrap().to_vec();
    let reads_back = move |record: &[u8]| {
        let read = row::<T>(table, key, record)?;
        Ok(read.value == value && read.place == Place::of(&bytes))
    };
    (record, Box::new(reads_back))
}

fn written_event(event: Event, bytes: Vec<u8>) -> (Vec<u8>, ReadsBack) {
    match event {
        Event::Submitted { id, spec } => written::<Spec>(Table::Tasks, id.0.into(), spec, bytes),
        Event::Changed(event) => {
            written::<TaskEvent>(Table::Events, event.seq.0.into(), event, bytes)
        }
        Event::Leased(notes) => {
            written::<LeaseNotes>(Table::Notes, notes.note.into(), notes, vec![])
        }
        Event::Keyed(batch) => {
            written::<KeyedBatch>(Table::Keys, batch.first.0.into(), batch, vec![])
        }
        Event::TypeLearned { type_id, definition } => {
            let key = u64::from(type_id.0).into();
            written::<TaskType>(Table::Types, key, definition, vec![])
        }
        Event::WorkerSeen { holder, address } => {
            let value = (holder.incarnation, address);
            written(Table::Workers, "a worker".into(), value, vec![])
        }
        Event::WorkerLeft { worker } => {
            written(Table::Workers, "a worker".into(), (0_u64, worker), vec![])
        }
        Event::IdsReserved { end } => written(Table::Meta, "reserved".into(), end.0, vec![]),
        Event::IdsSkipped { from, to } => {
            written::<TaskId>(Table::Skipped, from.0.into(), to, vec![])
        }
        Event::Stopped { next_id } => written(Table::Meta, "stopped".into(), next_id.0, vec![]),
    }
}

fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 0..300)
}

proptest! {
    #[test]
    fn every_event_reads_back_as_it_was_written(event in any_event(), bytes in any_bytes()) {
        let (record, reads_back) = written_event(event, bytes);
        prop_assert!(reads_back(&record).unwrap());
    }

    #[test]
    fn every_single_bit_that_flips_is_noticed(event in any_event(), bytes in any_bytes()) {
        let (mut record, reads_back) = written_event(event, bytes);
        for bit in 0..record.len() * 8 {
            record[bit / 8] ^= 1 << (bit % 8);
            let damaged = matches!(reads_back(&record), Err(Error::Damaged { .. }));
            prop_assert!(damaged, "bit {bit}");
            record[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn any_bytes_are_refused_without_a_panic(bytes in any_bytes()) {
        prop_assert!(row::<TaskEvent>(Table::Events, 1.into(), &bytes).is_err());
        // Past the checksum too, where a broken writer would get.
        let crc = checksum(Table::Events, 1.into(), &bytes).to_le_bytes();
        let sealed = [bytes, crc.to_vec()].concat();
        let read = row::<TaskEvent>(Table::Events, 1.into(), &sealed);
        let fine = matches!(read, Ok(_) | Err(Error::Damaged { .. }));
        prop_assert!(fine);
    }

    #[test]
    fn a_blob_reads_back_and_every_flip_of_it_is_noticed(bytes in any_bytes()) {
        let mut record =
            Encoder::default().blob(Table::Results, 7.into(), &bytes).to_vec();
        prop_assert_eq!(blob(Table::Results, 7.into(), &record).unwrap(), bytes);
        for bit in 0..record.len() * 8 {
            record[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(blob(Table::Results, 7.into(), &record).is_err(), "bit {}", bit);
            record[bit / 8] ^= 1 << (bit % 8);
        }
    }
}

#[test]
fn a_record_in_another_place_is_refused_and_named() {
    let mut encoder = Encoder::default();
    let record = encoder.row(Table::Tasks, 7.into(), &spec(0), Place::None).unwrap().to_vec();
    assert!(row::<Spec>(Table::Tasks, 7.into(), &record).is_ok());
    assert!(row::<Spec>(Table::Types, 7.into(), &record).is_err());
    let refused = row::<Spec>(Table::Tasks, 8.into(), &record).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "the store is damaged: record 8 of table tasks: its checksum does not match"
    );
}

#[test]
fn a_record_of_a_later_version_is_refused_by_its_number() {
    let body = [VERSION + 1, 1, 2, 3];
    let crc = checksum(Table::Meta, "stopped".into(), &body).to_le_bytes();
    let record = [body.as_slice(), &crc].concat();
    let refused = row::<u64>(Table::Meta, "stopped".into(), &record).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "the store is damaged: record \"stopped\" of table meta: \
         it has version 2, this taskgrid reads 1"
    );
}

/// Rows of version 1, as they lie on the disks of users.
#[test]
fn rows_of_version_1_are_written_and_read_as_they_always_were() {
    let hex = |bytes: &[u8]| {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<String>>().concat()
    };
    let (task, _) = written(Table::Tasks, 17.into(), spec(7), b"[1,2,3]".to_vec());
    assert_eq!(hex(&task), "01020580d0dfb4ab3380d0dfb4ab330003030007015b312c322c335deed3329b");
    let Event::Changed(event) = changed(3, 17, Some(2), Change::Completed).event else {
        panic!("it is a change");
    };
    let (event, _) = written(Table::Events, 3.into(), event, b"6".to_vec());
    assert_eq!(
        hex(&event),
        "01031101028cd0dfb4ab33020580d0dfb4ab3380d0dfb4ab330003030000010101070308776f726b65722d3183d0dfb4ab330f000136c1394368"
    );
}
