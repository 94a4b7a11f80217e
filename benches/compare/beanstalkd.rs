//! beanstalkd's protocol, as much of it as a client and a worker need that keep many
//! jobs in flight.
//!
//! beanstalkd knows no results, so that a worker puts them into a tube of their own,
//! each behind its task's payload, from which the client takes them. A command that
//! waits holds up those behind it on its connection: many jobs are taken by many
//! commands at once that do not wait, and only when there was none by one that does.

use std::convert::Infallible;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Instant;

use super::server::Server;
use super::work::{self, Deadline, Failure, Load, Run, SIZE};

/// Jobs that are taken at once.
const AT_ONCE: usize = 64;
/// Puts without an answer.
const UNANSWERED: usize = 256;

const TASKS: &str = "tasks";
const RESULTS: &str = "results";

/// Has the server pass these tasks to workers, and checks what comes back.
pub(crate) fn run(server: Server, load: Load) -> Result<Run, Failure> {
    let addr = server.addr;
    let is_bulk = load.in_flight > 1;
    let at_once = if is_bulk { AT_ONCE } else { 1 };
    let workers: Vec<_> = (0..load.workers())
        .map(|_| thread::spawn(move || work::until_server_ended(serve(addr, at_once))))
        .collect();
    let run = if is_bulk { bulk(addr, load.tasks) } else { one_by_one(addr, load.tasks) };
    drop(server);
    for worker in workers {
        worker.join().map_err(|_| "a worker of beanstalkd panicked")??;
    }
    run
}

/// One thread puts while this one takes.
fn bulk(addr: SocketAddr, tasks: u64) -> Result<Run, Failure> {
    let deadline = Deadline::start();
    let mut results = Connection::open(addr)?;
    results.watch(RESULTS)?;
    let mut ended = vec![false; usize::try_from(tasks)?];
    let mut open = tasks;
    let began = Instant::now();
    let put = thread::spawn(move || put(addr, tasks));
    while open > 0 {
        let jobs = results.take(AT_ONCE)?;
        for job in &jobs {
            let number = job.check()?;
            let seen = usize::try_from(number).ok().and_then(|place| ended.get_mut(place));
            if seen.is_none_or(|seen| std::mem::replace(seen, true)) {
                return Err(format!("task {number} ended twice").into());
            }
            results.delete(job.id);
            open -= 1;
        }
        deadline.check()?;
    }
    let took = began.elapsed();
    put.join().map_err(|_| "the client of beanstalkd panicked")??;
    Ok(Run { took, latencies: Vec::new() })
}

fn put(addr: SocketAddr, tasks: u64) -> Result<(), Failure> {
    let mut connection = Connection::open(addr)?;
    connection.put_into(TASKS)?;
    let mut number = 0;
    while number < tasks || connection.unanswered > 0 {
        while number < tasks && connection.unanswered < UNANSWERED {
            connection.put(&[work::payload(number).as_bytes()]);
            number += 1;
        }
        // Half of them stay on their way while the next are made.
        let left = if number < tasks { UNANSWERED / 2 } else { 0 };
        connection.await_answers(left)?;
    }
    Ok(())
}

/// The next when the result of the last is here and all about it is told.
fn one_by_one(addr: SocketAddr, tasks: u64) -> Result<Run, Failure> {
    let deadline = Deadline::start();
    let mut puts = Connection::open(addr)?;
    puts.put_into(TASKS)?;
    let mut results = Connection::open(addr)?;
    results.watch(RESULTS)?;
    let mut latencies = Vec::new();
    let began = Instant::now();
    for number in 0..tasks {
        results.say("reserve\r\n");
        results.flush()?;
        let start = Instant::now();
        puts.put(&[work::payload(number).as_bytes()]);
        puts.flush()?;
        let job = results.reserved()?.ok_or("nothing was reserved")?;
        latencies.push(start.elapsed());
        if job.check()? != number {
            return Err("the result of another task came back".into());
        }
        results.delete(job.id);
        results.await_answers(0)?;
        puts.await_answers(0)?;
        deadline.check()?;
    }
    Ok(Run { took: began.elapsed(), latencies })
}

/// Works until the server ends.
fn serve(addr: SocketAddr, at_once: usize) -> Result<Infallible, Failure> {
    let mut connection = Connection::open(addr)?;
    connection.watch(TASKS)?;
    connection.put_into(RESULTS)?;
    loop {
        for job in connection.take(at_once)? {
            connection.put(&[&job.body, work::hash(&job.body).as_bytes()]);
            connection.delete(job.id);
        }
    }
}

struct Taken {
    id: u64,
    body: Vec<u8>,
}

impl Taken {
    /// The number of the task that this is the result of, which must be right.
    fn check(&self) -> Result<u64, Failure> {
        let (payload, result) = self.body.split_at_checked(SIZE).ok_or("a result is too short")?;
        let number = work::number(payload)?;
        work::check(number, result)?;
        Ok(number)
    }
}

struct Connection {
    stream: BufReader<TcpStream>,
    outgoing: Vec<u8>,
    /// Puts and deletes whose answers were not read.
    unanswered: usize,
    /// How many were taken the last time.
    taken: usize,
}

impl Connection {
    fn open(addr: SocketAddr) -> io::Result<Self> {
        let stream = BufReader::with_capacity(64 << 10, work::connect(addr)?);
        Ok(Self { stream, outgoing: Vec::new(), unanswered: 0, taken: 0 })
    }

    /// Takes jobs from this tube alone.
    fn watch(&mut self, tube: &str) -> Result<(), Failure> {
        self.say(&format!("watch {tube}\r\nignore default\r\n"));
        self.flush()?;
        self.expect("WATCHING 2")?;
        self.expect("WATCHING 1")
    }

    fn put_into(&mut self, tube: &str) -> Result<(), Failure> {
        self.say(&format!("use {tube}\r\n"));
        self.flush()?;
        self.expect(&format!("USING {tube}"))
    }

    fn put(&mut self, parts: &[&[u8]]) {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        self.say(&format!("put 0 0 600 {length}\r\n"));
        for part in parts {
            self.outgoing.extend_from_slice(part);
        }
        self.say("\r\n");
        self.unanswered += 1;
    }

    fn delete(&mut self, id: u64) {
        self.say(&format!("delete {id}\r\n"));
        self.unanswered += 1;
    }

    /// Jobs that wait, at most so many; waits for one if there is none.
    fn take(&mut self, at_once: usize) -> Result<Vec<Taken>, Failure> {
        loop {
            // Commands that find nothing cost as much as those that find something.
            let wanted = if at_once > 1 { at_once.min(self.taken * 2) } else { 0 };
            if wanted == 0 {
                self.say("reserve\r\n");
            }
            for _ in 0..wanted {
                self.say("reserve-with-timeout 0\r\n");
            }
            self.await_answers(0)?;
            let mut jobs = Vec::with_capacity(wanted.max(1));
            for _ in 0..wanted.max(1) {
                jobs.extend(self.reserved()?);
            }
            self.taken = jobs.len();
            if !jobs.is_empty() {
                return Ok(jobs);
            }
        }
    }

    /// Says this with the next flush.
    fn say(&mut self, words: &str) {
        self.outgoing.extend_from_slice(words.as_bytes());
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.get_mut().write_all(&self.outgoing)?;
        self.outgoing.clear();
        Ok(())
    }

    /// Says what is to be said, and reads the answers of puts and deletes until only
    /// so many are left.
    fn await_answers(&mut self, left: usize) -> Result<(), Failure> {
        self.flush()?;
        while self.unanswered > left {
            let line = self.line()?;
            if !line.starts_with("INSERTED ") && line != "DELETED" {
                return Err(unexpected(&line));
            }
            self.unanswered -= 1;
        }
        Ok(())
    }

    /// The answer of a reserve: a job, if there was one.
    fn reserved(&mut self) -> Result<Option<Taken>, Failure> {
        let line = self.line()?;
        if line == "TIMED_OUT" {
            return Ok(None);
        }
        let words: Vec<&str> = line.split(' ').collect();
        let ["RESERVED", id, length] = words[..] else { return Err(unexpected(&line)) };
        let mut body = vec![0; length.parse::<usize>()? + "\r\n".len()];
        self.stream.read_exact(&mut body)?;
        body.truncate(body.len() - "\r\n".len());
        Ok(Some(Taken { id: id.parse()?, body }))
    }

    fn expect(&mut self, answer: &str) -> Result<(), Failure> {
        let line = self.line()?;
        if line == answer { Ok(()) } else { Err(unexpected(&line)) }
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end().to_owned())
    }
}

fn unexpected(line: &str) -> Failure {
    format!("beanstalkd sent {line:?}").into()
}
