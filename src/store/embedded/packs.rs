//! Tables of packs: the large bytes of rows, in their records or in the file beside the engine.

use std::collections::BTreeSet;
use std::ops::Range;

use bytes::Bytes;
use redb::{AccessGuard, ReadableDatabase as _, ReadableTable};

use super::pack_file::{FILE, PackFile, PackReader};
use super::rows;
use super::slot::Slot;
use super::tables::{definition, engine};
use crate::store::Error;
use crate::store::record::pack::{self, Extent, PIECE_BYTES, Pack, Sums};
use crate::store::record::{self, Place, Span, Table};

/// The tables.
const TABLES: [Table; 2] = [Table::Payloads, Table::Results];

/// Puts bytes into packs, in the order of their rows, and drops packs.
pub(super) struct Packer<'f> {
    table: Table,
    /// None where all packs are to stay in their records.
    file: Option<&'f PackFile>,
    /// The first key and the last one that have bytes in the pack.
    first: u64,
    last: u64,
    length: usize,
    parts: Vec<Bytes>,
    record: Vec<u8>,
    sums: Vec<u32>,
}

impl<'f> Packer<'f> {
    /// For this table.
    pub(super) fn new(table: Table, file: Option<&'f PackFile>) -> Self {
        let (parts, record, sums) = (Vec::new(), Vec::new(), Vec::new());
        Self { table, file, first: 0, last: 0, length: 0, parts, record, sums }
    }

    /// Adds the bytes of a row; says where they are.
    pub(super) fn push(
        &mut self,
        slot: &mut Slot<'_, u64>,
        key: u64,
        bytes: &Bytes,
    ) -> Result<Span, Error> {
        if self.length >= pack::FULL_BYTES {
            self.flush(slot)?;
        }
        if self.parts.is_empty() {
            self.first = key;
        }
        let span = Span { pack: self.first, offset: self.length, length: bytes.len() };
        self.last = key;
        self.length += bytes.len();
        self.parts.push(bytes.clone());
        Ok(span)
    }

    /// Writes what was added.
    pub(super) fn flush(&mut self, slot: &mut Slot<'_, u64>) -> Result<(), Error> {
        if self.parts.is_empty() {
            return Ok(());
        }
        let (table, key, last) = (self.table, self.first, self.last);
        let parts = self.parts.drain(..);
        match self.file.filter(|_| self.length > pack::HELD_BYTES) {
            Some(file) => {
                self.sums.clear();
                let extent = file.put(self.length, parts, &mut self.sums)?;
                pack::write_apart(table, key, last, &mut self.record, extent, &self.sums)?;
            }
            None => pack::write_held(table, key, last, &mut self.record, |record| {
                parts.for_each(|part| record.extend_from_slice(&part));
            }),
        }
        self.length = 0;
        slot.put(key, &self.record)
    }

    /// Removes those of these packs that no row has bytes in any more.
    pub(super) fn remove_dead(
        &self,
        slot: &mut Slot<'_, u64>,
        row_table: Table,
        row_slot: &mut Slot<'_, u64>,
        packs: BTreeSet<u64>,
    ) -> Result<(), Error> {
        for first in packs {
            let (last, extent) = match slot.get()?.get(first).map_err(engine)? {
                Some(record) => {
                    let pack = pack::read(self.table, first, record.value())?;
                    (pack.last, pack.extent())
                }
                None => continue,
            };
            if rows::any_in_pack(row_table, row_slot.get()?, first, last)? {
                continue;
            }
            slot.remove(first)?;
            if let (Some(file), Some(extent)) = (self.file, extent) {
                file.drop_with_commit(extent);
            }
        }
        Ok(())
    }
}

/// Where in the file packs are.
pub(super) fn extents(database: &redb::Database) -> Result<Vec<Extent>, Error> {
    let mut extents = Vec::new();
    each(database, |_, _, pack| {
        extents.extend(pack.extent());
        Ok(())
    })?;
    Ok(extents)
}

/// Holds the bytes of all packs that are apart from them against what they must be.
pub(super) fn check_all(database: &redb::Database, file: &PackReader) -> Result<(), Error> {
    let mut bytes = Vec::new();
    each(database, |table, key, pack| check(table, key, pack, file, &mut bytes))
}

/// Shows every pack.
fn each(
    database: &redb::Database,
    mut visit: impl FnMut(Table, u64, Pack<'_>) -> Result<(), Error>,
) -> Result<(), Error> {
    let transaction = database.begin_read().map_err(engine)?;
    for table in TABLES {
        let packs = transaction.open_table(definition::<u64>(table)).map_err(engine)?;
        for record in packs.iter().map_err(engine)? {
            let (first, record) = record.map_err(engine)?;
            let pack = pack::read(table, first.value(), record.value())?;
            visit(table, first.value(), pack)?;
        }
    }
    Ok(())
}

/// Holds the bytes of a pack that are apart from it against what they must be.
///
/// # Errors
/// [`Error::Damaged`] when they are not that, and as [`PackReader::read`].
pub(super) fn check(
    table: Table,
    key: u64,
    pack: Pack<'_>,
    file: &PackReader,
    bytes: &mut Vec<u8>,
) -> Result<(), Error> {
    let pack::Bytes::Apart(extent, sums) = pack.bytes else { return Ok(()) };
    let length = usize::try_from(extent.length).unwrap_or(usize::MAX);
    let mut start = 0;
    while start < length {
        let range = start..length.min(start + CHECKED_BYTES);
        read_checked((table, key), file, extent, sums, &range, bytes)?;
        start = range.end;
    }
    Ok(())
}

/// Bytes that are checked at once: whole pieces.
const CHECKED_BYTES: usize = 16 * PIECE_BYTES;

/// Reads these pieces of a pack, in place of what `bytes` holds.
fn read_checked(
    (table, key): (Table, u64),
    file: &PackReader,
    extent: Extent,
    sums: Sums<'_>,
    range: &Range<usize>,
    bytes: &mut Vec<u8>,
) -> Result<(), Error> {
    file.read(extent, range, bytes)?;
    let first = range.start / PIECE_BYTES;
    for (number, piece) in (first..).zip(bytes.chunks(PIECE_BYTES)) {
        if !sums.fit(number, piece) {
            let problem = format!("its piece {number}, in {FILE}, is not what was written");
            return Err(record::damaged(table, key.into(), &problem));
        }
    }
    Ok(())
}

/// Reads bytes from packs. Those that are near each other are found at once.
pub(super) struct Unpacker<'t, T> {
    table: Table,
    packs: &'t T,
    file: &'t PackReader,
    /// The pack that was looked at last, checked.
    held: Option<(u64, AccessGuard<'t, &'static [u8]>)>,
    /// Which of its bytes were read last, from the file, and they.
    range: Range<usize>,
    bytes: Vec<u8>,
}

impl<'t, T: ReadableTable<u64, &'static [u8]>> Unpacker<'t, T> {
    /// From this table, and this file.
    pub(super) fn new(table: Table, packs: &'t T, file: &'t PackReader) -> Self {
        Self { table, packs, file, held: None, range: 0..0, bytes: Vec::new() }
    }

    /// The bytes in a place.
    pub(super) fn bytes(&mut self, place: Place<'_>) -> Result<Bytes, Error> {
        match place {
            Place::None => Ok(Bytes::new()),
            Place::Inline(bytes) => Ok(Bytes::copy_from_slice(bytes)),
            Place::Apart(span) => self.span(span),
        }
    }

    fn span(&mut self, span: Span) -> Result<Bytes, Error> {
        let missing = |what: &str| record::damaged(self.table, span.pack.into(), &what);
        if self.held.as_ref().is_none_or(|(held, _)| *held != span.pack) {
            let record = self.packs.get(span.pack).map_err(engine)?;
            let record = record.ok_or_else(|| missing("it is not there"))?;
            pack::read(self.table, span.pack, record.value())?;
            self.held = Some((span.pack, record));
            self.range = 0..0;
        }
        let (_, record) = self.held.as_ref().expect("it was put there above");
        let pack = pack::read_again(record.value()).expect("it was read when it was put there");
        let too_short = || missing("it is too short");
        let end = span.offset.checked_add(span.length).ok_or_else(too_short)?;
        let (bytes, start) = match pack.bytes {
            pack::Bytes::Held(bytes) => (bytes, 0),
            pack::Bytes::Apart(extent, sums) => {
                let mut range = pack::pieces(span.offset..end, extent).ok_or_else(too_short)?;
                if range.start < self.range.start || self.range.end < range.end {
                    let place = (self.table, span.pack);
                    if !self.range.is_empty() {
                        // Who reads on gets the rest at once: a piece in which one ends and
                        // the next begins would be read twice.
                        let length = usize::try_from(extent.length).unwrap_or(usize::MAX);
                        range.end = range.end.max(length.min(pack::FULL_BYTES));
                    }
                    read_checked(place, self.file, extent, sums, &range, &mut self.bytes)?;
                    self.range = range;
                }
                (self.bytes.as_slice(), self.range.start)
            }
        };
        let found = bytes.get(span.offset - start..end - start);
        found.map(Bytes::copy_from_slice).ok_or_else(too_short)
    }
}
