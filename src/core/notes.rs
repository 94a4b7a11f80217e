//! Which notes of leases in the log are still of use: a note is forgotten once the
//! last lease in it has ended.

use std::collections::BTreeMap;

/// Open leases by the number of their note.
#[derive(Debug, Default)]
pub struct Notes {
    open: BTreeMap<u64, u64>,
    over: Vec<u64>,
    next: u64,
}

impl Notes {
    /// The number of the next note.
    pub fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Counts one more open lease in a note.
    pub fn open(&mut self, note: u64) {
        *self.open.entry(note).or_default() += 1;
    }

    /// Counts one less, for a lease that stands in a note.
    pub fn close(&mut self, note: Option<u64>) {
        let Some(note) = note else { return };
        let Some(count) = self.open.get_mut(&note) else { return };
        *count -= 1;
        if *count == 0 {
            self.open.remove(&note);
            self.over.push(note);
        }
    }

    /// Makes room for a note that was read from the log.
    pub fn reopen(&mut self, note: u64) {
        self.next = self.next.max(note);
    }

    /// Says that a note read from the log has no more leases than were opened.
    pub fn seal(&mut self, note: u64) {
        if !self.open.contains_key(&note) {
            self.over.push(note);
        }
    }

    /// The notes that may be forgotten, each told once.
    pub fn take_over(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.over)
    }
}

#[cfg(test)]
mod tests;
