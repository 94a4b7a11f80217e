//! The `taskgrid` executable.

use std::process::ExitCode;

use taskgrid::cli::{Cli, Exit, Failure};

fn main() -> ExitCode {
    match run() {
        Ok(exit) => exit.into(),
        Err(failure) => failure.report(),
    }
}

fn run() -> Result<Exit, Failure> {
    let cli = Cli::read()?;
    cli.start_telemetry()?;
    cli.run()
}
