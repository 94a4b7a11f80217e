//! Payloads that need not be kept: each follows from the task's number, and so does
//! the result that it must have.

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use crate::client::Task;

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// Bytes of text that are made at once.
const WORD: usize = 8;
/// Bytes at the end of each payload that no other has. What comes before them is the same in
/// all, and hashed once: whoever measures shall not take long to check what was measured.
const OWN: usize = 4 * WORD;

/// The payloads of one run, which no other run has.
#[derive(Debug, Clone)]
pub(super) struct Payloads {
    seed: u64,
    /// What all begin with.
    shared: Bytes,
    /// SHA-256 so far.
    hashed: Sha256,
    /// Bytes of the rest of each.
    own: usize,
}

impl Payloads {
    pub(super) fn new(size: usize, seed: u64) -> Self {
        let own = size.min(OWN);
        let mut shared = vec![0; size - own];
        Text { state: !seed }.fill(&mut shared);
        let hashed = Sha256::new_with_prefix(&shared);
        Self { seed, shared: shared.into(), hashed, own }
    }

    /// The tasks with these numbers. Their payloads share one buffer.
    pub(super) fn tasks(&self, type_name: &str, numbers: std::ops::Range<u64>) -> Vec<Task> {
        let count = usize::try_from(numbers.end.saturating_sub(numbers.start)).unwrap_or_default();
        let size = self.shared.len() + self.own;
        let mut buffer = Vec::with_capacity(count * size);
        for number in numbers.clone() {
            buffer.extend_from_slice(&self.shared);
            buffer.extend_from_slice(&self.text(number)[..self.own]);
        }
        let mut buffer = Bytes::from(buffer);
        numbers.map(|_| Task::new(type_name, buffer.split_to(size))).collect()
    }

    /// Whether this is the SHA-256 of that task's payload, in lower-case hex.
    pub(super) fn is_hash(&self, number: u64, result: &[u8]) -> bool {
        let own = self.text(number);
        let digest = self.hashed.clone().chain_update(&own[..self.own]).finalize();
        let digit = |nibble: u8| DIGITS[usize::from(nibble & 0xf)];
        let pairs = digest.iter().map(|byte| [digit(byte >> 4), digit(*byte)]);
        result.len() == 2 * digest.len() && pairs.eq(result.chunks_exact(2))
    }

    fn text(&self, number: u64) -> [u8; OWN] {
        let mut text = [0; OWN];
        let state = self.seed ^ number.wrapping_mul(0xd134_2543_de82_ef95);
        Text { state }.fill(&mut text);
        text
    }
}

/// Text of letters and accents, from an avalanche of the number: splitmix64, by
/// Sebastiano Vigna (<https://prng.di.unimi.it/splitmix64.c>).
struct Text {
    state: u64,
}

impl Text {
    /// Fills a buffer; the last word is cut where it does not fit.
    fn fill(&mut self, buffer: &mut [u8]) {
        let mut words = buffer.chunks_exact_mut(WORD);
        for word in &mut words {
            word.copy_from_slice(&self.word());
        }
        let rest = words.into_remainder();
        if !rest.is_empty() {
            let word = self.word();
            rest.iter_mut().zip(word).for_each(|(byte, letter)| *byte = letter);
        }
    }

    fn word(&mut self) -> [u8; WORD] {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let text = (mixed ^ (mixed >> 31)) & 0x0f0f_0f0f_0f0f_0f0f | 0x6060_6060_6060_6060;
        text.to_le_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_stays_the_same_wherever_it_is_cut() {
        let tasks = Payloads::new(21, 7).tasks("hash", 5..7);
        assert_eq!(tasks[0].payload(), &Bytes::from_static(b"adkjhgeifkofallfhnkdg"));
        assert_eq!(tasks[1].payload(), &Bytes::from_static(b"ohoacn`bndbgfofgkooba"));
        let longer = Payloads::new(100, 7).tasks("hash", 5..6);
        assert_eq!(&longer[0].payload()[100 - OWN..][..21], &tasks[0].payload()[..]);
    }

    #[test]
    fn every_task_has_a_text_of_its_own_of_the_size_asked_for() {
        for size in [0, 1, 7, 8, 9, OWN - 1, OWN, OWN + 1, 64, 1_000, 5_133] {
            let payloads = Payloads::new(size, 7);
            let tasks = payloads.tasks("hash", 5..8);
            assert_eq!(tasks.len(), 3);
            for (number, task) in (5..).zip(&tasks) {
                assert_eq!(task.payload().len(), size);
                assert!(task.payload().is_ascii());
                let hex = Sha256::digest(task.payload())
                    .iter()
                    .fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
                assert!(payloads.is_hash(number, hex.as_bytes()));
                assert!(!payloads.is_hash(number, hex.to_uppercase().as_bytes()));
                assert!(!payloads.is_hash(number, &hex.as_bytes()[..63]));
                assert!(size == 0 || !payloads.is_hash(number + 1, hex.as_bytes()));
            }
            let other = Payloads::new(size, 8).tasks("hash", 5..6);
            assert!(size == 0 || other[0].payload() != tasks[0].payload(), "another run");
        }
    }
}
