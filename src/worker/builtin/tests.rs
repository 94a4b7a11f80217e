use super::*;
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
