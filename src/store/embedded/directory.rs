//! The directory of a store: made, locked, and synced where its entries change.
//!
//! What this module does not do: it does not look into the database.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt as _, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::store::Error;

/// The file whose lock is the right to the directory.
const LOCK: &str = "LOCK";

/// What the lock's file says while the store is open, and after a crash.
const OPEN: &[u8] = b"open  \n";
/// What it says after the store was closed in good order.
const CLOSED: &[u8] = b"closed\n";

/// Where the file says which commit was the last to be synced: a number and its checksum.
const MARK_PLACE: u64 = 7;
const MARK_BYTES: usize = 12;

/// Payloads are nobody else's business.
const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// A directory that this value alone may use.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    lock: File,
    was_closed: bool,
}

impl Directory {
    /// Makes the directory if it is not there, and locks it.
    pub(super) fn take(path: &Path) -> Result<Self, Error> {
        make(path).map_err(|source| Error::Unusable { path: path.to_owned(), source })?;
        let lock_path = path.join(LOCK);
        let unusable = |source| Error::Unusable { path: lock_path.clone(), source };
        let lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(FILE_MODE)
            .open(&lock_path)
            .map_err(unusable)?;
        locked(lock.try_lock(), &lock, path)?;
        // Neither state is synced: it tells of the page cache, which does not
        // outlive the operating system either.
        let was_closed = says_closed(&lock);
        lock.write_all_at(OPEN, 0).map_err(unusable)?;
        Ok(Self { path: path.to_owned(), lock, was_closed })
    }

    /// Keeps others from opening the store in a directory, and changes nothing in it.
    /// Several may look at once.
    pub(super) fn look_into(path: &Path) -> Result<Self, Error> {
        let lock_path = path.join(LOCK);
        let lock = match File::open(&lock_path) {
            // Whoever has the store made the file first: nobody has it. The directory's
            // own lock stands for it, which nobody else asks for.
            Err(error) if error.kind() == io::ErrorKind::NotFound => File::open(path),
            opened => opened,
        };
        let lock = lock.map_err(|source| Error::Unusable { path: lock_path, source })?;
        locked(lock.try_lock_shared(), &lock, path)?;
        let was_closed = says_closed(&lock);
        Ok(Self { path: path.to_owned(), lock, was_closed })
    }

    /// Whether the one who had it before closed the store in good order.
    pub(super) fn was_closed(&self) -> bool {
        self.was_closed
    }

    /// Notes that the store was closed in good order.
    pub(super) fn closed(&self) {
        self.forget_synced();
        if let Err(error) = self.lock.write_all_at(CLOSED, 0) {
            tracing::warn!(%error, "cannot note that the store was closed");
        }
    }

    /// Notes which commit was the last to be synced, not synced itself.
    pub(super) fn note_synced(&self, commit: u64) {
        let number = commit.to_le_bytes();
        let sum = crc32fast::hash(&number).to_le_bytes();
        self.write_mark(&[number.as_slice(), &sum].concat());
    }

    /// Forgets that note: it is of a database that is not there any more, or that needs
    /// none, because it was closed in good order.
    pub(super) fn forget_synced(&self) {
        self.write_mark(&[0; MARK_BYTES]);
    }

    /// The last commit that was noted as synced.
    pub(super) fn synced(&self) -> Option<u64> {
        let mut mark = [0; MARK_BYTES];
        self.lock.read_exact_at(&mut mark, MARK_PLACE).ok()?;
        let (number, sum) = mark.split_first_chunk()?;
        (crc32fast::hash(number).to_le_bytes() == *sum).then(|| u64::from_le_bytes(*number))
    }

    fn write_mark(&self, mark: &[u8]) {
        // An old mark is true as well, and none is only less to hold the store against.
        if let Err(error) = self.lock.write_all_at(mark, MARK_PLACE) {
            tracing::debug!(%error, "cannot note what was synced");
        }
    }

    /// Its own path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The path of a file in it.
    pub(super) fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Whether it has a file of this name.
    pub(super) fn has(&self, name: &str) -> Result<bool, Error> {
        let path = self.join(name);
        path.try_exists().map_err(|source| Error::Unusable { path, source })
    }

    /// A new, empty file in place of any old one.
    pub(super) fn create(&self, name: &str) -> Result<File, Error> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true).mode(FILE_MODE);
        self.open_with(&options, name)
    }

    /// A file that is there, to be read.
    pub(super) fn read_file(&self, name: &str) -> Result<File, Error> {
        self.open_with(OpenOptions::new().read(true), name)
    }

    /// A file that is there.
    pub(super) fn open_file(&self, name: &str) -> Result<File, Error> {
        self.open_with(OpenOptions::new().read(true).write(true), name)
    }

    /// As [`Directory::open_file`], past the system's cache, where the system knows that.
    pub(super) fn open_direct(&self, name: &str) -> Result<File, Error> {
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        #[cfg(target_os = "linux")]
        options.custom_flags(rustix::fs::OFlags::DIRECT.bits().cast_signed());
        self.open_with(&options, name)
    }

    /// A file, made if it is not there.
    pub(super) fn open_or_create_file(&self, name: &str) -> Result<File, Error> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(FILE_MODE);
        self.open_with(&options, name)
    }

    /// Gives a file another name, durably.
    pub(super) fn rename(&self, from: &Path, name: &str) -> Result<(), Error> {
        let to = self.join(name);
        std::fs::rename(from, &to)
            .and_then(|()| sync_directory(&self.path))
            .map_err(|source| Error::Unusable { path: to, source })
    }

    fn open_with(&self, options: &OpenOptions, name: &str) -> Result<File, Error> {
        let path = self.join(name);
        options.open(&path).map_err(|source| Error::Unusable { path, source })
    }
}

impl Drop for Directory {
    /// Lets go of the lock by name. Closing the file is not enough while another
    /// thread starts a process: until that runs its own program it has our files too.
    fn drop(&mut self) {
        if let Err(error) = self.lock.unlock() {
            tracing::warn!(%error, "cannot unlock the data directory");
        }
    }
}

fn locked(tried: Result<(), TryLockError>, lock: &File, path: &Path) -> Result<(), Error> {
    let path = path.to_owned();
    match tried {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(Error::InUse { path, pid: who_holds(lock) }),
        Err(TryLockError::Error(source)) => Err(Error::Unusable { path, source }),
    }
}

fn says_closed(lock: &File) -> bool {
    let mut state = [0; CLOSED.len()];
    lock.read_exact_at(&mut state, 0).is_ok() && state == CLOSED
}

/// The process that has this file locked, where the system tells of it: a line of
/// `/proc/locks` is `1: FLOCK  ADVISORY  WRITE 4711 08:01:131 0 EOF`.
fn who_holds(lock: &File) -> Option<u32> {
    let metadata = lock.metadata().ok()?;
    let device = metadata.dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let file = format!("{major:02x}:{minor:02x}:{}", metadata.ino());
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    locks.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            [_, "FLOCK", _, _, pid, place, ..] if place == file => pid.parse().ok(),
            _ => None,
        }
    })
}

/// Makes a directory and those above it, each with a synced entry.
fn make(path: &Path) -> io::Result<()> {
    let missing: Vec<&Path> = path
        .ancestors()
        .take_while(|directory| !directory.as_os_str().is_empty() && !directory.exists())
        .collect();
    DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(path)?;
    for directory in missing {
        match directory.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => sync_directory(parent)?,
            Some(_) => sync_directory(Path::new("."))?,
            None => {}
        }
    }
    Ok(())
}

/// Makes the entries of a directory durable.
fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}
