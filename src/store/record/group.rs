//! Groups as a journal holds them: each whole, one after the other.
//!
//! ```text
//! crc32 (4 bytes) · length of what follows (4 bytes) ·
//! version (1 byte) · nonce of the boot (8 bytes) · number of the commit (8 bytes) · group (postcard)
//! ```
//!
//! All numbers are little-endian. A group is read back by the next start, or by none: no
//! other version has to be read, but one that turns up is told from damage.

use super::{CRC_BYTES, put};
use crate::store::{Error, Group};

/// The encoding that is written. Raised with every change of what a group holds, see
/// [`super`].
const VERSION: u8 = 1;

/// Bytes of the checksum and of the length.
const FRAME_BYTES: usize = CRC_BYTES + 4;

/// Which commit a group was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) struct Stamp {
    /// The nonce of the boot that made it, so that what another store left is not taken.
    pub(in crate::store) nonce: u64,
    /// Its number.
    pub(in crate::store) number: u64,
}

impl Stamp {
    /// That of the next commit.
    pub(in crate::store) fn next(self) -> Self {
        Self { number: self.number + 1, ..self }
    }
}

/// Writes a group into an empty buffer.
pub(in crate::store) fn seal(
    stamp: Stamp,
    group: &Group,
    buffer: &mut Vec<u8>,
) -> Result<(), Error> {
    buffer.resize(FRAME_BYTES, 0);
    buffer.push(VERSION);
    buffer.extend_from_slice(&stamp.nonce.to_le_bytes());
    buffer.extend_from_slice(&stamp.number.to_le_bytes());
    put(buffer, group)?;
    let length = u32::try_from(buffer.len() - FRAME_BYTES);
    let length = length.map_err(|_| Error::Failed { what: "a group is too large".to_owned() })?;
    buffer[CRC_BYTES..FRAME_BYTES].copy_from_slice(&length.to_le_bytes());
    let crc = crc32fast::hash(&buffer[CRC_BYTES..]);
    buffer[..CRC_BYTES].copy_from_slice(&crc.to_le_bytes());
    Ok(())
}

/// A sealed group whose checksum is right.
#[derive(Debug)]
pub(in crate::store) struct Sealed<'a> {
    /// Which commit it was.
    pub(in crate::store) stamp: Stamp,
    /// All its bytes, frame included.
    pub(in crate::store) length: usize,
    version: u8,
    group: &'a [u8],
}

impl<'a> Sealed<'a> {
    /// What begins here, if all of it is what was written.
    pub(in crate::store) fn begin(bytes: &'a [u8]) -> Option<Self> {
        let (crc, rest) = bytes.split_first_chunk::<CRC_BYTES>()?;
        let (length, _) = rest.split_first_chunk::<4>()?;
        let body = usize::try_from(u32::from_le_bytes(*length)).ok()?;
        let checked = rest.get(..body.checked_add(4)?)?;
        if u32::from_le_bytes(*crc) != crc32fast::hash(checked) {
            return None;
        }
        let (&version, body) = checked[4..].split_first()?;
        let (nonce, body) = body.split_first_chunk::<8>()?;
        let (number, group) = body.split_first_chunk::<8>()?;
        let stamp =
            Stamp { nonce: u64::from_le_bytes(*nonce), number: u64::from_le_bytes(*number) };
        Some(Self { stamp, length: CRC_BYTES + checked.len(), version, group })
    }

    /// The group.
    ///
    /// # Errors
    /// [`Error::Damaged`] when another version wrote it.
    pub(in crate::store) fn open(&self) -> Result<Group, Error> {
        let damaged = |problem: &dyn std::fmt::Display| Error::Damaged {
            what: format!("group {} of the journal: {problem}", self.stamp.number),
        };
        if self.version != VERSION {
            return Err(damaged(&format_args!(
                "it has version {}, this taskgrid reads {VERSION}: start the one that wrote it, \
                 and stop it in good order",
                self.version
            )));
        }
        let mut group: Group = postcard::from_bytes(self.group).map_err(|error| damaged(&error))?;
        for entry in &mut group.entries {
            entry.count_bytes();
        }
        Ok(group)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::core::id::{Seq, TaskId};
    use crate::core::task::Change;
    use crate::store::Trim;
    use crate::store::conformance::samples::{any_event, changed, group, leased, submitted};

    const STAMP: Stamp = Stamp { nonce: 7, number: 9 };

    fn sealed(group: &Group) -> Vec<u8> {
        let mut buffer = Vec::new();
        seal(STAMP, group, &mut buffer).unwrap();
        buffer
    }

    proptest! {
        #[test]
        fn a_group_reads_back_as_it_was_written_whatever_follows_it(
            events in proptest::collection::vec(any_event(), 0..20),
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let mut held = group(events.into_iter().map(Into::into));
            if let Some(first) = held.entries.first_mut() {
                first.bytes = bytes.clone().into();
                first.count_bytes();
            }
            held.trim = Trim {
                tasks: vec![(TaskId(1), Seq(2))],
                keys: vec![TaskId(3)],
                notes: vec![4],
            };
            let mut record = sealed(&held);
            let length = record.len();
            record.extend_from_slice(&bytes);
            let read = Sealed::begin(&record).unwrap();
            prop_assert_eq!((read.stamp, read.length), (STAMP, length));
            prop_assert_eq!(read.open().unwrap(), held);
        }

        #[test]
        fn a_bit_that_flips_or_a_byte_that_is_missing_is_noticed(
            event in any_event(), bit: proptest::sample::Index,
        ) {
            let record = sealed(&group([event.into()]));
            let bit = bit.index(record.len() * 8);
            prop_assert!(Sealed::begin(&record[..bit / 8]).is_none());
            let mut flipped = record;
            flipped[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(Sealed::begin(&flipped).is_none());
        }

        #[test]
        fn what_nobody_wrote_is_no_group_and_no_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..100),
        ) {
            prop_assert!(Sealed::begin(&bytes).is_none());
        }
    }

    /// A group of version 1, as it may wait on the disk of a user.
    #[test]
    fn groups_of_version_1_are_written_and_read_as_they_always_were() {
        let done = changed(3, 17, Some(2), Change::Completed).with(b"6");
        let mut held = group([submitted(17, b"[1,2,3]"), done, leased(1, 17).into()]);
        held.trim =
            Trim { tasks: vec![(TaskId(1), Seq(2))], keys: vec![TaskId(3)], notes: vec![4] };
        let record = sealed(&held);
        let hex: Vec<String> = record.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            hex.concat(),
            "3d1012ef7a0000000107000000000000000900000000000000030011020580d0dfb4ab3380d0dfb4ab330003030007075b312c322c335d01031101028cd0dfb4ab33020580d0dfb4ab3380d0dfb4ab330003030000010101070308776f726b65722d3183d0dfb4ab330f000136020101770301110107010105000001010201030104"
        );
        assert_eq!(Sealed::begin(&record).unwrap().open().unwrap(), held);
    }

    #[test]
    fn nothing_is_no_group() {
        assert!(Sealed::begin(&[0; 4_096]).is_none());
    }

    #[test]
    fn a_group_of_another_version_is_told_from_damage() {
        let mut record = sealed(&group([submitted(1, b"payload")]));
        record[FRAME_BYTES] = VERSION + 1;
        let crc = crc32fast::hash(&record[CRC_BYTES..]);
        record[..CRC_BYTES].copy_from_slice(&crc.to_le_bytes());
        let refused = Sealed::begin(&record).unwrap().open().unwrap_err();
        assert_eq!(
            refused.to_string(),
            "the store is damaged: group 9 of the journal: it has version 2, this taskgrid reads \
             1: start the one that wrote it, and stop it in good order"
        );
    }
}
