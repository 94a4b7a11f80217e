//! A table of a write transaction.

use std::borrow::Borrow;

use redb::{Key, WriteTransaction};

use super::tables::{definition, engine};
use crate::store::Error;
use crate::store::record::Table;

/// A table of the transaction, opened when it is first needed.
pub(super) struct Slot<'t, K: Key + 'static> {
    transaction: &'t WriteTransaction,
    table: Table,
    open: Option<redb::Table<'t, K, &'static [u8]>>,
}

impl<'t, K: Key + 'static> Slot<'t, K> {
    /// Of this transaction.
    pub(super) fn new(transaction: &'t WriteTransaction, table: Table) -> Self {
        Self { transaction, table, open: None }
    }

    /// The table.
    pub(super) fn get(&mut self) -> Result<&mut redb::Table<'t, K, &'static [u8]>, Error> {
        if self.open.is_none() {
            let opened = self.transaction.open_table(definition::<K>(self.table));
            self.open = Some(opened.map_err(engine)?);
        }
        Ok(self.open.as_mut().expect("it was opened above"))
    }

    /// Puts a record in its place.
    pub(super) fn put<'k>(
        &mut self,
        key: impl Borrow<K::SelfType<'k>>,
        record: &[u8],
    ) -> Result<(), Error> {
        self.get()?.insert(key, record).map_err(engine)?;
        Ok(())
    }

    /// Removes a record; whether there was one.
    pub(super) fn remove<'k>(&mut self, key: impl Borrow<K::SelfType<'k>>) -> Result<bool, Error> {
        Ok(self.get()?.remove(key).map_err(engine)?.is_some())
    }
}
