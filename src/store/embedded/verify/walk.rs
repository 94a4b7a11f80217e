//! Every record of every table: whether it is what was written, and fits the others.

use std::sync::Arc;

use redb::{Key as TableKey, ReadOnlyTable, ReadTransaction, ReadableTable, ReadableTableMetadata};

use super::super::reader::bytes_of;
use super::super::tables::{self, definition, engine};
use super::{Report, TableReport};
use crate::core::event::{KeyedBatch, LeaseNotes, TaskEvent};
use crate::core::id::TaskId;
use crate::core::task::Spec;
use crate::core::task_type::TaskType;
use crate::store::Error;
use crate::store::record::{self, Key, Place, Table, damaged};

/// All tables.
pub(super) const TABLES: [Table; 11] = [
    Table::Tasks,
    Table::Payloads,
    Table::Events,
    Table::Results,
    Table::Types,
    Table::Workers,
    Table::Keys,
    Table::Notes,
    Table::Skipped,
    Table::Epochs,
    Table::Meta,
];

/// Rows by number.
type Rows = ReadOnlyTable<u64, &'static [u8]>;

/// Walks through what one transaction sees.
pub(super) struct Walk {
    transaction: ReadTransaction,
}

impl Walk {
    pub(super) fn new(transaction: ReadTransaction) -> Self {
        Self { transaction }
    }

    /// Reads every record of a table by itself.
    pub(super) fn records(&self, table: Table, report: &mut Report) -> Result<(), Error> {
        match table {
            Table::Workers | Table::Meta => {
                self.each::<&str>(table, report, |key, record| decode(table, key.into(), record))
            }
            Table::Tasks
            | Table::Payloads
            | Table::Events
            | Table::Results
            | Table::Types
            | Table::Keys
            | Table::Notes
            | Table::Skipped
            | Table::Epochs => {
                self.each::<u64>(table, report, |key, record| decode(table, key.into(), record))
            }
        }
    }

    /// Reads every record of a table, and compares it with those that belong to it.
    pub(super) fn table(&self, table: Table, report: &mut Report) -> Result<(), Error> {
        match table {
            Table::Tasks => self.tasks(report),
            Table::Events => self.events(report),
            Table::Payloads => self.blobs::<Spec>(table, Table::Tasks, report),
            Table::Results => self.blobs::<TaskEvent>(table, Table::Events, report),
            Table::Keys => self.each::<u64>(table, report, |key, record| {
                let batch = record::row::<KeyedBatch>(table, key.into(), record)?.value;
                named_by(table, key, batch.first.0)
            }),
            Table::Notes => self.each::<u64>(table, report, |key, record| {
                let notes = record::row::<LeaseNotes>(table, key.into(), record)?.value;
                named_by(table, key, notes.note)
            }),
            Table::Skipped => self.skipped(report),
            Table::Epochs => {
                let mut next = 1;
                self.each::<u64>(table, report, |key, record| {
                    decode(table, key.into(), record)?;
                    let missing = std::mem::replace(&mut next, key.saturating_add(1));
                    if key == missing {
                        return Ok(());
                    }
                    Err(damaged(table, missing.into(), &"it is not there, but later ones are"))
                })
            }
            Table::Types | Table::Workers | Table::Meta => self.records(table, report),
        }
    }

    fn tasks(&self, report: &mut Report) -> Result<(), Error> {
        let payloads = self.open::<u64>(Table::Payloads)?;
        let reserved = self.meta(tables::RESERVED).unwrap_or(None);
        self.each::<u64>(Table::Tasks, report, |id, record| {
            let row = record::row::<Spec>(Table::Tasks, id.into(), record)?;
            bytes_of(row.place, Table::Payloads, &payloads, id)?;
            match reserved {
                Some(end) if end <= id => {
                    let problem = format!("ids are reserved only up to {end}");
                    Err(damaged(Table::Tasks, id.into(), &problem))
                }
                _ => Ok(()),
            }
        })
    }

    fn events(&self, report: &mut Report) -> Result<(), Error> {
        let results = self.open::<u64>(Table::Results)?;
        let tasks = self.open::<u64>(Table::Tasks)?;
        let events = self.open::<u64>(Table::Events)?;
        self.each::<u64>(Table::Events, report, |seq, record| {
            let row = record::row::<TaskEvent>(Table::Events, seq.into(), record)?;
            bytes_of(row.place, Table::Results, &results, seq)?;
            let event = row.value;
            named_by(Table::Events, seq, event.seq.0)?;
            if tasks.get(event.id.0).map_err(engine)?.is_none() {
                let problem = format!("its task {} is not there", event.id);
                return Err(damaged(Table::Events, seq.into(), &problem));
            }
            match event.previous {
                Some(previous) => precedes(&events, previous.0, &event),
                None => Ok(()),
            }
        })
    }

    /// Blobs, each of which belongs to a row that says so. The row's own check compares
    /// their lengths.
    fn blobs<T: serde::de::DeserializeOwned>(
        &self,
        table: Table,
        owners: Table,
        report: &mut Report,
    ) -> Result<(), Error> {
        let rows = self.open::<u64>(owners)?;
        self.each::<u64>(table, report, |key, record| {
            decode(table, key.into(), record)?;
            let row = rows.get(key).map_err(engine)?;
            // An owner that is damaged was told of with its own table.
            let owner = row.as_ref().map(|row| record::row::<T>(owners, key.into(), row.value()));
            let is_owned = |row: record::Row<'_, T>| matches!(row.place, Place::Apart(_));
            if owner.is_some_and(|owner| owner.map_or(true, is_owned)) {
                return Ok(());
            }
            let problem = format!("no record of table {} has it", owners.name());
            Err(damaged(table, key.into(), &problem))
        })
    }

    fn skipped(&self, report: &mut Report) -> Result<(), Error> {
        let tasks = self.open::<u64>(Table::Tasks)?;
        self.each::<u64>(Table::Skipped, report, |from, record| {
            let to = record::row::<TaskId>(Table::Skipped, from.into(), record)?.value;
            match tasks.range(from..to.0.max(from)).map_err(engine)?.next() {
                None => Ok(()),
                Some(task) => {
                    let id = task.map_err(engine)?.0.value();
                    let problem = format!("its ids named no task, but there is task {id}");
                    Err(damaged(Table::Skipped, from.into(), &problem))
                }
            }
        })
    }

    /// Shows every record of a table, and goes on behind a damaged one.
    fn each<K: TableKey + 'static>(
        &self,
        table: Table,
        report: &mut Report,
        mut check: impl FnMut(K::SelfType<'_>, &[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let rows = self.open::<K>(table)?;
        let place = report.tables.len();
        report.tables.push(TableReport { name: table.name(), rows: 0, bytes: 0 });
        for row in rows.iter().map_err(engine)? {
            let (key, record) = row.map_err(engine)?;
            let record = record.value();
            report.tables[place].rows += 1;
            report.tables[place].bytes += u64::try_from(record.len()).unwrap_or(u64::MAX);
            match check(key.value(), record) {
                Err(Error::Damaged { what }) => report.damaged(what),
                done => done?,
            }
        }
        let (shown, counted) = (report.tables[place].rows, rows.len().map_err(engine)?);
        if shown != counted {
            report.damaged(format!(
                "table {} has {shown} records, but {counted} were counted in it",
                table.name()
            ));
        }
        Ok(())
    }

    fn meta(&self, name: &'static str) -> Result<Option<u64>, Error> {
        match self.open::<&str>(Table::Meta)?.get(name).map_err(engine)? {
            Some(row) => Ok(Some(record::row(Table::Meta, name.into(), row.value())?.value)),
            None => Ok(None),
        }
    }

    fn open<K: TableKey + 'static>(
        &self,
        table: Table,
    ) -> Result<ReadOnlyTable<K, &'static [u8]>, Error> {
        self.transaction.open_table(definition(table)).map_err(engine)
    }
}

/// Whether a record can be read.
fn decode(table: Table, key: Key<'_>, record: &[u8]) -> Result<(), Error> {
    match table {
        Table::Tasks => record::row::<Spec>(table, key, record).map(drop),
        Table::Events => record::row::<TaskEvent>(table, key, record).map(drop),
        Table::Payloads | Table::Results => record::blob(table, key, record).map(drop),
        Table::Types => record::row::<TaskType>(table, key, record).map(drop),
        Table::Workers => record::row::<(u64, Arc<str>)>(table, key, record).map(drop),
        Table::Keys => record::row::<KeyedBatch>(table, key, record).map(drop),
        Table::Notes => record::row::<LeaseNotes>(table, key, record).map(drop),
        Table::Skipped => record::row::<TaskId>(table, key, record).map(drop),
        Table::Epochs | Table::Meta => record::row::<u64>(table, key, record).map(drop),
    }
}

/// Whether a record stands where it says.
fn named_by(table: Table, key: u64, says: u64) -> Result<(), Error> {
    if key == says {
        return Ok(());
    }
    Err(damaged(table, key.into(), &format!("it says that it is record {says}")))
}

/// Whether the event before another one is there, and of the same task.
fn precedes(events: &Rows, previous: u64, event: &TaskEvent) -> Result<(), Error> {
    let wrong = |problem: &str| {
        let problem = format!("the event before it, {previous}, {problem}");
        Err(damaged(Table::Events, event.seq.0.into(), &problem))
    };
    if previous >= event.seq.0 {
        return wrong("comes after it");
    }
    let Some(row) = events.get(previous).map_err(engine)? else {
        return wrong("is not there");
    };
    match record::row::<TaskEvent>(Table::Events, previous.into(), row.value()) {
        Ok(row) if row.value.id != event.id => wrong("is of another task"),
        // One that is damaged is told of by itself.
        Ok(_) | Err(_) => Ok(()),
    }
}
