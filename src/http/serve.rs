//! One HTTP server: limits, deadlines, and an end within a deadline.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use super::AllowedHosts;
use super::guard::guarded;
use crate::rpc::{self, Listener};
use crate::shutdown::Shutdown;

/// Connections at once; what comes beyond waits in the system's backlog. Readers are
/// few: people, probes, collectors of metrics.
const CONNECTIONS: usize = 256;
/// The time a peer has for the head of a request, and an idle connection to live.
const HEAD_DEADLINE: Duration = Duration::from_secs(10);
/// Bytes of the head of a request.
const HEAD_BYTES: usize = 16 << 10;
/// A peer that takes nothing of what it was sent for so many milliseconds is gone.
const STUCK_MS: u32 = 30_000;
/// The pause after a failed accept: at the limit of file descriptors accept fails at
/// once, again and again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

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
    let socket = listener
        .into_socket()
        .and_then(TcpListener::from_std)
        .map_err(|source| rpc::Error::Listen { address, source })?;
    let routes = guarded(routes, hosts);
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    let connections = TaskTracker::new();
    // Dropped with this call: connections have tasks of their own, which must not
    // outlive it.
    let cut = tokio_util::sync::CancellationToken::new();
    let _cut_on_return = cut.clone().drop_guard();
    info!(%address, "listening for HTTP");
    loop {
        let accepted = tokio::select! {
            () = shutdown.begun() => break,
            accepted = accept(&socket, &permits) => accepted,
        };
        match accepted {
            Ok((stream, permit)) => {
                let serving = connection(stream, routes.clone(), shutdown.clone());
                let cut = cut.clone();
                connections.spawn(async move {
                    let _permit = permit;
                    tokio::select! {
                        () = serving => {}
                        () = cut.cancelled() => {}
                    }
                });
            }
            Err(error) => {
                warn!(%error, "cannot accept a connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(socket);
    connections.close();
    if timeout(deadline, connections.wait()).await.is_err() {
        warn!(%address, ?deadline, "cutting connections that did not end in time");
    }
    Ok(())
}

async fn accept(
    socket: &TcpListener,
    permits: &Arc<Semaphore>,
) -> std::io::Result<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let permit = Arc::clone(permits).acquire_owned().await.map_err(std::io::Error::other)?;
    let (stream, _) = socket.accept().await?;
    stream.set_nodelay(true)?;
    rustix::net::sockopt::set_tcp_user_timeout(&stream, STUCK_MS)?;
    Ok((stream, permit))
}

async fn connection(stream: TcpStream, routes: Router, shutdown: Shutdown) {
    let mut server = http1::Builder::new();
    server
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        .max_buf_size(HEAD_BYTES)
        .half_close(false);
    let service = TowerToHyperService::new(routes);
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
