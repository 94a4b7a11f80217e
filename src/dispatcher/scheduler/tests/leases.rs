//! Sessions that come and go, and what becomes of their leases.

use std::time::Duration;

use super::world::{Hello, Setup, World, batch, commit, hello, join, short_lease, submit, task};
use crate::core::id::Timestamp;
use crate::core::queue::Claim;
use crate::core::task::{Outcome, Reason, Status};
use crate::dispatcher::scheduler::Report;
use crate::wire::v1::{self, Answer};

#[tokio::test]
async fn a_newer_session_replaces_the_older_one() {
    let world = World::new().await;
    let mut old = world.join(hello("w", 1)).await;
    world.submit(vec![task()]).await;
    let assignment = old.assignment().await;
    let claims = vec![old.claim(&world, &assignment, true)];
    let mut new = world.join(Hello { session: 2, claims, ..hello("w", 1) }).await;
    assert!(old.is_let_go().await);
    old.complete(&assignment).await;
    world.barrier().await;
    assert_eq!(world.counts().await.running, 1, "nothing is heard of the old one");
    old.leave(true).await;
    world.barrier().await;
    let stats = world.stats().await;
    assert!(stats.workers[0].connected);
    assert_eq!((stats.workers.len(), stats.workers[0].held), (1, 1));
    new.complete(&assignment).await;
    assert_eq!(new.answer().await.1, Answer::Accepted);
}

#[tokio::test]
async fn a_lease_that_a_hello_does_not_list_goes_back_uncharged() {
    let world = World::new().await;
    let mut old = world.join(hello("w", 2)).await;
    let id = world.submit(vec![task(); 2]).await;
    let first = old.assignment().await;
    let _lost = old.assignment().await;
    old.start(&first).await;
    let claims = vec![old.claim(&world, &first, true)];
    let mut new = world.join(Hello { session: 2, claims, ..hello("w", 2) }).await;
    let again = new.assignment().await;
    assert_eq!((again.task_id, again.attempt), (id + 1, 2));
    // The push runs ahead of the commit.
    world.durable().await;
    assert_eq!(world.story(id + 1), [(Status::Pending, Some(Reason::Released))]);
    assert_eq!(world.stats().await.workers[0].held, 2);
    assert_eq!(world.counts().await.running, 2);
}

#[tokio::test]
async fn a_new_incarnation_loses_what_the_old_one_had_started() {
    let world = World::new().await;
    let mut old = world.join(hello("w", 2)).await;
    let id = world.submit(vec![task(); 2]).await;
    let started = old.assignment().await;
    let _waiting = old.assignment().await;
    old.start(&started).await;
    let mut new = world.join(Hello { incarnation: 2, session: 2, ..hello("w", 2) }).await;
    let again = [new.assignment().await.task_id, new.assignment().await.task_id];
    assert_eq!(again, [id, id + 1]);
    world.durable().await;
    assert_eq!(world.story(id), [(Status::Pending, Some(Reason::Lost))]);
    assert_eq!(world.story(id + 1), [(Status::Pending, Some(Reason::Silence))]);
    assert_eq!(world.counts().await.lost, 1);
}

#[tokio::test]
async fn a_task_that_kills_its_worker_before_its_start_is_heard_of_ends_as_poison() {
    let world = World::new().await;
    let id = world.submit(vec![task()]).await;
    let mut dead = Vec::new();
    for incarnation in 1..=4 {
        let next = Hello { incarnation, session: incarnation, ..hello("w", 1) };
        let mut worker = world.join(next).await;
        assert_eq!(worker.assignment().await.task_id, id);
        dead.push(worker);
    }
    let _last = world.join(Hello { incarnation: 5, session: 5, ..hello("w", 1) }).await;
    world.durable().await;
    let lost = (Status::Pending, Some(Reason::Lost));
    let uncharged = (Status::Pending, Some(Reason::Silence));
    let poison = (Status::Failed, Some(Reason::Poison));
    // The first loss may have been no doing of its, until the next one.
    assert_eq!(world.story(id), [uncharged, lost, lost, poison]);
}

#[tokio::test]
async fn a_refused_claim_is_answered_with_a_cancel() {
    let world = World::new().await;
    let mut old = world.join(hello("w", 1)).await;
    world.submit(vec![task()]).await;
    let assignment = old.assignment().await;
    old.complete(&assignment).await;
    old.answer().await;
    let ended = old.claim(&world, &assignment, true);
    let mut never = ended;
    never.token.sequence = 99;
    let claims = vec![ended, never];
    let mut new = world.join(Hello { session: 2, claims, ..hello("w", 4) }).await;
    let stopped = [new.stopped().await, new.stopped().await];
    assert_eq!(stopped, [ended.token, never.token]);
    assert_eq!(world.stats().await.workers[0].held, 2, "until it says what became of them");
    new.end(1, ended.token, Outcome::Completed).await;
    assert_eq!(new.answer().await, (ended.token, Answer::Duplicate));
    new.end(1, never.token, Outcome::Released).await;
    assert_eq!(new.answer().await.1, Answer::Fenced);
    assert_eq!(world.stats().await.workers[0].held, 0);
}

#[tokio::test]
async fn leases_of_a_silent_worker_end_and_those_of_one_that_reports_do_not() {
    let world = World::with(short_lease()).await;
    let mut silent = world.join(hello("silent", 1)).await;
    let lost = world.submit(vec![task()]).await;
    let assignment = silent.assignment().await;
    silent.start(&assignment).await;
    let mut alive = world.join(Hello { session: 2, ..hello("alive", 1) }).await;
    let kept = world.submit(vec![task()]).await;
    let held = alive.assignment().await;
    let mut again = None;
    while again.is_none() {
        alive.start(&held).await;
        again = silent.given().into_iter().next();
        if world.stats().await.totals.unwrap().lost > 0 {
            break;
        }
    }
    world.durable().await;
    assert_eq!(silent.stopped().await, silent.token(&assignment));
    assert_eq!(world.story(lost), [(Status::Pending, Some(Reason::Lost))]);
    assert_eq!(world.story(kept), []);
    alive.complete(&held).await;
    let elsewhere = alive.assignment().await;
    assert_eq!((elsewhere.task_id, elsewhere.attempt), (lost, 2));
}

#[tokio::test]
async fn a_dispatcher_that_was_away_times_nothing_out_before_it_hears_how_it_ended() {
    for (lease, away) in [(10, 60), (60, 5)] {
        let [lease, away] = [lease, away].map(Duration::from_secs);
        let mut setup = Setup::default();
        setup.rules.lease = lease;
        let (mut scheduler, _handle) = World::with(setup).await.still().await;
        let now = scheduler.clock.now();
        scheduler.last_turn = Timestamp(now.0 - u64::try_from(away.as_millis()).unwrap());
        let member = join(&mut scheduler, "w").await;
        let timed = v1::NewTask { timeout_ms: 1_000, ..task() };
        let receipt = submit(&mut scheduler, batch(vec![timed]));
        scheduler.assign();
        scheduler.commit();
        commit(&mut scheduler).await;
        let id = receipt.await.unwrap().unwrap().receipt.first;
        let token = scheduler.queue.leases.find(id).unwrap().lease.token;
        scheduler.report(member, Report { started: vec![(id, token)], ..Report::default() });

        scheduler.begin_turn();
        scheduler.upkeep();
        assert!(scheduler.queue.leases.find(id).is_some(), "away for {away:?}");
        scheduler.last_turn = scheduler.last_turn.plus(away);
        scheduler.next_sweep = scheduler.last_turn;
        scheduler.upkeep();
        assert!(scheduler.queue.leases.find(id).is_none(), "it is for ever");
    }
}

#[tokio::test]
async fn a_late_success_of_a_lost_lease_is_taken_while_nothing_newer_runs() {
    let world = World::with(short_lease()).await;
    let mut worker = world.join(hello("w", 1)).await;
    let id = world.submit(vec![task(); 2]).await;
    let assignment = worker.assignment().await;
    worker.start(&assignment).await;
    worker.stopped().await;
    worker.end(id, worker.token(&assignment), Outcome::Completed).await;
    assert_eq!(worker.answer().await.1, Answer::Accepted);
    assert_eq!(world.status(id).await, Some(Status::Completed));
    assert_eq!(worker.assignment().await.task_id, id + 1);
}

#[tokio::test]
async fn a_handler_that_runs_far_too_long_is_timed_out_here() {
    let world = World::new().await;
    let mut worker = world.join(hello("w", 1)).await;
    let timed = v1::NewTask { timeout_ms: 1, max_attempts: Some(1), ..task() };
    let id = world.submit(vec![timed]).await;
    let assignment = worker.assignment().await;
    assert_eq!(assignment.timeout_ms, 1);
    worker.start(&assignment).await;
    assert_eq!(worker.stopped().await, worker.token(&assignment));
    assert_eq!(world.story(id), [(Status::Failed, Some(Reason::Timeout))]);
    worker.complete(&assignment).await;
    assert_eq!(worker.answer().await.1, Answer::Duplicate, "it was settled in its worker's place");
    assert_eq!(world.status(id).await, Some(Status::Failed));
}

#[tokio::test]
async fn a_task_that_used_up_its_crashes_runs_alone_and_then_is_poison() {
    let world = World::new().await;
    let mut worker = world.join(hello("w", 2)).await;
    let id = world.submit(vec![v1::NewTask { max_crashes: Some(1), ..task() }]).await;
    for incarnation in [2, 3] {
        let assignment = worker.assignment().await;
        assert_eq!(assignment.task_id, id);
        worker.start(&assignment).await;
        if incarnation == 3 {
            world.submit(vec![task()]).await;
            world.barrier().await;
            assert_eq!(worker.given(), [0; 0], "nothing runs beside it");
        }
        let hello = Hello { incarnation, session: incarnation, ..hello("w", 2) };
        worker = world.join(hello).await;
    }
    assert_eq!(worker.assignment().await.task_id, id + 1);
    world.durable().await;
    let lost = (Status::Pending, Some(Reason::Lost));
    assert_eq!(world.story(id), [lost, (Status::Failed, Some(Reason::Poison))]);
}

#[tokio::test]
async fn a_worker_set_aside_is_given_back_when_the_task_turns_out_to_run_elsewhere() {
    let world = World::with(short_lease()).await;
    let mut first = world.join(hello("first", 1)).await;
    world.submit(vec![v1::NewTask { max_crashes: Some(1), ..task() }]).await;
    let crashed = first.assignment().await;
    first.start(&crashed).await;
    first.leave(false).await;
    let claim = first.claim(&world, &crashed, true);
    let mut other = world.join(Hello { types: vec!["sum"], ..hello("busy", 1) }).await;
    world.submit(vec![super::world::of_type("sum")]).await;
    let busy = other.assignment().await;
    let claims = vec![Claim { started: true, ..other.claim(&world, &busy, true) }];
    // It serves both from here on, and holds one task: it is set aside.
    let types = vec!["sum", "hash"];
    let hello_again = Hello { types: types.clone(), session: 2, claims, ..hello("busy", 1) };
    let mut other = world.join(hello_again).await;
    while world.store.reads().is_empty() {
        other.report(crate::dispatcher::scheduler::Report::default()).await;
        world.barrier().await;
    }
    world.barrier().await;
    let back = Hello { claims: vec![claim], session: 3, ..hello("first", 1) };
    let _first = world.join(back).await;
    other.complete(&busy).await;
    other.answer().await;
    let next = world.submit(vec![super::world::of_type("sum")]).await;
    assert_eq!(other.assignment().await.task_id, next);
}
