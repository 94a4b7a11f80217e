//! `reverse`: the text from its end to its beginning, by grapheme clusters, so
//! that an accent stays on its letter and a flag stays a flag.

use bytes::Bytes;
use unicode_segmentation::UnicodeSegmentation;

use crate::core::payload;
use crate::worker::{Builder, Failure, TypeSpec};

pub(super) fn serve(builder: Builder, spec: TypeSpec) -> Builder {
    builder.handle_computing(spec.text(), |_, payload| run(&payload))
}

pub(super) fn run(payload: &[u8]) -> Result<Bytes, Failure> {
    let text = payload::utf8(payload).map_err(Failure::permanent)?;
    if text.is_ascii() && !text.contains('\r') {
        let mut bytes = text.as_bytes().to_vec();
        bytes.reverse();
        return Ok(bytes.into());
    }
    Ok(text.graphemes(true).rev().collect::<String>().into())
}
