//! `taskgrid client types`: the task types that the dispatcher knows.

use clap::Args;
use serde::Serialize;

use super::super::exit::{Exit, Failure};
use super::super::output::{self, Format};
use crate::client::Client;
use crate::wire::v1::{PayloadKind, TypeStats};

/// List the known task types, their payloads and their numbers
#[derive(Debug, Args)]
#[command(after_help = "\
In JSON each type has `type`, `payload` (bytes, text, json or duration), `workers` (connected
ones that serve it), `pending` and `running`; and `completed`, `failed` and `cancelled`, which
count since the dispatcher's start.")]
pub(super) struct Types {}

#[derive(Debug, Serialize)]
struct Row {
    #[serde(rename = "type")]
    name: String,
    payload: &'static str,
    workers: u32,
    pending: u64,
    running: u64,
    completed: u64,
    failed: u64,
    cancelled: u64,
}

impl Types {
    pub(super) async fn run(self, client: &Client, format: Format) -> Result<Exit, Failure> {
        let stats = client.stats().await?;
        let rows: Vec<Row> = stats.types.into_iter().map(Row::from).collect();
        match format {
            Format::Text => {
                let header =
                    ["TYPE", "PAYLOAD", "WORKERS", "PENDING", "RUNNING", "COMPLETED", "FAILED"];
                let cells = rows.into_iter().map(|row| {
                    [
                        row.name,
                        row.payload.to_owned(),
                        row.workers.to_string(),
                        row.pending.to_string(),
                        row.running.to_string(),
                        row.completed.to_string(),
                        row.failed.to_string(),
                    ]
                });
                output::print_line(output::table(header, cells))?;
                output::tell_counted_since_start(stats.uptime_ms);
            }
            Format::Id => {
                for row in rows {
                    output::print_line(row.name)?;
                }
            }
            Format::Json | Format::Ndjson => output::print_json(format, &rows, false)?,
        }
        Ok(Exit::Done)
    }
}

impl From<TypeStats> for Row {
    fn from(stats: TypeStats) -> Self {
        let definition = stats.r#type.unwrap_or_default();
        let counts = stats.counts.unwrap_or_default();
        let payload = match definition.payload() {
            PayloadKind::Unspecified => "unknown",
            PayloadKind::Bytes => "bytes",
            PayloadKind::Text => "text",
            PayloadKind::Json => "json",
            PayloadKind::Duration => "duration",
        };
        Self {
            name: definition.name,
            payload,
            workers: stats.workers,
            pending: counts.pending,
            running: counts.running,
            completed: counts.completed,
            failed: counts.failed,
            cancelled: counts.cancelled,
        }
    }
}
