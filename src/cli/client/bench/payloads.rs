//! Payloads that need not be kept: each follows from the task's number, and so does
//! the result that it must have.

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use crate::client::Task;

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// The payloads of one run, which no other run has.
#[derive(Debug, Clone)]
pub(super) struct Payloads {
    seed: u64,
    size: usize,
}

impl Payloads {
    pub(super) fn new(size: usize, seed: u64) -> Self {
        Self { seed, size }
    }

    /// The tasks with these numbers. Their payloads share one buffer.
    pub(super) fn tasks(&self, type_name: &str, numbers: std::ops::Range<u64>) -> Vec<Task> {
        let mut buffer = Vec::new();
        for number in numbers.clone() {
            self.chunks(number, |chunk| buffer.extend_from_slice(chunk));
        }
        let mut buffer = Bytes::from(buffer);
        numbers.map(|_| Task::new(type_name, buffer.split_to(self.size))).collect()
    }

    /// Whether this is the SHA-256 of that task's payload, in lower-case hex.
    pub(super) fn is_hash(&self, number: u64, result: &[u8]) -> bool {
        let mut digest = Sha256::new();
        self.chunks(number, |chunk| digest.update(chunk));
        let digest = digest.finalize();
        let digit = |nibble: u8| DIGITS[usize::from(nibble & 0xf)];
        let pairs = digest.iter().map(|byte| [digit(byte >> 4), digit(*byte)]);
        result.len() == 2 * digest.len() && pairs.eq(result.chunks_exact(2))
    }

    /// Text of letters and accents, from an avalanche of the number: splitmix64, by
    /// Sebastiano Vigna (<https://prng.di.unimi.it/splitmix64.c>).
    fn chunks(&self, number: u64, mut take: impl FnMut(&[u8])) {
        let mut state = self.seed ^ number.wrapping_mul(0xd134_2543_de82_ef95);
        let mut left = self.size;
        while left > 0 {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            let text = (mixed ^ (mixed >> 31)) & 0x0f0f_0f0f_0f0f_0f0f | 0x6060_6060_6060_6060;
            let bytes = text.to_le_bytes();
            let chunk = bytes.get(..left).unwrap_or(&bytes);
            take(chunk);
            left -= chunk.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_has_a_text_of_its_own_of_the_size_asked_for() {
        for size in [0, 1, 8, 32, 1_000] {
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
        }
    }
}
