//! One write transaction: what a group adds and forgets.

use redb::{Key, ReadableTable, WriteTransaction};

use super::tables::{self, definition, engine};
use crate::core::event::{Event, TaskEvent};
use crate::core::id::{Epoch, Seq, TaskId};
use crate::core::task::Spec;
use crate::store::record::{self, Encoder, Place, Table};
use crate::store::{Error, Group, Trim, stored_twice};

/// Writes into one transaction. Opens each table at most once, when it is needed.
pub(super) struct Writer<'t> {
    encoder: Encoder,
    tasks: Slot<'t, u64>,
    payloads: Slot<'t, u64>,
    events: Slot<'t, u64>,
    results: Slot<'t, u64>,
    types: Slot<'t, u64>,
    workers: Slot<'t, &'static str>,
    keys: Slot<'t, u64>,
    notes: Slot<'t, u64>,
    skipped: Slot<'t, u64>,
    epochs: Slot<'t, u64>,
    meta: Slot<'t, &'static str>,
}

impl<'t> Writer<'t> {
    /// Writes into this transaction; the caller commits it.
    pub(super) fn new(transaction: &'t WriteTransaction) -> Self {
        fn slot<K: Key + 'static>(transaction: &WriteTransaction, table: Table) -> Slot<'_, K> {
            Slot { transaction, table, open: None }
        }
        Self {
            encoder: Encoder::default(),
            tasks: slot(transaction, Table::Tasks),
            payloads: slot(transaction, Table::Payloads),
            events: slot(transaction, Table::Events),
            results: slot(transaction, Table::Results),
            types: slot(transaction, Table::Types),
            workers: slot(transaction, Table::Workers),
            keys: slot(transaction, Table::Keys),
            notes: slot(transaction, Table::Notes),
            skipped: slot(transaction, Table::Skipped),
            epochs: slot(transaction, Table::Epochs),
            meta: slot(transaction, Table::Meta),
        }
    }

    /// All of a group.
    pub(super) fn write(mut self, group: &Group) -> Result<(), Error> {
        for entry in &group.entries {
            self.insert(&entry.event, &entry.bytes)?;
        }
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

    fn insert(&mut self, event: &Event, bytes: &[u8]) -> Result<(), Error> {
        let encoder = &mut self.encoder;
        match event {
            Event::Submitted { id, spec } => {
                let key = id.0;
                let place = Place::of(bytes);
                let row = encoder.row(Table::Tasks, key.into(), spec, place)?;
                self.tasks.put_new(key, row, "task")?;
                self.payloads.put_apart(encoder, key, place, bytes)
            }
            Event::Changed(event) => {
                let key = event.seq.0;
                let place = Place::of(bytes);
                let row = encoder.row(Table::Events, key.into(), event, place)?;
                self.events.put_new(key, row, "event")?;
                self.results.put_apart(encoder, key, place, bytes)
            }
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
        for &(id, last) in &trim.tasks {
            self.trim_task(id, last)?;
        }
        if let Some(id) = trim.tasks.iter().map(|&(id, _)| id.0).max() {
            self.raise_meta(tables::TRIMMED_ID, id)?;
        }
        if let Some(last) = trim.tasks.iter().map(|&(_, last)| last.0).max() {
            self.raise_meta(tables::TRIMMED_TO, last)?;
        }
        for first in &trim.keys {
            self.keys.get()?.remove(first.0).map_err(engine)?;
        }
        for &note in &trim.notes {
            self.notes.get()?.remove(note).map_err(engine)?;
        }
        Ok(())
    }

    /// A task's row, its payload and its story from its last event back.
    ///
    /// The story ends at its first event, or at a place that holds no event of
    /// this task. Every turn removes a row, so it ends.
    fn trim_task(&mut self, id: TaskId, last: Seq) -> Result<(), Error> {
        let removed = self.tasks.get()?.remove(id.0).map_err(engine)?;
        if let Some(row) = removed {
            let row = record::row::<Spec>(Table::Tasks, id.0.into(), row.value())?;
            if let Place::Apart(_) = row.place {
                self.payloads.get()?.remove(id.0).map_err(engine)?;
            }
        }
        let mut place = Some(last);
        while let Some(Seq(seq)) = place {
            place = None;
            let events = self.events.get()?;
            let found = match events.get(seq).map_err(engine)? {
                Some(row) => {
                    let row = record::row::<TaskEvent>(Table::Events, seq.into(), row.value())?;
                    (row.value.id == id)
                        .then_some((row.value.previous, matches!(row.place, Place::Apart(_))))
                }
                None => None,
            };
            if let Some((previous, apart)) = found {
                events.remove(seq).map_err(engine)?;
                if apart {
                    self.results.get()?.remove(seq).map_err(engine)?;
                }
                place = previous;
            }
        }
        Ok(())
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

/// A table of the transaction, opened when it is first needed.
struct Slot<'t, K: Key + 'static> {
    transaction: &'t WriteTransaction,
    table: Table,
    open: Option<redb::Table<'t, K, &'static [u8]>>,
}

impl<'t, K: Key + 'static> Slot<'t, K> {
    fn get(&mut self) -> Result<&mut redb::Table<'t, K, &'static [u8]>, Error> {
        if self.open.is_none() {
            let opened = self.transaction.open_table(definition::<K>(self.table));
            self.open = Some(opened.map_err(engine)?);
        }
        Ok(self.open.as_mut().expect("it was opened above"))
    }

    fn put<'k>(
        &mut self,
        key: impl std::borrow::Borrow<K::SelfType<'k>>,
        row: &[u8],
    ) -> Result<(), Error> {
        self.get()?.insert(key, row).map_err(engine)?;
        Ok(())
    }
}

impl Slot<'_, u64> {
    /// A row under a key that was never used: ids and places are given once.
    fn put_new(&mut self, key: u64, row: &[u8], noun: &str) -> Result<(), Error> {
        match self.get()?.insert(key, row).map_err(engine)? {
            None => Ok(()),
            Some(_) => Err(stored_twice(noun, key)),
        }
    }

    /// The bytes, if their place is not in the row.
    fn put_apart(
        &mut self,
        encoder: &mut Encoder,
        key: u64,
        place: Place<'_>,
        bytes: &[u8],
    ) -> Result<(), Error> {
        match place {
            Place::None | Place::Inline(_) => Ok(()),
            Place::Apart(_) => {
                let blob = encoder.blob(self.table, key.into(), bytes);
                self.put(key, blob)
            }
        }
    }
}
