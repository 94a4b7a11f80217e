//! Outcomes and their answers.

use super::world::{World, hello, join, short_lease, task};
use crate::core::id::{Epoch, Token};
use crate::core::task::{Outcome, Reason, Status};
use crate::store;
use crate::wire::v1::{self, Answer};

#[tokio::test]
async fn a_repeated_outcome_is_a_duplicate_and_changes_nothing() {
    let world = World::new().await;
    let mut worker = world.join(hello("w", 1)).await;
    let id = world.submit(vec![task()]).await;
    let assignment = worker.assignment().await;
    let token = worker.token(&assignment);
    worker.complete(&assignment).await;
    assert_eq!(worker.answer().await, (token, Answer::Accepted));
    worker.complete(&assignment).await;
    assert_eq!(worker.answer().await, (token, Answer::Duplicate));
    worker.fail(&assignment, Reason::Error).await;
    assert_eq!(worker.answer().await, (token, Answer::Duplicate));
    assert_eq!(world.story(id), [(Status::Completed, None)]);
    assert_eq!(world.end_of(id).await.result, "done");
    assert_eq!(world.stats().await.totals.unwrap().fenced, 0);
}

#[tokio::test]
async fn an_outcome_of_an_older_lease_is_fenced_and_counted() {
    let world = World::new().await;
    let mut worker = world.join(hello("w", 1)).await;
    world.submit(vec![task()]).await;
    let first = worker.assignment().await;
    worker.fail(&first, Reason::Error).await;
    assert_eq!(worker.answer().await.1, Answer::Accepted);
    let second = worker.assignment().await;
    assert_eq!((second.task_id, second.attempt), (first.task_id, 2));
    assert!(second.sequence > first.sequence);
    worker.complete(&first).await;
    assert_eq!(worker.answer().await, (worker.token(&first), Answer::Fenced));
    worker.complete(&second).await;
    assert_eq!(worker.answer().await, (worker.token(&second), Answer::Accepted));
    worker.complete(&first).await;
    assert_eq!(worker.answer().await, (worker.token(&first), Answer::Fenced), "also after the end");
    assert_eq!(world.stats().await.totals.unwrap().fenced, 2);
}

#[tokio::test]
async fn an_outcome_of_what_was_never_given_is_unknown() {
    let world = World::new().await;
    let mut worker = world.join(hello("w", 1)).await;
    let token = Token { epoch: world.epoch, sequence: 9 };
    worker.end(77, token, Outcome::Completed).await;
    assert_eq!(worker.answer().await, (token, Answer::Unknown));
    world.submit(vec![task()]).await;
    let assignment = worker.assignment().await;
    let wiped = Token { epoch: Epoch { boot: 9, nonce: 9 }, sequence: 1 };
    worker.end(assignment.task_id, wiped, Outcome::Completed).await;
    assert_eq!(worker.answer().await, (wiped, Answer::Unknown));
}

#[tokio::test]
async fn an_outcome_for_a_task_that_was_cancelled_is_fenced() {
    let world = World::new().await;
    let mut worker = world.join(hello("w", 1)).await;
    let id = world.submit(vec![task()]).await;
    let assignment = worker.assignment().await;
    let snapshots = world.cancel(id).await;
    assert_eq!(snapshots[0].id.0, id);
    assert_eq!(worker.stopped().await, worker.token(&assignment));
    worker.complete(&assignment).await;
    assert_eq!(worker.answer().await.1, Answer::Fenced);
    assert_eq!(world.status(id).await, Some(Status::Cancelled));
    assert_eq!(world.stats().await.workers[0].held, 0, "its slot is free again");
}

#[tokio::test]
async fn a_permanent_failure_ends_the_task_and_an_error_uses_its_attempts() {
    let world = World::new().await;
    let mut worker = world.join(hello("w", 1)).await;
    let ended = world.submit(vec![task()]).await;
    let assignment = worker.assignment().await;
    worker.fail(&assignment, Reason::Permanent).await;
    let tried = world.submit(vec![v1::NewTask { max_attempts: Some(2), ..task() }]).await;
    for _ in 0..2 {
        let assignment = worker.assignment().await;
        worker.fail(&assignment, Reason::Error).await;
    }
    world.until("two failures", |stats| stats.totals.unwrap().failed == 2).await;
    world.durable().await;
    assert_eq!(world.story(ended), [(Status::Failed, Some(Reason::Permanent))]);
    let error = Some(Reason::Error);
    assert_eq!(world.story(tried), [(Status::Pending, error), (Status::Failed, error)]);
    let counts = world.counts().await;
    assert_eq!((counts.errors, counts.failed, counts.running), (3, 2, 0));
    assert_eq!(world.stats().await.workers[0].failed, 3);
}

#[tokio::test]
async fn what_is_given_back_is_charged_to_nothing() {
    let world = World::new().await;
    let mut worker = world.join(hello("w", 1)).await;
    let id = world.submit(vec![v1::NewTask { max_attempts: Some(1), ..task() }]).await;
    for _ in 0..3 {
        let assignment = worker.assignment().await;
        let token = worker.token(&assignment);
        worker.end(id, token, Outcome::Released).await;
        assert_eq!(worker.answer().await, (token, Answer::Accepted));
    }
    assert_eq!(worker.assignment().await.attempt, 4);
    let counts = world.counts().await;
    assert_eq!((counts.errors, counts.lost, counts.running), (0, 0, 1));
}

#[tokio::test]
async fn a_late_success_is_counted_off_nothing_that_runs() {
    let world = World::with(short_lease()).await;
    let mut late = world.join(hello("late", 1)).await;
    let id = world.submit(vec![task()]).await;
    let assignment = late.assignment().await;
    late.start(&assignment).await;
    late.stopped().await;
    let urgent = v1::NewTask { priority: Some(0), ..task() };
    world.submit(vec![urgent]).await;
    let mut busy = world.join(hello("busy", 1)).await;
    assert_eq!(busy.assignment().await.task_id, id + 1, "the lost one waits behind it");
    late.complete(&assignment).await;
    assert_eq!(late.answer().await.1, Answer::Accepted);
    assert_eq!(world.counts().await.running, 1);
}

#[tokio::test]
async fn an_ending_that_cannot_be_read_ends_the_loop_rather_than_an_answer() {
    let (mut scheduler, _handle) = World::new().await.still().await;
    let member = join(&mut scheduler, "w").await;
    let token = Token { epoch: Epoch { boot: 1, nonce: 7 }, sequence: 1 };
    let damaged = store::Error::Damaged { what: "a page".to_owned() };
    scheduler.judged(member, token, Err(damaged));
    assert!(matches!(scheduler.announced_end, Some(store::Error::Damaged { .. })));
}
