//! The engine on the local disk: redb, used append-only.
//!
//! Tasks go in by rising id, events in the order they are committed, and neither
//! is ever updated in place: a B-tree takes rising keys at several times the rate
//! of scattered ones. Rows lie many to a record, because the engine asks the same for each.
//! Large bytes are apart from them, many to a pack, and what is more than a record's worth of
//! them has a file of its own, past the engine. One commit is one sync: of a transaction of the
//! engine, after one of the packs if it has any, or, where it is small, of a journal from which
//! the database takes many of them at once.
//!
//! The directory holds `taskgrid.redb`, `PACKS`, `JOURNAL`, `LOCK`, `SYNCED` and `RESERVE`, which
//! is space for the day when the disk is full. The lock says who has the directory, and inside it whether
//! the last one to have it closed the store in good order. If not, what the page cache holds of
//! the files is dropped before anything is read, because after a failed sync it may differ from
//! the disk, and what was synced must be there: the journal, the packs, and of the database what
//! `SYNCED` does not vouch for.
//!
//! What this module does not do: it tries no failed sync again, and repairs no damage.

mod ahead;
mod backend;
mod directory;
mod extents;
mod journal;
mod log;
mod mark;
mod pack_file;
mod packs;
mod reader;
mod reserve;
mod rows;
mod slot;
mod sums;
mod synced;
mod tables;
mod tail;
mod verify;
mod writer;

use std::fmt;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use redb::{Database, ReadableDatabase};

use self::ahead::ReadAhead;
use self::backend::{Backend, Medium};
use self::directory::Directory;
use self::journal::Journal;
use self::pack_file::PackFile;
use self::reader::Reader;
use self::synced::Synced;
use self::tables::engine;
use self::tail::Tail;
pub use self::verify::{Report, TableReport, verify};
use super::{Error, Group, Position, Recovered, Store, StoredEvent, StoredTask};
use crate::core::event::{Event, TaskEvent};
use crate::core::id::{Epoch, Seq, TaskId};
use crate::core::task::Spec;

/// Memory for pages of the file, and for those of the transaction that is being
/// made, in bytes, unless another size is chosen. The largest group with its copied
/// pages fits; the engine's own default of 1 GiB would not leave a small machine to
/// the tasks.
pub const CACHE_BYTES: usize = 64 << 20;

/// The database, inside the directory.
const FILE: &str = "taskgrid.redb";
/// The database until it is complete.
const FILE_IN_THE_MAKING: &str = "taskgrid.redb.new";

/// The longest group, in entries and things to forget, that is written by the thread that has
/// it, if commits do not wait for the disk: one of a single task takes some 10 µs, and to have
/// the committer's thread write it four times as much.
const LENGTH_AT_ONCE: usize = 32;

/// What a commit waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// The disk: a commit survives a power cut. The default.
    #[default]
    Sync,
    /// The operating system: a commit survives the end of this process, by
    /// whatever signal. After a power cut the store may have lost commits, or
    /// may refuse to open. The epoch is synced even so.
    Os,
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sync => "sync",
            Self::Os => "os",
        })
    }
}

/// A word that is no [`Durability`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no durability: sync (survives a power cut) or os (survives a killed process)")]
pub struct BadDurability(pub String);

impl FromStr for Durability {
    type Err = BadDurability;

    fn from_str(text: &str) -> Result<Self, BadDurability> {
        match text {
            "sync" => Ok(Self::Sync),
            "os" => Ok(Self::Os),
            other => Err(BadDurability(other.to_owned())),
        }
    }
}

/// A store in a directory of its own. Dropped, it closes the file and gives the
/// directory free.
#[derive(Debug)]
pub struct Embedded {
    /// `None` while it is opened anew, and after that failed.
    database: RwLock<Option<Database>>,
    tail: Mutex<Tail>,
    packs: PackFile,
    /// Whether the database lacks what the tail has.
    lags: AtomicBool,
    medium: Arc<Medium>,
    directory: Directory,
    cache_bytes: usize,
}

impl Embedded {
    /// Opens the store in `dir`, and makes both if they are not there.
    ///
    /// # Errors
    /// As [`Embedded::open_with`].
    pub fn open(dir: &Path, durability: Durability) -> Result<Self, Error> {
        Self::open_with(dir, durability, CACHE_BYTES)
    }

    /// As [`Embedded::open`], with so many bytes of memory for pages of the file. Beyond
    /// them it reads from the file again, and writes into it before a commit asks for it.
    ///
    /// Reads the whole file, to check it: about half a second for a gigabyte that the
    /// system has in memory.
    ///
    /// # Errors
    /// [`Error::InUse`], [`Error::Unusable`] and [`Error::Format`] as they say;
    /// [`Error::Damaged`] when the file is not what was written, [`Error::Full`] and
    /// [`Error::Failed`] when it could not be made or opened.
    pub fn open_with(
        dir: &Path,
        durability: Durability,
        cache_bytes: usize,
    ) -> Result<Self, Error> {
        let directory = Directory::take(dir)?;
        let medium = Arc::new(Medium::new(durability, Synced::open(&directory)?));
        let is_new = !directory.has(FILE)?;
        not_lost(&directory, is_new)?;
        let packs = PackFile::open(&directory, &medium)?;
        if is_new {
            directory.forget_synced();
            create(&directory, &medium)?;
        }
        let mut tail = Tail::new(Journal::open(&directory, &medium)?);
        let past = if is_new || directory.was_closed() { Past::Closed } else { Past::Crashed };
        let database = match load(&directory, &medium, &packs, &mut tail, past, cache_bytes) {
            Err(Error::Full) if reserve::give_up(&directory) => {
                medium.expect_space();
                load(&directory, &medium, &packs, &mut tail, Past::Full, cache_bytes)
            }
            loaded => loaded,
        }?;
        let (database, tail) = (RwLock::new(Some(database)), Mutex::new(tail));
        let lags = AtomicBool::new(false);
        Ok(Self { database, tail, packs, lags, medium, directory, cache_bytes })
    }

    /// Runs `work` on the open database.
    fn with<T>(&self, work: impl FnOnce(&Database) -> Result<T, Error>) -> Result<T, Error> {
        let guard = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let done = match guard.as_ref() {
            Some(database) => work(database),
            None => Err(Error::Failed { what: "it is not open".to_owned() }),
        };
        done.map_err(|error| self.explained(error))
    }

    /// After its first failure the engine only says that there was one: why.
    fn explained(&self, error: Error) -> Error {
        match (error, self.medium.sums.damage()) {
            (Error::Failed { .. } | Error::Damaged { .. }, Some(damage)) => damaged(damage),
            (Error::Failed { .. }, None) if self.medium.is_only_full() => Error::Full,
            (other, _) => other,
        }
    }

    /// Runs `work` on the open database and what comes after it.
    fn with_tail<T>(
        &self,
        work: impl FnOnce(&Database, &mut Tail) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.with(|database| {
            let mut tail = self.tail();
            let done = work(database, &mut tail);
            self.lags.store(tail.lags(), Ordering::Release);
            done
        })
    }

    fn tail(&self) -> MutexGuard<'_, Tail> {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read<T>(&self, work: impl FnOnce(&Reader) -> Result<T, Error>) -> Result<T, Error> {
        if self.lags.load(Ordering::Acquire) {
            match self.with_tail(|database, tail| tail.flush(database, &self.packs)) {
                Err(Error::Full) => {
                    // What is read was promised: the reserve is for it, too.
                    self.reopen()?;
                    self.tail().tell_that_it_is_full();
                }
                done => done?,
            }
        }
        self.with(|database| {
            let _reading = self.packs.reading();
            let transaction = database.begin_read().map_err(engine)?;
            work(&Reader::new(transaction, self.packs.reader()))
        })
    }
}

impl Store for Embedded {
    fn take_epoch(&self, nonce: u64) -> Result<Vec<Epoch>, Error> {
        let taken = self.with_tail(|database, tail| {
            self.medium.synced(|| tail.take_epoch(database, &self.packs, nonce))
        });
        let (epochs, number) = taken?;
        self.directory.note_synced(number);
        Ok(epochs)
    }

    fn append(&self, group: &Group) -> Result<(), Error> {
        if group.is_empty() {
            return self.with(|_| Ok(()));
        }
        let number = self.with_tail(|database, tail| tail.append(database, &self.packs, group))?;
        if self.medium.syncs() {
            self.directory.note_synced(number);
        }
        Ok(())
    }

    fn append_at_once(&self, group: &Group) -> Option<Result<(), Error>> {
        let is_brief = (1..=LENGTH_AT_ONCE).contains(&group.length());
        if self.medium.syncs() || !is_brief {
            return None;
        }
        // A reader, or who opens the store anew, may hold either lock for long.
        let database = self.database.try_read().ok()?;
        database.as_ref()?;
        let mut tail = self.tail.try_lock().ok()?;
        let done = tail.append_to_journal(group);
        self.lags.store(tail.lags(), Ordering::Release);
        match done {
            Ok(true) => Some(Ok(())),
            Ok(false) => None,
            Err(error) => Some(Err(self.explained(error))),
        }
    }

    fn summary(&self, visit: &mut dyn FnMut(Event)) -> Result<Recovered, Error> {
        self.read(|reader| reader.summary(visit))
    }

    fn history(
        &self,
        from: Position,
        to: Recovered,
        limit: usize,
        visit: &mut dyn FnMut(Event),
    ) -> Result<Option<Position>, Error> {
        self.read(|reader| reader.history(from, to, limit, visit))
    }

    fn tasks_within(&self, ids: &[TaskId], bytes: usize) -> Result<Vec<Option<StoredTask>>, Error> {
        self.read(|reader| reader.tasks(ids, bytes))
    }

    fn specs(&self, ids: &[TaskId]) -> Result<Vec<Option<Spec>>, Error> {
        self.read(|reader| reader.specs(ids))
    }

    fn events(&self, places: &[Seq]) -> Result<Vec<Option<StoredEvent>>, Error> {
        self.read(|reader| reader.events(places))
    }

    fn facts(&self, places: &[Seq]) -> Result<Vec<Option<TaskEvent>>, Error> {
        self.read(|reader| reader.facts(places))
    }

    fn events_after(
        &self,
        place: Seq,
        limit: usize,
        bytes: usize,
    ) -> Result<Vec<StoredEvent>, Error> {
        self.read(|reader| reader.events_after(place, limit, bytes))
    }

    fn reopen(&self) -> Result<(), Error> {
        let mut guard = self.database.write().unwrap_or_else(PoisonError::into_inner);
        if self.medium.has_failed() {
            let what = "a write or a sync failed: only a restart may trust the file again";
            return Err(Error::Failed { what: what.to_owned() });
        }
        // The old handle must be gone before the file is opened anew.
        drop(guard.take());
        reserve::give_up(&self.directory);
        self.medium.expect_space();
        let mut tail = self.tail();
        let (directory, medium, packs) = (&self.directory, &self.medium, &self.packs);
        let loaded = load(directory, medium, packs, &mut tail, Past::Full, self.cache_bytes);
        self.lags.store(tail.lags(), Ordering::Release);
        *guard = Some(loaded?);
        Ok(())
    }

    fn has_room(&self) -> bool {
        let has_room = reserve::hold(&self.directory);
        self.tail().hear_of_room(has_room);
        has_room
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        let database = self.database.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        let tail = self.tail.get_mut().unwrap_or_else(PoisonError::into_inner);
        // A store that was closed in good order survives a power cut afterwards.
        let is_whole = self.medium.synced(|| {
            let flushed = database.as_ref().map(|database| {
                tail.flush(database, &self.packs)?;
                self.packs.sync()
            });
            drop(database);
            flushed.is_some_and(|flushed| match flushed {
                Ok(()) => true,
                Err(error) => {
                    tracing::warn!(%error, "the journal keeps what the database has yet to take");
                    false
                }
            })
        });
        let is_sound = self.medium.sums.damage().is_none();
        if is_whole && is_sound && !self.medium.has_failed() && !self.medium.is_only_full() {
            self.directory.closed();
        }
    }
}

/// Refuses a directory whose database is gone, because a journal is made after it and needs it,
/// and one whose packs are gone, which are made before it.
fn not_lost(directory: &Directory, is_new: bool) -> Result<(), Error> {
    if is_new && directory.has(journal::FILE)? {
        return Err(not_sound(&directory.join(FILE), "it is gone, and its journal is there"));
    }
    if !is_new && !directory.has(pack_file::FILE)? {
        // Older formats had none.
        verify::format(directory)?;
        let what = "it is gone, and the database is there";
        return Err(not_sound(&directory.join(pack_file::FILE), what));
    }
    Ok(())
}

/// Makes an empty database under another name, and gives it its own once it is
/// whole: a file of that name, however short, is never taken for a new one.
fn create(directory: &Directory, medium: &Arc<Medium>) -> Result<(), Error> {
    let in_the_making = directory.join(FILE_IN_THE_MAKING);
    let file = directory.create(FILE_IN_THE_MAKING)?;
    medium.synced(|| {
        let backend = Backend::new(file, Arc::clone(medium));
        let database = builder(CACHE_BYTES).create_with_backend(backend).map_err(engine)?;
        tables::initialize(&database)
    })?;
    directory.rename(&in_the_making, FILE)
}

/// What became of the file before it is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Past {
    /// It was closed in good order.
    Closed,
    /// It was not.
    Crashed,
    /// There was no space for a write, and may be none yet.
    Full,
}

/// Opens the database, checks all of it, and its format, and has it take what the journal
/// holds beyond it.
fn load(
    directory: &Directory,
    medium: &Arc<Medium>,
    packs: &PackFile,
    tail: &mut Tail,
    past: Past,
    cache_bytes: usize,
) -> Result<Database, Error> {
    let path = directory.join(FILE);
    let file = directory.open_file(FILE)?;
    let unreadable = |source| Error::Unusable { path: path.clone(), source };
    let length = file.metadata().map_err(unreadable)?.len();
    if length == 0 {
        return Err(not_sound(&path, "it is empty"));
    }
    if past != Past::Closed {
        tail.distrust_the_page_cache()?;
        packs.distrust_the_page_cache()?;
        let doubts = medium.on_disk.doubts(length).map_err(unreadable)?;
        let bytes: u64 = doubts.iter().map(|range| range.end - range.start).sum();
        tracing::info!(path = %path.display(), bytes, "dropping cached pages that may not be on the disk");
        backend::distrust_the_page_cache(&file, &doubts).map_err(|source| Error::Failed {
            what: format!("cannot sync {} before reading it: {source}", path.display()),
        })?;
    }
    medium.on_disk.note_all(length);
    // The engine may panic over bytes that it did not write. Nothing is shared
    // with it that outlives the panic, and a damaged file is to be refused.
    let opened = catch_unwind(AssertUnwindSafe(|| {
        let is_checked = past != Past::Full;
        let read_ahead = |file| is_checked.then(|| ReadAhead::begin(file));
        let _ahead = [read_ahead(&file), read_ahead(packs.reader().file())];
        let database = if past == Past::Full {
            // Slower, and without the close, for whose notes there may be no space.
            open(builder(cache_bytes).set_check_integrity_on_open(true), file, medium, &path)?
        } else {
            // Checked without a cache: a page is looked at and let go, and one buffer that
            // stays near takes a third of the time of many that do not. Closed, it has noted
            // which pages are free, so that the next opening reads little else.
            open(builder(0).set_check_integrity_on_open(true), file, medium, &path)?
                .close()
                .map_err(engine)?;
            open(&builder(cache_bytes), directory.open_file(FILE)?, medium, &path)?
        };
        tables::check_format(&database, &path)?;
        packs.restore(packs::extents(&database)?)?;
        tail.recover(&database, packs, directory.synced())?;
        if is_checked {
            packs::check_all(&database, packs.reader())?;
        }
        packs.cut_rest()?;
        Ok(database)
    }));
    match opened {
        Ok(Err(Error::Damaged { what })) => Err(not_sound(&path, &what)),
        Ok(done) => done,
        Err(_) => Err(not_sound(&path, "the engine cannot make sense of it")),
    }
}

fn open(
    builder: &redb::Builder,
    file: File,
    medium: &Arc<Medium>,
    path: &Path,
) -> Result<Database, Error> {
    let opened = builder.create_with_backend(Backend::new(file, Arc::clone(medium)));
    opened.map_err(|error| not_opened(error, path))
}

fn not_opened(error: redb::DatabaseError, path: &Path) -> Error {
    match error {
        redb::DatabaseError::UpgradeRequired(found) => Error::Format {
            path: path.to_owned(),
            found: u32::from(found),
            expected: tables::FORMAT,
        },
        other => engine(other),
    }
}

fn not_sound(path: &Path, what: &str) -> Error {
    damaged(&format!("{}: {what}", path.display()))
}

fn damaged(what: &str) -> Error {
    let what = format!("{what}; put back a copy of the directory, or move it away and begin anew");
    Error::Damaged { what }
}

fn builder(cache_bytes: usize) -> redb::Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(cache_bytes);
    builder
}

#[cfg(test)]
mod tests;
