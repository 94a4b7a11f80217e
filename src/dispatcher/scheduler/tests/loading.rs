//! A start whose history is not read yet.

use super::world::{World, batch, hello, soon, task};
use crate::core::event::Event;
use crate::core::id::TaskId;
use crate::core::queue::Standing;
use crate::core::task::Status;
use crate::dispatcher::scheduler::Message;
use crate::store::{self, Store as _};
use crate::wire::v1;

fn keyed() -> v1::SubmitRequest {
    v1::SubmitRequest { key: "key".into(), ..batch(vec![task()]) }
}

/// A world that has completed task 1, of a batch with a key, and has task 2 waiting, after
/// a restart before its history.
async fn before_its_history() -> World {
    let world = World::new().await;
    let mut worker = world.join(hello("w", 1)).await;
    world.try_submit(keyed()).await.unwrap();
    let assignment = worker.assignment().await;
    worker.complete(&assignment).await;
    worker.answer().await;
    worker.leave(true).await;
    world.submit(vec![task()]).await;
    world.restart_before_its_history().await
}

#[tokio::test]
async fn tasks_are_accepted_before_the_history_is_read_and_everything_else_waits_for_it() {
    let world = before_its_history().await;
    let ask = |reply| Message::Look { ids: vec![TaskId(1), TaskId(2)], wait: false, reply };
    let look = world.handle.ask(ask);
    let join = world.join(hello("w", 3));
    tokio::pin!(look, join);
    let accepted = async {
        let known = world.try_submit(keyed()).await.unwrap();
        let new = world.submit(vec![task()]).await;
        (known.first.0, known.created, new)
    };
    let (known, created, new) = tokio::select! {
        biased;
        told = &mut look => panic!("how should it know? {told:?}"),
        _ = &mut join => panic!("it knows of no leases yet"),
        accepted = accepted => accepted,
    };
    assert_eq!((known, created, new), (1, None, 3));

    world.store.release_history();
    let told = soon("look", look).await.unwrap();
    assert!(matches!(told[0].standing, Standing::Ended(Status::Completed, _)));
    assert!(matches!(told[1].standing, Standing::Pending(..)));
    let mut worker = soon("join", join).await;
    let given = [worker.assignment().await.task_id, worker.assignment().await.task_id];
    assert_eq!(given, [2, 3]);
}

#[tokio::test]
async fn who_submits_again_and_waits_hears_of_an_old_task_once_it_is_known() {
    let world = before_its_history().await;
    let waits = v1::SubmitRequest { wait_ms: 60_000, ..keyed() };
    let mut again = world.submitting(waits).await;
    let fresh = v1::SubmitRequest { wait_ms: 60_000, ..batch(vec![task()]) };
    let fresh = soon("receipt", world.submitting(fresh).await).await.unwrap().unwrap();
    assert!(matches!(fresh.tasks[0].standing, Standing::Pending(..)));
    assert!(again.try_recv().is_err(), "how should it know how that stands?");
    world.store.release_history();
    let stored = soon("answer", again).await.unwrap().unwrap();
    assert_eq!((stored.receipt.first, stored.receipt.created), (TaskId(1), None));
    assert!(matches!(stored.tasks[0].standing, Standing::Ended(Status::Completed, _)));
}

#[tokio::test]
async fn a_stop_before_the_history_is_read_loses_nothing_and_counts_as_a_crash() {
    let mut world = before_its_history().await;
    let new = world.submit(vec![task()]).await;
    world.drain();
    world.store.release_history();
    world.ended().await.unwrap();
    let mut kept = Vec::new();
    let scan = world.store.memory.scan(&mut |event| match event {
        Event::Submitted { id, .. } => kept.push(id.0),
        Event::Stopped { .. } => panic!("it did not stop in good order"),
        _ => {}
    });
    scan.unwrap();
    assert_eq!(kept, [1, 2, new]);
}

#[tokio::test]
async fn a_stop_while_the_history_is_read_ends_once_nobody_reads_the_store() {
    let mut world = before_its_history().await;
    world.drain();
    soon("last word", async {
        while world.handle.ask(|reply| Message::End { reply }).await.is_ok() {}
    })
    .await;
    assert!(!world.has_ended(), "who reads the store has it open");
    world.store.release_history();
    world.ended().await.unwrap();
    assert!(world.store.is_nobody_elses());
}

#[tokio::test]
async fn a_history_that_cannot_be_read_ends_the_dispatcher() {
    let mut world = before_its_history().await;
    world.store.damage_history();
    assert!(matches!(world.ended().await, Err(store::Error::Damaged { .. })));
}
