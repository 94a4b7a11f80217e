//! The file beside the engine in which packs have their bytes.
//!
//! What is large is written once, in a row, and where commits wait for the disk it goes there
//! past the system's cache: to have it in the engine's pages costs seven times the copies and
//! checksums. The record of a pack, in the engine, says where its bytes are and what they must
//! be. They are synced before the commit that has the record; what no record tells of is free.
//!
//! ```text
//! block of this file's name · packs, each in whole blocks · free blocks anywhere
//! ```
//!
//! What this module does not do: it knows no table, and believes who asks about what is where.

use std::fs::File;
use std::io;
use std::mem;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::backend::{self, Medium};
use super::directory::Directory;
use super::extents::{Extents, Reading};
use super::tables::engine;
use crate::store::Error;
use crate::store::record::pack::{Extent, PIECE_BYTES};

/// The file.
pub(super) const FILE: &str = "PACKS";
/// The file until it has its first block.
const FILE_IN_THE_MAKING: &str = "PACKS.new";

/// Bytes in which places are counted. Durable. What goes past the system's cache begins and
/// ends with the blocks of the disk, which are not longer.
const BLOCK: usize = 4_096;
const BLOCK_BYTES: u64 = 4_096;

/// The first block, which is no pack's: it tells people what they look at, and us whether
/// the system takes what goes past its cache.
const TITLE: &[u8] = b"Packs of large payloads and results, of taskgrid. See taskgrid.redb.\n";
const FIRST: u64 = 1;

/// Bytes that are written at once: a disk takes pieces of 64 KiB at a third of this rate.
const BUFFER_BYTES: usize = 1 << 20;

/// An open file of packs.
#[derive(Debug)]
pub(super) struct PackFile {
    reader: PackReader,
    /// Its handle that writes.
    file: File,
    medium: Arc<Medium>,
    extents: Mutex<Extents>,
    pen: Mutex<Pen>,
}

/// What is being written.
#[derive(Debug)]
struct Pen {
    /// Longer by a block than what it holds, so that it can begin where memory has a block.
    buffer: Vec<u8>,
    /// Where in the buffer that is.
    margin: usize,
    /// Bytes in it, from there.
    length: usize,
    /// Their place in the file.
    place: u64,
    /// Something was written since the last sync.
    is_dirty: bool,
    /// Blocks of packs that are gone with the next commit.
    gone: Vec<Range<u64>>,
}

impl PackFile {
    /// The file of a directory, made if it is not there. What it holds is told with
    /// [`PackFile::restore`].
    ///
    /// # Errors
    /// When it is there and cannot be opened, or cannot be made.
    pub(super) fn open(directory: &Directory, medium: &Arc<Medium>) -> Result<Self, Error> {
        let mut pen = Pen::new();
        if !directory.has(FILE)? {
            let in_the_making = directory.join(FILE_IN_THE_MAKING);
            let file = directory.create(FILE_IN_THE_MAKING)?;
            let made = medium.synced(|| {
                medium.write(&file, pen.title(), 0)?;
                medium.sync(&file)
            });
            made.map_err(failed)?;
            directory.rename(&in_the_making, FILE)?;
        }
        let file = open_to_write(directory, medium, &mut pen)?;
        let reader = PackReader { file: directory.read_file(FILE)? };
        let (extents, pen) = (Mutex::new(free(Vec::new())?), Mutex::new(pen));
        Ok(Self { reader, file, medium: Arc::clone(medium), extents, pen })
    }

    /// Reads from it.
    pub(super) fn reader(&self) -> &PackReader {
        &self.reader
    }

    /// Learns which extents are in use. Whatever else was written is forgotten, and yet to be
    /// cut off.
    ///
    /// # Errors
    /// As [`free`].
    pub(super) fn restore(&self, used: Vec<Extent>) -> Result<(), Error> {
        *self.extents() = free(used)?;
        self.pen().forget();
        Ok(())
    }

    /// Cuts off what a crash left behind the last extent.
    pub(super) fn cut_rest(&self) -> Result<(), Error> {
        let end = self.extents().end().saturating_mul(BLOCK_BYTES);
        let length = self.file.metadata().map_err(failed)?.len();
        if length > end { self.cut(end) } else { Ok(()) }
    }

    /// Whoever reads from records that he finds from now on must hold this.
    pub(super) fn reading(&self) -> Reading {
        self.extents().reading()
    }

    /// Writes a pack of so many bytes, which are in `parts`, and appends the checksum of each
    /// piece to `sums`. It is there after [`PackFile::sync`].
    pub(super) fn put(
        &self,
        length: usize,
        parts: impl Iterator<Item = Bytes>,
        sums: &mut Vec<u32>,
    ) -> Result<Extent, Error> {
        let length = u64::try_from(length).expect("memory holds it");
        let block = self.extents().take(length.div_ceil(BLOCK_BYTES));
        let mut pen = self.pen();
        let place = block * BLOCK_BYTES;
        if pen.end() != place {
            self.write_out(&mut pen)?;
            pen.place = place;
        }
        let (mut sum, mut missing) = (crc32fast::Hasher::new(), PIECE_BYTES);
        for mut part in parts {
            while !part.is_empty() {
                if pen.length == BUFFER_BYTES {
                    self.write_out(&mut pen)?;
                }
                let room = missing.min(BUFFER_BYTES - pen.length);
                let taken = part.split_to(part.len().min(room));
                sum.update(pen.push(&taken));
                missing -= taken.len();
                if missing == 0 {
                    sums.push(mem::take(&mut sum).finalize());
                    missing = PIECE_BYTES;
                }
            }
        }
        if missing < PIECE_BYTES {
            sums.push(sum.finalize());
        }
        pen.fill_block();
        Ok(Extent { block, length })
    }

    /// With the next commit this one is gone.
    pub(super) fn drop_with_commit(&self, extent: Extent) {
        self.pen().gone.push(blocks(extent));
    }

    /// Before a commit: what was put is there, synced where the store syncs.
    pub(super) fn sync(&self) -> Result<(), Error> {
        let mut pen = self.pen();
        self.write_out(&mut pen)?;
        if pen.is_dirty && self.medium.syncs() {
            self.medium.sync(&self.file).map_err(failed)?;
            pen.is_dirty = false;
        }
        Ok(())
    }

    /// After a commit: what is gone with it gives its blocks back.
    pub(super) fn committed(&self) -> Result<(), Error> {
        let gone = mem::take(&mut self.pen().gone);
        let end = {
            let mut extents = self.extents();
            extents.give_back(gone);
            extents.shorten()
        };
        end.map_or(Ok(()), |end| self.cut(end * BLOCK_BYTES))
    }

    /// Has the next reads look at the disk, see [`backend::distrust_all_of_the_page_cache`].
    pub(super) fn distrust_the_page_cache(&self) -> Result<(), Error> {
        self.reader.distrust_the_page_cache()
    }

    fn cut(&self, length: u64) -> Result<(), Error> {
        self.medium.set_len(&self.file, length).map_err(failed)
    }

    fn write_out(&self, pen: &mut Pen) -> Result<(), Error> {
        if pen.length == 0 {
            return Ok(());
        }
        pen.is_dirty = true;
        self.medium.write(&self.file, pen.bytes(), pen.place).map_err(failed)?;
        pen.place = pen.end();
        pen.length = 0;
        Ok(())
    }

    fn extents(&self) -> MutexGuard<'_, Extents> {
        self.extents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pen(&self) -> MutexGuard<'_, Pen> {
        self.pen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pen {
    fn new() -> Self {
        let buffer = vec![0; BUFFER_BYTES + BLOCK];
        let margin = buffer.as_ptr().align_offset(BLOCK);
        let gone = Vec::new();
        Self { buffer, margin, length: 0, place: 0, is_dirty: false, gone }
    }

    fn bytes(&self) -> &[u8] {
        &self.buffer[self.margin..][..self.length]
    }

    /// Where in the file the next byte goes.
    fn end(&self) -> u64 {
        self.place + u64::try_from(self.length).expect("it fits")
    }

    /// Adds bytes, for which there is room; where they are.
    fn push(&mut self, bytes: &[u8]) -> &[u8] {
        let there = &mut self.buffer[self.margin + self.length..][..bytes.len()];
        there.copy_from_slice(bytes);
        self.length += bytes.len();
        there
    }

    /// Ends the last block with zeros.
    fn fill_block(&mut self) {
        let end = self.length.next_multiple_of(BLOCK);
        self.buffer[self.margin + self.length..][..end - self.length].fill(0);
        self.length = end;
    }

    fn forget(&mut self) {
        self.length = 0;
        self.gone.clear();
    }

    /// The first block of the file.
    fn title(&mut self) -> &[u8] {
        self.forget();
        self.push(TITLE);
        self.fill_block();
        &self.buffer[self.margin..][..mem::take(&mut self.length)]
    }
}

/// Reads packs.
#[derive(Debug)]
pub(super) struct PackReader {
    file: File,
}

impl PackReader {
    /// From the file of a directory, which is only read.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub(super) fn open(directory: &Directory) -> Result<Self, Error> {
        Ok(Self { file: directory.read_file(FILE)? })
    }

    /// The file.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// These bytes of a pack, in place of what `bytes` holds.
    ///
    /// # Errors
    /// When they are not there, or cannot be read.
    pub(super) fn read(
        &self,
        extent: Extent,
        range: &Range<usize>,
        bytes: &mut Vec<u8>,
    ) -> Result<(), Error> {
        bytes.resize(range.len(), 0);
        let offset = u64::try_from(range.start).expect("memory holds as many");
        let place = extent.block.saturating_mul(BLOCK_BYTES).saturating_add(offset);
        self.file.read_exact_at(bytes, place).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidInput => {
                Error::Damaged { what: format!("{FILE} ends before byte {place}, where a pack is") }
            }
            _ => failed(error),
        })
    }

    /// Has the next reads look at the disk, see [`backend::distrust_all_of_the_page_cache`].
    pub(super) fn distrust_the_page_cache(&self) -> Result<(), Error> {
        backend::distrust_all_of_the_page_cache(&self.file).map_err(|error| Error::Failed {
            what: format!("cannot sync {FILE} before reading it: {error}"),
        })
    }
}

/// The handle that writes: past the system's cache where commits wait for the disk and the
/// file system can.
fn open_to_write(directory: &Directory, medium: &Medium, pen: &mut Pen) -> Result<File, Error> {
    if medium.syncs() {
        let direct = directory.open_direct(FILE).ok();
        if let Some(file) = direct.filter(|file| file.write_all_at(pen.title(), 0).is_ok()) {
            return Ok(file);
        }
        tracing::debug!("{FILE} is written through the system's cache");
    }
    directory.open_file(FILE)
}

/// What is free of a file of which these extents are in use.
///
/// # Errors
/// [`Error::Damaged`] when a block is in use twice.
pub(super) fn free(used: Vec<Extent>) -> Result<Extents, Error> {
    let twice = |block| Error::Damaged { what: format!("{FILE}: block {block} is used twice") };
    Extents::new(FIRST, used.into_iter().map(blocks).collect()).map_err(twice)
}

fn blocks(extent: Extent) -> Range<u64> {
    extent.block..extent.block.saturating_add(extent.length.div_ceil(BLOCK_BYTES))
}

fn failed(error: io::Error) -> Error {
    match engine(redb::StorageError::Io(error)) {
        Error::Failed { what } => Error::Failed { what: format!("{FILE}: {what}") },
        other => other,
    }
}
