//! What a group forgets, and what stays.

use super::engines::{Engine, dump};
use super::samples::{changed, group, keyed, leased, returned, submitted};
use super::scan;
use crate::core::event::Event;
use crate::core::id::{Seq, TaskId};
use crate::core::task::Change;
use crate::store::{Group, Recovered, Store, Trim};

fn trim_tasks(tasks: impl IntoIterator<Item = (u64, u64)>) -> Group {
    let tasks = tasks.into_iter().map(|(id, last)| (TaskId(id), Seq(last))).collect();
    Group { trim: Trim { tasks, ..Trim::default() }, ..Group::default() }
}

/// The ids and the places that are kept.
fn kept(store: &dyn Store) -> (Vec<u64>, Vec<u64>) {
    let (mut ids, mut places) = (vec![], vec![]);
    for event in scan(store).0 {
        match event {
            Event::Submitted { id, .. } => ids.push(id.0),
            Event::Changed(event) => places.push(event.seq.0),
            other => panic!("nobody stored {other:?}"),
        }
    }
    (ids, places)
}

/// Task 1 came back twice and then completed, among events of task 2 and 3.
fn three_tasks() -> Group {
    let large = [b'x'; 5_000];
    group([
        submitted(1, &large),
        submitted(2, &large),
        submitted(3, b""),
        changed(1, 1, None, returned()),
        changed(2, 2, None, Change::Completed).with(&large),
        changed(3, 1, Some(1), returned()),
        changed(4, 3, None, returned()),
        changed(5, 1, Some(3), Change::Completed).with(&large),
    ])
}

pub(super) fn a_trim_takes_a_task_with_its_whole_story(engine: &impl Engine) {
    let store = engine.open();
    store.append(&three_tasks()).unwrap();
    store.append(&trim_tasks([(1, 5)])).unwrap();
    assert_eq!(kept(store.as_ref()), (vec![2, 3], vec![2, 4]));
    let store = engine.restart(store);
    assert_eq!(kept(store.as_ref()), (vec![2, 3], vec![2, 4]));
    assert_eq!(store.tasks(&[TaskId(1)]).unwrap(), [None]);
    assert_eq!(store.events(&[Seq(5)]).unwrap(), [None]);
    let other = store.tasks(&[TaskId(2)]).unwrap().remove(0).unwrap();
    assert_eq!(other.payload.len(), 5_000);
    let other = store.events(&[Seq(2)]).unwrap().remove(0).unwrap();
    assert_eq!(other.result.len(), 5_000);
}

pub(super) fn a_trim_leaves_its_marks_for_a_restart(engine: &impl Engine) {
    let store = engine.open();
    store.append(&three_tasks()).unwrap();
    store.append(&trim_tasks([(1, 5)])).unwrap();
    store.append(&trim_tasks([(2, 2)])).unwrap();
    let marks = Recovered { last_seq: Seq(5), last_id: Some(TaskId(3)), trimmed_to: Seq(5) };
    assert_eq!(scan(store.as_ref()).1, marks);
    store.append(&group([changed(6, 3, Some(4), Change::Cancelled)])).unwrap();
    store.append(&trim_tasks([(3, 6)])).unwrap();
    let store = engine.crash(store);
    let marks = Recovered { last_seq: Seq(6), last_id: Some(TaskId(3)), trimmed_to: Seq(6) };
    assert_eq!(scan(store.as_ref()), (vec![], marks));
}

pub(super) fn a_trim_may_come_with_what_it_trims_and_may_come_again(engine: &impl Engine) {
    let store = engine.open();
    let mut all = three_tasks();
    all.trim = trim_tasks([(1, 5)]).trim;
    store.append(&all).unwrap();
    assert_eq!(kept(store.as_ref()), (vec![2, 3], vec![2, 4]));
    let before = dump(store.as_ref());
    store.append(&trim_tasks([(1, 5)])).unwrap();
    assert_eq!(dump(store.as_ref()), before);
}

pub(super) fn a_story_ends_where_another_task_begins(engine: &impl Engine) {
    let store = engine.open();
    store
        .append(&group([
            submitted(1, b""),
            submitted(2, b""),
            changed(1, 2, None, Change::Completed),
            changed(2, 1, Some(1), Change::Completed),
        ]))
        .unwrap();
    store.append(&trim_tasks([(1, 2)])).unwrap();
    assert_eq!(kept(store.as_ref()), (vec![2], vec![1]));
}

/// Many tasks, with payloads and results that are small, large and very large.
pub(in crate::store) fn many_of_all_sizes() -> Group {
    group((1..=MANY).flat_map(|id| {
        // Results come in another order than their tasks.
        let ended = (id * 7) % MANY + 1;
        let change = changed(id, ended, None, Change::Completed);
        [submitted(id, &bytes_of(id)), change.with(&bytes_of(ended + 1))]
    }))
}

/// How many. No multiple of 7, so that each task ends once.
pub(in crate::store) const MANY: u64 = 300;

/// A task's last place in [`many_of_all_sizes`].
pub(in crate::store) fn last_of(id: u64) -> (TaskId, Seq) {
    let place = (1..=MANY).find(|seq| (seq * 7) % MANY + 1 == id).unwrap();
    (TaskId(id), Seq(place))
}

fn bytes_of(number: u64) -> Vec<u8> {
    let size = match number % 10 {
        0 => 0,
        1..=3 => 200,
        4..=8 => 900 + number,
        _ => 20_000 + 100 * number,
    };
    number.to_le_bytes().into_iter().cycle().take(usize::try_from(size).unwrap()).collect()
}

pub(super) fn what_lies_beside_the_trimmed_stays_as_it_was(engine: &impl Engine) {
    let store = engine.open();
    store.append(&many_of_all_sizes()).unwrap();
    let mut kept: Vec<u64> = (1..=MANY).collect();
    // Every seventh, then every fifth of the rest, then the first half.
    for (step, span) in [(7, MANY), (5, MANY), (1, MANY / 2)] {
        let (dead, rest) = kept.into_iter().partition(|id| id % step == 0 && *id <= span);
        kept = rest;
        let trim = Trim { tasks: dead.into_iter().map(last_of).collect(), ..Trim::default() };
        store.append(&Group { trim, ..Group::default() }).unwrap();
        for id in 1..=MANY {
            let (task, place) = last_of(id);
            let found = store.tasks(&[task]).unwrap().remove(0).map(|task| task.payload);
            let ended = store.events(&[place]).unwrap().remove(0).map(|event| event.result);
            let is_kept = kept.contains(&id);
            assert_eq!(found, is_kept.then(|| bytes_of(id).into()), "task {id}");
            assert_eq!(ended, is_kept.then(|| bytes_of(id + 1).into()), "the end of task {id}");
        }
    }
    let dumped = dump(store.as_ref());
    assert_eq!(dumped.kept_tasks(), kept.len());
    assert_eq!(dump(engine.restart(store).as_ref()), dumped);
}

pub(super) fn keys_and_notes_are_forgotten_by_their_numbers(engine: &impl Engine) {
    let store = engine.open();
    let entries = [keyed(1, b"a"), keyed(5, b"b"), leased(1, 1), leased(2, 5)];
    store.append(&group(entries.map(Into::into))).unwrap();
    let trim = Trim { keys: vec![TaskId(1), TaskId(4)], notes: vec![2, 3], tasks: vec![] };
    store.append(&Group { trim, ..Group::default() }).unwrap();
    let store = engine.restart(store);
    assert_eq!(scan(store.as_ref()).0, [keyed(5, b"b"), leased(1, 1)]);
}
