//! How the cost of a task grows: with what is queued, with its payload, with the
//! number of workers.

use std::fs;
use std::io::{self, Write as _};
use std::iter;
use std::path::Path;

use serde::Serialize;

use super::draw;
use super::machine::{self, Machine};
use super::systems::Size;
use super::taskgrid::{bench, number};
use super::work::{Failure, SIZE, markdown, median};

/// Tasks queued.
const BACKLOGS: [u64; 3] = [10_000, 100_000, 1_000_000];
const TEN_MILLION: u64 = 10_000_000;
/// Bytes of a payload, and how many such tasks.
const PAYLOADS: [(u64, u64); 5] =
    [(32, 1_000_000), (1 << 10, 300_000), (16 << 10, 30_000), (256 << 10, 2_000), (1 << 20, 500)];
/// Bytes of payloads in one submit, and tasks: what is fast without filling a message.
const BATCH_BYTES: u64 = 1 << 20;
const BATCH_TASKS: u64 = 1_000;
/// Processes, and the slots of each.
const WORKERS: [(u64, u64); 5] = [(1, 1), (2, 1), (8, 1), (64, 1), (1, 64)];
const WORKERS_TASKS: u64 = 500_000;
/// Chunks of the sequential write.
const CHUNKS: u64 = 500;

const MIB: u64 = 1 << 20;
const MB: u64 = 1_000_000;

/// What came out.
#[derive(Debug, Serialize)]
pub(crate) struct Growth {
    machine: Machine,
    rounds: usize,
    curves: Vec<Curve>,
}

/// Figures over one quantity, medians of the rounds.
#[derive(Debug, Serialize)]
pub(crate) struct Curve {
    /// What it is called in a directory.
    #[serde(skip)]
    pub(crate) file: &'static str,
    pub(crate) title: &'static str,
    /// What grows.
    pub(crate) over: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) points: Vec<String>,
    pub(crate) series: Vec<Series>,
}

/// One figure, at each of the points.
#[derive(Debug, Serialize)]
pub(crate) struct Series {
    pub(crate) name: &'static str,
    pub(crate) values: Vec<u64>,
}

/// Measures all of it.
pub(crate) fn measure(size: Size, rounds: usize, ten_million: bool) -> Result<Growth, Failure> {
    let machine = Machine::measure(size.floors())?;
    let mut curves = backlogs(size, rounds, ten_million)?;
    curves.extend(payloads(size, rounds)?);
    curves.push(workers(size, rounds)?);
    Ok(Growth { machine, rounds, curves })
}

fn backlogs(size: Size, rounds: usize, ten_million: bool) -> Result<Vec<Curve>, Failure> {
    let counts = size.points(&BACKLOGS).iter().copied().chain(ten_million.then_some(TEN_MILLION));
    let counts: Vec<u64> = counts.map(|count| size.of(count)).collect();
    let measured = points(rounds, &counts, |count| {
        let report = bench(&format!("--backlog {count} --size {SIZE}"))?;
        Ok([
            number(&report, "/submit_per_second")?,
            number(&report, "/tasks_per_second")?,
            number(&report, "/dispatcher_rss_bytes")? / MIB,
        ])
    })?;
    let [submits, results, memory] = columns(&measured);
    let labels: Vec<String> = counts.into_iter().map(short).collect();
    let over = "tasks queued, 32 bytes each";
    Ok(vec![
        Curve {
            file: "backlog",
            title: "Queue and drain",
            over,
            unit: "tasks/s",
            points: labels.clone(),
            series: vec![series("submitted", submits), series("worked off", results)],
        },
        Curve {
            file: "memory",
            title: "Memory of the dispatcher",
            over,
            unit: "MiB",
            points: labels,
            series: vec![series("resident", memory)],
        },
    ])
}

fn payloads(size: Size, rounds: usize) -> Result<Vec<Curve>, Failure> {
    let measured = points(rounds, size.points(&PAYLOADS), |(bytes, tasks)| {
        let (batch, tasks) = ((BATCH_BYTES / bytes).clamp(1, BATCH_TASKS), size.of(tasks));
        let report = bench(&format!("--size {bytes} --tasks {tasks} --batch {batch}"))?;
        let rate = number(&report, "/tasks_per_second")?;
        let chunks = usize::try_from(size.of(CHUNKS))?;
        Ok([rate, rate * bytes / MB, machine::sequential(chunks)? / MB])
    })?;
    let [rates, bytes, disk] = columns(&measured);
    let points: Vec<String> =
        size.points(&PAYLOADS).iter().map(|(bytes, _)| binary(*bytes)).collect();
    let over = "bytes of a payload";
    Ok(vec![
        Curve {
            file: "payload-bytes",
            title: "Bytes of payloads, there and done",
            over,
            unit: "MB/s",
            points: points.clone(),
            series: vec![
                series("payloads", bytes),
                series("the disk alone, 1 MiB at a time, synced", disk),
            ],
        },
        Curve {
            file: "payload-tasks",
            title: "Tasks by the size of their payloads",
            over,
            unit: "tasks/s",
            points,
            series: vec![series("end to end", rates)],
        },
    ])
}

fn workers(size: Size, rounds: usize) -> Result<Curve, Failure> {
    let tasks = size.of(WORKERS_TASKS);
    let measured = points(rounds, size.points(&WORKERS), |(workers, slots)| {
        let arguments =
            format!("--size {SIZE} --tasks {tasks} --workers {workers} --slots {slots}");
        Ok([number(&bench(&arguments)?, "/tasks_per_second")?])
    })?;
    let [rates] = columns(&measured);
    let label = |(workers, slots)| match slots {
        1 => format!("{workers}"),
        slots => format!("{workers} of {slots} slots"),
    };
    Ok(Curve {
        file: "workers",
        title: "Workers on one machine",
        over: "worker processes, of one slot unless told",
        unit: "tasks/s",
        points: size.points(&WORKERS).iter().copied().map(label).collect(),
        series: vec![series("end to end", rates)],
    })
}

/// The medians of some figures, at each of these points.
fn points<P: Copy + std::fmt::Debug, const N: usize>(
    rounds: usize,
    points: &[P],
    measure: impl Fn(P) -> Result<[u64; N], Failure>,
) -> Result<Vec<[u64; N]>, Failure> {
    let mut all = vec![Vec::new(); points.len()];
    for round in 1..=rounds {
        for (point, rows) in points.iter().zip(&mut all) {
            let figures = measure(*point)?;
            writeln!(io::stderr(), "round {round}: {point:?}: {figures:?}")?;
            rows.push(figures);
        }
    }
    let medians = |rows: &Vec<[u64; N]>| {
        std::array::from_fn(|at| median(&rows.iter().map(|row| row[at]).collect::<Vec<_>>()))
    };
    Ok(all.iter().map(medians).collect())
}

fn columns<const N: usize>(rows: &[[u64; N]]) -> [Vec<u64>; N] {
    std::array::from_fn(|at| rows.iter().map(|row| row[at]).collect())
}

fn series(name: &'static str, values: Vec<u64>) -> Series {
    Series { name, values }
}

/// As people write a count: `10 k`.
fn short(count: u64) -> String {
    match count {
        0..1_000 => count.to_string(),
        1_000..1_000_000 => format!("{} k", count / 1_000),
        _ => format!("{} M", count / 1_000_000),
    }
}

/// As people write bytes: `16 KiB`.
fn binary(bytes: u64) -> String {
    match bytes {
        0..1_024 => format!("{bytes} B"),
        1_024..MIB => format!("{} KiB", bytes >> 10),
        _ => format!("{} MiB", bytes >> 20),
    }
}

impl Growth {
    /// Draws each curve, and puts the figures beside them.
    pub(crate) fn draw(&self, directory: &Path) -> Result<(), Failure> {
        fs::create_dir_all(directory)?;
        for curve in &self.curves {
            draw::curve(curve, &directory.join(curve.file).with_extension("svg"))?;
        }
        let figures = serde_json::to_string_pretty(self)? + "\n";
        Ok(fs::write(directory.join("figures.json"), figures)?)
    }

    /// As Markdown.
    pub(crate) fn tables(&self) -> String {
        let head = format!("{}Medians of {} rounds.\n", self.machine.lines(), self.rounds);
        self.curves.iter().fold(head, |tables, curve| tables + "\n" + &curve.table())
    }
}

impl Curve {
    fn table(&self) -> String {
        let names = self.series.iter().map(|series| format!("{}, {}", series.name, self.unit));
        let head = iter::once(format!("{}: {}", self.title, self.over)).chain(names);
        let rows = self.points.iter().enumerate().map(|(at, point)| {
            let values = self.series.iter().filter_map(|series| series.values.get(at));
            iter::once(point.clone()).chain(values.map(u64::to_string)).collect()
        });
        markdown(head.collect(), rows)
    }
}
