//! Space that is held against the day when the disk is full: a file of nothing. It is given
//! up so that outcomes and trims find room, and held again before new tasks are let in.
//!
//! What this module does not do: it does not see that the disk is full; the file below the
//! engine does.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;

use rustix::fs::{FallocateFlags, fallocate, statvfs};
use rustix::io::Errno;

use super::backend::no_space;
use super::directory::Directory;
use crate::store::Error;

/// The file.
const FILE: &str = "RESERVE";
/// How much is held: the outcomes of many thousand tasks, a few of the largest ones …
const BYTES: u64 = 32 << 20;
/// … and which part of a small disk at most.
const PART: u64 = 16;
/// Bytes of what the system calls a block in the account of a file.
const BLOCK: u64 = 512;

/// Holds it, if there is room for it and as much again: who is let in on its account would
/// soon ask for it. Tells whether new tasks have room.
pub(super) fn hold(directory: &Directory) -> bool {
    match try_hold(directory) {
        Ok(is_held) => is_held,
        Err(error) => {
            // What the disk allows nobody is no reason to refuse tasks.
            tracing::warn!(%error, "cannot hold space in reserve for a full disk");
            true
        }
    }
}

/// Gives it up; tells whether there was any.
pub(super) fn give_up(directory: &Directory) -> bool {
    let was_held = std::fs::metadata(directory.join(FILE)).is_ok_and(|file| file.blocks() > 0);
    if let Err(error) = remove(directory) {
        tracing::warn!(%error, "cannot give up what is held in reserve for a full disk");
        return false;
    }
    was_held
}

fn try_hold(directory: &Directory) -> io::Result<bool> {
    let path = directory.join(FILE);
    let disk = statvfs(directory.path())?;
    let bytes = BYTES.min(disk.f_blocks.saturating_mul(disk.f_frsize) / PART);
    let held = std::fs::metadata(&path).map_or(0, |file| file.blocks().saturating_mul(BLOCK));
    if held >= bytes {
        return Ok(true);
    }
    if disk.f_bavail.saturating_mul(disk.f_frsize) < bytes * 2 - held {
        return Ok(false);
    }
    let file = directory.create(FILE).map_err(|error| match error {
        Error::Unusable { source, .. } => source,
        other => io::Error::other(other),
    });
    match file.and_then(|file| take(&file, bytes)) {
        Ok(()) => Ok(true),
        Err(error) => {
            remove(directory)?;
            if no_space(&error) { Ok(false) } else { Err(error) }
        }
    }
}

/// Makes the file so long, of space that is its own.
fn take(mut file: &File, bytes: u64) -> io::Result<()> {
    match fallocate(file, FallocateFlags::empty(), 0, bytes) {
        Err(Errno::OPNOTSUPP) => io::copy(&mut io::repeat(0).take(bytes), &mut file).map(drop),
        done => Ok(done?),
    }
}

fn remove(directory: &Directory) -> io::Result<()> {
    match std::fs::remove_file(directory.join(FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    #[test]
    fn what_is_held_takes_space_and_is_given_up_once() {
        let dir = TempDir::new().unwrap();
        let directory = Directory::take(dir.path()).unwrap();
        assert!(!give_up(&directory));
        for _ in 0..2 {
            assert!(hold(&directory), "the disk of the tests has space");
            let file = std::fs::metadata(dir.path().join(FILE)).unwrap();
            assert_eq!(file.len(), BYTES);
            assert!(file.blocks() * BLOCK >= BYTES, "it is not sparse");
        }
        assert!(give_up(&directory));
        assert!(!give_up(&directory));
        assert!(!dir.path().join(FILE).exists());
    }

    #[test]
    fn a_file_without_space_of_its_own_is_made_anew() {
        let dir = TempDir::new().unwrap();
        let directory = Directory::take(dir.path()).unwrap();
        File::create(dir.path().join(FILE)).unwrap().set_len(BYTES).unwrap();
        assert!(hold(&directory));
        assert!(std::fs::metadata(dir.path().join(FILE)).unwrap().blocks() * BLOCK >= BYTES);
    }
}
