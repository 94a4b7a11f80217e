//! The machine, and what nothing on it can be faster than: the floors.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::FileExt as _;
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;
use tempfile::TempDir;

use super::work::{self, Failure};

/// Bytes that a small commit writes.
const PAGE: usize = 4 << 10;
/// Bytes of a chunk of the sequential write.
const CHUNK: usize = 1 << 20;
/// More than the file that is written before it is measured.
const PREALLOCATED: usize = 16 << 20;

/// What it is, and the floors: medians of so many times each.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    cpu: String,
    cores: usize,
    kernel: String,
    /// 4 KiB into a file that grows, and a sync of it.
    pub(crate) sync_growing_us: u64,
    /// 4 KiB into a file that has its size, and a sync of it.
    pub(crate) sync_preallocated_us: u64,
    /// A byte there and back over TCP on loopback, between two threads.
    pub(crate) ping_us: u64,
}

impl Machine {
    /// Looks at it, and measures the floors.
    pub(crate) fn measure(times: usize) -> Result<Self, Failure> {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let cpus = read("/proc/cpuinfo");
        let cpu = cpus.lines().find_map(|line| line.strip_prefix("model name"));
        let cpu = cpu.map_or("unknown", |cpu| cpu.trim_start_matches([' ', '\t', ':']));
        Ok(Self {
            cpu: cpu.to_owned(),
            cores: thread::available_parallelism()?.get(),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            sync_growing_us: sync(times, 0)?,
            sync_preallocated_us: sync(times, PREALLOCATED)?,
            ping_us: ping(times)?,
        })
    }

    /// As lines of Markdown.
    pub(crate) fn lines(&self) -> String {
        format!(
            "{}, {} cores, Linux {}. 4 KiB synced into a growing file {} µs, into one that has \
             its size {} µs; a byte there and back over TCP {} µs.\n",
            self.cpu,
            self.cores,
            self.kernel,
            self.sync_growing_us,
            self.sync_preallocated_us,
            self.ping_us
        )
    }
}

/// Bytes a second that the disk takes in chunks of 1 MiB, each synced.
pub(crate) fn sequential(chunks: usize) -> Result<u64, Failure> {
    let directory = TempDir::new()?;
    let mut file = File::create(directory.path().join("chunks"))?;
    let chunk = vec![0x5a; CHUNK];
    let began = Instant::now();
    for _ in 0..chunks {
        file.write_all(&chunk)?;
        file.sync_data()?;
    }
    Ok(work::per_second(u64::try_from(chunks * CHUNK)?, began.elapsed()))
}

/// Whether files of this kind of directory are on a disk at all.
pub(crate) fn refuse_memory() -> Result<(), Failure> {
    #[cfg(target_os = "linux")]
    {
        const TMPFS: i64 = 0x0102_1994;
        let directory = std::env::temp_dir();
        if rustix::fs::statfs(&directory)?.f_type == TMPFS {
            let directory = directory.display();
            return Err(format!("{directory} is in memory: set TMPDIR to one on a disk").into());
        }
    }
    Ok(())
}

fn sync(times: usize, preallocated: usize) -> Result<u64, Failure> {
    let directory = TempDir::new()?;
    let file = File::create(directory.path().join("pages"))?;
    file.write_all_at(&vec![0; preallocated], 0)?;
    file.sync_all()?;
    let page = [0x5a; PAGE];
    let pages = preallocated / PAGE;
    let mut spans = Vec::with_capacity(times);
    for at in 0..times {
        let at = if pages > 0 { at % pages } else { at };
        let began = Instant::now();
        file.write_all_at(&page, u64::try_from(at * PAGE)?)?;
        file.sync_data()?;
        spans.push(work::micros(began.elapsed()));
    }
    Ok(work::median(&spans))
}

fn ping(times: usize) -> Result<u64, Failure> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut here = work::connect(listener.local_addr()?)?;
    let (mut there, _) = listener.accept()?;
    there.set_nodelay(true)?;
    let echo = thread::spawn(move || {
        let mut byte = [0];
        while there.read(&mut byte)? > 0 {
            there.write_all(&byte)?;
        }
        std::io::Result::Ok(())
    });
    let mut spans: Vec<Duration> = Vec::with_capacity(times);
    for _ in 0..times {
        let began = Instant::now();
        here.write_all(&[1])?;
        here.read_exact(&mut [0])?;
        spans.push(began.elapsed());
    }
    drop(here);
    echo.join().map_err(|_| "the echo panicked")??;
    Ok(work::micros(work::median(&spans)))
}
