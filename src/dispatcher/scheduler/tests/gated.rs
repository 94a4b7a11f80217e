//! A store in memory whose commits a test can hold back or fail.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use tokio::sync::watch;

use super::world::{PATIENCE, soon};
use crate::core::event::{Event, TaskEvent};
use crate::core::id::{Epoch, Seq, TaskId};
use crate::core::task::Spec;
use crate::store::{self, Group, Memory, Position, Recovered, Store, StoredEvent, StoredTask};

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Gated {
    pub(super) memory: Memory,
    gate: Arc<Gate>,
}

#[derive(Debug)]
struct Gate {
    state: Mutex<State>,
    changed: Condvar,
    /// How many commits wait at the gate.
    waiting: watch::Sender<usize>,
    /// Reads of tasks.
    reads: Mutex<Vec<Vec<TaskId>>>,
    groups: Mutex<Vec<Group>>,
    /// Reads of events with their results.
    results: Mutex<usize>,
    /// Reads of events in order.
    walks: Mutex<usize>,
    has_room: AtomicBool,
    history: Mutex<State>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Held,
    Full,
    Failing,
}

impl Gated {
    pub(super) fn new(memory: Memory) -> Self {
        let gate = Gate {
            state: Mutex::new(State::Open),
            changed: Condvar::new(),
            waiting: watch::Sender::new(0),
            reads: Mutex::default(),
            groups: Mutex::default(),
            results: Mutex::default(),
            walks: Mutex::default(),
            has_room: AtomicBool::new(true),
            history: Mutex::new(State::Open),
        };
        Self { memory, gate: Arc::new(gate) }
    }

    /// Holds the next commit back, and those after it.
    pub(super) fn hold(&self) {
        self.set(State::Held);
    }

    /// Lets all commits through.
    pub(super) fn release(&self) {
        self.set(State::Open);
    }

    /// Leaves no space for commits, those that are held back too, nor for reads of tasks.
    pub(super) fn fill_up(&self) {
        self.set(State::Full);
    }

    /// Leaves room for outcomes and trims alone, or for new tasks too.
    pub(super) fn make_room(&self, has_room: bool) {
        self.gate.has_room.store(has_room, Ordering::SeqCst);
    }

    /// Holds everybody back who reads the history.
    pub(super) fn hold_history(&self) {
        self.set_history(State::Held);
    }

    /// Lets them read it.
    pub(super) fn release_history(&self) {
        self.set_history(State::Open);
    }

    /// Lets them find it damaged.
    pub(super) fn damage_history(&self) {
        self.set_history(State::Failing);
    }

    /// Whether the test alone has it.
    pub(super) fn is_nobody_elses(&self) -> bool {
        Arc::strong_count(&self.gate) == 1
    }

    /// Fails all commits, those that are held back too, and reads of events in order.
    pub(super) fn fail(&self) {
        self.set(State::Failing);
    }

    /// Waits until a commit is held back.
    pub(super) async fn holds(&self) {
        let mut waiting = self.gate.waiting.subscribe();
        soon("commit", waiting.wait_for(|waiting| *waiting > 0)).await.unwrap();
    }

    /// The ids of each read of tasks so far.
    pub(super) fn reads(&self) -> Vec<Vec<TaskId>> {
        self.gate.reads.lock().unwrap().clone()
    }

    /// How often events were read with their results.
    pub(super) fn results(&self) -> usize {
        *self.gate.results.lock().unwrap()
    }

    /// How often events were read in order.
    pub(super) fn walks(&self) -> usize {
        *self.gate.walks.lock().unwrap()
    }

    /// All that was committed in this boot.
    pub(super) fn log(&self) -> Vec<Event> {
        let groups = self.gate.groups.lock().unwrap();
        let entries = groups.iter().flat_map(|group| &group.entries);
        entries.map(|entry| entry.event.clone()).collect()
    }

    /// The notes that were forgotten in this boot.
    pub(super) fn notes_forgotten(&self) -> Vec<u64> {
        let groups = self.gate.groups.lock().unwrap();
        groups.iter().flat_map(|group| group.trim.notes.clone()).collect()
    }

    fn set_history(&self, state: State) {
        *self.gate.history.lock().unwrap() = state;
        self.gate.changed.notify_all();
    }

    fn set(&self, state: State) {
        *self.gate.state.lock().unwrap() = state;
        self.gate.changed.notify_all();
    }
}

impl Store for Gated {
    fn take_epoch(&self, nonce: u64) -> Result<Vec<Epoch>, store::Error> {
        self.memory.take_epoch(nonce)
    }

    fn append(&self, group: &Group) -> Result<(), store::Error> {
        let state = self.gate.state.lock().unwrap();
        let is_held = usize::from(*state == State::Held);
        self.gate.waiting.send_modify(|waiting| *waiting += is_held);
        let held = |state: &mut State| *state == State::Held;
        let (state, _) = self.gate.changed.wait_timeout_while(state, PATIENCE, held).unwrap();
        self.gate.waiting.send_modify(|waiting| *waiting -= is_held);
        match *state {
            State::Failing => return Err(failed()),
            State::Full => return Err(store::Error::Full),
            State::Open | State::Held => {}
        }
        drop(state);
        self.memory.append(group)?;
        self.gate.groups.lock().unwrap().push(group.clone());
        Ok(())
    }

    fn summary(&self, visit: &mut dyn FnMut(Event)) -> Result<Recovered, store::Error> {
        self.memory.summary(visit)
    }

    fn history(
        &self,
        from: Position,
        to: Recovered,
        limit: usize,
        visit: &mut dyn FnMut(Event),
    ) -> Result<Option<Position>, store::Error> {
        let history = self.gate.history.lock().unwrap();
        let held = |state: &mut State| *state == State::Held;
        let (state, _) = self.gate.changed.wait_timeout_while(history, PATIENCE, held).unwrap();
        if *state == State::Failing {
            return Err(store::Error::Damaged { what: "the test said so".to_owned() });
        }
        self.memory.history(from, to, limit, visit)
    }

    fn tasks_within(
        &self,
        ids: &[TaskId],
        bytes: usize,
    ) -> Result<Vec<Option<StoredTask>>, store::Error> {
        let is_full = *self.gate.state.lock().unwrap() == State::Full;
        let read =
            if is_full { Err(store::Error::Full) } else { self.memory.tasks_within(ids, bytes) };
        let count = read.as_ref().map_or(ids.len(), Vec::len);
        self.gate.reads.lock().unwrap().push(ids[..count].to_vec());
        read
    }

    fn events(&self, places: &[Seq]) -> Result<Vec<Option<StoredEvent>>, store::Error> {
        *self.gate.results.lock().unwrap() += 1;
        self.memory.events(places)
    }

    fn specs(&self, ids: &[TaskId]) -> Result<Vec<Option<Spec>>, store::Error> {
        self.memory.specs(ids)
    }

    fn facts(&self, places: &[Seq]) -> Result<Vec<Option<TaskEvent>>, store::Error> {
        self.memory.facts(places)
    }

    fn events_after(
        &self,
        place: Seq,
        limit: usize,
        bytes: usize,
    ) -> Result<Vec<StoredEvent>, store::Error> {
        *self.gate.walks.lock().unwrap() += 1;
        if *self.gate.state.lock().unwrap() == State::Failing {
            return Err(failed());
        }
        self.memory.events_after(place, limit, bytes)
    }

    fn reopen(&self) -> Result<(), store::Error> {
        self.memory.reopen()
    }

    fn has_room(&self) -> bool {
        self.gate.has_room.load(Ordering::SeqCst)
    }
}

fn failed() -> store::Error {
    store::Error::Failed { what: "the test said so".to_owned() }
}
