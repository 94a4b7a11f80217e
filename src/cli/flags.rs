//! Flags that several commands share.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::client::Task;
use crate::rpc::Network;
use crate::telemetry;

/// How to log.
#[derive(Debug, Args)]
#[command(next_help_heading = "Logging")]
pub(super) struct LogFlags {
    /// How log lines look
    #[arg(
        long = "log-format",
        env = "TASKGRID_LOG_FORMAT",
        value_name = "FORMAT",
        value_enum,
        default_value = "text",
        hide_possible_values = true,
        global = true,
        help = "How log lines look on stderr: text or json"
    )]
    pub(super) format: LogFormat,
    /// What to log
    #[arg(
        long = "log-level",
        env = "TASKGRID_LOG_LEVEL",
        value_name = "LEVEL",
        global = true,
        help = "What to log: error, warn, info, debug, trace, or target=level,… [default: info \
                for roles, warn for the client]"
    )]
    pub(super) level: Option<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum LogFormat {
    Text,
    Json,
}

impl From<LogFormat> for telemetry::LogFormat {
    fn from(format: LogFormat) -> Self {
        match format {
            LogFormat::Text => Self::Text,
            LogFormat::Json => Self::Json,
        }
    }
}

/// Where tasks and results are kept, unless told otherwise.
pub(super) const DATA_DIR: &str = "taskgrid-data";

/// Which store.
#[derive(Debug, Args)]
pub(super) struct DataDir {
    /// Where tasks and results are kept
    #[arg(
        id = "data_dir",
        long = "data-dir",
        env = "TASKGRID_DISPATCHER_DATA_DIR",
        value_name = "DIR",
        default_value = DATA_DIR
    )]
    pub(super) path: PathBuf,
}

/// How peers on this machine are reached.
#[derive(Debug, Clone, Copy, Args)]
pub(super) struct NetworkFlags {
    /// Reach what is on this machine over TCP too, not over a Unix socket beside the port
    #[arg(long, env = "TASKGRID_TCP_ONLY", value_parser = yes_or_no, global = true)]
    tcp_only: bool,
}

impl NetworkFlags {
    pub(super) fn network(self) -> Network {
        if self.tcp_only { Network::Tcp } else { Network::System }
    }
}

/// Whether a switch is on, as an environment says it: what is no answer must not turn it on.
pub(super) fn yes_or_no(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" | "t" | "yes" | "y" | "on" => Ok(true),
        "" | "0" | "false" | "f" | "no" | "n" | "off" => Ok(false),
        _ => Err("say true or false".to_owned()),
    }
}

/// What to ask for beside type and payload.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct TaskFlags {
    /// How urgent: 0 (most) to 9 [default: 5]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=9))]
    pub(super) priority: Option<u8>,
    /// Not to be started before this has passed (10m, 1h 30m)
    #[arg(long, value_name = "DURATION")]
    pub(super) delay: Option<humantime::Duration>,
    /// The longest one attempt may run [default: no limit]
    #[arg(long, value_name = "DURATION", value_parser = timeout)]
    pub(super) timeout: Option<humantime::Duration>,
    /// Errors of its handler until it fails, 1 to 1000 [default: 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(super) max_attempts: Option<u32>,
    /// Lost workers until its one run alone, 0 to 1000; with 0, and --max-attempts 1, it
    /// is started at most once [default: 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub(super) max_crashes: Option<u32>,
}

impl TaskFlags {
    pub(super) fn apply(&self, mut task: Task) -> Task {
        if let Some(priority) = self.priority {
            task = task.priority(priority);
        }
        if let Some(delay) = self.delay {
            task = task.delay(*delay);
        }
        if let Some(timeout) = self.timeout {
            task = task.timeout(*timeout);
        }
        if let Some(max_attempts) = self.max_attempts {
            task = task.max_attempts(max_attempts);
        }
        if let Some(max_crashes) = self.max_crashes {
            task = task.max_crashes(max_crashes);
        }
        task
    }
}

/// How long an attempt may run: longer than not at all, which would be no limit on the wire.
pub(super) fn timeout(text: &str) -> Result<humantime::Duration, String> {
    let timeout: humantime::Duration = text.parse().map_err(|error| format!("{error}"))?;
    if *timeout >= Duration::from_millis(1) {
        Ok(timeout)
    } else {
        Err("a timeout is 1ms or longer; without one there is no limit".to_owned())
    }
}
