//! The work that every system does: 32 bytes of text in, their SHA-256 in hexadecimal
//! digits out. And what a run of it says.

use std::convert::Infallible;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use comfy_table::{Table, presets};
use sha2::{Digest as _, Sha256};

/// Whatever went wrong: a measurement that is not right is none.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Bytes of a payload.
pub(crate) const SIZE: usize = 32;

/// With nothing heard for so long, a peer hangs.
const SILENCE: Duration = Duration::from_secs(30);
/// No run takes longer.
pub(crate) const LONGEST: Duration = Duration::from_secs(300);

/// What is asked of a system that is there: so many tasks, so many of them without a
/// result at any moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) tasks: u64,
    pub(crate) in_flight: u64,
}

impl Load {
    /// Connections that work, as many as were fastest: more than one would only be woken
    /// in vain where there is one task.
    pub(crate) fn workers(self) -> usize {
        if self.in_flight > 1 { 2 } else { 1 }
    }
}

/// What it did: the time from the first task to the last result, and of each task.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) took: Duration,
    /// Where tasks went one by one.
    pub(crate) latencies: Vec<Duration>,
}

/// A moment by which all must be over.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline(Instant);

impl Deadline {
    pub(crate) fn start() -> Self {
        Self(Instant::now() + LONGEST)
    }

    pub(crate) fn check(self) -> Result<(), Failure> {
        if Instant::now() < self.0 { Ok(()) } else { Err("the run takes too long".into()) }
    }
}

/// A connection that is not waited for in vain.
pub(crate) fn connect(addr: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(addr)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(SILENCE))?;
    stream.set_write_timeout(Some(SILENCE))?;
    Ok(stream)
}

/// What a worker came to. That its server has ended is how a worker ends.
pub(crate) fn until_server_ended(done: Result<Infallible, Failure>) -> Result<(), Failure> {
    let Err(error) = done;
    match error.downcast_ref::<io::Error>().map(io::Error::kind) {
        Some(ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => {
            Ok(())
        }
        _ => Err(error),
    }
}

/// The payload of a task: its number, and as many digits that differ as well.
pub(crate) fn payload(number: u64) -> String {
    format!("{number:016x}{:016x}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// The number of the task with this payload.
pub(crate) fn number(payload: &[u8]) -> Result<u64, Failure> {
    let digits = payload.get(..16).ok_or("a payload came back shorter than it was")?;
    Ok(u64::from_str_radix(std::str::from_utf8(digits)?, 16)?)
}

/// What a worker makes of a payload.
pub(crate) fn hash(payload: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble & 0xf)]);
    let digest = Sha256::digest(payload);
    digest.iter().flat_map(|byte| [digit(byte >> 4), digit(*byte)]).collect()
}

/// Refuses a result that is not the one of this task.
pub(crate) fn check(number: u64, result: &[u8]) -> Result<(), Failure> {
    if hash(payload(number).as_bytes()).as_bytes() == result {
        Ok(())
    } else {
        Err(format!("the result of task {number} is wrong").into())
    }
}

/// The value that this part of all values does not exceed.
pub(crate) fn quantile<T: Ord + Copy + Default>(values: &[T], percent: usize) -> T {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let last = sorted.len().saturating_sub(1);
    sorted.get(last * percent / 100).copied().unwrap_or_default()
}

/// The middle one of the values, of an even number the lower one.
pub(crate) fn median<T: Ord + Copy + Default>(values: &[T]) -> T {
    quantile(values, 50)
}

/// Tasks a second.
pub(crate) fn per_second(tasks: u64, took: Duration) -> u64 {
    let rate = u128::from(tasks) * 1_000_000_000 / took.as_nanos().max(1);
    u64::try_from(rate).unwrap_or(u64::MAX)
}

/// A figure to divide or to draw. What no float of this way tells is a rate of so few
/// tasks that all came at once, which means nothing anyway.
pub(crate) fn float(figure: u64) -> f64 {
    f64::from(u32::try_from(figure).unwrap_or(u32::MAX))
}

/// In whole microseconds.
pub(crate) fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

/// A table that can be pasted into a page.
pub(crate) fn markdown(head: Vec<String>, rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN).set_header(head).add_rows(rows);
    format!("{table}\n")
}
