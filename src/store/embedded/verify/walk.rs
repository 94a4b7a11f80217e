//! Every record of every table: whether it is what was written, and fits the others.

use std::sync::Arc;

use redb::{Key as TableKey, ReadTransaction, ReadableTable, ReadableTableMetadata};
use serde::de::DeserializeOwned;

use super::super::log;
use super::super::pack_file::PackReader;
use super::super::packs::{self, Unpacker};
use super::super::reader::Reader;
use super::super::rows::{self, Finder};
use super::super::tables::{self, engine};
use super::{Report, TableReport};
use crate::core::event::{KeyedBatch, LeaseNotes, TaskEvent};
use crate::core::id::TaskId;
use crate::core::task::Spec;
use crate::core::task_type::TaskType;
use crate::store::Error;
use crate::store::record::pack::{self, Pack};
use crate::store::record::{self, Key, Row, Table, damaged, run};

/// Walks through what one transaction sees.
pub(super) struct Walk<'f> {
    reader: Reader<'f>,
}

impl<'f> Walk<'f> {
    pub(super) fn new(transaction: ReadTransaction, packs: &'f PackReader) -> Self {
        Self { reader: Reader::new(transaction, packs) }
    }

    /// Reads every record of a table by itself.
    pub(super) fn records(&self, table: Table, report: &mut Report) -> Result<(), Error> {
        match table {
            Table::Tasks => self.runs(table, report, |_, _: Row<'_, Spec>| Ok(())),
            Table::Events => self.runs(table, report, |_, _: Row<'_, TaskEvent>| Ok(())),
            Table::Payloads | Table::Results => self.packs(table, report, |_, _| Ok(())),
            Table::Workers | Table::Meta => {
                self.each::<&str>(table, report, |key, record| decode(table, key.into(), record))
            }
            Table::Types | Table::Keys | Table::Notes | Table::Skipped | Table::Epochs => {
                self.each::<u64>(table, report, |key, record| decode(table, key.into(), record))
            }
        }
    }

    /// Reads every record of a table, and compares it with those that belong to it.
    pub(super) fn table(&self, table: Table, report: &mut Report) -> Result<(), Error> {
        match table {
            Table::Tasks => self.tasks(report),
            Table::Events => self.events(report),
            Table::Payloads => self.owned_packs(log::TASKS, report),
            Table::Results => self.owned_packs(log::EVENTS, report),
            Table::Keys => self.each::<u64>(table, report, |key, record| {
                let batch = record::row::<KeyedBatch>(table, key.into(), record)?.value;
                named_by(table, key, batch.first.0).map(|()| 1)
            }),
            Table::Notes => self.each::<u64>(table, report, |key, record| {
                let notes = record::row::<LeaseNotes>(table, key.into(), record)?.value;
                named_by(table, key, notes.note).map(|()| 1)
            }),
            Table::Skipped => self.skipped(report),
            Table::Epochs => {
                let mut next = 1;
                self.each::<u64>(table, report, |key, record| {
                    decode(table, key.into(), record)?;
                    let missing = std::mem::replace(&mut next, key.saturating_add(1));
                    if key == missing {
                        return Ok(1);
                    }
                    Err(damaged(table, missing.into(), &"it is not there, but later ones are"))
                })
            }
            Table::Types | Table::Workers | Table::Meta => self.records(table, report),
        }
    }

    fn tasks(&self, report: &mut Report) -> Result<(), Error> {
        let payloads = self.reader.open(Table::Payloads)?;
        let mut payloads = Unpacker::new(Table::Payloads, &payloads, self.reader.packs);
        // One that is damaged is told of with its own table.
        let reserved = self.reader.meta(tables::RESERVED).unwrap_or(None);
        self.runs(Table::Tasks, report, |id, row: Row<'_, Spec>| {
            payloads.bytes(row.place)?;
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
        let (tasks, events) = (self.reader.open(Table::Tasks)?, self.reader.open(Table::Events)?);
        let results = self.reader.open(Table::Results)?;
        let mut tasks = Finder::new(Table::Tasks, &tasks);
        let mut events = Finder::new(Table::Events, &events);
        let mut results = Unpacker::new(Table::Results, &results, self.reader.packs);
        self.runs(Table::Events, report, |seq, row: Row<'_, TaskEvent>| {
            results.bytes(row.place)?;
            let event = row.value;
            named_by(Table::Events, seq, event.seq.0)?;
            // A task that is damaged was told of with its own table.
            if matches!(tasks.get::<Spec>(event.id.0), Ok(None)) {
                let problem = format!("its task {} is not there", event.id);
                return Err(damaged(Table::Events, seq.into(), &problem));
            }
            match event.previous {
                Some(previous) => precedes(&mut events, previous.0, &event),
                None => Ok(()),
            }
        })
    }

    /// Packs, each of which has bytes of a row. That a row's bytes are all there is looked at
    /// with the row.
    fn owned_packs(&self, tables: log::Tables, report: &mut Report) -> Result<(), Error> {
        let rows = self.reader.open(tables.rows)?;
        self.packs(tables.packs, report, |key, pack| {
            // An owner that is damaged was told of with its own table.
            if !matches!(rows::any_in_pack(tables.rows, &rows, key, pack.last), Ok(false)) {
                return Ok(());
            }
            let problem = format!("no record of table {} has bytes in it", tables.rows.name());
            Err(damaged(tables.packs, key.into(), &problem))
        })
    }

    /// Shows every pack of a table, all its bytes checked.
    fn packs(
        &self,
        table: Table,
        report: &mut Report,
        mut check: impl FnMut(u64, Pack<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let (mut apart, mut buffer) = (0, Vec::new());
        self.each::<u64>(table, report, |key, record| {
            let pack = pack::read(table, key, record)?;
            apart += pack.extent().map_or(0, |extent| extent.length);
            packs::check(table, key, pack, self.reader.packs, &mut buffer)?;
            check(key, pack).map(|()| 1)
        })?;
        if let Some(told) = report.tables.last_mut() {
            told.bytes += apart;
        }
        Ok(())
    }

    fn skipped(&self, report: &mut Report) -> Result<(), Error> {
        let tasks = self.reader.open::<u64>(Table::Tasks)?;
        self.each::<u64>(Table::Skipped, report, |from, record| {
            let to = record::row::<TaskId>(Table::Skipped, from.into(), record)?.value.0;
            let last = to.checked_sub(1).filter(|last| *last >= from);
            let Some(last) = last else { return Ok(1) };
            match rows::find_in(Table::Tasks, &tasks, from..=last, |_, _| Ok(true)) {
                Ok(Some(id)) => {
                    let problem = format!("its ids named no task, but there is task {id}");
                    Err(damaged(Table::Skipped, from.into(), &problem))
                }
                // Tasks that are damaged were told of with their own table.
                Ok(None) | Err(_) => Ok(1),
            }
        })
    }

    /// Shows every row of a table of runs, and goes on behind a run with a damaged one.
    fn runs<T: DeserializeOwned>(
        &self,
        table: Table,
        report: &mut Report,
        mut check: impl FnMut(u64, Row<'_, T>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut least = 0;
        self.each::<u64>(table, report, |first, record| {
            let mut shown = 0;
            for row in run::rows(table, first, record)? {
                let (key, row) = row?;
                if key < std::mem::replace(&mut least, key.saturating_add(1)) {
                    return Err(damaged(table, key.into(), &"it is there twice"));
                }
                check(key, record::decode(table, key.into(), row)?)?;
                shown += 1;
            }
            Ok(shown)
        })
    }

    /// Shows every record of a table, and goes on behind a damaged one. `check` tells how
    /// many rows it holds.
    fn each<K: TableKey + 'static>(
        &self,
        table: Table,
        report: &mut Report,
        mut check: impl FnMut(K::SelfType<'_>, &[u8]) -> Result<u64, Error>,
    ) -> Result<(), Error> {
        let rows = self.reader.open::<K>(table)?;
        let mut shown = 0;
        let place = report.tables.len();
        report.tables.push(TableReport { name: table.name(), rows: 0, bytes: 0 });
        for row in rows.iter().map_err(engine)? {
            let (key, record) = row.map_err(engine)?;
            let record = record.value();
            shown += 1;
            report.tables[place].bytes += u64::try_from(record.len()).unwrap_or(u64::MAX);
            match check(key.value(), record) {
                Err(Error::Damaged { what }) => report.damaged(what),
                rows => report.tables[place].rows += rows?,
            }
        }
        let counted = rows.len().map_err(engine)?;
        if shown != counted {
            report.damaged(format!(
                "table {} has {shown} records, but {counted} were counted in it",
                table.name()
            ));
        }
        Ok(())
    }
}

/// Whether a record of one row can be read.
fn decode(table: Table, key: Key<'_>, record: &[u8]) -> Result<u64, Error> {
    match table {
        Table::Types => record::row::<TaskType>(table, key, record).map(drop),
        Table::Workers => record::row::<(u64, Arc<str>)>(table, key, record).map(drop),
        Table::Keys => record::row::<KeyedBatch>(table, key, record).map(drop),
        Table::Notes => record::row::<LeaseNotes>(table, key, record).map(drop),
        Table::Skipped => record::row::<TaskId>(table, key, record).map(drop),
        Table::Epochs | Table::Meta => record::row::<u64>(table, key, record).map(drop),
        Table::Tasks | Table::Events | Table::Payloads | Table::Results => {
            Err(damaged(table, key, &"it is no record of one row"))
        }
    }?;
    Ok(1)
}

/// Whether a record stands where it says.
fn named_by(table: Table, key: u64, says: u64) -> Result<(), Error> {
    if key == says {
        return Ok(());
    }
    Err(damaged(table, key.into(), &format!("it says that it is record {says}")))
}

/// Whether the event before another one is there, and of the same task.
fn precedes<T: ReadableTable<u64, &'static [u8]>>(
    events: &mut Finder<'_, T>,
    previous: u64,
    event: &TaskEvent,
) -> Result<(), Error> {
    let wrong = |problem: &str| {
        let problem = format!("the event before it, {previous}, {problem}");
        Err(damaged(Table::Events, event.seq.0.into(), &problem))
    };
    if previous >= event.seq.0 {
        return wrong("comes after it");
    }
    match events.get::<TaskEvent>(previous) {
        Ok(None) => wrong("is not there"),
        Ok(Some(row)) if row.value.id != event.id => wrong("is of another task"),
        // One that is damaged is told of by itself.
        Ok(Some(_)) | Err(_) => Ok(()),
    }
}
