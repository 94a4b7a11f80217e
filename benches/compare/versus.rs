//! TaskGrid beside the other systems: rounds of all of them, medians, ratios.

use std::io::{self, Write as _};

use serde::Serialize;

use super::machine::Machine;
use super::server::Kind;
use super::systems::{Figures, Size, System};
use super::work::{Failure, float, markdown, median};

/// What came out.
#[derive(Debug, Serialize)]
pub(crate) struct Comparison {
    machine: Machine,
    rounds: usize,
    systems: Vec<Row>,
    /// Why systems are not among them.
    missing: Vec<String>,
}

/// One system: each figure is the median of the rounds.
#[derive(Debug, Serialize)]
struct Row {
    system: String,
    version: String,
    survives: &'static str,
    tasks_per_second: u64,
    p50_us: u64,
    p99_us: u64,
    /// How many times as many tasks a second TaskGrid does, synced.
    bulk_ratio: f64,
    /// How many times as long one task takes here, by p50.
    single_ratio: f64,
}

/// Measures all systems that are here, in each round all of them in turn.
pub(crate) fn measure(size: Size, rounds: usize) -> Result<Comparison, Failure> {
    let machine = Machine::measure(size.floors())?;
    let mut stderr = io::stderr().lock();
    let mut missing = Vec::new();
    let mut systems: Vec<(System, String, Vec<Figures>)> = Vec::new();
    for system in System::ALL {
        let own = || Ok(format!("taskgrid {}", env!("CARGO_PKG_VERSION")));
        match system.server().map_or_else(own, Kind::version) {
            Ok(version) => systems.push((system, version, Vec::new())),
            Err(why) if missing.contains(&why) => {}
            Err(why) => {
                writeln!(stderr, "NOT COMPARED: {why}")?;
                missing.push(why);
            }
        }
    }
    for round in 1..=rounds {
        for (system, _, all) in &mut systems {
            let figures = system.measure(size).map_err(|error| format!("{system}: {error}"))?;
            let Figures { tasks_per_second, p50_us, p99_us } = figures;
            writeln!(
                stderr,
                "round {round}: {system}: {tasks_per_second} tasks/s, p50 {p50_us} µs, p99 {p99_us} µs"
            )?;
            all.push(figures);
        }
    }
    Ok(Comparison { machine, rounds, systems: rows(&systems)?, missing })
}

fn rows(systems: &[(System, String, Vec<Figures>)]) -> Result<Vec<Row>, Failure> {
    let of = |all: &[Figures], figure: fn(&Figures) -> u64| {
        median(&all.iter().map(figure).collect::<Vec<_>>())
    };
    let (_, _, ours) = systems.first().ok_or("nothing was measured")?;
    let [rate, p50] = [of(ours, |f| f.tasks_per_second), of(ours, |f| f.p50_us)];
    let row = |(system, version, all): &(System, String, Vec<Figures>)| {
        let (tasks_per_second, p50_us) = (of(all, |f| f.tasks_per_second), of(all, |f| f.p50_us));
        Row {
            system: system.to_string(),
            version: version.clone(),
            survives: system.survives(),
            tasks_per_second,
            p50_us,
            p99_us: of(all, |f| f.p99_us),
            bulk_ratio: ratio(rate, tasks_per_second),
            single_ratio: ratio(p50_us, p50),
        }
    };
    Ok(systems.iter().map(row).collect())
}

fn ratio(one: u64, other: u64) -> f64 {
    float(one) / float(other.max(1))
}

impl Comparison {
    /// As Markdown.
    pub(crate) fn table(&self) -> String {
        let rows = self.systems.iter().map(|row| {
            vec![
                format!("{} ({})", row.system, row.version),
                row.survives.to_owned(),
                row.tasks_per_second.to_string(),
                format!("{:.2}", row.bulk_ratio),
                row.p50_us.to_string(),
                row.p99_us.to_string(),
                format!("{:.2}", row.single_ratio),
            ]
        });
        let head = [
            "System",
            "A receipt survives",
            "Bulk, tasks/s",
            "TaskGrid to it",
            "One at a time, p50 µs",
            "p99 µs",
            "It to TaskGrid",
        ];
        let table = markdown(head.map(str::to_owned).into(), rows);
        let missing = self.missing.iter().map(|missing| format!("\nNot compared: {missing}\n"));
        let rounds = format!("Medians of {} rounds.", self.rounds);
        [self.machine.lines(), rounds, "\n\n".to_owned(), table]
            .into_iter()
            .chain(missing)
            .collect()
    }
}
