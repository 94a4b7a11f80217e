//! What processes and directories take of the machine, sampled, and whether it stays level.
//!
//! Level is a comparison of medians: of the first third of the samples with the last. A
//! leak grows from one to the other, whatever single samples do.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::campaign::Report;
use super::checker::count;

/// What one process takes.
#[derive(Debug, Clone, Copy)]
struct Sample {
    /// In KiB, as all sizes here: what is resident, and what of that is no file's.
    resident: u64,
    anonymous: u64,
    threads: u64,
    descriptors: u64,
}

/// The samples of one process from some moment of its life on.
#[derive(Debug, Default)]
pub(crate) struct Gauge {
    samples: Vec<Sample>,
    most_descriptors: u64,
    most_threads: u64,
}

/// How many threads a role may have at any time: those that read the store, and its own.
const THREADS: u64 = 24;

/// How much more the last third may take than the first.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Allowance {
    pub(crate) kib: u64,
    pub(crate) percent: u64,
    pub(crate) threads: u64,
    pub(crate) descriptors: u64,
}

impl Gauge {
    /// Takes a sample of a process that runs.
    pub(crate) fn sample(&mut self, process: u32) {
        let Some(sample) = Sample::of(process) else { return };
        self.most_descriptors = self.most_descriptors.max(sample.descriptors);
        self.most_threads = self.most_threads.max(sample.threads);
        self.samples.push(sample);
    }

    /// Tells it, and complains of what grew by more than is allowed.
    pub(crate) fn tell(&self, floor: u64, allowed: Allowance, report: &mut Report) {
        report.at_least("samples", count(self.samples.len()), floor);
        let thirds = |part: fn(&Sample) -> u64| {
            let all: Vec<u64> = self.samples.iter().map(part).collect();
            medians(&all)
        };
        let all = [
            ("resident_kib", thirds(|sample| sample.resident), allowed.kib),
            ("anonymous_kib", thirds(|sample| sample.anonymous), allowed.kib),
        ];
        for (name, thirds, kib) in all {
            grows(name, thirds, kib + thirds[0] * allowed.percent / 100, report);
        }
        grows("threads", thirds(|sample| sample.threads), allowed.threads, report);
        grows("descriptors", thirds(|sample| sample.descriptors), allowed.descriptors, report);
        report.figure("most_descriptors", self.most_descriptors);
        report.at_most("most_threads", self.most_threads, THREADS);
    }
}

/// Tells the medians of the thirds, and how much the last may be above the first.
pub(crate) fn grows(name: &str, thirds: [u64; 3], allowed: u64, report: &mut Report) {
    report.figure(name, thirds.to_vec());
    report.at_most(&format!("{name}_grew"), thirds[2].saturating_sub(thirds[0]), allowed);
}

/// The medians of the thirds; zero where there are too few.
pub(crate) fn medians(all: &[u64]) -> [u64; 3] {
    let third = all.len() / 3;
    if third == 0 {
        return [0; 3];
    }
    [0, third, all.len() - third].map(|from| {
        let mut part = all[from..from + third].to_vec();
        part.sort_unstable();
        part[part.len() / 2]
    })
}

impl Sample {
    fn of(process: u32) -> Option<Self> {
        let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
        let number = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse().ok()
        };
        let descriptors = std::fs::read_dir(format!("/proc/{process}/fd")).ok()?.count();
        Some(Self {
            resident: number("VmRSS:")?,
            anonymous: number("RssAnon:")?,
            threads: number("Threads:")?,
            descriptors: count(descriptors),
        })
    }
}

/// KiB of the files in a directory: as long as they are, and as much as they take.
pub(crate) fn disk(dir: &Path) -> (u64, u64) {
    let entries = std::fs::read_dir(dir).expect("the directory of the data is there");
    // One that goes meanwhile takes nothing.
    let files = entries.filter_map(|entry| entry.ok()?.metadata().ok());
    let files = files.filter(std::fs::Metadata::is_file);
    files.fold((0, 0), |(length, taken), file| {
        (length + file.len() / 1_024, taken + file.blocks() / 2)
    })
}
