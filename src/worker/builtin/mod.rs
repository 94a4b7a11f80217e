//! The built-in task types: small, exact, and the first customers of
//! [`Handler`](super::Handler).
//!
//! Each lives in a file of its own as a plain function; this one names them.

mod hash;
mod reverse;
mod sum;
mod upper;
mod wait;

use std::time::Duration;

use super::builder::{Builder, TypeSpec};

pub use wait::WAIT_LIMIT;

/// The built-in types, each with the port its workers listen on unless told
/// otherwise.
pub const PORTS: [(&str, u16); 5] =
    [("reverse", 50060), ("sum", 50061), ("hash", 50062), ("upper", 50063), ("wait", 50064)];

/// The port of workers with types of their own, unless told otherwise.
pub const OWN_PORT: u16 = 50065;

/// The slots of a worker that serves `wait`: its tasks sleep, so that more of
/// them than cores run at once.
pub const WAIT_SLOTS: u32 = 64;

const SUM_SCHEMA: &str = r#"{"type":"array","items":{"type":"number"}}"#;

/// The names of the built-in types.
pub fn names() -> impl Iterator<Item = &'static str> {
    PORTS.iter().map(|(name, _)| *name)
}

/// The port of a worker that serves these types: the first one's own.
#[must_use]
pub fn default_port<S: AsRef<str>>(types: &[S]) -> u16 {
    let first = types.first().map_or("", AsRef::as_ref);
    PORTS.iter().find(|(name, _)| *name == first).map_or(OWN_PORT, |(_, port)| *port)
}

/// Adds the built-in type of that name, with [`WAIT_LIMIT`] for `wait`.
pub fn register(builder: Builder, name: &str) -> Result<Builder, NotBuiltIn> {
    register_with(builder, name, WAIT_LIMIT)
}

/// Adds the built-in type of that name; `wait` takes no longer waits than `wait_limit`.
pub fn register_with(
    builder: Builder,
    name: &str,
    wait_limit: Duration,
) -> Result<Builder, NotBuiltIn> {
    Ok(match name {
        "reverse" => {
            builder.handle_blocking(TypeSpec::new(name).text(), |_, payload| reverse::run(&payload))
        }
        "sum" => {
            let spec = TypeSpec::new(name).json_schema(SUM_SCHEMA);
            builder.handle_blocking(spec, |_, payload| sum::run(&payload))
        }
        "hash" => builder.handle_blocking(name, |_, payload| Ok(hash::run(&payload))),
        "upper" => {
            builder.handle_blocking(TypeSpec::new(name).text(), |_, payload| upper::run(&payload))
        }
        "wait" => builder
            .handle(TypeSpec::new(name).duration(Some(wait_limit)), wait::handler(wait_limit))
            .slots_at_least(WAIT_SLOTS),
        _ => return Err(NotBuiltIn(name.to_owned())),
    })
}

/// A name that no built-in type has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no built-in task type: there are reverse, sum, hash, upper, wait")]
pub struct NotBuiltIn(pub String);

#[cfg(test)]
mod tests;
