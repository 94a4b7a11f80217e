use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::core::event::{Event, TaskEvent};
use crate::core::id::{Epoch, Seq, TaskId};
use crate::core::task::Spec;
use crate::store::conformance::samples::{group, submitted};
use crate::store::{Memory, Position, Recovered, StoredEvent, StoredTask};

/// Far beyond what anything here takes, also on a slow machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// A store in memory that answers its n-th append (from 0) in another way.
#[derive(Debug)]
struct Failing {
    memory: Memory,
    appends: AtomicUsize,
    fails_at: usize,
    how: fn() -> Error,
    reopens: fn() -> Result<(), Error>,
    /// It takes every group at once.
    at_once: bool,
}

impl Failing {
    fn new(memory: &Memory, fails_at: usize, how: fn() -> Error) -> Arc<Self> {
        let (memory, appends) = (memory.clone(), AtomicUsize::new(0));
        Arc::new(Self { memory, appends, fails_at, how, reopens: || Ok(()), at_once: false })
    }

    fn at_once(memory: &Memory, fails_at: usize, how: fn() -> Error) -> Arc<Self> {
        let mut failing = Self::new(memory, fails_at, how);
        Arc::get_mut(&mut failing).unwrap().at_once = true;
        failing
    }
}

impl Store for Failing {
    fn take_epoch(&self, nonce: u64) -> Result<Vec<Epoch>, Error> {
        self.memory.take_epoch(nonce)
    }

    fn append(&self, group: &Group) -> Result<(), Error> {
        if self.appends.fetch_add(1, Ordering::SeqCst) == self.fails_at {
            return Err((self.how)());
        }
        self.memory.append(group)
    }

    fn append_at_once(&self, group: &Group) -> Option<Result<(), Error>> {
        self.at_once.then(|| self.append(group))
    }

    fn summary(&self, visit: &mut dyn FnMut(Event)) -> Result<Recovered, Error> {
        self.memory.summary(visit)
    }

    fn history(
        &self,
        from: Position,
        to: Recovered,
        limit: usize,
        visit: &mut dyn FnMut(Event),
    ) -> Result<Option<Position>, Error> {
        self.memory.history(from, to, limit, visit)
    }

    fn tasks_within(&self, ids: &[TaskId], bytes: usize) -> Result<Vec<Option<StoredTask>>, Error> {
        self.memory.tasks_within(ids, bytes)
    }

    fn events(&self, places: &[Seq]) -> Result<Vec<Option<StoredEvent>>, Error> {
        self.memory.events(places)
    }

    fn specs(&self, ids: &[TaskId]) -> Result<Vec<Option<Spec>>, Error> {
        self.memory.specs(ids)
    }

    fn facts(&self, places: &[Seq]) -> Result<Vec<Option<TaskEvent>>, Error> {
        self.memory.facts(places)
    }

    fn events_after(
        &self,
        place: Seq,
        limit: usize,
        bytes: usize,
    ) -> Result<Vec<StoredEvent>, Error> {
        self.memory.events_after(place, limit, bytes)
    }

    fn reopen(&self) -> Result<(), Error> {
        (self.reopens)()
    }

    fn has_room(&self) -> bool {
        true
    }
}

fn no_sync() -> Error {
    Error::Failed { what: "no sync".to_owned() }
}

fn told(answer: Answer) -> String {
    match answer {
        Answer::Durable(_) => "durable".to_owned(),
        Answer::Waits => "waits".to_owned(),
        Answer::Failed(error) => error.to_string(),
    }
}

/// Hands over four groups of one task each. The answers, and the ids that were stored.
fn commit_four(memory: &Memory, store: Arc<dyn Store>) -> (Vec<String>, Vec<u64>) {
    let (answers, answered) = mpsc::channel();
    let mut committer =
        Committer::start(store, move |answer| answers.send(told(answer)).unwrap()).unwrap();
    for id in 1..=4 {
        committer.commit(Arc::new(group([submitted(id, b"")])));
    }
    committer.stop();
    let mut stored = Vec::new();
    memory
        .scan(&mut |event| {
            if let Event::Submitted { id, .. } = event {
                stored.push(id.0);
            }
        })
        .unwrap();
    (answered.iter().collect(), stored)
}

#[test]
fn every_group_is_stored_and_answered_before_the_stop_returns() {
    let memory = Memory::new();
    let (answers, stored) = commit_four(&memory, Arc::new(memory.clone()));
    assert_eq!(answers, ["durable"; 4]);
    assert_eq!(stored, [1, 2, 3, 4]);
}

#[test]
fn an_answer_comes_after_its_group_is_stored() {
    let memory = Memory::new();
    let (counts, counted) = mpsc::channel();
    let seen = memory.clone();
    let mut committer = Committer::start(Arc::new(memory), move |_| {
        let last = seen.scan(&mut |_| {}).unwrap().last_id;
        counts.send(last).unwrap();
    })
    .unwrap();
    for id in 1..=3 {
        committer.commit(Arc::new(group([submitted(id, b"")])));
        assert_eq!(counted.recv_timeout(PATIENCE), Ok(Some(TaskId(id))));
    }
    committer.stop();
}

#[test]
fn after_a_failure_nothing_more_is_stored() {
    let memory = Memory::new();
    let (answers, stored) = commit_four(&memory, Failing::new(&memory, 1, no_sync));
    let later = "the store failed: an earlier group failed: the store failed: no sync";
    assert_eq!(answers, ["durable", "the store failed: no sync", later, later]);
    assert_eq!(stored, [1]);
}

#[test]
fn a_group_that_finds_no_space_is_stored_once_there_is_some() {
    let memory = Memory::new();
    let (answers, answered) = mpsc::channel();
    let failing = Failing::new(&memory, 1, || Error::Full);
    let mut committer =
        Committer::start(failing, move |answer| answers.send(told(answer)).unwrap()).unwrap();
    for id in 1..=3 {
        committer.commit(Arc::new(group([submitted(id, b"")])));
    }
    for expected in ["durable", "waits", "durable", "durable"] {
        assert_eq!(answered.recv_timeout(PATIENCE).unwrap(), expected);
    }
    committer.stop();
    assert_eq!(memory.scan(&mut |_| {}).unwrap().last_id, Some(TaskId(3)));
}

#[test]
fn what_a_store_takes_at_once_is_answered_where_it_was_handed_over() {
    let memory = Memory::new();
    let (answers, answered) = mpsc::channel();
    let mut committer = Committer::start(Failing::at_once(&memory, 9, no_sync), move |answer| {
        answers.send((told(answer), std::thread::current().id())).unwrap();
    })
    .unwrap();
    for id in 1..=3 {
        committer.commit(Arc::new(group([submitted(id, b"")])));
        let us = std::thread::current().id();
        assert_eq!(answered.try_recv(), Ok(("durable".to_owned(), us)));
        assert_eq!(memory.scan(&mut |_| {}).unwrap().last_id, Some(TaskId(id)));
    }
    committer.stop();
    assert!(answered.try_recv().is_err(), "each is answered once");
}

#[test]
fn what_fails_at_once_is_a_failure_like_any_other() {
    for how in [no_sync, || panic!("as asked for")] {
        let memory = Memory::new();
        let (answers, stored) = commit_four(&memory, Failing::at_once(&memory, 1, how));
        assert_eq!(answers.len(), 4);
        assert_eq!(answers[0], "durable");
        assert!(answers[1].starts_with("the store failed: "), "{answers:?}");
        assert!(answers[2..].iter().all(|answer| answer.contains("an earlier group failed")));
        assert_eq!(stored, [1]);
    }
}

#[test]
fn what_finds_no_space_at_once_is_left_to_the_thread_and_the_next_ones_come_after_it() {
    let memory = Memory::new();
    let failing = Failing::at_once(&memory, 1, || Error::Full);
    let (answers, stored) = commit_four(&memory, failing.clone());
    assert_eq!(answers, ["durable"; 4], "the thread finds space");
    assert_eq!(stored, [1, 2, 3, 4]);
    assert_eq!(failing.appends.load(Ordering::SeqCst), 5);
}

#[test]
fn a_store_that_cannot_be_opened_anew_has_failed() {
    let memory = Memory::new();
    let mut failing = Failing::new(&memory, 0, || Error::Full);
    Arc::get_mut(&mut failing).unwrap().reopens = || Err(Error::Failed { what: "bad".to_owned() });
    let (answers, stored) = commit_four(&memory, failing);
    assert_eq!(answers[..2], ["waits", "the store failed: bad"]);
    assert_eq!(stored, [0; 0]);
}

#[test]
fn a_stop_ends_the_wait_for_space() {
    let (answers, answered) = mpsc::channel();
    let mut failing = Failing::new(&Memory::new(), 0, || Error::Full);
    Arc::get_mut(&mut failing).unwrap().reopens = || Err(Error::Full);
    let mut committer =
        Committer::start(failing, move |answer| answers.send(told(answer)).unwrap()).unwrap();
    committer.commit(Arc::new(group([submitted(1, b"")])));
    assert_eq!(answered.recv_timeout(PATIENCE).unwrap(), "waits");
    committer.stop();
    assert_eq!(answered.recv_timeout(PATIENCE).unwrap(), Error::Full.to_string());
}

#[test]
fn a_panic_of_the_engine_is_a_failure_like_any_other() {
    let memory = Memory::new();
    let failing = Failing::new(&memory, 0, || panic!("as asked for"));
    let (answers, stored) = commit_four(&memory, failing);
    assert_eq!(answers.len(), 4);
    assert_eq!(answers[0], "the store failed: the engine panicked");
    assert!(answers[1..].iter().all(|answer| answer.contains("an earlier group failed")));
    assert_eq!(stored, [0; 0]);
}
