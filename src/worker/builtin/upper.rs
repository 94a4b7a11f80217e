//! `upper`: the text in upper case, by Unicode's rules and no language's own.

use bytes::Bytes;

use crate::core::payload;
use crate::worker::Failure;

pub(super) fn run(payload: &[u8]) -> Result<Bytes, Failure> {
    let text = payload::utf8(payload).map_err(Failure::permanent)?;
    Ok(text.to_uppercase().into())
}
