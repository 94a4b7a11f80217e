//! What goes to stdout, and in which form.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, UNIX_EPOCH};

use clap::ValueEnum;
use comfy_table::{Table, presets};
use serde::Serialize;

use super::exit::Failure;
use crate::core::id::Timestamp;

/// The form of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people.
    Text,
    /// One JSON document.
    Json,
    /// One JSON object a line.
    Ndjson,
    /// Ids or names alone, one a line.
    Id,
}

/// Writes bytes to stdout, all of them, now.
pub(super) fn print(bytes: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes)?;
    stdout.flush()
}

/// Writes one line to stdout.
pub(super) fn print_line(line: impl Into<String>) -> io::Result<()> {
    let mut line = line.into();
    line.push('\n');
    print(line.as_bytes())
}

/// Results are bytes. Text gets its newline; what is no text is left exactly as it
/// is, so that it can go into a file.
pub(super) fn print_result(result: &[u8]) -> io::Result<()> {
    if std::str::from_utf8(result).is_err() {
        return print(result);
    }
    let mut line = result.to_vec();
    line.push(b'\n');
    print(&line)
}

/// Writes rows as JSON: one document, or one object a line. A single row that was
/// asked for as such is no array.
pub(super) fn print_json<Row: Serialize>(
    format: Format,
    rows: &[Row],
    single: bool,
) -> Result<(), Failure> {
    let mut text = Vec::new();
    match (format, rows) {
        (Format::Ndjson, rows) => {
            for row in rows {
                push_json(&mut text, row)?;
            }
        }
        (_, [row]) if single => {
            serde_json::to_writer_pretty(&mut text, row).map_err(io::Error::from)?;
            text.push(b'\n');
        }
        (_, rows) => {
            serde_json::to_writer_pretty(&mut text, rows).map_err(io::Error::from)?;
            text.push(b'\n');
        }
    }
    Ok(print(&text)?)
}

/// Appends one object and its newline.
pub(super) fn push_json(text: &mut Vec<u8>, row: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *text, row).map_err(io::Error::from)?;
    text.push(b'\n');
    Ok(())
}

/// A table without lines, as wide as it needs to be.
pub(super) fn table<const COLUMNS: usize>(
    header: [&str; COLUMNS],
    rows: impl IntoIterator<Item = [String; COLUMNS]>,
) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt()
}

/// A moment for people, in UTC.
pub(super) fn moment(at: Timestamp) -> String {
    match UNIX_EPOCH.checked_add(Duration::from_millis(at.0)) {
        Some(time) => humantime::format_rfc3339_millis(time).to_string(),
        None => at.0.to_string(),
    }
}

/// Text for a cell: on one line, without control characters, which a terminal
/// would obey, and not longer than `most` characters.
pub(super) fn cell(bytes: &[u8], most: usize) -> String {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return format!("({} bytes)", bytes.len());
    };
    let mut shown: String = text
        .chars()
        .take(most)
        .map(|letter| if letter.is_control() { ' ' } else { letter })
        .collect();
    if text.chars().nth(most).is_some() {
        shown.push('…');
    }
    shown
}

/// Whether a person looks at stderr and is not looking at results on stdout.
pub(super) fn shows_progress() -> bool {
    io::stderr().is_terminal() && !io::stdout().is_terminal()
}

/// Says something to whoever looks at stderr: a summary, no result.
pub(super) fn tell(line: &str) {
    // Where stderr is gone, there is nobody to tell.
    writeln!(io::stderr(), "{line}").ok();
}

/// Says since when the ended tasks of a table are counted.
pub(super) fn tell_counted_since_start(uptime_ms: u64) {
    let uptime = humantime::format_duration(Duration::from_secs(uptime_ms / 1_000));
    tell(&format!("COMPLETED and FAILED since the dispatcher's start, {uptime} ago"));
}

/// Something to say only if what it belongs to is broken off, as by Ctrl-C.
#[derive(Debug)]
pub(super) struct Farewell {
    line: String,
}

impl Farewell {
    pub(super) fn new(line: impl Into<String>) -> Self {
        Self { line: line.into() }
    }

    /// It came to its end: nothing is said.
    pub(super) fn unsaid(mut self) {
        self.line.clear();
    }
}

impl Drop for Farewell {
    fn drop(&mut self) {
        if !self.line.is_empty() {
            tell(&self.line);
        }
    }
}
