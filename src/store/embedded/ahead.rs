//! Has a file in the system's cache by the time the engine checks it.
//!
//! The engine looks at one page after another, and waits for each that is not in memory.
//! Other cores have nothing to do meanwhile, and a disk gives more to who asks for more.
//!
//! What is in memory already is left alone.
//!
//! What this module does not do: it looks at nothing that it reads.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use tracing::warn;

/// Bytes that are read at once.
const CHUNK: u64 = 1 << 20;
/// Threads that read. They wait for the disk most of the time, so two are not too many for one
/// core; more gain nothing.
const THREADS: usize = 2;

/// Reads a file until this is dropped.
pub(super) struct ReadAhead {
    left: Arc<Left>,
    threads: Vec<JoinHandle<()>>,
}

impl ReadAhead {
    /// Begins, unless the file has more than half the bytes of the machine's memory: what is
    /// read too early is then forgotten before it is needed. Without it, or with fewer threads
    /// than it asks for, a start merely takes longer.
    pub(super) fn begin(file: &File) -> Self {
        let len = file.metadata().map_or(0, |metadata| metadata.len());
        let left = Arc::new(Left(AtomicU64::new(if len > memory() / 2 { 0 } else { len })));
        let thread = |_| {
            let thread = start(file, &left);
            thread.inspect_err(|error| warn!(%error, "cannot read the store ahead")).ok()
        };
        let threads = (0..THREADS).filter_map(thread).collect();
        Self { left, threads }
    }
}

fn start(file: &File, left: &Arc<Left>) -> io::Result<JoinHandle<()>> {
    let (file, left) = (file.try_clone()?, Arc::clone(left));
    thread::Builder::new().name("read-ahead".to_owned()).spawn(move || read(&file, &left))
}

impl Drop for ReadAhead {
    fn drop(&mut self) {
        self.left.give_up();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                warn!("a thread that read the store ahead has panicked");
            }
        }
    }
}

/// Bytes of the machine's memory.
#[cfg(target_os = "linux")]
fn memory() -> u64 {
    let system = rustix::system::sysinfo();
    u64::from(system.mem_unit).saturating_mul(system.totalram)
}

#[cfg(not(target_os = "linux"))]
fn memory() -> u64 {
    u64::MAX
}

fn read(file: &File, left: &Left) {
    let mut sink = vec![0; usize::try_from(CHUNK).expect("it fits")];
    while let Some(place) = left.take() {
        // What cannot be read is told by the engine, once it needs it.
        if !is_in_memory(file, place) && file.read_at(&mut sink, place).is_err() {
            left.give_up();
        }
    }
}

/// Whether a read of the byte there would not wait for the disk, as far as the system tells.
/// Files come and go in pieces, so that the rest of its chunk is mostly there, too.
#[cfg(target_os = "linux")]
fn is_in_memory(file: &File, place: u64) -> bool {
    let mut byte = [0];
    let into = &mut [io::IoSliceMut::new(&mut byte)];
    rustix::io::preadv2(file, into, place, rustix::io::ReadWriteFlags::NOWAIT) == Ok(1)
}

#[cfg(not(target_os = "linux"))]
fn is_in_memory(_: &File, _: u64) -> bool {
    false
}

/// What is yet to be read: the bytes before this one. The engine goes about from the
/// beginning to the end, so that both meet, instead of one following the other.
struct Left(AtomicU64);

impl Left {
    /// Where the next chunk begins.
    fn take(&self) -> Option<u64> {
        let before = |left: u64| Some(left.checked_sub(1)? / CHUNK * CHUNK);
        let taken = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, before);
        taken.ok().and_then(before)
    }

    fn give_up(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_chunk_is_taken_once_the_last_one_first() {
        for (len, chunks) in [
            (0, vec![]),
            (1, vec![0]),
            (CHUNK, vec![0]),
            (2 * CHUNK + 1, vec![2 * CHUNK, CHUNK, 0]),
        ] {
            let left = Left(AtomicU64::new(len));
            let taken: Vec<u64> = std::iter::from_fn(|| left.take()).collect();
            assert_eq!(taken, chunks, "{len} bytes");
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn what_was_just_written_is_in_memory_and_nothing_is_behind_the_end() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[1; 10], 0).unwrap();
        assert!(is_in_memory(&file, 9));
        assert!(!is_in_memory(&file, 10));
    }

    #[test]
    fn nothing_is_taken_that_was_given_up() {
        let left = Left(AtomicU64::new(3 * CHUNK));
        assert_eq!(left.take(), Some(2 * CHUNK));
        left.give_up();
        assert_eq!(left.take(), None);
    }
}
