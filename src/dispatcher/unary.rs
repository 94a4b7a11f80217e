//! Workers without sessions: one unary Execute for each task.
//!
//! Enough for a worker of fifteen lines in any language. To the loop it looks like a
//! session: it joins with what the worker registered, takes assignments within its
//! slots, and reports. The open call is the lease: when its connection is lost, so is
//! the worker. A status that the worker itself gave is an answer: that it has not begun,
//! or else how its handler failed, as in gRPC a handler that raises ends with one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use tonic::{Code, Status};

use super::reports;
use super::scheduler::{Gone, Handle, Message, Report, Settlement};
use crate::core::id::{Epoch, TaskId, Token};
use crate::core::limits;
use crate::core::placement::Member;
use crate::core::task::{Outcome, Reason};
use crate::rpc;
use crate::wire::v1::session_request::Frame;
use crate::wire::v1::worker_client::WorkerClient;
use crate::wire::{self, v1};

/// How long a worker that takes no task is left alone before the next one is sent:
/// the loop would send it again at once.
const REFUSED: Duration = Duration::from_millis(500);

/// A call that is open for so long has begun: who refuses does so at once.
const BEGUN: Duration = Duration::from_millis(100);

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
    /// Makes calls until the worker cannot be reached, or until those are answered that
    /// were made before it `changed`.
    pub(super) async fn run(
        mut self,
        mut frames: mpsc::UnboundedReceiver<v1::SessionRequest>,
        changed: impl Future<Output = ()>,
    ) -> Result<Status, Gone> {
        let mut calls = JoinSet::new();
        let mut open = Open::new();
        let mut leaving = false;
        tokio::pin!(changed);
        let mut tick = interval_at(Instant::now() + self.extend, self.extend);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                frame = frames.recv() => {
                    let Some(frame) = frame.and_then(|request| request.frame) else {
                        return Ok(Status::aborted("a newer session replaced this one"));
                    };
                    self.take(frame, &mut calls, &mut open).await?;
                }
                Some(joined) = calls.join_next() => {
                    let Some(ended) = concluded(joined, &mut open) else { continue };
                    if let Some(status) = self.report(ended).await? {
                        let open = open.iter().map(|(token, (id, _))| (*id, *token));
                        self.tell(all_lost(open.collect())).await?;
                        return Ok(status);
                    }
                }
                _ = tick.tick(), if !open.is_empty() => self.tell(Report::default()).await?,
                () = &mut changed, if !leaving => {
                    leaving = true;
                    self.tell(Report { draining: true, ..Report::default() }).await?;
                    // Once this is answered no more tasks are under way, but for those that wait
                    // for their commit: these go back with the session.
                    self.handle.ask(|reply| Message::End { reply }).await?;
                }
                () = std::future::ready(()), if leaving && open.is_empty() => {
                    return Ok(Status::aborted("its registration has changed"));
                }
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
                for task in assign.tasks {
                    let (id, token) = (TaskId(task.task_id), self.token(&task));
                    open.insert(token, (id, calls.spawn(self.call(task, id, token))));
                }
                Ok(())
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
        let (mut client, handle, member) = (self.client.clone(), self.handle.clone(), self.member);
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
            let call = client.execute(request);
            tokio::pin!(call);
            let soon = timeout(BEGUN, &mut call).await;
            let answer = if let Ok(answer) = soon {
                answer
            } else {
                let report = Report { started: vec![(id, token)], ..Report::default() };
                // A loop that has ended is heard of by whoever waits for this call.
                handle.tell(Message::Report { member, report }).await.ok();
                call.await
            };
            let answer = answer.map(tonic::Response::into_inner);
            if answer.as_ref().is_err_and(|status| Meaning::of(status) == Meaning::Refused) {
                tokio::time::sleep(REFUSED).await;
            }
            Ended { id, token, answer }
        }
    }

    /// Reports how a call ended; gives its status if the worker cannot be reached any more.
    async fn report(&self, ended: Ended) -> Result<Option<Status>, Gone> {
        let Ended { id, token, answer } = ended;
        let (report, status) = match answer {
            Ok(response) => (self.answered(id, token, response), None),
            Err(status) => match Meaning::of(&status) {
                Meaning::Refused => (settled(released(id, token)), None),
                Meaning::Failed => (settled(failed(id, token, &status)), None),
                Meaning::NotReached => (settled(released(id, token)), Some(status)),
                Meaning::Lost => (all_lost(vec![(id, token)]), Some(status)),
            },
        };
        self.tell(report).await?;
        Ok(status)
    }

    fn answered(&self, id: TaskId, token: Token, response: v1::ExecuteResponse) -> Report {
        let outcome = response.outcome.map(|outcome| v1::Outcome {
            task_id: id.0,
            token: Some(token.into()),
            ..outcome
        });
        let read = outcome.map(|outcome| reports::settlement(outcome, self.epoch, self.max_result));
        match read {
            Some(Ok(settlement)) => settled(settlement),
            Some(Err(_)) | None => all_lost(vec![(id, token)]),
        }
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
            Some(Ended { id, token, answer: Err(Status::from_error(error.into())) })
        }
    }
}

/// What the status of a call says of its task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    /// The worker has not begun with it, and says so.
    Refused,
    /// The worker's handler failed.
    Failed,
    /// There is no such worker now: it never had the task.
    NotReached,
    /// The connection is lost, and what became of the task unknown.
    Lost,
}

impl Meaning {
    fn of(status: &Status) -> Self {
        // What came over the wire has no source; what tonic made up of an error has one.
        let mut source = std::error::Error::source(status);
        if source.is_none() {
            return match status.code() {
                Code::ResourceExhausted
                | Code::NotFound
                | Code::FailedPrecondition
                | Code::Unavailable => Self::Refused,
                Code::Unimplemented => Self::NotReached,
                _ => Self::Failed,
            };
        }
        while let Some(error) = source {
            if error.is::<tonic::ConnectError>() {
                return Self::NotReached;
            }
            source = error.source();
        }
        Self::Lost
    }
}

fn released(id: TaskId, token: Token) -> Settlement {
    settlement(id, token, Outcome::Released)
}

fn failed(id: TaskId, token: Token, status: &Status) -> Settlement {
    let mut message = format!("{}: {}", status.code().description(), status.message());
    message.truncate(message.floor_char_boundary(limits::ERROR_BYTES));
    let outcome = Outcome::Failed { reason: Reason::Error, message, retry_after: None };
    settlement(id, token, outcome)
}

fn settlement(id: TaskId, token: Token, outcome: Outcome) -> Settlement {
    Settlement { id, token, outcome, result: bytes::Bytes::new(), run_us: 0 }
}

fn settled(settlement: Settlement) -> Report {
    Report { outcomes: vec![settlement], ..Report::default() }
}

/// These calls were open when their worker was lost.
fn all_lost(calls: Vec<(TaskId, Token)>) -> Report {
    let lost = calls.iter().map(|(id, token)| settlement(*id, *token, Outcome::Lost));
    Report { outcomes: lost.collect(), started: calls, ..Report::default() }
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
