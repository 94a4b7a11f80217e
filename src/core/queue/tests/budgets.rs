//! What an attempt's end costs, by its cause.

use std::time::Duration;

use super::script::Step::{Lease, LeaseCharged, Settle, Start, Sweep, Wait};
use super::script::play;
use super::world::{at_most_once, failed, progress, task, timed_out};
use crate::core::id::Timestamp;
use crate::core::task::{Outcome, Reason, Spec};

#[test]
fn a_task_is_leased_once_and_its_result_ends_it() {
    play(
        task(),
        &[
            (Lease("a"), "attempt 1"),
            (Lease("b"), "nothing to lease"),
            (Settle(1, Outcome::Completed), "completed"),
            (Lease("b"), "nothing to lease"),
        ],
    );
}

#[test]
fn errors_panics_and_timeouts_use_up_the_attempts() {
    play(
        task(),
        &[
            (Lease("a"), "attempt 1"),
            (Settle(1, failed(Reason::Error)), "returned: error, again in 700 ms"),
            (Lease("a"), "nothing to lease"),
            (Wait(699), "waits"),
            (Wait(1), "is ready"),
            (Lease("a"), "attempt 2"),
            (Settle(2, failed(Reason::Panic)), "returned: panic, again in 700 ms"),
            (Wait(700), "is ready"),
            (Lease("a"), "attempt 3"),
            (Settle(3, timed_out()), "failed: timeout"),
        ],
    );
}

#[test]
fn a_permanent_failure_ends_the_task_at_once() {
    play(
        task(),
        &[(Lease("a"), "attempt 1"), (Settle(1, failed(Reason::Permanent)), "failed: permanent")],
    );
}

#[test]
fn the_handler_may_name_the_delay() {
    let busy = Outcome::Failed {
        reason: Reason::Error,
        message: "busy".to_owned(),
        retry_after: Some(Duration::from_secs(90)),
    };
    play(
        task(),
        &[(Lease("a"), "attempt 1"), (Settle(1, busy), "returned: error, again in 90000 ms")],
    );
}

#[test]
fn what_was_given_back_costs_nothing() {
    let released = Settle(1, Outcome::Released);
    let script = play(
        Spec { max_attempts: 1, max_crashes: 1, ..task() },
        &[
            (Lease("a"), "attempt 1"),
            (released, "returned: released"),
            (Lease("a"), "attempt 2"),
            (Start(2), "runs"),
            (Settle(2, Outcome::Released), "returned: released"),
            (Wait(0), "is ready"),
        ],
    );
    let progress = progress(&script.world.queue, script.id);
    assert_eq!((progress.attempts, progress.errors, progress.crashes), (2, 0, 0));
}

#[test]
fn a_lost_worker_is_charged_only_for_handlers_that_had_started() {
    let script = play(
        task(),
        &[
            (Lease("a"), "attempt 1"),
            (Start(1), "runs"),
            (Settle(1, Outcome::Lost), "returned: lost"),
            (LeaseCharged("a"), "attempt 2"),
            (Settle(2, Outcome::Lost), "returned: lost"),
            (Lease("a"), "attempt 3"),
            (Settle(3, Outcome::Lost), "returned: released"),
        ],
    );
    let progress = progress(&script.world.queue, script.id);
    assert_eq!((progress.errors, progress.crashes), (0, 2));
}

#[test]
fn a_task_that_used_up_its_crashes_runs_alone_and_then_is_poison() {
    let spec = Spec { max_crashes: 2, ..task() };
    let mut script = play(
        spec,
        &[
            (LeaseCharged("a"), "attempt 1"),
            (Settle(1, Outcome::Lost), "returned: lost"),
            (LeaseCharged("a"), "attempt 2"),
        ],
    );
    assert!(!progress_of_running(&script).runs_alone(&spec));
    script.play(&[(Settle(2, Outcome::Lost), "returned: lost")]);
    assert!(progress(&script.world.queue, script.id).runs_alone(&spec));
    script.play(&[
        (LeaseCharged("a"), "attempt 3"),
        (Settle(3, Outcome::Released), "returned: released"),
    ]);
    assert!(progress(&script.world.queue, script.id).runs_alone(&spec));
    script.play(&[(LeaseCharged("a"), "attempt 4"), (Settle(4, Outcome::Lost), "failed: poison")]);
}

#[test]
fn a_run_alone_that_succeeds_ends_well() {
    play(
        Spec { max_crashes: 1, ..task() },
        &[
            (LeaseCharged("a"), "attempt 1"),
            (Settle(1, Outcome::Lost), "returned: lost"),
            (LeaseCharged("a"), "attempt 2"),
            (Settle(2, Outcome::Completed), "completed"),
        ],
    );
}

#[test]
fn crashes_and_errors_are_budgets_apart() {
    play(
        Spec { max_attempts: 2, max_crashes: 2, ..task() },
        &[
            (LeaseCharged("a"), "attempt 1"),
            (Settle(1, Outcome::Lost), "returned: lost"),
            (Lease("a"), "attempt 2"),
            (Settle(2, failed(Reason::Error)), "returned: error, again in 700 ms"),
            (Wait(700), "is ready"),
            (LeaseCharged("a"), "attempt 3"),
            (Settle(3, Outcome::Lost), "returned: lost"),
            (Lease("a"), "attempt 4"),
            (Settle(4, failed(Reason::Error)), "failed: error"),
        ],
    );
}

#[test]
fn an_at_most_once_task_whose_outcome_is_lost_fails_as_unknown() {
    play(
        at_most_once(),
        &[
            (LeaseCharged("a"), "attempt 1"),
            (Settle(1, Outcome::Lost), "failed: unknown"),
            (Settle(1, Outcome::Completed), "refused: ended failed"),
            (Lease("b"), "nothing to lease"),
        ],
    );
}

#[test]
fn an_at_most_once_task_is_not_tried_again_after_an_error() {
    play(
        at_most_once(),
        &[(LeaseCharged("a"), "attempt 1"), (Settle(1, failed(Reason::Error)), "failed: error")],
    );
}

#[test]
fn an_at_most_once_task_that_never_started_may_be_given_again() {
    play(
        at_most_once(),
        &[
            (LeaseCharged("a"), "attempt 1"),
            (Settle(1, Outcome::Released), "returned: released"),
            (LeaseCharged("b"), "attempt 2"),
            (Settle(2, Outcome::Completed), "completed"),
        ],
    );
}

#[test]
fn an_at_most_once_task_that_is_given_back_after_its_start_fails_as_unknown() {
    play(
        at_most_once(),
        &[
            (LeaseCharged("a"), "attempt 1"),
            (Start(1), "runs"),
            (Settle(1, Outcome::Released), "failed: unknown"),
            (Lease("b"), "nothing to lease"),
        ],
    );
}

#[test]
fn missed_extensions_lose_a_lease_and_age_alone_does_not() {
    use super::script::Step::Extend;
    play(
        task(),
        &[
            (Lease("a"), "attempt 1"),
            (Start(1), "runs"),
            (Wait(9_999), "runs"),
            (Extend("a"), "runs"),
            (Wait(9_999), "runs"),
            (Sweep, "runs"),
            (Extend("a"), "runs"),
            (Wait(10_000), "runs"),
            (Sweep, "returned: lost"),
            (Sweep, "is ready"),
        ],
    );
}

#[test]
fn a_run_timeout_counts_from_the_handlers_start_and_is_an_error() {
    use super::script::Step::Extend;
    play(
        Spec { timeout_ms: 1_000, ..task() },
        &[
            (Lease("a"), "attempt 1"),
            (Wait(9_000), "runs"),
            (Start(1), "runs"),
            (Extend("a"), "runs"),
            (Wait(2_999), "runs"),
            (Sweep, "runs"),
            (Wait(1), "runs"),
            (Sweep, "returned: timeout, again in 700 ms"),
        ],
    );
}

#[test]
fn a_scheduled_task_is_not_leased_before_it_is_due() {
    play(
        Spec { run_at: Timestamp(1_005_000), ..task() },
        &[
            (Lease("a"), "nothing to lease"),
            (Wait(4_999), "waits"),
            (Lease("a"), "nothing to lease"),
            (Wait(1), "is ready"),
            (Lease("a"), "attempt 1"),
        ],
    );
}

fn progress_of_running(script: &super::script::Script) -> crate::core::task::Progress {
    script.world.queue.leases.find(script.id).expect("it runs").progress
}
