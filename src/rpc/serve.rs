//! One gRPC server: limits, policy, health, and an end within a deadline.

use std::convert::Infallible;
use std::future::{pending, ready};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::service::Routes;
use tonic::transport::Server;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};
use tracing::{info, warn};

use super::frames::FRAME_BYTES;
use super::gate::Guest;
use super::{Error, Listener, incoming};
use crate::security;
use crate::shutdown::Shutdown;

/// Streams that one peer may have open at once. hyper's own limit of 200 is gone
/// when tonic is told none; a stream costs a few KiB, and whoever needs more
/// batches or opens a second connection.
const STREAMS: u32 = 128;

/// Connections at once. Each costs a descriptor and some tens of KiB; what comes
/// beyond takes the place of who does nothing, or waits in the system's backlog.
const CONNECTIONS: usize = 4_096;

/// The time a peer has for its first 24 bytes. Long enough for a lossy link with a
/// few retransmissions, and no longer than a drain.
const PREFACE_DEADLINE: Duration = Duration::from_secs(10);

/// A silent connection is pinged this often …
pub(super) const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// … and cut when the answer takes longer than this. Together they stay below the
/// drain deadline of 10 s, so that a peer that vanished never uses it up.
pub(super) const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(3);

/// Bytes of the headers of one request: ours take a few hundred.
const HEADER_BYTES: u32 = 16 << 10;

/// Streams that a peer opened and reset before they were accepted: more is an
/// attack ("rapid reset", CVE-2023-44487), and ends the connection.
const PENDING_RESETS: usize = 20;

/// Streams of a connection that the server refused for what the peer did wrong, as one that is
/// beyond the most that may be open: whoever keeps to the rules causes none once it has read
/// what they are. hyper allows 1,024.
const REFUSED_STREAMS: usize = 128;

/// Bytes in flight to this server on one stream, and on one connection: enough to
/// keep 10 Gbit/s busy over a millisecond of distance, and the most that a peer
/// can make a connection hold.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;

/// Bytes of a health request: a service's name.
const HEALTH_BYTES: usize = 4 << 10;

/// What peers may use up. The defaults suit every role; those with many callers
/// raise what they must.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServeLimits {
    /// Streams that one connection may have open at once. 128 unless a role hands
    /// out long waits; at least 1.
    pub streams: u32,
    /// Connections at once; at least 1. 4,096, and never more than five eighths of the
    /// file descriptors that the process may have.
    pub connections: usize,
    /// The time a peer has to say hello. 10 s; tests want less.
    pub preface_deadline: Duration,
}

impl Default for ServeLimits {
    fn default() -> Self {
        Self { streams: STREAMS, connections: CONNECTIONS, preface_deadline: PREFACE_DEADLINE }
    }
}

/// What `grpc.health.v1` answers on a port, for the whole role (the service named
/// ""). `SERVING` until told otherwise; `NOT_SERVING` for good once shutdown begins.
#[derive(Debug, Clone)]
pub struct Health {
    reporter: HealthReporter,
}

impl Health {
    pub(super) fn new() -> Self {
        Self { reporter: HealthReporter::new() }
    }

    /// Says whether the role can do its work. Not to be called once shutdown began.
    pub async fn set_serving(&self, serving: bool) {
        let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
        self.reporter.set_service_status("", status).await;
    }

    /// Says `NOT_SERVING` to those who watch, then ends their streams.
    async fn end(mut self) {
        self.set_serving(false).await;
        self.reporter.clear_service_status("").await;
    }
}

/// Serves `routes` and `grpc.health.v1` until `shutdown` begins; then takes no more
/// connections and calls, lets those in flight finish, and ends when they have or
/// when `deadline` has passed, whatever peers do: what is left is cut.
///
/// Ends before only when the socket is of no use, which is a bug or a broken system.
/// A path that the policy table does not name is answered with `UNIMPLEMENTED`.
pub async fn serve(
    listener: Listener,
    routes: Routes,
    limits: ServeLimits,
    shutdown: Shutdown,
    deadline: Duration,
) -> Result<(), Error> {
    let (addr, health) = (listener.addr(), listener.health());
    let port = listener.into_port()?;
    let cut = CancellationToken::new();
    // Connections have tasks of their own: they must not outlive this call.
    let _cut_on_return = cut.clone().drop_guard();
    let connections = Box::pin(incoming::stream(port, &limits, cut.clone()));
    let service = HealthService::from_health_reporter(health.reporter.clone());
    let health_server = HealthServer::new(service)
        .max_decoding_message_size(HEALTH_BYTES)
        .max_encoding_message_size(HEALTH_BYTES);
    let guarded = Guarded { routes: routes.add_service(health_server).prepare() };
    let begun = shutdown.clone();
    let drain = async move { begun.begun().await };
    let serving = server(&limits).serve_with_incoming_shutdown(guarded, connections, drain);
    let end_health = async {
        shutdown.begun().await;
        health.end().await;
        pending::<()>().await;
    };
    let patience = async {
        shutdown.begun().await;
        sleep(deadline).await;
    };
    info!(address = %addr, "listening");
    tokio::select! {
        served = serving => served?,
        () = end_health => {}
        () = patience => {
            warn!(address = %addr, ?deadline, "cutting connections that did not end in time");
        }
    }
    Ok(())
}

fn server(limits: &ServeLimits) -> Server {
    let streams = limits.streams.max(1);
    Server::builder()
        .max_concurrent_streams(streams)
        // A call whose stream was reset may still run: such calls count here, and
        // one beyond is shed instead of queued.
        .concurrency_limit_per_connection(usize::try_from(streams).unwrap_or(usize::MAX))
        .load_shed(true)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .http2_max_header_list_size(HEADER_BYTES)
        .http2_max_pending_accept_reset_streams(Some(PENDING_RESETS))
        .http2_max_local_error_reset_streams(Some(REFUSED_STREAMS))
        .max_frame_size(Some(FRAME_BYTES))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
}

/// Routes behind the policy table.
#[derive(Clone)]
struct Guarded {
    routes: Routes,
}

impl Service<http::Request<Body>> for Guarded {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Service::<http::Request<Body>>::poll_ready(&mut self.routes, cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        // Who calls is not known: whoever may connect is every principal.
        if security::policy(request.uri().path()).is_none() {
            let refusal =
                tonic::Status::new(tonic::Code::Unimplemented, "this server has no such method");
            return Box::pin(ready(Ok(refusal.into_http())));
        }
        let Some(guest) = request.extensions().get::<Guest>() else {
            return Box::pin(self.routes.call(request));
        };
        let call = guest.begins();
        let request = request.map(|body| Body::new(call.hears(body)));
        let answer = self.routes.call(request);
        Box::pin(async move { Ok(answer.await?.map(|body| Body::new(call.tells(body)))) })
    }
}
