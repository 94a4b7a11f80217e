//! One conversation with one dispatcher: frames in, reports out.
//!
//! ```text
//!  dispatcher: hello ▶ assign, settled, recall, cancel …
//!  worker:             hello ▶ report, report …            until either leaves
//! ```
//!
//! Reading and writing never wait for each other: a report is made only when the
//! stream has room for it, and then holds all that happened until then. What this
//! module does not do: it keeps nothing that must outlive the session; the pool does.

use std::collections::BTreeSet;
use std::pin::pin;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::{Status, Streaming};

use super::pool::{Attached, Caller, Pool, Refusal};
use crate::core::id::{Epoch, Token};
use crate::core::limits;
use crate::wire::{self, Malformed, v1};

/// How long a dispatcher may take to say hello.
const HELLO_WITHIN: Duration = Duration::from_secs(10);
/// Bytes of a dispatcher's id.
const DISPATCHER_ID_BYTES: usize = 256;

/// What goes to the dispatcher.
pub(super) type Outgoing = mpsc::Sender<Result<v1::SessionResponse, Status>>;

/// A dispatcher's hello, read.
pub(super) struct Hello {
    pub(super) caller: Caller,
    lease: Duration,
}

/// Waits for the hello and reads it.
pub(super) async fn hello(incoming: &mut Streaming<v1::SessionRequest>) -> Result<Hello, Status> {
    let first = tokio::time::timeout(HELLO_WITHIN, incoming.message())
        .await
        .map_err(|_| Status::deadline_exceeded("no hello came; say it first"))??;
    match first.and_then(|request| request.frame) {
        Some(v1::session_request::Frame::Hello(hello)) => Ok(read_hello(hello)?),
        Some(_) | None => Err(Status::invalid_argument("the first message must be the hello")),
    }
}

fn read_hello(hello: v1::DispatcherHello) -> Result<Hello, Malformed> {
    let v1::DispatcherHello { dispatcher_id, epoch, session, lease_ms, max_result_bytes } = hello;
    if dispatcher_id.is_empty() || dispatcher_id.len() > DISPATCHER_ID_BYTES {
        let problem = format!("must have 1 to {DISPATCHER_ID_BYTES} bytes");
        return Err(Malformed::new("hello.dispatcher_id", problem));
    }
    let epoch = epoch.ok_or_else(|| Malformed::new("hello.epoch", "missing"))?.into();
    let lease = Duration::from_millis(lease_ms);
    if !limits::LEASE.contains(&lease) {
        return Err(Malformed::new("hello.lease_ms", "must be from 500 ms to an hour"));
    }
    let max_result_bytes = match max_result_bytes {
        0 => limits::PAYLOAD_BYTES,
        bytes => bytes.min(limits::PAYLOAD_BYTES_MAX),
    };
    let caller = Caller { dispatcher: dispatcher_id, epoch, number: session, max_result_bytes };
    Ok(Hello { caller, lease })
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Draining => Self::unavailable("the worker is about to leave"),
            Refusal::Full => Self::resource_exhausted("no room: try another worker, or later"),
            Refusal::Replaced => {
                Self::aborted("a newer session of the same dispatcher replaced this one")
            }
        }
    }
}

/// A session that both sides have said hello in.
pub(super) struct Session {
    pool: Pool,
    attached: Attached,
    /// Of all tokens that name no other.
    epoch: Epoch,
    /// The longest silence towards the dispatcher.
    extend_every: Duration,
}

impl Session {
    /// Begins the session of this hello: an older one of the same dispatcher ends.
    pub(super) fn begin(pool: Pool, hello: Hello) -> Result<Self, Refusal> {
        let epoch = hello.caller.epoch;
        let attached = pool.attach(hello.caller)?;
        Ok(Self { pool, attached, epoch, extend_every: hello.lease / 3 })
    }

    /// What this worker held when the session began, and whether it is leaving.
    pub(super) fn held(&mut self) -> (Vec<v1::HeldLease>, bool) {
        (std::mem::take(&mut self.attached.held), self.attached.draining)
    }

    /// Converses until either side leaves.
    pub(super) async fn run(self, mut incoming: Streaming<v1::SessionRequest>, out: Outgoing) {
        let Attached { ref bell, ref ended, .. } = self.attached;
        let mut silence = pin!(tokio::time::sleep(self.extend_every));
        // Outcomes of an earlier session may be waiting.
        let (mut due, mut extend) = (true, false);
        // Brief tasks may be waiting for a session to run them.
        let mut brief = true;
        loop {
            tokio::select! {
                () = ended.cancelled() => {
                    if !self.pool.is_stopped() {
                        // It may not be read any more; then nobody misses it.
                        drop(out.try_send(Err(Refusal::Replaced.into())));
                    }
                    return;
                }
                room = out.reserve(), if due || extend => {
                    let Ok(room) = room else { return };
                    let report = self.pool.report(self.attached.desk, self.attached.serial);
                    due = report.is_some();
                    if report.is_some() || extend {
                        let frame = v1::session_response::Frame::Report(report.unwrap_or_default());
                        room.send(Ok(v1::SessionResponse { frame: Some(frame) }));
                        silence.as_mut().reset(Instant::now() + self.extend_every);
                        extend = false;
                    }
                }
                request = incoming.message() => match request {
                    Ok(Some(v1::SessionRequest { frame: Some(frame) })) => {
                        match self.take(frame) {
                            Ok(more) => brief |= more,
                            Err(malformed) => {
                                drop(out.try_send(Err(malformed.into())));
                                return;
                            }
                        }
                    }
                    Ok(Some(_)) => {}
                    Ok(None) => return,
                    Err(status) => {
                        tracing::debug!(%status, "a session broke");
                        return;
                    }
                },
                () = bell.notified() => (due, brief) = (true, true),
                () = tokio::task::yield_now(), if brief => brief = self.pool.run_brief(),
                () = silence.as_mut(), if !extend => {
                    self.pool.nudge();
                    extend = true;
                }
            }
        }
    }

    /// Says whether brief tasks wait.
    fn take(&self, frame: v1::session_request::Frame) -> Result<bool, Malformed> {
        use v1::session_request::Frame;
        let Attached { desk, serial, .. } = self.attached;
        let brief = match frame {
            Frame::Hello(_) => return Err(Malformed::new("frame", "a second hello")),
            Frame::Assign(assign) => self.pool.assign(desk, serial, assign),
            Frame::Settled(settled) => {
                let tokens = settled.answers.into_iter().filter_map(|answer| self.answered(answer));
                self.pool.settled(desk, serial, tokens)
            }
            Frame::Recall(recall) => {
                self.pool.recall(desk, serial, &self.tokens(recall.tokens));
                false
            }
            Frame::Cancel(cancel) => {
                self.pool.cancel(desk, serial, &self.tokens(cancel.tokens));
                false
            }
        };
        Ok(brief)
    }

    /// The lease whose outcome had its final answer, whatever the answer.
    fn answered(&self, answer: v1::OutcomeAnswer) -> Option<Token> {
        let verdict = answer.answer();
        let token = wire::heard_in_session(answer.token?, self.epoch);
        match verdict {
            v1::Answer::Accepted | v1::Answer::Duplicate => Some(token),
            v1::Answer::Fenced | v1::Answer::Unknown => {
                tracing::debug!(%token, ?verdict, "an outcome came too late");
                Some(token)
            }
            v1::Answer::Unspecified => None,
        }
    }

    fn tokens(&self, messages: Vec<v1::Token>) -> BTreeSet<Token> {
        messages.into_iter().map(|token| wire::heard_in_session(token, self.epoch)).collect()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.pool.detach(self.attached.desk, self.attached.serial);
    }
}
