//! Which outcomes are taken: those of the newest lease, once.

use super::script::Step::{Adopt, Lease, LeaseCharged, Restart, Settle, Wait};
use super::script::play;
use super::world::{World, failed, progress, task, told, worker};
use crate::core::id::{Epoch, TaskId, Token};
use crate::core::queue::{Claim, Rejected};
use crate::core::task::{Outcome, Reason};

#[test]
fn a_late_report_from_an_older_lease_is_fenced_off() {
    play(
        task(),
        &[
            (LeaseCharged("a"), "attempt 1"),
            (Settle(1, Outcome::Lost), "returned: lost"),
            (Lease("b"), "attempt 2"),
            (Settle(1, Outcome::Completed), "refused: fenced"),
            (Settle(1, failed(Reason::Error)), "refused: fenced"),
            (Adopt("a", 1), "refused: fenced"),
            (Settle(2, failed(Reason::Error)), "returned: error, again in 700 ms"),
            (Settle(1, Outcome::Completed), "refused: fenced"),
            (Adopt("a", 1), "refused: fenced"),
        ],
    );
}

#[test]
fn a_token_that_was_never_given_is_unknown() {
    let mut world = World::new();
    let id = world.submit(task());
    let epoch = world.queue.epoch().unwrap();
    let other_store = Epoch { boot: 9, nonce: 1 };
    for token in [Token { epoch, sequence: 1 }, Token { epoch: other_store, sequence: 1 }] {
        assert_eq!(told(&world.settle(id, token, Outcome::Completed)), "refused: unknown");
        let claim = claim(id, token);
        assert_eq!(world.adopt(&worker("a"), &claim), Err(Rejected::Unknown), "{token}");
    }
    let lease = world.lease(id, &worker("a"), false).unwrap();
    for token in [Token { epoch, sequence: 2 }, Token { epoch: other_store, ..lease.token }] {
        assert_eq!(told(&world.settle(id, token, Outcome::Completed)), "refused: unknown");
        assert_eq!(world.adopt(&worker("b"), &claim(id, token)), Err(Rejected::Unknown), "{token}");
    }
    assert_eq!(told(&world.settle(id, lease.token, Outcome::Completed)), "completed");
}

#[test]
fn a_task_that_was_never_accepted_is_unknown() {
    let mut world = World::new();
    let epoch = world.queue.epoch().unwrap();
    let (id, token) = (TaskId(77), Token { epoch, sequence: 0 });
    assert_eq!(told(&world.settle(id, token, Outcome::Completed)), "refused: unknown");
    for spec in [None, Some(task())] {
        let claim = Claim { spec, ..claim(id, token) };
        assert_eq!(world.adopt(&worker("a"), &claim), Err(Rejected::Unknown));
    }
}

#[test]
fn an_attempt_settles_once() {
    play(
        task(),
        &[
            (Lease("a"), "attempt 1"),
            (Settle(1, failed(Reason::Error)), "returned: error, again in 700 ms"),
            (Settle(1, failed(Reason::Error)), "refused: duplicate"),
            (Settle(1, Outcome::Completed), "refused: duplicate"),
            (Adopt("a", 1), "refused: duplicate"),
            (Wait(700), "is ready"),
            (Lease("a"), "attempt 2"),
            (Settle(2, Outcome::Released), "returned: released"),
            (Settle(2, Outcome::Released), "refused: duplicate"),
            (Lease("a"), "attempt 3"),
            (Settle(3, Outcome::Completed), "completed"),
            (Settle(3, Outcome::Completed), "refused: ended completed"),
            (Settle(1, Outcome::Completed), "refused: ended completed"),
            (Adopt("a", 3), "refused: ended completed"),
        ],
    );
}

#[test]
fn the_end_tells_where_it_stands_so_that_a_repeat_is_told_from_a_late_one() {
    let mut script =
        play(task(), &[(Lease("a"), "attempt 1"), (Settle(1, Outcome::Completed), "completed")]);
    let token = script.leases[0].token;
    let Err(Rejected::Ended(_, seq)) = script.world.settle(script.id, token, Outcome::Completed)
    else {
        panic!("a second result was taken");
    };
    let event = script.world.log.events.iter().find(|event| event.seq == seq).unwrap();
    assert_eq!(event.attempt.as_ref().map(|attempt| attempt.token), Some(token));
}

#[test]
fn a_late_success_of_a_lost_lease_is_welcome() {
    let script = play(
        task(),
        &[
            (LeaseCharged("a"), "attempt 1"),
            (Settle(1, Outcome::Lost), "returned: lost"),
            (Settle(1, Outcome::Completed), "completed"),
            (Settle(1, Outcome::Completed), "refused: ended completed"),
        ],
    );
    let event = script.world.log.events.last().unwrap();
    let attempt = event.attempt.as_ref().unwrap();
    assert_eq!((attempt.number, attempt.token), (1, script.leases[0].token));
}

#[test]
fn a_late_success_is_welcome_even_if_its_start_was_never_heard_of() {
    play(
        task(),
        &[
            (Lease("a"), "attempt 1"),
            (Settle(1, Outcome::Lost), "returned: released"),
            (Settle(1, Outcome::Completed), "completed"),
        ],
    );
}

#[test]
fn a_late_failure_of_a_lease_counted_as_lost_is_not_counted_again() {
    let script = play(
        task(),
        &[
            (LeaseCharged("a"), "attempt 1"),
            (Settle(1, Outcome::Lost), "returned: lost"),
            (Settle(1, failed(Reason::Permanent)), "refused: duplicate"),
        ],
    );
    let progress = progress(&script.world.queue, script.id);
    assert_eq!((progress.errors, progress.crashes), (0, 1));
}

#[test]
fn a_worker_that_comes_back_with_its_lost_lease_goes_on_and_is_not_charged_again() {
    let mut script = play(
        task(),
        &[
            (LeaseCharged("a"), "attempt 1"),
            (Settle(1, Outcome::Lost), "returned: lost"),
            (Adopt("a", 1), "runs"),
            (Lease("b"), "nothing to lease"),
            (Settle(1, Outcome::Lost), "returned: released"),
            (Adopt("a", 1), "runs"),
            (Settle(1, failed(Reason::Error)), "returned: released"),
        ],
    );
    let counted = progress(&script.world.queue, script.id);
    assert_eq!((counted.attempts, counted.errors, counted.crashes), (1, 0, 1));
    script.play(&[
        (Lease("a"), "attempt 2"),
        (Settle(2, failed(Reason::Error)), "returned: error, again in 700 ms"),
    ]);
    assert_eq!(progress(&script.world.queue, script.id).errors, 1);
}

#[test]
fn a_worker_that_comes_back_with_an_uncharged_lease_is_charged_for_what_happens_then() {
    let script = play(
        task(),
        &[
            (Lease("a"), "attempt 1"),
            (Settle(1, Outcome::Lost), "returned: released"),
            (Adopt("a", 1), "runs"),
            (Settle(1, failed(Reason::Error)), "returned: error, again in 700 ms"),
        ],
    );
    assert_eq!(progress(&script.world.queue, script.id).errors, 1);
}

#[test]
fn a_new_session_takes_over_the_lease_that_it_already_holds() {
    let script = play(
        task(),
        &[
            (Lease("a"), "attempt 1"),
            (Wait(5_000), "runs"),
            (Adopt("a", 1), "runs"),
            (Settle(1, Outcome::Completed), "completed"),
        ],
    );
    assert_eq!(script.world.queue.leases.count(), 0);
}

#[test]
fn what_an_older_lease_was_charged_with_does_not_pass_to_the_one_that_replaces_it() {
    let mut world = World::new();
    let id = world.submit(task());
    let first = world.lease(id, &worker("a"), true).unwrap();
    world.note(&worker("a"));
    world.restart();
    assert_eq!(world.adopt(&worker("a"), &claim(id, first.token)), Ok(()));
    let newer = Token { sequence: first.token.sequence + 1, ..first.token };
    let claim = Claim { attempt: 2, started: false, ..claim(id, newer) };
    assert_eq!(world.adopt(&worker("b"), &claim), Ok(()));
    let lease = &world.queue.leases.find(id).unwrap().lease;
    assert_eq!((lease.charged, lease.started, lease.resumed), (false, None, false));
    assert_eq!(lease.holder, worker("b"));
    assert_eq!(told(&world.settle(id, newer, Outcome::Lost)), "returned: released");
}

#[test]
fn tokens_go_on_rising_over_restarts_and_rounds() {
    let script = play(
        task(),
        &[
            (Lease("a"), "attempt 1"),
            (Settle(1, Outcome::Released), "returned: released"),
            (Lease("a"), "attempt 2"),
            (Settle(2, failed(Reason::Permanent)), "failed: permanent"),
            (super::script::Step::Retry, "a new round"),
            (Restart, "is ready"),
            (Lease("a"), "attempt 3"),
        ],
    );
    assert!(script.leases.is_sorted_by(|a, b| a.token < b.token));
}

fn claim(id: TaskId, token: Token) -> Claim {
    Claim { id, token, attempt: 1, started: true, spec: Some(task()) }
}
