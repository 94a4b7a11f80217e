//! Callers that wait for the ends of what they submit.

use std::time::Duration;

use tokio::sync::oneshot;

use super::world::{World, at_most_once, batch, commit, hello, soon, submit, task};
use crate::core::event::Event;
use crate::core::id::TaskId;
use crate::core::queue::Standing;
use crate::core::task::Status;
use crate::dispatcher::scheduler::{Handle, Scheduler};
use crate::wire::v1;

#[tokio::test]
async fn a_caller_that_waits_is_told_the_ends_with_the_receipt() {
    let world = World::new().await;
    let mut worker = world.join(hello("w", 2)).await;
    let stored = world.submitting(waited(vec![task(), task()])).await;
    for _ in 0..2 {
        let assignment = worker.assignment().await;
        worker.complete(&assignment).await;
    }
    let stored = soon("receipt", stored).await.unwrap().unwrap();
    assert_eq!((stored.receipt.first, stored.receipt.count), (TaskId(1), 2));
    for snapshot in stored.tasks {
        let ended = soon("end", snapshot.ends.unwrap()).await.unwrap();
        assert_eq!((ended.event.id, ended.event.change.status()), (snapshot.id, Status::Completed));
    }
}

#[tokio::test]
async fn a_task_that_takes_long_is_stored_without_its_outcome() {
    let world = World::new().await;
    let stored = soon("receipt", world.submitting(waited(vec![task()])).await).await;
    let snapshot = stored.unwrap().unwrap().tasks.remove(0);
    assert!(matches!(snapshot.standing, Standing::Pending(..)) && snapshot.ends.is_some());
    assert!(world.store.log().iter().any(|event| matches!(event, Event::Submitted { .. })));
}

#[tokio::test]
async fn who_waits_under_a_known_key_is_told_how_its_tasks_stand() {
    let world = World::new().await;
    let mut worker = world.join(hello("w", 1)).await;
    let keyed = || v1::SubmitRequest { key: "key".into(), ..waited(vec![task()]) };
    let first = world.submitting(keyed()).await;
    let assignment = worker.assignment().await;
    let again = soon("receipt", world.submitting(keyed()).await).await.unwrap().unwrap();
    assert!(again.receipt.created.is_none(), "it was stored before");
    worker.complete(&assignment).await;
    for stored in [soon("receipt", first).await.unwrap().unwrap(), again] {
        let ends = stored.tasks.into_iter().next().unwrap().ends.unwrap();
        assert_eq!(soon("end", ends).await.unwrap().event.id, TaskId(1));
    }
    let late = soon("receipt", world.submitting(keyed()).await).await.unwrap().unwrap();
    assert!(matches!(late.tasks[0].standing, Standing::Ended(Status::Completed, _)));
}

#[tokio::test]
async fn a_short_task_and_its_end_are_one_commit() {
    let (mut scheduler, _handle) = still().await;
    let mut receiving = submit(&mut scheduler, waited(vec![task()]));
    scheduler.commit();
    assert!(scheduler.in_flight.is_none() && receiving.try_recv().is_err());
    let id = scheduler.open.stores_to.unwrap();
    let spec = *scheduler.staged.spec(id).unwrap();
    let (reply, _answer) = oneshot::channel();
    scheduler.cancel(&[(id, Some(spec))], reply);
    scheduler.commit();
    let commits = scheduler.in_flight.iter().count();
    assert_eq!(commits, 1, "what ends the task is waited for");
    commit(&mut scheduler).await;
    assert!(receiving.try_recv().unwrap().is_ok());
    assert!(matches!(scheduler.queue.standing(id), Standing::Ended(Status::Cancelled, _)));
    assert!(scheduler.open.is_empty());
}

#[tokio::test]
async fn a_group_is_left_open_only_while_nobody_else_waits_and_not_for_long() {
    let (mut scheduler, _handle) = still().await;
    let hurried = [
        vec![batch(vec![task()])],
        vec![waited(vec![task()]), batch(vec![task()])],
        vec![batch(vec![task()]), waited(vec![task()])],
        vec![waited(vec![v1::NewTask { payload: vec![b'x'; 20_000].into(), ..task() }])],
    ];
    for requests in hurried {
        let _receiving: Vec<_> =
            requests.into_iter().map(|request| submit(&mut scheduler, request)).collect();
        scheduler.commit();
        commit(&mut scheduler).await;
        assert!(scheduler.open.is_empty());
    }
    let _first = submit(&mut scheduler, waited(vec![task()]));
    let due = scheduler.open.unhurried_until().unwrap();
    assert!(scheduler.next_wake() <= due);
    scheduler.last_turn = scheduler.last_turn.plus(Duration::from_millis(1));
    let _second = submit(&mut scheduler, waited(vec![at_most_once()]));
    assert_eq!(scheduler.open.unhurried_until(), Some(due), "the first does not wait for others");
    scheduler.commit();
    assert!(scheduler.in_flight.is_none());
    scheduler.last_turn = due;
    scheduler.commit();
    commit(&mut scheduler).await;
    assert!(scheduler.open.is_empty());
}

fn waited(tasks: Vec<v1::NewTask>) -> v1::SubmitRequest {
    v1::SubmitRequest { wait_ms: 60_000, ..batch(tasks) }
}

/// A loop that stands still and has ids in reserve.
async fn still() -> (Scheduler, Handle) {
    let (mut scheduler, handle) = World::new().await.still().await;
    drop(submit(&mut scheduler, waited(vec![task()])));
    scheduler.commit();
    commit(&mut scheduler).await;
    (scheduler, handle)
}
