//! A task type: its name, and what it takes as a payload.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::limits;

/// The name of a task type: always well-formed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TypeName(Arc<str>);

impl TypeName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TypeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A task type's name that is not well-formed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no name of a task type: 1 to 64 of a-z, 0-9, '-', '_', '.', beginning with a letter"
)]
pub struct BadTypeName(pub String);

impl std::str::FromStr for TypeName {
    type Err = BadTypeName;

    fn from_str(text: &str) -> Result<Self, BadTypeName> {
        let rest_is_fine =
            |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.');
        let fine = text.len() <= limits::TYPE_NAME_BYTES
            && text.bytes().next().is_some_and(|b| b.is_ascii_lowercase())
            && text.bytes().all(rest_is_fine);
        if fine {
            Ok(Self(text.into()))
        } else {
            let shown = text.chars().take(limits::TYPE_NAME_BYTES + 1).collect();
            Err(BadTypeName(shown))
        }
    }
}

impl TryFrom<String> for TypeName {
    type Error = BadTypeName;

    fn try_from(text: String) -> Result<Self, BadTypeName> {
        text.parse()
    }
}

impl From<TypeName> for String {
    fn from(name: TypeName) -> Self {
        name.0.as_ref().to_owned()
    }
}

/// What a type takes as its payload.
///
/// Durable: add variants at the end, change none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PayloadKind {
    /// Any bytes.
    Bytes,
    /// UTF-8 text.
    Text,
    /// A JSON text that satisfies this JSON Schema (draft 2020-12), if there is one.
    Json {
        /// The schema's source.
        schema: Option<Arc<str>>,
    },
    /// A duration, at most this long.
    Duration {
        /// The longest one taken; `None` for no limit.
        at_most: Option<Duration>,
    },
}

/// A task type as its workers register it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskType {
    /// Its name.
    pub name: TypeName,
    /// What it takes.
    pub payload: PayloadKind,
}

/// The place of a task type among those a dispatcher learnt, from 0, in the
/// order it learnt them. Durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TypeId(pub u32);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_lower_case_and_begin_with_a_letter() {
        for fine in ["a", "hash", "image.resize-v2", "x_1", &"a".repeat(64)] {
            assert!(fine.parse::<TypeName>().is_ok(), "{fine}");
        }
        for bad in ["", "1a", "Hash", "a b", "ä", "-a", &"a".repeat(65)] {
            assert!(bad.parse::<TypeName>().is_err(), "{bad}");
        }
    }
}
