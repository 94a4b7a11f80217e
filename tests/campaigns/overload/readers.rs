//! Readers that do not read, and callers that do not say all: watches whose windows are
//! shut, answers that nobody takes, messages that are never whole. They slow nobody else,
//! and the dispatcher's memory is bounded.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use http_body_util::StreamBody;
use hyper::body::Frame;
use prost::Message as _;
use taskgrid::client::{Client, SubmitOptions, Task};
use taskgrid::core::id::TaskId;
use taskgrid::rpc::Network;
use taskgrid::wire::v1;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tonic::body::Body;
use tonic::codegen::Service as _;

use super::crowd::{self, Crowd, Manner, Words};
use super::frames;
use super::honest::{Honest, Whom};
use super::meter::Meter;
use super::{NOISE, WINDOW, in_rounds};
use crate::campaign::{Report, Run};
use crate::checker::count;
use crate::dice::Dice;
use crate::process::PATIENCE;
use crate::site::Site;
use crate::waits::within;
use crate::work::{self, Deed, Work};

/// Watches that are open and not read.
const READERS: u64 = 100;
const MANNERS: [Manner; 2] = [Manner::Deaf(Words::NarrowWatch), Manner::Shut(Words::NarrowWatch)];
/// Bytes of a result, and tasks of a batch.
const RESULT: usize = 50_000;
const BATCH: u64 = 40;
/// MiB that the dispatcher may need for all those watches, and for all that calls hold: twice
/// what they may, because it is read from the store, and cut a moment later.
const FOR_READERS: u64 = 96;
const FOR_CALLS: u64 = 2 * 256;

/// Opens them.
pub(super) fn run(run: &Run, dice: &mut Dice) -> Report {
    let mut report = Report::default();
    let site = Site::with_workers(&["--lease", "3s"], 2);
    let (addr, meter) = (site.grid.dispatcher_addr, Meter::of(site.grid.dispatcher.id()));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime can be built");
    let place = Place { addr, meter, runtime, honest: Honest::start(Whom::Dispatcher(addr)) };
    report.part("watches", watches(run, &place, dice));
    report.part("answers", answers(run, &place));
    report.part("messages", messages(run, &place));
    let wrong = place.honest.complaints();
    report.exactly("honest_failures", count(wrong.len()), 0);
    report.complain_of(wrong.into_iter().take(3).collect());
    report
}

struct Place {
    addr: SocketAddr,
    meter: Meter,
    runtime: Runtime,
    honest: Honest,
}

impl Place {
    /// Runs tasks with large results; their ids.
    fn large_results(&self) -> Result<Vec<TaskId>, String> {
        let works = (0..BATCH).map(|nth| {
            let name = format!("large-{nth}/{:016x}", rand::random::<u64>());
            Work { name, deed: Deed::Give(RESULT), padding: 0 }.payload()
        });
        let tasks: Vec<Task> = works.map(|payload| Task::new(work::TYPE, payload)).collect();
        let run = self.runtime.block_on(async {
            let client = Client::connect(&self.addr.to_string())?;
            client.run(&tasks, &SubmitOptions::default(), PATIENCE).await
        });
        Ok(run.map_err(|error| error.to_string())?.receipt.ids)
    }
}

/// Watches beside which honest work is measured.
fn watches(run: &Run, place: &Place, dice: &mut Dice) -> Report {
    let mut report = Report::default();
    in_rounds(run, &mut report, |part| watched(run, place, dice, part));
    report
}

fn watched(run: &Run, place: &Place, dice: &mut Dice, report: &mut Report) -> Result<u64, String> {
    let (windows, batches) = (run.many(1, 15), run.many(5, 200));
    for _ in 0..batches {
        place.large_results()?;
    }
    let before = place.honest.p99(windows, WINDOW)?;
    let (memory, watching) = (place.meter.memory(), place.meter.watch_memory());
    let crowd = Crowd::gather(place.addr, READERS, &MANNERS, dice);
    within(PATIENCE, || (crowd.here() == READERS).then_some(()));
    for _ in 0..batches {
        place.large_results()?;
    }
    let during = place.honest.p99(windows, WINDOW)?;
    report.at_least("readers", crowd.here(), READERS / 2);
    report.figure("cut", crowd.cut());
    crowd.leave();
    let after = place.honest.p99(windows, WINDOW)?;
    let grown = watching.most().saturating_sub(memory) / 1_024;
    report.at_most("memory_mib", grown, FOR_READERS);
    report.figure("result_mib", (u64::try_from(RESULT).unwrap_or(0) * BATCH * batches) >> 20);
    report.figure("p99_us_before", before);
    report.figure("p99_us_during", during);
    report.figure("p99_us_after", after);
    Ok(during.max(NOISE) * 1_000 / before.max(after).max(NOISE))
}

/// Large answers that are asked for many times, and not taken.
fn answers(run: &Run, place: &Place) -> Report {
    let mut report = Report::default();
    let ids = match place.large_results() {
        Ok(ids) => ids.into_iter().map(|id| id.0).collect(),
        Err(wrong) => {
            report.complain(wrong);
            return report;
        }
    };
    let get = v1::GetRequest { ids, ..v1::GetRequest::default() }.encode_to_vec();
    let calls = u32::try_from(run.many(60, 500)).expect("it is small");
    let mut bytes = frames::hello(Some(0));
    bytes.extend(
        (0..calls)
            .flat_map(|nth| frames::whole_call(nth * 2 + 1, "/taskgrid.v1.Dispatcher/Get", &get)),
    );
    let bytes: Arc<[u8]> = bytes.into();
    let addr = place.addr;
    hoard(place, &mut report, |_| {
        let bytes = Arc::clone(&bytes);
        async move {
            let Ok(mut stream) = TcpStream::connect(addr).await else { return };
            if stream.write_all(&bytes).await.is_ok() {
                crowd::answer_pings(&mut stream).await.ok();
            }
        }
    });
    report
}

/// Large messages that are begun many times, and never whole.
fn messages(run: &Run, place: &Place) -> Report {
    const LENGTH: u32 = 15 << 20;
    let mut report = Report::default();
    let calls = run.many(8, 60);
    let url = place.addr.to_string();
    hoard(place, &mut report, |_| {
        let url = url.clone();
        async move {
            let Ok(channel) = Network::Tcp.channel(&url) else { return };
            let piece = Bytes::from(vec![0; 1 << 20]);
            let calls = (0..calls).map(|_| {
                let (mut channel, piece) = (channel.clone(), piece.clone());
                let head = Bytes::from([&[0][..], &LENGTH.to_be_bytes()].concat());
                let pieces = std::iter::once(head).chain((0..14).map(move |_| piece.clone()));
                let pieces = pieces.map(|bytes| Ok::<_, std::io::Error>(Frame::data(bytes)));
                let pieces = futures_util::stream::iter(pieces);
                let body = StreamBody::new(pieces.chain(futures_util::stream::pending()));
                let request = tonic::codegen::http::Request::post(
                    "http://localhost/taskgrid.v1.Dispatcher/Submit",
                );
                let request = request.header("content-type", "application/grpc");
                let request = request.body(Body::new(body)).expect("it is a request");
                async move {
                    std::future::poll_fn(|cx| channel.poll_ready(cx)).await.ok();
                    channel.call(request).await.ok();
                }
            });
            futures_util::future::join_all(calls).await;
        }
    });
    report
}

/// Several at once make the dispatcher hold what it can, until somebody is cut.
fn hoard<Hoarding>(place: &Place, report: &mut Report, hoards: impl Fn(u64) -> Hoarding)
where
    Hoarding: Future<Output = ()> + Send + 'static,
{
    const HOARDERS: u64 = 6;
    let (before, watching) = (place.meter.memory(), place.meter.watch_memory());
    let cut = Arc::new(AtomicU64::new(0));
    let hoarders = (0..HOARDERS).map(|number| {
        let (cut, hoarding) = (Arc::clone(&cut), hoards(number));
        place.runtime.spawn(async move {
            hoarding.await;
            cut.fetch_add(1, Ordering::Relaxed);
        })
    });
    let hoarders: Vec<_> = hoarders.collect();
    let is_cut =
        within(Duration::from_secs(60), || (cut.load(Ordering::Relaxed) > 0).then_some(()));
    place.honest.forget();
    if let Err(wrong) = place.honest.goes_on(WINDOW) {
        report.complain(wrong);
    }
    let grown = watching.most().saturating_sub(before) / 1_024;
    report.at_most("memory_mib", grown, FOR_CALLS);
    report.at_least("cut", u64::from(is_cut.is_some()), 1);
    hoarders.iter().for_each(tokio::task::JoinHandle::abort);
}
