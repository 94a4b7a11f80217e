//! Packs: large payloads or results, one after the other, and cut into pieces without
//! regard to where one ends and the next begins, so that a piece fills a page.
//!
//! ```text
//! bytes    aaaaaaaaaa bbbbbbbbbbbb c dddddddd eeeeeeeeeee
//! pieces   |0              |1              |2            |
//! ```
//!
//! The row of each says where in the pack its bytes are.

use std::ops::Range;

use super::{CRC_BYTES, Span, Table, VERSION, checked, damaged, seal};
use crate::store::Error;

/// Bytes of a pack in each of its pieces but the last. Durable: it finds a byte's piece. So
/// many because the engine gives a value pages of which there are a power of two: 16 KiB,
/// less the engine's 8 bytes of notes, the key's 12 and the frame.
pub(in crate::store) const PIECE_BYTES: usize = (16 << 10) - 8 - 12 - FRAME_BYTES;

/// Bytes with which a pack is full. It stays whole until the last of those that share it
/// is gone, so that the disk holds at most so much more than is kept for each that is.
pub(in crate::store) const FULL_BYTES: usize = 4 * PIECE_BYTES;

/// Version, last key, checksum.
const FRAME_BYTES: usize = 1 + LAST_BYTES + CRC_BYTES;
const LAST_BYTES: usize = 8;

/// A piece that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) struct Piece<'a> {
    /// The last key whose bytes are in the pack.
    pub(in crate::store) last: u64,
    /// Its bytes.
    pub(in crate::store) bytes: &'a [u8],
}

/// Makes the record of a piece, in place of what `record` holds: `fill` appends its bytes.
pub(in crate::store) fn write(
    table: Table,
    key: (u64, u32),
    last: u64,
    record: &mut Vec<u8>,
    fill: impl FnOnce(&mut Vec<u8>),
) {
    record.clear();
    record.push(VERSION);
    record.extend_from_slice(&last.to_le_bytes());
    fill(record);
    seal(table, key.into(), record);
}

/// Reads a piece back.
///
/// # Errors
/// [`Error::Damaged`] when it is not what was written under this key.
pub(in crate::store) fn piece(
    table: Table,
    key: (u64, u32),
    record: &[u8],
) -> Result<Piece<'_>, Error> {
    let body = checked(table, key.into(), record)?;
    let Some((last, bytes)) = body.split_first_chunk::<LAST_BYTES>() else {
        return Err(damaged(table, key.into(), &"it is too short"));
    };
    Ok(Piece { last: u64::from_le_bytes(*last), bytes })
}

/// The bytes of a piece whose record was checked before.
pub(in crate::store) fn checked_bytes(record: &[u8]) -> &[u8] {
    &record[1 + LAST_BYTES..record.len() - CRC_BYTES]
}

/// The parts of a span: the number of each piece, and which of its bytes.
pub(in crate::store) fn parts(span: Span) -> impl Iterator<Item = (u32, Range<usize>)> {
    let end = span.offset.saturating_add(span.length);
    let mut next = span.offset;
    std::iter::from_fn(move || {
        if next >= end {
            return None;
        }
        let (number, from) = (next / PIECE_BYTES, next % PIECE_BYTES);
        let to = PIECE_BYTES.min(from + (end - next));
        next += to - from;
        // Nobody writes a pack of so many pieces: it is not found.
        Some((u32::try_from(number).unwrap_or(u32::MAX), from..to))
    })
}
