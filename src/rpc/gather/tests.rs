use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::net::TcpStream;
use tonic::service::Routes;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::*;
use crate::rpc::{
    Acceptor, Connecting, Listen, Network, ServeLimits, Stream, Transport, Wire, bind, serve,
};
use crate::shutdown::Shutdown;

/// Dials over TCP, and counts what is written.
#[derive(Debug, Default)]
struct Counting {
    writes: Arc<AtomicU32>,
}

impl Transport for Counting {
    fn bind(&self, _: &Listen) -> io::Result<Box<dyn Acceptor>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn connect(&self, host: &str, port: u16) -> Connecting<'static> {
        let (peer, writes) = ((host.to_owned(), port), Arc::clone(&self.writes));
        Box::pin(async move {
            let stream = Stream::Tcp(TcpStream::connect(peer).await?);
            let counted: Box<dyn Wire> = Box::new(Counted { stream, writes });
            Ok(counted)
        })
    }
}

#[derive(Debug)]
struct Counted {
    stream: Stream,
    writes: Arc<AtomicU32>,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[tokio::test]
async fn a_call_is_written_at_once() {
    let listener = bind(&Listen::default()).unwrap();
    let (addr, health, shutdown) = (listener.addr(), listener.health(), Shutdown::new());
    health.set_serving(true).await;
    let limits = ServeLimits::default();
    let deadline = std::time::Duration::from_secs(10);
    let served =
        tokio::spawn(serve(listener, Routes::default(), limits, shutdown.clone(), deadline));
    let counting = Counting::default();
    let writes = Arc::clone(&counting.writes);
    let channel = Network::Other(Arc::new(counting)).channel(&addr.to_string()).unwrap();
    let mut client = HealthClient::new(channel);
    // A message of its own, as an empty one needs no share of the window.
    let request = || HealthCheckRequest { service: "taskgrid".to_owned() };
    // The first call makes the connection, with words of its own.
    client.check(request()).await.unwrap_err();
    let before = writes.load(Ordering::Relaxed);
    for _ in 0..20 {
        client.check(request()).await.unwrap_err();
    }
    assert_eq!(writes.load(Ordering::Relaxed) - before, 20);
    drop(client);
    shutdown.begin();
    served.await.unwrap().unwrap();
}

#[test]
fn a_write_waits_for_one_turn_and_then_for_its_peer_alone() {
    let (near, mut far) = tokio::io::duplex(4);
    let mut near = Gathered::new(near);
    let mut cx = Context::from_waker(std::task::Waker::noop());
    let mut write =
        |cx: &mut Context<'_>| Pin::new(&mut near).poll_write(cx, b"four").map(Result::ok);
    assert_eq!(write(&mut cx), Poll::Pending);
    assert_eq!(write(&mut cx), Poll::Ready(Some(4)));
    assert_eq!(write(&mut cx), Poll::Pending, "it is another one");
    assert_eq!(write(&mut cx), Poll::Pending, "the peer has no room");
    let mut room = [0; 4];
    let read = Pin::new(&mut far).poll_read(&mut cx, &mut ReadBuf::new(&mut room));
    assert!(read.is_ready());
    assert_eq!(write(&mut cx), Poll::Ready(Some(4)));
}

#[test]
fn a_large_write_does_not_wait() {
    let mut cx = Context::from_waker(std::task::Waker::noop());
    let (near, _far) = tokio::io::duplex(SMALL);
    let written = Pin::new(&mut Gathered::new(near)).poll_write(&mut cx, &[0; SMALL]);
    assert_eq!(written.map(Result::ok), Poll::Ready(Some(SMALL)));
}
