//! The number of the last commit that was synced, beside the database.
//!
//! After a crash the engine goes back to the commit before the last one if the last one's
//! pages are not what was written: one that was interrupted looks so, and it was promised
//! to nobody. One that was synced and hit afterwards looks the same. So commits are counted
//! in the database, and the lock's file says which of them were synced: a store that counts
//! fewer is damaged.
//!
//! The note is not synced itself, which would cost as much as the commit. It outlives the
//! process at once, and a power cut once the system has written it.

use redb::{ReadableDatabase, ReadableTable as _, WriteTransaction};

use super::directory::Directory;
use super::tables::{definition, engine};
use crate::store::Error;
use crate::store::record::{self, Encoder, Place, Table};

/// The row that counts.
const COMMITS: &str = "commits";

/// Counts the commit that is being made. Its number.
pub(super) fn count(transaction: &WriteTransaction) -> Result<u64, Error> {
    let mut meta = transaction.open_table(definition::<&str>(Table::Meta)).map_err(engine)?;
    let number = match meta.get(COMMITS).map_err(engine)? {
        Some(row) => record::row::<u64>(Table::Meta, COMMITS.into(), row.value())?.value + 1,
        None => 1,
    };
    let mut encoder = Encoder::default();
    let row = encoder.row(Table::Meta, COMMITS.into(), &number, Place::None)?;
    meta.insert(COMMITS, row).map_err(engine)?;
    Ok(number)
}

/// Refuses a database without a commit that was synced.
pub(super) fn check(database: &impl ReadableDatabase, directory: &Directory) -> Result<(), Error> {
    let Some(synced) = directory.synced() else { return Ok(()) };
    let transaction = database.begin_read().map_err(engine)?;
    let meta = transaction.open_table(definition::<&str>(Table::Meta)).map_err(engine)?;
    let held = match meta.get(COMMITS).map_err(engine)? {
        Some(row) => record::row::<u64>(Table::Meta, COMMITS.into(), row.value())?.value,
        None => 0,
    };
    if held < synced {
        let what = format!("it ends with commit {held}, but commit {synced} was synced");
        return Err(Error::Damaged { what });
    }
    Ok(())
}
