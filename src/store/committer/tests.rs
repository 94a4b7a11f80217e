use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::core::event::{Event, TaskEvent};
use crate::core::id::{Epoch, Seq, TaskId};
use crate::core::task::Spec;
use crate::store::conformance::samples::{group, submitted};
use crate::store::{Memory, Recovered, StoredEvent, StoredTask};

/// A store in memory that answers its n-th append (from 0) in another way.
#[derive(Debug)]
struct Failing {
    memory: Memory,
    appends: AtomicUsize,
    fails_at: usize,
    how: fn() -> Error,
}

impl Failing {
    fn new(memory: &Memory, fails_at: usize, how: fn() -> Error) -> Arc<Self> {
        Arc::new(Self { memory: memory.clone(), appends: AtomicUsize::new(0), fails_at, how })
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

    fn scan(&self, visit: &mut dyn FnMut(Event)) -> Result<Recovered, Error> {
        self.memory.scan(visit)
    }

    fn tasks(&self, ids: &[TaskId]) -> Result<Vec<Option<StoredTask>>, Error> {
        self.memory.tasks(ids)
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
        self.memory.reopen()
    }
}

/// Hands over four groups of one task each. The answers, and the ids that were stored.
fn commit_four(memory: &Memory, store: Arc<dyn Store>) -> (Vec<Result<(), String>>, Vec<u64>) {
    let (answers, answered) = mpsc::channel();
    let committer = Committer::start(store, move |done| {
        answers.send(done.map_err(|error| error.to_string())).unwrap();
    })
    .unwrap();
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
    assert_eq!(answers, [Ok(()), Ok(()), Ok(()), Ok(())]);
    assert_eq!(stored, [1, 2, 3, 4]);
}

#[test]
fn an_answer_comes_after_its_group_is_stored() {
    let memory = Memory::new();
    let (counts, counted) = mpsc::channel();
    let seen = memory.clone();
    let committer = Committer::start(Arc::new(memory), move |_| {
        let last = seen.scan(&mut |_| {}).unwrap().last_id;
        counts.send(last).unwrap();
    })
    .unwrap();
    for id in 1..=3 {
        committer.commit(Arc::new(group([submitted(id, b"")])));
        let deadline = std::time::Duration::from_secs(30);
        assert_eq!(counted.recv_timeout(deadline), Ok(Some(TaskId(id))));
    }
    committer.stop();
}

#[test]
fn after_a_failure_nothing_more_is_stored() {
    let memory = Memory::new();
    let failing = Failing::new(&memory, 1, || Error::Failed { what: "no sync".to_owned() });
    let (answers, stored) = commit_four(&memory, failing);
    let later = "the store failed: an earlier group failed: the store failed: no sync";
    assert_eq!(
        answers,
        [
            Ok(()),
            Err("the store failed: no sync".to_owned()),
            Err(later.to_owned()),
            Err(later.to_owned())
        ]
    );
    assert_eq!(stored, [1]);
}

#[test]
fn after_a_full_disk_every_group_is_answered_as_full() {
    let memory = Memory::new();
    let failing = Failing::new(&memory, 2, || Error::Full);
    let (answers, stored) = commit_four(&memory, failing);
    let full = Err(Error::Full.to_string());
    assert_eq!(answers, [Ok(()), Ok(()), full.clone(), full]);
    assert_eq!(stored, [1, 2]);
}

#[test]
fn a_panic_of_the_engine_is_a_failure_like_any_other() {
    let memory = Memory::new();
    let failing = Failing::new(&memory, 0, || panic!("as asked for"));
    let (answers, stored) = commit_four(&memory, failing);
    assert_eq!(answers.len(), 4);
    assert_eq!(answers[0], Err("the store failed: the engine panicked".to_owned()));
    assert!(answers.iter().all(Result::is_err));
    assert_eq!(stored, [0; 0]);
}
