//! Links to a worker that says what the test wants, over real gRPC. The loop behind
//! them is the real one.

use std::future::Future;
use std::pin::Pin;

use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Routes;
use tonic::{Request, Response};

use super::*;
use crate::clock::Clock;
use crate::core::directory::Endpoint;
use crate::core::registry::{Health, Registration};
use crate::core::retention::Policy;
use crate::core::task_type::PayloadKind;
use crate::dispatcher::recovery;
use crate::dispatcher::scheduler::{Rules, Scheduler};
use crate::rpc::{Listen, ServeLimits};
use crate::store::Memory;
use crate::wire::v1::worker_server::{Worker, WorkerServer};

const PATIENCE: Duration = Duration::from_secs(20);
const LEASE: Duration = Duration::from_millis(500);

#[tokio::test]
async fn a_registered_worker_is_dialled_and_joins_with_its_hello() {
    let mut grid = Grid::new();
    let mut session = grid.session().await;
    assert_eq!((session.hello.session, session.hello.lease_ms), (1, 500));
    assert_eq!(session.hello.max_result_bytes, 1_000);
    session.say_hello(hello()).await;
    grid.until("a worker", |stats| stats.workers.iter().any(|w| w.connected)).await;
    let stats = grid.stats().await;
    assert_eq!((stats.workers[0].slots, stats.workers[0].worker_id.as_str()), (3, "w"));
    assert_eq!(stats.workers[0].types, ["hash"]);
}

#[tokio::test]
async fn a_session_that_falls_silent_is_given_up_and_dialled_again() {
    let mut grid = Grid::new();
    let mut first = grid.session().await;
    first.say_hello(hello()).await;
    let second = grid.session().await;
    assert_eq!(second.hello.session, 2);
    assert!(!grid.stats().await.workers.iter().any(|worker| worker.connected));
}

#[tokio::test]
async fn reports_keep_a_session_alive() {
    let mut grid = Grid::new();
    let mut session = grid.session().await;
    session.say_hello(hello()).await;
    grid.until("a worker", |stats| stats.workers.iter().any(|w| w.connected)).await;
    let begun = tokio::time::Instant::now();
    while begun.elapsed() < 2 * LEASE {
        session.report(v1::Report::default()).await;
        assert!(grid.sessions.try_recv().is_err(), "it is not dialled again");
        grid.stats().await;
    }
    assert!(grid.stats().await.workers[0].connected);
}

#[tokio::test]
async fn what_is_no_well_formed_hello_joins_nothing() {
    type Spoil = fn(&mut v1::WorkerHello);
    let spoils: [Spoil; 7] = [
        |hello| hello.slots = 0,
        |hello| hello.slots = limits::SLOTS + 1,
        |hello| hello.types.clear(),
        |hello| hello.types = vec![hello.types[0].clone(); limits::WORKER_TYPES + 1],
        |hello| hello.types[0].name = "No Name".to_owned(),
        |hello| hello.worker_id = "another".to_owned(),
        |hello| hello.held = vec![v1::HeldLease { task_id: 1, ..v1::HeldLease::default() }],
    ];
    let mut grid = Grid::new();
    for (tried, spoil) in spoils.into_iter().enumerate() {
        let mut session = grid.session().await;
        assert_eq!(session.hello.session, u64::try_from(tried).unwrap() + 1);
        let mut bad = hello();
        spoil(&mut bad);
        session.say_hello(bad).await;
    }
    let mut session = grid.session().await;
    let worker = grid.stats().await.workers.remove(0);
    assert!(!worker.connected);
    assert_eq!(worker.link(), v1::LinkState::HalfOpen);
    assert_eq!(worker.link_error, "the worker said something malformed: held.token: missing");
    session.say_hello(hello()).await;
    grid.until("a worker", |stats| stats.workers.iter().any(|w| w.connected)).await;
    let worker = grid.stats().await.workers.remove(0);
    assert_eq!((worker.link(), worker.link_error.as_str()), (v1::LinkState::Closed, ""));
}

#[tokio::test]
async fn the_link_to_a_worker_that_cannot_be_reached_opens_and_says_why() {
    let mut grid = Grid::new();
    grid.address = "127.0.0.1:1".into();
    grid.register();
    // The one it has reached meanwhile is lost, and the new address refuses.
    while let Ok(session) = grid.sessions.try_recv() {
        drop(session);
    }
    grid.until("an open link", |stats| {
        stats.workers.iter().any(|worker| {
            worker.link() == v1::LinkState::Open && worker.link_error.contains("refused")
        })
    })
    .await;
}

#[tokio::test]
async fn a_worker_that_was_away_for_long_is_still_dialled_twice_a_lease() {
    const DIALS: usize = 12;
    let mut grid = Grid::new();
    let session = grid.session().await;
    let door = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    grid.address = door.local_addr().unwrap().to_string().into();
    grid.register();
    drop(session);
    // With pauses that double up to half a minute so many take longer than a test waits.
    soon("so many dials", async {
        for _ in 0..DIALS {
            drop(door.accept().await.unwrap());
        }
    })
    .await;
}

#[tokio::test]
async fn a_malformed_report_ends_the_session() {
    let mut grid = Grid::new();
    let mut session = grid.session().await;
    session.say_hello(hello()).await;
    let outcomes = vec![v1::Outcome::default()];
    session.report(v1::Report { outcomes, ..v1::Report::default() }).await;
    assert_eq!(grid.session().await.hello.session, 2);
}

#[tokio::test]
async fn a_live_session_outranks_the_registry_and_a_lost_one_does_not() {
    let mut grid = Grid::new();
    let mut session = grid.session().await;
    session.say_hello(hello()).await;
    grid.until("a worker", |stats| stats.workers.iter().any(|w| w.connected)).await;
    grid.view.send_replace(Arc::new(View { complete: true, ..View::default() }));
    grid.until("a whole view", |stats| stats.directory_complete).await;
    session.report(v1::Report::default()).await;
    assert!(grid.stats().await.workers[0].connected);
    drop(session);
    grid.until("no worker", |stats| stats.workers.is_empty()).await;
    assert!(grid.sessions.try_recv().is_err());
    // Registered again, it is dialled again.
    grid.register();
    assert_eq!(grid.session().await.hello.session, 2);
}

#[tokio::test]
async fn a_worker_that_the_log_alone_names_is_dialled_again_and_again() {
    let mut grid = Grid::remembering();
    for number in 1..4 {
        let mut session = grid.session().await;
        assert_eq!(session.hello.session, number);
        session.say_hello(v1::WorkerHello { incarnation: number, ..hello() }).await;
        grid.until("a worker", |stats| stats.workers.iter().any(|w| w.connected)).await;
        let stats = grid.stats().await;
        assert_eq!((stats.workers[0].slots, stats.workers[0].worker_id.as_str()), (3, "w"));
        assert_eq!(stats.workers[0].types, ["hash"]);
        drop(session);
        grid.until("no worker", |stats| stats.workers.is_empty()).await;
    }
}

#[tokio::test]
async fn a_worker_of_the_log_that_a_whole_view_leaves_out_keeps_its_session_and_gets_no_other() {
    let mut grid = Grid::remembering();
    let mut session = grid.session().await;
    session.say_hello(hello()).await;
    grid.until("a worker", |stats| stats.workers.iter().any(|w| w.connected)).await;
    grid.view.send_replace(Arc::new(View { complete: true, ..View::default() }));
    grid.until("a whole view", |stats| stats.directory_complete).await;
    session.report(v1::Report::default()).await;
    assert!(grid.stats().await.workers[0].connected);
    drop(session);
    grid.until("no worker", |stats| stats.workers.is_empty()).await;
    assert!(grid.sessions.try_recv().is_err());
    grid.register();
    assert_eq!(grid.session().await.hello.session, 2, "it is dialled once it is registered");
}

#[tokio::test]
async fn another_worker_where_the_log_has_one_joins_nothing_and_is_left_alone() {
    let mut grid = Grid::remembering();
    let mut session = grid.session().await;
    let another = || v1::WorkerHello { worker_id: "another".to_owned(), ..hello() };
    session.say_hello(another()).await;
    assert!(!matches!(soon("end", session.requests.message()).await, Ok(Some(_))));
    assert_eq!(grid.stats().await.workers, []);
    let mut view = View::clone(&grid.view.borrow());
    view.endpoints.insert("another".into(), endpoint("another", &grid.address));
    grid.view.send_replace(Arc::new(view));
    let mut session = grid.session().await;
    session.say_hello(another()).await;
    grid.until("a worker", |stats| stats.workers.iter().any(|w| w.connected)).await;
    let begun = tokio::time::Instant::now();
    while begun.elapsed() < 2 * LEASE {
        session.report(v1::Report::default()).await;
        assert!(grid.sessions.try_recv().is_err(), "its session is left in peace");
        grid.stats().await;
    }
}

#[tokio::test]
async fn a_registered_address_is_dialled_at_once_although_that_of_the_log_hangs() {
    let mut grid = Grid::unregistered();
    let door = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    grid.remember(&door.local_addr().unwrap().to_string());
    let _hangs = soon("a dial", door.accept()).await.unwrap();
    grid.register();
    let dialled = timeout(rpc::CONNECT_TIMEOUT, grid.session()).await;
    assert_eq!(dialled.expect("before the first dial is over").hello.session, 2);
}

#[tokio::test]
async fn a_registration_at_the_address_of_the_log_disturbs_no_dial() {
    let mut grid = Grid::remembering();
    let mut session = grid.session().await;
    grid.register();
    session.say_hello(hello()).await;
    grid.until("a worker", |stats| stats.workers.iter().any(|w| w.connected)).await;
    assert_eq!(session.hello.session, 1);
    assert!(grid.sessions.try_recv().is_err());
}

#[tokio::test]
async fn a_worker_of_the_log_without_sessions_waits_for_its_registration() {
    let mut grid = Grid::unregistered();
    grid.sessions.close();
    let address = grid.address.to_string();
    grid.remember(&address);
    soon("a dial", grid.refused.recv()).await.unwrap();
    assert_eq!(grid.stats().await.workers, []);
    grid.register();
    grid.until("a worker", |stats| stats.workers.iter().any(|w| w.connected)).await;
    soon("a dial", grid.refused.recv()).await.unwrap();
    assert!(grid.refused.try_recv().is_err(), "one for each word");
}

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("no {what} in time"))
}

/// Links, the loop behind them, and a worker before them.
struct Grid {
    handle: Handle,
    view: watch::Sender<Arc<View>>,
    sessions: mpsc::Receiver<Session>,
    /// A word for each session that was refused, because the test takes none.
    refused: mpsc::UnboundedReceiver<()>,
    address: Arc<str>,
    shutdown: Shutdown,
    _running: [JoinHandle<()>; 3],
}

impl Grid {
    fn new() -> Self {
        let grid = Self::unregistered();
        grid.register();
        grid
    }

    /// No nameservice names the worker, but the log does.
    fn remembering() -> Self {
        let grid = Self::unregistered();
        grid.remember(&grid.address);
        grid
    }

    fn unregistered() -> Self {
        let store: Arc<dyn Store> = Arc::new(Memory::new());
        let clock = Clock::start();
        let now = clock.now();
        let policy = Policy { age: PATIENCE, tasks: 9, failed: 9, bytes: 9 };
        let restored = recovery::restore(store.as_ref(), policy, now, 7).unwrap();
        let epoch = restored.epoch;
        let rules = Rules { lease: LEASE, max_queued: 9, max_queued_bytes: 999 };
        let (scheduler, handle) = Scheduler::new(rules, clock, store.clone(), restored).unwrap();
        let listener = rpc::bind(&Listen::default()).unwrap();
        let address: Arc<str> = listener.addr().to_string().into();
        let (opened, sessions) = mpsc::channel(8);
        let (refusing, refused) = mpsc::unbounded_channel();
        let view = watch::Sender::<Arc<View>>::default();
        let links = Links {
            handle: handle.clone(),
            view: view.subscribe(),
            store,
            dispatcher_id: "d".to_owned(),
            epoch,
            lease: LEASE,
            max_payload: 1_000,
            network: rpc::Network::System,
            clock,
            sessions: AtomicU64::new(0),
        };
        let shutdown = Shutdown::new();
        let server = Routes::new(WorkerServer::new(Scripted { opened, refusing }));
        let serving = rpc::serve(
            listener,
            server,
            ServeLimits::default(),
            shutdown.clone(),
            Duration::from_millis(100),
        );
        let looping = scheduler.run(shutdown.clone());
        let running = [
            tokio::spawn(async move { serving.await.unwrap() }),
            tokio::spawn(async move { looping.await.unwrap() }),
            tokio::spawn(links.run(shutdown.clone())),
        ];
        Self { handle, view, sessions, refused, address, shutdown, _running: running }
    }

    fn remember(&self, address: &str) {
        let remembered = BTreeMap::from([("w".into(), address.into())]);
        self.view.send_replace(Arc::new(View { remembered, ..View::default() }));
    }

    fn register(&self) {
        let endpoints = BTreeMap::from([("w".into(), endpoint("w", &self.address))]);
        self.view.send_replace(Arc::new(View { endpoints, ..View::default() }));
    }

    /// The next session that the dispatcher opens.
    async fn session(&mut self) -> Session {
        soon("session", self.sessions.recv()).await.unwrap()
    }

    async fn stats(&self) -> v1::StatsResponse {
        soon("numbers", self.handle.ask(|reply| Message::Stats { reply })).await.unwrap().stats
    }

    async fn until(&self, what: &str, is_so: impl Fn(&v1::StatsResponse) -> bool) {
        soon(what, async {
            while !is_so(&self.stats().await) {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}

impl Drop for Grid {
    fn drop(&mut self) {
        self.shutdown.begin();
    }
}

/// A worker that hands its sessions to the test, or has none if that takes none.
struct Scripted {
    opened: mpsc::Sender<Session>,
    refusing: mpsc::UnboundedSender<()>,
}

/// The worker's end of a session; dropped, it ends.
struct Session {
    hello: v1::DispatcherHello,
    responses: mpsc::Sender<Result<v1::SessionResponse, Status>>,
    requests: Streaming<v1::SessionRequest>,
}

impl Session {
    async fn say_hello(&mut self, hello: v1::WorkerHello) {
        self.say(session_response::Frame::Hello(hello)).await;
    }

    async fn report(&mut self, report: v1::Report) {
        self.say(session_response::Frame::Report(report)).await;
    }

    async fn say(&mut self, frame: session_response::Frame) {
        let message = v1::SessionResponse { frame: Some(frame) };
        soon("room", self.responses.send(Ok(message))).await.unwrap();
    }
}

#[tonic::async_trait]
impl Worker for Scripted {
    type SessionStream =
        Pin<Box<dyn tokio_stream::Stream<Item = Result<v1::SessionResponse, Status>> + Send>>;

    async fn session(
        &self,
        request: Request<Streaming<v1::SessionRequest>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        if self.opened.is_closed() {
            self.refusing.send(()).map_err(|_| Status::unavailable("the test is over"))?;
            return Err(Status::new(Code::Unimplemented, "no sessions here"));
        }
        let mut requests = request.into_inner();
        let first = requests.message().await?.and_then(|message| message.frame);
        let Some(session_request::Frame::Hello(hello)) = first else {
            return Err(Status::invalid_argument("no hello"));
        };
        let (responses, stream) = mpsc::channel(64);
        let session = Session { hello, responses, requests };
        self.opened.send(session).await.map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn execute(
        &self,
        _request: Request<v1::ExecuteRequest>,
    ) -> Result<Response<v1::ExecuteResponse>, Status> {
        Err(Status::unavailable("the dispatcher opens sessions only"))
    }
}

fn endpoint(worker: &str, address: &Arc<str>) -> Endpoint {
    let registration = Registration {
        worker: worker.into(),
        incarnation: 1,
        address: address.clone(),
        types: vec![hash()],
        slots: 3,
        version: String::new(),
    };
    Endpoint { registration: Arc::new(registration), health: Health::Healthy }
}

fn hash() -> TaskType {
    TaskType { name: "hash".parse().unwrap(), payload: PayloadKind::Bytes }
}

fn hello() -> v1::WorkerHello {
    v1::WorkerHello {
        worker_id: "w".to_owned(),
        incarnation: 1,
        types: vec![(&hash()).into()],
        slots: 3,
        ..v1::WorkerHello::default()
    }
}
