//! One HTTP server: limits, deadlines, and an end within a deadline.

use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::codegen::Service as _;
use tracing::{debug, info, warn};

use super::AllowedHosts;
use super::guard::guarded;
use crate::rpc::{self, For, Gate, Guest, Listener};
use crate::shutdown::Shutdown;

/// Connections at once; what comes beyond takes the place of who does nothing, or waits
/// in the system's backlog. Readers are few: people, probes, collectors of metrics.
const CONNECTIONS: usize = 256;
/// The time a peer has for the head of a request, and an idle connection to live.
const HEAD_DEADLINE: Duration = Duration::from_secs(10);
/// Bytes of the head of a request.
const HEAD_BYTES: usize = 16 << 10;
/// A peer that takes nothing of what it was sent for so many milliseconds is gone.
const STUCK_MS: u32 = 30_000;

/// Serves `routes` until `shutdown` begins, and at most `deadline` longer. Answers
/// that never end, as streams of events, must end by themselves when it begins.
pub async fn serve(
    listener: Listener,
    routes: Router,
    hosts: AllowedHosts,
    shutdown: Shutdown,
    deadline: Duration,
) -> Result<(), rpc::Error> {
    let address = listener.addr();
    let port = listener.into_port()?;
    let routes = guarded(routes, hosts);
    let connections = TaskTracker::new();
    // Dropped with this call: connections have tasks of their own, which must not
    // outlive it.
    let cut = CancellationToken::new();
    let _cut_on_return = cut.clone().drop_guard();
    let mut gate = Gate::new(port, CONNECTIONS, For::Http, cut);
    info!(%address, "listening for HTTP");
    loop {
        let (stream, place) = tokio::select! {
            () = shutdown.begun() => break,
            next = gate.next() => next,
        };
        if let Err(error) = prepare(&stream) {
            debug!(%error, "a peer left before it said anything");
            continue;
        }
        let (routes, shutdown) = (routes.clone(), shutdown.clone());
        connections.spawn(async move {
            let guest = place.guest();
            tokio::select! {
                () = connection(stream, routes, guest, shutdown) => {}
                () = guest.cut().cancelled() => {}
            }
        });
    }
    drop(gate);
    connections.close();
    if timeout(deadline, connections.wait()).await.is_err() {
        warn!(%address, ?deadline, "cutting connections that did not end in time");
    }
    Ok(())
}

fn prepare(stream: &rpc::Stream) -> std::io::Result<()> {
    stream.set_nodelay()?;
    stream.set_user_timeout(STUCK_MS)
}

async fn connection(stream: rpc::Stream, routes: Router, guest: &Guest, shutdown: Shutdown) {
    let mut server = http1::Builder::new();
    server
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        .max_buf_size(HEAD_BYTES)
        // Who asks, says that this was all, and waits is a peer as good as any. One that has
        // hung up is noticed when it is answered.
        .half_close(true);
    let service = service_fn(|request: hyper::Request<Incoming>| {
        let (call, mut routes) = (guest.begins(), routes.clone());
        async move {
            let request = request.map(|body| Body::new(call.hears(body)));
            let answer = routes.call(request).await?;
            Ok::<_, Infallible>(answer.map(|body| Body::new(call.tells(body))))
        }
    });
    let serving = server.serve_connection(TokioIo::new(stream), service);
    let mut serving = std::pin::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = shutdown.begun() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        debug!(%error, "a connection ended");
    }
}
