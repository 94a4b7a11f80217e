//! What a user writes: a [`Handler`], which gets a [`Context`] and a payload and
//! answers with a result or a [`Failure`].
//!
//! Handlers come in five flavours, and the builder has a verb for each: async
//! (waits for something), blocking (computes, or waits by blocking its thread),
//! computing (never waits), and two of typed values, JSON and protobuf (async). Nothing
//! here knows of sessions or slots.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use crate::core::id::{TaskId, Token};
use crate::core::limits;

/// Runs the tasks of one type.
///
/// A handler may be started more than once for a task (a worker was lost, a
/// connection broke): what it does outside should bear that, or hand
/// [`Context::token`] to whatever it writes to. A panic fails the attempt only.
///
/// Async functions and closures are handlers:
///
/// ```
/// use bytes::Bytes;
/// use taskgrid::worker::{Context, Failure, Worker};
///
/// async fn greet(_context: Context, payload: Bytes) -> Result<Bytes, Failure> {
///     let name = std::str::from_utf8(&payload).map_err(Failure::permanent)?;
///     Ok(format!("hello, {name}").into())
/// }
///
/// let builder = Worker::builder().handle("greet", greet);
/// # drop(builder);
/// ```
pub trait Handler: Send + Sync + 'static {
    /// Runs one attempt. The future is dropped when the run timeout ends or, some
    /// time after [`Context::cancelled`], when the task was cancelled; so it must
    /// not block its thread for long (see [`super::Builder::handle_blocking`]).
    fn run(
        &self,
        context: Context,
        payload: Bytes,
    ) -> impl Future<Output = Result<Bytes, Failure>> + Send;
}

impl<F, R> Handler for F
where
    F: Fn(Context, Bytes) -> R + Send + Sync + 'static,
    R: Future<Output = Result<Bytes, Failure>> + Send,
{
    fn run(
        &self,
        context: Context,
        payload: Bytes,
    ) -> impl Future<Output = Result<Bytes, Failure>> + Send {
        self(context, payload)
    }
}

/// What a handler knows of the attempt it runs. Cheap to clone.
#[derive(Clone)]
pub struct Context {
    lease: LeaseId,
    type_index: usize,
    pool: Arc<dyn Running>,
    /// Made when it is first asked for: most handlers are over before.
    signal: OnceLock<CancellationToken>,
}

/// Which attempt of which task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LeaseId {
    /// The desk that gave it.
    pub(super) desk: u64,
    /// The task.
    pub(super) task: TaskId,
    /// The attempt's number, from 1.
    pub(super) attempt: u32,
    /// The lease's token.
    pub(super) token: Token,
}

/// Where handlers run, as their contexts know it.
pub(super) trait Running: Send + Sync {
    /// How far the handler of a lease is.
    fn progress(&self, lease: LeaseId, message: String);

    /// What is cancelled when the attempt is no longer wanted.
    fn signal(&self, lease: LeaseId) -> CancellationToken;

    /// The name of a type.
    fn type_name(&self, type_index: usize) -> &str;
}

impl Context {
    pub(super) fn new(lease: LeaseId, type_index: usize, pool: Arc<dyn Running>) -> Self {
        Self { lease, type_index, pool, signal: OnceLock::new() }
    }

    /// The task.
    #[must_use]
    pub fn task_id(&self) -> u64 {
        self.lease.task.0
    }

    /// Which attempt this is, from 1.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.lease.attempt
    }

    /// The fencing token of this attempt's lease. Of two tokens of a task the
    /// greater is the newer: hand it to whatever the handler writes to, so that a
    /// late write of an older attempt can be refused there.
    #[must_use]
    pub fn token(&self) -> Token {
        self.lease.token
    }

    /// The name of the task's type.
    #[must_use]
    pub fn task_type(&self) -> &str {
        self.pool.type_name(self.type_index)
    }

    /// Waits until the attempt is no longer wanted: the task was cancelled, its
    /// run timeout ended, or the worker leaves. What the handler answers after
    /// that is not kept.
    pub async fn cancelled(&self) {
        self.signal().cancelled().await;
    }

    /// Whether the attempt is no longer wanted. For blocking handlers, which
    /// nobody can stop from outside.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.signal().is_cancelled()
    }

    /// Tells those who watch the task how far it is. At most 1 KiB is kept, and of
    /// several messages in a short time perhaps only the last.
    pub fn progress(&self, message: impl Into<String>) {
        let message = cut(message.into(), limits::PROGRESS_BYTES);
        self.pool.progress(self.lease, message);
    }

    fn signal(&self) -> &CancellationToken {
        self.signal.get_or_init(|| self.pool.signal(self.lease))
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("task_id", &self.lease.task)
            .field("attempt", &self.lease.attempt)
            .field("task_type", &self.task_type())
            .finish_non_exhaustive()
    }
}

/// Why an attempt did not succeed.
///
/// Any error becomes one with `?`, as an error that is worth another attempt.
/// (So `Failure` is no [`std::error::Error`] itself: the two cannot both be.)
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub(super) message: String,
    pub(super) permanent: bool,
    pub(super) retry_after: Option<Duration>,
}

impl Failure {
    /// An error that another attempt may not meet. The task is tried again after
    /// a delay, until its `max_attempts` are used up. At most 4 KiB of the message
    /// are kept.
    pub fn error(message: impl fmt::Display) -> Self {
        let message = cut(message.to_string(), limits::ERROR_BYTES);
        Self { message, permanent: false, retry_after: None }
    }

    /// An error that every attempt would meet: the task fails at once.
    pub fn permanent(message: impl fmt::Display) -> Self {
        Self { permanent: true, ..Self::error(message) }
    }

    /// The delay before the next attempt, in place of the usual one. Without
    /// effect on a permanent failure.
    #[must_use]
    pub fn retry_after(self, delay: Duration) -> Self {
        Self { retry_after: Some(delay), ..self }
    }

    /// What went wrong.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Whether another attempt is of no use.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        self.permanent
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.message.fmt(f)
    }
}

impl<E: std::error::Error> From<E> for Failure {
    /// The error and its sources, outermost first.
    fn from(error: E) -> Self {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source.filter(|_| message.len() < limits::ERROR_BYTES) {
            message.push_str(": ");
            message.push_str(&cause.to_string());
            source = cause.source();
        }
        Self::error(message)
    }
}

/// A handler as the worker keeps it.
#[derive(Clone)]
pub(super) enum Run {
    /// Polled on the worker's runtime.
    Async(Arc<dyn AsyncRun>),
    /// Called on a thread of its own.
    Blocking(Arc<BlockingRun>),
    /// Called on a thread of its own, or where its task came in if that is brief.
    Computing(Arc<BlockingRun>),
}

/// The flavours of [`Run`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Async,
    Blocking,
    Computing,
}

impl Run {
    /// Which of them it is.
    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Async(_) => Kind::Async,
            Self::Blocking(_) => Kind::Blocking,
            Self::Computing(_) => Kind::Computing,
        }
    }
}

/// A handler's own code, as it is called on a runner's thread.
pub(super) type BlockingRun = dyn Fn(&Context, Bytes) -> Result<Bytes, Failure> + Send + Sync;

/// What an attempt answers.
pub(super) type Answered<'a> = Pin<Box<dyn Future<Output = Result<Bytes, Failure>> + Send + 'a>>;

/// [`Handler`] behind a pointer.
pub(super) trait AsyncRun: Send + Sync {
    /// See [`Handler::run`].
    fn run(&self, context: Context, payload: Bytes) -> Answered<'_>;
}

impl<H: Handler> AsyncRun for H {
    fn run(&self, context: Context, payload: Bytes) -> Answered<'_> {
        Box::pin(Handler::run(self, context, payload))
    }
}

/// How values become payloads and results, and back.
pub(super) struct Codec<In, Out> {
    pub(super) decode: fn(Bytes) -> Result<In, Failure>,
    pub(super) encode: fn(Out) -> Result<Bytes, Failure>,
}

impl<In: DeserializeOwned, Out: Serialize> Codec<In, Out> {
    /// As JSON.
    pub(super) fn json() -> Self {
        Self {
            decode: |payload| serde_json::from_slice(&payload).map_err(not_taken),
            encode: |output| {
                let result = serde_json::to_vec(&output);
                let result = result
                    .map_err(|e| Failure::permanent(format!("the result is no JSON: {e}")))?;
                Ok(result.into())
            },
        }
    }
}

impl<In: prost::Message + Default, Out: prost::Message> Codec<In, Out> {
    /// As messages of protobuf.
    pub(super) fn proto() -> Self {
        Self {
            decode: |payload| In::decode(payload).map_err(not_taken),
            encode: |output| Ok(output.encode_to_vec().into()),
        }
    }
}

fn not_taken(problem: impl fmt::Display) -> Failure {
    Failure::permanent(format!("the payload is not what it takes: {problem}"))
}

/// A handler of typed values as one of bytes.
pub(super) fn typed<In, Out, F, R>(codec: Codec<In, Out>, handler: F) -> Run
where
    In: Send + 'static,
    Out: Send + 'static,
    F: Fn(Context, In) -> R + Send + Sync + 'static,
    R: Future<Output = Result<Out, Failure>> + Send + 'static,
{
    let (handler, Codec { decode, encode }) = (Arc::new(handler), codec);
    let run = move |context: Context, payload: Bytes| {
        let handler = Arc::clone(&handler);
        async move { encode(handler(context, decode(payload)?).await?) }
    };
    Run::Async(Arc::new(run))
}

/// The text, no longer than so many bytes.
pub(super) fn cut(mut text: String, bytes: usize) -> String {
    text.truncate(text.floor_char_boundary(bytes));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_error_becomes_a_failure_worth_another_attempt() {
        fn fallible() -> Result<(), Failure> {
            Err(std::io::Error::other("the disk is full"))?;
            Ok(())
        }
        let failure = fallible().expect_err("fails");
        assert_eq!(failure, Failure::error("the disk is full"));
        assert!(!failure.is_permanent());
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let failure = Failure::permanent("ä".repeat(limits::ERROR_BYTES));
        assert_eq!(failure.message().len(), limits::ERROR_BYTES);
        assert_eq!(cut("aä".to_owned(), 2), "a");
    }
}
