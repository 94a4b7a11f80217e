//! Tasks as a client sees them: [`Task`] is one to be submitted, [`TaskView`] one
//! as it stands.

use std::time::Duration;

use bytes::Bytes;

use super::Error;
use crate::core::id::{TaskId, Timestamp, millis};
use crate::core::task::{Reason, Status};
use crate::wire::{self, Malformed, v1};

/// One task to be submitted.
///
/// ```
/// use std::time::Duration;
/// use taskgrid::client::Task;
///
/// let task = Task::new("sum", "[1,2,3]").priority(1).delay(Duration::from_secs(600));
/// assert_eq!(task.type_name(), "sum");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    message: v1::NewTask,
}

impl Task {
    /// A task of this type with this payload, with the dispatcher's defaults for
    /// everything else.
    pub fn new(type_name: impl Into<String>, payload: impl Into<Bytes>) -> Self {
        let message = v1::NewTask {
            r#type: type_name.into(),
            payload: payload.into(),
            ..v1::NewTask::default()
        };
        Self { message }
    }

    /// How urgent it is: 0 (most) to 9; 5 unless said.
    #[must_use]
    pub fn priority(mut self, priority: u8) -> Self {
        self.message.priority = Some(priority.into());
        self
    }

    /// It is not started before this has passed; at most ten years.
    #[must_use]
    pub fn delay(mut self, delay: Duration) -> Self {
        self.message.delay_ms = millis(delay);
        self
    }

    /// The longest one attempt may run, counted from its handler's start; no limit
    /// unless said.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.message.timeout_ms = millis(timeout);
        self
    }

    /// How many errors of its handler end it, 1 to 1,000; 3 unless said.
    #[must_use]
    pub fn max_attempts(mut self, max_attempts: u32) -> Self {
        self.message.max_attempts = Some(max_attempts);
        self
    }

    /// How many lost workers it may have before its one run alone, 0 to 1,000; 3
    /// unless said. With 0, and one attempt, it is started at most once.
    #[must_use]
    pub fn max_crashes(mut self, max_crashes: u32) -> Self {
        self.message.max_crashes = Some(max_crashes);
        self
    }

    /// The name of its type.
    #[must_use]
    pub fn type_name(&self) -> &str {
        &self.message.r#type
    }

    /// Its payload.
    #[must_use]
    pub fn payload(&self) -> &Bytes {
        &self.message.payload
    }

    /// The priority it asks for; `None` for the default.
    #[must_use]
    pub fn asked_priority(&self) -> Option<u32> {
        self.message.priority
    }

    /// Its message in a batch of this type, which need not be named again.
    pub(super) fn to_message(&self, batch_type: &str) -> v1::NewTask {
        let is_same = self.type_name() == batch_type;
        v1::NewTask {
            r#type: if is_same { String::new() } else { self.message.r#type.clone() },
            payload: self.message.payload.clone(),
            ..self.message
        }
    }
}

/// One task as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskView {
    /// Its id.
    pub id: TaskId,
    /// The name of its type.
    pub type_name: String,
    /// What its handler gets; empty where the payload was not asked for.
    pub payload: Bytes,
    /// What its handler gave; `None` until it has completed, or where it was not
    /// asked for.
    pub result: Option<Bytes>,
    /// Where it stands.
    pub status: Status,
    /// When it was accepted.
    pub timestamp_created: Timestamp,
    /// When it ended.
    pub timestamp_completed: Option<Timestamp>,
    /// Not to be started before this.
    pub timestamp_run_at: Timestamp,
    /// 0 (most urgent) to 9.
    pub priority: u32,
    /// The leases it was given so far.
    pub attempts: u32,
    /// How many errors of its handler end it.
    pub max_attempts: u32,
    /// How many lost workers it may have before its run alone.
    pub max_crashes: u32,
    /// The longest one attempt may run; zero for no limit.
    pub timeout: Duration,
    /// The last error of its handler; empty if it had none.
    pub error: String,
    /// Why it ended without a result.
    pub reason: Option<Reason>,
    /// The worker that holds its lease, or held the last one; empty before.
    pub worker: String,
    /// The group it was submitted under; 0 for none.
    pub group: u64,
    /// How long the handler of its last attempt that ended ran, by the worker's clock;
    /// `None` where no worker told of that.
    pub run: Option<Duration>,
    /// Its attempts, oldest first, where they were asked for.
    pub story: Vec<AttemptView>,
}

/// One line of a task's story: an attempt, or a person's wish between two of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptView {
    /// Counted from 1 over the whole life of the task; 0 for what is no attempt.
    pub attempt: u32,
    /// The worker that held the lease.
    pub worker: String,
    /// When the lease was given.
    pub timestamp_started: Option<Timestamp>,
    /// When it ended; `None` while it runs.
    pub timestamp_ended: Option<Timestamp>,
    /// How the task stood after it.
    pub status: Status,
    /// Why it ended without a result.
    pub reason: Option<Reason>,
    /// The handler's error; empty if there was none.
    pub error: String,
    /// How long the handler ran, by the worker's clock.
    pub run: Duration,
}

/// What the dispatcher knows of one id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// The task.
    Task(Box<TaskView>),
    /// There was such a task; it is no longer kept.
    Expired(TaskId),
    /// There never was one.
    NotFound(TaskId),
}

impl Found {
    /// The id that was asked for.
    #[must_use]
    pub fn id(&self) -> TaskId {
        match self {
            Self::Task(task) => task.id,
            Self::Expired(id) | Self::NotFound(id) => *id,
        }
    }

    /// The task, or the error that says why there is none.
    pub fn into_task(self) -> Result<TaskView, Error> {
        match self {
            Self::Task(task) => Ok(*task),
            Self::Expired(id) => Err(Error::Expired { id }),
            Self::NotFound(id) => Err(Error::NotFound { id }),
        }
    }
}

impl TaskView {
    /// Its result, or the error that says why there is none after a wait of `waited`.
    pub(crate) fn into_result(self, waited: Duration) -> Result<Bytes, Error> {
        match self.status {
            Status::Completed => Ok(self.result.unwrap_or_default()),
            Status::Failed => Err(Error::TaskFailed(Box::new(self))),
            Status::Cancelled => Err(Error::TaskCancelled(Box::new(self))),
            Status::Pending | Status::Running => Err(Error::TimedOut { id: self.id, waited }),
        }
    }
}

impl TryFrom<v1::Task> for TaskView {
    type Error = Malformed;

    fn try_from(message: v1::Task) -> Result<Self, Malformed> {
        let status = known_status("task.status", message.status())?;
        let reason = wire::reason(message.reason());
        let story = message.story.into_iter().map(AttemptView::try_from).collect::<Result<_, _>>();
        Ok(Self {
            id: TaskId(message.id),
            type_name: message.r#type,
            payload: message.payload,
            result: message.result,
            status,
            timestamp_created: moment(message.timestamp_created),
            timestamp_completed: message.timestamp_completed.map(moment),
            timestamp_run_at: moment(message.timestamp_run_at),
            priority: message.priority,
            attempts: message.attempts,
            max_attempts: message.max_attempts,
            max_crashes: message.max_crashes,
            timeout: Duration::from_millis(message.timeout_ms),
            error: message.error,
            reason,
            worker: message.worker,
            group: message.group,
            run: (message.run_us > 0).then(|| Duration::from_micros(message.run_us)),
            story: story?,
        })
    }
}

impl TryFrom<v1::Attempt> for AttemptView {
    type Error = Malformed;

    fn try_from(message: v1::Attempt) -> Result<Self, Malformed> {
        let status = known_status("task.story.status", message.status())?;
        Ok(Self {
            attempt: message.attempt,
            status,
            reason: wire::reason(message.reason()),
            worker: message.worker,
            timestamp_started: message.timestamp_started.map(moment),
            timestamp_ended: message.timestamp_ended.map(moment),
            error: message.error,
            run: Duration::from_micros(message.run_us),
        })
    }
}

impl TryFrom<v1::Found> for Found {
    type Error = Malformed;

    fn try_from(message: v1::Found) -> Result<Self, Malformed> {
        match message.answer {
            Some(v1::found::Answer::Task(task)) => Ok(Self::Task(Box::new(task.try_into()?))),
            Some(v1::found::Answer::Expired(id)) => Ok(Self::Expired(TaskId(id))),
            Some(v1::found::Answer::NotFound(id)) => Ok(Self::NotFound(TaskId(id))),
            None => Err(Malformed::new("found.answer", "missing")),
        }
    }
}

/// A moment on the wire; one before 1970 is taken for the beginning of 1970.
pub(super) fn moment(unix_ms: i64) -> Timestamp {
    Timestamp(u64::try_from(unix_ms).unwrap_or(0))
}

pub(super) fn known_status(field: &str, status: v1::Status) -> Result<Status, Malformed> {
    wire::status(status).ok_or_else(|| Malformed::new(field, "unspecified"))
}
