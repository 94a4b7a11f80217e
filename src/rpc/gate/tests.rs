use std::net::SocketAddr;

use bytes::Bytes;
use futures_util::FutureExt as _;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Body, Frame};
use tokio::net::{TcpListener, TcpStream};

use super::*;

/// Far beyond what anything here takes, also on a slow machine.
const LONG: Duration = Duration::from_secs(30);

struct World {
    gate: Gate,
    addr: SocketAddr,
    /// Keep their connections open.
    peers: Vec<TcpStream>,
}

impl World {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let port = Port::System { tcp: listener, local: None };
        let gate = Gate::new(port, 100, For::Calls, CancellationToken::new());
        Self { gate, addr, peers: Vec::new() }
    }

    async fn guest(&mut self) -> (Place, Guest) {
        self.peers.push(TcpStream::connect(self.addr).await.unwrap());
        let (_, place) = timeout(LONG, self.gate.next()).await.unwrap();
        let guest = place.guest().clone();
        (place, guest)
    }

    /// What the gate has to do, is done; nobody new is there.
    fn turn(&mut self) {
        assert!(self.gate.next().now_or_never().is_none());
    }
}

/// A body of pieces that never ends.
fn endless(pieces: usize, bytes: usize) -> impl Body<Data = Bytes, Error = std::io::Error> + Unpin {
    use futures_util::StreamExt as _;
    let piece = Bytes::from(vec![0; bytes]);
    let pieces = (0..pieces).map(move |_| Ok(Frame::data(piece.clone())));
    StreamBody::new(futures_util::stream::iter(pieces).chain(futures_util::stream::pending()))
}

#[tokio::test]
async fn who_holds_the_most_is_cut_when_all_calls_hold_too_much() {
    let mut world = World::new().await;
    let mut all = Vec::new();
    for mib in [10, 200, 40] {
        let (place, guest) = world.guest().await;
        let mut body = guest.begins().hears(endless(mib, 1 << 20));
        while body.frame().now_or_never().is_some() {}
        all.push((place, guest, body));
        world.turn();
    }
    assert!(
        all.iter().all(|(_, guest, _)| !guest.cut().is_cancelled()),
        "250 MiB are not too many"
    );
    let (_place, last) = world.guest().await;
    let mut body = last.begins().hears(endless(10, 1 << 20));
    while body.frame().now_or_never().is_some() {}
    world.turn();
    let cut: Vec<bool> = all.iter().map(|(_, guest, _)| guest.cut().is_cancelled()).collect();
    assert_eq!(cut, [false, true, false]);
    assert!(!last.cut().is_cancelled());
}

#[tokio::test]
async fn what_those_hold_who_are_cut_already_costs_nobody_else_its_place() {
    let mut world = World::new().await;
    let (_honest_place, honest) = world.guest().await;
    let mut hoards = Vec::new();
    for mib in [200, 100] {
        let (place, guest) = world.guest().await;
        let mut body = guest.begins().hears(endless(mib, 1 << 20));
        while body.frame().now_or_never().is_some() {}
        hoards.push((place, guest, body));
    }
    world.turn();
    // Nobody has let go of anything yet, and another call begins.
    let _call = honest.begins();
    world.turn();
    let cut: Vec<bool> = hoards.iter().map(|(_, guest, _)| guest.cut().is_cancelled()).collect();
    assert_eq!(cut, [true, false]);
    assert!(!honest.cut().is_cancelled());
}

#[tokio::test]
async fn who_says_nothing_but_holds_little_is_not_cut_before_a_hoarder_that_goes_on() {
    let mut world = World::new().await;
    let (_slow_place, slow) = world.guest().await;
    let mut pause = slow.begins().hears(endless(1, 1_000));
    while pause.frame().now_or_never().is_some() {}
    let (_place, hoarder) = world.guest().await;
    tokio::time::pause();
    tokio::time::advance(NEVER_CALLED).await;
    let mut body = hoarder.begins().hears(endless(300, 1 << 20));
    while body.frame().now_or_never().is_some() {}
    world.turn();
    assert!(hoarder.cut().is_cancelled());
    assert!(!slow.cut().is_cancelled());
}

#[tokio::test]
async fn a_crowd_comes_in_a_few_at_a_time() {
    let began = Instant::now();
    let mut world = World::new().await;
    for _ in 0..TOGETHER * 4 {
        world.peers.push(TcpStream::connect(world.addr).await.unwrap());
    }
    let mut places = Vec::new();
    for _ in &world.peers {
        places.push(timeout(LONG, world.gate.next()).await.unwrap());
    }
    // Those of the last turn come three turns after the first began.
    assert!(began.elapsed() >= TURN * 3, "{:?}", began.elapsed());
}

#[test]
fn who_is_idle_the_longest_for_its_kind_makes_room_first_and_who_has_no_call_last() {
    let idle = |why, millis| Idleness { why, span: Duration::from_millis(millis) };
    let mut all = [
        idle(Why::Idle, 60_000),
        idle(Why::NeverCalled, 300),
        idle(Why::Stuck, 3_000),
        idle(Why::NeverCalled, 1_000),
    ];
    all.sort_by_key(|idleness| idleness.turn());
    assert_eq!(all.map(|idleness| idleness.span.as_millis()), [1_000, 3_000, 300, 60_000]);
}

#[tokio::test]
async fn what_is_heard_to_its_end_or_given_up_or_taken_is_not_held() {
    let mut world = World::new().await;
    let (_place, guest) = world.guest().await;
    let held = |guest: &Guest| guest.0.holds.load(Ordering::Relaxed);
    let call = guest.begins();
    let mut body = call.hears(endless(3, 1_000));
    while body.frame().now_or_never().is_some() {}
    assert_eq!(held(&guest), CALL_BYTES + 3_000);
    drop(body);
    assert_eq!(held(&guest), CALL_BYTES);
    let mut body = call.hears(http_body_util::Full::new(Bytes::from_static(b"all of it")));
    assert!(body.frame().await.is_some());
    assert_eq!(held(&guest), CALL_BYTES);
    let mut told = call.tells(endless(2, 500));
    for _ in 0..2 {
        assert!(told.frame().now_or_never().is_some());
        assert_eq!(held(&guest), CALL_BYTES + 500);
    }
    assert!(told.frame().now_or_never().is_none());
    assert_eq!(held(&guest), CALL_BYTES);
    drop((body, told));
    assert_eq!(held(&guest), 0);
    assert_eq!(world.gate.held.bytes.load(Ordering::Relaxed), 0);
}
