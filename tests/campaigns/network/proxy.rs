//! Doors through which peers reach others, and which can be made slow: what comes in waits for
//! a while, or goes on at so many bytes a second, or, on the connections that stand, never.

use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};

/// Bytes that are read at once.
const CHUNK: usize = 16 << 10;
/// Chunks that wait at most.
const CHUNKS: usize = 64;
/// Writes in a second where there is a limit of bytes.
const STEPS: u64 = 20;
/// What lies behind is asked for no longer.
const PATIENCE: Duration = Duration::from_secs(3);

/// The threads on which they run.
pub(crate) struct Proxies {
    runtime: Runtime,
}

/// One door.
pub(crate) struct Proxy {
    manner: Arc<Manner>,
}

/// How it treats what comes in.
#[derive(Debug, Default)]
struct Manner {
    delay_millis: AtomicU64,
    /// 0 for any number.
    bytes_per_second: AtomicU64,
    connections: AtomicU64,
    /// The connections below this number say nothing more.
    silent_below: AtomicU64,
}

impl Proxies {
    pub(crate) fn start() -> Self {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).enable_all().build();
        Self { runtime: runtime.expect("a runtime can be built") }
    }

    /// From now on whoever dials `front` reaches `back`.
    pub(crate) fn open(&self, front: SocketAddr, back: SocketAddr) -> io::Result<Proxy> {
        let manner = Arc::<Manner>::default();
        let listener = self.runtime.block_on(TcpListener::bind(front))?;
        self.runtime.spawn(accept(listener, back, Arc::clone(&manner)));
        Ok(Proxy { manner })
    }
}

impl Proxy {
    /// What comes in goes on so much later.
    pub(crate) fn delay(&self, by: Duration) {
        let millis = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        self.manner.delay_millis.store(millis, Ordering::SeqCst);
    }

    /// So many bytes a second go on, in each direction of each connection.
    pub(crate) fn throttle(&self, bytes_per_second: u64) {
        self.manner.bytes_per_second.store(bytes_per_second, Ordering::SeqCst);
    }

    /// Whoever is connected hears nothing more, not even that it is over.
    pub(crate) fn silence(&self) {
        let connections = self.manner.connections.load(Ordering::SeqCst);
        self.manner.silent_below.store(connections, Ordering::SeqCst);
    }

    /// What comes in goes on at once.
    pub(crate) fn heal(&self) {
        self.delay(Duration::ZERO);
        self.throttle(0);
    }
}

impl Manner {
    fn is_silent(&self, number: u64) -> bool {
        number < self.silent_below.load(Ordering::SeqCst)
    }

    /// Waits until what came then may go on.
    async fn hold(&self, came: Instant) {
        let delay = self.delay_millis.load(Ordering::SeqCst);
        if delay > 0 {
            timeout_at(came + Duration::from_millis(delay), pending::<()>()).await.ok();
        }
    }

    /// Writes as fast as it may.
    async fn write(&self, to: &mut OwnedWriteHalf, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let limit = self.bytes_per_second.load(Ordering::SeqCst);
            if limit == 0 {
                return to.write_all(bytes).await;
            }
            let step = usize::try_from((limit / STEPS).max(1)).unwrap_or(usize::MAX);
            let (now, later) = bytes.split_at(step.min(bytes.len()));
            to.write_all(now).await?;
            bytes = later;
            timeout(Duration::from_secs(1) / 20, pending::<()>()).await.ok();
        }
        Ok(())
    }
}

async fn accept(listener: TcpListener, back: SocketAddr, manner: Arc<Manner>) {
    while let Ok((front, _)) = listener.accept().await {
        let number = manner.connections.fetch_add(1, Ordering::SeqCst);
        let manner = Arc::clone(&manner);
        tokio::spawn(async move {
            let Ok(Ok(back)) = timeout(PATIENCE, TcpStream::connect(back)).await else { return };
            // Delay is what this is asked for, and nothing beside.
            front.set_nodelay(true).ok();
            back.set_nodelay(true).ok();
            let ((from_front, to_front), (from_back, to_back)) =
                (front.into_split(), back.into_split());
            tokio::join!(
                pump(from_front, to_back, &manner, number),
                pump(from_back, to_front, &manner, number),
            );
        });
    }
}

/// One direction of a connection, until either end of it is closed.
async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, manner: &Manner, number: u64) {
    let (held, mut due) = mpsc::channel::<(Instant, Vec<u8>)>(CHUNKS);
    let reading = async move {
        let mut chunk = vec![0; CHUNK];
        while let Ok(length @ 1..) = from.read(&mut chunk).await {
            if held.send((Instant::now(), chunk[..length].to_vec())).await.is_err() {
                return;
            }
        }
    };
    let writing = async move {
        while let Some((came, bytes)) = due.recv().await {
            manner.hold(came).await;
            if !manner.is_silent(number) && manner.write(&mut to, &bytes).await.is_err() {
                return;
            }
        }
        if manner.is_silent(number) {
            // Dropped, it would tell that it is over.
            pending::<()>().await;
        }
    };
    tokio::join!(reading, writing);
}
