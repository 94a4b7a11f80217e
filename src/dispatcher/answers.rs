//! Tasks as their readers see them: what memory knows of them, joined with what the
//! store has.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use tonic::Status;

use super::scheduler::{Ended, Running, Snapshot};
use super::types::Types;
use crate::core::event::TaskEvent;
use crate::core::id::{Seq, TaskId, Timestamp};
use crate::core::limits;
use crate::core::queue::Standing;
use crate::core::task::{self, Change, Spec};
use crate::store::{self, Store, StoredEvent};
use crate::wire::v1::{self, found::Answer};

/// Lines of a story that are told: the newest.
const STORY: usize = 1_000;

/// How much of a task is wanted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub(super) payload: bool,
    pub(super) result: bool,
    pub(super) story: bool,
}

/// A task to tell about: how it stands, and the event that ended it, if that is at
/// hand.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) snapshot: Snapshot,
    pub(super) ended: Option<Ended>,
}

impl Asked {
    /// Whether nothing is to be read from the store to tell what is wanted: a thread
    /// that may block is not needed then.
    fn is_at_hand(&self, wanted: Wanted) -> bool {
        let tells_all = |ended: &Ended| ended.event.attempt.is_some();
        !wanted.payload && !wanted.story && self.ended.as_ref().is_some_and(tells_all)
    }
}

/// Answers for each task, in the order asked; cut before they grow too large.
pub(super) async fn found(
    store: Arc<dyn Store>,
    types: Arc<Types>,
    asked: Vec<Asked>,
    wanted: Wanted,
) -> Result<Vec<v1::Found>, Status> {
    let is_at_hand = asked.iter().all(|asked| asked.is_at_hand(wanted));
    let read = move |store: &dyn Store| Reader { store, types: &types, wanted }.all(asked);
    let read = if is_at_hand { read(store.as_ref()) } else { store::apart(&store, read).await };
    read.map_err(|error| unread(&error))
}

/// Why nothing could be read: for want of space on the disk only for a moment, until the
/// store is open again; after a failure until the dispatcher, which ends with it, is started anew.
pub(super) fn unread(error: &store::Error) -> Status {
    match error {
        store::Error::Full | store::Error::Failed { .. } => {
            Status::unavailable(format!("{error}; try again"))
        }
        other => Status::internal(other.to_string()),
    }
}

struct Reader<'a> {
    store: &'a dyn Store,
    types: &'a Types,
    wanted: Wanted,
}

impl Reader<'_> {
    fn all(&self, asked: Vec<Asked>) -> Result<Vec<v1::Found>, store::Error> {
        let mut answers = Vec::with_capacity(asked.len());
        let mut bytes = 0;
        for asked in asked {
            let answer = self.one(asked)?;
            if let Answer::Task(task) = &answer {
                bytes += task.encoded_len();
            }
            if bytes > limits::ANSWER_BYTES && !answers.is_empty() {
                break;
            }
            answers.push(v1::Found { answer: Some(answer) });
        }
        Ok(answers)
    }

    fn one(&self, asked: Asked) -> Result<Answer, store::Error> {
        let Snapshot { id, given, standing, running, .. } = asked.snapshot;
        let absent = if given { Answer::Expired(id.0) } else { Answer::NotFound(id.0) };
        let (spec, last) = match (asked.ended, standing) {
            (Some(Ended { event, result }), _) => (event.spec, Some(StoredEvent { event, result })),
            (None, Standing::Absent) => return Ok(absent),
            (None, Standing::Ended(_, place)) => match self.last(place)? {
                Some(stored) => (stored.event.spec, Some(stored)),
                None => return Ok(absent),
            },
            (None, Standing::Pending(..) | Standing::Running) => {
                let Some(spec) = first(self.store.specs(&[id])?) else { return Ok(absent) };
                let last = match (standing, &running) {
                    (Standing::Pending(progress, _), _) => progress.last,
                    (_, Some(running)) => running.last,
                    _ => None,
                };
                (spec, last.map(|place| self.last(place)).transpose()?.flatten())
            }
        };
        // Who waited for the end knows of the lease that it had.
        let running = running.filter(|_| !is_terminal(last.as_ref()));
        let mut task = self.task(id, &spec, standing, running.as_ref(), last.as_ref());
        if self.wanted.payload {
            let row = first(self.store.tasks(&[id])?);
            task.payload = row.map(|row| row.payload).unwrap_or_default();
        }
        let story = self.story(last.as_ref(), self.wanted.story)?;
        let told = story.iter().map(|line| line.attempt).max().unwrap_or(0);
        task.attempts = task.attempts.max(told);
        task.run_us = story.iter().rfind(|line| line.attempt > 0).map_or(0, |line| line.run_us);
        if self.wanted.story {
            task.story = story;
            task.story.extend(running.as_ref().map(under_way));
        }
        Ok(Answer::Task(task))
    }

    fn task(
        &self,
        id: TaskId,
        spec: &Spec,
        standing: Standing,
        running: Option<&Running>,
        last: Option<&StoredEvent>,
    ) -> v1::Task {
        let mut task = v1::Task {
            id: id.0,
            r#type: self.types.name(spec.type_id).to_owned(),
            timestamp_created: time(spec.created),
            timestamp_run_at: time(spec.run_at),
            priority: spec.priority.into(),
            max_attempts: spec.max_attempts,
            max_crashes: spec.max_crashes,
            timeout_ms: spec.timeout_ms,
            group: spec.group,
            ..v1::Task::default()
        };
        if let Some(StoredEvent { event, result }) = last {
            task.set_status(event.change.status().into());
            event.change.error().clone_into(&mut task.error);
            if let Some(attempt) = &event.attempt {
                task.attempts = attempt.number;
                task.worker = attempt.worker.to_string();
            }
            if event.change.status().is_terminal() {
                task.timestamp_completed = Some(time(event.at));
                task.set_reason(reason(&event.change));
            }
            if event.change == Change::Completed && self.wanted.result {
                task.result = Some(result.clone());
            }
        } else {
            task.set_status(v1::Status::Pending);
        }
        if let Standing::Pending(progress, run_at) = standing {
            task.attempts = task.attempts.max(progress.attempts);
            if last.is_none_or(|last| !last.event.change.status().is_terminal()) {
                task.timestamp_run_at = time(run_at.unwrap_or(spec.run_at));
            }
        }
        if let Some(running) = running {
            task.set_status(v1::Status::Running);
            task.attempts = running.attempt;
            task.worker = running.worker.to_string();
        }
        task
    }

    /// The lines of a task's story that have ended, oldest first; only the newest
    /// ones up to an attempt, unless the whole is wanted.
    fn story(
        &self,
        last: Option<&StoredEvent>,
        whole: bool,
    ) -> Result<Vec<v1::Attempt>, store::Error> {
        let mut lines = Vec::new();
        let mut next = last.map(|stored| stored.event.clone());
        while let Some(event) = next {
            lines.push(line(&event));
            if lines.len() >= STORY || (!whole && event.attempt.is_some()) {
                break;
            }
            let previous = event.previous.map(|place| self.store.facts(&[place])).transpose()?;
            next = previous.and_then(first).filter(|earlier| earlier.id == event.id);
        }
        lines.reverse();
        Ok(lines)
    }

    /// A task's last event, with its result if that is wanted: else it is not read,
    /// and a list of large ones costs as little as one of small ones.
    fn last(&self, place: Seq) -> Result<Option<StoredEvent>, store::Error> {
        if self.wanted.result {
            return Ok(first(self.store.events(&[place])?));
        }
        let event = first(self.store.facts(&[place])?);
        Ok(event.map(|event| StoredEvent { event, result: Bytes::new() }))
    }
}

/// What is kept of the one that was asked for.
pub(super) fn first<T>(found: Vec<Option<T>>) -> Option<T> {
    found.into_iter().next().flatten()
}

/// An event as a watch tells it.
pub(super) fn event<'a>(
    event: &'a TaskEvent,
    result: Option<&Bytes>,
    types: &'a Types,
    names: &mut Names<'a>,
) -> v1::TaskEvent {
    let attempt = event.attempt.as_ref();
    let mut told = v1::TaskEvent {
        id: event.id.0,
        attempt: attempt.map_or(0, |attempt| attempt.number),
        timestamp: time(event.at),
        result: result.filter(|_| event.change == Change::Completed).cloned(),
        error: event.change.error().to_owned(),
        worker_index: attempt.map(|attempt| names.index(&attempt.worker)),
        type_index: names.index(types.name(event.spec.type_id)),
        timestamp_created: time(event.spec.created),
        ..v1::TaskEvent::default()
    };
    told.set_status(event.change.status().into());
    told.set_reason(reason(&event.change));
    told
}

/// The names of a message, each once: its events have their places.
#[derive(Debug, Default)]
pub(super) struct Names<'a> {
    places: BTreeMap<&'a str, u32>,
    list: Vec<String>,
}

impl<'a> Names<'a> {
    /// The place of a name.
    fn index(&mut self, name: &'a str) -> u32 {
        let list = &mut self.list;
        *self.places.entry(name).or_insert_with(|| {
            list.push(name.to_owned());
            // There are no more of them than events in a message.
            u32::try_from(list.len() - 1).unwrap_or(u32::MAX)
        })
    }

    /// All of them, by their places.
    pub(super) fn into_list(self) -> Vec<String> {
        self.list
    }
}

fn line(event: &TaskEvent) -> v1::Attempt {
    let attempt = event.attempt.as_ref();
    let mut line = v1::Attempt {
        attempt: attempt.map_or(0, |attempt| attempt.number),
        worker: attempt.map(|attempt| (*attempt.worker).to_owned()).unwrap_or_default(),
        timestamp_started: attempt.map(|attempt| time(attempt.leased)),
        timestamp_ended: Some(time(event.at)),
        error: event.change.error().to_owned(),
        run_us: attempt.map_or(0, |attempt| attempt.run_us),
        ..v1::Attempt::default()
    };
    line.set_status(event.change.status().into());
    line.set_reason(reason(&event.change));
    line
}

fn under_way(running: &Running) -> v1::Attempt {
    let mut line = v1::Attempt {
        attempt: running.attempt,
        worker: running.worker.to_string(),
        timestamp_started: Some(time(running.leased)),
        ..v1::Attempt::default()
    };
    line.set_status(v1::Status::Running);
    line
}

fn is_terminal(last: Option<&StoredEvent>) -> bool {
    last.is_some_and(|last| last.event.change.status().is_terminal())
}

fn reason(change: &Change) -> v1::Reason {
    change.reason().map_or(v1::Reason::Unspecified, task::Reason::into)
}

/// A moment on the wire.
pub(super) fn time(at: Timestamp) -> i64 {
    i64::try_from(at.0).unwrap_or(i64::MAX)
}
