//! Submits that were answered: their keys are needed no longer, and the dispatcher is told
//! so with the next submit. What this module does not do: it makes no calls.

use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::core::limits;

/// Keys kept to be told. Of more submits than this at once the rest are remembered for
/// their ten minutes.
const MOST: usize = 4_096;

/// The keys of answered submits that the dispatcher has not been told of.
#[derive(Debug, Default)]
pub(super) struct Answered(Mutex<Vec<Bytes>>);

impl Answered {
    /// The only try of a submit was answered.
    pub(super) fn add(&self, key: Bytes) {
        let mut keys = self.keys();
        if keys.len() < MOST {
            keys.push(key);
        }
    }

    /// As many as one submit tells.
    pub(super) fn take(&self) -> Vec<Bytes> {
        let mut keys = self.keys();
        let told = keys.len().min(limits::ANSWERED_KEYS);
        keys.drain(..told).collect()
    }

    fn keys(&self) -> MutexGuard<'_, Vec<Bytes>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
