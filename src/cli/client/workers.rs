//! `taskgrid client workers`: the workers that the dispatcher knows.

use clap::Args;
use serde::Serialize;

use super::super::exit::{Exit, Failure};
use super::super::output::{self, Format};
use crate::client::Client;
use crate::wire::v1::{Health, WorkerStats};

/// List the workers, how they stand and what they did
#[derive(Debug, Args)]
#[command(after_help = "\
In JSON each worker has `worker`, `address`, `status` (connected, draining, unhealthy or away),
`connected`, `types`, `slots` and `held` (tasks, prefetched ones included); and `completed`,
`failed` and `run_us` (microseconds of its handlers), which count since the dispatcher's start.")]
pub(super) struct Workers {}

#[derive(Debug, Serialize)]
struct Row {
    worker: String,
    address: String,
    status: &'static str,
    connected: bool,
    types: Vec<String>,
    slots: u32,
    held: u32,
    completed: u64,
    failed: u64,
    run_us: u64,
}

impl Workers {
    pub(super) async fn run(self, client: &Client, format: Format) -> Result<Exit, Failure> {
        let stats = client.stats().await?;
        let rows: Vec<Row> = stats.workers.into_iter().map(Row::from).collect();
        match format {
            Format::Text => {
                let header = [
                    "WORKER",
                    "ADDRESS",
                    "STATUS",
                    "TYPES",
                    "SLOTS",
                    "HELD",
                    "COMPLETED",
                    "FAILED",
                ];
                let cells = rows.into_iter().map(|row| {
                    [
                        row.worker,
                        row.address,
                        row.status.to_owned(),
                        row.types.join(","),
                        row.slots.to_string(),
                        row.held.to_string(),
                        row.completed.to_string(),
                        row.failed.to_string(),
                    ]
                });
                output::print_line(output::table(header, cells))?;
                output::tell_counted_since_start(stats.uptime_ms);
            }
            Format::Id => {
                for row in rows {
                    output::print_line(row.worker)?;
                }
            }
            Format::Json | Format::Ndjson => output::print_json(format, &rows, false)?,
        }
        Ok(Exit::Done)
    }
}

impl From<WorkerStats> for Row {
    fn from(stats: WorkerStats) -> Self {
        let standing = match (stats.connected, stats.draining, stats.health()) {
            (true, true, _) => "draining",
            (true, false, _) => "connected",
            (false, _, Health::Unhealthy) => "unhealthy",
            (false, _, Health::Healthy | Health::Unspecified) => "away",
        };
        Self {
            worker: stats.worker_id,
            address: stats.address,
            status: standing,
            connected: stats.connected,
            types: stats.types,
            slots: stats.slots,
            held: stats.held,
            completed: stats.completed,
            failed: stats.failed,
            run_us: stats.run_us,
        }
    }
}
