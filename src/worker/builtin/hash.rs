//! `hash`: SHA-256 of the payload, in lower-case hexadecimal digits.

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use crate::worker::{Builder, TypeSpec};

const DIGITS: &[u8; 16] = b"0123456789abcdef";

pub(super) fn serve(builder: Builder, spec: TypeSpec) -> Builder {
    builder.handle_computing(spec, |_, payload| Ok(run(&payload)))
}

pub(super) fn run(payload: &[u8]) -> Bytes {
    let digest = Sha256::digest(payload);
    let digit = |nibble: u8| DIGITS[usize::from(nibble & 0xf)];
    digest.iter().flat_map(|byte| [digit(byte >> 4), digit(*byte)]).collect::<Vec<u8>>().into()
}
