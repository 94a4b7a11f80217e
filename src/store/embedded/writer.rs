//! One write transaction: what a group adds and forgets.

use redb::{ReadableTable, WriteTransaction};

use super::log::{self, Dead};
use super::pack_file::PackFile;
use super::slot::Slot;
use super::tables::{self, engine};
use crate::core::event::{Entry, Event, TaskEvent};
use crate::core::id::{Epoch, Seq, TaskId};
use crate::core::task::Spec;
use crate::store::record::{self, Encoder, Place, Table};
use crate::store::{Error, Group, Trim};

/// Writes into one transaction. Opens each table at most once, when it is needed.
pub(super) struct Writer<'t> {
    encoder: Encoder,
    tasks: log::Writer<'t>,
    events: log::Writer<'t>,
    types: Slot<'t, u64>,
    workers: Slot<'t, &'static str>,
    keys: Slot<'t, u64>,
    notes: Slot<'t, u64>,
    skipped: Slot<'t, u64>,
    epochs: Slot<'t, u64>,
    meta: Slot<'t, &'static str>,
}

impl<'t> Writer<'t> {
    /// Writes into this transaction, and what is large into the file; the caller syncs the one
    /// and commits the other. Without a file everything goes into the transaction.
    pub(super) fn new(transaction: &'t WriteTransaction, file: Option<&'t PackFile>) -> Self {
        Self {
            encoder: Encoder::default(),
            tasks: log::Writer::new(transaction, log::TASKS, file),
            events: log::Writer::new(transaction, log::EVENTS, file),
            types: Slot::new(transaction, Table::Types),
            workers: Slot::new(transaction, Table::Workers),
            keys: Slot::new(transaction, Table::Keys),
            notes: Slot::new(transaction, Table::Notes),
            skipped: Slot::new(transaction, Table::Skipped),
            epochs: Slot::new(transaction, Table::Epochs),
            meta: Slot::new(transaction, Table::Meta),
        }
    }

    /// All of a group.
    pub(super) fn write(mut self, group: &Group) -> Result<(), Error> {
        for entry in &group.entries {
            self.insert(entry)?;
        }
        self.tasks.flush()?;
        self.events.flush()?;
        self.trim(&group.trim)
    }

    /// A new epoch, after which there is no stop. All epochs, oldest first.
    pub(super) fn take_epoch(mut self, nonce: u64) -> Result<Vec<Epoch>, Error> {
        let mut epochs = Vec::new();
        for row in self.epochs.get()?.iter().map_err(engine)? {
            let (boot, row) = row.map_err(engine)?;
            let boot = boot.value();
            let nonce = record::row(Table::Epochs, boot.into(), row.value())?.value;
            epochs.push(Epoch { boot, nonce });
        }
        let boot = epochs.last().map_or(0, |last| last.boot) + 1;
        let row = self.encoder.row(Table::Epochs, boot.into(), &nonce, Place::None)?;
        self.epochs.put(boot, row)?;
        self.meta.get()?.remove(tables::STOPPED).map_err(engine)?;
        epochs.push(Epoch { boot, nonce });
        Ok(epochs)
    }

    fn insert(&mut self, entry: &Entry) -> Result<(), Error> {
        let encoder = &mut self.encoder;
        match &entry.event {
            Event::Submitted { id, spec } => self.tasks.push(id.0, spec, &entry.bytes),
            Event::Changed(event) => self.events.push(event.seq.0, event, &entry.bytes),
            Event::Leased(notes) => {
                let row = encoder.row(Table::Notes, notes.note.into(), notes, Place::None)?;
                self.notes.put(notes.note, row)
            }
            Event::Keyed(batch) => {
                let key = batch.first.0;
                let row = encoder.row(Table::Keys, key.into(), batch, Place::None)?;
                self.keys.put(key, row)
            }
            Event::TypeLearned { type_id, definition } => {
                let key = u64::from(type_id.0);
                let row = encoder.row(Table::Types, key.into(), definition, Place::None)?;
                self.types.put(key, row)
            }
            Event::WorkerSeen { holder, address } => {
                let key = holder.worker.as_ref();
                let value = (holder.incarnation, address);
                let row = encoder.row(Table::Workers, key.into(), &value, Place::None)?;
                self.workers.put(key, row)
            }
            Event::WorkerLeft { worker } => {
                self.workers.get()?.remove(worker.as_ref()).map_err(engine)?;
                Ok(())
            }
            Event::IdsReserved { end } => self.put_meta(tables::RESERVED, end.0),
            Event::IdsSkipped { from, to } => {
                let row = encoder.row(Table::Skipped, from.0.into(), to, Place::None)?;
                self.skipped.put(from.0, row)
            }
            Event::Stopped { next_id } => self.put_meta(tables::STOPPED, next_id.0),
        }
    }

    fn trim(&mut self, trim: &Trim) -> Result<(), Error> {
        self.trim_tasks(&trim.tasks)?;
        for first in &trim.keys {
            self.keys.get()?.remove(first.0).map_err(engine)?;
        }
        for &note in &trim.notes {
            self.notes.get()?.remove(note).map_err(engine)?;
        }
        Ok(())
    }

    /// Tasks with their stories. Most groups trim none: for them no table is opened.
    fn trim_tasks(&mut self, tasks: &[(TaskId, Seq)]) -> Result<(), Error> {
        let greatest_id = tasks.iter().map(|&(id, _)| id.0).max();
        let greatest_place = tasks.iter().map(|&(_, last)| last.0).max();
        let (Some(id), Some(last)) = (greatest_id, greatest_place) else { return Ok(()) };
        let dead = self.dead_tasks(tasks)?;
        self.tasks.remove(dead)?;
        let dead = self.dead_events(tasks)?;
        self.events.remove(dead)?;
        self.raise_meta(tables::TRIMMED_ID, id)?;
        self.raise_meta(tables::TRIMMED_TO, last)
    }

    /// The rows of these tasks.
    fn dead_tasks(&mut self, tasks: &[(TaskId, Seq)]) -> Result<Dead, Error> {
        let mut dead = Dead::default();
        let mut rows = self.tasks.finder()?;
        for &(TaskId(id), _) in tasks {
            if let Some(row) = rows.get::<Spec>(id)? {
                dead.push(id, row.place);
            }
        }
        Ok(dead)
    }

    /// The stories of these tasks, each from its last event back.
    ///
    /// A story ends at its first event, or at a place that holds no event of this task or
    /// one that is not before the last. Every turn goes further back, so it ends.
    fn dead_events(&mut self, tasks: &[(TaskId, Seq)]) -> Result<Dead, Error> {
        let mut dead = Dead::default();
        let mut rows = self.events.finder()?;
        for &(id, last) in tasks {
            let mut place = Some(last);
            while let Some(Seq(seq)) = place.take() {
                let Some(row) = rows.get::<TaskEvent>(seq)? else { break };
                if row.value.id == id {
                    dead.push(seq, row.place);
                    place = row.value.previous.filter(|previous| previous.0 < seq);
                }
            }
        }
        Ok(dead)
    }

    fn put_meta(&mut self, name: &'static str, value: u64) -> Result<(), Error> {
        let row = self.encoder.row(Table::Meta, name.into(), &value, Place::None)?;
        self.meta.put(name, row)
    }

    fn raise_meta(&mut self, name: &'static str, value: u64) -> Result<(), Error> {
        let held: Option<u64> = match self.meta.get()?.get(name).map_err(engine)? {
            Some(row) => Some(record::row(Table::Meta, name.into(), row.value())?.value),
            None => None,
        };
        if held.is_none_or(|held| held < value) { self.put_meta(name, value) } else { Ok(()) }
    }
}
