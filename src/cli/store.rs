//! `taskgrid store`: what can be done with a data directory that no dispatcher uses.

use std::fmt::Write as _;
use std::path::Path;

use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;

use super::exit::{Exit, Failure};
use super::flags::DataDir;
use super::output::{self, Format};
use crate::store::{self, Report};

/// Look into a data directory that no dispatcher uses
#[derive(Debug, Args)]
pub(super) struct StoreFlags {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Verify(Verify),
}

/// Read a whole store, and tell whether all of it is what was written
///
/// Ends with 0 if it is, with 9 if not. Nothing is changed in the directory. A store that
/// was not closed in good order is looked at as the next start would find it. Pages that
/// the store does not use are not looked at.
#[derive(Debug, Args)]
struct Verify {
    #[command(flatten)]
    data: DataDir,
    /// The form of the summary
    #[arg(short = 'o', long = "output", value_name = "FORMAT", value_enum, default_value = "text")]
    form: Form,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Form {
    Text,
    Json,
}

impl StoreFlags {
    /// Does what was asked, off the thread that hears of signals.
    pub(super) async fn run(self) -> Result<Exit, Failure> {
        let Verb::Verify(call) = self.verb;
        let done = tokio::task::spawn_blocking(move || call.run()).await;
        done.unwrap_or_else(|panic| Err(Failure::new(Exit::Internal, panic)))
    }
}

impl Verify {
    fn run(self) -> Result<Exit, Failure> {
        // The engine may panic over what it did not write. That is found out, told of as
        // damage, and not of interest to whoever looks at stderr.
        std::panic::set_hook(Box::new(|_| {}));
        let verified = store::verify(&self.data.path);
        drop(std::panic::take_hook());
        let report = verified.map_err(|error| refused(error, &self.data.path))?;
        match self.form {
            Form::Text => output::print(text(&report).as_bytes())?,
            Form::Json => output::print_json(Format::Json, &[json(&report)], true)?,
        }
        let [first, ..] = &report.damages[..] else { return Ok(Exit::Done) };
        let more = match report.damage_count {
            0 | 1 => String::new(),
            count => format!(", and {} more", count - 1),
        };
        let what = format!("{first}{more}");
        Err(Failure::from(store::Error::Damaged { what }).hint(WHAT_TO_DO))
    }
}

/// What is left to do with a damaged store.
const WHAT_TO_DO: &str = "put back a copy of the directory, or move it away and begin anew; \
                          look after the disk";

fn refused(error: store::Error, data_dir: &Path) -> Failure {
    match error {
        store::Error::Unusable { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            let problem = format!("there is no store in {}", data_dir.display());
            Failure::new(Exit::WrongInput, problem).hint("--data-dir says where it is")
        }
        store::Error::InUse { .. } => Failure::from(error)
            .hint("stop the dispatcher first: a store is verified while nobody writes to it"),
        other => other.into(),
    }
}

fn text(report: &Report) -> String {
    let rows = report.tables.iter();
    let rows = rows.map(|table| [table.name.to_owned(), table.rows.to_string(), size(table.bytes)]);
    let mut text = output::table(["TABLE", "RECORDS", "SIZE"], rows);
    if !text.is_empty() {
        text.push('\n');
    }
    for damage in &report.damages {
        writeln!(text, "damaged: {damage}").expect("a string takes it");
    }
    let shown = u64::try_from(report.damages.len()).unwrap_or(u64::MAX);
    if shown < report.damage_count {
        writeln!(text, "damaged: … and {} more", report.damage_count - shown)
            .expect("a string takes it");
    }
    let packs = match report.packs_bytes {
        0 => String::new(),
        bytes => format!(", large payloads and results beside it {}", size(bytes)),
    };
    let file = format!("{} ({}{packs})", report.file.display(), size(report.file_bytes));
    let state = match (report.is_sound(), report.was_closed) {
        (true, true) => "sound",
        (true, false) => {
            "sound; it was not closed in good order, so that the next start repairs it"
        }
        (false, true) => "damaged",
        (false, false) => "damaged; it was not closed in good order",
    };
    writeln!(text, "{file} is {state}").expect("a string takes it");
    text
}

/// The summary for programs.
#[derive(Debug, Serialize)]
struct Summary<'a> {
    file: String,
    file_bytes: u64,
    packs_bytes: u64,
    sound: bool,
    closed: bool,
    tables: Vec<TableSummary>,
    damages: &'a [String],
    damage_count: u64,
}

#[derive(Debug, Serialize)]
struct TableSummary {
    name: &'static str,
    records: u64,
    bytes: u64,
}

fn json(report: &Report) -> Summary<'_> {
    let tables = report.tables.iter();
    let tables =
        tables.map(|t| TableSummary { name: t.name, records: t.rows, bytes: t.bytes }).collect();
    Summary {
        file: report.file.display().to_string(),
        file_bytes: report.file_bytes,
        packs_bytes: report.packs_bytes,
        sound: report.is_sound(),
        closed: report.was_closed,
        tables,
        damages: &report.damages,
        damage_count: report.damage_count,
    }
}

fn size(bytes: u64) -> String {
    bytesize::ByteSize(bytes).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_sound_store_is_said_to_be_repaired_by_the_next_start() {
        let said = |was_closed, damages: &[&str]| {
            let damages: Vec<String> = damages.iter().map(|what| (*what).to_owned()).collect();
            let damage_count = u64::try_from(damages.len()).unwrap();
            text(&Report {
                file: "db".into(),
                file_bytes: 1,
                packs_bytes: 4_096,
                was_closed,
                tables: Vec::new(),
                damages,
                damage_count,
            })
        };
        assert!(
            said(true, &[])
                .ends_with("db (1 B, large payloads and results beside it 4.0 KiB) is sound\n")
        );
        assert!(said(false, &[]).ends_with(
            "is sound; it was not closed in good order, so that the next start repairs it\n"
        ));
        assert!(said(true, &["x"]).ends_with("is damaged\n"));
        assert!(said(false, &["x"]).ends_with("is damaged; it was not closed in good order\n"));
    }
}
