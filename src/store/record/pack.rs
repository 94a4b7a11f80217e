//! Packs: large payloads or results, one after the other, without regard to where one ends
//! and the next begins. The row of each says where in the pack its bytes are.
//!
//! ```text
//! bytes    aaaaaaaaaa bbbbbbbbbbbb c dddddddd eeeeeeeeeee
//! pieces   |0              |1              |2            |
//! ```
//!
//! What is read is checked by pieces. A pack that is one short piece stays in its record; of
//! any other the record says where its bytes are, and what each piece must be:
//!
//! ```text
//! last key that has bytes in it (8 bytes) · 0 · the bytes
//!                                         · 1 · extent (varints) · crc32 of each piece (4 bytes each)
//! ```

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::{CRC_BYTES, Table, VERSION, checked, damaged, put, seal};
use crate::store::Error;

/// Bytes of a pack in each of its pieces but the last. Durable: it finds a byte's piece.
pub(in crate::store) const PIECE_BYTES: usize = 16 << 10;

/// Bytes with which a pack is full. It stays whole until the last of those that share it
/// is gone, so that the disk holds at most so much more than is kept for each that is.
pub(in crate::store) const FULL_BYTES: usize = 4 * PIECE_BYTES;

/// Bytes up to which a pack stays in its record: with the engine's 8 bytes of notes, the
/// key's 8 and the frame they fill 16 KiB. A place elsewhere is in whole blocks of the disk.
pub(in crate::store) const HELD_BYTES: usize = (16 << 10) - 8 - 8 - FRAME_BYTES;

/// Version, last key, kind, checksum.
const FRAME_BYTES: usize = 1 + LAST_BYTES + 1 + CRC_BYTES;
const LAST_BYTES: usize = 8;

/// The kinds of [`Bytes`]. Durable.
const HELD: u8 = 0;
const APART: u8 = 1;

/// Where a pack lies that has a place elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::store) struct Extent {
    /// Its first block.
    pub(in crate::store) block: u64,
    /// Its bytes.
    pub(in crate::store) length: u64,
}

/// A pack that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) struct Pack<'a> {
    /// The last key whose bytes are in it.
    pub(in crate::store) last: u64,
    /// Its bytes.
    pub(in crate::store) bytes: Bytes<'a>,
}

impl Pack<'_> {
    /// Where its bytes are, if they are elsewhere.
    pub(in crate::store) fn extent(&self) -> Option<Extent> {
        match self.bytes {
            Bytes::Held(_) => None,
            Bytes::Apart(extent, _) => Some(extent),
        }
    }
}

/// The bytes of a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) enum Bytes<'a> {
    /// In the record.
    Held(&'a [u8]),
    /// Elsewhere.
    Apart(Extent, Sums<'a>),
}

/// The checksums of a pack's pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) struct Sums<'a>(&'a [[u8; CRC_BYTES]]);

impl Sums<'_> {
    /// Whether the pack has such a piece, and this is what was written there.
    pub(in crate::store) fn fit(self, piece: usize, bytes: &[u8]) -> bool {
        self.0.get(piece).is_some_and(|sum| u32::from_le_bytes(*sum) == crc32fast::hash(bytes))
    }
}

/// Makes the record of a pack, in place of what `record` holds: `fill` appends its bytes.
pub(in crate::store) fn write_held(
    table: Table,
    key: u64,
    last: u64,
    record: &mut Vec<u8>,
    fill: impl FnOnce(&mut Vec<u8>),
) {
    begin(last, HELD, record);
    fill(record);
    seal(table, key.into(), record);
}

/// Makes the record of a pack whose bytes are elsewhere.
///
/// # Errors
/// When it cannot be encoded.
pub(in crate::store) fn write_apart(
    table: Table,
    key: u64,
    last: u64,
    record: &mut Vec<u8>,
    extent: Extent,
    sums: &[u32],
) -> Result<(), Error> {
    begin(last, APART, record);
    put(record, &extent)?;
    record.extend(sums.iter().flat_map(|sum| sum.to_le_bytes()));
    seal(table, key.into(), record);
    Ok(())
}

fn begin(last: u64, kind: u8, record: &mut Vec<u8>) {
    record.clear();
    record.push(VERSION);
    record.extend_from_slice(&last.to_le_bytes());
    record.push(kind);
}

/// Reads the record of a pack back.
///
/// # Errors
/// [`Error::Damaged`] when it is not what was written under this key.
pub(in crate::store) fn read(table: Table, key: u64, record: &[u8]) -> Result<Pack<'_>, Error> {
    let body = checked(table, key.into(), record)?;
    parse(body).ok_or_else(|| damaged(table, key.into(), &"it is no pack"))
}

/// The pack of a record that was checked before.
pub(in crate::store) fn read_again(record: &[u8]) -> Option<Pack<'_>> {
    parse(record.get(1..record.len().checked_sub(CRC_BYTES)?)?)
}

fn parse(body: &[u8]) -> Option<Pack<'_>> {
    let (last, rest) = body.split_first_chunk::<LAST_BYTES>()?;
    let last = u64::from_le_bytes(*last);
    let bytes = match rest.split_first()? {
        (&HELD, bytes) => Bytes::Held(bytes),
        (&APART, rest) => {
            let (extent, sums) = postcard::take_from_bytes::<Extent>(rest).ok()?;
            let (sums, rest) = sums.as_chunks();
            let length = usize::try_from(extent.length).ok()?;
            if !rest.is_empty() || sums.len() != length.div_ceil(PIECE_BYTES) {
                return None;
            }
            Bytes::Apart(extent, Sums(sums))
        }
        _ => return None,
    };
    Some(Pack { last, bytes })
}

/// The whole pieces that these bytes of a pack are in, as bytes of it; `None` if it ends
/// before them.
pub(in crate::store) fn pieces(bytes: Range<usize>, pack: Extent) -> Option<Range<usize>> {
    let length = usize::try_from(pack.length).ok()?;
    let end = bytes.end.checked_next_multiple_of(PIECE_BYTES)?.min(length);
    (bytes.end <= length).then_some(bytes.start / PIECE_BYTES * PIECE_BYTES..end)
}
