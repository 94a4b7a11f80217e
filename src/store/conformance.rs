//! What every engine must do, run against each of them.
//!
//! A test is a function of an [`Engine`]; the list at the end makes it a test of
//! every engine. `model` compares long random histories with [`Memory`].

pub(super) mod engines;
mod events;
mod model;
pub(super) mod samples;
pub(super) mod trims;

use self::engines::{Dump, Engine, dump};
use self::samples::{changed, group, holder, keyed, leased, spec, submitted, task_type};
use super::{Error, Group, Position, Recovered, Store};
use crate::core::event::{Entry, Event};
use crate::core::id::{Epoch, Seq, TaskId};
use crate::core::task::Change;
use crate::core::task_type::TypeId;

/// Makes each function a test of each engine.
macro_rules! run_against_every_engine {
    ($($from:ident :: $name:ident),* $(,)?) => {
        mod memory {
            $(#[test] fn $name() { super::$from::$name(&super::engines::InMemory::new()); })*
        }
        mod embedded_sync {
            $(#[test] fn $name() { super::$from::$name(&super::engines::OnDisk::sync()); })*
        }
        mod embedded_os {
            $(#[test] fn $name() { super::$from::$name(&super::engines::OnDisk::os()); })*
        }
    };
}

run_against_every_engine![
    basics::a_new_store_is_empty,
    basics::a_scan_comes_in_the_order_that_a_replay_needs,
    basics::a_history_comes_in_pages_and_ends_where_it_ended_when_it_began,
    basics::a_restart_a_crash_and_a_reopening_change_nothing,
    basics::epochs_rise_keep_their_nonces_and_erase_the_stop,
    basics::a_worker_is_kept_until_it_leaves,
    basics::what_is_said_again_replaces_what_was_said,
    basics::an_empty_group_is_nothing,
    events::payloads_and_results_of_any_size_come_back,
    events::what_is_asked_for_comes_in_the_order_asked,
    events::tasks_stop_at_a_limit_of_bytes,
    events::events_after_a_place_stop_at_either_limit,
    events::an_id_is_stored_once_and_the_group_with_a_second_is_refused_whole,
    events::a_place_is_stored_once_and_the_group_with_a_second_is_refused_whole,
    trims::a_trim_takes_a_task_with_its_whole_story,
    trims::a_trim_leaves_its_marks_for_a_restart,
    trims::a_trim_may_come_with_what_it_trims_and_may_come_again,
    trims::a_story_ends_where_another_task_begins,
    trims::what_lies_beside_the_trimmed_stays_as_it_was,
    trims::keys_and_notes_are_forgotten_by_their_numbers,
    model::any_history_is_kept_as_the_model_keeps_it,
];

/// A scan and what it found.
fn scan(store: &dyn Store) -> (Vec<Event>, Recovered) {
    let mut events = Vec::new();
    let recovered = store.scan(&mut |event| events.push(event)).unwrap();
    (events, recovered)
}

/// One of each event that is kept, with what is beside it.
fn one_of_each() -> Group {
    group([
        submitted(1, b"a payload"),
        changed(1, 1, None, Change::Completed).with(b"a result"),
        leased(5, 1).into(),
        Event::TypeLearned { type_id: TypeId(0), definition: task_type("hash") }.into(),
        keyed(1, b"a key").into(),
        Event::WorkerSeen { holder: holder("w", 3), address: "127.0.0.1:50062".into() }.into(),
        Event::IdsReserved { end: TaskId(1_000) }.into(),
        Event::IdsSkipped { from: TaskId(2), to: TaskId(9) }.into(),
        Event::Stopped { next_id: TaskId(10) }.into(),
    ])
}

mod basics {
    use super::*;

    pub(super) fn a_new_store_is_empty(engine: &impl Engine) {
        let store = engine.open();
        assert_eq!(scan(store.as_ref()), (vec![], Recovered::default()));
        assert_eq!(store.tasks(&[TaskId(1)]).unwrap(), [None]);
        assert_eq!(store.events(&[Seq(1)]).unwrap(), [None]);
        assert_eq!(store.events_after(Seq(0), 10, 10).unwrap(), []);
    }

    pub(super) fn a_scan_comes_in_the_order_that_a_replay_needs(engine: &impl Engine) {
        let store = engine.open();
        store.append(&one_of_each()).unwrap();
        store
            .append(&group([
                submitted(11, b""),
                changed(2, 11, None, Change::Cancelled),
                leased(6, 11).into(),
            ]))
            .unwrap();
        let event = |entry: Entry| entry.event;
        let expected = vec![
            Event::TypeLearned { type_id: TypeId(0), definition: task_type("hash") },
            Event::WorkerSeen { holder: holder("w", 3), address: "127.0.0.1:50062".into() },
            Event::IdsSkipped { from: TaskId(2), to: TaskId(9) },
            Event::IdsReserved { end: TaskId(1_000) },
            keyed(1, b"a key"),
            leased(5, 1),
            leased(6, 11),
            Event::Stopped { next_id: TaskId(10) },
            event(changed(1, 1, None, Change::Completed).with(b"a result")),
            event(changed(2, 11, None, Change::Cancelled)),
            Event::Submitted { id: TaskId(1), spec: spec(9) },
            Event::Submitted { id: TaskId(11), spec: spec(0) },
        ];
        let found = Recovered { last_seq: Seq(2), last_id: Some(TaskId(11)), trimmed_to: Seq(0) };
        assert_eq!(scan(store.as_ref()), (expected, found));
    }

    pub(super) fn a_history_comes_in_pages_and_ends_where_it_ended_when_it_began(
        engine: &impl Engine,
    ) {
        const TASKS: u64 = 500;
        let store = engine.open();
        for id in 1..=TASKS {
            let ended = changed(id, id, None, Change::Completed);
            store.append(&group([submitted(id, b""), ended])).unwrap();
        }
        let whole = scan(store.as_ref()).0;
        let recovered = store.summary(&mut |_| {}).unwrap();
        let later = changed(TASKS + 1, TASKS + 1, None, Change::Completed);
        store.append(&group([submitted(TASKS + 1, b""), later])).unwrap();
        let (mut shown, mut pages) = (Vec::new(), 0);
        let mut position = Some(Position::default());
        while let Some(from) = position {
            position = store.history(from, recovered, 100, &mut |event| shown.push(event)).unwrap();
            pages += 1;
        }
        assert_eq!(shown, whole);
        assert!(pages > 4, "{pages}");
    }

    pub(super) fn a_restart_a_crash_and_a_reopening_change_nothing(engine: &impl Engine) {
        let store = engine.open();
        store.append(&one_of_each()).unwrap();
        let before = dump(store.as_ref());
        assert_ne!(before, Dump::default());
        let store = engine.restart(store);
        assert_eq!(dump(store.as_ref()), before);
        store.append(&group([submitted(2, b"another")])).unwrap();
        let before = dump(store.as_ref());
        let store = engine.crash(store);
        assert_eq!(dump(store.as_ref()), before);
        store.reopen().unwrap();
        assert_eq!(dump(store.as_ref()), before);
        store.append(&group([submitted(3, b"a third")])).unwrap();
        assert_eq!(store.tasks(&[TaskId(3)]).unwrap().len(), 1);
    }

    pub(super) fn epochs_rise_keep_their_nonces_and_erase_the_stop(engine: &impl Engine) {
        let stopped = |store: &dyn Store| {
            scan(store).0.iter().any(|event| matches!(event, Event::Stopped { .. }))
        };
        let store = engine.open();
        let first = Epoch { boot: 1, nonce: 7 };
        assert_eq!(store.take_epoch(7).unwrap(), [first]);
        store.append(&group([Event::Stopped { next_id: TaskId(1) }.into()])).unwrap();
        let store = engine.restart(store);
        assert!(stopped(store.as_ref()));
        let second = Epoch { boot: 2, nonce: u64::MAX };
        assert_eq!(store.take_epoch(u64::MAX).unwrap(), [first, second]);
        assert!(!stopped(store.as_ref()));
        let store = engine.crash(store);
        assert!(!stopped(store.as_ref()));
        let third = Epoch { boot: 3, nonce: 0 };
        assert_eq!(store.take_epoch(0).unwrap(), [first, second, third]);
    }

    pub(super) fn a_worker_is_kept_until_it_leaves(engine: &impl Engine) {
        let seen = |name: &str, incarnation, address: &str| Event::WorkerSeen {
            holder: holder(name, incarnation),
            address: address.into(),
        };
        let store = engine.open();
        store
            .append(&group([
                seen("b", 1, "here:1").into(),
                seen("a", 1, "here:2").into(),
                seen("b", 2, "there:1").into(),
            ]))
            .unwrap();
        let workers = |store: &dyn Store| scan(store).0;
        assert_eq!(workers(store.as_ref()), [seen("a", 1, "here:2"), seen("b", 2, "there:1")]);
        let left = |name: &str| Entry::from(Event::WorkerLeft { worker: name.into() });
        store.append(&group([left("a"), left("never seen")])).unwrap();
        let store = engine.restart(store);
        assert_eq!(workers(store.as_ref()), [seen("b", 2, "there:1")]);
    }

    pub(super) fn what_is_said_again_replaces_what_was_said(engine: &impl Engine) {
        let learned = |id, name: &str| {
            Entry::from(Event::TypeLearned { type_id: TypeId(id), definition: task_type(name) })
        };
        let reserved = |end| Entry::from(Event::IdsReserved { end: TaskId(end) });
        let store = engine.open();
        store.append(&group([learned(1, "hash"), learned(0, "sum"), reserved(10)])).unwrap();
        store.append(&group([learned(1, "upper"), reserved(20)])).unwrap();
        let store = engine.restart(store);
        let expected =
            [learned(0, "sum"), learned(1, "upper"), reserved(20)].map(|entry| entry.event);
        assert_eq!(scan(store.as_ref()).0, expected);
    }

    pub(super) fn an_empty_group_is_nothing(engine: &impl Engine) {
        let store = engine.open();
        store.append(&Group::default()).unwrap();
        assert_eq!(dump(store.as_ref()), Dump::default());
    }
}

/// Asserts that a group was refused as a bug of the caller, and left nothing.
fn assert_refused_whole(store: &dyn Store, group: &Group) {
    let before = dump(store);
    let refused = store.append(group);
    assert!(
        matches!(&refused, Err(Error::Failed { what }) if what.contains("stored already")),
        "{refused:?}"
    );
    assert_eq!(dump(store), before);
}
