//! What the next boot knows, waits for, and is careful about.

use super::world::{Hello, World, hello, soon, task};
use crate::core::event::Event;
use crate::core::id::TaskId;
use crate::core::task::{Reason, Status};
use crate::dispatcher::scheduler::Message;
use crate::store::Store as _;
use crate::wire::v1::{self, Answer};

#[tokio::test]
async fn nothing_is_sent_until_the_workers_of_the_last_boot_have_said_what_they_hold() {
    let world = World::new().await;
    let mut worker = world.join(hello("w", 1)).await;
    world.submit(vec![task(); 2]).await;
    let assignment = worker.assignment().await;
    world.durable().await;
    let epoch = world.epoch;
    let claim = worker.claim(&world, &assignment, true);
    let world = world.restart().await;
    let mut other = world.join(Hello { slots: 8, ..hello("other", 8) }).await;
    world.barrier().await;
    assert_eq!(other.given(), [0; 0]);
    let back = Hello { claims: vec![claim], ..hello("w", 1) };
    let mut worker = world.join(back).await;
    assert_eq!(other.assignment().await.task_id, 2);
    world.barrier().await;
    assert_eq!(other.given(), [0; 0], "the other one runs on");
    assert!(claim.token.epoch == epoch && world.epoch > epoch);
    worker.end(1, claim.token, crate::core::task::Outcome::Completed).await;
    assert_eq!(worker.answer().await, (claim.token, Answer::Accepted));
    assert_eq!(world.end_of(1).await.event.attempt.unwrap().number, 1);
}

#[tokio::test]
async fn a_cancel_names_the_lease_of_an_older_boot_by_its_own_epoch() {
    let world = World::new().await;
    let mut worker = world.join(hello("w", 1)).await;
    let id = world.submit(vec![task()]).await;
    let assignment = worker.assignment().await;
    let claim = worker.claim(&world, &assignment, true);
    let world = world.restart().await;
    let mut worker = world.join(Hello { claims: vec![claim], ..hello("w", 1) }).await;
    world.cancel(id).await;
    assert_eq!(worker.stopped().await, claim.token);
    assert_ne!(claim.token.epoch, world.epoch);
}

#[tokio::test]
async fn workers_that_do_not_come_back_are_waited_for_two_seconds() {
    let world = World::new().await;
    let _worker = world.join(hello("w", 1)).await;
    world.submit(vec![task(); 2]).await;
    world.durable().await;
    let begun = std::time::Instant::now();
    let world = world.restart().await;
    let mut other = world.join(hello("other", 8)).await;
    other.assignment().await;
    let waited = begun.elapsed();
    assert!(waited >= std::time::Duration::from_millis(1_900), "{waited:?}");
}

#[tokio::test]
async fn a_worker_that_said_goodbye_is_not_waited_for() {
    let world = World::new().await;
    let worker = world.join(hello("w", 1)).await;
    worker.leave(true).await;
    world.submit(vec![task()]).await;
    let world = world.restart().await;
    let mut other = world.join(hello("other", 8)).await;
    world.barrier().await;
    assert!(world.counts().await.running == 1 || other.assignment().await.task_id == 1);
}

#[tokio::test]
async fn a_worker_that_the_nameservice_no_longer_knows_is_forgotten() {
    let world = World::new().await;
    let gone = world.join(hello("gone", 1)).await;
    let _stays = world.join(Hello { session: 2, ..hello("stays", 1) }).await;
    gone.leave(false).await;
    world.durable().await;
    let endpoints = std::collections::BTreeMap::from([("stays".to_owned(), v1::Health::Healthy)]);
    let told = |complete| Message::Endpoints { endpoints: endpoints.clone(), complete };
    world.handle.tell(told(false)).await.unwrap();
    world.durable().await;
    assert_eq!(left(&world), [], "what is not complete says nothing of who is gone");
    world.handle.tell(told(true)).await.unwrap();
    world.durable().await;
    assert_eq!(left(&world), [Event::WorkerLeft { worker: "gone".into() }]);
}

#[tokio::test]
async fn a_worker_that_never_comes_back_makes_one_restart_wait_and_not_all() {
    let world = World::new().await;
    let gone = world.join(hello("gone", 1)).await;
    gone.leave(false).await;
    // That it was here must be known after the crash.
    world.durable().await;
    let world = world.crash().await;
    let nobody = std::collections::BTreeMap::new();
    let told = Message::Endpoints { endpoints: nobody, complete: true };
    world.handle.tell(told).await.unwrap();
    world.durable().await;
    assert_eq!(left(&world), [], "it has its time to come back");
    soon("end of the wait", async {
        while left(&world).is_empty() {
            world.durable().await;
            tokio::task::yield_now().await;
        }
    })
    .await;
    let mut awaited = Vec::new();
    let scan = world.store.scan(&mut |event| {
        if let Event::WorkerSeen { holder, .. } = event {
            awaited.push(holder);
        }
    });
    scan.unwrap();
    assert_eq!(awaited, []);
}

#[tokio::test]
async fn after_an_unclean_stop_starts_of_inherited_tasks_are_stored_before_the_push() {
    let world = World::new().await;
    world.submit(vec![task()]).await;
    let world = world.crash().await;
    let mut worker = world.join(hello("w", 4)).await;
    let assignment = worker.assignment().await;
    assert_eq!(starts(&world), [(TaskId(assignment.task_id), true)]);
    let fresh = world.submit(vec![task()]).await;
    assert_eq!(worker.assignment().await.task_id, fresh);
    assert!(starts(&world).iter().all(|(id, charged)| id.0 != fresh || !charged));
    let world = world.crash().await;
    let mut worker = world.join(Hello { incarnation: 2, ..hello("w", 4) }).await;
    assert_eq!(worker.assignment().await.task_id, 1);
    assert_eq!(world.story(1), [(Status::Pending, Some(Reason::Lost))], "it is charged");
}

#[tokio::test]
async fn after_a_clean_stop_they_are_not() {
    let world = World::new().await;
    world.submit(vec![task()]).await;
    let world = world.restart().await;
    let mut worker = world.join(hello("w", 4)).await;
    worker.assignment().await;
    assert!(starts(&world).iter().all(|(_, charged)| !charged));
}

#[tokio::test]
async fn a_crash_loses_what_had_no_receipt_and_its_id_names_nothing() {
    let world = World::new().await;
    let mut worker = world.join(hello("w", 4)).await;
    let kept = world.submit(vec![task()]).await;
    worker.assignment().await;
    world.store.hold();
    let receipt = world.submitting(super::world::batch(vec![task()])).await;
    world.store.holds().await;
    let early = worker.assignment().await;
    let claim = worker.claim(&world, &early, true);
    assert!(claim.spec.is_none());
    let world = world.crash().await;
    assert!(receipt.await.is_err());
    let mut worker = world.join(Hello { claims: vec![claim], ..hello("w", 4) }).await;
    assert_eq!(worker.stopped().await, claim.token);
    worker.end(early.task_id, claim.token, crate::core::task::Outcome::Completed).await;
    assert_eq!(worker.answer().await, (claim.token, Answer::Unknown));
    let next = world.submit(vec![task()]).await;
    assert!(next > early.task_id, "an id that was shown is never given again");
    let seen = world.look(&[kept, early.task_id, next]).await;
    assert_eq!([true, false, true], [seen[0].given, seen[1].given, seen[2].given]);
}

#[tokio::test]
async fn notes_of_leases_are_forgotten_once_their_leases_have_ended() {
    let world = World::new().await;
    let mut worker = world.join(hello("w", 4)).await;
    world.submit(vec![super::world::at_most_once(); 4]).await;
    for _ in 0..4 {
        let assignment = worker.assignment().await;
        worker.complete(&assignment).await;
        worker.answer().await;
    }
    world.submit(vec![task()]).await;
    let assignment = worker.assignment().await;
    worker.complete(&assignment).await;
    worker.answer().await;
    let log = world.store.log();
    let written = log.iter().filter_map(|event| match event {
        Event::Leased(notes) => Some(notes.note),
        _ => None,
    });
    let written: Vec<u64> = written.collect();
    world.submit(vec![task()]).await;
    world.durable().await;
    let mut forgotten = world.store.notes_forgotten();
    forgotten.sort_unstable();
    assert_eq!(forgotten, written);
}

fn left(world: &World) -> Vec<Event> {
    let log = world.store.log().into_iter();
    log.filter(|event| matches!(event, Event::WorkerLeft { .. })).collect()
}

fn starts(world: &World) -> Vec<(TaskId, bool)> {
    let notes = world.store.log().into_iter().filter_map(|event| match event {
        Event::Leased(notes) => Some(notes.leases),
        _ => None,
    });
    notes.flatten().map(|lease| (lease.id, lease.charged)).collect()
}
