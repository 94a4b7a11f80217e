//! `upper`: the text in upper case, by Unicode's rules and no language's own.

use bytes::Bytes;

use crate::core::payload;
use crate::worker::{Builder, Failure, TypeSpec};

pub(super) fn serve(builder: Builder, spec: TypeSpec) -> Builder {
    builder.handle_computing(spec.text(), |_, payload| run(&payload))
}

pub(super) fn run(payload: &[u8]) -> Result<Bytes, Failure> {
    let text = payload::utf8(payload).map_err(Failure::permanent)?;
    Ok(text.to_uppercase().into())
}
