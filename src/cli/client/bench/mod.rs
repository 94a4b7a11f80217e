//! `taskgrid client bench`: how fast a grid is, and whether it is right meanwhile.
//!
//! [`load`] sends tasks and hears of their ends, [`ledger`] keeps the books,
//! [`payloads`] knows what must come back, [`report`] tells. [`spawn`] makes a grid
//! of processes to measure.

use std::num::NonZeroU64;
use std::time::Duration;

use clap::Args;

use super::super::exit::{Exit, Failure};
use super::super::output::Format;
use super::super::roles::Durability;
use crate::client::Client;
use crate::core::limits;

mod ledger;
mod load;
mod pace;
mod payloads;
mod report;
mod spawn;

use load::{Load, Plan};
use report::{Mode, Report};
use spawn::Grid;

/// Tasks that are sent, unless told: a second or so, and a few.
const BULK: u64 = 200_000;
const ONE_BY_ONE: u64 = 2_000;
/// Tasks of one submit, and submits without an answer: what is fast.
const BATCH: u64 = 1_000;
const IN_FLIGHT: u64 = 16;
/// Submits without an answer where each is due at its moment: the dispatcher, not
/// this, is what may be late.
const IN_FLIGHT_AT_RATE: u64 = 1_000;

/// Measure throughput and latency, and count what is lost, there twice, or wrong
#[derive(Debug, Args)]
#[command(after_help = "\
Bulk: all tasks as fast as they are taken, or at --rate. --latency: one at a time, the next when
the result is here, or each at its moment at --rate, whose delays count from that moment. --backlog:
N tasks with no worker, of whose submits the first and the last tenth are told apart, and then
their results. Results stream in over one watch, and each is compared with its SHA-256.

--spawn measures a grid of processes of this program on free ports, with its data in a temporary
directory (TMPDIR says where; not on tmpfs, which never syncs), and ends it afterwards.")]
pub(super) struct Bench {
    /// How many tasks [default: 200000; 2000 with --latency]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    tasks: Option<u64>,
    /// The task type; only results of hash can be checked
    #[arg(long = "type", value_name = "TYPE", default_value = "hash")]
    type_name: String,
    /// Bytes of each payload, which is text
    #[arg(long, value_name = "BYTES", default_value_t = 32)]
    size: u32,
    /// Tasks of one submit [default: 1000]
    #[arg(
        long,
        value_name = "N",
        value_parser = clap::value_parser!(u64).range(1..=10_000),
        conflicts_with = "latency"
    )]
    batch: Option<u64>,
    /// Submits without an answer [default: 16]
    #[arg(
        long,
        value_name = "N",
        value_parser = clap::value_parser!(u64).range(1..=100_000),
        conflicts_with = "latency"
    )]
    in_flight: Option<u64>,
    /// Connections that the submits take in turn
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..))]
    connections: u8,
    /// Tasks a second [default: as fast as they are taken]
    #[arg(long, value_name = "N")]
    rate: Option<NonZeroU64>,
    /// Measure single tasks
    #[arg(long)]
    latency: bool,
    /// Queue so many tasks while no worker is there, and then have them run
    #[arg(
        long,
        value_name = "N",
        value_parser = clap::value_parser!(u64).range(10..),
        requires = "spawn",
        conflicts_with_all = ["tasks", "latency", "rate"]
    )]
    backlog: Option<u64>,
    /// Start a grid of processes for it
    #[arg(long)]
    spawn: bool,
    /// Workers to start
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1,
        requires = "spawn",
        value_parser = clap::value_parser!(u16).range(1..)
    )]
    workers: u16,
    /// Slots of each of them [default: the number of cores]
    #[arg(
        long,
        value_name = "N",
        requires = "spawn",
        value_parser = clap::value_parser!(u32).range(1..=i64::from(limits::SLOTS))
    )]
    slots: Option<u32>,
    /// What a receipt survives: a power cut (sync), or a crash of the dispatcher (os)
    #[arg(
        long,
        value_name = "MODE",
        value_enum,
        default_value = "sync",
        hide_possible_values = true,
        requires = "spawn"
    )]
    durability: Durability,
}

impl Bench {
    pub(super) async fn run(
        self,
        client: &Client,
        format: Format,
        patience: Duration,
    ) -> Result<Exit, Failure> {
        let plan = self.plan(patience);
        let report = if self.spawn {
            let config = spawn::Config {
                type_name: self.type_name.clone(),
                durability: self.durability,
                workers: self.workers,
                slots: self.slots,
            };
            let mut grid = Grid::start(config).await?;
            match self.backlog {
                Some(_) => backlog(plan, &mut grid).await?,
                None => self.measure(plan, &grid.dispatcher(), Some(&grid)).await?,
            }
        } else {
            self.measure(plan, client.url(), None).await?
        };
        report.print(format)?;
        Ok(if report.is_all_right() { Exit::Done } else { Exit::TaskFailed })
    }

    async fn measure(&self, plan: Plan, url: &str, grid: Option<&Grid>) -> Result<Report, Failure> {
        let mut load = Load::start(plan, url).await?;
        load.until_ended().await?;
        let mode = if self.latency { Mode::Latency } else { Mode::Bulk };
        Ok(load.report(mode, grid))
    }

    fn plan(&self, patience: Duration) -> Plan {
        let usual = if self.latency { ONE_BY_ONE } else { BULK };
        let (batch, in_flight, open) = match (self.latency, self.rate) {
            (false, _) => (self.batch.unwrap_or(BATCH), self.in_flight.unwrap_or(IN_FLIGHT), None),
            (true, None) => (1, 1, Some(1)),
            (true, Some(_)) => (1, IN_FLIGHT_AT_RATE, None),
        };
        Plan {
            type_name: self.type_name.clone(),
            tasks: self.backlog.or(self.tasks).unwrap_or(usual),
            size: self.size,
            batch,
            in_flight,
            open,
            connections: self.connections,
            waits: self.latency && self.rate.is_none(),
            rate: self.rate,
            patience,
        }
    }
}

/// The workers are there at first, so that their type is known, and again at the end.
async fn backlog(plan: Plan, grid: &mut Grid) -> Result<Report, Failure> {
    let mut load = Load::start(plan, &grid.dispatcher()).await?;
    grid.dismiss_workers().await?;
    load.until_stored().await?;
    let queued_rss = grid.dispatcher_rss();
    grid.enlist_workers().await?;
    load.until_ended().await?;
    let mut report = load.report(Mode::Backlog, Some(grid));
    report.dispatcher_rss_bytes = queued_rss;
    Ok(report)
}
