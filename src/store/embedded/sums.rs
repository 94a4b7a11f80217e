//! What each block of the open file must be: the checksum of what was last written there,
//! or first read, when all of it was checked.
//!
//! The engine checks its pages when the file is opened and believes them afterwards: of a
//! page that was damaged meanwhile it might not find what is in it, and say that it is not
//! there. Four bytes of memory for each block, a thousandth of the file.
//!
//! What this module does not do: it keeps nothing that outlives the process.

use std::io;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// Bytes of a block: the engine's smallest page, where all pages begin and end.
const BLOCK: u64 = 4_096;

/// The checksum of a block that nobody has seen whole. One in four billion blocks has it
/// as its own, and is not checked.
const UNKNOWN: u32 = 0;

/// The checksums of one file.
#[derive(Debug, Default)]
pub(super) struct Sums {
    known: Mutex<Vec<u32>>,
    damage: OnceLock<String>,
}

impl Sums {
    /// Looks at what was read, and refuses what was not written there.
    pub(super) fn read(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        for (number, block) in whole_blocks(offset, bytes) {
            let sum = crc32fast::hash(block);
            let mut known = self.known();
            let held = slot(&mut known, number);
            if *held == UNKNOWN {
                *held = sum;
            } else if *held != sum {
                drop(known);
                let place = number * BLOCK;
                let what = format!("the page at byte {place} of its file is not what was written");
                let what = self.damage.get_or_init(|| what).clone();
                return Err(io::Error::new(io::ErrorKind::InvalidData, what));
            }
        }
        Ok(())
    }

    /// Before a write: what is there is unknown until it has succeeded.
    pub(super) fn begin_write(&self, offset: u64, bytes: &[u8]) {
        let Some(end) = offset.checked_add(length(bytes)) else { return };
        let mut known = self.known();
        for number in offset / BLOCK..end.div_ceil(BLOCK) {
            *slot(&mut known, number) = UNKNOWN;
        }
    }

    /// After a write.
    pub(super) fn written(&self, offset: u64, bytes: &[u8]) {
        for (number, block) in whole_blocks(offset, bytes) {
            let sum = crc32fast::hash(block);
            *slot(&mut self.known(), number) = sum;
        }
    }

    /// What was behind an end of the file is not what will be there.
    pub(super) fn set_len(&self, len: u64) {
        let kept = usize::try_from(len / BLOCK).unwrap_or(usize::MAX);
        self.known().truncate(kept);
    }

    /// The first damage that was found, if one was.
    pub(super) fn damage(&self) -> Option<&str> {
        self.damage.get().map(String::as_str)
    }

    fn known(&self) -> MutexGuard<'_, Vec<u32>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn slot(known: &mut Vec<u32>, number: u64) -> &mut u32 {
    let place = usize::try_from(number).expect("there is memory for a block's number");
    if known.len() <= place {
        known.resize(place + 1, UNKNOWN);
    }
    &mut known[place]
}

/// The blocks that lie whole in a range, with their numbers.
fn whole_blocks(offset: u64, bytes: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    let first = offset.div_ceil(BLOCK);
    let skipped = usize::try_from(first * BLOCK - offset).expect("it is less than a block");
    let size = usize::try_from(BLOCK).expect("it fits");
    let blocks = bytes.get(skipped..).unwrap_or_default().chunks_exact(size);
    (first..).zip(blocks)
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).expect("it fits")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: usize = 4_096;

    #[test]
    fn what_was_written_is_what_must_be_read() {
        let sums = Sums::default();
        let two = [7; 2 * SIZE];
        sums.begin_write(BLOCK, &two);
        sums.written(BLOCK, &two);
        sums.read(BLOCK, &two).unwrap();
        sums.read(2 * BLOCK, &two[SIZE..]).unwrap();
        assert_eq!(sums.damage(), None);
        let mut flipped = two;
        flipped[SIZE + 5] ^= 1;
        let refused = sums.read(BLOCK, &flipped).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
        assert_eq!(
            sums.damage(),
            Some("the page at byte 8192 of its file is not what was written")
        );
    }

    #[test]
    fn what_was_first_read_is_what_must_be_read_again() {
        let sums = Sums::default();
        sums.read(0, &[1; SIZE]).unwrap();
        sums.read(0, &[1; SIZE]).unwrap();
        assert!(sums.read(0, &[2; SIZE]).is_err());
    }

    #[test]
    fn what_is_not_whole_or_not_there_any_more_is_believed() {
        let sums = Sums::default();
        sums.read(0, &[1; 3 * SIZE]).unwrap();
        sums.read(100, &[2; 300]).unwrap();
        // Part of the first block, of which the rest is unknown, and a write that failed.
        sums.begin_write(0, &[2; 320]);
        sums.written(0, &[2; 320]);
        sums.read(0, &[3; SIZE]).unwrap();
        sums.begin_write(BLOCK, &[2; SIZE]);
        sums.read(BLOCK, &[3; SIZE]).unwrap();
        sums.set_len(2 * BLOCK);
        sums.read(2 * BLOCK, &[0; SIZE]).unwrap();
        assert!(sums.read(BLOCK, &[4; SIZE]).is_err());
    }
}
