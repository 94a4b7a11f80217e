//! A crowd: peers that connect and then do next to nothing, each in its own way, and come
//! back when they are cut.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use prost::Message as _;
use taskgrid::shutdown::Shutdown;
use taskgrid::wire::v1;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::time::{Interval, MissedTickBehavior, interval, timeout};

use super::frames::{self, ACK, END_HEADERS, HEADERS, PING};
use crate::dice::Dice;

/// How long a peer tries to connect. It waits behind others.
const TO_CONNECT: Duration = Duration::from_secs(30);
/// Between the bytes of those that let them drip.
const DRIP: Duration = Duration::from_secs(1);

/// What a peer does once it is connected.
#[derive(Debug, Clone, Copy)]
pub(super) enum Manner {
    /// Nothing.
    Silent,
    /// Says this, and no more.
    Says(Words),
    /// Says this, and then a byte now and then.
    Drips(Words),
    /// Says this, and does not read.
    Deaf(Words),
    /// Says this, reads, and answers pings: only what it asked for it does not take.
    Shut(Words),
}

/// What a peer says.
#[derive(Debug, Clone, Copy)]
pub(super) enum Words {
    HalfAPreface,
    Preface,
    /// And half the head of a call.
    HalfACall,
    /// A watch, and no window for what it brings.
    Watch,
    /// A watch, and a window of the usual size, which is not opened again.
    NarrowWatch,
    /// Half the head of a request of HTTP/1.
    HalfARequest,
    /// One request, of which it does not take the answer.
    Request,
}

/// At a port of gRPC of a dispatcher; elsewhere the watches are refused.
pub(super) const AT_CALLS: [Manner; 8] = [
    Manner::Silent,
    Manner::Says(Words::HalfAPreface),
    Manner::Says(Words::Preface),
    Manner::Drips(Words::Preface),
    Manner::Drips(Words::HalfACall),
    Manner::Deaf(Words::Watch),
    Manner::Shut(Words::Watch),
    Manner::Shut(Words::Preface),
];

/// At a port of HTTP/1.
pub(super) const AT_HTTP: [Manner; 4] = [
    Manner::Silent,
    Manner::Says(Words::HalfARequest),
    Manner::Drips(Words::HalfARequest),
    Manner::Deaf(Words::Request),
];

/// Peers, for as long as this lives.
pub(super) struct Crowd {
    runtime: Runtime,
    counts: Arc<Counts>,
    end: Shutdown,
}

#[derive(Debug, Default)]
struct Counts {
    /// Connections that were made.
    came: AtomicU64,
    /// That the server ended.
    cut: AtomicU64,
    /// That are there.
    here: AtomicU64,
    /// Who is cut does not come back.
    stays_away: AtomicBool,
}

impl Crowd {
    /// So many peers, of all manners alike.
    pub(super) fn gather(
        addr: SocketAddr,
        count: u64,
        manners: &[Manner],
        dice: &mut Dice,
    ) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime can be built");
        let (counts, end) = (Arc::new(Counts::default()), Shutdown::new());
        for (_, manner) in (0..count).zip(manners.iter().cycle()) {
            let (counts, end, dice) = (Arc::clone(&counts), end.clone(), Dice::new(dice.roll()));
            let manner = *manner;
            runtime.spawn(async move {
                tokio::select! { () = peer(addr, manner, &counts, dice) => {}, () = end.begun() => {} }
            });
        }
        Self { runtime, counts, end }
    }

    /// Connections that were made so far.
    pub(super) fn came(&self) -> u64 {
        self.counts.came.load(Ordering::Relaxed)
    }

    /// Connections that the server ended so far.
    pub(super) fn cut(&self) -> u64 {
        self.counts.cut.load(Ordering::Relaxed)
    }

    /// Those that the system has taken.
    pub(super) fn here(&self) -> u64 {
        self.counts.here.load(Ordering::Relaxed)
    }

    /// From now on, who is cut does not come back.
    pub(super) fn stays_away(&self) {
        self.counts.stays_away.store(true, Ordering::Relaxed);
    }

    /// Everybody leaves.
    pub(super) fn leave(self) {
        self.end.begin();
        self.runtime.shutdown_timeout(Duration::from_secs(10));
    }
}

async fn peer(addr: SocketAddr, manner: Manner, counts: &Counts, mut dice: Dice) {
    let mut comes = pace(Duration::from_millis(dice.between(500, 1_500)));
    while !counts.stays_away.load(Ordering::Relaxed) {
        comes.tick().await;
        if let Ok(Ok(stream)) = timeout(TO_CONNECT, TcpStream::connect(addr)).await {
            counts.came.fetch_add(1, Ordering::Relaxed);
            counts.here.fetch_add(1, Ordering::Relaxed);
            // However it ends, it was the server that did it.
            hold(stream, manner).await.ok();
            counts.here.fetch_sub(1, Ordering::Relaxed);
            counts.cut.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Ticks at once, and then so long after the last one at the earliest.
pub(super) fn pace(span: Duration) -> Interval {
    let mut ticks = interval(span);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// Until the server ends it.
async fn hold(mut stream: TcpStream, manner: Manner) -> io::Result<()> {
    match manner {
        Manner::Silent => {}
        Manner::Says(words) | Manner::Drips(words) | Manner::Deaf(words) | Manner::Shut(words) => {
            stream.write_all(&words.bytes()).await?;
        }
    }
    match manner {
        Manner::Silent | Manner::Says(_) => read_to_end(&mut stream).await,
        Manner::Drips(words) => {
            let (mut reads, mut writes) = stream.split();
            let mut rest = words.rest().into_iter().cycle();
            let drips = async {
                let mut ticks = interval(DRIP);
                loop {
                    ticks.tick().await;
                    let Some(byte) = rest.next() else { continue };
                    writes.write_all(&[byte]).await?;
                }
            };
            let ends = async {
                let mut sink = [0; 1 << 10];
                while reads.read(&mut sink).await? > 0 {}
                Ok(())
            };
            tokio::select! { dripped = drips => dripped, ended = ends => ended }
        }
        Manner::Deaf(_) => {
            // Says that the other side is gone, without what it said.
            let mut ticks = pace(DRIP);
            while !stream.ready(tokio::io::Interest::ERROR).await?.is_error() {
                ticks.tick().await;
            }
            Ok(())
        }
        Manner::Shut(_) => answer_pings(&mut stream).await,
    }
}

async fn read_to_end(stream: &mut TcpStream) -> io::Result<()> {
    let mut sink = [0; 1 << 10];
    while stream.read(&mut sink).await? > 0 {}
    Ok(())
}

/// Until the server ends it.
pub(super) async fn answer_pings(stream: &mut TcpStream) -> io::Result<()> {
    let mut came = Vec::new();
    loop {
        if stream.read_buf(&mut came).await? == 0 {
            return Ok(());
        }
        while let Some((kind, flags, payload, length)) = frames::read(&came) {
            if kind == PING && flags & ACK == 0 {
                let pong = frames::frame(PING, ACK, 0, payload);
                stream.write_all(&pong).await?;
            }
            came.drain(..length);
        }
    }
}

impl Words {
    fn bytes(self) -> Vec<u8> {
        const WATCH: &str = "/taskgrid.v1.Dispatcher/Watch";
        let head = || frames::frame(HEADERS, END_HEADERS, 1, &frames::call(WATCH));
        match self {
            Self::HalfAPreface => frames::PREFACE[..12].to_vec(),
            Self::Preface => frames::hello(None),
            Self::HalfACall => [frames::hello(None), head()[..30].to_vec()].concat(),
            Self::Watch | Self::NarrowWatch => {
                let window = matches!(self, Self::Watch).then_some(0);
                let watch = v1::WatchRequest::default().encode_to_vec();
                [frames::hello(window), frames::whole_call(1, WATCH, &watch)].concat()
            }
            Self::HalfARequest => b"GET /stats HTTP/1.1\r\nhost: localhost\r\nx-a: ".to_vec(),
            Self::Request => b"GET /stats HTTP/1.1\r\nhost: localhost\r\n\r\n".to_vec(),
        }
    }

    /// What drips after it, again and again.
    fn rest(self) -> Vec<u8> {
        match self {
            // A frame of an unknown kind, which is to be ignored, so long that it never ends.
            Self::Preface => frames::frame(0xfa, 0, 0, &[0; 1 << 13]),
            _ => b"a".to_vec(),
        }
    }
}
