//! Random tasks, and what must come back of each.
//!
//! What must come back is not computed as a worker does it: it follows from how the
//! payload was made, or from a library's own function.

use std::fmt::Write as _;

use bytes::Bytes;
use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom as _, SliceRandom as _};
use sha2::{Digest as _, Sha256};

/// A task to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Case {
    pub(super) type_name: &'static str,
    pub(super) payload: Bytes,
    /// The result that it must have.
    pub(super) expected: String,
}

/// A type whose results can be foretold, and how to make a payload and its result.
#[derive(Debug, Clone, Copy)]
pub(super) struct Type {
    name: &'static str,
    make: fn(&mut StdRng) -> (Vec<u8>, String),
}

const TYPES: [Type; 5] = [
    Type { name: "reverse", make: reverse },
    Type { name: "sum", make: sum },
    Type { name: "hash", make: hash },
    Type { name: "upper", make: upper },
    Type { name: "wait", make: wait },
];

/// What a reader sees as one character each. None of them joins another that stands
/// beside it.
const CHARACTERS: [&str; 24] = [
    "a",
    "Z",
    "7",
    " ",
    "\t",
    "\0",
    "\n",
    "\r\n",
    "ß",
    "é",
    "e\u{301}",
    "ñ",
    "Ж",
    "ξ",
    "語",
    "한",
    "न",
    "नि",
    "🇩🇪",
    "🇫🇷",
    "👍",
    "👍🏽",
    "👨‍👩‍👧‍👦",
    "\u{10ffff}",
];
/// Some that upper case makes longer, changes by their place, or leaves alone.
const LETTERS: &str = "abcxyzABC 019_-.,:äöüßéñçøœłžſŉǆﬁﬃıİåσςΐλжяэқ語한👍";

/// Floats whose sum must not suffer from rounding on its way.
const FLOATS: [(&str, &str); 5] = [
    ("[0.1,0.2,0.7]", "1.0"),
    ("[1e2]", "100.0"),
    ("[0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9,1.0]", "5.5"),
    ("[1.0, 1e100, 1, -1e100]", "2.0"),
    ("[-1e100,0.25,1e100]", "0.25"),
];

/// Numbers of a list, and characters of a text, at most.
const NUMBERS: usize = 20;
const TEXT: usize = 60;
/// Bytes to hash, at most: several blocks and a part of one.
const BYTES: usize = 4_000;
/// The longest wait, in milliseconds: below a second, so that it is told in them.
const WAIT: u32 = 300;

/// The type of that name, if its results can be foretold.
pub(super) fn type_of(name: &str) -> Option<Type> {
    TYPES.into_iter().find(|known| known.name == name)
}

/// So many tasks in random order: of each type one, as far as they go, and then of
/// any. Without a type there are none.
pub(super) fn batch(types: &[Type], size: usize, dice: &mut StdRng) -> Vec<Case> {
    let mut chosen = types.to_vec();
    chosen.shuffle(dice);
    let others = size.saturating_sub(chosen.len());
    chosen.extend((0..others).filter_map(|_| types.choose(dice)));
    chosen.truncate(size);
    chosen.shuffle(dice);
    let make = |one: Type| {
        let (payload, expected) = (one.make)(dice);
        Case { type_name: one.name, payload: payload.into(), expected }
    };
    chosen.into_iter().map(make).collect()
}

fn reverse(dice: &mut StdRng) -> (Vec<u8>, String) {
    // Plain letters too, which a worker may take another way.
    let from = if dice.random() { &CHARACTERS[..] } else { &CHARACTERS[..4] };
    let text: Vec<&str> = any_of(from, TEXT, dice);
    (text.concat().into_bytes(), text.into_iter().rev().collect())
}

fn upper(dice: &mut StdRng) -> (Vec<u8>, String) {
    let letters: Vec<char> = LETTERS.chars().collect();
    let text: String = any_of(&letters, TEXT, dice).into_iter().collect();
    let upper = text.to_uppercase();
    (text.into_bytes(), upper)
}

fn hash(dice: &mut StdRng) -> (Vec<u8>, String) {
    let payload = if dice.random() {
        any_of(&CHARACTERS, TEXT, dice).concat().into_bytes()
    } else {
        (0..length(BYTES, dice)).map(|_| dice.random()).collect()
    };
    let digest = sha256(&payload);
    (payload, digest)
}

fn sha256(payload: &[u8]) -> String {
    Sha256::digest(payload).iter().fold(String::new(), |mut hex, byte| {
        // Writing to a String cannot fail.
        write!(hex, "{byte:02x}").ok();
        hex
    })
}

fn sum(dice: &mut StdRng) -> (Vec<u8>, String) {
    let count = length(NUMBERS, dice);
    match dice.random_range(0..5) {
        0 => integers(&numbers(count, || dice.random_range(-1_000..=1_000))),
        1 => integers(&numbers(count, || dice.random::<i64>().into())),
        // As many as there can be of them fit 128 bits with a sign.
        2 => integers(&numbers(count, || dice.random::<i128>() >> 16)),
        // One at the least: nothing has the sum 0, which is no float.
        3 => quarters(&numbers(count.max(1), || dice.random_range(-4_000..=4_000))),
        _ => {
            let (payload, sum) = FLOATS.choose(dice).copied().unwrap_or(("[]", "0"));
            (payload.into(), sum.to_owned())
        }
    }
}

fn numbers<T>(count: usize, mut next: impl FnMut() -> T) -> Vec<T> {
    (0..count).map(|_| next()).collect()
}

fn integers(numbers: &[i128]) -> (Vec<u8>, String) {
    let sum: i128 = numbers.iter().sum();
    (format!("{numbers:?}").into_bytes(), sum.to_string())
}

/// Their halves of halves, which a float has exactly, and so has it their sum.
fn quarters(numbers: &[i32]) -> (Vec<u8>, String) {
    let floats: Vec<f64> = numbers.iter().map(|number| f64::from(*number) / 4.0).collect();
    let sum = f64::from(numbers.iter().sum::<i32>()) / 4.0;
    (format!("{floats:?}").into_bytes(), format!("{sum:?}"))
}

fn wait(dice: &mut StdRng) -> (Vec<u8>, String) {
    let ms = if dice.random_ratio(1, 8) { 0 } else { dice.random_range(1..=WAIT) };
    let payload = match dice.random_range(0..3) {
        0 => format!("{ms}ms"),
        1 => format!("0.{ms:03}"),
        _ => format!(" 0s {ms}ms\n"),
    };
    let told = if ms == 0 { "waited 0s".to_owned() } else { format!("waited {ms}ms") };
    (payload.into_bytes(), told)
}

/// Some of these, in any order and number; nothing at all not too rarely.
fn any_of<T: Copy>(from: &[T], most: usize, dice: &mut StdRng) -> Vec<T> {
    let count = length(most, dice);
    (0..count).filter_map(|_| from.choose(dice).copied()).collect()
}

fn length(most: usize, dice: &mut StdRng) -> usize {
    if dice.random_ratio(1, 8) { 0 } else { dice.random_range(1..=most) }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use unicode_segmentation::UnicodeSegmentation as _;

    use super::*;

    fn dice() -> StdRng {
        StdRng::seed_from_u64(7)
    }

    fn many(name: &str) -> Vec<(String, String)> {
        let (mut dice, known) = (dice(), type_of(name).unwrap());
        let text = |(payload, expected)| (String::from_utf8(payload).unwrap(), expected);
        (0..2_000).map(|_| text((known.make)(&mut dice))).collect()
    }

    #[test]
    fn a_batch_has_one_of_each_type_and_others() {
        let types = TYPES.to_vec();
        let batch = super::batch(&types, 12, &mut dice());
        assert_eq!(batch.len(), 12);
        for known in &types {
            assert!(batch.iter().any(|case| case.type_name == known.name), "{}", known.name);
        }
        assert_eq!(super::batch(&types, 3, &mut dice()).len(), 3);
        assert_eq!(super::batch(&types[..1], 4, &mut dice()).len(), 4);
        assert_eq!(super::batch(&[], 4, &mut dice()), []);
        assert_eq!(batch, super::batch(&types, 12, &mut dice()), "a seed gives the same tasks");
        assert!(type_of("resize").is_none());
    }

    #[test]
    fn the_characters_of_a_text_do_not_join() {
        for (payload, expected) in many("reverse") {
            assert_eq!(payload.graphemes(true).rev().collect::<String>(), expected);
        }
    }

    #[test]
    fn payloads_are_empty_and_text_and_bytes_too() {
        let (mut dice, hash) = (dice(), type_of("hash").unwrap());
        let payloads: Vec<Vec<u8>> = (0..200).map(|_| (hash.make)(&mut dice).0).collect();
        assert!(payloads.iter().any(Vec::is_empty));
        assert!(payloads.iter().any(|payload| std::str::from_utf8(payload).is_err()));
        assert!(
            payloads
                .iter()
                .any(|payload| !payload.is_ascii() && std::str::from_utf8(payload).is_ok())
        );
        for name in ["reverse", "upper"] {
            assert!(many(name).contains(&(String::new(), String::new())), "{name}");
        }
        assert!(many("sum").contains(&("[]".to_owned(), "0".to_owned())));
    }

    #[test]
    fn sums_are_of_integers_beyond_64_bits_and_of_floats() {
        let sums = many("sum");
        assert!(sums.iter().any(|(_, sum)| sum.len() > 30));
        assert!(sums.iter().any(|(_, sum)| sum.contains('.')));
        assert_eq!(quarters(&[1, -4, 4_000]), (b"[0.25, -1.0, 1000.0]".to_vec(), "999.25".into()));
        assert_eq!(integers(&[1, -2, 3]), (b"[1, -2, 3]".to_vec(), "2".into()));
    }

    #[test]
    fn results_are_what_the_manual_says() {
        assert_eq!(
            sha256(b"text"),
            "982d9e3eb996f559e633f4d194def3761d909f5a3b647d1a851fead67c32c9d1"
        );
        for (payload, expected) in many("wait") {
            let span = crate::core::payload::parse_duration(&payload).unwrap();
            assert_eq!(expected, format!("waited {}", humantime::format_duration(span)));
        }
    }
}
