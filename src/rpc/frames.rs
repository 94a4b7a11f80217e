//! What came of a frame of HTTP/2 that is not whole: it is held below all calls, and nobody
//! above hears of it before its last byte is there.
//!
//! What this module does not do: it judges no frame; the server behind does.

/// Bytes of what each frame begins with: RFC 9113, section 4.1.
const HEADER: usize = 9;

/// Bytes of the largest frame that a peer may send. Each is a piece of work of its own for
/// both sides: with frames of 16 KiB, the protocol's own size, 1 MiB takes a quarter more of
/// a processor, with 256 KiB no less.
pub(super) const FRAME_BYTES: u32 = 128 << 10;

/// Bytes of a frame that are not counted: those of nearly all frames that are small.
const UNCOUNTED: usize = 16 << 10;

/// Follows the bytes of a connection, behind the preface.
#[derive(Debug, Default)]
pub(super) struct Frames {
    /// The beginning of the frame, as far as it came.
    header: [u8; HEADER],
    /// Bytes of the frame that came, of the header and behind it.
    came: usize,
}

impl Frames {
    /// Takes the next bytes. How many are held now of a frame that is not whole, beyond those
    /// that are not counted.
    pub(super) fn come(&mut self, mut bytes: &[u8]) -> u64 {
        while !bytes.is_empty() {
            let whole = self.whole();
            let some = bytes.len().min(whole - self.came);
            let (first, rest) = bytes.split_at(some);
            if let Some(header) = self.header.get_mut(self.came..) {
                let length = header.len().min(some);
                header[..length].copy_from_slice(&first[..length]);
            }
            self.came += some;
            bytes = rest;
            if self.came == self.whole() {
                self.came = 0;
            }
        }
        u64::try_from(self.came.saturating_sub(UNCOUNTED)).expect("memory holds it")
    }

    /// Bytes of the frame, as far as that is known.
    fn whole(&self) -> usize {
        if self.came < HEADER {
            return HEADER;
        }
        let [high, middle, low, ..] = self.header;
        HEADER + (usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A frame with so many bytes behind its header.
    fn frame(length: usize) -> Vec<u8> {
        let header = u32::try_from(length << 8).unwrap().to_be_bytes();
        [&header[..3], &vec![0xff; 6 + length]].concat()
    }

    fn counted(bytes: usize) -> u64 {
        u64::try_from(bytes.saturating_sub(UNCOUNTED)).unwrap()
    }

    proptest! {
        #[test]
        fn what_is_held_is_what_came_of_the_last_frame_however_it_comes(
            lengths in proptest::collection::vec(prop_oneof![0..20_usize, 0..300_000_usize], 1..5),
            cuts in proptest::collection::vec(1..200_000_usize, 1..40),
        ) {
            let ends: Vec<usize> = lengths.iter().scan(0, |end, length| {
                *end += HEADER + length;
                Some(*end)
            }).collect();
            let bytes: Vec<u8> = lengths.into_iter().flat_map(frame).collect();
            let mut frames = Frames::default();
            let mut at = 0;
            for cut in cuts {
                let next = bytes.len().min(at + cut);
                let held = frames.come(&bytes[at..next]);
                at = next;
                let begun = ends.iter().copied().take_while(|end| *end <= at).last().unwrap_or(0);
                prop_assert_eq!(held, counted(at - begun));
            }
        }
    }
}
