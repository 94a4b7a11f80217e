//! A task as JSON, as the command line and the monitor show it.
//!
//! The first seven fields never change: `id`, `type`, `payload`, `result`,
//! `status`, `timestamp_created`, `timestamp_completed`. Timestamps are Unix
//! milliseconds. Payload and result are text when both are valid UTF-8, else both
//! are base64, with `"encoding": "base64"` beside them.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use super::task::{AttemptView, TaskView};
use crate::core::id::millis;

/// A task as JSON. The fields are written in this order.
#[derive(Debug, Clone, Serialize)]
pub struct TaskJson<'a> {
    /// Its id.
    pub id: u64,
    /// The name of its type.
    #[serde(rename = "type")]
    pub type_name: &'a str,
    /// What its handler gets; null where it was not asked for.
    pub payload: Option<Cow<'a, str>>,
    /// What its handler gave; null until there is one.
    pub result: Option<Cow<'a, str>>,
    /// Where it stands.
    pub status: &'static str,
    /// When it was accepted.
    pub timestamp_created: u64,
    /// When it ended; null until then.
    pub timestamp_completed: Option<u64>,
    /// `base64` when payload and result are; else left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encoding: Option<&'static str>,
    /// The leases it was given so far.
    pub attempts: u32,
    /// 0 (most urgent) to 9.
    pub priority: u32,
    /// The last error of its handler; null if it had none.
    pub error: Option<&'a str>,
    /// Why it ended without a result; null otherwise.
    pub reason: Option<&'static str>,
    /// The worker that holds or held its last lease; null before.
    pub worker: Option<&'a str>,
    /// Left out where only the end of the task is told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timings: Option<Timings>,
    /// Its attempts, where they were asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub story: Vec<AttemptJson<'a>>,
}

/// What a task had to wait for.
#[derive(Debug, Clone, Serialize)]
pub struct Timings {
    /// Not to be started before this.
    pub timestamp_run_at: u64,
    /// From its acceptance to its end; null until then.
    pub total_ms: Option<u64>,
    /// How long the handler of its last attempt that ended ran, by the worker's clock;
    /// null where no worker told of that.
    pub run_us: Option<u64>,
}

/// One line of a task's story as JSON.
#[derive(Debug, Clone, Serialize)]
pub struct AttemptJson<'a> {
    /// From 1; 0 for what is no attempt.
    pub attempt: u32,
    /// The worker that held the lease; null for none.
    pub worker: Option<&'a str>,
    /// When the lease was given.
    pub timestamp_started: Option<u64>,
    /// When it ended; null while it runs.
    pub timestamp_ended: Option<u64>,
    /// How the task stood after it.
    pub status: &'static str,
    /// Why it ended without a result.
    pub reason: Option<&'static str>,
    /// The handler's error.
    pub error: Option<&'a str>,
    /// How long the handler ran, by the worker's clock.
    pub run_us: u64,
}

impl<'a> TaskJson<'a> {
    /// The task, with or without its payload and result: a list leaves them out.
    #[must_use]
    pub fn new(task: &'a TaskView, with_bytes: bool) -> Self {
        let payload = with_bytes.then_some(&task.payload[..]);
        let texts = Texts::new(payload, task.result.as_deref());
        Self {
            id: task.id.0,
            type_name: &task.type_name,
            payload: texts.payload,
            result: texts.result,
            status: task.status.as_str(),
            timestamp_created: task.timestamp_created.0,
            timestamp_completed: task.timestamp_completed.map(|at| at.0),
            encoding: texts.encoding,
            attempts: task.attempts,
            priority: task.priority,
            error: some(&task.error),
            reason: task.reason.map(crate::core::task::Reason::as_str),
            worker: some(&task.worker),
            timings: Some(timings(task)),
            story: task.story.iter().map(AttemptJson::from).collect(),
        }
    }
}

impl<'a> From<&'a AttemptView> for AttemptJson<'a> {
    fn from(attempt: &'a AttemptView) -> Self {
        Self {
            attempt: attempt.attempt,
            worker: some(&attempt.worker),
            timestamp_started: attempt.timestamp_started.map(|at| at.0),
            timestamp_ended: attempt.timestamp_ended.map(|at| at.0),
            status: attempt.status.as_str(),
            reason: attempt.reason.map(crate::core::task::Reason::as_str),
            error: some(&attempt.error),
            run_us: micros(attempt.run),
        }
    }
}

/// Payload and result in the encoding that suits both.
#[derive(Debug, PartialEq, Eq)]
pub struct Texts<'a> {
    /// The payload.
    pub payload: Option<Cow<'a, str>>,
    /// The result.
    pub result: Option<Cow<'a, str>>,
    /// `base64`, or nothing for text.
    pub encoding: Option<&'static str>,
}

impl<'a> Texts<'a> {
    /// Text when both are valid UTF-8, else base64 for both.
    #[must_use]
    pub fn new(payload: Option<&'a [u8]>, result: Option<&'a [u8]>) -> Self {
        let text = |bytes: Option<&'a [u8]>| bytes.map(std::str::from_utf8).transpose();
        if let (Ok(payload), Ok(result)) = (text(payload), text(result)) {
            let (payload, result) = (payload.map(Cow::Borrowed), result.map(Cow::Borrowed));
            return Self { payload, result, encoding: None };
        }
        let encode = |bytes: Option<&[u8]>| bytes.map(|bytes| STANDARD.encode(bytes).into());
        Self { payload: encode(payload), result: encode(result), encoding: Some("base64") }
    }
}

/// `None` for an empty text.
pub(crate) fn some(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

fn timings(task: &TaskView) -> Timings {
    Timings {
        timestamp_run_at: task.timestamp_run_at.0,
        total_ms: task.timestamp_completed.map(|at| millis(at.since(task.timestamp_created))),
        run_us: task.run.map(micros),
    }
}

fn micros(span: std::time::Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}
