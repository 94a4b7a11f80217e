//! Groups: what becomes durable together, and what happens once it is.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::message::{Ended, Refusal, Reply, Snapshot, Stored};
use super::space::Space;
use super::{Message, READ_AGAIN, Scheduler};
use crate::core::event::{Entry, Event, TaskEvent};
use crate::core::id::{Seq, TaskId, Timestamp, Token};
use crate::core::placement::Member;
use crate::core::task::{Change, Outcome, Reason};
use crate::store::committer::Answer;
use crate::store::{self, Group};
use crate::wire::{self, v1};

/// Payloads and results of a group beyond this are not kept for watchers: they read
/// results from the store, so that a slow watcher holds no memory.
const WATCHED_BYTES: usize = 1 << 20;

/// How long a group in which nothing but tasks are whose callers wait for their ends
/// is left open, so that it takes their outcomes in: of a short task both are then one
/// commit. Its callers have no receipt until then, and nobody else waits for it.
const UNHURRIED: Duration = Duration::from_millis(2);

/// The group that fills.
#[derive(Debug, Default)]
pub(super) struct Open {
    pub(super) group: Group,
    pub(super) effects: Vec<Effect>,
    /// Ids below this are reserved by this group.
    pub(super) ids_end: Option<TaskId>,
    /// Bytes of the payloads in this group.
    pub(super) bytes: u64,
    /// The greatest id whose task is in this group.
    pub(super) stores_to: Option<TaskId>,
    /// The greatest place that this group trims.
    pub(super) trims_to: Option<Seq>,
    /// What is in it of callers that wait, and when it is to be committed even so.
    unhurried: Option<(Length, Timestamp)>,
}

/// How much is in the open group.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Length {
    entries: usize,
    effects: usize,
}

impl Open {
    pub(super) fn is_empty(&self) -> bool {
        self.group.is_empty() && self.effects.is_empty()
    }

    pub(super) fn length(&self) -> Length {
        Length { entries: self.group.entries.len(), effects: self.effects.len() }
    }

    /// What was added since `before` is in no hurry.
    pub(super) fn leave_time(&mut self, before: Length, now: Timestamp) {
        let due = match self.unhurried {
            _ if before == self.length() => return,
            Some((length, due)) if length == before => due,
            None if before == Length::default() => now.plus(UNHURRIED),
            _ => return,
        };
        self.unhurried = Some((self.length(), due));
    }

    /// Until when the group may stay open, if nobody waits for its commit.
    pub(super) fn unhurried_until(&self) -> Option<Timestamp> {
        let (length, due) = self.unhurried?;
        let hurries = length != self.length() || self.ids_end.is_some();
        (!hurries).then_some(due)
    }
}

/// How much a group had in it.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Size {
    pub(super) entries: usize,
    /// Of payloads and results.
    pub(super) bytes: usize,
}

impl Size {
    fn of(group: &Group) -> Self {
        let bytes = group.entries.iter().map(|entry| entry.bytes.len()).sum();
        Self { entries: group.entries.len(), bytes }
    }
}

/// The group that is being committed.
#[derive(Debug)]
pub(super) struct InFlight {
    group: Arc<Group>,
    open: Open,
    /// When it was handed over.
    since: Instant,
    /// In which turn that was.
    pub(super) handed_over: Timestamp,
}

/// What waits for a group to be durable: mostly answers to outcomes, thousands of them, so
/// that what is larger is boxed.
#[derive(Debug)]
pub(super) enum Effect {
    /// A batch is stored.
    Receipt(Reply, Box<Result<Stored, Refusal>>),
    /// How tasks stand.
    Snapshots(oneshot::Sender<Vec<Snapshot>>, Vec<Snapshot>),
    /// A task whose start, or the reservation of whose id, had to be stored first, or
    /// that comes behind such a one.
    Push(Member, Token, Box<v1::Assignment>),
    /// The final word on an outcome.
    Answer(Member, Token, v1::Answer),
    /// An outcome for a task that has ended: its last event tells the answer.
    Judge(Member, Token, Seq),
    /// A lease is over for the dispatcher: its handler shall stop.
    Stop(Member, Token),
}

/// Frames for one worker, collected over a turn.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    pub(super) assign: Vec<v1::Assignment>,
    pub(super) settled: Vec<v1::OutcomeAnswer>,
    pub(super) cancel: Vec<v1::Token>,
}

impl Scheduler {
    /// Applies an event and puts it into the open group.
    pub(super) fn record(&mut self, event: TaskEvent, result: Bytes) {
        let event = event.with_result_of(result.len());
        let was_running = self.queue.leases.find(event.id).is_some();
        self.tally.count(&event, was_running);
        let is_end = event.change.status().is_terminal();
        if is_end && self.queue.progress(event.id).runs_alone(&event.spec) {
            self.fleet.give_up(event.id);
        }
        self.queue.apply(&event, self.last_turn);
        // What runs left it when it was leased.
        if is_end && !was_running {
            self.staged.take(event.id);
        }
        self.open.group.entries.push(Entry { event: Event::Changed(event), bytes: result });
    }

    /// Lets an effect happen once all that was decided before is durable.
    pub(super) fn after_commit(&mut self, effect: Effect) {
        if !self.open.group.is_empty() {
            self.open.effects.push(effect);
        } else if let Some(in_flight) = &mut self.in_flight {
            in_flight.open.effects.push(effect);
        } else {
            self.carry_out(effect);
        }
    }

    /// Hands the open group to the committer, if that is idle.
    pub(super) fn commit(&mut self) {
        let is_early = self.open.unhurried_until().is_some_and(|due| self.last_turn < due);
        if self.in_flight.is_some() || self.open.group.is_empty() || is_early {
            return;
        }
        self.write_notes();
        // They ride along: forgetting a note, or a key, is worth no commit of its own.
        self.open.group.trim.notes.append(&mut self.over_notes);
        self.open.group.trim.keys.append(&mut self.over_keys);
        let mut open = std::mem::take(&mut self.open);
        if let Some(place) = open.trims_to {
            // Told before it is done: who reads and then finds his place still good
            // has read all that there was.
            self.shared.trimmed_to.send_if_modified(|known| {
                let is_newer = place > *known;
                *known = place.max(*known);
                is_newer
            });
        }
        self.last_group = Size::of(&open.group);
        // The next one is likely to be as long.
        self.open.group.entries.reserve(open.group.entries.len());
        self.open.effects.reserve(open.effects.len());
        let group = Arc::new(std::mem::take(&mut open.group));
        let since = Instant::now();
        self.committer.commit(group.clone());
        self.in_flight = Some(InFlight { group, open, since, handed_over: self.last_turn });
    }

    /// A group is durable: everything that waited for it happens. After an error
    /// nothing does: what is durable is unknown, and a restart will tell.
    pub(super) fn on_committed(&mut self, answer: Answer) -> Result<(), store::Error> {
        let durable = match answer {
            Answer::Durable(since) => since,
            Answer::Waits => {
                self.wait_for_space();
                return Ok(());
            }
            Answer::Failed(error) => return Err(error),
        };
        if self.space == Space::None {
            self.live_on_the_reserve();
        }
        let Some(InFlight { group, open, since, .. }) = self.in_flight.take() else {
            return Ok(());
        };
        self.tally.commits.add(durable.duration_since(since));
        if let Some(end) = open.ids_end {
            self.queue.ids.sync(end);
        }
        if let Some(id) = open.stores_to {
            self.stored_to = self.stored_to.max(id);
        }
        let places = group.entries.iter().filter_map(|entry| match &entry.event {
            Event::Changed(event) => Some(event.seq),
            _ => None,
        });
        self.durable_to = self.durable_to.max(places.max().unwrap_or_default());
        for effect in open.effects {
            self.carry_out(effect);
        }
        self.wake_waiters(&group);
        self.publish(group);
        Ok(())
    }

    /// Nothing is decided anew: the group stays as it is until there is space. Who
    /// waits for a receipt is told that none may come for long.
    fn wait_for_space(&mut self) {
        tracing::error!("no space is left for the store: submits are refused until there is");
        self.space = Space::None;
        let in_flight = self.in_flight.iter_mut().map(|in_flight| &mut in_flight.open);
        for open in in_flight.chain([&mut self.open]) {
            for effect in std::mem::take(&mut open.effects) {
                match effect {
                    // A caller that has left needs no answer.
                    Effect::Receipt(reply, receipt) => {
                        drop(reply.send(receipt.and(Err(Refusal::Waits))));
                    }
                    other => open.effects.push(other),
                }
            }
        }
    }

    /// The tasks about which something is decided and not durable.
    pub(super) fn undecided(&self) -> impl Iterator<Item = TaskId> {
        let in_flight = self.in_flight.iter().flat_map(|in_flight| &in_flight.group.entries);
        in_flight.chain(&self.open.group.entries).filter_map(|entry| match &entry.event {
            Event::Submitted { id, .. } => Some(*id),
            Event::Changed(event) => Some(event.id),
            _ => None,
        })
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            // A caller that has left needs no answer.
            Effect::Receipt(reply, receipt) => drop(reply.send(*receipt)),
            Effect::Snapshots(reply, snapshots) => drop(reply.send(snapshots)),
            Effect::Push(member, token, assignment) => self.push(member, token, *assignment),
            Effect::Answer(member, token, answer) => self.answer(member, token, answer),
            Effect::Judge(member, token, place) => self.judge(member, token, place),
            Effect::Stop(member, token) => {
                let told = self.told(token);
                self.outgoing.entry(member).or_default().cancel.push(told);
            }
        }
    }

    /// Sends a task. If its worker has left meanwhile it never had the task, so that
    /// nothing is known to have started: the task goes back instead.
    fn push(&mut self, member: Member, token: Token, assignment: v1::Assignment) {
        let id = TaskId(assignment.task_id);
        if let Some(waiting) = self.held_back.get_mut(&member) {
            *waiting -= 1;
            if *waiting == 0 {
                self.held_back.remove(&member);
            }
        }
        if self.sessions.contains_key(&member) {
            self.outgoing.entry(member).or_default().assign.push(assignment);
        } else if self.queue.leases.find(id).is_some_and(|held| held.lease.token == token)
            && !self.draining
        {
            self.end_lease(id, Outcome::Released);
        }
    }

    pub(super) fn answer(&mut self, member: Member, token: Token, answer: v1::Answer) {
        let token = Some(self.told(token));
        let mut message = v1::OutcomeAnswer { token, ..Default::default() };
        message.set_answer(answer);
        self.outgoing.entry(member).or_default().settled.push(message);
    }

    /// A token as workers are told of it: all sessions are of this boot.
    fn told(&self, token: Token) -> v1::Token {
        let epoch = self.queue.epoch();
        epoch.map_or_else(|| token.into(), |epoch| wire::said_in_session(token, epoch))
    }

    /// Looks the ending of a task up, to tell a repeated outcome from a late one.
    fn judge(&mut self, member: Member, token: Token, place: Seq) {
        let store = self.store.clone();
        let Some(inbox) = self.shared.inbox.upgrade() else { return };
        tokio::spawn(async move {
            let read = loop {
                match store::apart(&store, move |store| store.facts(&[place])).await {
                    Err(store::Error::Full) => tokio::time::sleep(READ_AGAIN).await,
                    read => break read,
                }
            };
            let answer = read.map(|events| match events.into_iter().next().flatten() {
                Some(event) if settles(&event, token) => v1::Answer::Duplicate,
                Some(_) => v1::Answer::Fenced,
                None => v1::Answer::Unknown,
            });
            // A loop that has ended answers nobody; the worker will ask again.
            drop(inbox.send(Message::Judged { member, token, answer }).await);
        });
    }

    pub(super) fn judged(
        &mut self,
        member: Member,
        token: Token,
        answer: Result<v1::Answer, store::Error>,
    ) {
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                self.announced_end = Some(error);
                return;
            }
        };
        if answer == v1::Answer::Fenced {
            self.tally.fenced();
        }
        self.answer(member, token, answer);
    }

    fn wake_waiters(&mut self, group: &Group) {
        if self.waiters.is_empty() {
            return;
        }
        for entry in &group.entries {
            let Event::Changed(event) = &entry.event else { continue };
            if !event.change.status().is_terminal() {
                continue;
            }
            for waiter in self.waiters.remove(&event.id).into_iter().flatten() {
                let ended = Ended { event: event.clone(), result: entry.bytes.clone() };
                // A caller that has left waits no more.
                drop(waiter.send(ended));
            }
        }
    }

    fn publish(&self, group: Arc<Group>) {
        if self.shared.committed.receiver_count() == 0 {
            return;
        }
        if let Some(group) = watched(group) {
            // Without a receiver nobody is told.
            drop(self.shared.committed.send(group));
        }
    }

    /// Sends what a turn collected, one frame of each kind and worker.
    pub(super) fn send_frames(&mut self) {
        for (member, outgoing) in std::mem::take(&mut self.outgoing) {
            let Some(session) = self.sessions.get(&member) else { continue };
            session.send(outgoing);
        }
    }
}

/// What watchers are told of a group, if anything happened to a task in it: its
/// changes alone where its payloads are large, and an empty group, so that they read
/// the store, where its results are.
fn watched(group: Arc<Group>) -> Option<Arc<Group>> {
    let changes = || group.entries.iter().filter(|e| matches!(e.event, Event::Changed(_)));
    changes().next()?;
    let all: usize = group.entries.iter().map(|entry| entry.bytes.len()).sum();
    if all <= WATCHED_BYTES {
        return Some(group);
    }
    let results: usize = changes().map(|entry| entry.bytes.len()).sum();
    if results > WATCHED_BYTES {
        return Some(Arc::default());
    }
    Some(Arc::new(Group { entries: changes().cloned().collect(), ..Group::default() }))
}

/// Whether this event is what an outcome with this token made of the task.
fn settles(event: &TaskEvent, token: Token) -> bool {
    let is_outcome = match &event.change {
        Change::Completed => true,
        Change::Failed { reason, .. } => {
            !matches!(reason, Reason::Lost | Reason::Poison | Reason::Unknown)
        }
        Change::Returned { .. } | Change::Cancelled | Change::Retried { .. } => false,
    };
    is_outcome && event.attempt.as_ref().is_some_and(|attempt| attempt.token == token)
}
