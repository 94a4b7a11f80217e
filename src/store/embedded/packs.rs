//! Tables of packs: the large bytes of rows.

use std::collections::BTreeSet;

use bytes::Bytes;
use redb::{AccessGuard, ReadableTable};

use super::rows;
use super::slot::Slot;
use super::tables::engine;
use crate::store::Error;
use crate::store::record::pack::{self, PIECE_BYTES};
use crate::store::record::{self, Place, Span, Table};

/// A pack, and which piece of it.
pub(super) type PieceKey = (u64, u32);

/// Puts bytes into packs, in the order of their rows.
pub(super) struct Packer {
    table: Table,
    /// The first key and the last one that have bytes in the pack.
    first: u64,
    last: u64,
    length: usize,
    blobs: Vec<Bytes>,
    /// A piece in the making. The engine would zero a place for it twice.
    record: Vec<u8>,
}

impl Packer {
    /// For this table.
    pub(super) fn new(table: Table) -> Self {
        Self { table, first: 0, last: 0, length: 0, blobs: Vec::new(), record: Vec::new() }
    }

    /// Adds the bytes of a row; says where they are.
    pub(super) fn push(
        &mut self,
        slot: &mut Slot<'_, PieceKey>,
        key: u64,
        bytes: &Bytes,
    ) -> Result<Span, Error> {
        if self.length >= pack::FULL_BYTES {
            self.flush(slot)?;
        }
        if self.blobs.is_empty() {
            self.first = key;
        }
        let span = Span { pack: self.first, offset: self.length, length: bytes.len() };
        self.last = key;
        self.length += bytes.len();
        self.blobs.push(bytes.clone());
        Ok(span)
    }

    /// Writes what was added.
    pub(super) fn flush(&mut self, slot: &mut Slot<'_, PieceKey>) -> Result<(), Error> {
        let whole = Span { pack: self.first, offset: 0, length: self.length };
        let mut blobs = self.blobs.drain(..);
        let mut rest = Bytes::new();
        for (number, part) in pack::parts(whole) {
            let key = (self.first, number);
            pack::write(self.table, key, self.last, &mut self.record, |record| {
                let mut missing = part.len();
                while missing > 0 {
                    if rest.is_empty() {
                        rest = blobs.next().expect("the pack is as long as its parts");
                    }
                    let bytes = rest.split_to(rest.len().min(missing));
                    record.extend_from_slice(&bytes);
                    missing -= bytes.len();
                }
            });
            slot.put(key, &self.record)?;
        }
        drop(blobs);
        self.length = 0;
        Ok(())
    }
}

/// Removes those of these packs that no row has bytes in any more.
pub(super) fn remove_dead(
    table: Table,
    slot: &mut Slot<'_, PieceKey>,
    row_table: Table,
    row_slot: &mut Slot<'_, u64>,
    packs: BTreeSet<u64>,
) -> Result<(), Error> {
    for first in packs {
        let key = (first, 0);
        let last = match slot.get()?.get(key).map_err(engine)? {
            Some(record) => pack::piece(table, key, record.value())?.last,
            None => continue,
        };
        if rows::any_in_pack(row_table, row_slot.get()?, first, last)? {
            continue;
        }
        let mut number = 0;
        while slot.remove((first, number))? {
            number += 1;
        }
    }
    Ok(())
}

/// Reads bytes from packs. Those that are in one piece are found at once.
pub(super) struct Unpacker<'t, T> {
    table: Table,
    pieces: &'t T,
    /// The piece that was looked at last, checked.
    held: Option<(PieceKey, AccessGuard<'t, &'static [u8]>)>,
}

impl<'t, T: ReadableTable<PieceKey, &'static [u8]>> Unpacker<'t, T> {
    /// From this table.
    pub(super) fn new(table: Table, pieces: &'t T) -> Self {
        Self { table, pieces, held: None }
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
        let mut bytes = Vec::with_capacity(span.length.min(PIECE_BYTES));
        for (number, part) in pack::parts(span) {
            let key = (span.pack, number);
            let missing = |what: &str| record::damaged(self.table, key.into(), &what);
            if self.held.as_ref().is_none_or(|(held, _)| *held != key) {
                let record = self.pieces.get(key).map_err(engine)?;
                let record = record.ok_or_else(|| missing("it is not there"))?;
                pack::piece(self.table, key, record.value())?;
                self.held = Some((key, record));
            }
            let (_, record) = self.held.as_ref().expect("it was put there above");
            let piece = pack::checked_bytes(record.value()).get(part);
            bytes.extend_from_slice(piece.ok_or_else(|| missing("it is too short"))?);
        }
        Ok(bytes.into())
    }
}
