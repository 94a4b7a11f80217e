//! One read transaction: what is kept, as it stood when the transaction began.

use std::sync::Arc;

use bytes::Bytes;
use redb::{Key, ReadOnlyTable, ReadTransaction, ReadableTable};
use serde::de::DeserializeOwned;

use super::log;
use super::pack_file::PackReader;
use super::packs::Unpacker;
use super::rows::{self, Finder};
use super::tables::{self, definition, engine};
use crate::core::event::{Event, KeyedBatch, LeaseNotes, TaskEvent};
use crate::core::id::{Seq, TaskId};
use crate::core::task::{Holder, Spec};
use crate::core::task_type::{TaskType, TypeId};
use crate::store::record::run;
use crate::store::record::{self, Row, Table};
use crate::store::{Error, Position, Recovered, StoredEvent, StoredTask};

type Rows = ReadOnlyTable<u64, &'static [u8]>;

/// Reads in one transaction.
pub(super) struct Reader<'f> {
    transaction: ReadTransaction,
    /// The file of packs.
    pub(super) packs: &'f PackReader,
}

impl<'f> Reader<'f> {
    /// Reads in this transaction, and what it says is there from the file.
    pub(super) fn new(transaction: ReadTransaction, packs: &'f PackReader) -> Self {
        Self { transaction, packs }
    }

    /// See [`crate::store::Store::summary`].
    pub(super) fn summary(&self, visit: &mut dyn FnMut(Event)) -> Result<Recovered, Error> {
        self.each(Table::Types, |number, definition: TaskType| {
            let type_id = TypeId(u32::try_from(number).map_err(|_| {
                record::damaged(Table::Types, number.into(), &"it is no number of a type")
            })?);
            visit(Event::TypeLearned { type_id, definition });
            Ok(())
        })?;
        self.scan_workers(visit)?;
        self.each(Table::Skipped, |from, to: TaskId| {
            visit(Event::IdsSkipped { from: TaskId(from), to });
            Ok(())
        })?;
        if let Some(end) = self.meta(tables::RESERVED)? {
            visit(Event::IdsReserved { end: TaskId(end) });
        }
        self.each(Table::Keys, |_, batch: KeyedBatch| {
            visit(Event::Keyed(batch));
            Ok(())
        })?;
        self.each(Table::Notes, |_, notes: LeaseNotes| {
            visit(Event::Leased(notes));
            Ok(())
        })?;
        if let Some(next_id) = self.meta(tables::STOPPED)? {
            visit(Event::Stopped { next_id: TaskId(next_id) });
        }
        let trimmed_to = self.meta(tables::TRIMMED_TO)?.map(Seq).unwrap_or_default();
        let trimmed_id = self.meta(tables::TRIMMED_ID)?.map(TaskId);
        let last_seq = rows::last(Table::Events, &self.open(Table::Events)?)?.map(Seq);
        let last_id = rows::last(Table::Tasks, &self.open(Table::Tasks)?)?.map(TaskId);
        Ok(Recovered {
            last_seq: last_seq.unwrap_or_default().max(trimmed_to),
            last_id: last_id.max(trimmed_id),
            trimmed_to,
        })
    }

    /// See [`crate::store::Store::history`].
    pub(super) fn history(
        &self,
        from: Position,
        to: Recovered,
        limit: usize,
        visit: &mut dyn FnMut(Event),
    ) -> Result<Option<Position>, Error> {
        match from {
            Position::Events(Seq(after)) => {
                let changed = |_, row: Row<'_, TaskEvent>| visit(Event::Changed(with_length(row)));
                let last = self.each_after(Table::Events, after, to.last_seq.0, limit, changed)?;
                Ok(Some(last.map_or(Position::Tasks(TaskId(0)), |seq| Position::Events(Seq(seq)))))
            }
            Position::Tasks(TaskId(after)) => {
                let submitted = |id, row: Row<'_, Spec>| {
                    visit(Event::Submitted { id: TaskId(id), spec: row.value });
                };
                let last = to.last_id.map_or(0, |last| last.0);
                let last = self.each_after(Table::Tasks, after, last, limit, submitted)?;
                Ok(last.map(|id| Position::Tasks(TaskId(id))))
            }
        }
    }

    /// See [`crate::store::Store::tasks_within`].
    pub(super) fn tasks(
        &self,
        ids: &[TaskId],
        bytes: usize,
    ) -> Result<Vec<Option<StoredTask>>, Error> {
        let (rows, packs) = self.log(log::TASKS)?;
        let mut rows = Finder::new(Table::Tasks, &rows);
        let mut payloads = Unpacker::new(Table::Payloads, &packs, self.packs);
        let mut found = Vec::new();
        let mut total = 0_usize;
        for &id in ids {
            let Some(row) = rows.get::<Spec>(id.0)? else {
                found.push(None);
                continue;
            };
            total = total.saturating_add(row.place.length());
            if total > bytes && !found.is_empty() {
                break;
            }
            let payload = payloads.bytes(row.place)?;
            found.push(Some(StoredTask { id, spec: row.value, payload }));
        }
        Ok(found)
    }

    /// See [`crate::store::Store::specs`].
    pub(super) fn specs(&self, ids: &[TaskId]) -> Result<Vec<Option<Spec>>, Error> {
        self.rows(Table::Tasks, ids.iter().map(|id| id.0), |row| row.value)
    }

    /// See [`crate::store::Store::facts`].
    pub(super) fn facts(&self, places: &[Seq]) -> Result<Vec<Option<TaskEvent>>, Error> {
        self.rows(Table::Events, places.iter().map(|place| place.0), with_length)
    }

    /// See [`crate::store::Store::events`].
    pub(super) fn events(&self, places: &[Seq]) -> Result<Vec<Option<StoredEvent>>, Error> {
        let (rows, packs) = self.log(log::EVENTS)?;
        let mut events = log::Reader::new(log::EVENTS, &rows, &packs, self.packs);
        let event = |&Seq(seq): &Seq| {
            let event = events.get(seq)?;
            Ok(event.map(|(event, result)| with_result(event, result)))
        };
        places.iter().map(event).collect()
    }

    /// See [`crate::store::Store::events_after`].
    pub(super) fn events_after(
        &self,
        place: Seq,
        limit: usize,
        bytes: usize,
    ) -> Result<Vec<StoredEvent>, Error> {
        let (runs, packs) = self.log(log::EVENTS)?;
        let mut results = Unpacker::new(Table::Results, &packs, self.packs);
        let mut found = Vec::new();
        let mut total = 0_usize;
        let first = rows::run_of(&runs, place.0)?.map_or(0, |(first, _)| first.value());
        for record in runs.range(first..).map_err(engine)? {
            let (first, record) = record.map_err(engine)?;
            for row in run::rows(Table::Events, first.value(), record.value())? {
                let (seq, row) = row?;
                if seq <= place.0 {
                    continue;
                }
                let row = record::decode::<TaskEvent>(Table::Events, seq.into(), row)?;
                total = total.saturating_add(row.place.length());
                if found.len() == limit || (total > bytes && !found.is_empty()) {
                    return Ok(found);
                }
                let result = results.bytes(row.place)?;
                found.push(with_result(row.value, result));
            }
        }
        Ok(found)
    }

    fn scan_workers(&self, visit: &mut dyn FnMut(Event)) -> Result<(), Error> {
        for row in self.open::<&str>(Table::Workers)?.iter().map_err(engine)? {
            let (worker, row) = row.map_err(engine)?;
            let worker = worker.value();
            let (incarnation, address) =
                record::row::<(u64, Arc<str>)>(Table::Workers, worker.into(), row.value())?.value;
            let holder = Holder { worker: worker.into(), incarnation };
            visit(Event::WorkerSeen { holder, address });
        }
        Ok(())
    }

    /// Shows every row of a table that has one in a record, by rising key.
    fn each<T: DeserializeOwned>(
        &self,
        table: Table,
        mut visit: impl FnMut(u64, T) -> Result<(), Error>,
    ) -> Result<(), Error> {
        for row in self.open::<u64>(table)?.iter().map_err(engine)? {
            let (key, row) = row.map_err(engine)?;
            let key = key.value();
            visit(key, record::row::<T>(table, key.into(), row.value())?.value)?;
        }
        Ok(())
    }

    /// Shows the rows of a table of runs from after a key up to the last one wanted, whole
    /// runs of them until they are enough; the last one shown, if there may be more.
    fn each_after<T: DeserializeOwned>(
        &self,
        table: Table,
        after: u64,
        last: u64,
        enough: usize,
        mut visit: impl FnMut(u64, Row<'_, T>),
    ) -> Result<Option<u64>, Error> {
        let rows = self.open(table)?;
        let first = rows::run_of(&rows, after)?.map_or(0, |(first, _)| first.value());
        let (mut shown, mut at) = (0, after);
        for record in rows.range(first..=last).map_err(engine)? {
            if shown >= enough {
                return Ok(Some(at));
            }
            let (first, record) = record.map_err(engine)?;
            for row in run::rows(table, first.value(), record.value())? {
                let (key, row) = row?;
                if after < key && key <= last {
                    visit(key, record::decode::<T>(table, key.into(), row)?);
                    (shown, at) = (shown + 1, key);
                }
            }
        }
        Ok(None)
    }

    /// What rows of a table say, without the bytes that belong to them.
    fn rows<T: DeserializeOwned>(
        &self,
        table: Table,
        keys: impl Iterator<Item = u64>,
        read: impl Fn(Row<'_, T>) -> T,
    ) -> Result<Vec<Option<T>>, Error> {
        let rows = self.open(table)?;
        let mut rows = Finder::new(table, &rows);
        keys.map(|key| Ok(rows.get(key)?.map(&read))).collect()
    }

    /// The rows and the packs of a log.
    fn log(&self, tables: log::Tables) -> Result<(Rows, Rows), Error> {
        Ok((self.open(tables.rows)?, self.open(tables.packs)?))
    }

    /// A single value.
    pub(super) fn meta(&self, name: &'static str) -> Result<Option<u64>, Error> {
        let meta = self.open::<&str>(Table::Meta)?;
        match meta.get(name).map_err(engine)? {
            Some(row) => Ok(Some(record::row(Table::Meta, name.into(), row.value())?.value)),
            None => Ok(None),
        }
    }

    /// A table.
    pub(super) fn open<K: Key + 'static>(
        &self,
        table: Table,
    ) -> Result<ReadOnlyTable<K, &'static [u8]>, Error> {
        self.transaction.open_table(definition(table)).map_err(engine)
    }
}

/// An event that knows how long its result is, which is not read.
fn with_length(row: Row<'_, TaskEvent>) -> TaskEvent {
    row.value.with_result_of(row.place.length())
}

/// An event with its result.
fn with_result(event: TaskEvent, result: Bytes) -> StoredEvent {
    StoredEvent { event: event.with_result_of(result.len()), result }
}
