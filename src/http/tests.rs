use std::time::Duration;

use axum::Router;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;
use crate::metrics::{self, Exposition};
use crate::rpc::{self, Listen};
use crate::shutdown::Shutdown;

/// Far beyond what anything here takes, also on a slow machine.
const LONG: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_role_tells_whether_it_is_alive_and_what_it_lacks() {
    let server = Server::start(&["a nameservice"]);
    assert_eq!(server.get("/healthz").await, (200, "{\"alive\":true}\n".to_owned()));
    let lacking = "{\"lacks\":[\"a nameservice\"],\"ready\":false}\n";
    assert_eq!(server.get("/readyz").await, (503, lacking.to_owned()));
    server.end().await;
    let server = Server::start(&[]);
    assert_eq!(server.get("/readyz").await, (200, "{\"lacks\":[],\"ready\":true}\n".to_owned()));
    server.end().await;
}

#[tokio::test]
async fn metrics_come_in_the_form_that_was_asked_for() {
    let server = Server::start(&[]);
    let (status, text) = server.get("/metrics").await;
    assert_eq!(status, 200);
    assert!(text.contains("# TYPE taskgrid_outcomes_fenced_total counter\n"), "{text}");
    assert!(text.contains("taskgrid_outcomes_fenced_total 7\n"), "{text}");
    assert!(text.contains("process_resident_memory_bytes "), "{text}");
    let accept = "accept: application/openmetrics-text;version=1.0.0\r\n";
    let (_, text) = server.ask("GET", "/metrics", "localhost", accept).await;
    assert!(text.contains("# TYPE taskgrid_outcomes_fenced counter\n"), "{text}");
    assert!(text.ends_with("# EOF\n"), "{text}");
    server.end().await;
}

#[tokio::test]
async fn what_the_table_does_not_name_is_not_served() {
    let router = route(Router::<()>::new(), "/secret", async || "told");
    let server = Server::serving(router);
    assert_eq!(server.get("/secret").await.0, 404);
    assert_eq!(server.get("/").await.0, 404);
    server.end().await;
    let server = Server::start(&[]);
    for method in ["POST", "DELETE", "PUT", "OPTIONS"] {
        assert_eq!(server.ask(method, "/healthz", "localhost", "").await.0, 405, "{method}");
    }
    server.end().await;
}

#[tokio::test]
async fn a_request_under_a_strangers_name_is_refused() {
    let server = Server::start(&[]);
    let (status, text) = server.ask("GET", "/metrics", "evil.example:8080", "").await;
    assert_eq!(status, 421);
    assert!(text.contains("evil.example") && text.contains("--allow-host"), "{text}");
    assert_eq!(server.ask("GET", "/healthz", "monitoring:8080", "").await.0, 200);
    server.end().await;
}

#[tokio::test]
async fn shutdown_does_not_wait_for_silent_peers() {
    let server = Server::start(&[]);
    let mut idle = server.peer().await;
    idle.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let mut some = [0; 16];
    timeout(LONG, idle.read_exact(&mut some)).await.unwrap().unwrap();
    server.end().await;
}

#[tokio::test]
async fn who_says_that_it_will_ask_no_more_is_still_answered() {
    let server = Server::serving(vitals(Thoughtful));
    let mut peer = server.peer().await;
    peer.write_all(b"GET /readyz HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    peer.shutdown().await.unwrap();
    let mut answer = String::new();
    timeout(LONG, peer.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer:?}");
    server.end().await;
}

struct Role(Vec<String>);

/// Thinks for as many turns as a server takes to hear all that was said.
struct Thoughtful;

impl Vitals for Thoughtful {
    async fn lacks(&self) -> Vec<String> {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        Vec::new()
    }

    async fn metrics(&self) -> Exposition {
        Exposition::default()
    }
}

impl Vitals for Role {
    async fn lacks(&self) -> Vec<String> {
        self.0.clone()
    }

    async fn metrics(&self) -> Exposition {
        let mut all = Exposition::default();
        all.add(&metrics::OUTCOMES_FENCED, &[], 7_u64);
        all
    }
}

struct Server {
    addr: std::net::SocketAddr,
    shutdown: Shutdown,
    task: JoinHandle<Result<(), rpc::Error>>,
}

impl Server {
    fn start(lacks: &[&str]) -> Self {
        Self::serving(vitals(Role(lacks.iter().copied().map(str::to_owned).collect())))
    }

    fn serving(router: Router) -> Self {
        let listener = rpc::bind(&Listen::default()).unwrap();
        let (addr, shutdown) = (listener.addr(), Shutdown::new());
        let hosts = AllowedHosts::default();
        let task = tokio::spawn(serve(listener, router, hosts, shutdown.clone(), 2 * LONG));
        Self { addr, shutdown, task }
    }

    async fn peer(&self) -> TcpStream {
        TcpStream::connect(self.addr).await.unwrap()
    }

    async fn get(&self, path: &str) -> (u16, String) {
        self.ask("GET", path, "127.0.0.1", "").await
    }

    /// One request on a connection of its own: its status and its body.
    async fn ask(&self, method: &str, path: &str, host: &str, headers: &str) -> (u16, String) {
        let mut peer = self.peer().await;
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n{headers}\r\n"
        );
        peer.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        timeout(LONG, peer.read_to_string(&mut answer)).await.unwrap().unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains("content-security-policy: default-src 'none'"), "{head}");
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, body.to_owned())
    }

    /// Begins the shutdown and waits for the end, which must come long before
    /// connections would be cut.
    async fn end(self) {
        self.shutdown.begin();
        timeout(LONG, self.task).await.unwrap().unwrap().unwrap();
    }
}
