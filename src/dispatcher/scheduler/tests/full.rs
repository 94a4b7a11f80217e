//! A disk without space.

use super::world::{Hello, World, batch, hello, soon, task};
use crate::core::id::TaskId;
use crate::core::queue::Standing;
use crate::core::task::Status;
use crate::dispatcher::scheduler::{Message, Refusal};
use crate::store;
use crate::wire::v1;

#[tokio::test]
async fn submits_are_refused_reads_answered_and_outcomes_kept_until_there_is_space() {
    let world = World::new().await;
    let mut worker = world.join(hello("w", 1)).await;
    let done = world.submit(vec![task()]).await;
    let assignment = worker.assignment().await;
    worker.complete(&assignment).await;
    worker.answer().await;
    let running = world.submit(vec![task()]).await;
    let assignment = worker.assignment().await;
    world.durable().await;

    world.store.fill_up();
    let keyed = || v1::SubmitRequest { key: "key".into(), ..batch(vec![task()]) };
    assert_eq!(world.try_submit(keyed()).await, Err(Refusal::Waits), "it may be stored yet");
    assert_eq!(world.try_submit(keyed()).await, Err(Refusal::Waits));
    assert_eq!(world.try_submit(batch(vec![task()])).await, Err(Refusal::NoSpace));
    assert!(matches!(world.standing(done).await, Standing::Ended(Status::Completed, _)));
    worker.complete(&assignment).await;
    world.barrier().await;
    assert_eq!(worker.answered(), [], "the outcome is not durable");
    let ask = |reply| Message::Look { ids: vec![TaskId(running)], wait: false, reply };
    let look = world.handle.ask(ask);
    tokio::pin!(look);
    tokio::select! {
        biased;
        told = &mut look => panic!("it is told of an outcome that is not durable: {told:?}"),
        () = world.barrier() => {}
    }

    world.store.release();
    assert!(matches!(soon("look", look).await.unwrap()[0].standing, Standing::Ended(..)));
    assert_eq!(worker.answer().await.1, v1::Answer::Accepted);
    let known = world.try_submit(keyed()).await.unwrap();
    assert_eq!((known.first, known.created), (TaskId(3), None), "it has been stored");
    assert_eq!(worker.assignment().await.task_id, 3);
}

#[tokio::test]
async fn on_the_reserve_outcomes_and_cancels_go_on_and_new_tasks_are_refused_until_there_is_room() {
    let world = World::new().await;
    let mut worker = world.join(hello("w", 2)).await;
    let keyed = || v1::SubmitRequest { key: "key".into(), ..batch(vec![task()]) };
    world.try_submit(keyed()).await.unwrap();
    let assignment = worker.assignment().await;
    let waiting = world.submit(vec![v1::NewTask { delay_ms: 3_600_000, ..task() }]).await;
    world.store.make_room(false);
    world.store.fill_up();
    assert_eq!(world.try_submit(batch(vec![task()])).await, Err(Refusal::Waits));
    world.store.release();
    assert_eq!(worker.assignment().await.task_id, 3);
    assert_eq!(world.standing(3).await, Standing::Running, "it is stored");

    let refused = world.try_submit(batch(vec![task()])).await;
    assert_eq!(refused, Err(Refusal::NoSpace));
    let known = world.try_submit(keyed()).await.unwrap();
    assert_eq!((known.first, known.created), (TaskId(1), None), "nothing new is stored for it");
    worker.complete(&assignment).await;
    assert_eq!(worker.answer().await.1, v1::Answer::Accepted);
    world.cancel(waiting).await;
    assert!(matches!(world.standing(waiting).await, Standing::Ended(Status::Cancelled, _)));

    world.store.make_room(true);
    let accepted = async {
        while world.try_submit(batch(vec![task()])).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    soon("room", accepted).await;
}

#[tokio::test]
async fn a_dispatcher_that_stops_waits_for_no_space() {
    let mut world = World::new().await;
    world.store.fill_up();
    assert_eq!(world.try_submit(batch(vec![task()])).await, Err(Refusal::Waits));
    world.drain();
    assert!(matches!(world.ended().await, Err(store::Error::Full)));
}

#[tokio::test]
async fn what_cannot_be_read_for_want_of_space_is_not_read_again_at_once() {
    let world = World::new().await;
    let worker = world.join(hello("w", 1)).await;
    worker.leave(false).await;
    let id = world.submit(vec![task()]).await;
    let world = world.restart().await;
    world.store.fill_up();
    let mut worker = world.join(Hello { session: 2, ..hello("w", 1) }).await;
    while world.store.reads().is_empty() {
        world.barrier().await;
    }
    for _ in 0..100 {
        world.barrier().await;
    }
    let reads = world.store.reads().len();
    world.store.release();
    assert!(reads < 10, "{reads} reads");
    assert_eq!(worker.assignment().await.task_id, id);
}
