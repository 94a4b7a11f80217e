//! The number of the last commit, in the database and beside it.
//!
//! After a crash the engine goes back to the commit before the last one if the last one's
//! pages are not what was written: one that was interrupted looks so, and it was promised
//! to nobody. One that was synced and hit afterwards looks the same. So commits are counted
//! in the database, and the lock's file says which of them were synced: a store that counts
//! fewer, with what its journal holds, is damaged.
//!
//! The note is not synced itself, which would cost as much as the commit. It outlives the
//! process at once, and a power cut once the system has written it.

use redb::{ReadableDatabase, ReadableTable as _, WriteTransaction};

use super::tables::{definition, engine};
use crate::store::Error;
use crate::store::record::group::Stamp;
use crate::store::record::{self, Encoder, Place, Table};

/// The row that counts.
const COMMITS: &str = "commits";

/// Numbers the commit that is being made.
pub(super) fn put(transaction: &WriteTransaction, number: u64) -> Result<(), Error> {
    let mut meta = transaction.open_table(definition::<&str>(Table::Meta)).map_err(engine)?;
    let mut encoder = Encoder::default();
    let row = encoder.row(Table::Meta, COMMITS.into(), &number, Place::None)?;
    meta.insert(COMMITS, row).map_err(engine)?;
    Ok(())
}

/// The last commit that the database has, and the boot.
pub(super) fn last(database: &impl ReadableDatabase) -> Result<Stamp, Error> {
    let transaction = database.begin_read().map_err(engine)?;
    let meta = transaction.open_table(definition::<&str>(Table::Meta)).map_err(engine)?;
    let number = match meta.get(COMMITS).map_err(engine)? {
        Some(row) => record::row(Table::Meta, COMMITS.into(), row.value())?.value,
        None => 0,
    };
    let epochs = transaction.open_table(definition::<u64>(Table::Epochs)).map_err(engine)?;
    let nonce = match epochs.last().map_err(engine)? {
        Some((boot, row)) => record::row(Table::Epochs, boot.value().into(), row.value())?.value,
        None => 0,
    };
    Ok(Stamp { nonce, number })
}

/// Refuses a store without a commit that was synced.
pub(super) fn check(last: u64, synced: Option<u64>) -> Result<(), Error> {
    match synced {
        Some(synced) if last < synced => {
            let what = format!("it ends with commit {last}, but commit {synced} was synced");
            Err(Error::Damaged { what })
        }
        _ => Ok(()),
    }
}
