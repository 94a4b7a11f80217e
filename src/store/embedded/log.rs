//! A log on disk: rows by rising keys, and apart from them the bytes that are large.

use std::collections::BTreeSet;

use bytes::Bytes;
use redb::{ReadableTable, WriteTransaction};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::pack_file::{PackFile, PackReader};
use super::packs::{Packer, Unpacker};
use super::rows::{self, Appender, Finder};
use super::slot::Slot;
use crate::store::Error;
use crate::store::record::{Place, Row, Table};

/// What a transaction adds to a log, and removes from it.
pub(super) struct Writer<'t> {
    tables: Tables,
    rows: Slot<'t, u64>,
    packs: Slot<'t, u64>,
    appender: Appender,
    packer: Packer<'t>,
}

/// The two tables of a log.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tables {
    /// Its rows.
    pub(super) rows: Table,
    /// Its packs.
    pub(super) packs: Table,
}

/// Tasks and their payloads.
pub(super) const TASKS: Tables = Tables { rows: Table::Tasks, packs: Table::Payloads };
/// Task events and their results.
pub(super) const EVENTS: Tables = Tables { rows: Table::Events, packs: Table::Results };

impl<'t> Writer<'t> {
    /// For these tables. Without a file packs have all their bytes in their records.
    pub(super) fn new(
        transaction: &'t WriteTransaction,
        tables: Tables,
        file: Option<&'t PackFile>,
    ) -> Self {
        Self {
            tables,
            rows: Slot::new(transaction, tables.rows),
            packs: Slot::new(transaction, tables.packs),
            appender: Appender::new(tables.rows),
            packer: Packer::new(tables.packs, file),
        }
    }

    /// Adds a row with its bytes, under a key that is greater than all before it.
    pub(super) fn push<T: Serialize>(
        &mut self,
        key: u64,
        value: &T,
        bytes: &Bytes,
    ) -> Result<(), Error> {
        let place = match Place::in_row(bytes) {
            Some(place) => place,
            None => Place::Apart(self.packer.push(&mut self.packs, key, bytes)?),
        };
        self.appender.push(&mut self.rows, key, value, place)
    }

    /// Writes what was added: before that it is not found.
    pub(super) fn flush(&mut self) -> Result<(), Error> {
        self.appender.flush(&mut self.rows)?;
        self.packer.flush(&mut self.packs)
    }

    /// Finds rows that are to be removed.
    pub(super) fn finder(
        &mut self,
    ) -> Result<Finder<'_, impl ReadableTable<u64, &'static [u8]>>, Error> {
        Ok(Finder::new(self.tables.rows, &*self.rows.get()?))
    }

    /// Removes rows, and of the bytes apart what belonged to none but them.
    pub(super) fn remove(&mut self, mut dead: Dead) -> Result<(), Error> {
        dead.keys.sort_unstable();
        rows::remove(self.tables.rows, &mut self.rows, &dead.keys)?;
        self.packer.remove_dead(&mut self.packs, self.tables.rows, &mut self.rows, dead.packs)
    }
}

/// Rows to be removed.
#[derive(Debug, Default)]
pub(super) struct Dead {
    keys: Vec<u64>,
    packs: BTreeSet<u64>,
}

impl Dead {
    /// Adds one, whose bytes are in this place.
    pub(super) fn push(&mut self, key: u64, place: Place<'_>) {
        self.keys.push(key);
        if let Place::Apart(span) = place {
            self.packs.insert(span.pack);
        }
    }
}

/// Reads a log's rows with their bytes.
pub(super) struct Reader<'t, R, P> {
    finder: Finder<'t, R>,
    unpacker: Unpacker<'t, P>,
}

impl<'t, R, P> Reader<'t, R, P>
where
    R: ReadableTable<u64, &'static [u8]>,
    P: ReadableTable<u64, &'static [u8]>,
{
    /// In these tables.
    pub(super) fn new(tables: Tables, rows: &'t R, packs: &'t P, file: &'t PackReader) -> Self {
        Self {
            finder: Finder::new(tables.rows, rows),
            unpacker: Unpacker::new(tables.packs, packs, file),
        }
    }

    /// The row with this key, and its bytes.
    pub(super) fn get<T: DeserializeOwned>(
        &mut self,
        key: u64,
    ) -> Result<Option<(T, Bytes)>, Error> {
        let Some(row) = self.finder.get::<T>(key)? else { return Ok(None) };
        let Row { value, place } = row;
        Ok(Some((value, self.unpacker.bytes(place)?)))
    }
}
