//! The durable encoding: how records look on disk.
//!
//! ```text
//! record   version (1 byte) · what it holds · crc32 (4 bytes)
//!
//! row      place of its bytes · part of an event (postcard) · its bytes, if they are in it
//! run      rows of rising keys, each after its key, less the one before, and its length (varints)
//! pack     last key that has bytes in it (8 bytes) · its bytes, or where they are (see [`pack`])
//!
//! place of its bytes   0 none · 1 in the row · 2 apart: pack, offset, length (varints)
//! ```
//!
//! The tables of tasks and of task events have a run in a record, under its first key,
//! because the engine asks the same for a record of many rows as for one of few bytes. The
//! others have a row. Large payloads and results are put one after the other into packs.
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

pub(super) mod group;
pub(super) mod pack;
pub(super) mod run;

use postcard::ser_flavors::Flavor;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::Error;

/// The encoding that is written.
pub(super) const VERSION: u8 = 3;

/// Bytes up to which a payload or a result stays in its row. A larger one has a
/// place of its own: a restart reads all rows, and a page should hold many.
pub(super) const INLINE_BYTES: usize = 256;

/// The kinds of a [`Place`]. Durable.
const NONE: u8 = 0;
const INLINE: u8 = 1;
const APART: u8 = 2;

/// Bytes of a checksum.
const CRC_BYTES: usize = 4;

/// A table, as the checksums and the messages know it.
///
/// Durable: add variants at the end, change no tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Table {
    /// Tasks by id.
    Tasks,
    /// Packs of large payloads by their first task's id.
    Payloads,
    /// Task events by place.
    Events,
    /// Packs of large results by their first event's place.
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
    /// All of them.
    pub(super) const ALL: [Self; 11] = [
        Self::Tasks,
        Self::Payloads,
        Self::Events,
        Self::Results,
        Self::Types,
        Self::Workers,
        Self::Keys,
        Self::Notes,
        Self::Skipped,
        Self::Epochs,
        Self::Meta,
    ];

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
    /// In a pack.
    Apart(Span),
}

/// A part of a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Span {
    /// The pack's key.
    pub(super) pack: u64,
    /// Bytes of the pack before it.
    pub(super) offset: usize,
    /// Its bytes.
    pub(super) length: usize,
}

impl<'a> Place<'a> {
    /// Where these bytes belong, unless they are to have a place apart.
    pub(super) fn in_row(bytes: &'a [u8]) -> Option<Self> {
        match bytes.len() {
            0 => Some(Self::None),
            1..=INLINE_BYTES => Some(Self::Inline(bytes)),
            _ => None,
        }
    }

    /// How many bytes there are.
    pub(super) fn length(self) -> usize {
        match self {
            Self::None => 0,
            Self::Inline(bytes) => bytes.len(),
            Self::Apart(span) => span.length,
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

/// Encodes records, one after the other into the same buffer.
#[derive(Debug, Default)]
pub(super) struct Encoder {
    buffer: Vec<u8>,
}

impl Encoder {
    /// A record of one row, valid until the next call.
    pub(super) fn row<T: Serialize>(
        &mut self,
        table: Table,
        key: Key<'_>,
        value: &T,
        place: Place<'_>,
    ) -> Result<&[u8], Error> {
        self.buffer.clear();
        self.buffer.push(VERSION);
        put_row(&mut self.buffer, value, place)?;
        seal(table, key, &mut self.buffer);
        Ok(&self.buffer)
    }
}

/// Appends a row.
fn put_row<T: Serialize>(buffer: &mut Vec<u8>, value: &T, place: Place<'_>) -> Result<(), Error> {
    match place {
        Place::None => buffer.push(NONE),
        Place::Inline(_) => buffer.push(INLINE),
        Place::Apart(span) => {
            buffer.push(APART);
            put(buffer, &span)?;
        }
    }
    put(buffer, value)?;
    if let Place::Inline(bytes) = place {
        buffer.extend_from_slice(bytes);
    }
    Ok(())
}

/// What a row says first: the kind of place, where it is if it is apart, and the rest.
fn place(row: &[u8]) -> Result<(u8, Option<Span>, &[u8]), &'static str> {
    match row.split_first() {
        Some((&APART, rest)) => {
            let apart = postcard::take_from_bytes::<Span>(rest);
            apart.map(|(span, rest)| (APART, Some(span), rest)).map_err(|_| "it names no place")
        }
        Some((&kind @ (NONE | INLINE), rest)) => Ok((kind, None, rest)),
        Some(_) => Err("the place of its bytes is unknown"),
        None => Err("it is too short"),
    }
}

/// Appends a value.
fn put<T: Serialize>(buffer: &mut Vec<u8>, value: &T) -> Result<(), Error> {
    postcard::serialize_with_flavor(value, Appended(buffer))
        .map_err(|error| Error::Failed { what: format!("cannot encode a record: {error}") })
}

/// Takes what is serialized. postcard's own for vectors takes them byte by byte; here single
/// bytes, which most numbers are, are not worth a copy's call.
struct Appended<'a>(&'a mut Vec<u8>);

impl Flavor for Appended<'_> {
    type Output = ();

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        match bytes {
            [byte] => self.0.push(*byte),
            _ => self.0.extend_from_slice(bytes),
        }
        Ok(())
    }

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.push(byte);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

/// Ends a record with its checksum.
fn seal(table: Table, key: Key<'_>, record: &mut Vec<u8>) {
    let crc = checksum(table, key, record);
    record.extend_from_slice(&crc.to_le_bytes());
}

/// Reads back a record of one row.
///
/// # Errors
/// [`Error::Damaged`] when it is not what was written under this key.
pub(super) fn row<'a, T: DeserializeOwned>(
    table: Table,
    key: Key<'_>,
    record: &'a [u8],
) -> Result<Row<'a, T>, Error> {
    decode(table, key, checked(table, key, record)?)
}

/// Reads a row back whose record was checked.
///
/// # Errors
/// [`Error::Damaged`] when it is no row of this table.
pub(super) fn decode<'a, T: DeserializeOwned>(
    table: Table,
    key: Key<'_>,
    row: &'a [u8],
) -> Result<Row<'a, T>, Error> {
    let undecodable = |problem: &dyn std::fmt::Display| damaged(table, key, problem);
    let (kind, span, rest) = place(row).map_err(|problem| undecodable(&problem))?;
    let (value, rest) =
        postcard::take_from_bytes::<T>(rest).map_err(|error| undecodable(&error))?;
    let place = match (kind, span) {
        (_, Some(span)) => Place::Apart(span),
        (INLINE, None) => return Ok(Row { value, place: Place::Inline(rest) }),
        (_, None) => Place::None,
    };
    if rest.is_empty() { Ok(Row { value, place }) } else { Err(undecodable(&"it is too long")) }
}

/// The pack that holds a row's bytes, if they are apart; without a look at the rest of it.
///
/// # Errors
/// [`Error::Damaged`] when it is no row.
pub(super) fn pack_of(table: Table, key: Key<'_>, row: &[u8]) -> Result<Option<u64>, Error> {
    let (_, span, _) = place(row).map_err(|problem| damaged(table, key, &problem))?;
    Ok(span.map(|span| span.pack))
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
