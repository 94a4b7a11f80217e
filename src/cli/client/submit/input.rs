//! Lines of input as batches of tasks, each with its key.
//!
//! Where a batch ends, and its key, depend on the options and the bytes of the
//! input alone, never on when they arrive: that makes running again safe.

use std::borrow::Cow;
use std::io::{self, BufRead, Read as _};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

use super::super::super::flags::{TaskFlags, timeout};
use crate::client::Task;
use crate::core::id::millis;
use crate::core::limits;
use crate::core::task_type::TypeName;

/// Lines of one batch. Part of the meaning of keys: never changes.
pub(super) const BATCH_LINES: usize = 500;
/// Bytes of lines after which a batch ends early, so that it fits one request: a
/// payload is never longer than its line, and one of the largest size may come on
/// top. Part of the meaning of keys: never changes.
const BATCH_CUT: usize = limits::BATCH_BYTES / 2;
/// Bytes of one line: the largest payload in base64, and its options.
const LINE_BYTES: u64 = limits::PAYLOAD_BYTES_MAX / 3 * 4 + (64 << 10);

/// What goes for all lines.
#[derive(Debug, Clone, Default)]
pub(super) struct Options {
    /// Each line is the payload of a task of this type.
    pub(super) type_name: Option<String>,
    /// Tells this run from others with the same input.
    pub(super) key: Option<String>,
    /// For lines that say nothing else.
    pub(super) task: TaskFlags,
}

/// Consecutive lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Batch {
    /// SHA-256 over the options and the input up to its end.
    pub(super) key: [u8; 32],
    /// Its good lines.
    pub(super) tasks: Vec<Task>,
    /// The number of the line of each task, from 1.
    pub(super) lines: Vec<u64>,
    /// Its bad lines.
    pub(super) bad: Vec<BadLine>,
}

/// A line that is no task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BadLine {
    /// Its number, from 1.
    pub(super) line: u64,
    /// What is wrong with it.
    pub(super) problem: String,
}

/// The batches of an input.
#[derive(Debug)]
pub(super) struct Batches<Source> {
    source: Source,
    options: Options,
    hash: Sha256,
    line: u64,
}

impl<Source: BufRead> Batches<Source> {
    pub(super) fn new(source: Source, options: Options) -> Self {
        let mut hash = Sha256::new();
        hash.update(options.digestible());
        Self { source, options, hash, line: 0 }
    }

    /// The next batch; `None` at the end of the input.
    pub(super) fn next(&mut self) -> io::Result<Option<Batch>> {
        let mut batch =
            Batch { key: [0; 32], tasks: Vec::new(), lines: Vec::new(), bad: Vec::new() };
        let mut bytes = 0;
        let mut lines = 0;
        let mut line = Vec::new();
        while lines < BATCH_LINES && bytes < BATCH_CUT {
            line.clear();
            let Some(fits) = self.read_line(&mut line)? else { break };
            lines += 1;
            bytes += line.len();
            self.line += 1;
            let parsed = if fits {
                parse(&line, &self.options)
            } else {
                Err(format!("longer than {LINE_BYTES} bytes"))
            };
            match parsed {
                Ok(None) => {}
                Ok(Some(task)) => {
                    batch.tasks.push(task);
                    batch.lines.push(self.line);
                }
                Err(problem) => batch.bad.push(BadLine { line: self.line, problem }),
            }
        }
        batch.key = self.hash.clone().finalize().into();
        Ok((lines > 0).then_some(batch))
    }

    /// Reads and hashes one line without its end. `Some(false)` if it was too long:
    /// then only its beginning is there. `None` at the end of the input.
    fn read_line(&mut self, line: &mut Vec<u8>) -> io::Result<Option<bool>> {
        let read = self.source.by_ref().take(LINE_BYTES + 1).read_until(b'\n', line)?;
        if read == 0 {
            return Ok(None);
        }
        let whole = line.ends_with(b"\n");
        if whole {
            line.pop();
        }
        self.hash.update(&line);
        let fits = whole || u64::try_from(read).is_ok_and(|read| read <= LINE_BYTES);
        if !fits {
            self.skip_line()?;
        }
        // The last line is the same with and without its end.
        self.hash.update(b"\n");
        if line.ends_with(b"\r") {
            line.pop();
        }
        Ok(Some(fits))
    }

    /// Hashes what is left of a line, and forgets it.
    fn skip_line(&mut self) -> io::Result<()> {
        loop {
            let some = self.source.fill_buf()?;
            let end = some.iter().position(|&byte| byte == b'\n');
            let rest = some.get(..end.unwrap_or(some.len())).unwrap_or(some);
            self.hash.update(rest);
            let used = end.map_or(some.len(), |end| end + 1);
            let done = end.is_some() || some.is_empty();
            self.source.consume(used);
            if done {
                return Ok(());
            }
        }
    }
}

/// The options as bytes that tell any two apart.
#[derive(Serialize)]
struct Digestible<'a> {
    version: u8,
    type_name: Option<&'a str>,
    key: Option<&'a str>,
    priority: Option<u8>,
    delay_ms: Option<u64>,
    timeout_ms: Option<u64>,
    max_attempts: Option<u32>,
    max_crashes: Option<u32>,
}

impl Options {
    fn digestible(&self) -> Vec<u8> {
        let span = |span: Option<humantime::Duration>| span.map(|span| millis(*span));
        let all = Digestible {
            version: 1,
            type_name: self.type_name.as_deref(),
            key: self.key.as_deref(),
            priority: self.task.priority,
            delay_ms: span(self.task.delay),
            timeout_ms: span(self.task.timeout),
            max_attempts: self.task.max_attempts,
            max_crashes: self.task.max_crashes,
        };
        serde_json::to_vec(&all).expect("a struct of numbers and texts is JSON")
    }
}

/// One line of NDJSON.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    #[serde(rename = "type", borrow)]
    type_name: Cow<'a, str>,
    #[serde(borrow, default, deserialize_with = "present")]
    payload: Option<&'a RawValue>,
    priority: Option<u8>,
    #[serde(borrow, default)]
    delay: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    timeout: Option<Cow<'a, str>>,
    #[serde(alias = "max-attempts")]
    max_attempts: Option<u32>,
    #[serde(alias = "max-crashes")]
    max_crashes: Option<u32>,
    #[serde(borrow, default)]
    encoding: Option<Cow<'a, str>>,
}

/// A null is a payload too.
fn present<'de, Source>(source: Source) -> Result<Option<&'de RawValue>, Source::Error>
where
    Source: Deserializer<'de>,
{
    <&RawValue>::deserialize(source).map(Some)
}

/// The task of a line; `None` for an empty line.
fn parse(line: &[u8], options: &Options) -> Result<Option<Task>, String> {
    if let Some(type_name) = &options.type_name {
        let task = || Task::new(type_name.clone(), Bytes::copy_from_slice(line));
        return Ok((!line.is_empty()).then(|| options.task.apply(task())));
    }
    let text = std::str::from_utf8(line).map_err(|_| "not UTF-8".to_owned())?;
    if text.trim_ascii().is_empty() {
        return Ok(None);
    }
    // Some editors begin a file with a mark of its byte order.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if !text.trim_ascii_start().starts_with('{') {
        return Err(r#"not a JSON object like {"type": "sum", "payload": [1,2,3]}"#.to_owned());
    }
    let line: Line<'_> = serde_json::from_str(text).map_err(|error| problem_of(&error))?;
    let name: TypeName = line.type_name.parse().map_err(|bad| format!("type: {bad}"))?;
    let mut flags = options.task.clone();
    if let Some(priority) = line.priority {
        flags.priority = Some(in_range("priority", priority, 0..=limits::PRIORITY_LEAST)?);
    }
    if let Some(tries) = line.max_attempts {
        flags.max_attempts = Some(in_range("max_attempts", tries, 1..=limits::MAX_TRIES)?);
    }
    if let Some(tries) = line.max_crashes {
        flags.max_crashes = Some(in_range("max_crashes", tries, 0..=limits::MAX_TRIES)?);
    }
    flags.delay = span("delay", line.delay.as_deref())?.or(flags.delay);
    if let Some(text) = line.timeout.as_deref() {
        flags.timeout = Some(timeout(text).map_err(|problem| format!("timeout: {problem}"))?);
    }
    let payload = payload(line.payload, line.encoding.as_deref())?;
    Ok(Some(flags.apply(Task::new(name.as_str(), payload))))
}

/// A JSON string stands for its text, or for what it encodes; any other value for
/// its compact text.
fn payload(value: Option<&RawValue>, encoding: Option<&str>) -> Result<Bytes, String> {
    let Some(json) = value.map(RawValue::get) else { return Ok(Bytes::new()) };
    let text = json.starts_with('"').then(|| serde_json::from_str::<Cow<'_, str>>(json));
    let text = text.transpose().map_err(|error| format!("payload: {error}"))?;
    match (encoding, text) {
        (None, Some(Cow::Borrowed(text))) => Ok(Bytes::copy_from_slice(text.as_bytes())),
        (None, Some(Cow::Owned(text))) => Ok(text.into()),
        (None, None) => Ok(compact(json).into()),
        (Some("base64"), Some(text)) => match STANDARD.decode(text.as_bytes()) {
            Ok(bytes) => Ok(bytes.into()),
            Err(error) => Err(format!("payload: not base64: {error}")),
        },
        (Some("base64"), None) => Err("payload: base64 is written as a JSON string".to_owned()),
        (Some(other), _) => Err(format!("encoding: {other:?} is unknown; there is base64")),
    }
}

/// JSON without the white space between its tokens. Numbers and the order of
/// fields stay as they are written.
fn compact(json: &str) -> String {
    let mut compact = String::with_capacity(json.len());
    let (mut in_text, mut escaped) = (false, false);
    for letter in json.chars() {
        if in_text {
            compact.push(letter);
            in_text = escaped || letter != '"';
            escaped = !escaped && letter == '\\';
        } else if !matches!(letter, ' ' | '\t' | '\n' | '\r') {
            compact.push(letter);
            in_text = letter == '"';
        }
    }
    compact
}

fn span(name: &str, text: Option<&str>) -> Result<Option<humantime::Duration>, String> {
    let parsed = text.map(str::parse).transpose();
    parsed.map_err(|error| format!("{name}: {error}; write it like 30s or 10m"))
}

fn in_range<Number: PartialOrd + std::fmt::Display>(
    name: &str,
    number: Number,
    range: std::ops::RangeInclusive<Number>,
) -> Result<Number, String> {
    if range.contains(&number) {
        Ok(number)
    } else {
        Err(format!("{name}: {number} is not within {} to {}", range.start(), range.end()))
    }
}

/// What the parser says, without its own count of lines, which is always 1.
fn problem_of(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    match text.strip_suffix(&place) {
        Some(problem) => format!("column {}: {problem}", error.column()),
        None => text,
    }
}
