//! Tables of runs: rows of a log that are found by their keys, and dropped by them.

use std::ops::{Range, RangeInclusive};

use redb::{AccessGuard, ReadableTable};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::slot::Slot;
use super::tables::engine;
use crate::store::Error;
use crate::store::record::run::{self, Builder};
use crate::store::record::{self, Place, Row, Table};

/// A run as it is in the table: its key and its record.
type Run<'t> = (AccessGuard<'t, u64>, AccessGuard<'t, &'static [u8]>);

/// Adds rows to the end of a table.
pub(super) struct Appender {
    run: Builder,
}

impl Appender {
    /// For a table.
    pub(super) fn new(table: Table) -> Self {
        Self { run: Builder::new(table) }
    }

    /// Adds a row under a key that is greater than all before it.
    pub(super) fn push<T: Serialize>(
        &mut self,
        slot: &mut Slot<'_, u64>,
        key: u64,
        value: &T,
        place: Place<'_>,
    ) -> Result<(), Error> {
        self.run.make(value, place)?;
        if self.run.is_full() {
            self.flush(slot)?;
        }
        self.run.push(key)
    }

    /// Writes what was added.
    pub(super) fn flush(&mut self, slot: &mut Slot<'_, u64>) -> Result<(), Error> {
        match self.run.seal() {
            Some((first, record)) => slot.put(first, record),
            None => Ok(()),
        }
    }
}

/// The greatest key in a table.
pub(super) fn last(
    table: Table,
    rows: &impl ReadableTable<u64, &'static [u8]>,
) -> Result<Option<u64>, Error> {
    let Some((first, record)) = rows.last().map_err(engine)? else { return Ok(None) };
    let mut last = None;
    for row in run::rows(table, first.value(), record.value())? {
        last = Some(row?.0);
    }
    Ok(last)
}

/// Removes the rows with these rising keys, as far as they are there.
pub(super) fn remove(
    table: Table,
    slot: &mut Slot<'_, u64>,
    mut keys: &[u64],
) -> Result<(), Error> {
    let mut rest = Builder::new(table);
    while let Some(&key) = keys.first() {
        let run = run_of(slot.get()?, key)?;
        let copied = run.map(|(first, record)| (first.value(), record.value().to_vec()));
        let Some((first, record)) = copied else {
            keys = &keys[1..];
            continue;
        };
        let mut last = key;
        for row in run::rows(table, first, &record)? {
            let (key, row) = row?;
            last = last.max(key);
            while keys.first().is_some_and(|dead| *dead < key) {
                keys = &keys[1..];
            }
            if keys.first() != Some(&key) {
                rest.push_row(key, row)?;
            }
        }
        keys = &keys[keys.partition_point(|&dead| dead <= last)..];
        match rest.seal() {
            Some((left, record)) => {
                if left != first {
                    slot.remove(first)?;
                }
                slot.put(left, record)?;
            }
            None => {
                slot.remove(first)?;
            }
        }
    }
    Ok(())
}

/// Whether a row has bytes in this pack. They have none but keys from the pack's own to
/// `last`.
pub(super) fn any_in_pack(
    table: Table,
    rows: &impl ReadableTable<u64, &'static [u8]>,
    pack: u64,
    last: u64,
) -> Result<bool, Error> {
    let has_bytes = |key: u64, row: &[u8]| {
        record::pack_of(table, key.into(), row).map(|found| found == Some(pack))
    };
    Ok(find_in(table, rows, pack..=last, has_bytes)?.is_some())
}

/// The first of these keys whose row passes the test.
pub(super) fn find_in(
    table: Table,
    rows: &impl ReadableTable<u64, &'static [u8]>,
    keys: RangeInclusive<u64>,
    mut test: impl FnMut(u64, &[u8]) -> Result<bool, Error>,
) -> Result<Option<u64>, Error> {
    let first = run_of(rows, *keys.start())?.map_or(0, |(first, _)| first.value());
    for record in rows.range(first..=*keys.end()).map_err(engine)? {
        let (first, record) = record.map_err(engine)?;
        for row in run::rows(table, first.value(), record.value())? {
            let (key, row) = row?;
            if keys.contains(&key) && test(key, row)? {
                return Ok(Some(key));
            }
        }
    }
    Ok(None)
}

/// The run that holds a key, if any does: the last one that begins up to it.
pub(super) fn run_of(
    rows: &impl ReadableTable<u64, &'static [u8]>,
    key: u64,
) -> Result<Option<Run<'_>>, Error> {
    rows.range(..=key).map_err(engine)?.next_back().transpose().map_err(engine)
}

/// Finds rows by their keys. Those that are near each other are found at once.
pub(super) struct Finder<'t, T> {
    table: Table,
    rows: &'t T,
    held: Option<Held<'t>>,
}

/// The run that was looked at last.
struct Held<'t> {
    record: AccessGuard<'t, &'static [u8]>,
    /// Where in it each key's row is.
    rows: Vec<(u64, Range<usize>)>,
}

impl<'t, T: ReadableTable<u64, &'static [u8]>> Finder<'t, T> {
    /// In this table.
    pub(super) fn new(table: Table, rows: &'t T) -> Self {
        Self { table, rows, held: None }
    }

    /// The row with this key.
    pub(super) fn get<V: DeserializeOwned>(
        &mut self,
        key: u64,
    ) -> Result<Option<Row<'_, V>>, Error> {
        let is_held = self.held.as_ref().is_some_and(|held| held.spans(key));
        if !is_held {
            self.held = match run_of(self.rows, key)? {
                Some((first, record)) => Some(Held::new(self.table, first.value(), record)?),
                None => None,
            };
        }
        let Some(row) = self.held.as_ref().and_then(|held| held.row(key)) else {
            return Ok(None);
        };
        record::decode(self.table, key.into(), row).map(Some)
    }
}

impl<'t> Held<'t> {
    fn new(
        table: Table,
        first: u64,
        record: AccessGuard<'t, &'static [u8]>,
    ) -> Result<Self, Error> {
        let mut found = Vec::new();
        let mut rows = run::rows(table, first, record.value())?;
        while let Some(row) = rows.next() {
            let (key, _) = row?;
            found.push((key, rows.place()));
        }
        Ok(Self { record, rows: found })
    }

    fn spans(&self, key: u64) -> bool {
        let (first, last) = (self.rows.first(), self.rows.last());
        first.is_some_and(|first| first.0 <= key) && last.is_some_and(|last| key <= last.0)
    }

    fn row(&self, key: u64) -> Option<&[u8]> {
        let found = self.rows.binary_search_by_key(&key, |&(key, _)| key).ok()?;
        self.record.value().get(self.rows[found].1.clone())
    }
}
