//! `sum`: adds the numbers of a JSON array.
//!
//! Integers are added exactly and their sum must fit 128 bits with a sign. A
//! number written with a point or an exponent anywhere makes the sum a float, by
//! compensated summation (A. Neumaier, "Rundungsfehleranalyse einiger Verfahren
//! zur Summation endlicher Summen", ZAMM 54, 1974): the error stays near one
//! rounding however many numbers there are. A float is printed with the fewest
//! digits that read back the same, and always as one: `[1.0,2]` gives `3.0`.
//! No numbers give `0`.

use bytes::Bytes;
use serde_json::Number;

use crate::worker::{Builder, Failure, TypeSpec};

const SCHEMA: &str = r#"{"type":"array","items":{"type":"number"}}"#;

pub(super) fn serve(builder: Builder, spec: TypeSpec) -> Builder {
    builder.handle_computing(spec.json_schema(SCHEMA), |_, payload| run(&payload))
}

pub(super) fn run(payload: &[u8]) -> Result<Bytes, Failure> {
    let numbers: Vec<Number> = serde_json::from_slice(payload)
        .map_err(|e| Failure::permanent(format!("not an array of numbers: {e}")))?;
    let is_float = |number: &Number| number.as_str().contains(['.', 'e', 'E']);
    if numbers.iter().any(is_float) { floats(&numbers) } else { integers(&numbers) }
}

/// Adds modulo 2^128 and counts the wraps, so that only the sum itself must fit,
/// not every step on the way to it.
fn integers(numbers: &[Number]) -> Result<Bytes, Failure> {
    let (mut sum, mut wraps) = (0_i128, 0_i64);
    for number in numbers {
        let addend: i128 = number.as_str().parse().map_err(|_| overflow(number.as_str()))?;
        let (wrapped, overflowed) = sum.overflowing_add(addend);
        sum = wrapped;
        if overflowed {
            wraps += if addend > 0 { 1 } else { -1 };
        }
    }
    if wraps == 0 { Ok(sum.to_string().into()) } else { Err(overflow("the sum")) }
}

fn overflow(what: &str) -> Failure {
    let what = crate::worker::handler::cut(what.to_owned(), 64);
    Failure::permanent(format!("{what} does not fit a signed integer of 128 bits"))
}

fn floats(numbers: &[Number]) -> Result<Bytes, Failure> {
    let addends = numbers.iter().map(finite).collect::<Result<Vec<f64>, Failure>>()?;
    let mut sum = compensated(addends.iter().copied());
    if !sum.is_finite() {
        // A step on the way may have been beyond the largest float, and the sum not.
        sum = compensated(addends.iter().map(|addend| addend / SCALE)) * SCALE;
    }
    if !sum.is_finite() {
        return Err(Failure::permanent("the sum is not finite: it is beyond the largest float"));
    }
    Ok(serde_json::to_vec(&sum)?.into())
}

/// A power of two, so that dividing by it rounds only what is too small to count beside what
/// overflowed; more than any payload has numbers.
const SCALE: f64 = 1_099_511_627_776.0;

fn compensated(addends: impl Iterator<Item = f64>) -> f64 {
    let (mut sum, mut compensation) = (0.0_f64, 0.0_f64);
    for addend in addends {
        let total = sum + addend;
        compensation +=
            if sum.abs() >= addend.abs() { (sum - total) + addend } else { (addend - total) + sum };
        sum = total;
    }
    sum + compensation
}

fn finite(number: &Number) -> Result<f64, Failure> {
    let text = number.as_str();
    text.parse::<f64>().ok().filter(|value| value.is_finite()).ok_or_else(|| {
        let text = crate::worker::handler::cut(text.to_owned(), 64);
        Failure::permanent(format!("{text} is not finite as a float"))
    })
}
