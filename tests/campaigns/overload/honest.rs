//! Honest work beside an overload: calls on connections that are open, one after the other,
//! each measured; and what the process under load uses of the machine.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use taskgrid::client::Client;
use taskgrid::rpc::{self, Network};
use taskgrid::shutdown::Shutdown;
use taskgrid::wire::v1::dispatcher_client::DispatcherClient;
use taskgrid::wire::v1::name_service_client::NameServiceClient;
use taskgrid::wire::v1::{self, LookupRequest};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::time::timeout;

use super::crowd::pace;
use crate::checker::count;
use crate::waits::within;
use crate::work::{self, Deed, Work};

/// Callers, each with connections of its own.
const CALLERS: usize = 4;
/// Between two calls of one caller.
const PACE: Duration = Duration::from_millis(5);
/// A call that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// Who is called.
#[derive(Debug, Clone, Copy)]
pub(super) enum Whom {
    /// A dispatcher, for tasks that are run.
    Dispatcher(SocketAddr),
    /// The same without idempotency keys, of which a dispatcher remembers each for ten
    /// minutes: calls that leave nothing behind.
    Unkeyed(SocketAddr),
    /// A nameservice, for who serves a type.
    Nameservice(SocketAddr),
    /// A monitor over HTTP, for whether it is alive.
    Monitor(SocketAddr),
}

/// Somebody who calls.
enum Caller {
    Tasks(Client),
    Unkeyed(DispatcherClient<rpc::Channel>),
    Names(NameServiceClient<rpc::Channel>),
    Http(SocketAddr, Option<TcpStream>),
}

/// Calls until it is dropped.
pub(super) struct Honest {
    runtime: Runtime,
    books: Arc<Books>,
    end: Shutdown,
    whom: Whom,
}

#[derive(Default)]
struct Books {
    took: Mutex<VecDeque<Duration>>,
    wrong: Mutex<Vec<String>>,
    rests: AtomicBool,
}

impl Honest {
    /// Connects, and begins.
    pub(super) fn start(whom: Whom) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime can be built");
        let (books, end) = (Arc::new(Books::default()), Shutdown::new());
        for _ in 0..CALLERS {
            let (books, end) = (Arc::clone(&books), end.clone());
            runtime.spawn(async move {
                tokio::select! { () = call_on(whom, &books) => {}, () = end.begun() => {} }
            });
        }
        Self { runtime, books, end, whom }
    }

    /// The 99th percentile of so many calls from now on, in microseconds; the median of
    /// several such windows.
    pub(super) fn p99(&self, windows: u64, calls: usize) -> Result<u64, String> {
        let mut all: Vec<u64> = Vec::new();
        for _ in 0..windows {
            lock(&self.books.took).clear();
            let enough = within(Duration::from_secs(60), || {
                let took = lock(&self.books.took);
                (took.len() >= calls).then(|| took.iter().copied().collect::<Vec<_>>())
            });
            all.push(percentile(enough.ok_or_else(|| self.wrong("honest work stood still"))?));
        }
        all.sort_unstable();
        all.get(all.len() / 2).copied().ok_or_else(|| "no window".to_owned())
    }

    /// That of the calls since they were counted anew.
    pub(super) fn p99_so_far(&self) -> u64 {
        percentile(lock(&self.books.took).iter().copied().collect())
    }

    /// Waits until so many more calls were answered.
    pub(super) fn goes_on(&self, calls: usize) -> Result<(), String> {
        self.p99(1, calls).map(|_| ())
    }

    /// Counts anew.
    pub(super) fn forget(&self) {
        lock(&self.books.took).clear();
    }

    /// Calls that were answered since then.
    pub(super) fn answered(&self) -> u64 {
        count(lock(&self.books.took).len())
    }

    /// No calls for now, or again.
    pub(super) fn rests(&self, rests: bool) {
        self.books.rests.store(rests, Ordering::Relaxed);
    }

    /// How long somebody new takes from the first packet to the first answer.
    pub(super) fn newcomer(&self) -> Result<Duration, String> {
        let (whom, began) = (self.whom, Instant::now());
        let calls = async { Caller::new(whom, PATIENCE)?.call().await };
        let called = self.runtime.block_on(async { timeout(PATIENCE, calls).await });
        called.map_err(|_| "somebody new got no answer at all".to_owned())??;
        Ok(began.elapsed())
    }

    /// Everything that went wrong.
    pub(super) fn complaints(&self) -> Vec<String> {
        lock(&self.books.wrong).clone()
    }

    fn wrong(&self, what: &str) -> String {
        format!("{what}: {:?}", lock(&self.books.wrong).first())
    }
}

impl Drop for Honest {
    fn drop(&mut self) {
        self.end.begin();
    }
}

/// The 99th, in microseconds; 0 of none.
fn percentile(mut took: Vec<Duration>) -> u64 {
    took.sort_unstable();
    let slowest = took.get((took.len() * 99).div_ceil(100).saturating_sub(1));
    slowest.map_or(0, |took| u64::try_from(took.as_micros()).unwrap_or(u64::MAX))
}

async fn call_on(whom: Whom, books: &Books) {
    let mut caller = match Caller::new(whom, Duration::ZERO) {
        Ok(caller) => caller,
        Err(wrong) => return lock(&books.wrong).push(wrong),
    };
    let mut calls = pace(PACE);
    loop {
        calls.tick().await;
        if books.rests.load(Ordering::Relaxed) {
            // Who does nothing may have to make room meanwhile.
            if let Caller::Http(_, stream) = &mut caller {
                *stream = None;
            }
        } else {
            let began = Instant::now();
            match timeout(PATIENCE, caller.call()).await {
                Ok(Ok(())) => lock(&books.took).push_back(began.elapsed()),
                Ok(Err(wrong)) => lock(&books.wrong).push(wrong),
                Err(_) => lock(&books.wrong).push("a call had no answer".to_owned()),
            }
        }
    }
}

impl Caller {
    /// One that comes by the port, as from another machine and as the crowd does.
    fn new(whom: Whom, patience: Duration) -> Result<Self, String> {
        let channel = |addr: SocketAddr| {
            Network::Tcp.channel(&addr.to_string()).map_err(|bad| bad.to_string())
        };
        Ok(match whom {
            Whom::Dispatcher(addr) => {
                let client = Client::connect_on(&Network::Tcp, &addr.to_string());
                Self::Tasks(client.map_err(|bad| bad.to_string())?.with_patience(patience))
            }
            Whom::Unkeyed(addr) => Self::Unkeyed(DispatcherClient::new(channel(addr)?)),
            Whom::Nameservice(addr) => Self::Names(NameServiceClient::new(channel(addr)?)),
            Whom::Monitor(addr) => Self::Http(addr, None),
        })
    }

    /// A call, and whether its answer is right.
    async fn call(&mut self) -> Result<(), String> {
        match self {
            Self::Tasks(client) => {
                let payload = payload();
                let result = client.run_task(work::TYPE, payload.clone()).await;
                is_right(&payload, &result.map_err(|error| error.to_string())?)
            }
            Self::Unkeyed(dispatcher) => {
                let payload = payload();
                let task = v1::NewTask {
                    r#type: work::TYPE.to_owned(),
                    payload: payload.clone().into(),
                    ..Default::default()
                };
                let wait_ms = PATIENCE.as_secs() * 1_000;
                let request =
                    v1::SubmitRequest { tasks: vec![task], wait_ms, ..Default::default() };
                let answer =
                    dispatcher.submit(request).await.map_err(|status| rpc::reason(&status))?;
                let found = answer.into_inner().found.pop().and_then(|found| found.answer);
                match found {
                    Some(v1::found::Answer::Task(task)) => {
                        is_right(&payload, &task.result.unwrap_or_default())
                    }
                    other => Err(format!("no task: {other:?}")),
                }
            }
            Self::Names(names) => {
                let request = LookupRequest { r#type: work::TYPE.to_owned() };
                let answer = names.lookup(request).await.map_err(|status| rpc::reason(&status))?;
                let is_right = !answer.into_inner().endpoints.is_empty();
                is_right.then_some(()).ok_or_else(|| "nobody serves the type".to_owned())
            }
            Self::Http(addr, stream) => {
                let stream = match stream {
                    Some(stream) => stream,
                    None => stream.insert(TcpStream::connect(*addr).await.map_err(told)?),
                };
                ask(stream).await.map_err(told)
            }
        }
    }
}

/// Of a task like no other.
fn payload() -> String {
    let name = format!("honest/{:016x}", rand::random::<u64>());
    Work { name, deed: Deed::Take(0), padding: 10 }.payload()
}

fn is_right(payload: &str, result: &[u8]) -> Result<(), String> {
    let result = String::from_utf8_lossy(result).into_owned();
    let hash = work::hash(payload.as_bytes());
    let is_right = work::parts(&result).is_some_and(|(told, _)| told == hash);
    is_right.then_some(()).ok_or_else(|| format!("a wrong result: {result}"))
}

/// Asks over HTTP whether it is alive, on a connection that stays open.
async fn ask(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"{\"alive\":true}\n") {
        if stream.read_buf(&mut answer).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

#[expect(clippy::needless_pass_by_value, reason = "it is given to what maps errors")]
fn told(error: std::io::Error) -> String {
    format!("the connection failed: {error}")
}

/// A failed call of one thread does not matter to the others.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
