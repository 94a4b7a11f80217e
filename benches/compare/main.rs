//! TaskGrid beside the systems that it is compared with, and beside itself as work
//! grows: all in one run, on one machine, the same work.
//!
//! ```text
//! cargo bench --bench compare                                 beside gearmand and beanstalkd
//! cargo bench --bench compare -- --plots docs/performance     how cost grows, with plots
//! ```
//!
//! [`versus`] is the first and [`curves`] the second. TaskGrid is measured by its own
//! tool ([`taskgrid`]); [`gearman`] and [`beanstalkd`] are clients and workers for the
//! others, whose servers [`server`] starts. Run by `cargo test`, everything is done
//! once, as small as it can be.

use std::fs;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use serde::Serialize;

mod beanstalkd;
mod curves;
mod draw;
mod gearman;
mod machine;
mod server;
mod systems;
mod taskgrid;
mod versus;
mod work;

use systems::Size;
use work::Failure;

/// Measure TaskGrid beside gearmand and beanstalkd, or how its cost grows
#[derive(Debug, Parser)]
#[command(after_help = "\
All data is in temporary directories (TMPDIR says where), all ports are free ones of loopback. The
machine should do nothing else meanwhile.")]
struct Options {
    /// How often everything is measured; medians are told
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..))]
    rounds: u8,
    /// A tenth of the work
    #[arg(long)]
    short: bool,
    /// Measure how cost grows, and draw it as SVG into this directory
    #[arg(long, value_name = "DIR")]
    plots: Option<PathBuf>,
    /// A backlog of ten million tasks as well
    #[arg(long, requires = "plots")]
    ten_million: bool,
    /// Tables in Markdown, or JSON
    #[arg(short, value_enum, default_value = "text")]
    output: Format,
    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

fn main() -> ExitCode {
    let is_bench = std::env::args().any(|argument| argument == "--bench");
    let done = if is_bench { Options::parse().run() } else { smoke() };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Where not even this can be written, the exit code has to do.
            writeln!(io::stderr(), "error: {error}").ok();
            ExitCode::FAILURE
        }
    }
}

impl Options {
    fn run(self) -> Result<(), Failure> {
        machine::refuse_memory()?;
        let size = if self.short { Size::Short } else { Size::Full };
        let rounds = usize::from(self.rounds);
        if let Some(directory) = self.plots {
            let growth = curves::measure(size, rounds, self.ten_million)?;
            growth.draw(&directory)?;
            tell(self.output, &growth, || growth.tables())
        } else {
            let comparison = versus::measure(size, rounds)?;
            tell(self.output, &comparison, || comparison.table())
        }
    }
}

fn tell<T: Serialize>(
    format: Format,
    found: &T,
    table: impl Fn() -> String,
) -> Result<(), Failure> {
    let text = match format {
        Format::Text => table(),
        Format::Json => serde_json::to_string_pretty(found)? + "\n",
    };
    Ok(io::stdout().write_all(text.as_bytes())?)
}

/// All of it once. `cargo test` gives every target its arguments: where a test is named
/// that is not this one, nothing is done.
fn smoke() -> Result<(), Failure> {
    let mut names = std::env::args().skip(1).filter(|argument| !argument.starts_with('-'));
    if names.next().is_some_and(|name| !"compare".contains(&name)) {
        return Ok(());
    }
    let comparison = versus::measure(Size::Smoke, 1)?;
    let growth = curves::measure(Size::Smoke, 1, false)?;
    let directory = tempfile::TempDir::new()?;
    growth.draw(directory.path())?;
    let tables = comparison.table() + &growth.tables();
    Ok(fs::write(directory.path().join("tables.md"), tables)?)
}
