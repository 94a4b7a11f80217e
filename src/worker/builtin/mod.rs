//! The built-in task types: small, exact, and the first customers of
//! [`Handler`](super::Handler).
//!
//! Each lives in a file of its own, which says what its payloads must be and runs its
//! tasks; a line of the table below names it. One more is a file and a line.

mod hash;
mod reverse;
mod sum;
mod upper;
mod wait;

use super::builder::{Builder, TypeSpec};

/// The built-in types: the name, the port its workers listen on unless told otherwise,
/// and what makes a worker serve it.
const TYPES: &[(&str, u16, Serve)] = &[
    ("reverse", 50060, reverse::serve),
    ("sum", 50061, sum::serve),
    ("hash", 50062, hash::serve),
    ("upper", 50063, upper::serve),
    ("wait", 50064, wait::serve),
];

type Serve = fn(Builder, TypeSpec) -> Builder;

/// The port of workers with types of their own, unless told otherwise.
pub const OWN_PORT: u16 = 50065;

/// The names of the built-in types.
pub fn names() -> impl Iterator<Item = &'static str> {
    TYPES.iter().map(|(name, ..)| *name)
}

/// The port of a worker that serves these types: the first one's own.
#[must_use]
pub fn default_port<S: AsRef<str>>(types: &[S]) -> u16 {
    let first = types.first().map_or("", AsRef::as_ref);
    TYPES.iter().find(|(name, ..)| *name == first).map_or(OWN_PORT, |(_, port, _)| *port)
}

/// Adds the built-in type of that name.
pub fn register(builder: Builder, name: &str) -> Result<Builder, NotBuiltIn> {
    let found = TYPES.iter().find(|(known, ..)| *known == name);
    let (_, _, serve) = found.ok_or_else(|| NotBuiltIn(name.to_owned()))?;
    Ok(serve(builder, TypeSpec::new(name)))
}

/// A name that no built-in type has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no built-in task type: there are {known}", known = listed())]
pub struct NotBuiltIn(pub String);

fn listed() -> String {
    names().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
