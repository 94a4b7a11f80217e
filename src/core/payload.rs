//! What a task type takes: checked at submit, before a task is accepted.
//!
//! A [`Checker`] is made once for a type and says of each payload whether it is
//! of the type's kind, and if not, where it is wrong. It never fetches anything:
//! a schema that refers to another document is refused when it is compiled.
//! What only the handler can see is the handler's to refuse.

use std::fmt;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use super::task_type::PayloadKind;

/// Bytes of a message that quotes a payload: enough to recognise the place.
const QUOTE_BYTES: usize = 240;

/// A payload that is not of its type's kind; the message says where and how.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refused(String);

/// A schema that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadSchema {
    /// Its text is not JSON.
    #[error("the schema is not JSON: {0}")]
    NotJson(String),
    /// It is no JSON Schema, or refers to a document outside itself.
    #[error("the schema is not usable, at {at}: {problem}")]
    Invalid {
        /// A JSON pointer into the schema.
        at: String,
        /// What is wrong there.
        problem: String,
    },
}

/// Checks payloads of one kind.
#[derive(Debug)]
pub struct Checker {
    rule: Rule,
}

#[derive(Debug)]
enum Rule {
    Bytes,
    Text,
    Json,
    Schema(Box<jsonschema::Validator>),
    Duration { at_most: Option<Duration> },
}

impl Checker {
    /// Makes the checker of a kind; a schema is compiled here, once.
    pub fn compile(kind: &PayloadKind) -> Result<Self, BadSchema> {
        let rule = match kind {
            PayloadKind::Bytes => Rule::Bytes,
            PayloadKind::Text => Rule::Text,
            PayloadKind::Json { schema: None } => Rule::Json,
            PayloadKind::Json { schema: Some(source) } => Rule::Schema(compile_schema(source)?),
            PayloadKind::Duration { at_most } => Rule::Duration { at_most: *at_most },
        };
        Ok(Self { rule })
    }

    /// Whether this payload is of the kind.
    pub fn check(&self, payload: &[u8]) -> Result<(), Refused> {
        match &self.rule {
            Rule::Bytes => Ok(()),
            Rule::Text => utf8(payload).map(|_| ()),
            Rule::Json => {
                serde_json::from_slice::<WellFormed>(payload).map_err(|e| not_json(&e)).map(|_| ())
            }
            Rule::Schema(validator) => against_schema(validator, payload),
            Rule::Duration { at_most } => within(utf8(payload)?, *at_most).map(|_| ()),
        }
    }
}

/// Reads a duration: seconds (`2`, `0.5`) or numbers with their units (`250ms`,
/// `1m 30s`). Spaces around it do not matter.
pub fn parse_duration(text: &str) -> Result<Duration, Refused> {
    let trimmed = text.trim();
    let plain_number = !trimmed.is_empty()
        && trimmed.bytes().all(|b| b.is_ascii_digit() || b == b'.')
        && trimmed.bytes().any(|b| b.is_ascii_digit());
    let parsed = if plain_number {
        trimmed.parse::<f64>().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
    } else {
        humantime::parse_duration(trimmed).ok()
    };
    parsed.ok_or_else(|| {
        let why = if trimmed.is_empty() {
            "an empty text is no duration".to_owned()
        } else if trimmed.starts_with('-') {
            format!("{} is negative", quoted(trimmed))
        } else {
            format!("{} is no duration", quoted(trimmed))
        };
        Refused(format!("{why}: give seconds (2, 0.5) or a number with its unit (250ms, 1m 30s)"))
    })
}

/// Reads a duration that must not be over a limit.
pub fn parse_duration_within(text: &str, at_most: Duration) -> Result<Duration, Refused> {
    within(text, Some(at_most))
}

fn within(text: &str, at_most: Option<Duration>) -> Result<Duration, Refused> {
    let duration = parse_duration(text)?;
    match at_most {
        Some(limit) if duration > limit => Err(Refused(format!(
            "{} is longer than the {} that this type takes",
            humantime::format_duration(duration),
            humantime::format_duration(limit)
        ))),
        Some(_) | None => Ok(duration),
    }
}

/// The payload as text, if it is UTF-8.
pub fn utf8(payload: &[u8]) -> Result<&str, Refused> {
    std::str::from_utf8(payload)
        .map_err(|e| Refused(format!("not UTF-8 text: invalid from byte {} on", e.valid_up_to())))
}

fn compile_schema(source: &str) -> Result<Box<jsonschema::Validator>, BadSchema> {
    let schema: serde_json::Value =
        serde_json::from_str(source).map_err(|e| BadSchema::NotJson(e.to_string()))?;
    jsonschema::options()
        .with_draft(jsonschema::Draft::Draft202012)
        // Linear in the text, whatever the pattern: schemas come from workers,
        // payloads from clients.
        .with_pattern_options(jsonschema::PatternOptions::regex())
        .offline()
        .build(&schema)
        .map(Box::new)
        .map_err(|e| BadSchema::Invalid {
            at: place(e.instance_path().as_str()),
            problem: cut(e.to_string()),
        })
}

fn against_schema(validator: &jsonschema::Validator, payload: &[u8]) -> Result<(), Refused> {
    let value: serde_json::Value = serde_json::from_slice(payload).map_err(|e| not_json(&e))?;
    validator.validate(&value).map_err(|e| {
        Refused(format!("{}: {}", place(e.instance_path().as_str()), cut(e.to_string())))
    })
}

fn not_json(error: &serde_json::Error) -> Refused {
    Refused(format!("not JSON: {error}"))
}

/// A JSON pointer as people read it: that of the whole document is empty.
fn place(pointer: &str) -> String {
    if pointer.is_empty() { "at the top".to_owned() } else { cut(pointer.to_owned()) }
}

fn quoted(text: &str) -> String {
    format!("{:?}", cut(text.to_owned()))
}

fn cut(mut text: String) -> String {
    if text.len() > QUOTE_BYTES {
        let end = text.floor_char_boundary(QUOTE_BYTES);
        text.truncate(end);
        text.push('…');
    }
    text
}

/// Any JSON text, read for its form alone. Unlike serde's `IgnoredAny` it descends
/// by recursion, so that `serde_json`'s limit of depth holds, and it reads
/// strings, so that they are UTF-8.
struct WellFormed;

impl<'de> Deserialize<'de> for WellFormed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Form)
    }
}

struct Form;

impl<'de> Visitor<'de> for Form {
    type Value = WellFormed;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<WellFormed, E> {
        Ok(WellFormed)
    }

    fn visit_i64<E>(self, _: i64) -> Result<WellFormed, E> {
        Ok(WellFormed)
    }

    fn visit_u64<E>(self, _: u64) -> Result<WellFormed, E> {
        Ok(WellFormed)
    }

    fn visit_f64<E>(self, _: f64) -> Result<WellFormed, E> {
        Ok(WellFormed)
    }

    fn visit_str<E>(self, _: &str) -> Result<WellFormed, E> {
        Ok(WellFormed)
    }

    fn visit_unit<E>(self) -> Result<WellFormed, E> {
        Ok(WellFormed)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<WellFormed, A::Error> {
        while items.next_element::<WellFormed>()?.is_some() {}
        Ok(WellFormed)
    }

    /// Objects, and numbers too: with `arbitrary_precision` they arrive as a map.
    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<WellFormed, A::Error> {
        while entries.next_entry::<Key, WellFormed>()?.is_some() {}
        Ok(WellFormed)
    }
}

/// A key of an object, read as text.
struct Key;

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Key;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }

            fn visit_str<E>(self, _: &str) -> Result<Key, E> {
                Ok(Key)
            }
        }
        deserializer.deserialize_any(Text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};
    use proptest::{collection, sample::select};

    use super::*;

    const NUMBERS: &str = r#"{"type":"array","items":{"type":"number"}}"#;

    fn json(schema: Option<&str>) -> Checker {
        Checker::compile(&PayloadKind::Json { schema: schema.map(Into::into) }).unwrap()
    }

    fn refusal(checker: &Checker, payload: &[u8]) -> String {
        checker.check(payload).expect_err("refused").to_string()
    }

    #[test]
    fn durations_are_seconds_or_numbers_with_units() {
        let read = |text| parse_duration(text).map(|d| d.as_millis());
        assert_eq!(read("2"), Ok(2_000));
        assert_eq!(read("0.5"), Ok(500));
        assert_eq!(read("0"), Ok(0));
        assert_eq!(read(" 250ms\n"), Ok(250));
        assert_eq!(read("1m 30s"), Ok(90_000));
    }

    /// What is nearly a duration, and what is nothing.
    fn any_duration() -> impl Strategy<Value = String> {
        let pieces =
            ["1", "0", ".", "9999999999999999999", "ms", "s", "m", "h", " ", "-", "y", "ns"];
        let nearly = collection::vec(select(pieces.to_vec()), 0..8).prop_map(|p| p.concat());
        let right = any::<Duration>().prop_map(|span| humantime::format_duration(span).to_string());
        prop_oneof![nearly, right, ".{0,20}"]
    }

    proptest! {
        #[test]
        fn what_is_read_as_a_duration_reads_the_same_as_it_is_told(text in any_duration()) {
            let limit = Duration::from_secs(3_600);
            let Ok(read) = parse_duration(&text) else {
                prop_assert!(parse_duration_within(&text, limit).is_err());
                return Ok(());
            };
            let told = humantime::format_duration(read).to_string();
            prop_assert_eq!(parse_duration(&told), Ok(read), "{}", told);
            let within = parse_duration_within(&text, limit);
            prop_assert_eq!(within.ok(), (read <= limit).then_some(read));
            let kind = PayloadKind::Duration { at_most: Some(limit) };
            let checked = Checker::compile(&kind).unwrap().check(text.as_bytes());
            prop_assert_eq!(checked.is_ok(), read <= limit);
        }
    }

    #[test]
    fn what_is_no_duration_is_refused_with_what_would_be_right() {
        for bad in ["", " ", "-1", "-1s", "inf", "nan", "1e3", ".", "1.2.3", "soon", "2 parsecs"] {
            let refused = parse_duration(bad).expect_err(bad).to_string();
            assert!(refused.contains("250ms"), "{refused}");
        }
        assert!(parse_duration(&"9".repeat(400)).is_err());
        assert!(parse_duration("-1").expect_err("refused").to_string().contains("negative"));
    }

    #[test]
    fn a_duration_over_the_limit_is_refused_with_the_limit() {
        let kind = PayloadKind::Duration { at_most: Some(Duration::from_secs(3600)) };
        let checker = Checker::compile(&kind).unwrap();
        assert_eq!(checker.check(b"1h"), Ok(()));
        assert_eq!(refusal(&checker, b"3601"), "1h 1s is longer than the 1h that this type takes");
    }

    #[test]
    fn text_that_is_not_utf_8_is_refused_at_its_byte() {
        let checker = Checker::compile(&PayloadKind::Text).unwrap();
        assert_eq!(checker.check("grüße".as_bytes()), Ok(()));
        assert_eq!(refusal(&checker, b"ab\xff"), "not UTF-8 text: invalid from byte 2 on");
        assert_eq!(Checker::compile(&PayloadKind::Bytes).unwrap().check(b"ab\xff"), Ok(()));
    }

    #[test]
    fn a_payload_against_its_schema_is_refused_at_its_pointer() {
        let checker = json(Some(NUMBERS));
        assert_eq!(
            checker.check(b"[1, 2.5, 1e400, 170141183460469231731687303715884105727]"),
            Ok(())
        );
        assert_eq!(refusal(&checker, br#"["a"]"#), r#"/0: "a" is not of type "number""#);
        assert_eq!(refusal(&checker, b"3"), r#"at the top: 3 is not of type "array""#);
        assert_eq!(
            refusal(&checker, b"[1,"),
            "not JSON: EOF while parsing a value at line 1 column 3"
        );
    }

    #[test]
    fn a_refusal_quotes_a_bounded_part_of_the_payload() {
        let long = format!("[\"{}\"]", "ä".repeat(100_000));
        assert!(refusal(&json(Some(NUMBERS)), long.as_bytes()).len() < 2 * QUOTE_BYTES);
    }

    #[test]
    fn any_json_will_do_without_a_schema_but_not_beyond_the_depth_limit() {
        let checker = json(None);
        for fine in ["null", "1e400", "-0.1", r#"{"a":[{"b":"ü"},true,12345678901234567890]}"#] {
            assert_eq!(checker.check(fine.as_bytes()), Ok(()), "{fine}");
        }
        for bad in [&b""[..], b"{", b"[1,]", b"nul", b"1 2", b"\"\xff\"", br#"{"a":1,}"#] {
            assert!(checker.check(bad).is_err(), "{}", bad.escape_ascii());
        }
        let deep = "[".repeat(100_000);
        assert!(refusal(&checker, deep.as_bytes()).contains("recursion limit"));
        assert!(refusal(&json(Some("true")), deep.as_bytes()).contains("recursion limit"));
    }

    #[test]
    fn a_bad_schema_is_found_when_it_is_compiled() {
        let compile =
            |schema: &str| Checker::compile(&PayloadKind::Json { schema: Some(schema.into()) });
        assert!(matches!(compile("{"), Err(BadSchema::NotJson(_))));
        let wrong = compile(r#"{"type":"nothing"}"#).expect_err("refused");
        assert!(wrong.to_string().contains("/type"), "{wrong}");
        assert!(compile(r#"{"pattern":"(?=a)"}"#).is_err(), "no pattern that needs backtracking");
    }

    #[test]
    fn no_schema_outside_the_document_is_ever_fetched() {
        for elsewhere in ["http://127.0.0.1:9/schema.json", "file:///etc/hostname"] {
            let schema = format!(r#"{{"$ref":"{elsewhere}"}}"#);
            let kind = PayloadKind::Json { schema: Some(schema.into()) };
            assert!(Checker::compile(&kind).is_err(), "{elsewhere}");
        }
    }
}
