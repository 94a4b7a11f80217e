//! A file below the engine that is only read: what the engine writes stays in memory.
//!
//! So a store can be opened as a start would open it, checked and repaired, and lies
//! there afterwards as it lay before.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use redb::StorageBackend;

/// What is kept of a write goes by blocks of this size, the engine's smallest page.
const BLOCK: usize = 4_096;

/// How often one place may be read while the tables are walked through without a cache:
/// once, and for each table what is above them. Damaged pages may form a loop.
const READS: u32 = 100;

/// One open handle of the file.
#[derive(Debug)]
pub(super) struct Overlay {
    file: File,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    length: u64,
    /// How much of the file is seen: what was cut off comes back as zeros.
    seen: u64,
    /// Blocks that differ from the file, by their number.
    written: BTreeMap<u64, Box<[u8]>>,
    /// How often each place was read, where that is watched.
    reads: Option<BTreeMap<u64, u32>>,
}

impl Overlay {
    /// The file as it is.
    pub(super) fn new(file: File) -> io::Result<Self> {
        let length = file.metadata()?.len();
        let state = State { length, seen: length, written: BTreeMap::new(), reads: None };
        Ok(Self { file, state: Mutex::new(state) })
    }

    /// From here on a place that is read again and again is an error.
    pub(super) fn watch_for_loops(&self) {
        self.state().reads = Some(BTreeMap::new());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn note_read(&mut self, offset: u64) -> io::Result<()> {
        let Some(reads) = &mut self.reads else { return Ok(()) };
        let count = reads.entry(offset).or_default();
        *count += 1;
        if *count > READS {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "its pages form a loop"));
        }
        Ok(())
    }

    /// A block as it stands: written, or in the file, or behind its end.
    fn block(&mut self, file: &File, number: u64) -> io::Result<&mut [u8]> {
        if !self.written.contains_key(&number) {
            let mut block = vec![0; BLOCK].into_boxed_slice();
            read_up_to(self.seen, file, number * block_length(), &mut block)?;
            self.written.insert(number, block);
        }
        Ok(self.written.get_mut(&number).expect("it was put there above"))
    }
}

impl StorageBackend for Overlay {
    fn len(&self) -> io::Result<u64> {
        Ok(self.state().length)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut state = self.state();
        let end = offset.checked_add(length(out));
        if end.is_none_or(|end| end > state.length) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        state.note_read(offset)?;
        read_up_to(state.seen, &self.file, offset, out)?;
        for (start, block) in pieces(offset, out.len()) {
            if let Some(written) = state.written.get(&block.number) {
                out[start..start + block.length].copy_from_slice(&written[block.range()]);
            }
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.state();
        let rest = usize::try_from(len % block_length()).expect("it is less than a block");
        if len < state.length {
            state.seen = state.seen.min(len);
            state.written.retain(|number, _| number * block_length() < len);
            if let Some(last) = state.written.get_mut(&(len / block_length())) {
                last[rest..].fill(0);
            }
        }
        state.length = len;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        for (start, block) in pieces(offset, bytes.len()) {
            state.block(&self.file, block.number)?[block.range()]
                .copy_from_slice(&bytes[start..start + block.length]);
        }
        Ok(())
    }
}

/// A part of a block.
struct Part {
    number: u64,
    from: usize,
    length: usize,
}

impl Part {
    fn range(&self) -> std::ops::Range<usize> {
        self.from..self.from + self.length
    }
}

/// The blocks under a range, each with where its part begins in that range.
fn pieces(offset: u64, length: usize) -> impl Iterator<Item = (usize, Part)> {
    let first = usize::try_from(offset % block_length()).expect("it is less than a block");
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == length {
            return None;
        }
        let from = (first + done) % BLOCK;
        let number = (offset + u64::try_from(done).expect("it fits")) / block_length();
        let part = Part { number, from, length: (BLOCK - from).min(length - done) };
        let start = done;
        done += part.length;
        Some((start, part))
    })
}

/// Reads a range of a file that ends at `end`; what is behind it is zero.
fn read_up_to(end: u64, file: &File, offset: u64, out: &mut [u8]) -> io::Result<()> {
    let there = usize::try_from(end.saturating_sub(offset)).unwrap_or(usize::MAX).min(out.len());
    let (there, behind) = out.split_at_mut(there);
    behind.fill(0);
    file.read_exact_at(there, offset)
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).expect("it fits")
}

fn block_length() -> u64 {
    u64::try_from(BLOCK).expect("it fits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back_and_the_file_stays_as_it_was() {
        let path = tempfile::NamedTempFile::new().unwrap().into_temp_path();
        let original: Vec<u8> = (0..10_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        std::fs::write(&path, &original).unwrap();
        let overlay = Overlay::new(File::open(&path).unwrap()).unwrap();
        let mut model = original.clone();
        for (offset, length) in
            [(0_usize, 10), (4_090, 10), (4_096, 4_096), (9_990, 10), (100, 9_000)]
        {
            let bytes = vec![offset.to_le_bytes()[0] ^ 0x5a; length];
            overlay.write(u64::try_from(offset).unwrap(), &bytes).unwrap();
            model[offset..offset + length].copy_from_slice(&bytes);
        }
        let mut read = vec![1; model.len()];
        overlay.read(0, &mut read).unwrap();
        assert!(read == model);
        assert!(overlay.read(1, &mut read).is_err(), "it ends before");
        overlay.set_len(5_000).unwrap();
        overlay.set_len(20_000).unwrap();
        for place in [5_000, 5_500, 9_990, 19_990] {
            let mut read = vec![1; 10];
            overlay.read(place, &mut read).unwrap();
            assert_eq!(read, [0; 10], "{place}");
        }
        assert!(std::fs::read(&path).unwrap() == original);
    }
}
