//! The contract on the wire: the generated code, and its conversion to and from
//! the core's words. Parsing happens here and nowhere else: inside, a value is
//! always well-formed.

pub mod codec;
pub mod json;
pub mod registration;

use std::time::Duration;

use crate::core::id::{Epoch, Token, millis};
use crate::core::limits;
use crate::core::task::{Reason, Status};
use crate::core::task_type::{PayloadKind, TaskType, TypeName};

/// The generated code of `proto/`, a module for each package.
#[allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    clippy::restriction,
    unreachable_pub,
    reason = "generated from proto/, where every item is commented"
)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/contract.rs"));
}

// What packages there are is for proto/ to say.
pub use generated::taskgrid::*;

/// The encoded descriptor set of `proto/`: for reflection and for the
/// test that walks the policy table.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/taskgrid.v1.bin"));

/// A message that says what it must not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct Malformed {
    /// The field, by its path in the message.
    pub field: String,
    /// What is wrong with it, and what would be right.
    pub problem: String,
}

impl Malformed {
    /// A complaint about one field.
    pub fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { field: field.into(), problem: problem.into() }
    }
}

impl From<Malformed> for tonic::Status {
    fn from(malformed: Malformed) -> Self {
        Self::invalid_argument(malformed.to_string())
    }
}

impl TryFrom<v1::TaskType> for TaskType {
    type Error = Malformed;

    fn try_from(message: v1::TaskType) -> Result<Self, Malformed> {
        let name: TypeName =
            message.name.parse().map_err(|bad: crate::core::task_type::BadTypeName| {
                Malformed::new("name", bad.to_string())
            })?;
        let payload = match message.payload() {
            v1::PayloadKind::Bytes => PayloadKind::Bytes,
            v1::PayloadKind::Text => PayloadKind::Text,
            v1::PayloadKind::Json if message.json_schema.len() > limits::SCHEMA_BYTES => {
                return Err(Malformed::new("json_schema", "larger than 64 KiB"));
            }
            v1::PayloadKind::Json => PayloadKind::Json {
                schema: (!message.json_schema.is_empty())
                    .then(|| message.json_schema.as_str().into()),
            },
            v1::PayloadKind::Duration => PayloadKind::Duration {
                at_most: (message.duration_limit_ms > 0)
                    .then(|| Duration::from_millis(message.duration_limit_ms)),
            },
            v1::PayloadKind::Unspecified => {
                return Err(Malformed::new("payload", "say which kind of payload the type takes"));
            }
        };
        Ok(Self { name, payload })
    }
}

impl From<&TaskType> for v1::TaskType {
    fn from(task_type: &TaskType) -> Self {
        let mut message = Self { name: task_type.name.to_string(), ..Self::default() };
        match &task_type.payload {
            PayloadKind::Bytes => message.set_payload(v1::PayloadKind::Bytes),
            PayloadKind::Text => message.set_payload(v1::PayloadKind::Text),
            PayloadKind::Json { schema } => {
                message.set_payload(v1::PayloadKind::Json);
                message.json_schema = schema.as_deref().unwrap_or_default().to_owned();
            }
            PayloadKind::Duration { at_most } => {
                message.set_payload(v1::PayloadKind::Duration);
                message.duration_limit_ms = at_most.map_or(0, millis);
            }
        }
        message
    }
}

impl From<Epoch> for v1::Epoch {
    fn from(epoch: Epoch) -> Self {
        Self { boot: epoch.boot, nonce: epoch.nonce }
    }
}

impl From<v1::Epoch> for Epoch {
    fn from(message: v1::Epoch) -> Self {
        Self { boot: message.boot, nonce: message.nonce }
    }
}

impl From<Token> for v1::Token {
    fn from(token: Token) -> Self {
        Self { epoch: Some(token.epoch.into()), sequence: token.sequence }
    }
}

/// A token as it is said within a session of this epoch, which most tokens are of.
#[must_use]
pub fn said_in_session(token: Token, epoch: Epoch) -> v1::Token {
    let other = (token.epoch != epoch).then(|| token.epoch.into());
    v1::Token { epoch: other, sequence: token.sequence }
}

/// A token as it was said within a session of this epoch.
#[must_use]
pub fn heard_in_session(message: v1::Token, epoch: Epoch) -> Token {
    Token { epoch: message.epoch.map_or(epoch, Into::into), sequence: message.sequence }
}

impl TryFrom<v1::Token> for Token {
    type Error = Malformed;

    fn try_from(message: v1::Token) -> Result<Self, Malformed> {
        let epoch = message.epoch.ok_or_else(|| Malformed::new("token.epoch", "missing"))?;
        Ok(Self { epoch: epoch.into(), sequence: message.sequence })
    }
}

impl From<Status> for v1::Status {
    fn from(status: Status) -> Self {
        match status {
            Status::Pending => Self::Pending,
            Status::Running => Self::Running,
            Status::Completed => Self::Completed,
            Status::Failed => Self::Failed,
            Status::Cancelled => Self::Cancelled,
        }
    }
}

/// The status a message names; `None` for an unspecified one.
#[must_use]
pub fn status(message: v1::Status) -> Option<Status> {
    match message {
        v1::Status::Unspecified => None,
        v1::Status::Pending => Some(Status::Pending),
        v1::Status::Running => Some(Status::Running),
        v1::Status::Completed => Some(Status::Completed),
        v1::Status::Failed => Some(Status::Failed),
        v1::Status::Cancelled => Some(Status::Cancelled),
    }
}

impl From<Reason> for v1::Reason {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::Error => Self::Error,
            Reason::Permanent => Self::Permanent,
            Reason::Timeout => Self::Timeout,
            Reason::Panic => Self::Panic,
            Reason::Lost => Self::Lost,
            Reason::Poison => Self::Poison,
            Reason::Unknown => Self::Unknown,
            Reason::Released | Reason::Silence => Self::Released,
            Reason::Cancelled => Self::Cancelled,
        }
    }
}

/// The reason a message names; `None` for an unspecified one.
#[must_use]
pub fn reason(message: v1::Reason) -> Option<Reason> {
    match message {
        v1::Reason::Unspecified => None,
        v1::Reason::Error => Some(Reason::Error),
        v1::Reason::Permanent => Some(Reason::Permanent),
        v1::Reason::Timeout => Some(Reason::Timeout),
        v1::Reason::Panic => Some(Reason::Panic),
        v1::Reason::Lost => Some(Reason::Lost),
        v1::Reason::Poison => Some(Reason::Poison),
        v1::Reason::Unknown => Some(Reason::Unknown),
        v1::Reason::Released => Some(Reason::Released),
        v1::Reason::Cancelled => Some(Reason::Cancelled),
    }
}
