//! Floods: frames that no client sends, as fast as they can be written, on a few
//! connections that come back whenever they are ended.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use prost::Message as _;
use taskgrid::wire::v1;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;
use tokio::runtime::Runtime;
use tokio::time::timeout;

use super::frames::{
    self, ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, PRIORITY,
    RST_STREAM, SETTINGS, WINDOW_UPDATE,
};
use super::honest::{Honest, Whom};
use super::meter::Meter;
use crate::campaign::{Report, Run};
use crate::checker::count;
use crate::dice::Dice;
use crate::site::Site;

/// The caps of the dispatcher are low, so that they are reached before a flood is measured: the
/// honest tasks beside it fill them too.
const FLAGS: [&str; 6] = ["--lease", "3s", "--retain-tasks", "1000", "--store-cache", "2MiB"];
/// Connections of a flood.
const CONNECTIONS: u64 = 4;
/// The longest flood, however few frames were taken.
const LONGEST: Duration = Duration::from_secs(30);
/// A write that takes longer: the server does not read, which bounds the flood as well.
const STUCK: Duration = Duration::from_millis(500);
/// MiB that the dispatcher may need for a flood.
const MEMORY: u64 = 16;
/// Of the frames that a flood is to have, one in so many must have been taken in its time.
const LEAST: u64 = 10;
/// Calls that are answered beside each flood at the least.
const ANSWERED: u64 = 20;

const SUBMIT: &str = "/taskgrid.v1.Dispatcher/Submit";
const GET: &str = "/taskgrid.v1.Dispatcher/Get";

/// One kind.
struct Flood {
    name: &'static str,
    /// Frames before those that come again and again.
    first: fn(&mut Dice) -> Vec<u8>,
    /// Frames of a connection, given the number of their first stream.
    again: fn(u32, &mut Dice) -> Vec<u8>,
    /// How many frames these are.
    frames: u64,
    /// How many streams they use.
    streams: u32,
    /// It takes what the server says.
    reads: bool,
    /// The server must end it.
    is_ended: bool,
}

const USUAL: Flood = Flood {
    name: "",
    first: |_| Vec::new(),
    again: |_, _| Vec::new(),
    frames: 1,
    streams: 1,
    reads: true,
    is_ended: false,
};

/// Frames of one write where they are small.
const MANY: u32 = 100;

/// All of them.
fn floods() -> Vec<Flood> {
    let kinds = [resets(), of_the_connection(), headers(), bodies(), nonsense(), streams()];
    kinds.into_iter().flatten().collect()
}

/// As many calls as there may be, and more, of which nothing comes but the heads.
fn streams() -> Vec<Flood> {
    vec![Flood {
        name: "streams",
        again: |stream, _| {
            each(stream, |stream| {
                frames::frame(HEADERS, END_HEADERS, stream, &frames::call(SUBMIT))
            })
        },
        frames: u64::from(MANY),
        streams: MANY,
        ..USUAL
    }]
}

/// Calls that are reset at once, before and after they have reached the server.
fn resets() -> Vec<Flood> {
    vec![
        Flood {
            name: "rapid_resets",
            again: |stream, _| {
                each(stream, |stream| {
                    let head = frames::frame(HEADERS, END_HEADERS, stream, &frames::call(SUBMIT));
                    [head, reset(stream)].concat()
                })
            },
            frames: 2 * u64::from(MANY),
            streams: MANY,
            is_ended: true,
            ..USUAL
        },
        Flood {
            name: "resets_of_calls",
            again: |stream, _| {
                let get = v1::GetRequest { ids: vec![1], wait_ms: 10_000, ..Default::default() };
                let get = get.encode_to_vec();
                // Some frames later the server has taken the call.
                let calls = (0..10).flat_map(|nth| frames::whole_call(stream + nth * 2, GET, &get));
                let mut all: Vec<u8> = calls.collect();
                all.extend((0..50).flat_map(|_| frames::frame(PING, 0, 0, &[0; 8])));
                all.extend((0..10).flat_map(|nth| reset(stream + nth * 2)));
                all
            },
            frames: 80,
            streams: 10,
            ..USUAL
        },
    ]
}

/// Frames of the connection itself, to which the server has an answer.
fn of_the_connection() -> Vec<Flood> {
    vec![
        Flood {
            name: "pings",
            again: |_, _| same(&frames::frame(PING, 0, 0, &[7; 8])),
            frames: u64::from(MANY),
            reads: false,
            ..USUAL
        },
        Flood {
            name: "settings",
            again: |_, _| same(&frames::frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0xff, 0xff])),
            frames: u64::from(MANY),
            reads: false,
            ..USUAL
        },
        Flood {
            name: "acknowledgements",
            again: |_, _| same(&frames::frame(SETTINGS, ACK, 0, &[])),
            frames: u64::from(MANY),
            ..USUAL
        },
        Flood {
            name: "priorities",
            again: |stream, _| each(stream, |stream| frames::frame(PRIORITY, 0, stream, &[0; 5])),
            frames: u64::from(MANY),
            streams: MANY,
            ..USUAL
        },
        Flood {
            name: "windows_beyond_the_limit",
            again: |_, _| frames::frame(WINDOW_UPDATE, 0, 0, &0x7fff_ffff_u32.to_be_bytes()),
            is_ended: true,
            ..USUAL
        },
        Flood {
            name: "windows_of_nothing",
            again: |_, _| same(&frames::frame(WINDOW_UPDATE, 0, 0, &[0; 4])),
            frames: u64::from(MANY),
            is_ended: true,
            ..USUAL
        },
    ]
}

/// Heads of calls without an end, or without measure.
fn headers() -> Vec<Flood> {
    let open = |_: &mut Dice| frames::frame(HEADERS, 0, 1, &frames::call(SUBMIT));
    vec![
        Flood {
            name: "continuations",
            first: open,
            again: |_, _| {
                let field = frames::field("x-a", &"a".repeat(1_000));
                frames::frame(CONTINUATION, 0, 1, &field)
            },
            is_ended: true,
            ..USUAL
        },
        Flood {
            name: "empty_continuations",
            first: open,
            again: |_, _| same(&frames::frame(CONTINUATION, 0, 1, &[])),
            frames: u64::from(MANY),
            is_ended: true,
            ..USUAL
        },
        Flood {
            name: "large_heads",
            again: |stream, _| {
                let field = frames::field("x-a", &"a".repeat(15_000));
                let head = frames::frame(HEADERS, END_STREAM, stream, &frames::call(SUBMIT));
                let more = frames::frame(CONTINUATION, 0, stream, &field).repeat(3);
                let last = frames::frame(CONTINUATION, END_HEADERS, stream, &field);
                [head, more, last].concat()
            },
            frames: 5,
            ..USUAL
        },
        Flood {
            name: "heads_that_unfold",
            again: |stream, _| {
                let kept = frames::kept_field("x-a", &"a".repeat(4_000));
                let again = vec![frames::LAST_KEPT; 12_000];
                let fields = [frames::call(SUBMIT), kept, again].concat();
                frames::frame(HEADERS, END_HEADERS | END_STREAM, stream, &fields)
            },
            ..USUAL
        },
    ]
}

/// Messages that are too large, and messages that never come.
fn bodies() -> Vec<Flood> {
    vec![
        Flood {
            name: "messages_of_4_gib",
            again: |stream, _| oversize(stream, u32::MAX),
            frames: 2,
            ..USUAL
        },
        Flood {
            name: "messages_of_64_mib",
            again: |stream, _| oversize(stream, 64 << 20),
            frames: 2,
            ..USUAL
        },
        Flood {
            name: "bodies_beyond_the_window",
            first: |_| frames::frame(HEADERS, END_HEADERS, 1, &frames::call(SUBMIT)),
            again: |_, _| frames::frame(DATA, 0, 1, &[0; 1 << 14]),
            ..USUAL
        },
        Flood {
            name: "empty_pieces",
            first: |_| frames::frame(HEADERS, END_HEADERS, 1, &frames::call(SUBMIT)),
            again: |_, _| same(&frames::frame(DATA, 0, 1, &[])),
            frames: u64::from(MANY),
            ..USUAL
        },
    ]
}

/// What is no HTTP/2.
fn nonsense() -> Vec<Flood> {
    vec![
        Flood {
            name: "frames_too_large",
            again: |_, _| [&[0xff, 0xff, 0xff, DATA, 0, 0, 0, 0, 1][..], &[0; 1 << 14]].concat(),
            is_ended: true,
            ..USUAL
        },
        Flood {
            name: "unknown_frames",
            again: |_, _| frames::frame(0xfa, 0xff, 7, &[0; 1_000]),
            ..USUAL
        },
        Flood {
            name: "bytes",
            again: |_, dice| (0..512).flat_map(|_| dice.roll().to_be_bytes()).collect(),
            is_ended: true,
            ..USUAL
        },
    ]
}

fn each(stream: u32, frame: impl Fn(u32) -> Vec<u8>) -> Vec<u8> {
    (0..MANY).flat_map(|nth| frame(stream + nth * 2)).collect()
}

fn same(frame: &[u8]) -> Vec<u8> {
    frame.repeat(usize::try_from(MANY).expect("it is small"))
}

fn reset(stream: u32) -> Vec<u8> {
    /// The caller does not want it any more.
    const CANCEL: u32 = 8;
    frames::frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes())
}

/// A call whose message says that it is so long, and a little of it.
fn oversize(stream: u32, length: u32) -> Vec<u8> {
    let head = frames::frame(HEADERS, END_HEADERS, stream, &frames::call(SUBMIT));
    let body = [&[0][..], &length.to_be_bytes(), &[0; 1_000]].concat();
    [head, frames::frame(DATA, 0, stream, &body)].concat()
}

/// Pours them over a dispatcher, one after the other.
pub(super) fn run(run: &Run, dice: &mut Dice) -> Report {
    let mut report = Report::default();
    let site = Site::with_workers(&FLAGS, 2);
    let addr = site.grid.dispatcher_addr;
    let meter = Meter::of(site.grid.dispatcher.id());
    let honest = Honest::start(Whom::Unkeyed(addr));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime can be built");
    let amount = Amount {
        frames: run.many(2_000, 1_000_000),
        span: Duration::from_millis(run.many(100, 5_000)),
    };
    if let Err(wrong) = honest.goes_on(usize::try_from(run.many(300, 10_000)).unwrap_or(300)) {
        report.complain(wrong);
    }
    let place = Place { addr, meter, honest: &honest, runtime: &runtime };
    let calm = meter.memory();
    for flood in floods() {
        report.part(flood.name, one(&place, &flood, calm, amount, dice));
    }
    let wrong = honest.complaints();
    report.exactly("honest_failures", count(wrong.len()), 0);
    report.complain_of(wrong.into_iter().take(3).collect());
    report
}

/// Where floods are poured, and who works there.
struct Place<'a> {
    addr: SocketAddr,
    meter: Meter,
    honest: &'a Honest,
    runtime: &'a Runtime,
}

/// Pours one. Its memory is what the dispatcher has more than at `calm`, also if floods before
/// it left some of that behind.
fn one(place: &Place<'_>, flood: &Flood, calm: u64, amount: Amount, dice: &mut Dice) -> Report {
    let mut report = Report::default();
    let watching = place.meter.watch_memory();
    place.honest.forget();
    let came = Arc::new(Came::default());
    place.runtime.block_on(pour(place.addr, flood, amount, dice, &came));
    let answered = place.honest.answered();
    if answered < ANSWERED
        && let Err(wrong) = place.honest.goes_on(usize::try_from(ANSWERED).unwrap_or(usize::MAX))
    {
        report.complain(wrong);
    }
    report.at_least("frames", came.frames.load(Ordering::Relaxed), amount.frames / LEAST);
    report.figure("answered_meanwhile", answered);
    let grown = watching.most().saturating_sub(calm) / 1_024;
    report.at_most("memory_mib", grown, MEMORY);
    let ended = came.ended.load(Ordering::Relaxed);
    report.at_least("ended", ended, u64::from(flood.is_ended));
    report.figure("with_a_reason", came.goaways.load(Ordering::Relaxed));
    report
}

/// What came of a flood.
#[derive(Debug, Default)]
struct Came {
    /// Frames that were written.
    frames: AtomicU64,
    /// Connections that the server ended.
    ended: AtomicU64,
    /// Of which it said why.
    goaways: AtomicU64,
}

/// Writes so many frames for so long at the least.
#[derive(Debug, Clone, Copy)]
struct Amount {
    frames: u64,
    span: Duration,
}

async fn pour(addr: SocketAddr, flood: &Flood, size: Amount, dice: &mut Dice, came: &Arc<Came>) {
    let began = Instant::now();
    let (first, again, reads) = (flood.first, flood.again, flood.reads);
    let (of_one, streams) = (flood.frames, flood.streams);
    let pours = (0..CONNECTIONS).map(|_| {
        let (came, mut dice) = (Arc::clone(came), Dice::new(dice.roll()));
        tokio::spawn(async move {
            let is_less = || came.frames.load(Ordering::Relaxed) < size.frames;
            while is_less() || began.elapsed() < size.span {
                let Ok(stream) = TcpStream::connect(addr).await else { continue };
                let (from, mut to) = stream.into_split();
                let mut hears = Hears { from, bytes: Vec::new(), is_told_why: false };
                let mut is_ended = false;
                let mut next = 1;
                let mut bytes = [frames::hello(None), first(&mut dice)].concat();
                while (is_less() || began.elapsed() < size.span) && !is_ended {
                    bytes.extend(again(next, &mut dice));
                    let writes = timeout(STUCK, to.write_all(&bytes));
                    let written = tokio::select! {
                        written = writes => written,
                        () = hears.hear(), if reads => Ok(Err(ErrorKind::BrokenPipe.into())),
                    };
                    match written {
                        Ok(Ok(())) => came.frames.fetch_add(of_one, Ordering::Relaxed),
                        Ok(Err(_)) => {
                            is_ended = true;
                            continue;
                        }
                        Err(_) => break,
                    };
                    bytes.clear();
                    next += streams * 2;
                }
                to.shutdown().await.ok();
                if reads {
                    timeout(STUCK, hears.hear()).await.ok();
                }
                came.ended.fetch_add(u64::from(is_ended || hears.is_told_why), Ordering::Relaxed);
                came.goaways.fetch_add(u64::from(hears.is_told_why), Ordering::Relaxed);
            }
        })
    });
    let pours: Vec<_> = pours.collect();
    let all = async {
        for pour in pours {
            pour.await.expect("a flood does not panic");
        }
    };
    timeout(LONGEST, all).await.ok();
}

/// What a flood hears.
struct Hears {
    from: OwnedReadHalf,
    bytes: Vec<u8>,
    /// The server said why it ends the connection.
    is_told_why: bool,
}

impl Hears {
    /// Reads until the server ends the connection. Nothing is lost if this is not waited for.
    async fn hear(&mut self) {
        while self.from.read_buf(&mut self.bytes).await.is_ok_and(|length| length > 0) {
            while let Some((kind, _, payload, length)) = frames::read(&self.bytes) {
                let code = payload.get(4..8);
                self.is_told_why |= kind == GOAWAY && code.is_some_and(|code| code != [0; 4]);
                self.bytes.drain(..length);
            }
        }
    }
}
