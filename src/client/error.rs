//! Why a call of the client failed, told apart by what its caller can do about it.

use std::time::Duration;

use tonic::Code;

use super::task::{Task, TaskView};
use crate::core::id::{TaskId, millis};
use crate::core::limits;
use crate::rpc;
use crate::wire::Malformed;

/// What went wrong. No variant leaves anything half done, except that after
/// [`Error::Unreachable`] and [`Error::NotReady`] it is unknown whether a submit was
/// stored: the same key submitted again finds out.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The dispatcher could not be reached for as long as the client was patient. Try
    /// later.
    #[error("cannot reach the dispatcher at {url}: {problem}")]
    Unreachable {
        /// Where it was looked for.
        url: String,
        /// What the last attempt ran into.
        problem: String,
    },
    /// The dispatcher was there, but about to stop, or did not know enough yet to
    /// answer, for as long as the client was patient. Try later.
    #[error("the dispatcher at {url} is not ready: {problem}")]
    NotReady {
        /// Where it is.
        url: String,
        /// The dispatcher's words.
        problem: String,
    },
    /// The dispatcher is full, draining or limits this caller. Nothing was stored;
    /// try later.
    #[error("refused: {problem}")]
    Refused {
        /// Which limit, by the dispatcher's words.
        problem: String,
    },
    /// A payload, an option or an address is wrong. The same again fails again.
    #[error("{problem}")]
    WrongInput {
        /// What is wrong with it.
        problem: String,
    },
    /// A call is larger than one message may be. Nothing was stored; the same again
    /// fails again. Of a batch, smaller parts fit.
    #[error("{problem}{}", smaller(*tasks))]
    TooLarge {
        /// How large it is, and how large it may be.
        problem: String,
        /// How many tasks it was to bring; 0 for a call that brings none.
        tasks: usize,
    },
    /// No worker ever registered the task's type.
    #[error("{problem}")]
    UnknownType {
        /// Which type, and which ones are known.
        problem: String,
    },
    /// The idempotency key was used for another batch.
    #[error("{problem}")]
    Conflict {
        /// The dispatcher's words.
        problem: String,
    },
    /// There never was such a task.
    #[error("there is no task {id}")]
    NotFound {
        /// The id that was asked for.
        id: TaskId,
    },
    /// There was such a task; it is no longer kept.
    #[error("task {id} has expired: its result is no longer kept")]
    Expired {
        /// The id that was asked for.
        id: TaskId,
    },
    /// The cursor of a watch is older than what the dispatcher keeps: read the
    /// tasks' standing anew, and watch from now.
    #[error("the cursor is older than what is kept: {problem}")]
    CursorTooOld {
        /// The dispatcher's words.
        problem: String,
    },
    /// The time to wait has passed; the task goes on.
    #[error("task {id} has not ended after {}", humantime::format_duration(whole_millis(*waited)))]
    TimedOut {
        /// The task that was waited for.
        id: TaskId,
        /// How long it was waited for.
        waited: Duration,
    },
    /// The task ended without a result.
    #[error("task {} failed{}", .0.id, why(.0))]
    TaskFailed(Box<TaskView>),
    /// The task was cancelled.
    #[error("task {} was cancelled", .0.id)]
    TaskCancelled(Box<TaskView>),
    /// The caller may not do this.
    #[error("not allowed: {problem}")]
    NotAllowed {
        /// The dispatcher's words.
        problem: String,
    },
    /// The dispatcher answered what it must not, or ran into a bug of its own.
    #[error("{problem}")]
    Internal {
        /// What came.
        problem: String,
    },
}

impl Error {
    /// The error for a final answer of the dispatcher at `url`.
    pub(super) fn from_status(url: &str, status: &tonic::Status) -> Self {
        let problem = status.message().to_owned();
        if is_of_the_transport(status) {
            return Self::Unreachable { url: url.to_owned(), problem: rpc::reason(status) };
        }
        match status.code() {
            Code::InvalidArgument => Self::WrongInput { problem },
            Code::NotFound => Self::UnknownType { problem },
            Code::AlreadyExists => Self::Conflict { problem },
            Code::ResourceExhausted => Self::Refused { problem },
            Code::PermissionDenied | Code::Unauthenticated => Self::NotAllowed { problem },
            // Of the calls that are answered once, only the transport says this.
            Code::OutOfRange => match problem.split_once("too large: ") {
                Some((_, sizes)) => Self::too_large(sizes),
                None => Self::TooLarge { problem, tasks: 0 },
            },
            Code::Unimplemented => Self::WrongInput {
                problem: format!(
                    "what answers at {url} is no dispatcher, or an older one: is it the port of another role?"
                ),
            },
            Code::Unavailable => Self::NotReady { url: url.to_owned(), problem },
            Code::Ok
            | Code::Cancelled
            | Code::Unknown
            | Code::DeadlineExceeded
            | Code::FailedPrecondition
            | Code::Aborted
            | Code::Internal
            | Code::DataLoss => Self::Internal {
                problem: format!("the dispatcher at {url} answered {}: {problem}", status.code()),
            },
        }
    }

    /// A call of these sizes, in the words of the transport.
    pub(super) fn too_large(sizes: &str) -> Self {
        Self::TooLarge { problem: format!("too large for one message: {sizes}"), tasks: 0 }
    }

    /// The error of a call that was to bring these tasks.
    pub(super) fn of_batch(self, batch: &[Task]) -> Self {
        match self {
            Self::TooLarge { problem, .. } => Self::TooLarge { problem, tasks: batch.len() },
            other => other,
        }
    }
}

impl From<Malformed> for Error {
    fn from(malformed: Malformed) -> Self {
        Self::Internal { problem: format!("the dispatcher answered a malformed {malformed}") }
    }
}

/// Whether the call may or may not have taken effect, so that trying again is the
/// way to find out: the dispatcher said so, or the connection broke.
pub(super) fn fate_is_unknown(status: &tonic::Status) -> bool {
    status.code() == Code::Unavailable || is_of_the_transport(status)
}

/// A status that came over the wire has no source; one that the transport made up has.
fn is_of_the_transport(status: &tonic::Status) -> bool {
    std::error::Error::source(status).is_some()
}

/// The next step, where there is one: what the contract promises of every dispatcher.
fn smaller(tasks: usize) -> String {
    if tasks < 2 {
        return String::new();
    }
    format!("; submit fewer tasks at once: {} MiB always fit", limits::BATCH_BYTES >> 20)
}

fn why(task: &TaskView) -> String {
    let reason = task.reason.map(|reason| format!(" ({})", reason.as_str())).unwrap_or_default();
    if task.error.is_empty() { reason } else { format!("{reason}: {}", task.error) }
}

fn whole_millis(span: Duration) -> Duration {
    Duration::from_millis(millis(span))
}
