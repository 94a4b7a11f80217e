//! What a worker reports, parsed.

use std::time::Duration;

use bytes::Bytes;

use super::scheduler::{Report, Settlement};
use crate::core::id::TaskId;
use crate::core::limits;
use crate::core::task::{Outcome, Reason};
use crate::wire::v1::{self, outcome::End};
use crate::wire::{self, Malformed};

/// Parses a report.
pub(super) fn parse(message: v1::Report) -> Result<Report, Malformed> {
    let outcomes = message.outcomes.into_iter().map(settlement).collect::<Result<_, _>>()?;
    let started = message.started.into_iter().map(|started| {
        let token = started.token.ok_or_else(|| Malformed::new("started.token", "missing"))?;
        Ok((TaskId(started.task_id), token.try_into()?))
    });
    let started = started.collect::<Result<_, Malformed>>()?;
    let prefetch = message.prefetch.iter();
    let prefetch = prefetch.map(|p| (p.type_index, p.tasks.min(limits::PREFETCH))).collect();
    Ok(Report { outcomes, started, prefetch, draining: message.draining })
}

/// Parses one outcome.
pub(super) fn settlement(message: v1::Outcome) -> Result<Settlement, Malformed> {
    let token = message.token.ok_or_else(|| Malformed::new("outcomes.token", "missing"))?;
    let mut result = Bytes::new();
    let outcome = match message.end {
        Some(End::Completed(bytes)) => {
            result = bytes;
            Outcome::Completed
        }
        Some(End::Failed(failure)) => failed(failure),
        Some(End::Released(_)) => Outcome::Released,
        None => return Err(Malformed::new("outcomes.end", "missing")),
    };
    Ok(Settlement {
        id: TaskId(message.task_id),
        token: token.try_into()?,
        outcome,
        result,
        run_us: message.run_us,
    })
}

fn failed(failure: v1::Failure) -> Outcome {
    let reason = match wire::reason(failure.reason()) {
        Some(reason @ (Reason::Permanent | Reason::Timeout | Reason::Panic)) => reason,
        // Whatever else a worker says, it is an error of its handler.
        Some(
            Reason::Error
            | Reason::Lost
            | Reason::Poison
            | Reason::Unknown
            | Reason::Released
            | Reason::Cancelled,
        )
        | None => Reason::Error,
    };
    let mut message = failure.message;
    message.truncate(message.floor_char_boundary(limits::ERROR_BYTES));
    let retry_after = failure.retry_after_ms.map(Duration::from_millis);
    Outcome::Failed { reason, message, retry_after: retry_after.map(|d| d.min(limits::DELAY)) }
}
