//! Reads a whole store at rest, and says whether it is sound.
//!
//! The engine opens it as a start would and checks every page; then every record is
//! read, and what belongs together is compared. Nothing is written: what the engine
//! would write, a repair after a crash included, stays in memory.
//!
//! What this module does not do: it mends nothing, and does not look at pages that the
//! store does not use.

mod overlay;
mod walk;

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use redb::{Database, ReadableDatabase};

use self::overlay::Overlay;
use self::walk::Walk;
use super::directory::Directory;
use super::pack_file::{self, PackReader};
use super::tables::{self, engine};
use super::writer::Writer;
use super::{CACHE_BYTES, FILE, backend, builder, journal, mark, not_opened, packs};
use crate::store::record::Table;
use crate::store::{Error, Group};

/// Damages that are told of; more are counted.
const TOLD: usize = 20;

/// What was found in a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The database.
    pub file: PathBuf,
    /// Its length.
    pub file_bytes: u64,
    /// The length of the file of packs beside it.
    pub packs_bytes: u64,
    /// Whether the last one to have it closed it in good order. If not, the next start
    /// repairs it, which loses nothing and takes no longer.
    pub was_closed: bool,
    /// What its tables hold, as far as they can be read.
    pub tables: Vec<TableReport>,
    /// What is wrong, the first twenty of it.
    pub damages: Vec<String>,
    /// All that is wrong, counted.
    pub damage_count: u64,
}

/// What a table holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableReport {
    /// Its name.
    pub name: &'static str,
    /// Rows, or pieces of packs.
    pub rows: u64,
    /// Bytes of records, and of packs that are apart from theirs.
    pub bytes: u64,
}

impl Report {
    /// Whether all of it is what was written.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.damage_count == 0
    }

    fn damaged(&mut self, what: impl Into<String>) {
        self.damage_count += 1;
        if self.damages.len() < TOLD {
            self.damages.push(what.into());
        }
    }
}

/// Reads the whole store in `dir` from the disk. Nobody else has it meanwhile; several
/// may verify it at once.
///
/// # Errors
/// [`Error::InUse`], [`Error::Unusable`] and [`Error::Format`] as they say;
/// [`Error::Failed`] when it could not be read. Damage is no error but in the report.
pub fn verify(dir: &Path) -> Result<Report, Error> {
    let directory = Directory::look_into(dir)?;
    let is_new = !directory.has(FILE)?;
    super::not_lost(&directory, is_new)?;
    let file = directory.read_file(FILE)?;
    let path = directory.join(FILE);
    let unreadable = |source| Error::Unusable { path: path.clone(), source };
    // Of interest is what the disk holds, not what memory holds of it.
    backend::distrust_all_of_the_page_cache(&file).map_err(unreadable)?;
    let length = |file: &File| Ok(file.metadata().map_err(unreadable)?.len());
    // Without them nothing can be read, which will be told.
    let has_packs = directory.has(pack_file::FILE)?;
    let packs = has_packs.then(|| directory.read_file(pack_file::FILE)).transpose()?;
    let mut report = Report {
        file_bytes: length(&file)?,
        packs_bytes: packs.as_ref().map_or(Ok(0), length)?,
        file: path.clone(),
        was_closed: directory.was_closed(),
        tables: Vec::new(),
        damages: Vec::new(),
        damage_count: 0,
    };
    if report.file_bytes == 0 {
        report.damaged("the file is empty");
        return Ok(report);
    }
    match guarded(|| read(&directory, Pages::Checked, &mut report)) {
        Err(Error::Damaged { what }) => {
            report.damaged(what);
            // Which records it hit is of use to whoever has no copy.
            report.tables.clear();
            match guarded(|| read(&directory, Pages::Trusted, &mut report)) {
                Ok(()) | Err(Error::Damaged { .. }) => {}
                Err(other) => return Err(other),
            }
        }
        done => done?,
    }
    Ok(report)
}

/// How the pages of the file are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pages {
    /// All of them are checked before any is believed.
    Checked,
    /// They are believed, though they are known to be damaged.
    Trusted,
}

fn read(directory: &Directory, pages: Pages, report: &mut Report) -> Result<(), Error> {
    let path = directory.join(FILE);
    let unreadable = |source| Error::Unusable { path: path.clone(), source };
    let overlay = Overlay::new(directory.read_file(FILE)?).map_err(unreadable)?;
    let reader = PackReader::open(directory)?;
    reader.distrust_the_page_cache()?;
    let builder = match pages {
        Pages::Checked => {
            let mut builder = builder(CACHE_BYTES);
            builder.set_check_integrity_on_open(true);
            builder
        }
        Pages::Trusted => {
            overlay.watch_for_loops();
            builder(0)
        }
    };
    let opened = builder.create_with_backend(overlay);
    let database: Database = opened.map_err(|error| not_opened(error, &path))?;
    tables::check_format(&database, &path)?;
    if pages == Pages::Checked {
        match recover(directory, &database) {
            Err(Error::Damaged { what }) => report.damaged(what),
            done => done?,
        }
    }
    let walk = Walk::new(database.begin_read().map_err(engine)?, &reader);
    for table in Table::ALL {
        match pages {
            Pages::Checked => walk.table(table, report)?,
            // A table that cannot be read hides no other one.
            Pages::Trusted => drop(guarded(|| walk.records(table, report))),
        }
    }
    if pages == Pages::Checked {
        // Packs that cannot be read were told of with their tables.
        let extents = packs::extents(&database).unwrap_or_default();
        if let Err(Error::Damaged { what }) = pack_file::free(extents) {
            report.damaged(what);
        }
    }
    Ok(())
}

/// Refuses a database of another format; what else it may be is told by others.
///
/// # Errors
/// [`Error::Format`], and [`Error::Unusable`] when the file cannot be read.
pub(super) fn format(directory: &Directory) -> Result<(), Error> {
    let path = directory.join(FILE);
    let overlay = Overlay::new(directory.read_file(FILE)?);
    let overlay = overlay.map_err(|source| Error::Unusable { path: path.clone(), source })?;
    let checked = guarded(|| {
        let opened = builder(0).create_with_backend(overlay);
        let database: Database = opened.map_err(|error| not_opened(error, &path))?;
        tables::check_format(&database, &path)
    });
    match checked {
        Err(error @ Error::Format { .. }) => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Has the database take what the journal holds beyond it, as a start would.
fn recover(directory: &Directory, database: &Database) -> Result<(), Error> {
    let held = match mark::last(database) {
        // That record is told of with the others.
        Err(Error::Damaged { .. }) => return Ok(()),
        held => held?,
    };
    let (waiting, last) = if directory.has(journal::FILE)? {
        let file = directory.read_file(journal::FILE)?;
        let unreadable = |source| Error::Unusable { path: directory.join(journal::FILE), source };
        backend::distrust_all_of_the_page_cache(&file).map_err(unreadable)?;
        journal::read(&file, held)?
    } else {
        (Group::default(), held.number)
    };
    mark::check(last, directory.synced())?;
    if waiting.is_empty() {
        return Ok(());
    }
    let transaction = database.begin_write().map_err(engine)?;
    Writer::new(&transaction, None).write(&waiting)?;
    transaction.commit().map_err(engine)
}

/// The engine may panic over bytes that it did not write.
fn guarded<T>(work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        Err(Error::Damaged { what: "the engine cannot make sense of it".to_owned() })
    })
}
