//! The durable encoding: how a row and a blob look on disk.
//!
//! ```text
//! row    version (1 byte) · part of an event (postcard) · place of its bytes · crc32 (4 bytes)
//! blob   version (1 byte) · bytes of a payload or a result                  · crc32 (4 bytes)
//!
//! place of its bytes   0 none · 1 inline: the bytes follow, to the end · 2 apart: their length
//! ```
//!
//! The checksum covers the table's tag and the key too, so that a row that turns
//! up in another place is refused like one whose bits have changed. It ends the
//! record in every version, so that it can be checked before anything is believed.
//!
//! To change what a row holds: add a variant of [`Table`] or raise [`VERSION`];
//! keep a type with the old layout here, decode the old version into it and turn
//! it into the new one, and keep one encoded row of the old version in the tests.
//! postcard knows no field names: a field added, removed, moved or retyped in
//! anything that a row holds is a new version; a variant added at the end of an
//! enum is not.
//!
//! What this module does not do: it opens no table and knows no engine.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Error;

/// The encoding that is written.
pub(super) const VERSION: u8 = 1;

/// Bytes up to which a payload or a result stays in its row. A larger one has a
/// place of its own: a restart reads all rows, and a page should hold many.
pub(super) const INLINE_BYTES: usize = 256;

/// Bytes of a checksum.
const CRC_BYTES: usize = 4;

/// A table, as the checksums and the messages know it.
///
/// Durable: add variants at the end, change no tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Table {
    /// Tasks by id.
    Tasks,
    /// Large payloads by the task's id.
    Payloads,
    /// Task events by place.
    Events,
    /// Large results by the event's place.
    Results,
    /// Task types by their number.
    Types,
    /// Workers by name.
    Workers,
    /// Keyed batches by their first id.
    Keys,
    /// Notes of leases by number.
    Notes,
    /// Ranges of ids that never named a task, by the first of them.
    Skipped,
    /// Epochs by boot.
    Epochs,
    /// Single values by name.
    Meta,
}

impl Table {
    /// Its name on disk and in messages.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Tasks => "tasks",
            Self::Payloads => "payloads",
            Self::Events => "events",
            Self::Results => "results",
            Self::Types => "types",
            Self::Workers => "workers",
            Self::Keys => "keys",
            Self::Notes => "notes",
            Self::Skipped => "skipped",
            Self::Epochs => "epochs",
            Self::Meta => "meta",
        }
    }

    /// What the checksums know it by.
    const fn tag(self) -> u8 {
        match self {
            Self::Tasks => 1,
            Self::Payloads => 2,
            Self::Events => 3,
            Self::Results => 4,
            Self::Types => 5,
            Self::Workers => 6,
            Self::Keys => 7,
            Self::Notes => 8,
            Self::Skipped => 9,
            Self::Epochs => 10,
            Self::Meta => 11,
        }
    }
}

/// A key of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key<'a> {
    /// An id, a place, a number.
    Number(u64),
    /// A name.
    Name(&'a str),
}

impl std::fmt::Display for Key<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Name(name) => write!(f, "{name:?}"),
        }
    }
}

impl From<u64> for Key<'_> {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

impl<'a> From<&'a str> for Key<'a> {
    fn from(name: &'a str) -> Self {
        Self::Name(name)
    }
}

/// Where the bytes that belong to a row are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place<'a> {
    /// It has none.
    None,
    /// In the row.
    Inline(&'a [u8]),
    /// In a blob of its own, with this length.
    Apart(usize),
}

impl<'a> Place<'a> {
    /// Where these bytes belong.
    pub(super) fn of(bytes: &'a [u8]) -> Self {
        match bytes.len() {
            0 => Self::None,
            1..=INLINE_BYTES => Self::Inline(bytes),
            length => Self::Apart(length),
        }
    }

    /// How many bytes there are.
    pub(super) fn length(self) -> usize {
        match self {
            Self::None => 0,
            Self::Inline(bytes) => bytes.len(),
            Self::Apart(length) => length,
        }
    }
}

/// A decoded row.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Row<'a, T> {
    /// The part of the event that is not in the key.
    pub(super) value: T,
    /// Its bytes.
    pub(super) place: Place<'a>,
}

/// Encodes rows and blobs, one after the other into the same buffer.
#[derive(Debug, Default)]
pub(super) struct Encoder {
    buffer: Vec<u8>,
}

impl Encoder {
    /// A row, valid until the next call.
    pub(super) fn row<T: Serialize>(
        &mut self,
        table: Table,
        key: Key<'_>,
        value: &T,
        place: Place<'_>,
    ) -> Result<&[u8], Error> {
        self.begin();
        self.part(value)?;
        match place {
            Place::None => self.buffer.push(0),
            Place::Inline(bytes) => {
                self.buffer.push(1);
                self.buffer.extend_from_slice(bytes);
            }
            Place::Apart(length) => {
                self.buffer.push(2);
                self.part(&length)?;
            }
        }
        Ok(self.finish(table, key))
    }

    /// A blob, valid until the next call.
    pub(super) fn blob(&mut self, table: Table, key: Key<'_>, bytes: &[u8]) -> &[u8] {
        self.begin();
        self.buffer.extend_from_slice(bytes);
        self.finish(table, key)
    }

    fn begin(&mut self) {
        self.buffer.clear();
        self.buffer.push(VERSION);
    }

    fn part<T: Serialize>(&mut self, value: &T) -> Result<(), Error> {
        self.buffer = postcard::to_extend(value, std::mem::take(&mut self.buffer))
            .map_err(|error| Error::Failed { what: format!("cannot encode a record: {error}") })?;
        Ok(())
    }

    fn finish(&mut self, table: Table, key: Key<'_>) -> &[u8] {
        let crc = checksum(table, key, &self.buffer);
        self.buffer.extend_from_slice(&crc.to_le_bytes());
        &self.buffer
    }
}

/// Reads a row back.
///
/// # Errors
/// [`Error::Damaged`] when it is not what was written under this key.
pub(super) fn row<'a, T: DeserializeOwned>(
    table: Table,
    key: Key<'_>,
    record: &'a [u8],
) -> Result<Row<'a, T>, Error> {
    let body = checked(table, key, record)?;
    let undecodable = |problem: &dyn std::fmt::Display| damaged(table, key, problem);
    let (value, rest) =
        postcard::take_from_bytes::<T>(body).map_err(|error| undecodable(&error))?;
    let place = match rest.split_first() {
        Some((0, [])) => Place::None,
        Some((1, bytes)) => Place::Inline(bytes),
        Some((2, length)) => {
            let (length, rest) =
                postcard::take_from_bytes::<usize>(length).map_err(|error| undecodable(&error))?;
            if !rest.is_empty() {
                return Err(undecodable(&"it is too long"));
            }
            Place::Apart(length)
        }
        Some(_) => return Err(undecodable(&"the place of its bytes is unknown")),
        None => return Err(undecodable(&"it is too short")),
    };
    Ok(Row { value, place })
}

/// Reads a blob back.
///
/// # Errors
/// [`Error::Damaged`] when it is not what was written under this key.
pub(super) fn blob(table: Table, key: Key<'_>, record: &[u8]) -> Result<Bytes, Error> {
    checked(table, key, record).map(Bytes::copy_from_slice)
}

/// The complaint about one record.
pub(super) fn damaged(table: Table, key: Key<'_>, problem: &dyn std::fmt::Display) -> Error {
    Error::Damaged { what: format!("record {key} of table {}: {problem}", table.name()) }
}

/// What is between the version and the checksum, if both are right.
fn checked<'a>(table: Table, key: Key<'_>, record: &'a [u8]) -> Result<&'a [u8], Error> {
    let Some((body, crc)) = record.split_last_chunk::<CRC_BYTES>() else {
        return Err(damaged(table, key, &"it is too short"));
    };
    if u32::from_le_bytes(*crc) != checksum(table, key, body) {
        return Err(damaged(table, key, &"its checksum does not match"));
    }
    match body.split_first() {
        Some((&VERSION, body)) => Ok(body),
        Some((version, _)) => {
            let problem = format!("it has version {version}, this taskgrid reads {VERSION}");
            Err(damaged(table, key, &problem))
        }
        None => Err(damaged(table, key, &"it is empty")),
    }
}

fn checksum(table: Table, key: Key<'_>, body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&[table.tag()]);
    match key {
        Key::Number(number) => hasher.update(&number.to_le_bytes()),
        Key::Name(name) => hasher.update(name.as_bytes()),
    }
    hasher.update(body);
    hasher.finalize()
}

#[cfg(test)]
mod tests;
