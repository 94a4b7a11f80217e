use std::time::Instant;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tonic::{Code, Status, Streaming};

use super::*;
use crate::core::registry::Registration;
use crate::core::task_type::{PayloadKind, TaskType};
use crate::discovery::{Announcer, Directory, View};
use crate::wire::v1;
use crate::wire::v1::name_service_client::NameServiceClient;
use crate::wire::v1::watch_workers_response::Change;

/// Far beyond what anything here takes, also on a slow machine.
const LONG: Duration = Duration::from_secs(30);
/// A TTL that does not end during a test.
const NEVER: Duration = Duration::from_secs(3600);

#[test]
fn a_ttl_out_of_bounds_is_refused() {
    let refused = Nameservice::bind(Config { ttl: Duration::from_millis(1), ..config(NEVER) });
    assert_eq!(refused.unwrap_err().to_string(), "a TTL of 1ms is not within 500ms to 3600s");
}

#[tokio::test]
async fn a_worker_registers_is_found_and_leaves() {
    let role = Role::start(config(NEVER));
    let mut client = role.client();
    let ttl = register(&mut client, registration("w1", "localhost:1")).await.unwrap();
    assert_eq!(ttl, 3_600_000);
    assert_eq!(lookup(&mut client, "hash").await, ["w1"]);
    assert_eq!(lookup(&mut client, "sum").await, [""; 0]);
    let beat = v1::HeartbeatRequest { worker_id: "w1".into(), incarnation: 1 };
    assert_eq!(client.heartbeat(beat).await.unwrap().into_inner().ttl_ms, 3_600_000);
    deregister(&mut client, "w1").await;
    assert_eq!(lookup(&mut client, "hash").await, [""; 0]);
    role.end().await;
}

#[tokio::test]
async fn a_watch_is_a_snapshot_and_then_every_change_until_shutdown() {
    let role = Role::start(config(NEVER));
    let mut client = role.client();
    register(&mut client, registration("w1", "localhost:1")).await.unwrap();
    let mut watch = client.watch(v1::WatchWorkersRequest {}).await.unwrap().into_inner();
    let Some(Change::Snapshot(whole)) = next(&mut watch).await else { panic!("no snapshot") };
    assert_eq!((ids(&whole.endpoints), whole.ttl_ms), (vec!["w1".to_owned()], 3_600_000));

    register(&mut client, registration("w2", "localhost:2")).await.unwrap();
    assert_eq!(next(&mut watch).await.map(told), Some("put w2".into()));
    register(&mut client, registration("w3", "localhost:2")).await.unwrap();
    assert_eq!(next(&mut watch).await.map(told), Some("removed w2".into()));
    assert_eq!(next(&mut watch).await.map(told), Some("put w3".into()));
    deregister(&mut client, "w1").await;
    assert_eq!(next(&mut watch).await.map(told), Some("removed w1".into()));

    role.shutdown.begin();
    assert_eq!(next(&mut watch).await, None);
    role.end().await;
}

#[tokio::test]
async fn a_registration_without_heartbeats_ends_after_its_ttl() {
    let ttl = Duration::from_millis(500);
    let role = Role::start(config(ttl));
    let mut client = role.client();
    let mut watch = client.watch(v1::WatchWorkersRequest {}).await.unwrap().into_inner();
    assert_eq!(next(&mut watch).await.map(told), Some("snapshot".into()));
    let began = Instant::now();
    register(&mut client, registration("w1", "localhost:1")).await.unwrap();
    let gone = loop {
        let change = next(&mut watch).await.map(told).unwrap();
        if change != "put w1" {
            break change;
        }
    };
    assert_eq!(gone, "removed w1");
    assert!(began.elapsed() >= ttl, "{:?}", began.elapsed());
    let beat = v1::HeartbeatRequest { worker_id: "w1".into(), incarnation: 1 };
    assert_eq!(client.heartbeat(beat).await.unwrap_err().code(), Code::NotFound);
    role.end().await;
}

#[tokio::test]
async fn what_is_wrong_is_refused_with_its_code() {
    let role = Role::start(config(NEVER));
    let mut client = role.client();
    let nobody = client.register(v1::RegisterRequest { registration: None }).await.unwrap_err();
    assert_eq!((nobody.code(), nobody.message()), (Code::InvalidArgument, "registration: missing"));

    let mut spaced = registration("w1", "localhost:1");
    spaced.worker_id = "w 1".into();
    let refused = register(&mut client, spaced).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().starts_with("worker_id: "), "{}", refused.message());

    let unnamed = v1::LookupRequest { r#type: "Not A Type".into() };
    assert_eq!(client.lookup(unnamed).await.unwrap_err().code(), Code::InvalidArgument);
    let beat = v1::HeartbeatRequest { worker_id: String::new(), incarnation: 1 };
    assert_eq!(client.heartbeat(beat).await.unwrap_err().code(), Code::InvalidArgument);

    let second = v1::Registration { incarnation: 2, ..registration("w1", "localhost:1") };
    register(&mut client, second).await.unwrap();
    let older = register(&mut client, registration("w1", "localhost:1")).await.unwrap_err();
    assert_eq!(older.code(), Code::FailedPrecondition);
    role.end().await;
}

#[tokio::test]
async fn a_worker_that_does_not_answer_probes_is_listed_but_not_offered() {
    // Probes come a third of a TTL apart; both workers are kept alive by hand.
    let role = Role::start(config(Duration::from_millis(1_500)));
    let answering = rpc::bind(&Listen::default()).unwrap();
    let silent = rpc::bind(&Listen::default()).unwrap();
    let (good, bad) = (answering.addr().to_string(), silent.addr().to_string());
    let drain = Duration::from_secs(10);
    let serving = tokio::spawn(rpc::serve(
        answering,
        Routes::default(),
        ServeLimits::default(),
        role.shutdown.clone(),
        drain,
    ));
    let good = announce(&role.url(), "good", &good, &role.shutdown);
    let bad = announce(&role.url(), "bad", &bad, &role.shutdown);

    let mut client = role.client();
    let mut watch = client.watch(v1::WatchWorkersRequest {}).await.unwrap().into_inner();
    let mut health = std::collections::BTreeMap::new();
    let wanted = [("bad", v1::Health::Unhealthy), ("good", v1::Health::Healthy)];
    while health != wanted.map(|(id, health)| (id.to_owned(), health)).into() {
        let known = match next(&mut watch).await.expect("the watch ended") {
            Change::Snapshot(whole) => whole.endpoints,
            Change::Put(endpoint) => vec![endpoint],
            Change::Removed(worker) => panic!("{worker} was removed"),
        };
        for endpoint in known {
            health.insert(id(&endpoint), endpoint.health());
        }
    }
    assert_eq!(lookup(&mut client, "hash").await, ["good"]);
    let listed = client.list(v1::ListWorkersRequest {}).await.unwrap().into_inner();
    assert_eq!(ids(&listed.endpoints), ["bad", "good"]);
    drop(silent);
    role.end().await;
    serving.await.unwrap().unwrap();
    good.task.await.unwrap();
    bad.task.await.unwrap();
}

#[tokio::test]
async fn an_announcer_deregisters_when_its_shutdown_begins() {
    let role = Role::start(config(NEVER));
    let leaving = Shutdown::new();
    let mut announced = announce(&role.url(), "w1", "localhost:1", &leaving);
    announced.wait(1).await;
    assert_eq!(lookup(&mut role.client(), "hash").await, ["w1"]);
    leaving.begin();
    timeout(LONG, announced.task).await.unwrap().unwrap();
    assert_eq!(*announced.registered.borrow(), 0);
    assert_eq!(lookup(&mut role.client(), "hash").await, [""; 0]);
    role.end().await;
}

#[tokio::test]
async fn an_announcer_keeps_to_each_nameservice_by_itself() {
    let role = Role::start(config(NEVER));
    let absent = rpc::bind(&Listen::default()).unwrap().addr();
    let urls = [format!("http://{absent}"), role.url()];
    let mut announced = announce_to(&urls, "w1", "localhost:1", &role.shutdown);
    announced.wait(1).await;
    assert_eq!(lookup(&mut role.client(), "hash").await, ["w1"]);
    role.end().await;
    timeout(LONG, announced.task).await.unwrap().unwrap();
}

#[tokio::test]
async fn after_a_restart_workers_return_and_the_fresh_view_takes_nobody_away_for_a_ttl() {
    let ttl = Duration::from_secs(3);
    let first = Role::start(config(ttl));
    let (url, port) = (first.url(), first.addr.port());
    let leaving = Shutdown::new();
    let mut announced = announce(&url, "returns", "localhost:1", &leaving);
    announced.wait(1).await;
    register(&mut first.client(), registration("stays-away", "localhost:2")).await.unwrap();
    let (mut view, directory) = watch_directory(&url, &leaving);
    let both = ["returns", "stays-away"];
    view.wait_for(|view| names(view) == both).await.unwrap();
    assert!(!view.borrow().complete, "the nameservice has not been up for a TTL");
    first.end().await;
    announced.wait(0).await;

    let restarted = Instant::now();
    let listen = Listen { port, ..Listen::default() };
    let second = Role::start(Config { listen, ..config(ttl) });
    announced.wait(1).await;
    let later = async {
        loop {
            let seen = names(&view.borrow_and_update());
            assert!(seen.contains(&"returns".to_owned()), "{seen:?}");
            if seen != both {
                return;
            }
            view.changed().await.unwrap();
        }
    };
    timeout(LONG, later).await.unwrap();
    assert!(restarted.elapsed() >= ttl, "stays-away was forgotten early");
    assert!(view.borrow().complete);

    leaving.begin();
    second.end().await;
    timeout(LONG, announced.task).await.unwrap().unwrap();
    timeout(LONG, directory).await.unwrap().unwrap();
    assert_eq!(names(&view.borrow()), ["returns"], "kept while the nameservice is away");
}

/// A running nameservice.
struct Role {
    addr: SocketAddr,
    shutdown: Shutdown,
    task: JoinHandle<Result<(), Error>>,
}

impl Role {
    fn start(config: Config) -> Self {
        let role = Nameservice::bind(config).unwrap();
        let (addr, shutdown) = (role.addr(), Shutdown::new());
        Self { addr, task: tokio::spawn(role.run(shutdown.clone())), shutdown }
    }

    fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    fn client(&self) -> NameServiceClient<rpc::Channel> {
        NameServiceClient::new(rpc::channel(&self.url()).unwrap())
    }

    async fn end(self) {
        self.shutdown.begin();
        timeout(LONG, self.task).await.unwrap().unwrap().unwrap();
    }
}

/// A worker that announces itself.
struct Announced {
    registered: watch::Receiver<usize>,
    task: JoinHandle<()>,
}

fn announce(url: &str, worker: &str, address: &str, shutdown: &Shutdown) -> Announced {
    announce_to(&[url.to_owned()], worker, address, shutdown)
}

fn announce_to(urls: &[String], worker: &str, address: &str, shutdown: &Shutdown) -> Announced {
    let announcer = Announcer::new(&rpc::Network::System, urls, &parsed(worker, address)).unwrap();
    let registered = announcer.registered();
    Announced { registered, task: tokio::spawn(announcer.run(shutdown.clone())) }
}

impl Announced {
    /// Waits until it is registered with so many.
    async fn wait(&mut self, count: usize) {
        timeout(LONG, self.registered.wait_for(|known| *known == count)).await.unwrap().unwrap();
    }
}

fn watch_directory(
    url: &str,
    shutdown: &Shutdown,
) -> (watch::Receiver<std::sync::Arc<View>>, JoinHandle<()>) {
    let directory =
        Directory::new(&rpc::Network::System, &[url.to_owned()], Clock::start()).unwrap();
    (directory.view(), tokio::spawn(directory.run(shutdown.clone())))
}

fn config(ttl: Duration) -> Config {
    Config { listen: Listen::default(), ttl, ..Config::default() }
}

fn parsed(worker: &str, address: &str) -> Registration {
    Registration {
        worker: worker.into(),
        incarnation: 1,
        address: address.into(),
        types: vec![TaskType { name: "hash".parse().unwrap(), payload: PayloadKind::Bytes }],
        slots: 1,
        version: String::new(),
    }
}

fn registration(worker: &str, address: &str) -> v1::Registration {
    (&parsed(worker, address)).into()
}

async fn register(
    client: &mut NameServiceClient<rpc::Channel>,
    registration: v1::Registration,
) -> Result<u64, Status> {
    let request = v1::RegisterRequest { registration: Some(registration) };
    Ok(client.register(request).await?.into_inner().ttl_ms)
}

async fn deregister(client: &mut NameServiceClient<rpc::Channel>, worker: &str) {
    let request = v1::DeregisterRequest { worker_id: worker.into(), incarnation: 1 };
    client.deregister(request).await.unwrap();
}

async fn lookup(client: &mut NameServiceClient<rpc::Channel>, name: &str) -> Vec<String> {
    let request = v1::LookupRequest { r#type: name.into() };
    ids(&client.lookup(request).await.unwrap().into_inner().endpoints)
}

async fn next(watch: &mut Streaming<v1::WatchWorkersResponse>) -> Option<Change> {
    timeout(LONG, watch.message()).await.unwrap().unwrap().and_then(|message| message.change)
}

fn told(change: Change) -> String {
    match change {
        Change::Snapshot(_) => "snapshot".to_owned(),
        Change::Put(endpoint) => format!("put {}", id(&endpoint)),
        Change::Removed(worker) => format!("removed {worker}"),
    }
}

fn id(endpoint: &v1::Endpoint) -> String {
    endpoint.registration.clone().unwrap().worker_id
}

fn ids(endpoints: &[v1::Endpoint]) -> Vec<String> {
    endpoints.iter().map(id).collect()
}

fn names(view: &View) -> Vec<String> {
    view.endpoints.keys().map(|worker| worker.as_ref().to_owned()).collect()
}
