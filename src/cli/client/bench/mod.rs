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
use crate::rpc::{self, Network};

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
/// Bytes of payloads in one submit: larger ones are slower, and far larger ones fit no
/// message. A batch of payloads of 1 KiB still has its thousand.
const BATCH_BYTES: u64 = 1 << 20;
/// Bytes of payloads without an answer: they are held here, encoded, and once more by the
/// dispatcher. Of every payload that a dispatcher takes unless told otherwise, there is
/// room for as many submits as are fast.
const IN_FLIGHT_BYTES: u64 = IN_FLIGHT * limits::PAYLOAD_BYTES;

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
    #[arg(
        long,
        value_name = "BYTES",
        default_value_t = 32,
        value_parser = clap::value_parser!(u64).range(..=limits::PAYLOAD_BYTES_MAX)
    )]
    size: u64,
    /// Tasks of one submit [default: 1000, or as many as have 1 MiB of payloads]
    #[arg(
        long,
        value_name = "N",
        value_parser = clap::value_parser!(u64).range(1..=10_000),
        conflicts_with = "latency"
    )]
    batch: Option<u64>,
    /// Submits without an answer [default: 16, or as many as have 64 MiB of payloads]
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
    /// Have so many more tasks wait for tomorrow meanwhile
    #[arg(long, value_name = "N", default_value_t = 0, requires = "spawn")]
    scheduled: u64,
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
        network: Network,
        format: Format,
        patience: Duration,
    ) -> Result<Exit, Failure> {
        let plan = self.plan(network, patience);
        self.check(&plan)?;
        let report = if self.spawn {
            let config = spawn::Config {
                type_name: self.type_name.clone(),
                durability: self.durability,
                workers: self.workers,
                slots: self.slots,
                network: plan.network.clone(),
            };
            let mut grid = Grid::start(config).await?;
            load::schedule(&plan, &grid.dispatcher()).await?;
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

    /// Refuses batches that cannot be sent, before there is a grid for them, and before
    /// memory is filled with them.
    fn check(&self, plan: &Plan) -> Result<(), Failure> {
        // A spawned dispatcher has the default; what another one takes, it will say.
        let payload = if self.spawn { limits::PAYLOAD_BYTES } else { limits::PAYLOAD_BYTES_MAX };
        let most = u64::try_from(rpc::message_bytes(payload)).unwrap_or(u64::MAX);
        let (tasks, size) = (plan.batch.min(plan.tasks), plan.size);
        let bytes = tasks * size;
        if tasks == 1 || bytes <= most {
            return Ok(());
        }
        let problem = format!(
            "{tasks} payloads of {size} bytes are too large for one submit: {bytes} bytes, the \
             limit is {most} bytes"
        );
        let fit = u64::try_from(limits::BATCH_BYTES).map_or(1, |bytes| fitting(bytes, size));
        let hint = format!("take --batch {fit} or less, or leave it out");
        Err(Failure::new(Exit::WrongInput, problem).hint(hint))
    }

    fn plan(&self, network: Network, patience: Duration) -> Plan {
        let usual = if self.latency { ONE_BY_ONE } else { BULK };
        let tasks = self.backlog.or(self.tasks).unwrap_or(usual);
        let (batch, fast, open) = match (self.latency, self.rate) {
            (false, _) => {
                let usual = || fitting(BATCH_BYTES, self.size).min(BATCH);
                (self.batch.unwrap_or_else(usual), IN_FLIGHT, None)
            }
            (true, None) => (1, 1, Some(1)),
            (true, Some(_)) => (1, IN_FLIGHT_AT_RATE, None),
        };
        let usual = || fitting(IN_FLIGHT_BYTES, batch.min(tasks) * self.size).min(fast);
        Plan {
            type_name: self.type_name.clone(),
            tasks,
            scheduled: self.scheduled,
            size: self.size,
            batch,
            in_flight: self.in_flight.unwrap_or_else(usual),
            open,
            connections: self.connections,
            waits: self.latency && self.rate.is_none(),
            rate: self.rate,
            patience,
            network,
        }
    }
}

/// As many of this size as fit into so many bytes, and at least one.
fn fitting(bytes: u64, size: u64) -> u64 {
    (bytes / size.max(1)).max(1)
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

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        bench: Bench,
    }

    fn bench(arguments: &str) -> Bench {
        let arguments = arguments.split_whitespace();
        Command::try_parse_from(std::iter::once("bench").chain(arguments)).unwrap().bench
    }

    #[test]
    fn batches_are_bounded_by_tasks_and_by_bytes_unless_told() {
        for (arguments, batch, in_flight) in [
            ("", 1_000, 16),
            ("--size 0", 1_000, 16),
            ("--size 1024", 1_000, 16),
            ("--size 4096", 256, 16),
            ("--size 16384", 64, 16),
            ("--size 1048576", 1, 16),
            ("--size 4194304", 1, 16),
            ("--size 67108864", 1, 1),
            ("--size 16384 --batch 1000", 1_000, 4),
            ("--size 16384 --batch 1000 --in-flight 8", 1_000, 8),
            ("--latency --size 1048576", 1, 1),
            ("--latency --rate 10 --size 1024", 1, 1_000),
            ("--latency --rate 10 --size 1048576", 1, 64),
        ] {
            let bench = bench(arguments);
            let plan = bench.plan(Network::System, Duration::ZERO);
            assert_eq!((plan.batch, plan.in_flight), (batch, in_flight), "{arguments}");
            assert!(bench.check(&plan).is_ok(), "{arguments}");
        }
    }

    #[test]
    fn a_batch_that_cannot_be_sent_is_refused_with_the_one_that_can() {
        for (arguments, hint) in [
            ("--size 1048576 --batch 137", "--batch 8 "),
            ("--size 1048576 --batch 17 --spawn", "--batch 8 "),
            ("--size 67108864 --batch 3", "--batch 1 "),
        ] {
            let bench = bench(arguments);
            let failure = bench.check(&bench.plan(Network::System, Duration::ZERO)).unwrap_err();
            assert_eq!(failure.exit, Exit::WrongInput);
            assert!(failure.hint.unwrap().contains(hint), "{arguments}");
        }
        for arguments in ["--size 1048576 --batch 17", "--size 1048576 --batch 137 --tasks 9"] {
            let bench = bench(arguments);
            assert!(
                bench.check(&bench.plan(Network::System, Duration::ZERO)).is_ok(),
                "{arguments}"
            );
        }
    }
}
