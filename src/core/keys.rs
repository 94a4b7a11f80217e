//! Idempotency keys: the same key with the same tasks is the same batch.
//!
//! Keys are bounded. When they are full, keyed submits are refused; a key is never
//! forgotten early.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use bytes::Bytes;

use super::event::KeyedBatch;
use super::id::{TaskId, Timestamp};
use super::limits;

/// The keys that are remembered.
#[derive(Debug, Default)]
pub struct Keys {
    by_key: HashMap<Bytes, KeyedBatch>,
    by_end: BTreeMap<(Timestamp, TaskId), Bytes>,
}

/// What a key says about a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup {
    /// The key is new.
    New,
    /// The same batch was accepted before.
    Same(KeyedBatch),
    /// Another batch was accepted under this key.
    Other,
    /// No more keys can be remembered.
    Full,
}

impl Keys {
    /// What is known of a key.
    #[must_use]
    pub fn find(&self, key: &Bytes, digest: &[u8; 32]) -> Lookup {
        match self.by_key.get(key) {
            Some(batch) if batch.digest == *digest => Lookup::Same(batch.clone()),
            Some(_) => Lookup::Other,
            None if self.by_key.len() >= limits::KEYS => Lookup::Full,
            None => Lookup::New,
        }
    }

    /// Remembers a batch.
    pub fn insert(&mut self, batch: KeyedBatch) {
        self.by_end.insert((batch.kept_until, batch.first), batch.key.clone());
        self.by_key.insert(batch.key.clone(), batch);
    }

    /// A call's own key is remembered until then at the longest. Nothing changes for a
    /// caller's key, and for one that is not known.
    pub fn shorten(&mut self, key: &Bytes, until: Timestamp) {
        let Some(batch) = self.by_key.get_mut(key).filter(|batch| !batch.outlives_tasks) else {
            return;
        };
        if until < batch.kept_until {
            let key = self.by_end.remove(&(batch.kept_until, batch.first));
            batch.kept_until = until;
            self.by_end.extend(key.map(|key| ((until, batch.first), key)));
        }
    }

    /// Forgets batches whose time has come, and gives the ids of their first tasks; no more of
    /// them once they have `tasks` tasks together. `lives` tells whether one of a batch's tasks
    /// still waits or runs; such a batch, if it outlives its tasks, is looked at again later.
    pub fn forget(
        &mut self,
        now: Timestamp,
        tasks: usize,
        lives: impl Fn(&KeyedBatch) -> bool,
    ) -> Vec<TaskId> {
        let (mut forgotten, mut looked_at) = (Vec::new(), 0);
        while looked_at < tasks {
            let Some(first) = self.by_end.first_entry() else { break };
            if first.key().0 > now {
                break;
            }
            let (_, id) = *first.key();
            let key = first.remove();
            looked_at += 1;
            let Some(batch) = self.by_key.get(&key).filter(|batch| batch.first == id) else {
                continue;
            };
            looked_at += usize::try_from(batch.count).unwrap_or(usize::MAX).saturating_sub(1);
            if batch.outlives_tasks && lives(batch) {
                self.by_end.insert((now.plus(AGAIN), id), key);
                continue;
            }
            self.by_key.remove(&key);
            forgotten.push(id);
        }
        forgotten
    }

    /// When [`Keys::forget`] has something next.
    #[must_use]
    pub fn next_end(&self) -> Option<Timestamp> {
        self.by_end.first_key_value().map(|((at, _), _)| *at)
    }
}

/// How long a batch with living tasks is left alone.
const AGAIN: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::id::Seq;

    #[test]
    fn a_key_means_one_batch_until_its_time_has_come() {
        let mut keys = Keys::default();
        keys.insert(batch("a", 1, 100, false));
        assert_eq!(keys.find(&"a".into(), &[1; 32]), Lookup::Same(batch("a", 1, 100, false)));
        assert_eq!(keys.find(&"a".into(), &[2; 32]), Lookup::Other);
        assert_eq!(keys.find(&"b".into(), &[1; 32]), Lookup::New);
        assert_eq!(keys.forget(Timestamp(99), 10, |_| true), []);
        assert_eq!(keys.forget(Timestamp(100), 10, |_| true), [TaskId(1)]);
        assert_eq!(keys.find(&"a".into(), &[2; 32]), Lookup::New);
    }

    #[test]
    fn a_callers_key_lives_as_long_as_its_tasks() {
        let mut keys = Keys::default();
        keys.insert(batch("a", 1, 100, true));
        assert_eq!(keys.forget(Timestamp(100), 10, |_| true), []);
        assert_eq!(keys.next_end(), Some(Timestamp(60_100)));
        assert_eq!(keys.forget(Timestamp(60_100), 10, |_| false), [TaskId(1)]);
    }

    #[test]
    fn only_a_calls_own_key_is_shortened() {
        let mut keys = Keys::default();
        keys.insert(batch("own", 1, 100, false));
        keys.insert(batch("callers", 2, 100, true));
        for key in ["own", "callers", "unknown"] {
            keys.shorten(&key.into(), Timestamp(50));
            keys.shorten(&key.into(), Timestamp(60));
        }
        assert_eq!(keys.forget(Timestamp(49), 10, |_| false), []);
        assert_eq!(keys.find(&"own".into(), &[1; 32]), Lookup::Same(batch("own", 1, 50, false)));
        assert_eq!(keys.forget(Timestamp(50), 10, |_| false), [TaskId(1)]);
        assert_eq!(keys.find(&"own".into(), &[1; 32]), Lookup::New);
        assert_eq!(keys.forget(Timestamp(100), 10, |_| false), [TaskId(2)]);
        assert_eq!(keys.next_end(), None);
    }

    #[test]
    fn forgetting_goes_in_bounded_steps() {
        let mut keys = Keys::default();
        for id in 1..=5 {
            keys.insert(batch(&id.to_string(), id, 100, false));
        }
        assert_eq!(keys.forget(Timestamp(100), 2, |_| false).len(), 2);
        assert_eq!(keys.forget(Timestamp(100), 9, |_| false).len(), 3);
        for id in 1..=5 {
            keys.insert(KeyedBatch { count: 10, ..batch(&id.to_string(), id, 100, false) });
        }
        assert_eq!(keys.forget(Timestamp(100), 11, |_| false).len(), 2);
        assert_eq!(keys.forget(Timestamp(100), 1, |_| false).len(), 1);
        assert_eq!(keys.forget(Timestamp(100), usize::MAX, |_| false).len(), 2);
    }

    fn batch(key: &str, first: u64, kept_until: u64, outlives_tasks: bool) -> KeyedBatch {
        KeyedBatch {
            key: Bytes::copy_from_slice(key.as_bytes()),
            digest: [1; 32],
            first: TaskId(first),
            count: 1,
            cursor: Seq(0),
            kept_until: Timestamp(kept_until),
            outlives_tasks,
        }
    }
}
