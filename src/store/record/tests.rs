mod fuzz;

use std::collections::BTreeSet;

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
    let record = encoder.row(table, key, &value, placed(&bytes)).unwrap().to_vec();
    let reads_back = move |record: &[u8]| {
        let read = row::<T>(table, key, record)?;
        Ok(read.value == value && read.place == placed(&bytes))
    };
    (record, Box::new(reads_back))
}

/// As a store would place them.
fn placed(bytes: &[u8]) -> Place<'_> {
    let apart = Span { pack: 3, offset: 1_000, length: bytes.len() };
    Place::in_row(bytes).unwrap_or(Place::Apart(apart))
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
    fn a_pack_reads_back_and_every_flip_of_it_is_noticed(
        bytes in any_bytes(),
        apart in proptest::option::of((any::<u64>(), 0..300_000_u64)),
    ) {
        let mut record = Vec::new();
        match apart {
            None => {
                let held = pack::Bytes::Held(&bytes);
                pack::write_held(Table::Results, 7, 9, &mut record, |record| record.extend(&bytes));
                let read = pack::read(Table::Results, 7, &record).unwrap();
                prop_assert_eq!(read, pack::Pack { last: 9, bytes: held });
                prop_assert_eq!(read.extent(), None);
            }
            Some((block, length)) => {
                let extent = pack::Extent { block, length };
                let piece = [7; pack::PIECE_BYTES];
                let count = usize::try_from(length).unwrap().div_ceil(piece.len());
                let sums = vec![crc32fast::hash(&piece); count];
                pack::write_apart(Table::Results, 7, 9, &mut record, extent, &sums).unwrap();
                let read = pack::read(Table::Results, 7, &record).unwrap();
                prop_assert_eq!((read.last, read.extent()), (9, Some(extent)));
                let pack::Bytes::Apart(_, sums) = read.bytes else { panic!("it has an extent") };
                prop_assert!((0..count).all(|number| sums.fit(number, &piece)));
                prop_assert!(!sums.fit(count, &piece), "there are no more");
                prop_assert!(!sums.fit(0, &piece[1..]));
            }
        }
        prop_assert_eq!(pack::read_again(&record), pack::read(Table::Results, 7, &record).ok());
        for bit in 0..record.len() * 8 {
            record[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(pack::read(Table::Results, 7, &record).is_err(), "bit {}", bit);
            record[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn a_run_reads_back_and_every_flip_of_it_is_noticed(
        keys in proptest::collection::btree_set(any::<u64>(), 1..6),
        bytes in any_bytes(),
    ) {
        let (first, mut record) = run_of(&keys, &bytes);
        prop_assert_eq!(Some(&first), keys.first());
        let read: Vec<(u64, Vec<u8>)> = run::rows(Table::Events, first, &record)
            .unwrap()
            .map(|row| row.map(|(key, row)| (key, row.to_vec())).unwrap())
            .collect();
        prop_assert!(keys.iter().eq(read.iter().map(|(key, _)| key)));
        for (key, row) in read {
            let row = decode::<u64>(Table::Events, key.into(), &row).unwrap();
            prop_assert_eq!(row, Row { value: key, place: placed(&bytes) });
        }
        for bit in 0..record.len() * 8 {
            record[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(run::rows(Table::Events, first, &record).is_err(), "bit {}", bit);
            record[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn any_bytes_are_no_run_or_one_and_never_a_panic(bytes in any_bytes(), first: u64) {
        prop_assert!(run::rows(Table::Events, first, &bytes).is_err());
        let mut sealed = [&[VERSION], &*bytes].concat();
        seal(Table::Events, first.into(), &mut sealed);
        let mut before = None;
        for row in run::rows(Table::Events, first, &sealed).unwrap() {
            let Ok((key, _)) = row else { break };
            prop_assert!(before <= Some(key));
            before = Some(key);
        }
    }

    #[test]
    fn the_pieces_of_a_span_are_whole_and_no_more_than_it_needs(
        start in 0..100_000_usize,
        length in 0..100_000_usize,
        behind in 0..100_000_u64,
    ) {
        let end = start + length;
        let extent = pack::Extent { block: 1, length: u64::try_from(end).unwrap() + behind };
        let whole = usize::try_from(extent.length).unwrap();
        let pieces = pack::pieces(start..end, extent).unwrap();
        prop_assert!(pieces.start <= start && end <= pieces.end);
        prop_assert!(start - pieces.start < pack::PIECE_BYTES && pieces.end - end < pack::PIECE_BYTES);
        prop_assert!(pieces.start.is_multiple_of(pack::PIECE_BYTES));
        prop_assert!(pieces.end == whole || pieces.end.is_multiple_of(pack::PIECE_BYTES));
        prop_assert_eq!(pack::pieces(start..whole + 1, extent), None);
    }
}

/// A run of these keys, each row with its key as its part, and these bytes.
fn run_of(keys: &BTreeSet<u64>, bytes: &[u8]) -> (u64, Vec<u8>) {
    let mut run = run::Builder::new(Table::Events);
    for &key in keys {
        run.make(&key, placed(bytes)).unwrap();
        run.push(key).unwrap();
    }
    let (first, record) = run.seal().unwrap();
    (first, record.to_vec())
}

#[test]
fn a_run_is_full_before_it_is_longer_than_a_page() {
    let mut run = run::Builder::new(Table::Events);
    for key in [1, 2, u64::MAX] {
        run.make(&key, Place::Inline(&[0; 1_300])).unwrap();
        assert!(!run.is_full(), "{key}");
        run.push(key).unwrap();
    }
    run.make(&0_u64, Place::Inline(&[0; 200])).unwrap();
    assert!(run.is_full());
    assert_eq!(run.last(), Some(u64::MAX));
    let (first, record) = run.seal().unwrap();
    assert!(first == 1 && record.len() <= 4_096 - 16, "{} bytes", record.len());
    assert!(run.seal().is_none(), "it is empty");
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
         it has version 4, this taskgrid reads 3"
    );
}

/// Records of version 3, as they lie on the disks of users.
#[test]
fn records_of_version_3_are_written_and_read_as_they_always_were() {
    let hex = |bytes: &[u8]| {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<String>>().concat()
    };
    let (task, _) = written(Table::Tasks, 17.into(), spec(7), b"[1,2,3]".to_vec());
    assert_eq!(hex(&task), "0301020580d0dfb4ab3380d0dfb4ab3300030300075b312c322c335d0ce78383");
    let Event::Changed(event) = changed(3, 17, Some(2), Change::Completed).event else {
        panic!("it is a change");
    };
    let (event, _) = written(Table::Events, 3.into(), event, b"6".to_vec());
    assert_eq!(
        hex(&event),
        "0301031101028cd0dfb4ab33020580d0dfb4ab3380d0dfb4ab330003030000010101070308776f726b65722d3183d0dfb4ab330f0036b703ffa9"
    );
    let (_, run) = run_of(&BTreeSet::from([17, 300]), &[b'x'; 500]);
    assert_eq!(hex(&run), "0300070203e807f403119b02080203e807f403ac02ae697288");
    let mut pack = Vec::new();
    pack::write_held(Table::Results, 17, 300, &mut pack, |pack| pack.extend_from_slice(b"abc"));
    assert_eq!(hex(&pack), "032c0100000000000000616263350eac8b");
    let extent = pack::Extent { block: 300, length: 16_385 };
    pack::write_apart(Table::Results, 17, 300, &mut pack, extent, &[1, 0x0203]).unwrap();
    assert_eq!(hex(&pack), "032c0100000000000001ac028180010100000003020000d5934b6e");
}
