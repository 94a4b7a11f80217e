//! What waits for a commit, and what does not.

use super::world::{Hello, World, at_most_once, batch, hello, soon, task};
use crate::core::event::Event;
use crate::core::id::TaskId;
use crate::core::queue::Standing;
use crate::core::task::Status;
use crate::dispatcher::scheduler::Message;
use crate::wire::v1;

#[tokio::test]
async fn a_receipt_waits_for_its_commit_and_the_push_does_not() {
    let world = World::new().await;
    world.submit(vec![v1::NewTask { delay_ms: 60_000, ..task() }]).await;
    let mut worker = world.join(hello("w", 8)).await;
    world.durable().await;
    world.store.hold();
    let mut receipt = world.submitting(batch(vec![task()])).await;
    let mut exact = world.submitting(batch(vec![at_most_once()])).await;
    world.store.holds().await;
    assert_eq!(worker.assignment().await.task_id, 2);
    world.barrier().await;
    assert!(receipt.try_recv().is_err() && exact.try_recv().is_err());
    assert_eq!(
        worker.given(),
        [0; 0],
        "an at-most-once task is not pushed before its start is stored"
    );
    world.store.release();
    assert_eq!(soon("receipt", receipt).await.unwrap().unwrap().receipt.first, TaskId(2));
    assert_eq!(soon("receipt", exact).await.unwrap().unwrap().receipt.first, TaskId(3));
    assert_eq!(worker.assignment().await.task_id, 3);
    let starts = world.store.log().into_iter().filter_map(|event| match event {
        Event::Leased(notes) => Some(notes.leases),
        _ => None,
    });
    assert!(starts.flatten().any(|lease| lease.id == TaskId(3) && lease.charged));
}

#[tokio::test]
async fn nothing_is_pushed_before_the_reservation_of_its_id_is_synced() {
    let world = World::new().await;
    let mut worker = world.join(hello("w", 8)).await;
    world.durable().await;
    world.store.hold();
    let _receipt = world.submitting(batch(vec![task()])).await;
    world.store.holds().await;
    world.barrier().await;
    assert_eq!(worker.given(), [0; 0]);
    assert_eq!(world.counts().await.running, 1, "it is leased, and its push waits");
    world.store.release();
    assert_eq!(worker.assignment().await.task_id, 1);
}

#[tokio::test]
async fn the_answer_to_an_outcome_waits_for_its_commit() {
    let world = World::new().await;
    let mut worker = world.join(hello("w", 1)).await;
    world.submit(vec![task()]).await;
    let assignment = worker.assignment().await;
    world.store.hold();
    worker.complete(&assignment).await;
    world.store.holds().await;
    world.barrier().await;
    assert_eq!(worker.answered(), []);
    worker.complete(&assignment).await;
    world.barrier().await;
    assert_eq!(worker.answered(), [], "neither is a repeat told before the first is durable");
    world.store.release();
    let token = worker.token(&assignment);
    assert_eq!(worker.answer().await, (token, v1::Answer::Accepted));
    assert_eq!(worker.answer().await, (token, v1::Answer::Duplicate));
}

#[tokio::test]
async fn reads_and_refusals_wait_for_the_group_that_they_depend_on() {
    let world = World::new().await;
    let mut worker = world.join(hello("w", 1)).await;
    let id = world.submit(vec![task()]).await;
    let assignment = worker.assignment().await;
    world.store.hold();
    worker.complete(&assignment).await;
    world.store.holds().await;
    let look = |reply| Message::Look { ids: vec![TaskId(id)], wait: false, reply };
    let question = world.handle.ask(look);
    let cancel = |reply| Message::Cancel { tasks: vec![(TaskId(id), None)], reply };
    let wish = world.handle.ask(cancel);
    tokio::pin!(question, wish);
    let asked = async { tokio::join!(&mut question, &mut wish) };
    tokio::pin!(asked);
    let early = tokio::select! {
        biased;
        _ = &mut asked => true,
        () = world.barrier() => false,
    };
    assert!(!early);
    world.store.release();
    let (seen, refused) = soon("answers", asked).await;
    let stands = |standing| matches!(standing, Standing::Ended(Status::Completed, _));
    assert!(stands(seen.unwrap()[0].standing) && stands(refused.unwrap()[0].standing));
}

#[tokio::test]
async fn what_comes_behind_a_push_that_waits_does_not_overtake_it() {
    let world = World::new().await;
    let mut worker = world.join(hello("w", 8)).await;
    world.submit(vec![v1::NewTask { delay_ms: 60_000, ..task() }]).await;
    world.store.hold();
    let receipt = world.submitting(batch(vec![at_most_once(), task()])).await;
    world.store.holds().await;
    let later = world.submitting(batch(vec![task()])).await;
    world.barrier().await;
    assert_eq!(worker.given(), [0; 0]);
    world.store.release();
    for receipt in [receipt, later] {
        soon("receipt", receipt).await.unwrap().unwrap();
    }
    for id in [2, 3, 4] {
        assert_eq!(worker.assignment().await.task_id, id);
    }
    let next = world.submit(vec![task()]).await;
    assert_eq!(worker.assignment().await.task_id, next);
}

#[tokio::test]
async fn a_failed_commit_gives_no_receipt_and_ends_the_loop_with_its_error() {
    let mut world = World::new().await;
    let _worker = world.join(hello("w", 1)).await;
    world.store.hold();
    let receipt = world.submitting(batch(vec![task()])).await;
    world.store.holds().await;
    let later = world.submitting(batch(vec![task()])).await;
    world.store.fail();
    assert!(soon("end of the wait", receipt).await.is_err(), "nobody knows whether it is stored");
    assert!(soon("end of the wait", later).await.is_err());
    let error = world.ended().await.unwrap_err();
    assert!(error.to_string().contains("the test said so"), "{error}");
    assert!(world.handle.ask(|reply| Message::Stats { reply }).await.is_err());
}

#[tokio::test]
async fn a_drain_refuses_keeps_what_it_has_and_ends() {
    let mut world = World::new().await;
    let mut worker = world.join(hello("w", 1)).await;
    world.submit(vec![task()]).await;
    let assignment = worker.assignment().await;
    world.store.hold();
    let receipt = world.submitting(batch(vec![task()])).await;
    world.store.holds().await;
    world.drain();
    worker.complete(&assignment).await;
    let refused = world.submitting(batch(vec![task()])).await;
    world.barrier().await;
    world.store.release();
    assert!(soon("receipt", receipt).await.unwrap().is_ok());
    let refused = soon("refusal", refused).await.unwrap().unwrap_err();
    assert_eq!(refused, crate::dispatcher::scheduler::Refusal::Draining);
    world.ended().await.unwrap();
    assert!(matches!(world.store.log().last(), Some(Event::Stopped { next_id: TaskId(3) })));
    assert_eq!(worker.answered(), [], "the next boot answers it");
}

#[tokio::test]
async fn an_at_most_once_task_whose_worker_leaves_before_the_push_is_run_elsewhere() {
    let world = World::new().await;
    let worker = world.join(hello("w", 1)).await;
    world.submit(vec![v1::NewTask { delay_ms: 60_000, ..task() }]).await;
    world.store.hold();
    let receipt = world.submitting(batch(vec![at_most_once()])).await;
    world.store.holds().await;
    worker.leave(false).await;
    world.barrier().await;
    world.store.release();
    soon("receipt", receipt).await.unwrap().unwrap();
    let mut other = world.join(Hello { session: 2, ..hello("other", 1) }).await;
    assert_eq!(other.assignment().await.task_id, 2);
}
