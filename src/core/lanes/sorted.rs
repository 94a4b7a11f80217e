//! A sorted set for millions of small values, most of which come in rising order.
//!
//! The standard library's tree leaves its nodes half empty when they are filled in that
//! order; here each value costs its own size and little more.

use std::collections::{BTreeMap, VecDeque};

/// Values of one run, which lie together: as many as fill a page of memory at 16 bytes.
const RUN: usize = 256;

/// A set of values, sorted.
#[derive(Debug)]
pub(super) struct Sorted<T> {
    /// Runs of values, each under the first of them when the run began: what is in it is not
    /// less, and less than the next run's.
    runs: BTreeMap<T, VecDeque<T>>,
}

impl<T> Default for Sorted<T> {
    fn default() -> Self {
        Self { runs: BTreeMap::new() }
    }
}

impl<T: Ord + Copy> Sorted<T> {
    /// Adds a value.
    pub(super) fn insert(&mut self, value: T) {
        let Some((_, run)) = self.runs.range_mut(..=value).next_back() else {
            return self.insert_before_all(value);
        };
        let Err(place) = run.binary_search(&value) else { return };
        if run.len() < RUN {
            run.insert(place, value);
        } else if place == RUN {
            self.runs.insert(value, VecDeque::from([value]));
        } else {
            let upper = run.split_off(RUN / 2);
            if let Some(&first) = upper.front() {
                self.runs.insert(first, upper);
            }
            self.insert(value);
        }
    }

    /// Takes a value out; tells whether it was in.
    pub(super) fn remove(&mut self, value: T) -> bool {
        let Some((&key, run)) = self.runs.range_mut(..=value).next_back() else { return false };
        let Ok(place) = run.binary_search(&value) else { return false };
        run.remove(place);
        if run.is_empty() {
            self.runs.remove(&key);
        } else if run.len() <= run.capacity() / 4 {
            run.shrink_to(2 * run.len());
        }
        true
    }

    /// The least value.
    pub(super) fn first(&self) -> Option<T> {
        self.runs.first_key_value().and_then(|(_, run)| run.front()).copied()
    }

    /// The first run grows towards the front, so that falling values fill it too.
    fn insert_before_all(&mut self, value: T) {
        let run = match self.runs.first_entry() {
            Some(first) if first.get().len() < RUN => {
                let mut run = first.remove();
                run.push_front(value);
                run
            }
            _ => VecDeque::from([value]),
        };
        self.runs.insert(value, run);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn values_in_rising_or_falling_order_fill_their_runs() {
        let orders: [&dyn Fn(u32) -> u32; 2] = [&|step| step, &|step| 100_000 - step];
        for order in orders {
            let mut sorted = Sorted::default();
            (0..100_000).for_each(|step| sorted.insert(order(step)));
            assert_eq!(sorted.runs.len(), 100_000_usize.div_ceil(RUN));
            assert_eq!(drained(&mut sorted), (0..100_000).map(order).collect());
            assert!(sorted.runs.is_empty());
        }
    }

    #[test]
    fn runs_that_lose_most_of_their_values_give_their_memory_back() {
        let mut sorted = Sorted::default();
        (0..10_000).for_each(|value| sorted.insert(value));
        (0..10_000).filter(|value| value % 64 > 0).for_each(|value| {
            assert!(sorted.remove(value));
        });
        let room: usize = sorted.runs.values().map(VecDeque::capacity).sum();
        assert!(room <= 4 * 10_000 / 64 + 4, "{room}");
    }

    proptest! {
        #[test]
        fn it_holds_what_a_set_would_hold(
            steps in prop::collection::vec((any::<bool>(), 0_u16..2_000), 0..4_000),
        ) {
            let (mut sorted, mut set) = (Sorted::default(), BTreeSet::new());
            for (adds, value) in steps {
                if adds {
                    sorted.insert(value);
                    set.insert(value);
                } else {
                    prop_assert_eq!(sorted.remove(value), set.remove(&value));
                }
                prop_assert_eq!(sorted.first(), set.first().copied());
            }
            prop_assert_eq!(drained(&mut sorted), set);
        }
    }

    fn drained<T: Ord + Copy>(sorted: &mut Sorted<T>) -> BTreeSet<T> {
        std::iter::from_fn(|| sorted.first().filter(|first| sorted.remove(*first))).collect()
    }
}
