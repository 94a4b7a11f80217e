//! What was measured, for people and for programs.

use std::num::NonZeroU64;
use std::time::Duration;

use serde::Serialize;

use super::super::super::exit::Failure;
use super::super::super::output::{self, Format};
use super::ledger::Ledger;
use super::load::Plan;
use super::spawn::Grid;

/// How it was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Mode {
    Bulk,
    Latency,
    Backlog,
}

/// The fields of `-o json`: a stable part of the command line.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    mode: Mode,
    #[serde(rename = "type")]
    type_name: String,
    size: u64,
    batch: u64,
    connections: u8,
    rate: Option<u64>,
    tasks: u64,
    scheduled: u64,
    /// From the first submit to the last result; with a backlog, from the first result.
    seconds: f64,
    tasks_per_second: u64,
    /// From the first submit to the last receipt.
    submit_per_second: u64,
    latency_us: Latency,
    lost: u64,
    duplicated: u64,
    /// Null where results cannot be checked.
    wrong: Option<u64>,
    failed: u64,
    /// Null where the grid was not spawned for this.
    durability: Option<&'static str>,
    /// At the end; with a backlog, when all of it was queued. Null where it is not known.
    pub(super) dispatcher_rss_bytes: Option<u64>,
    /// With a backlog.
    #[serde(skip_serializing_if = "Option::is_none")]
    backlog: Option<Tenths>,
    /// In bulk.
    #[serde(skip_serializing_if = "Option::is_none")]
    tenths: Option<Tenths>,
}

#[derive(Debug, Serialize)]
struct Latency {
    p50: u64,
    p90: u64,
    p99: u64,
    p999: u64,
    max: u64,
}

/// How fast the first tenth of the tasks was, and the last; null for what came at once.
#[derive(Debug, Clone, Copy, Serialize)]
struct Tenths {
    first_tenth: Rates,
    last_tenth: Rates,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct Rates {
    submit_per_second: Option<u64>,
    tasks_per_second: Option<u64>,
}

impl Report {
    pub(super) fn new(mode: Mode, plan: &Plan, ledger: &Ledger, grid: Option<&Grid>) -> Self {
        let (stored, ended) = (ledger.stored, ledger.ended);
        let began = if mode == Mode::Backlog { ended.first } else { Duration::ZERO };
        let of = |quantile| ledger.latency_us(quantile);
        let [submit_first, submit_last] = stored.tenths(Duration::ZERO);
        let [first, last] = ended.tenths(began);
        let tenths = Tenths {
            first_tenth: Rates { submit_per_second: submit_first, tasks_per_second: first },
            last_tenth: Rates { submit_per_second: submit_last, tasks_per_second: last },
        };
        Self {
            mode,
            type_name: plan.type_name.clone(),
            size: plan.size,
            batch: plan.batch,
            connections: plan.connections,
            rate: plan.rate.map(NonZeroU64::get),
            tasks: stored.count,
            scheduled: plan.scheduled,
            seconds: ended.last.saturating_sub(began).as_secs_f64(),
            tasks_per_second: ended.rate(began),
            submit_per_second: stored.rate(Duration::ZERO),
            latency_us: Latency {
                p50: of(0.5),
                p90: of(0.9),
                p99: of(0.99),
                p999: of(0.999),
                max: of(1.0),
            },
            lost: ledger.lost(),
            duplicated: ledger.duplicated + ledger.unknown(),
            wrong: plan.has_known_results().then_some(ledger.wrong),
            failed: ledger.failed,
            durability: grid.map(Grid::durability),
            dispatcher_rss_bytes: grid.and_then(Grid::dispatcher_rss),
            backlog: (mode == Mode::Backlog).then_some(tenths),
            tenths: (mode == Mode::Bulk).then_some(tenths),
        }
    }

    /// Every task ended once, with the result that it must have.
    pub(super) fn is_all_right(&self) -> bool {
        self.lost + self.duplicated + self.wrong.unwrap_or_default() + self.failed == 0
    }

    pub(super) fn print(&self, format: Format) -> Result<(), Failure> {
        match format {
            Format::Text | Format::Id => Ok(output::print_line(self.table())?),
            Format::Json | Format::Ndjson => output::print_json(format, &[self], true),
        }
    }

    fn table(&self) -> String {
        let number = |number: u64| number.to_string();
        let unknown = || "unknown".to_owned();
        let known = |number: Option<u64>| number.map_or_else(unknown, |number| number.to_string());
        let latency = &self.latency_us;
        let mut rows = vec![
            ["tasks".to_owned(), number(self.tasks)],
            ["seconds".to_owned(), format!("{:.3}", self.seconds)],
            ["tasks a second".to_owned(), number(self.tasks_per_second)],
            ["submits of tasks a second".to_owned(), number(self.submit_per_second)],
        ];
        if let Some(Tenths { first_tenth, last_tenth }) = self.backlog.or(self.tenths) {
            rows.extend([
                ["submits, first tenth".to_owned(), known(first_tenth.submit_per_second)],
                ["submits, last tenth".to_owned(), known(last_tenth.submit_per_second)],
                ["results, first tenth".to_owned(), known(first_tenth.tasks_per_second)],
                ["results, last tenth".to_owned(), known(last_tenth.tasks_per_second)],
            ]);
        }
        let micros = |name: &str, us: u64| [format!("latency {name}"), format!("{us} µs")];
        rows.extend([
            micros("p50", latency.p50),
            micros("p90", latency.p90),
            micros("p99", latency.p99),
            micros("p99.9", latency.p999),
            micros("max", latency.max),
            ["lost".to_owned(), number(self.lost)],
            ["duplicated".to_owned(), number(self.duplicated)],
            ["wrong".to_owned(), known(self.wrong)],
            ["failed".to_owned(), number(self.failed)],
            ["durability".to_owned(), self.durability.map_or_else(unknown, str::to_owned)],
            [
                "dispatcher's memory".to_owned(),
                self.dispatcher_rss_bytes
                    .map_or_else(unknown, |bytes| bytesize::ByteSize(bytes).to_string()),
            ],
        ]);
        output::table(["MEASURED", ""], rows)
    }
}
