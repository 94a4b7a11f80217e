//! What a worker reports, parsed.

use std::time::Duration;

use bytes::Bytes;

use super::scheduler::{Report, Settlement};
use crate::core::id::{Epoch, TaskId};
use crate::core::limits;
use crate::core::task::{Outcome, Reason};
use crate::wire::v1::{self, outcome::End};
use crate::wire::{self, Malformed};

/// The longest run that is believed, in microseconds: a century. Sums of them have room.
const RUN_US: u64 = 100 * 366 * 24 * 3_600 * 1_000_000;

/// Parses a report of a session of this epoch. A result of more than `max_result` bytes
/// ends its attempt as a permanent failure: trying again would make it no smaller.
pub(super) fn parse(
    message: v1::Report,
    epoch: Epoch,
    max_result: u64,
) -> Result<Report, Malformed> {
    // A collection of results would begin without room.
    let mut outcomes = Vec::with_capacity(message.outcomes.len());
    for outcome in message.outcomes {
        outcomes.push(settlement(outcome, epoch, max_result)?);
    }
    let started = message.started.into_iter().map(|started| {
        let token = started.token.ok_or_else(|| Malformed::new("started.token", "missing"))?;
        Ok((TaskId(started.task_id), wire::heard_in_session(token, epoch)))
    });
    let started = started.collect::<Result<_, Malformed>>()?;
    let prefetch = message.prefetch.iter();
    let prefetch = prefetch.map(|p| (p.type_index, p.tasks.min(limits::PREFETCH))).collect();
    Ok(Report { outcomes, started, prefetch, draining: message.draining })
}

/// Parses one outcome; a result of more than `max_result` bytes is a failure.
pub(super) fn settlement(
    message: v1::Outcome,
    epoch: Epoch,
    max_result: u64,
) -> Result<Settlement, Malformed> {
    let token = message.token.ok_or_else(|| Malformed::new("outcomes.token", "missing"))?;
    let most = usize::try_from(max_result).unwrap_or(usize::MAX);
    let mut result = Bytes::new();
    let outcome = match message.end {
        Some(End::Completed(bytes)) if bytes.len() > most => Outcome::Failed {
            reason: Reason::Permanent,
            message: format!(
                "the result has {} bytes; at most {most} are kept here (--max-payload)",
                bytes.len()
            ),
            retry_after: None,
        },
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
        token: wire::heard_in_session(token, epoch),
        outcome,
        result,
        run_us: message.run_us.min(RUN_US),
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
            | Reason::Silence
            | Reason::Cancelled,
        )
        | None => Reason::Error,
    };
    let mut message = failure.message;
    message.truncate(message.floor_char_boundary(limits::ERROR_BYTES));
    let retry_after = failure.retry_after_ms.map(Duration::from_millis);
    Outcome::Failed { reason, message, retry_after: retry_after.map(|d| d.min(limits::DELAY)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::id::Token;

    const EPOCH: Epoch = Epoch { boot: 3, nonce: 7 };

    #[test]
    fn a_token_without_an_epoch_is_of_the_session() {
        let older = Epoch { boot: 2, nonce: 9 };
        let tokens = [EPOCH, older].map(|epoch| Token { epoch, sequence: 5 });
        let said = tokens.map(|token| wire::said_in_session(token, EPOCH));
        assert_eq!(said.map(|token| token.epoch), [None, Some(older.into())]);
        let outcome = |token| v1::Outcome {
            token: Some(token),
            end: Some(End::Completed(Bytes::new())),
            ..v1::Outcome::default()
        };
        let started = said.map(|token| v1::Started { task_id: 4, token: Some(token) });
        let outcomes = said.map(outcome).into();
        let report = v1::Report { outcomes, started: started.into(), ..v1::Report::default() };
        let report = parse(report, EPOCH, 10).unwrap();
        let settled: Vec<_> = report.outcomes.iter().map(|settled| settled.token).collect();
        assert_eq!(settled, tokens);
        assert_eq!(report.started, tokens.map(|token| (TaskId(4), token)));
    }

    #[test]
    fn a_result_over_the_limit_is_a_permanent_failure() {
        let outcome = |bytes: usize| v1::Outcome {
            task_id: 1,
            token: Some(v1::Token { epoch: Some(v1::Epoch::default()), sequence: 1 }),
            run_us: 3,
            end: Some(End::Completed(vec![b'x'; bytes].into())),
        };
        let outcomes = vec![outcome(10), outcome(11)];
        let report = parse(v1::Report { outcomes, ..v1::Report::default() }, EPOCH, 10).unwrap();
        assert_eq!(report.outcomes[0].outcome, Outcome::Completed);
        assert_eq!(report.outcomes[0].result.len(), 10);
        let Outcome::Failed { reason, message, .. } = &report.outcomes[1].outcome else {
            panic!("{:?}", report.outcomes[1].outcome)
        };
        assert_eq!((*reason, report.outcomes[1].result.len()), (Reason::Permanent, 0));
        assert!(message.contains("11 bytes; at most 10"), "{message}");
    }

    #[test]
    fn what_a_worker_says_is_cut_to_the_limits() {
        let failure = v1::Failure {
            message: "ä".repeat(limits::ERROR_BYTES),
            reason: v1::Reason::Poison.into(),
            retry_after_ms: Some(u64::MAX),
        };
        let outcome = v1::Outcome {
            token: Some(v1::Token { epoch: Some(v1::Epoch::default()), sequence: 1 }),
            end: Some(End::Failed(failure)),
            run_us: u64::MAX,
            ..v1::Outcome::default()
        };
        let prefetch = vec![v1::Prefetch { type_index: 3, tasks: u32::MAX }];
        let outcomes = vec![outcome];
        let report =
            parse(v1::Report { outcomes, prefetch, ..v1::Report::default() }, EPOCH, 10).unwrap();
        assert_eq!(report.prefetch, [(3, limits::PREFETCH)]);
        assert_eq!(report.outcomes[0].run_us, RUN_US);
        let Outcome::Failed { reason, message, retry_after } = &report.outcomes[0].outcome else {
            panic!("{:?}", report.outcomes[0].outcome)
        };
        assert_eq!((*reason, *retry_after), (Reason::Error, Some(limits::DELAY)));
        assert!(message.len() <= limits::ERROR_BYTES);
    }
}
