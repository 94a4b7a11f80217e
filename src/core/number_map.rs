//! Hash maps by ids and tokens: numbers that rise by one, and come and go nearly in order.
//!
//! A good hash spreads neighbours over the whole table, so that each step along a
//! thousand of them is a miss of the processor's cache. Here neighbours stay together, a
//! group of the table at a time, and the groups are spread. Nobody outside chooses these
//! numbers, so that nothing has to be done against those who would choose them to collide.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

/// A map by ids or tokens.
pub type NumberMap<K, V> = HashMap<K, V, BuildHasherDefault<NumberHasher>>;
/// A set of ids or tokens.
pub type NumberSet<K> = HashSet<K, BuildHasherDefault<NumberHasher>>;

/// Numbers that stay together: as many as the standard library's table looks at at once.
const GROUP_BITS: u32 = 4;
/// An odd number without a pattern: 2⁶⁴ divided by the golden ratio, see Knuth, The Art of
/// Computer Programming, volume 3, 6.4.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
/// What of a hash tells keys apart that have the same place; the low bits are the place.
const TAG: u64 = 0x7f << (u64::BITS - 7);

/// See the module.
#[derive(Debug, Default, Clone, Copy)]
pub struct NumberHasher {
    state: u64,
}

impl Hasher for NumberHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.state = self.state.wrapping_mul(SPREAD).wrapping_add(number);
    }

    fn finish(&self) -> u64 {
        let spread = (self.state >> GROUP_BITS).wrapping_mul(SPREAD);
        let group = spread.rotate_left(u64::BITS / 2) << GROUP_BITS;
        let place = self.state & ((1 << GROUP_BITS) - 1);
        let tag = self.state.wrapping_mul(SPREAD);
        ((group | place) & !TAG) | (tag & TAG)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::hash::BuildHasher as _;

    use super::*;
    use crate::core::id::{Epoch, TaskId, Token};

    /// How many of so many keys have their place in each group of a table of this size.
    fn groups(hashes: impl Iterator<Item = u64>, table: u64) -> BTreeMap<u64, u32> {
        let mut groups = BTreeMap::new();
        for hash in hashes {
            *groups.entry((hash & (table - 1)) >> GROUP_BITS).or_default() += 1;
        }
        groups
    }

    fn hash(key: impl std::hash::Hash) -> u64 {
        BuildHasherDefault::<NumberHasher>::default().hash_one(key)
    }

    #[test]
    fn neighbours_share_a_group_with_a_place_and_a_tag_for_each() {
        let epoch = Epoch { boot: 7, nonce: 0x1234_5678_9abc_def0 };
        let ids = (160..176).map(|id| hash(TaskId(id)));
        let tokens = (0..1 << GROUP_BITS).map(|sequence| hash(Token { epoch, sequence }));
        let places: Vec<u64> = ids.clone().map(|hash| hash & 0xf).collect();
        assert_eq!(places, (0..16).collect::<Vec<u64>>());
        assert_eq!(groups(ids.clone(), 4_096).len(), 1);
        assert!(groups(tokens, 4_096).len() <= 2, "they begin anywhere in a group");
        let tags: std::collections::BTreeSet<u64> = ids.map(|hash| hash >> 57).collect();
        assert!(tags.len() > 12, "{tags:?}");
    }

    #[test]
    fn no_group_has_many_whatever_the_steps_of_the_numbers() {
        for step in [1, 2, 16, 64, 1_000, 1_024, 4_096, 1 << 20, 1 << 32] {
            // As full as a table gets: seven eighths.
            let hashes = (0..1_792_u64).map(|number| hash(TaskId(number * step)));
            let most = groups(hashes, 2_048).into_values().max();
            assert!(most <= Some(32), "{most:?} with steps of {step}");
        }
    }
}
