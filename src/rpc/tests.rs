use std::io::ErrorKind;
use std::time::{Duration, Instant};

use proptest::prelude::{Strategy, prop_assert, prop_oneof, proptest};
use proptest::{collection, sample::select};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tonic::Code;
use tonic::service::Routes;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use super::*;
use crate::shutdown::Shutdown;
use crate::wire::{codec, v1};

/// Far beyond what anything here takes, also on a slow machine.
const LONG: Duration = Duration::from_secs(30);

/// What a client says first, and then: that it is content with the defaults, or that it
/// wants no byte of any answer (`SETTINGS_INITIAL_WINDOW_SIZE`).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: [u8; 9] = *b"\0\0\0\x04\0\0\0\0\0";
const NO_WINDOW: [u8; 15] = *b"\0\0\x06\x04\0\0\0\0\0\0\x04\0\0\0\0";

#[test]
fn without_insecure_only_loopback_is_bound() {
    let open = Listen { host: "0.0.0.0".to_owned(), port: 0, insecure: false };
    let refused = bind(&open).unwrap_err();
    assert!(matches!(refused, Error::NotLoopback { .. }), "{refused:?}");
    assert_eq!(
        refused.to_string(),
        "will not listen on 0.0.0.0:0: everyone who reaches it could use it; \
         say --insecure if that is meant"
    );
    assert!(bind(&Listen { insecure: true, ..open }).is_ok());
}

#[test]
fn names_resolve_and_port_0_becomes_a_real_one() {
    for host in ["localhost", "127.0.0.1"] {
        let listener = bind(&Listen { host: host.to_owned(), ..Listen::default() }).unwrap();
        assert!(listener.addr().ip().is_loopback());
        assert_ne!(listener.addr().port(), 0);
    }
}

#[test]
fn a_port_in_use_is_named() {
    let first = bind(&Listen::default()).unwrap();
    let again = Listen { port: first.addr().port(), ..Listen::default() };
    let refused = bind(&again).unwrap_err();
    let Error::AddressInUse { address } = refused else { panic!("{refused:?}") };
    assert_eq!(address, first.addr());
    assert_eq!(refused.to_string(), format!("cannot listen on {}: address in use", first.addr()));
}

#[tokio::test]
async fn a_channel_wants_host_and_port() {
    for fine in ["127.0.0.1:1", "http://localhost:50051", "http://[::1]:50051/"] {
        assert!(channel(fine).is_ok(), "{fine}");
        assert!(foreign_channel(fine).is_ok(), "{fine}");
    }
    for bad in ["", "localhost", "http://", ":1", "https://a:1", "a:0", "a:99999", "a b:1", "a:1/b"]
    {
        let refused = channel(bad).unwrap_err();
        assert!(refused.to_string().starts_with(&format!("{bad:?} is no address")), "{refused}");
    }
}

/// What is nearly an address, and what is nothing.
fn any_address() -> impl Strategy<Value = String> {
    let pieces = [
        "http",
        "https",
        "://",
        ":",
        "/",
        "//",
        "[",
        "]",
        "::1",
        "127.0.0.1",
        "localhost",
        "@",
        "?",
        "#",
        "%41",
        "1",
        "0",
        "65535",
        "65536",
        " ",
        "-",
        "a.b",
        "ü",
        "\0",
        ",",
    ];
    let nearly = collection::vec(select(pieces.to_vec()), 0..8).prop_map(|pieces| pieces.concat());
    let right =
        (select(vec!["", "http://"]), select(vec!["a", "10.0.0.1", "[::1]", "a_b"]), 0..70_000_u32)
            .prop_map(|(scheme, host, port)| format!("{scheme}{host}:{port}"));
    prop_oneof![nearly, right, ".{0,30}"]
}

proptest! {
    #[test]
    fn any_address_has_a_host_and_a_port_or_is_refused_by_its_text(address in any_address()) {
        match channel::pinging(&address) {
            Ok(endpoint) => {
                prop_assert!(endpoint.uri().host().is_some_and(|host| !host.is_empty()));
                prop_assert!(endpoint.uri().port_u16().is_some_and(|port| port > 0));
            }
            Err(refused) => {
                let begin = format!("{address:?} is no");
                prop_assert!(refused.to_string().starts_with(&begin), "{}", refused);
            }
        }
    }

    #[test]
    fn what_a_worker_may_register_can_be_dialled(address in any_address()) {
        let message = v1::Registration {
            worker_id: "w".to_owned(),
            address: address.clone(),
            types: vec![v1::TaskType { name: "hash".to_owned(), ..v1::TaskType::default() }],
            slots: 1,
            ..v1::Registration::default()
        };
        let parsed = crate::core::registry::Registration::try_from(message);
        if parsed.is_ok() {
            prop_assert!(channel::pinging(&address).is_ok());
        }
    }
}

#[test]
fn pauses_grow_to_two_seconds_and_start_again_after_a_reset() {
    let mut backoff = Backoff::new();
    let first = backoff.next();
    assert!(first >= Duration::from_millis(50) && first <= Duration::from_millis(100));
    let late = (0..100).map(|_| backoff.next()).last().unwrap();
    assert!(late >= Duration::from_secs(1) && late <= Duration::from_secs(2));
    backoff.reset();
    assert!(backoff.next() <= Duration::from_millis(100));
}

#[test]
fn the_largest_task_with_the_largest_result_fits_a_message() {
    assert!(message_bytes(0) >= limits::BATCH_BYTES);
    assert!(message_bytes(64 << 20) >= 2 * (64 << 20) + limits::ENVELOPE_BYTES);
    assert_eq!(message_bytes(u64::MAX), usize::MAX);
}

#[tokio::test]
async fn a_peer_that_says_nothing_is_cut() {
    let limits =
        ServeLimits { preface_deadline: Duration::from_millis(200), ..ServeLimits::default() };
    let server = Server::start(limits, LONG);
    for said in ["", "PRI * HTTP/2.0\r\n"] {
        let mut silent = server.peer().await;
        silent.write_all(said.as_bytes()).await.unwrap();
        assert_closed(&mut silent).await;
    }
    server.end().await;
}

#[tokio::test]
async fn a_peer_that_speaks_something_else_is_cut_at_once() {
    let server = Server::start(ServeLimits::default(), LONG);
    let mut browser = server.peer().await;
    browser.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    assert_closed(&mut browser).await;
    server.end().await;
}

#[tokio::test]
async fn beyond_the_limit_of_connections_peers_are_told_so_while_all_have_a_call() {
    let server = Server::start(ServeLimits { connections: 1, ..ServeLimits::default() }, LONG);
    let mut first = server.health_client();
    let mut watch = first.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert!(watch.message().await.unwrap().is_some());
    let mut second = server.health_client();
    for _ in 0..3 {
        let check = timeout(LONG, second.check(HealthCheckRequest::default())).await;
        let refused = check.unwrap().unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
        assert!(format!("{refused:?}").contains("close some, or try later"), "{refused:?}");
    }
    server.health.set_serving(true).await;
    assert!(timeout(LONG, watch.message()).await.unwrap().unwrap().is_some(), "it was cut");
    drop((watch, first));
    let answer = loop {
        match timeout(LONG, second.check(HealthCheckRequest::default())).await.unwrap() {
            Ok(answer) => break answer.into_inner(),
            // The place is not free yet.
            Err(refused) => assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}"),
        }
    };
    assert_eq!(answer.status(), ServingStatus::Serving);
    drop(second);
    server.end().await;
}

#[tokio::test]
async fn peers_that_only_take_up_room_make_it_for_those_who_wait() {
    let watch = open_stream("/grpc.health.v1.Health/Watch");
    let asked = b"\0\0\x05\0\x01\0\0\0\x01\0\0\0\0\0";
    let said: [(&str, Vec<u8>); 6] = [
        ("nothing", Vec::new()),
        ("half a preface", PREFACE[..12].to_vec()),
        ("a preface", [PREFACE, &SETTINGS[..]].concat()),
        ("half a header", [PREFACE, &SETTINGS[..], &watch[..20]].concat()),
        ("half a call", [PREFACE, &SETTINGS[..], &watch[..]].concat()),
        // A window of no bytes: it cannot be told anything.
        ("a call, and does not read", [PREFACE, &NO_WINDOW[..], &watch[..], asked].concat()),
    ];
    for (what, said) in said {
        let server = Server::start(ServeLimits { connections: 1, ..ServeLimits::default() }, LONG);
        let mut peer = server.peer().await;
        peer.write_all(&said).await.unwrap();
        let mut health = server.health_client();
        let check = timeout(LONG / 6, health.check(HealthCheckRequest::default())).await;
        assert!(check.is_ok_and(|answer| answer.is_ok()), "one that said {what} kept the place");
        assert_closed(&mut peer).await;
        drop(health);
        server.end().await;
    }
}

#[tokio::test]
async fn a_client_without_a_call_makes_room_and_comes_back_by_itself() {
    let server = Server::start(ServeLimits { connections: 1, ..ServeLimits::default() }, LONG);
    let (mut first, mut second) = (server.health_client(), server.health_client());
    for _ in 0..2 {
        for client in [&mut first, &mut second] {
            let check = client.check(HealthCheckRequest::default());
            timeout(LONG, check).await.unwrap().unwrap();
        }
    }
    drop((first, second));
    server.end().await;
}

#[tokio::test]
async fn shutdown_ends_by_its_deadline_with_a_silent_peer_and_one_that_holds_on() {
    let server = Server::start(ServeLimits::default(), Duration::from_millis(300));
    let _silent = server.peer().await;
    // It said hello and keeps its connection: it answers no ping and no goodbye.
    let mut holding = server.peer().await;
    holding.write_all(&[PREFACE, &SETTINGS[..]].concat()).await.unwrap();
    // An open stream: a request whose body never ends.
    holding.write_all(&open_stream("/grpc.health.v1.Health/Check")).await.unwrap();
    holding.read_u8().await.unwrap();
    let begun = Instant::now();
    server.end().await;
    assert!(begun.elapsed() >= Duration::from_millis(300), "the open stream had its time");
    assert_closed(&mut holding).await;
}

#[tokio::test]
async fn health_says_not_serving_when_shutdown_begins_and_ends_its_watches() {
    let server = Server::start(ServeLimits::default(), LONG);
    let mut client = server.health_client();
    let mut watch = client.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    let mut next = async || timeout(LONG, watch.message()).await.unwrap().unwrap();
    let status = |answer: Option<HealthCheckResponse>| answer.map(|a| a.status());
    assert_eq!(status(next().await), Some(ServingStatus::Serving));
    server.health.set_serving(false).await;
    assert_eq!(status(next().await), Some(ServingStatus::NotServing));
    server.health.set_serving(true).await;
    assert_eq!(status(next().await), Some(ServingStatus::Serving));
    server.shutdown.begin();
    assert_eq!(status(next().await), Some(ServingStatus::NotServing));
    assert_eq!(status(next().await), None);
    drop(client);
    server.end().await;
}

#[tokio::test]
async fn a_path_that_the_policy_does_not_name_is_refused() {
    let server = Server::start(ServeLimits::default(), LONG);
    let mut grpc = tonic::client::Grpc::new(channel(&server.addr.to_string()).unwrap());
    grpc.ready().await.unwrap();
    let codec = codec::Codec::<HealthCheckRequest, HealthCheckResponse>::default();
    let path = tonic::codegen::http::uri::PathAndQuery::from_static("/grpc.health.v1.Health/List");
    let request = tonic::Request::new(HealthCheckRequest::default());
    let refused = grpc.unary(request, path, codec).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);
    assert_eq!(refused.message(), "this server has no such method");
    drop(grpc);
    server.end().await;
}

/// A server of `grpc.health.v1` alone.
struct Server {
    addr: SocketAddr,
    health: Health,
    shutdown: Shutdown,
    task: JoinHandle<Result<(), Error>>,
}

impl Server {
    fn start(limits: ServeLimits, deadline: Duration) -> Self {
        let listener = bind(&Listen::default()).unwrap();
        let (addr, health, shutdown) = (listener.addr(), listener.health(), Shutdown::new());
        let serving = serve(listener, Routes::default(), limits, shutdown.clone(), deadline);
        Self { addr, health, shutdown, task: tokio::spawn(serving) }
    }

    async fn peer(&self) -> TcpStream {
        TcpStream::connect(self.addr).await.unwrap()
    }

    fn health_client(&self) -> HealthClient<Channel> {
        HealthClient::new(channel(&self.addr.to_string()).unwrap())
    }

    /// Begins the shutdown and waits for the end, which must come in time.
    async fn end(self) {
        self.shutdown.begin();
        timeout(LONG / 2, self.task).await.unwrap().unwrap().unwrap();
    }
}

async fn assert_closed(peer: &mut TcpStream) {
    let mut sink = Vec::new();
    match timeout(LONG, peer.read_to_end(&mut sink)).await.unwrap() {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}"),
    }
}

/// A HEADERS frame for stream 1 with literal fields (RFC 9113, 6.2; RFC 7541, 6.2.2)
/// that does not end the stream.
fn open_stream(path: &str) -> Vec<u8> {
    let mut fields = Vec::new();
    for (name, value) in [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ] {
        fields.push(0);
        for text in [name, value] {
            fields.push(u8::try_from(text.len()).unwrap());
            fields.extend_from_slice(text.as_bytes());
        }
    }
    let mut frame = vec![0, 0, u8::try_from(fields.len()).unwrap(), 1, 4, 0, 0, 0, 1];
    frame.extend(fields);
    frame
}
