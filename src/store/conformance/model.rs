//! Random histories, compared with the store in memory.

use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::engines::{Engine, dump};
use super::samples::{any_change, any_side_event, changed, submitted};
use crate::core::event::Event;
use crate::core::id::{Seq, TaskId};
use crate::core::task::Change;
use crate::store::{Group, Memory, Store};

/// Histories a run: each opens, closes and checks a file several times.
const HISTORIES: u32 = 16;

/// One step of a history.
#[derive(Debug, Clone)]
enum Step {
    /// A group: what it brings, and how many tasks, keys and notes it forgets.
    Append {
        /// Whether the store may take it at once, if it offers that.
        at_once: bool,
        facts: Vec<Fact>,
        trimmed: usize,
        keys: Vec<u64>,
        notes: Vec<u64>,
    },
    Restart,
    Crash,
    Reopen,
    Epoch(u64),
    /// Reads events after a place, with limits.
    After(u64, usize, usize),
}

/// Something for a group.
#[derive(Debug, Clone)]
enum Fact {
    /// A new task, so many ids later, with a payload of so many bytes.
    Submit { gap: u64, bytes: usize },
    /// Something happens to one of the tasks, with a result of so many bytes.
    Change { pick: usize, change: Change, bytes: usize },
    /// Anything else.
    Side(Event),
}

pub(super) fn any_history_is_kept_as_the_model_keeps_it<E: Engine + Fresh>(_: &E) {
    let mut runner = TestRunner::new(Config {
        cases: HISTORIES,
        failure_persistence: None,
        ..Config::default()
    });
    runner
        .run(&vec(any_step(), 1..20), |steps| {
            let engine = E::fresh();
            History::new(&engine).run(steps);
            Ok(())
        })
        .unwrap();
}

/// An engine of which there can be many.
pub(super) trait Fresh {
    fn fresh() -> Self;
}

impl Fresh for super::engines::InMemory {
    fn fresh() -> Self {
        Self::new()
    }
}

impl Fresh for super::engines::OnDisk {
    fn fresh() -> Self {
        // Synced or not makes no difference to what a file holds, only to when.
        Self::os()
    }
}

/// The store under test, the model, and what the next fact must know.
struct History<'e, E> {
    engine: &'e E,
    store: Box<dyn Store>,
    model: Memory,
    next_id: u64,
    next_seq: u64,
    /// The last event of each task that is kept.
    last: BTreeMap<u64, Option<u64>>,
    /// Keys and notes that were trimmed since the store was opened: until it is opened anew
    /// they are not stored again.
    trimmed: [BTreeSet<u64>; 2],
}

impl<'e, E: Engine> History<'e, E> {
    fn new(engine: &'e E) -> Self {
        let (store, model) = (engine.open(), Memory::new());
        let (last, trimmed) = (BTreeMap::new(), [BTreeSet::new(), BTreeSet::new()]);
        Self { engine, store, model, next_id: 1, next_seq: 1, last, trimmed }
    }

    fn run(mut self, steps: Vec<Step>) {
        for step in steps {
            self = self.step(step);
        }
        self = self.step(Step::Crash);
        assert_eq!(dump(self.store.as_ref()), dump(&self.model));
    }

    fn step(mut self, step: Step) -> Self {
        match step {
            Step::Append { at_once, facts, trimmed, keys, notes } => {
                let group = self.group(facts, trimmed, &keys, notes);
                let taken = at_once.then(|| self.store.append_at_once(&group)).flatten();
                taken.unwrap_or_else(|| self.store.append(&group)).unwrap();
                self.model.append(&group).unwrap();
                return self;
            }
            Step::Restart => {
                self.store = self.engine.restart(self.store);
                self.trimmed = Default::default();
            }
            Step::Crash => {
                self.store = self.engine.crash(self.store);
                self.trimmed = Default::default();
            }
            Step::Reopen => self.store.reopen().unwrap(),
            Step::Epoch(nonce) => {
                let expected = self.model.take_epoch(nonce).unwrap();
                assert_eq!(self.store.take_epoch(nonce).unwrap(), expected);
            }
            Step::After(place, limit, bytes) => {
                let expected = self.model.events_after(Seq(place), limit, bytes).unwrap();
                let found = self.store.events_after(Seq(place), limit, bytes).unwrap();
                assert_eq!(found, expected);
                return self;
            }
        }
        assert_eq!(dump(self.store.as_ref()), dump(&self.model));
        self
    }

    fn group(&mut self, facts: Vec<Fact>, trimmed: usize, keys: &[u64], notes: Vec<u64>) -> Group {
        let mut group = Group::default();
        for fact in facts {
            match fact {
                Fact::Submit { gap, bytes } => {
                    let id = self.next_id + gap;
                    self.next_id = id + 1;
                    self.last.insert(id, None);
                    group.entries.push(submitted(id, &vec![b'p'; bytes]));
                }
                Fact::Change { pick, change, bytes } => {
                    let Some(index) = pick.checked_rem(self.last.len()) else { continue };
                    let (&id, last) = self.last.iter_mut().nth(index).unwrap();
                    let seq = self.next_seq;
                    self.next_seq += 1;
                    let result = if change == Change::Completed { bytes } else { 0 };
                    let entry = changed(seq, id, *last, change).with(&vec![b'r'; result]);
                    *last = Some(seq);
                    group.entries.push(entry);
                }
                Fact::Side(Event::Keyed(batch)) if self.trimmed[0].contains(&batch.first.0) => {}
                Fact::Side(Event::Leased(notes)) if self.trimmed[1].contains(&notes.note) => {}
                Fact::Side(event) => group.entries.push(event.into()),
            }
        }
        let ended = self.last.iter().filter_map(|(&id, &last)| Some((id, last?)));
        let ended: Vec<(u64, u64)> = ended.take(trimmed).collect();
        for &(id, last) in &ended {
            self.last.remove(&id);
            group.trim.tasks.push((TaskId(id), Seq(last)));
        }
        self.trimmed[0].extend(keys);
        self.trimmed[1].extend(&notes);
        group.trim.keys = keys.iter().copied().map(TaskId).collect();
        group.trim.notes = notes;
        group
    }
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => any_append(),
        1 => Just(Step::Restart),
        1 => Just(Step::Crash),
        1 => Just(Step::Reopen),
        1 => any::<u64>().prop_map(Step::Epoch),
        2 => (0..40_u64, 0..20_usize, 0..2_000_usize)
            .prop_map(|(place, limit, bytes)| Step::After(place, limit, bytes)),
    ]
}

fn any_append() -> impl Strategy<Value = Step> {
    let numbers = || vec(0..20_u64, 0..3);
    (any::<bool>(), vec(any_fact(), 0..12), 0..4_usize, numbers(), numbers()).prop_map(
        |(at_once, facts, trimmed, keys, notes)| Step::Append {
            at_once,
            facts,
            trimmed,
            keys,
            notes,
        },
    )
}

fn any_fact() -> impl Strategy<Value = Fact> {
    let size = || prop_oneof![4 => 0..260_usize, 1 => 255..10_000_usize];
    prop_oneof![
        3 => (prop_oneof![9 => Just(0), 1 => 1..5_u64], size())
            .prop_map(|(gap, bytes)| Fact::Submit { gap, bytes }),
        4 => (any::<usize>(), any_change(), size())
            .prop_map(|(pick, change, bytes)| Fact::Change { pick, change, bytes }),
        2 => any_side_event().prop_map(Fact::Side),
    ]
}
