//! Who is given which task, and when.

use super::world::{Hello, World, at_most_once, batch, hello, of_type, soon, task};
use crate::core::id::TaskId;
use crate::core::task_type::TypeId;
use crate::store::Store as _;
use crate::wire::v1;

#[tokio::test]
async fn a_worker_is_given_no_more_than_its_slots_and_its_prefetch() {
    let world = World::new().await;
    let mut worker = world.join(hello("w", 2)).await;
    world.submit(vec![task(); 10]).await;
    world.barrier().await;
    assert_eq!(worker.given(), [1, 2]);
    worker.prefetch(3).await;
    world.barrier().await;
    assert_eq!(worker.given(), [3, 4, 5]);
    worker.prefetch(0).await;
    world.barrier().await;
    assert_eq!(worker.given(), [0; 0]);
    assert_eq!(world.stats().await.workers[0].held, 5);
}

#[tokio::test]
async fn the_most_urgent_come_first_and_equals_in_order_of_acceptance() {
    let world = World::new().await;
    let urgent = |priority| v1::NewTask { priority: Some(priority), ..task() };
    world.submit(vec![task(), urgent(9), urgent(0), task(), urgent(0)]).await;
    let mut worker = world.join(hello("w", 1)).await;
    let mut order = Vec::new();
    for _ in 0..5 {
        let assignment = worker.assignment().await;
        order.push(assignment.task_id);
        worker.complete(&assignment).await;
    }
    assert_eq!(order, [3, 5, 1, 4, 2]);
}

#[tokio::test]
async fn a_delayed_task_waits_for_its_time_and_then_is_sent_by_itself() {
    let world = World::new().await;
    let mut worker = world.join(hello("w", 2)).await;
    world.submit(vec![v1::NewTask { delay_ms: 200, ..task() }]).await;
    let counts = world.counts().await;
    assert_eq!((counts.pending, counts.scheduled), (1, 1));
    assert_eq!(worker.assignment().await.payload, "text");
    let counts = world.counts().await;
    assert_eq!((counts.pending, counts.scheduled, counts.running), (0, 0, 1));
}

#[tokio::test]
async fn payloads_that_are_not_in_memory_are_read_before_their_turn() {
    let world = World::new().await;
    let payload = |n: u32| bytes::Bytes::from(format!("payload {n}"));
    let tasks = (0..20).map(|n| v1::NewTask { payload: payload(n), ..task() });
    world.submit(tasks.collect()).await;
    let world = world.restart().await;
    let mut worker = world.join(hello("w", 3)).await;
    for n in 0..20 {
        let assignment = worker.assignment().await;
        assert_eq!(
            (assignment.task_id, assignment.payload.clone()),
            (u64::from(n) + 1, payload(n))
        );
        worker.complete(&assignment).await;
    }
    world.until("end", |stats| stats.totals.unwrap().completed == 20).await;
}

#[tokio::test]
async fn no_more_is_staged_than_the_bound_and_the_rest_is_read() {
    let world = World::new().await;
    let large = bytes::Bytes::from(vec![7; 8 << 20]);
    for _ in 0..10 {
        let large = v1::NewTask { payload: large.clone(), ..task() };
        world.submit(vec![large]).await;
    }
    assert_eq!(world.store.reads().len(), 0);
    let mut worker = world.join(hello("w", 1)).await;
    for id in 1..=10 {
        let assignment = worker.assignment().await;
        assert_eq!((assignment.task_id, assignment.payload.len()), (id, large.len()));
        worker.complete(&assignment).await;
    }
    assert!(!world.store.reads().is_empty());
}

#[tokio::test]
async fn the_next_tasks_are_read_before_those_in_memory_are_all_sent() {
    let world = World::new().await;
    world.submit(vec![task(); 3_000]).await;
    let world = world.restart().await;
    let mut worker = world.join(hello("w", 1)).await;
    let read = || world.store.reads().concat();
    let ids = |last| (1..=last).map(TaskId).collect::<Vec<_>>();
    for id in 1..=3_000 {
        let assignment = worker.assignment().await;
        assert_eq!(assignment.task_id, id);
        if id == 511 {
            world.barrier().await;
            assert_eq!(read(), ids(1_024), "half of them are still there");
        }
        if id == 512 {
            let reading = async {
                while read().len() < 2_048 {
                    world.barrier().await;
                }
            };
            soon("read of the next tasks", reading).await;
        }
        worker.complete(&assignment).await;
    }
    assert_eq!(read(), ids(3_000), "each of them once");
}

#[tokio::test]
async fn a_read_of_large_payloads_is_bounded_in_bytes() {
    let world = World::new().await;
    let large = bytes::Bytes::from(vec![7; 1 << 20]);
    for _ in 0..100 {
        let large = v1::NewTask { payload: large.clone(), ..task() };
        world.submit(vec![large]).await;
    }
    let world = world.restart().await;
    let mut worker = world.join(hello("w", 1)).await;
    let assignment = worker.assignment().await;
    let read: usize = world.store.reads().iter().map(Vec::len).sum();
    assert!(read < 40, "{read} payloads of 1 MiB were read to send one");
    worker.complete(&assignment).await;
    assert_eq!(worker.assignment().await.task_id, 2);
}

#[tokio::test]
async fn types_that_share_a_worker_take_turns() {
    let world = World::new().await;
    let mut both = vec![task(); 4];
    both.extend(vec![of_type("sum"); 4]);
    world.submit(both).await;
    let mut worker = world.join(Hello { types: vec!["hash", "sum"], ..hello("w", 1) }).await;
    let mut types = Vec::new();
    for _ in 0..4 {
        let assignment = worker.assignment().await;
        types.push(assignment.type_index);
        worker.complete(&assignment).await;
    }
    types.sort_unstable();
    assert_eq!(types, [0, 0, 1, 1]);
}

#[tokio::test]
async fn an_at_most_once_task_is_not_overtaken_for_ever_by_what_is_prefetched() {
    let world = World::new().await;
    let mut worker = world.join(hello("w", 1)).await;
    worker.prefetch(2).await;
    world.submit(vec![task(); 3]).await;
    let exact = world.submit(vec![at_most_once()]).await;
    world.submit(vec![task(); 20]).await;
    let mut order = Vec::new();
    while !order.contains(&exact) {
        let assignment = worker.assignment().await;
        order.push(assignment.task_id);
        worker.complete(&assignment).await;
        assert!(order.len() < 20, "{order:?}");
    }
    assert_eq!(order, [1, 2, 3, 4], "it is started in order of acceptance");
}

#[tokio::test]
async fn what_ended_while_it_was_read_does_not_stay_in_memory() {
    let world = World::new().await;
    world.submit(vec![task(); 2]).await;
    world.cancel(2).await;
    let rows = world.store.tasks(&[TaskId(1), TaskId(2)]).unwrap();
    let (mut scheduler, _handle) = world.still().await;
    let rows = [TaskId(1), TaskId(2)].into_iter().zip(rows).collect();
    scheduler.fetched(TypeId(0), Ok(rows));
    assert!(scheduler.staged.spec(TaskId(1)).is_some());
    assert!(scheduler.staged.spec(TaskId(2)).is_none());
    assert!(scheduler.announced_end.is_none());
}

#[tokio::test]
async fn a_task_that_waits_without_a_record_ends_the_loop_rather_than_keeping_it_busy() {
    let world = World::new().await;
    world.submit(vec![task()]).await;
    let (mut scheduler, _handle) = world.still().await;
    scheduler.fetched(TypeId(0), Ok(vec![(TaskId(1), None)]));
    let error = scheduler.announced_end.unwrap();
    assert!(error.to_string().contains("task 1 waits"), "{error}");
}

#[tokio::test]
async fn tasks_that_are_not_due_take_no_room_in_memory() {
    let world = World::new().await;
    let delayed = v1::NewTask { delay_ms: 300, ..task() };
    world.submit(vec![delayed, task()]).await;
    let mut worker = world.join(hello("w", 2)).await;
    assert_eq!(worker.assignment().await.task_id, 2);
    assert_eq!(world.store.reads().len(), 0);
    assert_eq!(worker.assignment().await.task_id, 1);
    assert_eq!(world.store.reads(), [[TaskId(1)]]);
}

#[tokio::test]
async fn a_flood_of_batches_ends_with_every_task_run_once() {
    let world = World::new().await;
    let mut worker = world.join(hello("w", 64)).await;
    let mut receipts = Vec::new();
    for _ in 0..50 {
        receipts.push(world.submitting(batch(vec![task(); 100])).await);
    }
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..5_000 {
        let assignment = worker.assignment().await;
        assert!(seen.insert(assignment.task_id));
        worker.complete(&assignment).await;
    }
    world.until("end", |stats| stats.totals.unwrap().completed == 5_000).await;
    let counts = world.counts().await;
    assert_eq!((counts.pending, counts.running, counts.submitted), (0, 0, 5_000));
    assert_eq!(world.stats().await.workers[0].held, 0);
}
