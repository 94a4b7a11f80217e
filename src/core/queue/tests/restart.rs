//! What a restart knows: what the log tells, and no more.

use std::time::Duration;

use super::script::Step::{Adopt, Lease, LeaseCharged, Note, Restart, Settle, Start, Sweep, Wait};
use super::script::play;
use super::world::{LEASE, World, failed, progress, task, told, worker};
use crate::core::id::{TaskId, Timestamp};
use crate::core::queue::Standing;
use crate::core::task::{Outcome, Reason, Spec, Status};

#[test]
fn a_noted_lease_stays_with_its_worker_until_it_is_given_up() {
    play(
        task(),
        &[
            (Lease("a"), "attempt 1"),
            (Note("a"), "runs"),
            (Restart, "runs"),
            (Lease("b"), "nothing to lease"),
            (Wait(9_999), "runs"),
            (Sweep, "runs"),
            (Wait(1), "runs"),
            (Sweep, "returned: released"),
            (Lease("b"), "attempt 2"),
        ],
    );
}

#[test]
fn a_start_that_was_stored_before_the_push_is_charged_if_its_worker_never_comes_back() {
    play(
        Spec { max_crashes: 1, ..task() },
        &[
            (LeaseCharged("a"), "attempt 1"),
            (Note("a"), "runs"),
            (Restart, "runs"),
            (Wait(10_000), "runs"),
            (Sweep, "returned: lost"),
            (LeaseCharged("a"), "attempt 2"),
            (Note("a"), "runs"),
            (Restart, "runs"),
            (Wait(10_000), "runs"),
            (Sweep, "failed: poison"),
        ],
    );
}

#[test]
fn a_lease_that_was_not_noted_is_forgotten_and_taken_back_from_its_worker() {
    play(
        task(),
        &[
            (Lease("a"), "attempt 1"),
            (Restart, "is ready"),
            (Adopt("a", 1), "runs"),
            (Lease("b"), "nothing to lease"),
            (Settle(1, Outcome::Completed), "completed"),
        ],
    );
}

#[test]
fn a_worker_that_comes_back_after_its_task_was_given_again_is_fenced_off() {
    play(
        task(),
        &[
            (Lease("a"), "attempt 1"),
            (Restart, "is ready"),
            (Lease("b"), "attempt 1"),
            (Adopt("a", 1), "refused: fenced"),
            (Settle(1, Outcome::Completed), "refused: fenced"),
            (Settle(2, Outcome::Completed), "completed"),
        ],
    );
}

#[test]
fn a_late_success_is_welcome_after_a_restart_too() {
    play(
        task(),
        &[
            (LeaseCharged("a"), "attempt 1"),
            (Settle(1, Outcome::Lost), "returned: lost"),
            (Restart, "is ready"),
            (Settle(1, Outcome::Completed), "completed"),
            (Restart, "is completed"),
        ],
    );
}

#[test]
fn what_a_task_went_through_survives_the_notes_of_two_of_its_leases() {
    let mut script = play(
        task(),
        &[
            (Lease("a"), "attempt 1"),
            (Settle(1, failed(Reason::Error)), "returned: error, again in 700 ms"),
            (Wait(700), "is ready"),
            (Lease("a"), "attempt 2"),
            (Restart, "is ready"),
            (Lease("b"), "attempt 2"),
            (Restart, "is ready"),
            (Adopt("a", 2), "runs"),
        ],
    );
    // It keeps the note of the older lease in the log.
    let other = script.world.submit(task());
    script.world.lease(other, &worker("a"), false).unwrap();
    script.play(&[
        (Note("a"), "runs"),
        (Adopt("b", 3), "runs"),
        (Note("b"), "runs"),
        (Restart, "runs"),
        (Settle(3, failed(Reason::Error)), "returned: error, again in 700 ms"),
    ]);
    let progress = progress(&script.world.queue, script.id);
    assert_eq!((progress.attempts, progress.errors), (2, 2));
}

#[test]
fn a_retry_delay_and_the_budgets_survive() {
    let script = play(
        task(),
        &[
            (Lease("a"), "attempt 1"),
            (Settle(1, failed(Reason::Error)), "returned: error, again in 700 ms"),
            (Restart, "waits"),
            (Wait(699), "waits"),
            (Wait(1), "is ready"),
            (Restart, "is ready"),
        ],
    );
    let progress = progress(&script.world.queue, script.id);
    assert_eq!((progress.attempts, progress.errors), (1, 1));
}

#[test]
fn a_scheduled_task_is_scheduled_again() {
    play(
        Spec { run_at: Timestamp(1_600_000), ..task() },
        &[
            (Restart, "waits"),
            (Wait(599_999), "waits"),
            (Restart, "waits"),
            (Wait(1), "is ready"),
            (Lease("a"), "attempt 1"),
        ],
    );
}

#[test]
fn a_clock_that_was_set_back_delays_nothing_that_was_due() {
    let mut world = World::new();
    let fresh = world.submit(task());
    let returned = world.submit(task());
    let later = world.submit(Spec { run_at: Timestamp(1_000_500), ..task() });
    let lease = world.lease(returned, &worker("a"), false).unwrap();
    world.settle(returned, lease.token, Outcome::Released).unwrap();
    world.now = Timestamp(400_000);
    world.restart();
    let ready: Vec<TaskId> = world.queue.lanes.next(task().type_id).collect();
    assert_eq!(ready, [fresh, returned]);
    assert_eq!(world.queue.lanes.next_due(), Some(Timestamp(1_000_500)));
    assert!(world.lease(later, &worker("a"), false).is_none());
}

#[test]
fn ids_that_a_crash_left_unused_are_never_given() {
    let mut world = World::new();
    let before = world.submit(task());
    world.restart();
    let after = world.submit(task());
    world.restart();
    assert!(after > before.plus(1));
    assert!(world.queue.ids.was_given(before) && world.queue.ids.was_given(after));
    for unused in [before.plus(1), TaskId(after.0 - 1), after.plus(1)] {
        assert!(!world.queue.ids.was_given(unused), "{unused}");
    }
    assert!(world.submit(task()) > after);
}

#[test]
fn a_note_is_forgotten_once_the_last_lease_in_it_has_ended() {
    let mut world = World::new();
    let ids = [task(), task(), task()].map(|spec| world.submit(spec));
    let leases = ids.map(|id| world.lease(id, &worker("a"), false).unwrap());
    world.note(&worker("a"));
    assert_eq!(world.notes(), 1);
    world.settle(ids[0], leases[0].token, Outcome::Completed).unwrap();
    world.cancel(ids[1]).unwrap();
    assert_eq!(world.notes(), 1);
    world.restart();
    assert_eq!(world.notes(), 1);
    assert_eq!(world.queue.standing(ids[2]), Standing::Running);
    world.settle(ids[2], leases[2].token, Outcome::Released).unwrap();
    assert_eq!(world.notes(), 0);
    world.restart();
    assert!(matches!(world.queue.standing(ids[2]), Standing::Pending(..)));
}

#[test]
fn a_note_whose_leases_are_all_over_is_forgotten_by_the_restart() {
    let mut world = World::new();
    let id = world.submit(task());
    let lease = world.lease(id, &worker("a"), false).unwrap();
    world.note(&worker("a"));
    world.settle(id, lease.token, Outcome::Completed).unwrap();
    world.restart();
    assert_eq!(world.notes(), 0);
    assert!(matches!(world.queue.standing(id), Standing::Ended(Status::Completed, _)));
}

#[test]
fn the_newest_of_two_notes_of_a_task_holds() {
    let mut world = World::new();
    let id = world.submit(task());
    world.lease(id, &worker("a"), false).unwrap();
    world.note(&worker("a"));
    // The end of the first lease dies with the dispatcher; the note of the second does not.
    let first = world.queue.leases.find(id).unwrap().lease.token;
    world.settle(id, first, Outcome::Released).unwrap();
    let second = world.lease(id, &worker("b"), true).unwrap();
    world.note(&worker("b"));
    world.log.events.clear();
    world.restart();
    let lease = world.queue.leases.find(id).unwrap().lease.clone();
    assert_eq!((lease.token, lease.holder, lease.charged), (second.token, worker("b"), true));
    assert_eq!(world.notes(), 1);
    assert_eq!(told(&world.settle(id, first, Outcome::Completed)), "refused: fenced");
}

#[test]
fn a_note_takes_a_number_of_its_own_after_a_restart() {
    let mut world = World::new();
    let ids = [task(), task()].map(|spec| world.submit(spec));
    world.lease(ids[0], &worker("a"), false).unwrap();
    world.note(&worker("a"));
    world.restart();
    world.lease(ids[1], &worker("b"), false).unwrap();
    world.note(&worker("b"));
    assert_eq!(world.notes(), 2);
    world.restart();
    assert_eq!(world.queue.leases.of(&worker("a")), [ids[0]]);
    assert_eq!(world.queue.leases.of(&worker("b")), [ids[1]]);
}

#[test]
fn what_lives_is_counted_the_same_before_and_after() {
    let mut world = World::new();
    let big = Spec { payload_bytes: 1_000, ..task() };
    let ids = [task(), big, big, task()].map(|spec| world.submit(spec));
    world.cancel(ids[1]).unwrap();
    let lease = world.lease(ids[2], &worker("a"), false).unwrap();
    assert_eq!((world.queue.live(), world.queue.live_bytes()), (3, 1_064));
    world.wait(Duration::from_secs(1));
    world.settle(ids[2], lease.token, failed(Reason::Permanent)).unwrap();
    assert_eq!((world.queue.live(), world.queue.live_bytes()), (2, 64));
    world.retry(ids[2]).unwrap();
    for _ in 0..2 {
        assert_eq!((world.queue.live(), world.queue.live_bytes()), (3, 1_064));
        world.restart();
    }
}

#[test]
fn a_handler_that_runs_over_a_restart_is_extended_by_its_workers_hello() {
    play(
        task(),
        &[
            (Lease("a"), "attempt 1"),
            (Start(1), "runs"),
            (Note("a"), "runs"),
            (Restart, "runs"),
            (Wait(9_000), "runs"),
            (Adopt("a", 1), "runs"),
            (Wait(9_000), "runs"),
            (Sweep, "runs"),
            (Settle(1, Outcome::Completed), "completed"),
        ],
    );
    assert_eq!(LEASE, Duration::from_secs(10));
}
