//! How an attempt's end reads on the wire.

use std::time::Duration;

use bytes::Bytes;

use super::desk::Stopping;
use crate::core::id::{TaskId, millis};
use crate::core::limits;
use crate::wire::v1;
use crate::worker::handler::{Failure, cut};

/// What a handler made of its attempt.
#[derive(Debug)]
pub(super) enum Answer {
    Returned(Result<Bytes, Failure>),
    /// With what the panic said.
    Panicked(String),
}

/// The outcome of an attempt whose handler ran.
pub(super) fn of_run(task: TaskId, ran: Duration, end: v1::outcome::End) -> v1::Outcome {
    // At least 1: 0 says that the handler did not start.
    let run_us = u64::try_from(ran.as_micros()).unwrap_or(u64::MAX).max(1);
    v1::Outcome { task_id: task.0, token: None, run_us, end: Some(end) }
}

/// The outcome of a lease whose handler never started.
pub(super) fn unstarted(task: TaskId, release: v1::Release) -> v1::Outcome {
    let end = Some(released(release));
    v1::Outcome { task_id: task.0, token: None, run_us: 0, end }
}

pub(super) fn released(release: v1::Release) -> v1::outcome::End {
    v1::outcome::End::Released(release.into())
}

/// The end of an attempt by its handler's own answer.
pub(super) fn by_itself(answer: Answer, max_result_bytes: u64) -> v1::outcome::End {
    match answer {
        Answer::Returned(Ok(result)) => completed(result, max_result_bytes),
        Answer::Returned(Err(failure)) => {
            let reason = if failure.permanent { v1::Reason::Permanent } else { v1::Reason::Error };
            let retry_after_ms = failure.retry_after.filter(|_| !failure.permanent).map(millis);
            failed(failure.message, reason, retry_after_ms)
        }
        Answer::Panicked(message) => {
            let message = cut(format!("the handler panicked: {message}"), limits::ERROR_BYTES);
            failed(message, v1::Reason::Panic, None)
        }
    }
}

/// The end of an attempt that was told to stop, whatever its handler says then.
pub(super) fn stopped(why: Stopping, timeout_ms: u64) -> v1::outcome::End {
    match why {
        Stopping::Cancelled => released(v1::Release::Cancelled),
        Stopping::Timeout => {
            let timeout = humantime::format_duration(Duration::from_millis(timeout_ms));
            failed(format!("ran longer than its timeout of {timeout}"), v1::Reason::Timeout, None)
        }
    }
}

fn completed(result: Bytes, max_bytes: u64) -> v1::outcome::End {
    let bytes = u64::try_from(result.len()).unwrap_or(u64::MAX);
    if bytes <= max_bytes {
        return v1::outcome::End::Completed(result);
    }
    let message = format!("the result has {bytes} bytes, and at most {max_bytes} are taken");
    failed(message, v1::Reason::Permanent, None)
}

fn failed(message: String, reason: v1::Reason, retry_after_ms: Option<u64>) -> v1::outcome::End {
    v1::outcome::End::Failed(v1::Failure { message, reason: reason.into(), retry_after_ms })
}
