//! Ends that a person wishes, and beginnings.

use super::script::Step::{Adopt, Cancel, Lease, LeaseCharged, Note, Restart, Retry, Settle, Wait};
use super::script::play;
use super::world::{World, at_most_once, failed, progress, task, told};
use crate::core::id::Timestamp;
use crate::core::queue::Rejected;
use crate::core::task::{Outcome, Reason, Spec, Status};

#[test]
fn a_pending_task_is_cancelled_at_once() {
    play(
        task(),
        &[
            (Cancel, "cancelled"),
            (Lease("a"), "nothing to lease"),
            (Cancel, "refused: is cancelled"),
            (Restart, "is cancelled"),
        ],
    );
}

#[test]
fn a_scheduled_task_is_cancelled_before_its_time() {
    let script = play(
        Spec { run_at: Timestamp(2_000_000), ..task() },
        &[(Wait(0), "waits"), (Cancel, "cancelled"), (Wait(2_000_000), "is cancelled")],
    );
    assert_eq!(script.world.queue.lanes.next_due(), None);
}

#[test]
fn a_task_that_waits_for_its_next_attempt_is_cancelled() {
    let script = play(
        task(),
        &[
            (Lease("a"), "attempt 1"),
            (Settle(1, failed(Reason::Error)), "returned: error, again in 700 ms"),
            (Cancel, "cancelled"),
            (Wait(700), "is cancelled"),
            (Lease("a"), "nothing to lease"),
        ],
    );
    let [.., first, last] = script.world.log.events.as_slice() else { panic!("two events") };
    assert_eq!(last.previous, Some(first.seq), "its story is read backwards");
}

#[test]
fn a_running_task_is_cancelled_and_its_worker_is_fenced_off() {
    let script = play(
        task(),
        &[
            (Lease("a"), "attempt 1"),
            (Cancel, "cancelled"),
            (Settle(1, Outcome::Completed), "refused: ended cancelled"),
            (Adopt("a", 1), "refused: ended cancelled"),
        ],
    );
    let attempt = script.world.log.events.last().unwrap().attempt.clone().unwrap();
    assert_eq!((attempt.number, attempt.token), (1, script.leases[0].token));
    assert_eq!(&*attempt.worker, "a");
}

#[test]
fn of_a_cancel_and_a_completion_the_first_wins() {
    let running = [(Lease("a"), "attempt 1")];
    let mut cancelled = play(task(), &running);
    cancelled.play(&[
        (Cancel, "cancelled"),
        (Settle(1, Outcome::Completed), "refused: ended cancelled"),
    ]);
    let mut completed = play(task(), &running);
    completed
        .play(&[(Settle(1, Outcome::Completed), "completed"), (Cancel, "refused: is completed")]);
}

#[test]
fn a_cancel_that_was_committed_survives_a_restart_under_a_note_of_its_lease() {
    play(
        task(),
        &[
            (Lease("a"), "attempt 1"),
            (Note("a"), "runs"),
            (Cancel, "cancelled"),
            (Restart, "is cancelled"),
            (Adopt("a", 1), "refused: ended cancelled"),
        ],
    );
}

#[test]
fn a_retry_opens_a_new_round_with_fresh_budgets_while_attempts_go_on() {
    let mut script = play(
        Spec { max_attempts: 1, ..task() },
        &[
            (LeaseCharged("a"), "attempt 1"),
            (Settle(1, Outcome::Lost), "returned: lost"),
            (Lease("a"), "attempt 2"),
            (Settle(2, failed(Reason::Error)), "failed: error"),
            (Retry, "a new round"),
            (Retry, "refused: is pending"),
        ],
    );
    let fresh = progress(&script.world.queue, script.id);
    assert_eq!((fresh.attempts, fresh.errors, fresh.crashes), (2, 0, 0));
    assert_eq!(fresh.token, Some(script.leases[1].token));
    script.play(&[
        (Settle(2, Outcome::Completed), "refused: duplicate"),
        (Settle(1, Outcome::Completed), "refused: fenced"),
        (Lease("b"), "attempt 3"),
        (Retry, "refused: is running"),
        (Settle(3, Outcome::Completed), "completed"),
        (Retry, "refused: is completed"),
    ]);
}

#[test]
fn a_cancelled_task_that_never_ran_can_have_a_new_round() {
    play(
        task(),
        &[
            (Cancel, "cancelled"),
            (Retry, "a new round"),
            (Lease("a"), "attempt 1"),
            (Settle(1, Outcome::Completed), "completed"),
        ],
    );
}

#[test]
fn a_new_round_of_a_task_that_may_run_once_starts_it_once() {
    play(
        at_most_once(),
        &[
            (LeaseCharged("a"), "attempt 1"),
            (Settle(1, Outcome::Lost), "failed: unknown"),
            (Retry, "a new round"),
            (Adopt("a", 1), "refused: duplicate"),
            (LeaseCharged("a"), "attempt 2"),
            (Settle(2, Outcome::Lost), "failed: unknown"),
        ],
    );
}

#[test]
fn a_task_that_is_due_in_the_future_starts_at_once_in_its_new_round() {
    play(
        Spec { run_at: Timestamp(2_000_000), ..task() },
        &[(Cancel, "cancelled"), (Retry, "a new round"), (Lease("a"), "attempt 1")],
    );
}

#[test]
fn a_retry_that_looked_at_an_older_end_is_refused() {
    let mut world = World::new();
    let id = world.submit(task());
    world.cancel(id).unwrap();
    let stale = world.log.events.clone();
    world.retry(id).unwrap();
    world.cancel(id).unwrap();
    let newer = std::mem::replace(&mut world.log.events, stale);
    assert_eq!(world.retry(id), Err(Rejected::Standing(Status::Cancelled)));
    world.log.events = newer;
    assert_eq!(told(&world.retry(id)), "a new round");
}

#[test]
fn a_task_that_was_forgotten_cannot_be_cancelled_or_tried_again() {
    let mut script =
        play(task(), &[(Lease("a"), "attempt 1"), (Settle(1, Outcome::Completed), "completed")]);
    let world = &mut script.world;
    assert!(world.queue.ended.remove(script.id, 0));
    assert_eq!(world.cancel(script.id), Err(Rejected::Unknown));
    assert_eq!(world.retry(script.id), Err(Rejected::Unknown));
    assert_eq!(world.queue.live(), 0);
}
