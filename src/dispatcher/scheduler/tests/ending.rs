//! Wishes of people: cancel, retry, wait, list.

use std::sync::Arc;

use bytes::Bytes;

use super::world::{Hello, World, hello, soon, task};
use crate::core::id::TaskId;
use crate::core::queue::Standing;
use crate::core::task::{Outcome, Reason, Status};
use crate::dispatcher::answers::{self, Asked, Wanted};
use crate::dispatcher::scheduler::{Again, Listing, Message};
use crate::wire::v1::{self, found::Answer};

#[tokio::test]
async fn a_pending_task_is_cancelled_at_once_and_never_sent() {
    let world = World::new().await;
    let id = world.submit(vec![task(); 2]).await;
    assert!(matches!(world.cancel(id).await[0].standing, Standing::Ended(Status::Cancelled, _)));
    let mut worker = world.join(hello("w", 2)).await;
    assert_eq!(worker.assignment().await.task_id, 2);
    world.barrier().await;
    assert_eq!(worker.given(), [0; 0]);
    assert_eq!(world.counts().await.cancelled, 1);
    assert_eq!(world.stats().await.queued_bytes, 4);
}

#[tokio::test]
async fn cancel_against_completion_the_first_wins() {
    let world = World::new().await;
    let mut worker = world.join(hello("w", 1)).await;
    let id = world.submit(vec![task()]).await;
    let assignment = worker.assignment().await;
    worker.complete(&assignment).await;
    worker.answer().await;
    assert!(matches!(world.cancel(id).await[0].standing, Standing::Ended(Status::Completed, _)));
    assert_eq!(world.story(id), [(Status::Completed, None)]);
}

#[tokio::test]
async fn a_retried_task_runs_again_under_the_same_id_with_fresh_budgets() {
    let world = World::new().await;
    let mut worker = world.join(hello("w", 1)).await;
    let id = world.submit(vec![task()]).await;
    let first = worker.assignment().await;
    worker.fail(&first, Reason::Permanent).await;
    worker.answer().await;
    let ended = world.end_of(id).await.event;
    let attempt = ended.attempt.clone().unwrap();
    let known = Some((ended.spec, ended.seq, attempt.number, Some(attempt.token)));
    let wish = |reply| Message::Retry { tasks: vec![Again { id: TaskId(id), known }], reply };
    soon("answer", world.handle.ask(wish)).await.unwrap();
    let second = worker.assignment().await;
    assert_eq!((second.task_id, second.attempt, second.payload.clone()), (id, 2, "text".into()));
    assert!(second.sequence > first.sequence);
    let stale = |reply| Message::Retry { tasks: vec![Again { id: TaskId(id), known }], reply };
    let snapshots = soon("answer", world.handle.ask(stale)).await.unwrap();
    assert!(matches!(snapshots[0].standing, Standing::Running), "an old wish changes nothing");
    worker.complete(&second).await;
    worker.answer().await;
    let none = None;
    assert_eq!(
        world.story(id),
        [
            (Status::Failed, Some(Reason::Permanent)),
            (Status::Pending, none),
            (Status::Completed, none)
        ]
    );
}

#[tokio::test]
async fn a_task_that_went_back_is_due_since_then_and_not_since_it_was_accepted() {
    let world = World::new().await;
    let mut worker = world.join(hello("w", 1)).await;
    let oldest = async || {
        let counted = world.handle.ask(|reply| Message::Stats { reply });
        let counted = soon("numbers", counted).await.unwrap();
        counted.oldest.into_iter().map(|oldest| (oldest.id.0, oldest.due)).collect::<Vec<_>>()
    };
    let id = world.submit(vec![task(); 2]).await;
    let first = worker.assignment().await;
    assert_eq!(oldest().await, [(id + 1, None)], "when it was accepted stands in the log");
    let claims = vec![worker.claim(&world, &first, true)];
    let again = world.join(Hello { session: 2, claims, ..hello("w", 1) }).await;
    again.end(id, again.token(&first), Outcome::Released).await;
    again.leave(true).await;
    world.barrier().await;
    assert!(matches!(oldest().await[..], [(oldest, Some(_))] if oldest == id));
}

#[tokio::test]
async fn who_waits_for_a_task_is_told_its_end_with_the_result() {
    let world = World::new().await;
    let mut worker = world.join(hello("w", 1)).await;
    let id = world.submit(vec![task()]).await;
    let look = |reply| Message::Look { ids: vec![TaskId(id), TaskId(99)], wait: true, reply };
    let mut snapshots = soon("snapshots", world.handle.ask(look)).await.unwrap();
    assert!(snapshots[1].ends.is_none() && !snapshots[1].given, "it never was");
    let mut ends = snapshots[0].ends.take().unwrap();
    let assignment = worker.assignment().await;
    world.store.hold();
    worker.complete(&assignment).await;
    world.store.holds().await;
    world.barrier().await;
    assert!(ends.try_recv().is_err(), "not before it is durable");
    world.store.release();
    let ended = soon("end", ends).await.unwrap();
    assert_eq!((ended.event.id, ended.result), (TaskId(id), "done".into()));
    assert_eq!(ended.event.change.status(), Status::Completed);
}

#[tokio::test]
async fn tasks_are_listed_by_how_they_stand_newest_first() {
    let world = World::new().await;
    let mut worker = world.join(hello("w", 2)).await;
    world.submit(vec![task(); 5]).await;
    let first = worker.assignment().await;
    worker.complete(&first).await;
    world.submit(vec![v1::NewTask { delay_ms: 60_000, ..task() }]).await;
    world.cancel(5).await;
    let list = async |status, limit| {
        let before = TaskId(u64::MAX);
        let listing = Listing { status, type_id: None, before, limit };
        let asked = world.handle.ask(|reply| Message::List { listing, reply });
        let snapshots = soon("page", asked).await.unwrap();
        snapshots.iter().map(|snapshot| snapshot.id.0).collect::<Vec<_>>()
    };
    assert_eq!(list(Some(Status::Completed), 9).await, [1]);
    assert_eq!(list(Some(Status::Running), 9).await, [3, 2]);
    assert_eq!(list(Some(Status::Pending), 9).await, [6, 4]);
    assert_eq!(list(Some(Status::Cancelled), 9).await, [5]);
    assert_eq!(list(None, 9).await, [6, 5, 4, 3, 2, 1]);
    assert_eq!(list(None, 2).await, [6, 5]);
}

#[tokio::test]
async fn payloads_and_results_that_nobody_wants_are_not_read() {
    let world = World::new().await;
    let mut worker = world.join(hello("w", 1)).await;
    world.submit(vec![task(); 3]).await;
    let ended = worker.assignment().await;
    worker.complete(&ended).await;
    worker.answer().await;
    let story = async |bytes| {
        let snapshots = world.look(&[1, 2, 3]).await.into_iter();
        let asked = snapshots.map(|snapshot| Asked { snapshot, ended: None }).collect();
        let (store, types) = (Arc::new(world.store.clone()), world.handle.types());
        let wanted = Wanted { payload: bytes, result: bytes, story: true };
        let found = answers::found(store, types, asked, wanted).await.unwrap();
        let Some(Answer::Task(ended)) = found[0].answer.clone() else { panic!("{found:?}") };
        (ended.payload, ended.result, ended.story.len(), found.len())
    };
    assert_eq!(story(false).await, (Bytes::new(), None, 1, 3));
    assert_eq!((world.store.reads().len(), world.store.results()), (0, 0));
    assert_eq!(story(true).await, ("text".into(), Some("done".into()), 1, 3));
    assert_eq!((world.store.reads().len(), world.store.results()), (3, 1));
}
