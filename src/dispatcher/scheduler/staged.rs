//! Payloads in memory: of tasks that just came in, and of those that were read to
//! be sent next. Bounded in bytes; what does not fit is read from the store when
//! its turn comes.

use std::collections::HashMap;

use bytes::Bytes;

use crate::core::id::TaskId;
use crate::core::task::Spec;
use crate::store::StoredTask;

/// Bytes of payloads that may lie here, each counted with [`OVERHEAD`].
const BYTES: usize = 64 << 20;
/// What one entry takes beside its payload.
const OVERHEAD: usize = 160;

/// The staged tasks.
#[derive(Debug, Default)]
pub(super) struct Staged {
    tasks: HashMap<TaskId, (Spec, Bytes)>,
    bytes: usize,
}

impl Staged {
    /// Keeps a task that just came in, if there is room.
    pub(super) fn offer(&mut self, id: TaskId, spec: &Spec, payload: &Bytes) {
        if self.bytes < BYTES {
            self.insert(id, *spec, payload.clone());
        }
    }

    /// Keeps a task that was read because it is next.
    pub(super) fn keep(&mut self, task: StoredTask) {
        self.insert(task.id, task.spec, task.payload);
    }

    /// What was asked for, if the task is here.
    pub(super) fn spec(&self, id: TaskId) -> Option<&Spec> {
        self.tasks.get(&id).map(|(spec, _)| spec)
    }

    /// Takes a task out.
    pub(super) fn remove(&mut self, id: TaskId) -> Option<(Spec, Bytes)> {
        let (spec, payload) = self.tasks.remove(&id)?;
        self.bytes -= payload.len() + OVERHEAD;
        Some((spec, payload))
    }

    fn insert(&mut self, id: TaskId, spec: Spec, payload: Bytes) {
        let added = payload.len() + OVERHEAD;
        if let Some((_, old)) = self.tasks.insert(id, (spec, payload)) {
            self.bytes -= old.len() + OVERHEAD;
        }
        self.bytes += added;
    }
}
