//! Putting a worker together: which types it serves, with which handlers.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::handler::{self, Codec, Context, Failure, Handler, Run};
use super::pool::Served;
use super::{Config, Error, Worker};
use crate::core::limits;
use crate::core::payload::Checker;
use crate::core::task_type::{PayloadKind, TaskType};

/// A task type to serve: its name, and what its payloads must be. A name alone
/// (`"resize"`) takes any bytes.
///
/// Dispatchers refuse at submit what is not of the kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypeSpec {
    name: String,
    payload: PayloadKind,
}

impl TypeSpec {
    /// A type that takes any bytes. The name has 1 to 64 of the characters a-z,
    /// 0-9, `-`, `_` and `.`, and begins with a letter; [`Builder::bind`] checks it.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), payload: PayloadKind::Bytes }
    }

    /// It takes UTF-8 text.
    #[must_use]
    pub fn text(self) -> Self {
        Self { payload: PayloadKind::Text, ..self }
    }

    /// It takes any JSON.
    #[must_use]
    pub fn json(self) -> Self {
        Self { payload: PayloadKind::Json { schema: None }, ..self }
    }

    /// It takes JSON that satisfies this JSON Schema (draft 2020-12, at most 64 KiB,
    /// with no reference out of itself).
    #[must_use]
    pub fn json_schema(self, schema: &str) -> Self {
        Self { payload: PayloadKind::Json { schema: Some(schema.into()) }, ..self }
    }

    /// It takes a duration (`2`, `250ms`), at most this long if there is a limit.
    #[must_use]
    pub fn duration(self, at_most: Option<Duration>) -> Self {
        Self { payload: PayloadKind::Duration { at_most }, ..self }
    }
}

impl From<&str> for TypeSpec {
    fn from(name: &str) -> Self {
        Self::new(name)
    }
}

impl From<String> for TypeSpec {
    fn from(name: String) -> Self {
        Self::new(name)
    }
}

impl From<TaskType> for TypeSpec {
    fn from(task_type: TaskType) -> Self {
        Self { name: task_type.name.into(), payload: task_type.payload }
    }
}

/// See [`Worker::builder`].
#[must_use]
#[derive(Default)]
pub struct Builder {
    handlers: Vec<(TypeSpec, Run)>,
    slots_at_least: u32,
}

impl Builder {
    /// Serves a type with an async handler: one that waits for something. It runs
    /// on the worker's runtime, so it must not compute or block for long.
    pub fn handle(self, spec: impl Into<TypeSpec>, handler: impl Handler) -> Self {
        self.with(spec.into(), Run::Async(Arc::new(handler)))
    }

    /// Serves a type with a blocking handler: one that computes, or blocks its
    /// thread. It runs on a thread of its own, which costs a few microseconds at
    /// most for each task.
    ///
    /// It cannot be stopped from outside. One that goes on half a second after it
    /// was told to stop (see [`Context::is_cancelled`]) or after its run timeout
    /// has its slot taken away, and what it answers then is dropped; its thread
    /// ends when it does.
    pub fn handle_blocking<F>(self, spec: impl Into<TypeSpec>, handler: F) -> Self
    where
        F: Fn(&Context, Bytes) -> Result<Bytes, Failure> + Send + Sync + 'static,
    {
        self.with(spec.into(), Run::Blocking(Arc::new(handler)))
    }

    /// Serves a type with a computing handler: a blocking one that never waits for anything,
    /// and whose time its payload's length decides. While the type's handlers take less than
    /// 5 µs in the mean, tasks of at most 4 KiB run on the worker's runtime as they come in:
    /// to wake a thread for them would take longer. What waits after all holds the worker's
    /// sessions up meanwhile.
    pub fn handle_computing<F>(self, spec: impl Into<TypeSpec>, handler: F) -> Self
    where
        F: Fn(&Context, Bytes) -> Result<Bytes, Failure> + Send + Sync + 'static,
    {
        self.with(spec.into(), Run::Computing(Arc::new(handler)))
    }

    /// Serves a type with an async handler from JSON to JSON. A payload that is not
    /// an `In` is a permanent failure. The type takes JSON even if its spec is a
    /// mere name; a schema says more, and refuses it at submit.
    pub fn handle_json<In, Out, R>(
        self,
        spec: impl Into<TypeSpec>,
        handler: impl Fn(Context, In) -> R + Send + Sync + 'static,
    ) -> Self
    where
        In: DeserializeOwned + Send + 'static,
        Out: Serialize + Send + 'static,
        R: Future<Output = Result<Out, Failure>> + Send + 'static,
    {
        let spec = match spec.into() {
            spec @ TypeSpec { payload: PayloadKind::Json { .. }, .. } => spec,
            spec => spec.json(),
        };
        self.with(spec, handler::typed(Codec::json(), handler))
    }

    /// Serves a type with an async handler from one message of protobuf to another.
    /// A payload that does not decode is a permanent failure. The type takes bytes,
    /// whatever its spec says.
    ///
    /// ```
    /// use taskgrid::worker::{Builder, Worker};
    ///
    /// #[derive(Clone, PartialEq, prost::Message)]
    /// struct Rectangle {
    ///     #[prost(double, tag = "1")]
    ///     width: f64,
    ///     #[prost(double, tag = "2")]
    ///     height: f64,
    /// }
    ///
    /// #[derive(Clone, PartialEq, prost::Message)]
    /// struct Area {
    ///     #[prost(double, tag = "1")]
    ///     area: f64,
    /// }
    ///
    /// let builder: Builder = Worker::builder().handle_proto(
    ///     "area",
    ///     async |_, Rectangle { width, height }| Ok(Area { area: width * height }),
    /// );
    /// # drop(builder);
    /// ```
    pub fn handle_proto<In, Out, R>(
        self,
        spec: impl Into<TypeSpec>,
        handler: impl Fn(Context, In) -> R + Send + Sync + 'static,
    ) -> Self
    where
        In: prost::Message + Default + 'static,
        Out: prost::Message + 'static,
        R: Future<Output = Result<Out, Failure>> + Send + 'static,
    {
        self.with(TypeSpec::new(spec.into().name), handler::typed(Codec::proto(), handler))
    }

    /// For types whose tasks mostly wait: unless [`Config::slots`] says otherwise,
    /// the worker has at least so many.
    pub fn slots_at_least(self, slots: u32) -> Self {
        Self { slots_at_least: self.slots_at_least.max(slots), ..self }
    }

    /// Binds the worker's port: it can be reached, and is answered once it is run.
    /// Fails if a type is malformed or named twice, or the port cannot be bound.
    /// Must be called within a tokio runtime.
    pub async fn bind(self, config: Config) -> Result<Worker, Error> {
        let slots_at_least = self.slots_at_least;
        Worker::bind(self.types()?, slots_at_least, config).await
    }

    fn with(mut self, spec: TypeSpec, run: Run) -> Self {
        self.handlers.push((spec, run));
        self
    }

    fn types(self) -> Result<Arc<[Served]>, Error> {
        if self.handlers.is_empty() || self.handlers.len() > limits::WORKER_TYPES {
            return Err(Error::Types(self.handlers.len()));
        }
        let mut types: Vec<Served> = Vec::with_capacity(self.handlers.len());
        for (TypeSpec { name, payload }, run) in self.handlers {
            let task_type = TaskType { name: name.parse()?, payload };
            let too_large = matches!(&task_type.payload,
                PayloadKind::Json { schema: Some(schema) } if schema.len() > limits::SCHEMA_BYTES);
            if too_large {
                return Err(Error::SchemaTooLarge(name));
            }
            Checker::compile(&task_type.payload)
                .map_err(|source| Error::BadSchema { name: name.clone(), source })?;
            if types.iter().any(|served| served.task_type.name == task_type.name) {
                return Err(Error::TypeTwice(name));
            }
            types.push(Served { task_type, run });
        }
        Ok(types.into())
    }
}
