//! What a process uses of the machine, by the system's word.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use taskgrid::shutdown::Shutdown;

use crate::checker::count;

/// Between two looks at the memory.
const STEP: Duration = Duration::from_millis(5);

/// A process that is looked at.
#[derive(Debug, Clone, Copy)]
pub(super) struct Meter {
    pid: u32,
}

/// Looks at the memory until it is asked for the most.
pub(super) struct Watching {
    most: Arc<AtomicU64>,
    end: Shutdown,
    thread: Option<JoinHandle<()>>,
}

impl Meter {
    pub(super) fn of(pid: u32) -> Self {
        Self { pid }
    }

    /// KiB of memory in use.
    pub(super) fn memory(self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let number = line.and_then(|line| line.split_whitespace().next());
        number.and_then(|number| number.parse().ok()).unwrap_or(0)
    }

    /// File descriptors that are open.
    pub(super) fn descriptors(self) -> u64 {
        fs::read_dir(format!("/proc/{}/fd", self.pid)).map_or(0, |open| count(open.count()))
    }

    /// Thousandths of a core that it uses during this time.
    pub(super) fn cores_during(self, span: Duration) -> u64 {
        let (began, before) = (Instant::now(), self.cpu_millis());
        while let Some(left) = span.checked_sub(began.elapsed()) {
            std::thread::park_timeout(left);
        }
        let took = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        (self.cpu_millis() - before) * 1_000 / took.max(1)
    }

    /// Looks at its memory from now on.
    pub(super) fn watch_memory(self) -> Watching {
        let (most, end) = (Arc::new(AtomicU64::new(0)), Shutdown::new());
        let (sees, ends) = (Arc::clone(&most), end.clone());
        let thread = std::thread::spawn(move || {
            while !ends.has_begun() {
                sees.fetch_max(self.memory(), Ordering::Relaxed);
                std::thread::park_timeout(STEP);
            }
        });
        Watching { most, end, thread: Some(thread) }
    }

    fn cpu_millis(self) -> u64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
        // Fields 14 and 15 of proc_pid_stat(5); the first here is the third.
        let ticks: u64 =
            fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
        ticks * 1_000 / rustix::param::clock_ticks_per_second().max(1)
    }
}

impl Watching {
    /// The most KiB that were seen.
    pub(super) fn most(&self) -> u64 {
        self.most.load(Ordering::Relaxed)
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.end.begin();
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}
