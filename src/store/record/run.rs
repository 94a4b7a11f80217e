//! Runs: rows of rising keys in one record, which is kept under the first of them.

use std::ops::{Range, RangeInclusive};

use serde::Serialize;

use super::{CRC_BYTES, Key, Place, Table, VERSION, checked, damaged, put, put_row, seal};
use crate::store::Error;

/// Bytes up to which a run is filled: with its key and the engine's notes it takes one
/// page of 4 KiB. One that holds a single larger row is longer.
const FULL_BYTES: usize = 4_096 - 16;

/// Collects rows into a record.
#[derive(Debug)]
pub(in crate::store) struct Builder {
    table: Table,
    /// The first key and the last one, if it holds any.
    keys: Option<RangeInclusive<u64>>,
    record: Vec<u8>,
    row: Vec<u8>,
}

impl Builder {
    /// An empty one.
    pub(in crate::store) fn new(table: Table) -> Self {
        Self { table, keys: None, record: Vec::with_capacity(FULL_BYTES), row: Vec::new() }
    }

    /// The last key that was pushed since it was sealed.
    pub(in crate::store) fn last(&self) -> Option<u64> {
        self.keys.as_ref().map(|keys| *keys.end())
    }

    /// Makes a row, to be pushed.
    pub(in crate::store) fn make<T: Serialize>(
        &mut self,
        value: &T,
        place: Place<'_>,
    ) -> Result<(), Error> {
        self.row.clear();
        put_row(&mut self.row, value, place)
    }

    /// Whether the row that was made finds no room any more.
    pub(in crate::store) fn is_full(&self) -> bool {
        /// Of a key's difference and of a length, each at its longest, and of the checksum.
        const FRAME_BYTES: usize = 10 + 5 + 4;
        self.keys.is_some() && self.record.len() + self.row.len() + FRAME_BYTES > FULL_BYTES
    }

    /// Adds the row that was made. Its key is greater than all before it.
    pub(in crate::store) fn push(&mut self, key: u64) -> Result<(), Error> {
        let row = std::mem::take(&mut self.row);
        self.push_row(key, &row)?;
        self.row = row;
        Ok(())
    }

    /// Adds a row as it was in another run. Its key is greater than all before it.
    pub(in crate::store) fn push_row(&mut self, key: u64, row: &[u8]) -> Result<(), Error> {
        if self.keys.is_none() {
            self.record.clear();
            self.record.push(VERSION);
        }
        let first = self.keys.as_ref().map_or(key, |keys| *keys.start());
        let before = self.last().unwrap_or(first);
        put(&mut self.record, &(key - before, row.len()))?;
        self.record.extend_from_slice(row);
        self.keys = Some(first..=key);
        Ok(())
    }

    /// Its key and the record, valid until the next call; it is empty afterwards. `None` if
    /// it was empty.
    pub(in crate::store) fn seal(&mut self) -> Option<(u64, &[u8])> {
        let first = *self.keys.take()?.start();
        seal(self.table, first.into(), &mut self.record);
        Some((first, &self.record))
    }
}

/// The rows of a run, by rising key.
///
/// # Errors
/// [`Error::Damaged`] when it is not what was written under this key. So may each row be
/// that follows.
pub(in crate::store) fn rows(table: Table, first: u64, record: &[u8]) -> Result<Rows<'_>, Error> {
    let rest = checked(table, first.into(), record)?;
    let end = record.len() - CRC_BYTES;
    Ok(Rows { table, run: first, key: first, row: 0..0, rest, end })
}

/// See [`rows`].
#[derive(Debug, Clone)]
pub(in crate::store) struct Rows<'a> {
    table: Table,
    run: u64,
    key: u64,
    row: Range<usize>,
    rest: &'a [u8],
    end: usize,
}

impl<'a> Rows<'a> {
    /// Where in the record the row is that was given last.
    pub(in crate::store) fn place(&self) -> Range<usize> {
        self.row.clone()
    }

    fn split(&mut self) -> Option<(u64, &'a [u8])> {
        let ((difference, length), rest) =
            postcard::take_from_bytes::<(u64, usize)>(self.rest).ok()?;
        let key = self.key.checked_add(difference)?;
        let (row, rest) = rest.split_at_checked(length)?;
        (self.key, self.rest) = (key, rest);
        let to = self.end - rest.len();
        self.row = to - row.len()..to;
        Some((key, row))
    }
}

impl<'a> Iterator for Rows<'a> {
    type Item = Result<(u64, &'a [u8]), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let split = self.split();
        if split.is_none() {
            self.rest = &[];
        }
        let broken = || damaged(self.table, Key::Number(self.run), &"it is no run of rows");
        Some(split.ok_or_else(broken))
    }
}
