//! The journal: small groups one after the other in a file of fixed size, each synced, until
//! the database has them too.
//!
//! A commit of the engine writes a dozen pages here and there, and its sync waits for all of
//! them and for what the file system notes about a file that grows; a small group is a page or
//! two in a row, in a file that has its size. Once the database has durably taken what the
//! journal holds, the next group begins at the start again, and what lies behind it is told
//! from it by the numbers of the commits, which rise by ones.
//!
//! What this module does not do: it does not decide when the database takes what waits here.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use super::backend::{self, Medium};
use super::directory::Directory;
use crate::store::record::group::{self, Sealed, Stamp};
use crate::store::{Error, Group};

/// The file.
pub(super) const FILE: &str = "JOURNAL";

/// Its size: five hundred commits of single tasks, so that the one after them, which has the
/// database take them all, is none of the slowest hundredth.
const BYTES: usize = 2 << 20;

/// Where records begin: no disk writes less than this at once, and what was synced is never
/// written again.
const BLOCK: usize = 4_096;

/// Bytes of a record up to which two writes, of which one can wait, are faster than one.
const SMALL_BYTES: usize = 64 << 10;

/// Bytes of an entry without its payload or result, at least.
const ENTRY_BYTES: usize = 8;

/// Bytes of a task that is forgotten: its id and a place, each of a byte or more.
const TRIMMED_BYTES: usize = 2;

/// The file until it has its size.
const FILE_IN_THE_MAKING: &str = "JOURNAL.new";

/// An open journal.
#[derive(Debug)]
pub(super) struct Journal {
    /// None where there is no space for one.
    file: Option<File>,
    medium: Arc<Medium>,
    /// Where the next record begins.
    end: usize,
    buffer: Vec<u8>,
}

impl Journal {
    /// The journal of a directory, with the size that it will always have.
    ///
    /// # Errors
    /// When it is there and cannot be opened, or is not there and cannot be made, unless only
    /// space is missing.
    pub(super) fn open(directory: &Directory, medium: &Arc<Medium>) -> Result<Self, Error> {
        let file = if directory.has(FILE)? {
            Some(directory.open_file(FILE)?)
        } else {
            make(directory, medium)?
        };
        Ok(Self { file, medium: Arc::clone(medium), end: 0, buffer: Vec::new() })
    }

    /// Writes a group behind those that wait, synced where the store syncs; whether it did: a
    /// large one, and one that finds no room, is for the database.
    pub(super) fn append(&mut self, stamp: Stamp, group: &Group) -> Result<bool, Error> {
        let Some(file) = self.file.as_ref().filter(|_| at_least(group) <= SMALL_BYTES) else {
            return Ok(false);
        };
        self.buffer.clear();
        group::seal(stamp, group, &mut self.buffer)?;
        self.buffer.resize(self.buffer.len().next_multiple_of(BLOCK), 0);
        let end = self.end + self.buffer.len();
        if self.buffer.len() > SMALL_BYTES || end > BYTES {
            return Ok(false);
        }
        self.medium.write(file, &self.buffer, place(self.end)).map_err(|error| failed(&error))?;
        self.medium.sync(file).map_err(|error| failed(&error))?;
        self.end = end;
        Ok(true)
    }

    /// Begins at the start again: the database has everything.
    pub(super) fn restart(&mut self) {
        self.end = 0;
    }

    /// As [`read`], from its own file.
    pub(super) fn read(&self, last: Stamp) -> Result<(Group, u64), Error> {
        match &self.file {
            Some(file) => read(file, last),
            None => Ok((Group::default(), last.number)),
        }
    }

    /// Has the next read look at the disk, see [`backend::distrust_all_of_the_page_cache`].
    pub(super) fn distrust_the_page_cache(&self) -> Result<(), Error> {
        let done = self.file.as_ref().map_or(Ok(()), backend::distrust_all_of_the_page_cache);
        done.map_err(|error| Error::Failed {
            what: format!("cannot sync the journal before reading it: {error}"),
        })
    }
}

/// Bytes of a group's record, at least.
fn at_least(group: &Group) -> usize {
    let payloads: usize = group.entries.iter().map(|entry| entry.bytes.len()).sum();
    payloads + group.entries.len() * ENTRY_BYTES + group.trim.tasks.len() * TRIMMED_BYTES
}

/// A new one. Its space is written at once, because a sync into a file that grows waits for
/// more than the bytes.
fn make(directory: &Directory, medium: &Medium) -> Result<Option<File>, Error> {
    let in_the_making = directory.join(FILE_IN_THE_MAKING);
    let file = directory.create(FILE_IN_THE_MAKING)?;
    let made = medium.synced(|| {
        medium.write(&file, &vec![0; BYTES], 0)?;
        medium.sync(&file)
    });
    match made {
        Ok(()) => directory.rename(&in_the_making, FILE).map(|()| Some(file)),
        Err(error) if backend::no_space(&error) => {
            tracing::warn!("there is no space for a journal: small commits take longer");
            medium.expect_space();
            std::fs::remove_file(in_the_making).map_err(|error| failed(&error))?;
            Ok(None)
        }
        Err(error) => Err(failed(&error)),
    }
}

/// What waits in a journal: the groups after a commit that the database has, as one, and the
/// number of the last of them.
///
/// # Errors
/// [`Error::Damaged`] when there are later ones behind what can be read: an interrupted write
/// has nothing behind it.
pub(super) fn read(file: &File, last: Stamp) -> Result<(Group, u64), Error> {
    let length = file.metadata().map_err(|error| failed(&error))?.len();
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(BYTES).min(BYTES)];
    file.read_exact_at(&mut bytes, 0).map_err(|error| failed(&error))?;
    let (mut waiting, mut number, mut end) = (Group::default(), last.number, 0);
    let is_of_this_boot = |sealed: &Sealed<'_>| sealed.stamp.nonce == last.nonce;
    while let Some(sealed) = bytes.get(end..).and_then(Sealed::begin).filter(is_of_this_boot) {
        if sealed.stamp.number != number + 1 {
            break;
        }
        waiting.extend(sealed.open()?);
        number += 1;
        end += sealed.length.next_multiple_of(BLOCK);
    }
    let mut rest =
        (end..bytes.len()).step_by(BLOCK).filter_map(|place| Sealed::begin(&bytes[place..]));
    match rest.find(|sealed| is_of_this_boot(sealed) && sealed.stamp.number > number) {
        None => Ok((waiting, number)),
        Some(later) => {
            let later = later.stamp.number;
            let what =
                format!("the journal ends with commit {number}, but commit {later} is behind it");
            Err(Error::Damaged { what })
        }
    }
}

fn place(end: usize) -> u64 {
    u64::try_from(end).expect("it fits")
}

fn failed(error: &io::Error) -> Error {
    if backend::no_space(error) {
        return Error::Full;
    }
    Error::Failed { what: format!("the journal: {error}") }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::store::conformance::samples::{group, submitted};
    use crate::store::embedded::Durability;
    use crate::store::embedded::synced::Synced;

    const STAMP: Stamp = Stamp { nonce: 7, number: 1 };

    #[test]
    fn without_space_there_is_no_journal_and_everything_is_for_the_database() {
        let dir = TempDir::new().unwrap();
        let directory = Directory::take(dir.path()).unwrap();
        let medium = Arc::new(Medium::new(Durability::Os, Synced::open(&directory).unwrap()));
        medium.faults.fill_up(true);
        let mut journal = Journal::open(&directory, &medium).unwrap();
        let small = group([submitted(1, b"")]);
        assert!(!journal.append(STAMP, &small).unwrap());
        assert_eq!(journal.read(STAMP).unwrap(), (Group::default(), 1));
        assert!(!medium.has_failed() && !medium.is_only_full(), "it is no fault of the store's");
        // The next start tries again.
        medium.faults.fill_up(false);
        let mut journal = Journal::open(&directory, &medium).unwrap();
        assert!(journal.append(STAMP, &small).unwrap());
        assert_eq!(journal.read(Stamp { number: 0, ..STAMP }).unwrap(), (small, 1));
    }

    #[test]
    fn what_is_too_large_or_finds_no_room_is_for_the_database() {
        let dir = TempDir::new().unwrap();
        let directory = Directory::take(dir.path()).unwrap();
        let mut journal = Journal::open(
            &directory,
            &Arc::new(Medium::new(Durability::Os, Synced::open(&directory).unwrap())),
        )
        .unwrap();
        let of_bytes = |bytes| group([submitted(1, &vec![1; bytes])]);
        assert!(!journal.append(STAMP, &of_bytes(SMALL_BYTES)).unwrap());
        let many = group((1..10_000).map(|id| submitted(id, b"")));
        assert!(!journal.append(STAMP, &many).unwrap(), "they are many bytes once they are sealed");
        let mut taken = 0;
        while journal.append(STAMP, &of_bytes(SMALL_BYTES - 100)).unwrap() {
            taken += 1;
        }
        assert_eq!(taken, BYTES / SMALL_BYTES);
        journal.restart();
        assert!(journal.append(STAMP, &of_bytes(1)).unwrap());
    }
}
