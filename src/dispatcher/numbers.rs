//! The dispatcher in numbers: what the loop counts, and for how long the oldest
//! pending tasks have been due. The loop knows which tasks these are; when they were
//! accepted stands in the log, and is read once a task.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tonic::Status;

use super::scheduler::{Counted, Handle, Message, Oldest};
use super::service::read_apart;
use crate::core::id::{TaskId, Timestamp, millis};
use crate::store::{self, Store};
use crate::wire::v1;

/// Tells the numbers. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Numbers {
    handle: Handle,
    store: Arc<dyn Store>,
    /// Since when the tasks that were the oldest when last asked have been due: a
    /// queue that stands still is not read again.
    due: Arc<Mutex<HashMap<TaskId, Timestamp>>>,
}

impl Numbers {
    pub(super) fn new(handle: Handle, store: Arc<dyn Store>) -> Self {
        Self { handle, store, due: Arc::default() }
    }

    /// The numbers of this moment.
    pub(super) async fn tell(&self) -> Result<v1::StatsResponse, Status> {
        let Counted { mut stats, oldest, now } =
            self.handle.ask(|reply| Message::Stats { reply }).await?;
        let untold = oldest.iter().filter(|oldest| oldest.due.is_none());
        let (this, ids): (_, Vec<TaskId>) =
            (self.clone(), untold.map(|oldest| oldest.id).collect());
        let first_due = if ids.is_empty() {
            HashMap::new()
        } else {
            read_apart(&self.store, move |store| this.look_up(store, ids)).await?
        };
        for Oldest { place, id, due } in oldest {
            // One that was trimmed since has ended.
            let Some(due) = due.or_else(|| first_due.get(&id).copied()) else { continue };
            let age = Some(millis(now.since(due)));
            if let Some(of_type) = stats.types.get_mut(place) {
                of_type.oldest_pending_ms = age;
            }
            stats.oldest_pending_ms = stats.oldest_pending_ms.max(age);
        }
        Ok(stats)
    }

    /// Since when these tasks have been due.
    fn look_up(
        &self,
        store: &dyn Store,
        ids: Vec<TaskId>,
    ) -> Result<HashMap<TaskId, Timestamp>, store::Error> {
        let before = self.due.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let known = ids.iter().filter_map(|id| Some((*id, *before.get(id)?)));
        let mut due: HashMap<_, _> = known.collect();
        let new: Vec<TaskId> = ids.into_iter().filter(|id| !due.contains_key(id)).collect();
        if !new.is_empty() {
            let specs = store.specs(&new)?.into_iter().map(Option::into_iter);
            let told =
                new.iter().zip(specs).flat_map(|(id, spec)| spec.map(move |spec| (*id, spec)));
            due.extend(told.map(|(id, spec)| (id, spec.created.max(spec.run_at))));
        }
        self.due.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&due);
        Ok(due)
    }

    /// Whether any type is known: then tasks can be taken.
    pub(super) fn knows_types(&self) -> bool {
        self.handle.types().by_name().next().is_some()
    }
}
