//! Which parts of the database's file the disk has as the system's memory shows them.
//!
//! After a failed sync the system may show pages that never reached the disk as if they had,
//! and whoever was told of the failure may be killed before it can pass that on. So each part
//! is noted once a sync of it has succeeded, and the note is taken back before the part is
//! written again: who opens the file after a crash has to drop only what no note vouches
//! for, and need not read gigabytes from the disk because of a few pages.
//!
//! ```text
//!           a write begins                      a sync succeeds
//! noted ──────────────────────▶ not noted ──────────────────────▶ noted
//! ```
//!
//! Once a sync has failed, none that succeeds later tells of what was written before.
//!
//! The notes are a byte for each part in a file of its own, whose end and absence mean "not
//! noted". They are not synced: they tell of the system's memory, and a power cut that takes
//! them takes that, too.
//!
//! What this module does not do: it neither syncs nor drops anything itself.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::backend::no_space;
use super::directory::Directory;
use crate::store::Error;

/// The file.
pub(super) const FILE: &str = "SYNCED";

/// Bytes of a part: a disk reads one in some milliseconds. Not less than the largest pieces in
/// which the system has files in memory: it drops none that is partly to stay.
const PART: u64 = 4 << 20;

/// What stands for a part that the disk has as it is shown; anything else for one in doubt.
const NOTED: u8 = 1;
const IN_DOUBT: u8 = 0;

/// The notes of one file.
#[derive(Debug)]
pub(super) struct Synced {
    /// None where there is no space for it: nothing is noted.
    notes: Option<File>,
    since: Mutex<Since>,
}

/// What happened since the last sync that succeeded.
#[derive(Debug, Default)]
struct Since {
    /// Parts that were written. Their notes are taken back.
    written: BTreeSet<u64>,
    /// A sync failed.
    failed: bool,
}

impl Synced {
    /// The notes of whoever had the directory before, as they were left.
    ///
    /// # Errors
    /// [`Error::Unusable`] when the file cannot be opened, unless only space is missing.
    pub(super) fn open(directory: &Directory) -> Result<Self, Error> {
        let notes = match directory.open_or_create_file(FILE) {
            Err(Error::Unusable { source, .. }) if no_space(&source) => None,
            opened => Some(opened?),
        };
        Ok(Self { notes, since: Mutex::default() })
    }

    /// Ranges of a file of `length` bytes that may not be on the disk as they are shown.
    pub(super) fn doubts(&self, length: u64) -> io::Result<Vec<Range<u64>>> {
        let parts = length.div_ceil(PART);
        let mut notes = Vec::new();
        if let Some(file) = &self.notes {
            let count = parts.min(file.metadata()?.len());
            notes.resize(usize::try_from(count).expect("memory holds their notes"), IN_DOUBT);
            file.read_exact_at(&mut notes, 0)?;
        }
        let is_noted = |part: &u64| {
            let place = usize::try_from(*part).ok();
            place.and_then(|place| notes.get(place)) == Some(&NOTED)
        };
        let doubts = (0..parts).filter(|part| !is_noted(part));
        let bytes = |parts: Range<u64>| parts.start * PART..(parts.end * PART).min(length);
        Ok(runs(doubts).into_iter().map(bytes).collect())
    }

    /// Notes that a whole file of `length` bytes is on the disk as it is shown.
    pub(super) fn note_all(&self, length: u64) {
        let mut since = self.since();
        self.note(0..length.div_ceil(PART));
        since.written.clear();
    }

    /// Before a write.
    ///
    /// # Errors
    /// When a note cannot be taken back. The write must not take place.
    pub(super) fn begin_write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let Some(notes) = &self.notes else { return Ok(()) };
        let length = u64::try_from(bytes.len()).expect("memory holds it");
        let parts = offset / PART..offset.saturating_add(length).div_ceil(PART);
        let mut since = self.since();
        for part in parts {
            if !since.written.contains(&part) {
                notes.write_all_at(&[IN_DOUBT], part)?;
                since.written.insert(part);
            }
        }
        Ok(())
    }

    /// Runs `sync`, and if it succeeds notes everything that was written before it. Writes
    /// wait for its end.
    pub(super) fn through(&self, sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let mut since = self.since();
        let done = sync();
        since.failed |= done.is_err();
        if !since.failed {
            for parts in runs(std::mem::take(&mut since.written)) {
                self.note(parts);
            }
        }
        done
    }

    fn note(&self, parts: Range<u64>) {
        let Some(notes) = &self.notes else { return };
        let count = usize::try_from(parts.end - parts.start).expect("memory holds their notes");
        // Without a note the next start only takes longer.
        if let Err(error) = notes.write_all_at(&vec![NOTED; count], parts.start) {
            tracing::debug!(%error, "cannot note what was synced");
        }
    }

    fn since(&self) -> MutexGuard<'_, Since> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Rising numbers as ranges.
fn runs(numbers: impl IntoIterator<Item = u64>) -> Vec<Range<u64>> {
    let mut runs: Vec<Range<u64>> = Vec::new();
    for number in numbers {
        match runs.last_mut() {
            Some(run) if run.end == number => run.end += 1,
            _ => runs.push(number..number + 1),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    /// Of a file of three and a half parts.
    const LENGTH: u64 = 3 * PART + PART / 2;

    /// As whoever comes next finds them.
    fn found(directory: &Directory) -> Vec<Range<u64>> {
        Synced::open(directory).unwrap().doubts(LENGTH).unwrap()
    }

    #[test]
    fn what_nobody_noted_is_in_doubt_and_so_is_what_came_later() {
        let dir = TempDir::new().unwrap();
        let directory = Directory::take(dir.path()).unwrap();
        let all = 0..LENGTH;
        assert_eq!(found(&directory), [all]);
        Synced::open(&directory).unwrap().note_all(PART + 1);
        let behind = 2 * PART..LENGTH;
        assert_eq!(found(&directory), [behind]);
        Synced::open(&directory).unwrap().note_all(LENGTH);
        assert_eq!(found(&directory), []);
    }

    #[test]
    fn a_note_is_taken_back_before_a_write_and_made_again_after_a_sync_that_succeeds() {
        let dir = TempDir::new().unwrap();
        let directory = Directory::take(dir.path()).unwrap();
        let synced = Synced::open(&directory).unwrap();
        synced.note_all(LENGTH);
        // Across an end of a part, within one, and behind what there was.
        synced.begin_write(2 * PART - 1, &[1; 2]).unwrap();
        synced.begin_write(2 * PART + 7, &[1]).unwrap();
        synced.begin_write(9 * PART, &[1]).unwrap();
        let two = PART..3 * PART;
        assert_eq!(found(&directory), std::slice::from_ref(&two));
        synced.through(|| Ok(())).unwrap();
        assert_eq!(found(&directory), []);
        synced.begin_write(2 * PART - 1, &[1; 2]).unwrap();
        assert!(synced.through(|| Err(io::ErrorKind::Other.into())).is_err());
        assert_eq!(found(&directory), std::slice::from_ref(&two), "one that fails tells nothing");
        synced.through(|| Ok(())).unwrap();
        assert_eq!(found(&directory), [two], "nor does one after it");
    }

    #[test]
    fn a_write_whose_note_cannot_be_taken_back_does_not_take_place_and_may_be_tried_again() {
        let dir = TempDir::new().unwrap();
        let directory = Directory::take(dir.path()).unwrap();
        Synced::open(&directory).unwrap().note_all(LENGTH);
        let notes = Some(directory.read_file(FILE).unwrap());
        let read_only = Synced { notes, since: Mutex::default() };
        for _ in 0..2 {
            assert!(read_only.begin_write(0, &[1]).is_err());
        }
        assert_eq!(found(&directory), []);
    }
}
