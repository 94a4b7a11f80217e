//! For how long the oldest pending tasks have been due. The loop knows which tasks
//! these are; when they were accepted stands in the log, and is read once a task.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::scheduler::Numbers;
use crate::core::id::{TaskId, Timestamp, millis};
use crate::store::{self, Store};
use crate::wire::v1;

/// Tells ages. It remembers the moments of the tasks that it was last asked about:
/// a queue that stands still is not read again.
#[derive(Debug, Default)]
pub(super) struct Ages {
    due: Mutex<HashMap<TaskId, Timestamp>>,
}

impl Ages {
    /// The numbers with their ages. Blocks where the store must be read.
    pub(super) fn tell(
        &self,
        numbers: Numbers,
        store: &Arc<dyn Store>,
    ) -> Result<v1::StatsResponse, store::Error> {
        let Numbers { mut stats, oldest, now } = numbers;
        let due = self.look_up(oldest.iter().map(|(_, id)| *id), store)?;
        for (place, id) in oldest {
            // One that was trimmed since has ended.
            let Some(due) = due.get(&id) else { continue };
            let age = Some(millis(now.since(*due)));
            if let Some(of_type) = stats.types.get_mut(place) {
                of_type.oldest_pending_ms = age;
            }
            stats.oldest_pending_ms = stats.oldest_pending_ms.max(age);
        }
        Ok(stats)
    }

    fn look_up(
        &self,
        ids: impl Iterator<Item = TaskId>,
        store: &Arc<dyn Store>,
    ) -> Result<HashMap<TaskId, Timestamp>, store::Error> {
        let before = self.due.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (known, new): (Vec<_>, Vec<_>) = ids.partition(|id| before.contains_key(id));
        let rows = if new.is_empty() { Vec::new() } else { store.tasks(&new)? };
        let rows = rows.into_iter().flatten();
        let read = rows.map(|row| (row.id, row.spec.created.max(row.spec.run_at)));
        let known = known.into_iter().filter_map(|id| Some((id, *before.get(&id)?)));
        let due: HashMap<_, _> = known.chain(read).collect();
        self.due.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&due);
        Ok(due)
    }
}
