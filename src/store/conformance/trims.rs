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

pub(super) fn keys_and_notes_are_forgotten_by_their_numbers(engine: &impl Engine) {
    let store = engine.open();
    let entries = [keyed(1, b"a"), keyed(5, b"b"), leased(1, 1), leased(2, 5)];
    store.append(&group(entries.map(Into::into))).unwrap();
    let trim = Trim { keys: vec![TaskId(1), TaskId(4)], notes: vec![2, 3], tasks: vec![] };
    store.append(&Group { trim, ..Group::default() }).unwrap();
    let store = engine.restart(store);
    assert_eq!(scan(store.as_ref()).0, [keyed(5, b"b"), leased(1, 1)]);
}
