use super::*;
use crate::core::id::{Epoch, Token};
use crate::core::task_type::TypeId;

const NOW: Timestamp = Timestamp(1_000);

#[test]
fn one_report_extends_all_leases_of_its_holder_and_no_others() {
    let mut leases = Leases::default();
    for (id, name) in [(1, "a"), (2, "a"), (3, "b")] {
        leases.insert(TaskId(id), held(holder(name)), Timestamp(2_000));
    }
    leases.extend(&holder("a"), Timestamp(3_000));
    assert_eq!(leases.expired(Timestamp(1_999)), []);
    assert_eq!(leases.expired(Timestamp(2_000)), [TaskId(3)]);
    assert_eq!(leases.expired(Timestamp(3_000)), [1, 2, 3].map(TaskId));
}

#[test]
fn an_extension_never_shortens() {
    let mut leases = Leases::default();
    leases.insert(TaskId(1), held(holder("a")), Timestamp(2_000));
    leases.extend(&holder("a"), Timestamp(1_500));
    leases.insert(TaskId(2), held(holder("a")), Timestamp(1_500));
    assert_eq!(leases.expired(Timestamp(1_999)), []);
    assert_eq!(leases.expired(Timestamp(2_000)), [TaskId(1), TaskId(2)]);
}

#[test]
fn a_pause_of_the_dispatcher_moves_every_end() {
    let mut leases = Leases::default();
    leases.insert(TaskId(1), held(holder("a")), Timestamp(2_000));
    leases.insert(TaskId(2), held(holder("b")), Timestamp(2_500));
    leases.postpone(Duration::from_secs(7));
    assert_eq!(leases.expired(Timestamp(8_999)), []);
    assert_eq!(leases.expired(Timestamp(9_000)), [TaskId(1)]);
    assert_eq!(leases.next_end(), Some(Timestamp(9_000)));
}

#[test]
fn a_holder_without_leases_is_forgotten_when_its_end_has_passed() {
    let mut leases = Leases::default();
    leases.insert(TaskId(1), held(holder("a")), Timestamp(2_000));
    assert!(leases.remove(TaskId(1)).is_some());
    assert_eq!((leases.count(), leases.next_end()), (0, None));
    assert_eq!(leases.expired(Timestamp(2_000)), []);
    assert!(leases.holders.is_empty());
    assert_eq!(leases.remove(TaskId(1)), None);
}

#[test]
fn a_timeout_counts_from_the_start_that_was_heard_first() {
    let mut leases = Leases::default();
    let mut timed = held(holder("a"));
    timed.spec.timeout_ms = 500;
    leases.insert(TaskId(1), timed, Timestamp(90_000));
    assert_eq!(leases.overdue(Timestamp(80_000)), [], "it waits in the worker's buffer");
    leases.start(TaskId(1), Timestamp(10_000));
    leases.start(TaskId(1), Timestamp(20_000));
    let end = Timestamp(10_500).plus(TIMEOUT_GRACE);
    assert_eq!(leases.next_end(), Some(end));
    assert_eq!(leases.overdue(Timestamp(end.0 - 1)), []);
    assert_eq!(leases.overdue(end), [TaskId(1)]);
    leases.remove(TaskId(1));
    assert_eq!(leases.overdue(Timestamp::NEVER), []);
}

#[test]
fn a_pause_of_the_dispatcher_moves_the_end_of_every_handler() {
    let mut leases = Leases::default();
    for (id, timeout_ms) in [(1, 500), (2, 900), (3, 0)] {
        let mut timed = held(holder("a"));
        timed.spec.timeout_ms = timeout_ms;
        leases.insert(TaskId(id), timed, Timestamp(90_000));
        leases.start(TaskId(id), Timestamp(10_000));
    }
    leases.postpone_timeouts(Duration::from_secs(7));
    let end = Timestamp(17_500).plus(TIMEOUT_GRACE);
    assert_eq!(leases.overdue(Timestamp(end.0 - 1)), []);
    assert_eq!(leases.overdue(end), [TaskId(1)]);
    leases.remove(TaskId(1));
    assert_eq!(leases.overdue(Timestamp::NEVER), [TaskId(2)]);
    leases.remove(TaskId(2));
    assert_eq!(leases.overdue(Timestamp::NEVER), []);
}

#[test]
fn a_task_without_a_timeout_is_never_overdue() {
    let mut leases = Leases::default();
    leases.insert(TaskId(1), held(holder("a")), Timestamp(2_000));
    leases.start(TaskId(1), NOW);
    assert_eq!(leases.overdue(Timestamp::NEVER), []);
    assert_eq!(leases.find(TaskId(1)).and_then(|held| held.lease.started), Some(NOW));
}

#[test]
fn predecessors_are_other_processes_of_the_worker_that_still_hold_something() {
    let mut leases = Leases::default();
    let process = |incarnation| Holder { incarnation, ..holder("a") };
    for (id, holder) in [(1, process(1)), (2, process(2)), (3, process(3)), (4, holder("b"))] {
        leases.insert(TaskId(id), held(holder), Timestamp(2_000));
    }
    leases.remove(TaskId(2));
    assert_eq!(leases.predecessors(&process(3)), [process(1)]);
    assert_eq!(leases.predecessors(&holder("b")), []);
    assert_eq!(leases.of(&process(1)), [TaskId(1)]);
}

#[test]
fn pages_of_leased_ids_run_from_the_newest_down() {
    let mut leases = Leases::default();
    for (id, name) in [(1, "a"), (2, "b"), (3, "a"), (4, "b"), (5, "a")] {
        leases.insert(TaskId(id), held(holder(name)), Timestamp(2_000));
    }
    assert_eq!(leases.newest(TaskId(u64::MAX), 3), [5, 4, 3].map(TaskId));
    assert_eq!(leases.newest(TaskId(3), 3), [2, 1].map(TaskId));
}

fn holder(name: &str) -> Holder {
    Holder { worker: name.into(), incarnation: 1 }
}

/// A lease without a timeout whose handler has not started.
fn held(holder: Holder) -> Held {
    let token = Token { epoch: Epoch { boot: 1, nonce: 7 }, sequence: 1 };
    let lease = Lease {
        token,
        attempt: 1,
        holder,
        leased: NOW,
        started: None,
        charged: false,
        resumed: false,
    };
    let spec = Spec {
        type_id: TypeId(0),
        priority: 5,
        created: NOW,
        run_at: NOW,
        timeout_ms: 0,
        max_attempts: 3,
        max_crashes: 3,
        group: 0,
        payload_bytes: 0,
    };
    Held { lease, spec, progress: Progress::default(), note: None }
}
