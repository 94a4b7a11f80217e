//! Workers without sessions: one unary Execute for each task.
//!
//! Enough for a worker of fifteen lines in any language. To the loop it looks like a
//! session: it joins with what the worker registered, takes assignments within its
//! slots, and reports. The open call is the lease: when the call fails without an
//! answer, its worker counts as lost.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tonic::{Code, Status};

use super::reports;
use super::scheduler::{Gone, Handle, Message, Report, Settlement};
use crate::core::id::{Epoch, TaskId, Token};
use crate::core::placement::Member;
use crate::core::task::Outcome;
use crate::rpc;
use crate::wire::v1::session_request::Frame;
use crate::wire::v1::worker_client::WorkerClient;
use crate::wire::{self, v1};

/// How long a worker that takes no task is left alone before the next one is sent:
/// the loop would send it again at once.
const REFUSED: Duration = Duration::from_millis(500);

/// The calls to one worker.
pub(super) struct Calls {
    pub(super) handle: Handle,
    pub(super) client: WorkerClient<rpc::Channel>,
    pub(super) member: Member,
    pub(super) epoch: Epoch,
    /// The names of the worker's types, in the order in which it joined with them.
    pub(super) types: Vec<Arc<str>>,
    /// Bytes of the largest result.
    pub(super) max_result: u64,
    /// How often the leases of open calls are extended.
    pub(super) extend: Duration,
}

/// The calls that are open, by their leases.
type Open = BTreeMap<Token, (TaskId, AbortHandle)>;

/// One call has ended.
struct Ended {
    id: TaskId,
    token: Token,
    answer: Result<v1::ExecuteResponse, Status>,
}

impl Calls {
    /// Makes calls until the worker cannot be reached.
    pub(super) async fn run(
        mut self,
        mut frames: mpsc::UnboundedReceiver<v1::SessionRequest>,
    ) -> Result<Status, Gone> {
        let mut calls = JoinSet::new();
        let mut open = Open::new();
        let mut tick = interval_at(Instant::now() + self.extend, self.extend);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                frame = frames.recv() => {
                    let Some(frame) = frame.and_then(|request| request.frame) else {
                        return Ok(Status::aborted("a newer session replaced this one"));
                    };
                    self.take(frame, &mut calls, &mut open).await?;
                }
                Some(joined) = calls.join_next() => {
                    let Some(ended) = concluded(joined, &mut open) else { continue };
                    if let Some(status) = self.report(ended).await? {
                        let outcomes = open.iter().map(|(token, (id, _))| lost(*id, *token));
                        let outcomes = outcomes.collect();
                        self.tell(Report { outcomes, ..Report::default() }).await?;
                        return Ok(status);
                    }
                }
                _ = tick.tick(), if !open.is_empty() => self.tell(Report::default()).await?,
            }
        }
    }

    async fn take(
        &mut self,
        frame: Frame,
        calls: &mut JoinSet<Ended>,
        open: &mut Open,
    ) -> Result<(), Gone> {
        match frame {
            Frame::Assign(assign) => {
                let mut started = Vec::with_capacity(assign.tasks.len());
                for task in assign.tasks {
                    let (id, token) = (TaskId(task.task_id), self.token(&task));
                    started.push((id, token));
                    open.insert(token, (id, calls.spawn(self.call(task, id, token))));
                }
                self.tell(Report { started, ..Report::default() }).await
            }
            Frame::Cancel(cancel) => {
                let mut outcomes = Vec::new();
                for message in cancel.tokens {
                    let token = wire::heard_in_session(message, self.epoch);
                    if let Some((id, call)) = open.remove(&token) {
                        // Dropping the call tells the worker to stop.
                        call.abort();
                        outcomes.push(released(id, token));
                    }
                }
                self.tell(Report { outcomes, ..Report::default() }).await
            }
            // An answered call is over, and one that waits nowhere cannot come back.
            Frame::Hello(_) | Frame::Settled(_) | Frame::Recall(_) => Ok(()),
        }
    }

    fn token(&self, task: &v1::Assignment) -> Token {
        Token { epoch: self.epoch, sequence: task.sequence }
    }

    fn call(
        &self,
        task: v1::Assignment,
        id: TaskId,
        token: Token,
    ) -> impl Future<Output = Ended> + use<> {
        let mut client = self.client.clone();
        let index = usize::try_from(task.type_index).unwrap_or(usize::MAX);
        let request = v1::ExecuteRequest {
            task_id: task.task_id,
            token: Some(token.into()),
            r#type: self.types.get(index).map(ToString::to_string).unwrap_or_default(),
            payload: task.payload,
            attempt: task.attempt,
            timeout_ms: task.timeout_ms,
        };
        async move {
            let answer = client.execute(request).await.map(tonic::Response::into_inner);
            if answer.as_ref().is_err_and(is_refusal) {
                tokio::time::sleep(REFUSED).await;
            }
            Ended { id, token, answer }
        }
    }

    /// Reports how a call ended; gives the status of one that was lost.
    async fn report(&self, ended: Ended) -> Result<Option<Status>, Gone> {
        let Ended { id, token, answer } = ended;
        let (settlement, status) = match answer {
            Ok(response) => {
                let outcome = response.outcome.map(|outcome| v1::Outcome {
                    task_id: id.0,
                    token: Some(token.into()),
                    ..outcome
                });
                match outcome
                    .map(|outcome| reports::settlement(outcome, self.epoch, self.max_result))
                {
                    Some(Ok(settlement)) => (settlement, None),
                    Some(Err(_)) | None => (lost(id, token), None),
                }
            }
            Err(status) if is_refusal(&status) => (released(id, token), None),
            Err(status) => (lost(id, token), Some(status)),
        };
        self.tell(Report { outcomes: vec![settlement], ..Report::default() }).await?;
        Ok(status)
    }

    async fn tell(&self, report: Report) -> Result<(), Gone> {
        self.handle.tell(Message::Report { member: self.member, report }).await
    }
}

/// How a call ended. Nothing of one that was given up before that was seen: its end is told. One
/// that panicked has no answer, as if its worker were lost.
fn concluded(joined: Result<Ended, JoinError>, open: &mut Open) -> Option<Ended> {
    match joined {
        Ok(ended) => open.remove(&ended.token).map(|_| ended),
        Err(error) => {
            let mut calls = open.iter();
            let (&token, &(id, _)) = calls.find(|(_, (_, call))| call.id() == error.id())?;
            open.remove(&token);
            Some(Ended { id, token, answer: Err(Status::internal(error.to_string())) })
        }
    }
}

/// Whether the worker said that it has not begun with the task.
fn is_refusal(status: &Status) -> bool {
    matches!(status.code(), Code::ResourceExhausted | Code::NotFound | Code::FailedPrecondition)
}

fn released(id: TaskId, token: Token) -> Settlement {
    settlement(id, token, Outcome::Released)
}

fn lost(id: TaskId, token: Token) -> Settlement {
    settlement(id, token, Outcome::Lost)
}

fn settlement(id: TaskId, token: Token, outcome: Outcome) -> Settlement {
    Settlement { id, token, outcome, result: bytes::Bytes::new(), run_us: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(sequence: u64) -> Token {
        Token { epoch: Epoch { boot: 1, nonce: 7 }, sequence }
    }

    fn answered(sequence: u64) -> Ended {
        let answer = Ok(v1::ExecuteResponse::default());
        Ended { id: TaskId(sequence), token: token(sequence), answer }
    }

    #[tokio::test]
    async fn a_call_that_was_given_up_as_it_ended_is_told_once() {
        let mut calls = JoinSet::new();
        let mut open = Open::new();
        for sequence in [1, 2] {
            let call = calls.spawn(async move { answered(sequence) });
            open.insert(token(sequence), (TaskId(sequence), call));
        }
        let ended = [calls.join_next().await.unwrap(), calls.join_next().await.unwrap()];
        let (_, call) = open.remove(&token(2)).unwrap();
        call.abort();
        let told = ended.into_iter().filter_map(|ended| concluded(ended, &mut open));
        let told: Vec<Token> = told.map(|ended| ended.token).collect();
        assert_eq!(told, [token(1)]);
        assert!(open.is_empty());
    }

    #[tokio::test]
    async fn a_call_that_panics_has_ended_and_one_that_is_aborted_was_told() {
        let mut calls = JoinSet::new();
        let mut open = Open::new();
        let panics = calls.spawn(async { panic!("as asked for") });
        open.insert(token(1), (TaskId(1), panics));
        calls.spawn(std::future::pending()).abort();
        let mut told = Vec::new();
        while let Some(joined) = calls.join_next().await {
            told.extend(concluded(joined, &mut open));
        }
        assert_eq!((told.len(), told[0].id, told[0].answer.is_err()), (1, TaskId(1), true));
        assert!(open.is_empty());
    }
}
