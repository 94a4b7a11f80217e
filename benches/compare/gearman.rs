//! Gearman's binary protocol, as much of it as a client and a worker need that keep
//! many jobs in flight on one connection.
//!
//! Jobs are in the foreground: the server passes the worker's result on to the client.
//! Everything that is to be said is said in one write before the next read.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Instant;

use super::server::Server;
use super::work::{self, Deadline, Failure, Load, Run};

const CAN_DO: u32 = 1;
const PRE_SLEEP: u32 = 4;
const NOOP: u32 = 6;
const SUBMIT_JOB: u32 = 7;
const JOB_CREATED: u32 = 8;
const GRAB_JOB: u32 = 9;
const NO_JOB: u32 = 10;
const JOB_ASSIGN: u32 = 11;
const WORK_COMPLETE: u32 = 13;

/// The magic, the kind and the length that a packet begins with.
const HEADER: usize = 12;
const REQUEST: &[u8; 4] = b"\0REQ";

/// Bytes that are read at once.
const CHUNK: usize = 64 << 10;

const FUNCTION: &[u8] = b"hash";
/// Jobs that a worker asks for before the first of them is there. The protocol allows it,
/// no library does it.
pub(crate) const AHEAD: u64 = 64;
/// What a worker of gearmand's own library asks for: the next job once this one has ended.
pub(crate) const ONE_BY_ONE: u64 = 1;

/// Has the server pass these tasks to workers, and checks what comes back.
pub(crate) fn run(server: Server, load: Load, ahead: u64) -> Result<Run, Failure> {
    let ahead = ahead.min(load.in_flight);
    let addr = server.addr;
    let workers: Vec<_> = (0..load.workers())
        .map(|_| thread::spawn(move || work::until_server_ended(serve(addr, ahead))))
        .collect();
    let run = submit(addr, load);
    drop(server);
    for worker in workers {
        worker.join().map_err(|_| "a worker of gearmand panicked")??;
    }
    run
}

fn submit(addr: SocketAddr, load: Load) -> Result<Run, Failure> {
    let deadline = Deadline::start();
    let mut connection = Connection::open(addr)?;
    let mut latencies = Vec::new();
    // Jobs are created in the order in which they are submitted, and end in any.
    let (mut submitted, mut ended) = (0, 0);
    let mut uncreated = VecDeque::new();
    let mut open = HashMap::new();
    let began = Instant::now();
    while ended < load.tasks {
        while submitted < load.tasks && submitted - ended < load.in_flight {
            let payload = work::payload(submitted);
            connection.send(SUBMIT_JOB, &[FUNCTION, b"", payload.as_bytes()])?;
            uncreated.push_back((submitted, Instant::now()));
            submitted += 1;
        }
        let (kind, body) = connection.receive()?;
        match kind {
            JOB_CREATED => {
                let job = uncreated.pop_front().ok_or("a job was created that nobody wanted")?;
                open.insert(body, job);
            }
            WORK_COMPLETE => {
                let [handle, result] = parts(&body)?;
                let (number, start) = open.remove(handle).ok_or("a job ended twice")?;
                work::check(number, result)?;
                latencies.push(start.elapsed());
                ended += 1;
            }
            other => return Err(unexpected(other, &body)),
        }
        deadline.check()?;
    }
    Ok(Run { took: began.elapsed(), latencies })
}

/// Works until the server ends.
fn serve(addr: SocketAddr, ahead: u64) -> Result<Infallible, Failure> {
    let mut connection = Connection::open(addr)?;
    connection.send(CAN_DO, &[FUNCTION])?;
    connection.send(PRE_SLEEP, &[])?;
    let mut asked = 0;
    loop {
        let (kind, body) = connection.receive()?;
        match kind {
            NOOP => {
                for _ in asked..ahead {
                    connection.send(GRAB_JOB, &[])?;
                }
                asked = ahead;
            }
            JOB_ASSIGN => {
                let [handle, _, payload] = parts(&body)?;
                connection.send(WORK_COMPLETE, &[handle, work::hash(payload).as_bytes()])?;
                connection.send(GRAB_JOB, &[])?;
            }
            NO_JOB => {
                asked -= 1;
                if asked == 0 {
                    connection.send(PRE_SLEEP, &[])?;
                }
            }
            other => return Err(unexpected(other, &body)),
        }
    }
}

/// The parts of a body, of which only the last may hold a zero.
fn parts<const N: usize>(body: &[u8]) -> Result<[&[u8]; N], Failure> {
    let parts: Vec<&[u8]> = body.splitn(N, |byte| *byte == 0).collect();
    Ok(<[&[u8]; N]>::try_from(parts).map_err(|_| "a packet of gearmand lacks a part")?)
}

fn unexpected(kind: u32, body: &[u8]) -> Failure {
    format!("gearmand sent packet {kind}: {}", String::from_utf8_lossy(body)).into()
}

struct Connection {
    stream: BufReader<TcpStream>,
    outgoing: Vec<u8>,
    incoming: Vec<u8>,
    /// What of it was taken.
    taken: usize,
}

impl Connection {
    fn open(addr: SocketAddr) -> io::Result<Self> {
        let stream = BufReader::with_capacity(CHUNK, work::connect(addr)?);
        Ok(Self { stream, outgoing: Vec::new(), incoming: Vec::new(), taken: 0 })
    }

    /// Says this before the next read.
    fn send(&mut self, kind: u32, parts: &[&[u8]]) -> Result<(), Failure> {
        let body = parts.join(&0);
        self.outgoing.extend_from_slice(REQUEST);
        self.outgoing.extend_from_slice(&kind.to_be_bytes());
        self.outgoing.extend_from_slice(&u32::try_from(body.len())?.to_be_bytes());
        self.outgoing.extend_from_slice(&body);
        Ok(())
    }

    /// The next packet: its kind and its body.
    fn receive(&mut self) -> Result<(u32, Vec<u8>), Failure> {
        loop {
            match self.take()? {
                Some(packet) => return Ok(packet),
                None => self.exchange()?,
            }
        }
    }

    fn take(&mut self) -> Result<Option<(u32, Vec<u8>)>, Failure> {
        let waiting = &self.incoming[self.taken..];
        let Some((header, rest)) = waiting.split_at_checked(HEADER) else { return Ok(None) };
        let word = |at: usize| header[at..at + 4].try_into().map(u32::from_be_bytes);
        let (kind, length) = (word(4)?, usize::try_from(word(8)?)?);
        let Some(body) = rest.get(..length) else { return Ok(None) };
        let body = body.to_vec();
        self.taken += HEADER + length;
        Ok(Some((kind, body)))
    }

    /// Writes all that is to be said, and reads what is there.
    fn exchange(&mut self) -> io::Result<()> {
        self.stream.get_mut().write_all(&self.outgoing)?;
        self.outgoing.clear();
        self.incoming.drain(..self.taken);
        self.taken = 0;
        let waiting = self.stream.fill_buf()?;
        if waiting.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.incoming.extend_from_slice(waiting);
        let length = waiting.len();
        self.stream.consume(length);
        Ok(())
    }
}
