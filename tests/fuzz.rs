//! Anything at all, sent to whatever takes bytes from outside: every RPC of every role,
//! every route, and every variable of the environment. Each is answered, nothing panics, and
//! the grid works as before.
//!
//! `TASKGRID_FUZZ_CASES` says how many of each (300), `TASKGRID_FUZZ_SEED` which; both are
//! told by a test that fails.

#![expect(clippy::unwrap_used, reason = "what goes wrong in a test shall end it")]
#![expect(clippy::print_stderr, reason = "a test tells how to see it again")]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use taskgrid::client::Client;
use taskgrid::dispatcher::Storage;
use taskgrid::grid::{self, Addresses, Grid};
use taskgrid::rpc::Network;
use taskgrid::shutdown::Shutdown;

#[path = "fuzz/calls.rs"]
mod calls;
#[path = "simulation/dice.rs"]
mod dice;
#[path = "fuzz/messages.rs"]
mod messages;
#[path = "fuzz/variables.rs"]
mod variables;
#[path = "fuzz/vitals.rs"]
mod vitals;

use calls::{Caller, Met};
use dice::Dice;
use messages::{Contract, Method};

/// Cases of each kind, unless the environment says otherwise.
const CASES: u64 = 300;
/// The longest to wait for one answer. Some calls wait for tasks that never end.
const PATIENCE: Duration = Duration::from_millis(300);
/// The longest to wait for an answer that must come, on a machine that is busy.
const HONEST_PATIENCE: Duration = Duration::from_secs(10);

/// Panics of this process.
static PANICS: AtomicU64 = AtomicU64::new(0);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_rpc_answers_whatever_it_is_sent_and_nothing_panics() {
    let (cases, mut dice) = chance();
    let running = Running::start().await;
    let contract = Contract::read();
    let methods = contract.methods();
    assert!(methods.len() >= 16, "{} methods", methods.len());
    let (mut answered, mut taken) = (0, 0);
    for case in 0..cases * 10 {
        let method = &methods[dice.place(methods.len())];
        let Some(address) = running.of(method) else { continue };
        let messages = (0..if method.client_streams { dice.between(0, 4) } else { 1 })
            .map(|_| contract.any_message(&method.input, &mut dice).into());
        let messages: Vec<Bytes> = messages.collect();
        let met = Caller::to(address).call(&method.path, messages, PATIENCE).await;
        assert_eq!(PANICS.load(Ordering::SeqCst), 0, "case {case}: {}", method.path);
        match met {
            Met::Answer => (answered, taken) = (answered + 1, taken + 1),
            Met::Refusal => answered += 1,
            Met::Silence => {}
        }
    }
    assert!(answered >= cases * 8, "only {answered} of {} were answered", cases * 10);
    assert!(taken >= cases, "only {taken} were more than refused");
    running.works_as_before().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_route_answers_whatever_it_is_asked_and_nothing_panics() {
    let (cases, mut dice) = chance();
    let running = Running::start().await;
    let http = running.addresses.http;
    let asked = tokio::task::spawn_blocking(move || ask_anything(http, cases, &mut dice));
    let found = asked.await.unwrap();
    assert!(found >= cases / 10, "only {found} of {cases} were more than refused");
    running.works_as_before().await;
}

/// Asks so many times; how often there was what it asked for.
fn ask_anything(address: SocketAddr, cases: u64, dice: &mut Dice) -> u64 {
    let mut found = 0;
    for case in 0..cases {
        let request = any_request(dice);
        let status = ask(address, &request);
        let shown = String::from_utf8_lossy(&request).into_owned();
        assert_eq!(PANICS.load(Ordering::SeqCst), 0, "case {case}: {shown}");
        // What is no HTTP may be hung up on.
        assert!(status != Some(500), "case {case}: {shown}");
        found += u64::from(status.is_some_and(|status| status < 300));
    }
    found
}

/// A grid in this process.
struct Running {
    addresses: Addresses,
    client: Client,
    shutdown: Shutdown,
    grid: tokio::task::JoinHandle<Result<(), grid::Error>>,
}

impl Running {
    async fn start() -> Self {
        count_panics();
        let drain_timeout = Duration::from_secs(5);
        let (storage, network) = (Storage::Memory, Network::System);
        let config = grid::Config { storage, usual_ports: false, drain_timeout, network };
        let grid = Grid::bind(config).await.unwrap();
        let addresses = grid.addr();
        let shutdown = Shutdown::new();
        let client = Client::connect(&addresses.dispatcher.to_string()).unwrap();
        let running = tokio::spawn(grid.run(shutdown.clone()));
        grid::ready(&client).await.unwrap();
        Self { addresses, client, shutdown, grid: running }
    }

    /// Who serves a method.
    fn of(&self, method: &Method) -> Option<SocketAddr> {
        let addresses = &self.addresses;
        match method.service.as_str() {
            "Dispatcher" => Some(addresses.dispatcher),
            "NameService" => Some(addresses.nameservice),
            "Monitor" => Some(addresses.monitor),
            "Worker" => addresses.workers.first().map(|(_, address)| *address),
            _ => None,
        }
    }

    async fn works_as_before(self) {
        for _ in 0..10 {
            let id = self.client.send_task("sum", "[1,2,3]").await.unwrap();
            assert_eq!(self.client.request_result(id).await.unwrap(), "6");
        }
        self.shutdown.begin();
        self.grid.await.unwrap().unwrap();
        assert_eq!(PANICS.load(Ordering::SeqCst), 0);
    }
}

/// Counts them besides telling of them.
fn count_panics() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let tells = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            PANICS.fetch_add(1, Ordering::SeqCst);
            tells(panic);
        }));
    });
}

/// How many cases, and the dice that make them.
#[expect(clippy::disallowed_methods, reason = "the environment is how a test is told")]
fn chance() -> (u64, Dice) {
    let number = |name| std::env::var(name).ok().map(|text| text.parse().unwrap());
    let cases = number("TASKGRID_FUZZ_CASES").unwrap_or(CASES);
    let seed = number("TASKGRID_FUZZ_SEED").unwrap_or_else(|| u64::from(rand::random::<u32>()));
    eprintln!(
        "again: TASKGRID_FUZZ_CASES={cases} TASKGRID_FUZZ_SEED={seed} cargo test --test fuzz"
    );
    (cases, Dice::new(seed))
}

/// A request, mostly for something that is there.
fn any_request(dice: &mut Dice) -> Vec<u8> {
    // What is refused at the door meets nothing behind it, so most is honest.
    const METHODS: [&str; 6] = ["GET", "GET", "GET", "HEAD", "POST", "\u{1}"];
    const PATHS: [&str; 12] = [
        "/",
        "/stats",
        "/workers",
        "/tasks/1",
        "/tasks/",
        "/events",
        "/assets/page.css",
        "/metrics",
        "/readyz",
        "/healthz",
        "//",
        "/../etc/passwd",
    ];
    const ENDS: [&str; 9] = ["", "", "", "?", "?a=b&a", "?limit=-1", "/%00", "%zz", "?%F0%9F"];
    const HOSTS: [&str; 6] = ["localhost", "127.0.0.1:80", "evil.example", "", "[::", "a b"];
    const HEADERS: [&str; 7] = [
        "",
        "accept: */*;q=9e9\r\n",
        "last-event-id: -1\r\n",
        "if-none-match: \"\r\n",
        "content-length: 99999999999999999999\r\n",
        "transfer-encoding: chunked\r\n",
        ": :\r\n",
    ];
    /// The first, which is honest, twice out of three times.
    fn mostly<'a>(dice: &mut Dice, all: &[&'a str]) -> &'a str {
        if dice.chance(667) { all[0] } else { all[dice.place(all.len())] }
    }
    let mut path = PATHS[dice.place(PATHS.len())].to_owned();
    if dice.chance(100) {
        path = format!("/tasks/{}", dice.roll());
    }
    let (method, end, host) = (mostly(dice, &METHODS), mostly(dice, &ENDS), mostly(dice, &HOSTS));
    let header = mostly(dice, &HEADERS);
    let text = format!("{method} {path}{end} HTTP/1.1\r\nhost: {host}\r\n{header}\r\n{{\"a\":");
    let mut request = text.into_bytes();
    if dice.chance(200) {
        messages::spoil(&mut request, dice);
    }
    request
}

/// The status of the answer to anything at all, if there is one.
fn ask(address: SocketAddr, request: &[u8]) -> Option<u16> {
    let mut peer = TcpStream::connect(address).unwrap();
    peer.set_read_timeout(Some(PATIENCE)).unwrap();
    // It may have hung up before all of it was written.
    peer.write_all(request).ok();
    // What is not whole shall not be waited for. A server may take it for the peer's end,
    // and not answer what was whole.
    peer.shutdown(std::net::Shutdown::Write).ok();
    status(&mut peer)
}

/// The status of the answer to a peer that waits for it as it should.
fn ask_honestly(address: SocketAddr, path: &str) -> Option<u16> {
    let mut peer = TcpStream::connect(address).unwrap();
    peer.set_read_timeout(Some(HONEST_PATIENCE)).unwrap();
    write!(peer, "GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    status(&mut peer)
}

fn status(peer: &mut TcpStream) -> Option<u16> {
    let mut head = [0; 12];
    peer.read_exact(&mut head).ok()?;
    assert!(head.starts_with(b"HTTP/1."), "{head:?}");
    std::str::from_utf8(&head[9..]).ok()?.parse().ok()
}
