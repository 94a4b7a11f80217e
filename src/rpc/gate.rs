//! Who may be connected: a bounded number of peers, and who of them must leave when
//! there is no place for the next one.
//!
//! ```text
//!  accepted ──▶ a place is free ──────────────────────────────▶ guest
//!          └──▶ none is: who only takes up room must leave ─▶┘
//!                              nobody does ──▶ told so, and turned away
//! ```
//!
//! Who waits for the server, and who takes what it is told, never has to leave. What this
//! module does not do: it serves nobody; whoever does says when a call begins and ends
//! ([`Guest::begins`]).

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use rustix::process::{Resource, getrlimit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::calls::Call;
use super::network::{Port, Stream};

/// Peers that the system keeps for the server until it accepts them (Linux allows 4,096
/// unless told otherwise). Those beyond have to try again, after one second, two, and so on,
/// and whoever came later may be let in before them.
const BACKLOG: i32 = 4_096;

/// The pause after a failed accept. At the limit of file descriptors accept fails
/// at once, again and again: without a pause it would use a whole core.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Of a process's file descriptors so many eighths are for the peers of a gate. The
/// rest is for its files, for what it connects to itself, and for its other ports.
const EIGHTHS_FOR_CALLS: u64 = 5;
const EIGHTHS_FOR_HTTP: u64 = 2;
/// The fewest peers of a gate, however few descriptors there are.
const FEWEST: usize = 16;

/// While others wait for a place, a peer must make its first call within this time. A
/// client's first words come together with the connection, however far away it is.
const NEVER_CALLED: Duration = Duration::from_millis(250);
/// While others wait for a place, a peer must do something within this time: go on
/// speaking or reading once it has begun to, or else make its next call. A packet that
/// was lost is sent again within it.
const IDLE: Duration = Duration::from_secs(1);
/// A peer is turned away when there was no place for so long, and nobody to make room.
const FULL: Duration = Duration::from_secs(2);
/// What it is told may take so long, for so many at once; others are told nothing.
const FAREWELL: Duration = Duration::from_secs(1);
const FAREWELLS: usize = 64;
/// What it is told, by the rules of HTTP/2 (RFC 9113, 6.8: a GOAWAY with the code
/// `ENHANCE_YOUR_CALM`, which gRPC calls `RESOURCE_EXHAUSTED`) and of HTTP/1.
const FULL_OF_CALLS: &[u8] = b"\0\0\0\x04\0\0\0\0\0\
    \0\0\x53\x07\0\0\0\0\0\0\0\0\0\0\0\0\x0b\
    the server has as many connections as it may have; close some, or try later";
const FULL_OF_HTTP: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\n\
    retry-after: 5\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
/// So many peers come in, and as many leave for them, in one turn; then a turn is given to
/// those who work. A crowd comes together, and comes to be idle together: to greet and to
/// forget all of it without a pause would be a long one.
const TOGETHER: u32 = 4;
const TURN: Duration = Duration::from_millis(1);
/// How often it is looked again for somebody who only takes up room.
const LOOK: Duration = Duration::from_millis(50);
/// Peers that are found in one look, so that not each of them costs a look at all.
const FOUND: usize = 64;
/// How often an operator is told of it.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Bytes that the calls of all peers may hold: of messages that are not whole yet, and of
/// answers that were not taken. Some tens of the largest messages; whoever holds the most
/// is cut when there are more.
const HELD_BYTES: u64 = 256 << 20;
/// What an open call holds besides, about: its stream, its place in tables, its task.
const CALL_BYTES: u64 = 4 << 10;

/// Where peers come in.
pub(crate) struct Gate {
    port: Port,
    what: For,
    places: Arc<Semaphore>,
    /// Nobody got a place since then.
    full_since: Option<Instant>,
    farewells: Arc<Semaphore>,
    /// Those that are here, and some that were.
    guests: Vec<Weak<Known>>,
    most: usize,
    /// Was accepted, and has no place yet.
    waiting: Option<Stream>,
    /// Were found to only take up room, the first to leave first.
    found: VecDeque<Weak<Known>>,
    /// Was told to leave, until when it must have.
    leaving: Option<(Weak<Known>, Instant)>,
    paused_until: Option<Instant>,
    /// When the turn began in which peers come in, and how many did.
    turn: (Instant, u32),
    /// When an operator was told that somebody was cut.
    told: Option<Instant>,
    held: Arc<Held>,
    cut: CancellationToken,
}

/// A place behind the gate, for as long as this lives.
#[derive(Debug)]
pub(crate) struct Place {
    guest: Guest,
    _permit: OwnedSemaphorePermit,
}

/// Somebody who has a place, as calls know it.
#[derive(Debug, Clone)]
pub(crate) struct Guest(Arc<Known>);

/// What the calls of all guests hold.
#[derive(Debug, Default)]
struct Held {
    bytes: AtomicU64,
    /// There are too many.
    is_full: Notify,
}

/// What is known of a peer that has a place.
#[derive(Debug)]
struct Known {
    came: Instant,
    /// Milliseconds after that it last did something.
    moved: AtomicU64,
    /// It has made a call, ever.
    called: AtomicBool,
    /// Calls that it waits for.
    open: AtomicU32,
    /// Of these, calls that wait for it: to say the rest, or to take an answer.
    stuck: AtomicU32,
    /// Bytes that its calls hold.
    holds: AtomicU64,
    of_all: Arc<Held>,
    left: AtomicBool,
    cut: CancellationToken,
}

/// Why a peer only takes up room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    /// It never made a call.
    NeverCalled,
    /// It does not say the rest of a call, or does not take an answer.
    Stuck,
    /// It has no call.
    Idle,
}

/// That a peer only takes up room, and for how long.
#[derive(Debug, Clone, Copy)]
struct Idleness {
    why: Why,
    span: Duration,
}

impl Why {
    /// How long it may.
    fn patience(self) -> Duration {
        match self {
            Self::NeverCalled => NEVER_CALLED,
            Self::Stuck | Self::Idle => IDLE,
        }
    }
}

impl Idleness {
    /// The first to leave first: whose patience is over how many times. Who has no call may
    /// be about to make its next one, and goes last: it is the only one that did as it should.
    fn turn(self) -> (bool, Reverse<u128>) {
        let times = self.span.as_millis() * 1_000 / self.why.patience().as_millis();
        (self.why == Why::Idle, Reverse(times))
    }
}

/// What the peers of a gate want.
#[derive(Debug, Clone, Copy)]
pub(crate) enum For {
    Calls,
    Http,
}

impl Gate {
    /// A gate for at most so many peers, and for no more than the process has file
    /// descriptors for. When `cut` is cancelled, so are all guests.
    pub(crate) fn new(port: Port, peers: usize, what: For, cut: CancellationToken) -> Self {
        // The standard library asks for a backlog of 128.
        if let Err(error) = port.listen(BACKLOG) {
            warn!(%error, "cannot ask for a longer backlog");
        }
        let most = peers.min(descriptors_for(what));
        Self {
            port,
            what,
            places: Arc::new(Semaphore::new(most)),
            full_since: None,
            farewells: Arc::new(Semaphore::new(FAREWELLS)),
            guests: Vec::new(),
            most,
            waiting: None,
            found: VecDeque::new(),
            leaving: None,
            paused_until: None,
            turn: (Instant::now(), 0),
            told: None,
            held: Arc::default(),
            cut,
        }
    }

    /// The next peer that has a place. Nothing is lost if this is not waited for.
    pub(crate) async fn next(&mut self) -> (Stream, Place) {
        let held = Arc::clone(&self.held);
        loop {
            tokio::select! {
                next = self.next_place() => return next,
                () = held.is_full.notified() => self.relieve(),
            }
        }
    }

    async fn next_place(&mut self) -> (Stream, Place) {
        loop {
            if let Some(until) = self.paused_until {
                sleep_until(until).await;
                self.paused_until = None;
            }
            if self.waiting.is_none() {
                match self.port.accept().await {
                    Ok(stream) => self.waiting = Some(stream),
                    Err(error) => self.cannot_accept(&error),
                }
                continue;
            }
            self.turn().await;
            let permit = self.place().await;
            match (self.waiting.take(), permit) {
                (Some(stream), Some(permit)) => return (stream, self.welcome(permit)),
                (Some(stream), None) => self.turn_away(stream),
                (None, _) => {}
            }
        }
    }

    /// Waits for the next turn when enough peers came in in this one.
    async fn turn(&mut self) {
        let (began, came) = self.turn;
        if came >= TOGETHER {
            sleep_until(began + TURN).await;
        }
        if began.elapsed() >= TURN {
            self.turn = (Instant::now(), 0);
        }
    }

    fn cannot_accept(&mut self, error: &io::Error) {
        warn!(%error, "cannot accept a connection");
        self.paused_until = Some(Instant::now() + ACCEPT_PAUSE);
        let errors = [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE];
        if errors.iter().any(|full| error.raw_os_error() == Some(full.raw_os_error())) {
            self.make_room();
        }
    }

    /// A place, once there is one, if somebody can be made to leave in time.
    async fn place(&mut self) -> Option<OwnedSemaphorePermit> {
        let full_since = *self.full_since.get_or_insert_with(Instant::now);
        let places = Arc::clone(&self.places);
        loop {
            let permit = match Arc::clone(&places).try_acquire_owned() {
                Ok(permit) => Some(permit),
                Err(_) if !self.make_room() && full_since.elapsed() > FULL => return None,
                Err(_) => {
                    let permit = timeout(LOOK, Arc::clone(&places).acquire_owned()).await;
                    permit.ok().and_then(Result::ok)
                }
            };
            if permit.is_some() {
                self.full_since = None;
                return permit;
            }
        }
    }

    /// Tells a peer that there is no place for it.
    fn turn_away(&mut self, mut stream: Stream) {
        self.tell(Instant::now(), "no place for more connections, and all of them have calls");
        let Ok(turn) = Arc::clone(&self.farewells).try_acquire_owned() else { return };
        let farewell = match self.what {
            For::Calls => FULL_OF_CALLS,
            For::Http => FULL_OF_HTTP,
        };
        tokio::spawn(async move {
            let says = async {
                stream.write_all(farewell).await?;
                stream.shutdown().await?;
                // Who is hung up on while it speaks may not hear what it was told.
                let mut sink = [0; 1 << 10];
                while stream.read(&mut sink).await? > 0 {}
                Ok::<_, io::Error>(())
            };
            if !matches!(timeout(FAREWELL, says).await, Ok(Ok(()))) {
                debug!("a peer that was turned away may not have heard why");
            }
            drop(turn);
        });
    }

    fn welcome(&mut self, permit: OwnedSemaphorePermit) -> Place {
        self.turn.1 += 1;
        let known = Known {
            came: Instant::now(),
            moved: AtomicU64::new(0),
            called: AtomicBool::new(false),
            open: AtomicU32::new(0),
            stuck: AtomicU32::new(0),
            holds: AtomicU64::new(0),
            of_all: Arc::clone(&self.held),
            left: AtomicBool::new(false),
            cut: self.cut.child_token(),
        };
        let guest = Guest(Arc::new(known));
        if self.guests.len() > self.most * 2 {
            self.guests.retain(|guest| here(guest).is_some());
        }
        self.guests.push(Arc::downgrade(&guest.0));
        Place { guest, _permit: permit }
    }

    /// Tells one peer to leave, unless another was told and has not left yet; whether
    /// there is such a one.
    fn make_room(&mut self) -> bool {
        let now = Instant::now();
        if let Some((guest, until)) = &self.leaving
            && here(guest).is_some()
            && now < *until
        {
            return true;
        }
        let Some((guest, Idleness { why, span })) = self.find(now) else { return false };
        debug!(?why, ?span, "a peer makes room for another");
        guest.cut.cancel();
        self.leaving = Some((Arc::downgrade(&guest), now + IDLE));
        true
    }

    /// Cuts who holds the most, until all that stay hold little enough: first of those who do
    /// not go on. Who holds less than an even share is to blame for nothing; what those hold
    /// who are cut already comes back by itself.
    fn relieve(&mut self) {
        let now = Instant::now();
        let guests = self.guests.iter().filter_map(here);
        let guests = guests.filter(|guest| !guest.cut.is_cancelled());
        let held = guests.map(|guest| (guest.holds.load(Ordering::Relaxed), guest));
        let mut held: Vec<_> = held.collect();
        let mut bytes: u64 = held.iter().map(|(holds, _)| holds).sum();
        let share = bytes / u64::try_from(held.len().max(1)).unwrap_or(u64::MAX);
        let blame = |(holds, guest): &(u64, Arc<Known>)| {
            let is_stuck = guest.is_stuck() && guest.idle(now) >= NEVER_CALLED;
            Reverse((is_stuck && *holds >= share, *holds))
        };
        held.sort_by_cached_key(blame);
        for (holds, guest) in held {
            if bytes <= HELD_BYTES {
                break;
            }
            bytes -= holds;
            guest.cut.cancel();
            self.tell(now, "too many bytes in calls: who holds the most is cut");
        }
    }

    fn tell(&mut self, now: Instant, what: &str) {
        if self.told.is_none_or(|told| now > told + TELL_EVERY) {
            warn!(connections = self.guests.len(), "{what}");
            self.told = Some(now);
        }
    }

    /// Somebody who only takes up room.
    fn find(&mut self, now: Instant) -> Option<(Arc<Known>, Idleness)> {
        if self.found.is_empty() {
            self.look(now);
        }
        // Meanwhile it may have left, or called.
        std::iter::from_fn(|| self.found.pop_front()).find_map(|guest| {
            let guest = here(&guest)?;
            let idleness = guest.idleness(now)?;
            Some((guest, idleness))
        })
    }

    /// Looks at everybody.
    fn look(&mut self, now: Instant) {
        self.guests.retain(|guest| here(guest).is_some());
        let idle =
            self.guests.iter().filter_map(|guest| Some((here(guest)?.idleness(now)?, guest)));
        let mut idle: Vec<_> = idle.collect();
        idle.sort_by_key(|(idleness, _)| idleness.turn());
        self.found = idle.iter().take(FOUND).map(|(_, guest)| Weak::clone(guest)).collect();
        self.tell(now, "no place for more connections: who only takes up room is cut");
    }
}

impl Place {
    pub(crate) fn guest(&self) -> &Guest {
        &self.guest
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.guest.0.left.store(true, Ordering::Relaxed);
    }
}

impl Guest {
    /// Is cancelled when the peer has to leave.
    pub(crate) fn cut(&self) -> &CancellationToken {
        &self.0.cut
    }

    /// It begins a call.
    pub(crate) fn begins(&self) -> Call {
        self.0.called.store(true, Ordering::Relaxed);
        self.0.open.fetch_add(1, Ordering::Relaxed);
        self.moves();
        self.holds(CALL_BYTES);
        Call::new(self.clone())
    }

    /// A call of it is over.
    pub(super) fn ends(&self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
        self.moves();
        self.lets_go(CALL_BYTES);
    }

    /// Its calls hold so many bytes more.
    pub(super) fn holds(&self, bytes: u64) {
        let Held { bytes: all, is_full } = &*self.0.of_all;
        self.0.holds.fetch_add(bytes, Ordering::Relaxed);
        if all.fetch_add(bytes, Ordering::Relaxed) + bytes > HELD_BYTES {
            is_full.notify_one();
        }
    }

    /// Its calls hold so many bytes fewer.
    pub(super) fn lets_go(&self, bytes: u64) {
        self.0.holds.fetch_sub(bytes, Ordering::Relaxed);
        self.0.of_all.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// It did something.
    pub(super) fn moves(&self) {
        let after = u64::try_from(self.0.came.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.moved.store(after, Ordering::Relaxed);
    }

    /// One more of its calls waits for it, or one fewer.
    pub(super) fn is_stuck(&self, is_stuck: bool) {
        if is_stuck {
            self.0.stuck.fetch_add(1, Ordering::Relaxed);
        } else {
            self.0.stuck.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Known {
    /// Why it may have to leave, if it may.
    fn idleness(&self, now: Instant) -> Option<Idleness> {
        let span = self.idle(now);
        let why = if !self.called.load(Ordering::Relaxed) {
            Why::NeverCalled
        } else if self.open.load(Ordering::Relaxed) == 0 {
            Why::Idle
        } else if self.is_stuck() {
            Why::Stuck
        } else {
            return None;
        };
        (span >= why.patience()).then_some(Idleness { why, span })
    }

    /// How long it has done nothing.
    fn idle(&self, now: Instant) -> Duration {
        let moved = self.came + Duration::from_millis(self.moved.load(Ordering::Relaxed));
        now.saturating_duration_since(moved)
    }

    fn is_stuck(&self) -> bool {
        self.stuck.load(Ordering::Relaxed) > 0
    }
}

/// A guest that has not left.
fn here(guest: &Weak<Known>) -> Option<Arc<Known>> {
    guest.upgrade().filter(|known| !known.left.load(Ordering::Relaxed))
}

/// How many peers a process has descriptors for.
fn descriptors_for(what: For) -> usize {
    let eighths = match what {
        For::Calls => EIGHTHS_FOR_CALLS,
        For::Http => EIGHTHS_FOR_HTTP,
    };
    let most = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(most / 8 * eighths).unwrap_or(usize::MAX).max(FEWEST)
}

#[cfg(test)]
mod tests;
