//! The tables on disk, and the engine's words for what went wrong.

use std::path::Path;

use redb::{Database, Key, ReadableDatabase, TableDefinition};

use super::backend;
use crate::store::Error;
use crate::store::record::Table;

/// The format of the file: which tables there are and how their keys are made.
/// Rows have a version of their own, in `store::record`. A change that an older
/// taskgrid would misread raises it.
pub(super) const FORMAT: u32 = 3;

/// Where the format is. Outside the rows' encoding, so that every version reads it.
const FORMAT_TABLE: TableDefinition<&str, u32> = TableDefinition::new("format");
const FORMAT_KEY: &str = "format";

/// The first id that may not be handed out.
pub(super) const RESERVED: &str = "reserved";
/// The first id that was not handed out, if the last boot stopped in good order.
pub(super) const STOPPED: &str = "stopped";
/// The greatest id that was trimmed.
pub(super) const TRIMMED_ID: &str = "trimmed_id";
/// The greatest place of a last event that was trimmed.
pub(super) const TRIMMED_TO: &str = "trimmed_to";

/// A table with this kind of key.
pub(super) fn definition<K: Key + 'static>(
    table: Table,
) -> TableDefinition<'static, K, &'static [u8]> {
    TableDefinition::new(table.name())
}

/// Makes the tables of a new file, synced.
pub(super) fn initialize(database: &Database) -> Result<(), Error> {
    let transaction = database.begin_write().map_err(engine)?;
    for table in [
        Table::Tasks,
        Table::Payloads,
        Table::Events,
        Table::Results,
        Table::Types,
        Table::Keys,
        Table::Notes,
        Table::Skipped,
        Table::Epochs,
    ] {
        transaction.open_table(definition::<u64>(table)).map_err(engine)?;
    }
    for table in [Table::Workers, Table::Meta] {
        transaction.open_table(definition::<&str>(table)).map_err(engine)?;
    }
    transaction
        .open_table(FORMAT_TABLE)
        .map_err(engine)?
        .insert(FORMAT_KEY, FORMAT)
        .map_err(engine)?;
    transaction.commit().map_err(engine)
}

/// Refuses a file of another format.
pub(super) fn check_format(database: &Database, path: &Path) -> Result<(), Error> {
    let transaction = database.begin_read().map_err(engine)?;
    let table = transaction.open_table(FORMAT_TABLE).map_err(engine)?;
    let found = table.get(FORMAT_KEY).map_err(engine)?.map(|format| format.value());
    match found {
        Some(FORMAT) => Ok(()),
        Some(found) => Err(Error::Format { path: path.to_owned(), found, expected: FORMAT }),
        None => Err(Error::Damaged { what: "it names no format".to_owned() }),
    }
}

/// What the engine says, in the store's words.
pub(super) fn engine(error: impl Into<redb::Error>) -> Error {
    use std::io::ErrorKind::{InvalidData, UnexpectedEof};

    match error.into() {
        redb::Error::Io(error) if backend::no_space(&error) => Error::Full,
        redb::Error::Io(error) if matches!(error.kind(), InvalidData | UnexpectedEof) => {
            Error::Damaged { what: error.to_string() }
        }
        redb::Error::Corrupted(what) => Error::Damaged { what },
        error @ (redb::Error::RepairAborted
        | redb::Error::TableDoesNotExist(_)
        | redb::Error::TableTypeMismatch { .. }
        | redb::Error::TypeDefinitionChanged { .. }
        | redb::Error::TableIsMultimap(_)) => Error::Damaged { what: error.to_string() },
        other => Error::Failed { what: other.to_string() },
    }
}
