use proptest::collection::vec;
use proptest::prelude::{Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};

use super::*;
use crate::core::payload::Checker;
use crate::core::task_type::PayloadKind;
use crate::worker::Failure;

fn text(result: Result<bytes::Bytes, Failure>) -> String {
    String::from_utf8(result.expect("succeeds").to_vec()).unwrap()
}

fn refusal(result: Result<bytes::Bytes, Failure>) -> String {
    let failure = result.expect_err("fails");
    assert!(failure.is_permanent(), "{failure}");
    failure.message().to_owned()
}

#[test]
fn reverse_keeps_grapheme_clusters_whole() {
    for (payload, expected) in [
        ("hello", "olleh"),
        ("", ""),
        ("a\r\nb", "b\r\na"),
        ("Grüße", "eßürG"),
        ("e\u{301}a", "ae\u{301}"),
        ("🇩🇪🇫🇷", "🇫🇷🇩🇪"),
        ("a👨‍👩‍👧‍👦b", "b👨‍👩‍👧‍👦a"),
        ("👍🏽!", "!👍🏽"),
        ("नमस्ते", "स्तेमन"),
    ] {
        assert_eq!(text(reverse::run(payload.as_bytes())), expected);
        assert_eq!(text(reverse::run(expected.as_bytes())), payload);
    }
    assert_eq!(refusal(reverse::run(b"a\xff")), "not UTF-8 text: invalid from byte 1 on");
}

#[test]
fn upper_follows_unicode() {
    for (payload, expected) in [("hello", "HELLO"), ("straße", "STRASSE"), ("ǆ", "Ǆ"), ("", "")]
    {
        assert_eq!(text(upper::run(payload.as_bytes())), expected);
    }
    assert_eq!(refusal(upper::run(b"\xff")), "not UTF-8 text: invalid from byte 0 on");
}

#[test]
fn hash_is_sha_256_in_lower_case_hex() {
    for (payload, expected) in [
        ("text", "982d9e3eb996f559e633f4d194def3761d909f5a3b647d1a851fead67c32c9d1"),
        ("", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
    ] {
        assert_eq!(text(Ok(hash::run(payload.as_bytes()))), expected);
    }
}

#[test]
fn sums_of_integers_are_exact_to_128_bits() {
    for (payload, expected) in [
        ("[1,2,3]", "6"),
        (" [ ] ", "0"),
        ("[-0]", "0"),
        ("[-5, 2]", "-3"),
        ("[9007199254740993, 0]", "9007199254740993"),
        ("[18446744073709551615, 1]", "18446744073709551616"),
        ("[170141183460469231731687303715884105727]", "170141183460469231731687303715884105727"),
        (
            "[170141183460469231731687303715884105727, 1, -1]",
            "170141183460469231731687303715884105727",
        ),
        (
            "[-170141183460469231731687303715884105728, -1, 1]",
            "-170141183460469231731687303715884105728",
        ),
    ] {
        assert_eq!(text(sum::run(payload.as_bytes())), expected, "{payload}");
    }
}

#[test]
fn a_float_anywhere_makes_the_sum_a_float() {
    for (payload, expected) in [
        ("[1e308,1e308,-1e308]", "1e+308"),
        ("[-1.7e308,-1e308,1.7e308,5.0]", "-1e+308"),
        ("[1.0,2]", "3.0"),
        ("[1e2]", "100.0"),
        ("[0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9,1.0]", "5.5"),
        ("[1.0, 1e100, 1, -1e100]", "2.0"),
        ("[0.5, 170141183460469231731687303715884105728000]", "1.7014118346046923e+41"),
    ] {
        assert_eq!(text(sum::run(payload.as_bytes())), expected, "{payload}");
    }
}

#[test]
fn what_has_no_sum_is_a_permanent_failure() {
    for (payload, part) in [
        ("[170141183460469231731687303715884105727, 1]", "the sum does not fit"),
        ("[170141183460469231731687303715884105728]", "does not fit"),
        ("[1e400]", "1e+400 is not finite"),
        ("[1e308, 1e308]", "the sum is not finite"),
        (r#"[1, "2"]"#, "not an array of numbers"),
        ("3", "not an array of numbers"),
        ("[1,", "not an array of numbers"),
    ] {
        let refusal = refusal(sum::run(payload.as_bytes()));
        assert!(refusal.contains(part), "{payload}: {refusal}");
    }
}

#[test]
fn each_type_has_a_name_and_a_port_of_its_own_and_can_be_served() {
    let (mut taken, mut builder) = (Vec::new(), crate::worker::Worker::builder());
    for name in names() {
        taken.push(default_port(&[name]));
        builder = register(builder, name).unwrap();
    }
    drop(builder);
    assert_eq!(taken[..5], [50060, 50061, 50062, 50063, 50064]);
    taken.sort_unstable();
    taken.dedup();
    assert_eq!(taken.len(), names().count());
    assert_eq!(default_port(&["hash", "sum"]), 50062);
    assert_eq!(default_port(&["mine"]), OWN_PORT);
}

#[test]
fn a_name_that_is_not_built_in_is_refused_with_those_that_are() {
    let refused = register(crate::worker::Worker::builder(), "sun").err().expect("refused");
    assert!(refused.to_string().contains("reverse, sum, hash"), "{refused}");
}

/// Bytes that are nothing, text, and what is nearly an array of numbers.
fn any_payload() -> impl Strategy<Value = Vec<u8>> {
    let pieces = [
        "[",
        "]",
        ",",
        " ",
        "1",
        "-1",
        "0",
        "0.5",
        "-0.0",
        "1e3",
        "1E-400",
        "9e999",
        "null",
        "true",
        "\"1\"",
        "[]",
        "{}",
        "170141183460469231731687303715884105727",
        "-170141183460469231731687303715884105728",
        "\u{301}",
        "e",
        "\r",
        "\n",
        "ß",
        "🇩🇪",
        "\0",
    ];
    let piece = proptest::sample::select(pieces.map(str::as_bytes).to_vec());
    let nearly = vec(piece, 0..12).prop_map(|pieces| pieces.concat());
    let array = vec(proptest::sample::select(pieces[4..14].to_vec()), 0..8)
        .prop_map(|numbers| format!("[{}]", numbers.join(",")).into_bytes());
    prop_oneof![nearly, array, vec(any::<u8>(), 0..200), ".{0,60}".prop_map(String::into_bytes)]
}

proptest! {
    #[test]
    fn whatever_its_payload_a_built_in_answers_or_refuses_for_good(payload in any_payload()) {
        let is_text = std::str::from_utf8(&payload).is_ok();
        prop_assert_eq!(text(Ok(hash::run(&payload))).len(), 64);
        for answer in [reverse::run(&payload), upper::run(&payload)] {
            prop_assert_eq!(answer.is_ok(), is_text);
            match answer {
                Ok(result) => prop_assert!(std::str::from_utf8(&result).is_ok()),
                Err(failure) => prop_assert!(failure.is_permanent()),
            }
        }
        match sum::run(&payload) {
            Ok(result) => prop_assert!(serde_json::from_slice::<serde_json::Number>(&result).is_ok()),
            Err(failure) => prop_assert!(failure.is_permanent()),
        }
    }

    #[test]
    fn a_sum_that_was_let_in_is_refused_for_its_size_alone(payload in any_payload()) {
        let schema = Some(r#"{"type":"array","items":{"type":"number"}}"#.into());
        let checker = Checker::compile(&PayloadKind::Json { schema }).unwrap();
        match (checker.check(&payload), sum::run(&payload)) {
            (Ok(()), Err(failure)) => {
                let size = ["does not fit", "not finite"];
                let said = failure.message();
                prop_assert!(size.iter().any(|part| said.contains(part)), "{}", said);
            }
            (Err(refused), Ok(sum)) => prop_assert!(false, "{} refused, but it is {:?}", refused, sum),
            (Ok(()), Ok(_)) | (Err(_), Err(_)) => {}
        }
    }

    #[test]
    fn a_sum_of_integers_is_the_sum(numbers in vec(any::<i64>(), 0..50)) {
        let payload = serde_json::to_vec(&numbers).unwrap();
        let expected: i128 = numbers.into_iter().map(i128::from).sum();
        prop_assert_eq!(text(sum::run(&payload)), expected.to_string());
    }

    #[test]
    fn a_text_and_its_reverse_have_the_same_characters(payload in ".{0,60}") {
        let reversed = text(reverse::run(payload.as_bytes()));
        let sorted = |text: &str| {
            let mut characters: Vec<char> = text.chars().collect();
            characters.sort_unstable();
            characters
        };
        prop_assert_eq!(sorted(&reversed), sorted(&payload));
    }
}
