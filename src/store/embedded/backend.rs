//! The file below the engine, and what it shares with the one beside it: whether a sync is
//! one, and whether a disk is full or broken.
//!
//! What this module does not do: it locks nothing; the directory's lock does.

use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use redb::StorageBackend;

use super::Durability;
use super::sums::Sums;
use super::synced::Synced;

/// What the files of a store share: how durable they are, and how they fare.
#[derive(Debug)]
pub(super) struct Medium {
    durability: Durability,
    /// Syncs are real even where `durability` asks for none.
    forced: AtomicBool,
    /// A write found no space.
    full: AtomicBool,
    /// A write failed otherwise, or a sync failed.
    failed: AtomicBool,
    /// What the blocks of the database's file must be.
    pub(super) sums: Sums,
    /// Which parts of that file are on the disk.
    pub(super) on_disk: Synced,
    #[cfg(test)]
    pub(super) faults: super::tests::Faults,
}

impl Medium {
    /// Of files that nothing has happened to.
    pub(super) fn new(durability: Durability, on_disk: Synced) -> Self {
        Self {
            durability,
            forced: AtomicBool::new(false),
            full: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            sums: Sums::default(),
            on_disk,
            #[cfg(test)]
            faults: super::tests::Faults::default(),
        }
    }

    /// Runs `work` with real syncs, whatever the durability.
    pub(super) fn synced<T>(&self, work: impl FnOnce() -> T) -> T {
        self.forced.store(true, Ordering::SeqCst);
        let done = work();
        self.forced.store(false, Ordering::SeqCst);
        done
    }

    /// Whether the only thing wrong is that a write found no space.
    pub(super) fn is_only_full(&self) -> bool {
        self.full.load(Ordering::SeqCst) && !self.has_failed()
    }

    /// Whether it is unknown what the disk holds.
    pub(super) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::SeqCst)
    }

    /// Forgets that there was no space.
    pub(super) fn expect_space(&self) {
        self.full.store(false, Ordering::SeqCst);
        #[cfg(test)]
        self.faults.give_up_reserve();
    }

    /// Whether a commit that is made waits for the disk.
    pub(super) fn syncs(&self) -> bool {
        self.durability == Durability::Sync || self.forced.load(Ordering::SeqCst)
    }

    /// Writes into a file, and notes how that fared.
    pub(super) fn write(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        #[cfg(test)]
        self.written(self.faults.write(offset, bytes))?;
        self.written(file.write_all_at(bytes, offset))
    }

    /// Gives a file a length, and notes how that fared.
    pub(super) fn set_len(&self, file: &File, length: u64) -> io::Result<()> {
        self.written(file.set_len(length))
    }

    /// Has the disk take what was written, if commits wait for it, and notes how that fared.
    pub(super) fn sync(&self, file: &File) -> io::Result<()> {
        if !self.syncs() {
            return Ok(());
        }
        #[cfg(test)]
        let done = self.faults.sync().and_then(|()| file.sync_data());
        #[cfg(not(test))]
        let done = file.sync_data();
        done.map_err(|error| {
            self.failed.store(true, Ordering::SeqCst);
            // Never as "no space": what a failed sync left behind is unknown,
            // whatever its reason, so that it must not be tried again.
            io::Error::other(format!("cannot sync: {error}"))
        })
    }

    fn written(&self, done: io::Result<()>) -> io::Result<()> {
        if let Err(error) = &done {
            let flag = if no_space(error) { &self.full } else { &self.failed };
            flag.store(true, Ordering::SeqCst);
        }
        done
    }
}

/// Whether it says that there is no space, for this user or at all.
pub(super) fn no_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// One open handle of the file.
#[derive(Debug)]
pub(super) struct Backend {
    file: File,
    medium: Arc<Medium>,
}

impl Backend {
    /// The file as the engine sees it.
    pub(super) fn new(file: File, medium: Arc<Medium>) -> Self {
        Self { file, medium }
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, offset)?;
        self.medium.sums.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.medium.sums.set_len(len);
        self.medium.set_len(&self.file, len)
    }

    fn sync_data(&self) -> io::Result<()> {
        if !self.medium.syncs() {
            return Ok(());
        }
        self.medium.on_disk.through(|| self.medium.sync(&self.file))
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.medium.written(self.medium.on_disk.begin_write(offset, bytes))?;
        self.medium.sums.begin_write(offset, bytes);
        self.medium.write(&self.file, bytes, offset)?;
        self.medium.sums.written(offset, bytes);
        Ok(())
    }
}

/// Makes the next reads of these ranges come from the disk.
///
/// After a failed sync the kernel may show pages that never reached the disk as
/// if they had. What it still means to write is written first, so that a mere
/// crash of the process loses nothing.
pub(super) fn distrust_the_page_cache(file: &File, ranges: &[Range<u64>]) -> io::Result<()> {
    file.sync_data()?;
    #[cfg(target_os = "linux")]
    for range in ranges {
        // No length would mean "to the end".
        let Some(length) = NonZeroU64::new(range.end.saturating_sub(range.start)) else { continue };
        rustix::fs::fadvise(file, range.start, Some(length), rustix::fs::Advice::DontNeed)?;
    }
    Ok(())
}

/// As [`distrust_the_page_cache`], for a whole file.
pub(super) fn distrust_all_of_the_page_cache(file: &File) -> io::Result<()> {
    let all = 0..file.metadata()?.len();
    distrust_the_page_cache(file, std::slice::from_ref(&all))
}
