//! What this process uses of the machine, under the names that Prometheus clients
//! share (<https://prometheus.io/docs/instrumenting/writing_clientlibs/#process-metrics>).

use std::fs;
use std::time::Duration;

use super::{BUILD, Exposition, Measure, Metric, counter, gauge, measured};

static CPU: Metric =
    measured(Measure::Seconds, counter("process_cpu", "User and system time used."));
static RESIDENT: Metric =
    measured(Measure::Bytes, gauge("process_resident_memory", "Memory that is in use."));
static DESCRIPTORS: Metric = gauge("process_open_fds", "Open file descriptors.");
static THREADS: Metric = gauge("process_threads", "Threads of this process.");

/// Adds what the process uses, as far as the system tells, and the version.
pub fn of_process(all: &mut Exposition) {
    all.add(&BUILD, &[("version", env!("CARGO_PKG_VERSION"))], 1_u32);
    if let Some(usage) = fs::read_to_string("/proc/self/stat").ok().as_deref().and_then(parse) {
        let ticks = rustix::param::clock_ticks_per_second().max(1);
        let cpu = Duration::from_millis(usage.cpu_ticks.saturating_mul(1_000) / ticks);
        all.add(&CPU, &[], cpu);
        let page = u64::try_from(rustix::param::page_size()).unwrap_or(0);
        all.add(&RESIDENT, &[], usage.resident_pages.saturating_mul(page));
        all.add(&THREADS, &[], usage.threads);
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        all.add(&DESCRIPTORS, &[], open.count());
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Usage {
    cpu_ticks: u64,
    threads: u64,
    resident_pages: u64,
}

/// The fields of `proc_pid_stat(5)`, counted after the name in parentheses, which may
/// hold spaces.
fn parse(stat: &str) -> Option<Usage> {
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    // Field 3 of the manual, the state, is the first here.
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    Some(Usage {
        cpu_ticks: field(14)?.saturating_add(field(15)?),
        threads: field(20)?,
        resident_pages: field(24)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_is_read_behind_any_name() {
        let line = "7 (a b) c) S 1 7 7 0 -1 4194560 9 0 0 0 30 12 0 0 20 0 5 0 100 9000000 321 18446744073709551615\n";
        assert_eq!(parse(line), Some(Usage { cpu_ticks: 42, threads: 5, resident_pages: 321 }));
        assert_eq!(parse("7 (x) S 1"), None);
    }
}
