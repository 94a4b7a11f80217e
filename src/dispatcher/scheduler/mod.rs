//! The one loop that owns all tasks. Everything that changes a task passes through
//! here, one message after the other:
//!
//! ```text
//!  message ─▶ core decides an event ─▶ core applies it ─▶ the open group
//!                                                              │ one commit at a time
//!  replies, answers, watchers, at-most-once pushes ◀── durable ┘
//! ```
//!
//! While one group is being committed the next one fills; there is no timer between
//! them. A reply waits for the group it depends on, reads and refusals included.
//! What runs ahead of the commit is the push of an ordinary task: its token carries
//! the boot, its id a synced reservation, so that a crash before the commit leaves
//! nothing that could be mistaken for a stored task.
//!
//! The loop never waits for anything but its next message: disk reads go to the
//! blocking pool, commits to the committer's thread, frames into unbounded pipes
//! that credit bounds. Only where no sync is asked for (`os`) it writes a small group
//! into the system's cache by itself.

mod assign;
mod commits;
mod group;
mod line;
mod loading;
mod message;
mod outcomes;
mod queries;
mod sessions;
mod space;
mod staged;
mod submit;
mod tally;
mod upkeep;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rand::Rng as _;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::time::Instant;

pub(crate) use assign::KNOWN_WORKERS_WAIT;
pub(crate) use message::{
    Again, Counted, Ended, Gone, Handle, Join, Listing, Message, Oldest, Refusal, Report, Running,
    Settlement, Snapshot, Stored,
};

use self::assign::{Gate, Reading, Unnoted};
use self::group::{InFlight, Open, Outgoing, Size};
use self::line::Line;
use self::loading::Loading;
use self::sessions::Session;
use self::space::Space;
use self::staged::Staged;
use self::tally::Tally;
use super::recovery::Restored;
use super::types::Types;
use crate::clock::Clock;
use crate::core::id::{Seq, TaskId, Timestamp};
use crate::core::keys::Keys;
use crate::core::number_map::NumberMap;
use crate::core::placement::{Fleet, Member};
use crate::core::queue::Queue;
use crate::core::retention::Retention;
use crate::core::task_type::TypeId;
use crate::shutdown::Shutdown;
use crate::store::committer::{Answer, Committer};
use crate::store::{self, Group, Store};

/// Messages taken in one turn: enough to batch, few enough to stay fair.
const TURN: usize = 512;
/// Messages that may wait for the loop; senders wait beyond that.
const INBOX: usize = 4_096;
/// Groups a slow watcher may fall behind before it reads from the store.
const BROADCAST: usize = 64;
/// A turn this long after the last one is late while leases are held, and later than that
/// the grace of a handler that has timed out may be over before its worker was heard.
const LATE: Duration = Duration::from_secs(1);
/// When what could not be read on a full disk is read again.
const READ_AGAIN: Duration = Duration::from_secs(1);

/// What the loop is told by the configuration.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    /// A lease ends unless its session reports within this time.
    pub(crate) lease: Duration,
    /// Tasks that may wait and run.
    pub(crate) max_queued: u64,
    /// Bytes of their payloads.
    pub(crate) max_queued_bytes: u64,
}

/// The loop and all it owns.
#[derive(Debug)]
pub(crate) struct Scheduler {
    rules: Rules,
    clock: Clock,
    dice: rand::rngs::StdRng,
    store: Arc<dyn Store>,

    /// Until the history is known.
    loading: Option<Loading>,
    queue: Queue,
    keys: Keys,
    retention: Retention,
    types: Types,
    fleet: Fleet,
    gate: Gate,
    staged: Staged,
    /// The type whose task was sent last.
    served_last: TypeId,
    /// How far payloads have been read, of types with more that waits than memory holds.
    reading: BTreeMap<TypeId, Reading>,
    unnoted: Unnoted,
    tally: Tally,
    sessions: BTreeMap<Member, Session>,
    known_workers: BTreeMap<Arc<str>, (u64, Arc<str>)>,
    waiters: NumberMap<TaskId, Vec<oneshot::Sender<Ended>>>,

    open: Open,
    line: Line,
    in_flight: Option<InFlight>,
    /// How large the group was that was handed over last.
    last_group: Size,
    space: Space,
    committer: Committer,
    outgoing: BTreeMap<Member, Outgoing>,
    /// How many pushes to a worker wait for a commit.
    held_back: BTreeMap<Member, u32>,
    /// The last place in the log that is durable.
    durable_to: Seq,
    /// The greatest id whose task is stored.
    stored_to: TaskId,
    /// Tasks below this were inherited from the last boot.
    inherited_below: TaskId,
    /// Until then, inherited tasks have their start stored before the push.
    cautious_until: Timestamp,

    inbox: mpsc::Receiver<Message>,
    committed: mpsc::UnboundedReceiver<Answer>,
    shared: Shared,
    last_turn: Timestamp,
    next_member: u64,
    next_sweep: Timestamp,
    next_slow: Timestamp,
    /// Notes to forget with the next group.
    over_notes: Vec<u64>,
    /// First tasks of batches whose keys are forgotten, but not yet in the store.
    over_keys: Vec<TaskId>,
    draining: bool,
    trimming: bool,
    announced_end: Option<store::Error>,
}

/// What the loop shares with those who ask it.
#[derive(Debug)]
struct Shared {
    types: watch::Sender<Arc<Types>>,
    committed: broadcast::Sender<Arc<Group>>,
    /// Places up to this one may have been trimmed.
    trimmed_to: watch::Sender<Seq>,
    /// For the loop's own errands.
    inbox: mpsc::WeakSender<Message>,
}

impl Scheduler {
    /// A loop over what a store held, and the handle by which it is asked.
    pub(crate) fn new(
        rules: Rules,
        clock: Clock,
        store: Arc<dyn Store>,
        restored: Restored,
    ) -> std::io::Result<(Self, Handle)> {
        let (inbox_sender, inbox) = mpsc::channel(INBOX);
        let (answers, committed) = mpsc::unbounded_channel();
        let appender = Committer::start(store.clone(), move |answer| {
            // The loop ends only after its last commit; before that it listens.
            drop(answers.send(answer));
        })?;
        let types = watch::Sender::new(Arc::new(restored.types.clone()));
        let trimmed_to = watch::Sender::new(restored.trimmed_to);
        let broadcast = broadcast::Sender::new(BROADCAST);
        let handle = Handle::new(
            inbox_sender.clone(),
            types.subscribe(),
            broadcast.clone(),
            trimmed_to.subscribe(),
        );
        let now = clock.now();
        let gate = Gate::new(&restored.workers, now);
        let mut scheduler = Self {
            rules,
            clock,
            dice: rand::make_rng(),
            store,
            tally: Tally::new(restored.started),
            loading: Some(Loading::new(restored.rest)),
            next_slow: gate.opens_at(now).unwrap_or(now),
            gate,
            cautious_until: now,
            durable_to: Seq(restored.queue.next_seq().0.saturating_sub(1)),
            stored_to: restored.stored_to,
            inherited_below: restored.queue.ids.next(),
            queue: restored.queue,
            keys: restored.keys,
            retention: restored.retention,
            types: restored.types,
            known_workers: restored.workers,
            fleet: Fleet::default(),
            staged: Staged::default(),
            served_last: TypeId(0),
            reading: BTreeMap::new(),
            unnoted: Unnoted::default(),
            sessions: BTreeMap::new(),
            waiters: NumberMap::default(),
            open: Open::default(),
            line: Line::default(),
            in_flight: None,
            last_group: Size::default(),
            space: Space::at_start(restored.has_room, now),
            committer: appender,
            outgoing: BTreeMap::new(),
            held_back: BTreeMap::new(),
            inbox,
            committed,
            shared: Shared {
                types,
                committed: broadcast,
                trimmed_to,
                inbox: inbox_sender.downgrade(),
            },
            last_turn: now,
            next_member: 0,
            next_sweep: now,
            over_notes: Vec::new(),
            over_keys: Vec::new(),
            draining: false,
            trimming: false,
            announced_end: None,
        };
        if let Some(skipped) = restored.skipped {
            scheduler.open.group.entries.push(skipped.into());
        }
        Ok((scheduler, handle))
    }

    /// Runs until the shutdown, or until the store fails.
    pub(crate) async fn run(mut self, shutdown: Shutdown) -> Result<(), store::Error> {
        self.begin_loading();
        let mut messages = Vec::with_capacity(TURN);
        let (mut asked, mut unfinished) = (true, false);
        let sleep = tokio::time::sleep_until(Instant::now());
        tokio::pin!(sleep);
        loop {
            tokio::select! {
                biased;
                Some(answer) = self.committed.recv() => self.on_committed(answer)?,
                () = shutdown.begun(), if !self.draining => self.begin_drain(),
                // Once nobody can ask any more it answers at once, for ever.
                taken = self.inbox.recv_many(&mut messages, TURN), if asked => asked = taken > 0,
                () = sleep.as_mut() => {}
                // Behind what the sockets have by now.
                () = tokio::task::yield_now(), if unfinished => {}
            }
            self.begin_turn();
            self.submit_from_line();
            for message in messages.drain(..) {
                self.receive(message);
            }
            self.upkeep();
            unfinished = self.assign();
            self.send_frames();
            self.commit();
            unfinished |= self.is_lines_turn();
            if let Some(error) = self.announced_end.take() {
                return Err(error);
            }
            if self.draining && self.space == Space::None {
                // What waits for space has no receipt.
                return Err(store::Error::Full);
            }
            if self.draining && self.in_flight.is_none() && self.open.is_empty() {
                break;
            }
            let wake = Instant::from_std(self.clock.instant(self.next_wake()));
            // Never later before it rang: with each task it would become earlier again, which
            // wakes the driver of timers, and to wake up once for nothing costs less.
            if wake < sleep.deadline() || sleep.is_elapsed() {
                sleep.as_mut().reset(wake);
            }
        }
        self.stop().await;
        Ok(())
    }

    fn handle(&mut self, message: Message) {
        match message {
            Message::Submit { batch, reply } => self.line_up(batch, reply),
            Message::Look { ids, wait, reply } => self.look(&ids, wait, reply),
            Message::Cancel { tasks, reply } => self.cancel(&tasks, reply),
            Message::Retry { tasks, reply } => self.retry(&tasks, reply),
            Message::List { listing, reply } => self.list(&listing, reply),
            Message::Stats { reply } => self.stats(reply),
            Message::End { reply } => self.end(reply),
            Message::Learn { types } => self.learn(&types),
            Message::Endpoints { endpoints, complete } => {
                self.set_endpoints(endpoints, complete);
            }
            Message::Link { registration, state, problem } => {
                self.tally.link(&registration, state, problem);
            }
            Message::Join { join, reply } => self.join(&join, reply),
            Message::Report { member, report } => self.report(member, report),
            Message::Leave { member, goodbye } => self.leave(member, goodbye),
            Message::Fetched { type_id, rows } => self.fetched(type_id, rows),
            Message::Judged { member, token, answer } => self.judged(member, token, answer),
            Message::Trimmable { look, events } => self.trim(&look, events),
            Message::Room { has_room } => self.hear_of_room(has_room),
            Message::Loaded { part, taken } => {
                self.loaded(part);
                drop(taken);
            }
        }
    }

    /// Notices that this process was away: whatever ran out meanwhile gets its time
    /// back, and the sockets are read before anything is given up.
    fn begin_turn(&mut self) {
        let now = self.clock.now();
        let gap = now.since(self.last_turn);
        if gap > self.rules.lease / 3 {
            self.queue.leases.postpone(gap);
        }
        if gap > LATE {
            self.queue.leases.postpone_timeouts(gap);
        }
        self.last_turn = now;
    }

    fn roll(&mut self) -> u64 {
        self.dice.next_u64()
    }

    fn begin_drain(&mut self) {
        self.draining = true;
        tracing::debug!("dispatcher drains");
        if self.loading.is_some() {
            // Of a stop before everything is known the next boot is to think as of a crash.
            return;
        }
        self.note_all_leases();
        let next_id = self.queue.ids.next();
        self.open.group.entries.push(crate::core::event::Event::Stopped { next_id }.into());
    }

    /// Lets go of everything, the store last: while somebody reads it, it is open, and
    /// a process that ended then would leave it as a crash does.
    async fn stop(mut self) {
        let reader = self.loading.take().and_then(Loading::into_reader);
        self.committer.stop();
        drop(self.inbox);
        if let Some(reader) = reader {
            // What it read, or failed to read, is for the next start.
            drop(reader.await);
        }
    }
}

#[cfg(test)]
mod tests;
