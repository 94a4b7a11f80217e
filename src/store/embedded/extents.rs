//! Which blocks of a file are free.
//!
//! Nothing of it is on the disk: what is not free is told by the records that a start reads.
//!
//! ```text
//!        take                 give back                  the last reader from before has gone
//! free ────────▶ in use ─────────────────▶ given back ─────────────────────────────────────▶ free
//! ```
//!
//! Who began to read before a record was gone may still follow it to its blocks, so they are
//! not written again until all who read then have gone.
//!
//! What this module does not do: it reads and writes nothing.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

/// Holes that are looked at for one extent, before it goes to the end of the file: who asks
/// for blocks shall not wait for a walk through a million holes that are too small.
const TRIES: usize = 64;

/// Free blocks at the end of the file that are given back to the system: as they may be needed
/// again soon, not fewer than this.
const SPARE: u64 = 16 << 10;

/// Held by who reads, from before the beginning.
#[derive(Debug)]
pub(super) struct Reading {
    _counted: Arc<()>,
}

/// The free blocks of one file.
#[derive(Debug)]
pub(super) struct Extents {
    /// Those before the end: the first and how many.
    free: BTreeMap<u64, u64>,
    /// The first block behind all that are in use.
    end: u64,
    /// Where the next search begins.
    next: u64,
    /// Held by those who read now.
    readers: Arc<()>,
    /// What was given back, and those who read then.
    given_back: VecDeque<(Arc<()>, Vec<Range<u64>>)>,
}

impl Extents {
    /// With these blocks in use, in any order, and none before `first`; else the first of
    /// them that is in use twice.
    pub(super) fn new(first: u64, mut used: Vec<Range<u64>>) -> Result<Self, u64> {
        used.sort_unstable_by_key(|blocks| blocks.start);
        let (mut free, mut end) = (BTreeMap::new(), first);
        for blocks in used {
            if blocks.start < end {
                return Err(blocks.start);
            }
            if blocks.start > end {
                free.insert(end, blocks.start - end);
            }
            end = blocks.end;
        }
        let (readers, given_back) = (Arc::default(), VecDeque::new());
        Ok(Self { free, end, next: first, readers, given_back })
    }

    /// The first of so many blocks in a row, which are in use from now on.
    pub(super) fn take(&mut self, count: u64) -> u64 {
        self.reclaim();
        let behind = self.free.range(self.next..);
        let before = self.free.range(..self.next);
        let mut holes = behind.chain(before).take(TRIES).map(|(&start, &length)| (start, length));
        let mut seen = None;
        let hole = holes.find(|&(start, length)| {
            seen = Some(start);
            length >= count
        });
        if let Some((start, length)) = hole {
            self.free.remove(&start);
            if length > count {
                self.free.insert(start + count, length - count);
            }
            self.next = start + count;
            return start;
        }
        // Those that were too small are not looked at again at once.
        self.next = seen.map_or(0, |seen| seen + 1);
        let start = self.end;
        self.end += count;
        start
    }

    /// Gives blocks back, to which nobody comes who begins to read later.
    pub(super) fn give_back(&mut self, blocks: Vec<Range<u64>>) {
        if !blocks.is_empty() {
            let readers = std::mem::take(&mut self.readers);
            self.given_back.push_back((readers, blocks));
        }
    }

    /// Who reads is known from now on, until this is dropped.
    pub(super) fn reading(&self) -> Reading {
        Reading { _counted: Arc::clone(&self.readers) }
    }

    /// Frees what was given back before all who still read began.
    fn reclaim(&mut self) {
        while let Some((readers, _)) = self.given_back.front_mut()
            && Arc::get_mut(readers).is_some()
        {
            let (_, blocks) = self.given_back.pop_front().expect("it was looked at");
            for blocks in blocks {
                self.free(blocks);
            }
        }
    }

    /// The new end, in blocks, if so many before the old one are free that the file is to be
    /// cut there.
    pub(super) fn shorten(&mut self) -> Option<u64> {
        self.reclaim();
        let (&start, &length) = self.free.last_key_value()?;
        if start + length < self.end || length < SPARE {
            return None;
        }
        self.free.remove(&start);
        self.end = start;
        Some(start)
    }

    /// The first block behind all that are in use.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    fn free(&mut self, Range { mut start, mut end }: Range<u64>) {
        if let Some((&before, &length)) = self.free.range(..start).next_back()
            && before + length == start
        {
            start = before;
        }
        if let Some(length) = self.free.remove(&end) {
            end += length;
        }
        self.free.insert(start, end - start);
    }
}
