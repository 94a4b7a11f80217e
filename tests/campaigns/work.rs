//! The work of the campaigns: what a payload asks of the handler, and what its result
//! must be.
//!
//! A payload is the task's name, what the handler is to do, and padding, so that each
//! task has its own. A result is the hash of the payload and the nonce of the one
//! execution that gave it.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

/// The task type that the campaigns' workers serve.
pub(crate) const TYPE: &str = "campaign";

/// What a payload says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Work {
    /// `{key of its batch}/{place in it}`.
    pub(crate) name: String,
    pub(crate) deed: Deed,
    /// Bytes of padding.
    pub(crate) padding: usize,
}

/// What the handler is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deed {
    /// Give the result, after so many milliseconds.
    Take(u64),
    /// Fail, and give the result the next time, so many milliseconds later.
    Fail(u64),
    /// Panic, and give the result the next time.
    Panic,
    /// Give a result of so many bytes.
    Give(usize),
    /// Kill its worker, every time.
    Kill,
}

impl Work {
    /// The payload.
    pub(crate) fn payload(&self) -> String {
        let (word, number) = match self.deed {
            Deed::Take(millis) => ("take", millis.to_string()),
            Deed::Fail(millis) => ("fail", millis.to_string()),
            Deed::Panic => ("panic", "0".to_owned()),
            Deed::Give(bytes) => ("give", bytes.to_string()),
            Deed::Kill => ("kill", "0".to_owned()),
        };
        format!("{} {word} {number} {}", self.name, ".".repeat(self.padding))
    }
}

impl FromStr for Work {
    type Err = NoWork;

    fn from_str(payload: &str) -> Result<Self, NoWork> {
        let wrong = || NoWork(payload.chars().take(80).collect());
        let mut words = payload.splitn(4, ' ');
        let mut next = || words.next().ok_or_else(wrong);
        let (name, word, number, padding) = (next()?, next()?, next()?, next()?);
        let deed = match word {
            "take" => Deed::Take(number.parse().map_err(|_| wrong())?),
            "fail" => Deed::Fail(number.parse().map_err(|_| wrong())?),
            "panic" => Deed::Panic,
            "give" => Deed::Give(number.parse().map_err(|_| wrong())?),
            "kill" => Deed::Kill,
            _ => return Err(wrong()),
        };
        Ok(Self { name: name.to_owned(), deed, padding: padding.len() })
    }
}

/// A payload that is none of the campaigns'.
#[derive(Debug)]
pub(crate) struct NoWork(String);

impl fmt::Display for NoWork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no work of a campaign: {:?}", self.0)
    }
}

impl std::error::Error for NoWork {}

/// The result that an execution gives for a payload.
pub(crate) fn result(payload: &[u8], nonce: &str) -> String {
    format!("{} {nonce}", hash(payload))
}

/// The hash and the nonce of a result.
pub(crate) fn parts(result: &str) -> Option<(&str, &str)> {
    result.split_once(' ')
}

/// Sixteen digits of SHA-256: enough to tell payloads apart.
pub(crate) fn hash(payload: &[u8]) -> String {
    let digest = Sha256::digest(payload);
    digest.iter().take(8).fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"))
}
