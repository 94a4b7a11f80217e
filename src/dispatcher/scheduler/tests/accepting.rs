//! Keys and limits of a submit.

use std::time::Duration;

use bytes::Bytes;

use super::world::{Setup, World, batch, commit, hello, line_up, soon, submit, task};
use crate::core::event::{Event, KeyedBatch};
use crate::core::id::{Seq, TaskId, Timestamp};
use crate::core::limits;
use crate::dispatcher::scheduler::{Refusal, Scheduler};
use crate::wire::v1;

#[tokio::test]
async fn a_batch_gets_rising_ids_and_a_cursor_from_before_it() {
    let world = World::new().await;
    let receipt = world.try_submit(batch(vec![task(); 3])).await.unwrap();
    assert_eq!((receipt.first, receipt.count, receipt.cursor), (TaskId(1), 3, Seq(0)));
    let next = world.try_submit(batch(vec![task()])).await.unwrap();
    assert_eq!((next.first, next.count), (TaskId(4), 1));
    assert!(next.created >= receipt.created);
}

#[tokio::test]
async fn the_same_key_with_the_same_tasks_is_the_same_batch_also_after_a_restart() {
    let world = World::new().await;
    let first = world.try_submit(keyed(vec![task(); 2])).await.unwrap();
    let again = world.try_submit(keyed(vec![task(); 2])).await.unwrap();
    assert_eq!((again.first, again.count, again.created), (first.first, 2, None));
    let world = world.crash().await;
    let again = world.try_submit(keyed(vec![task(); 2])).await.unwrap();
    assert_eq!((again.first, again.count, again.created), (first.first, 2, None));
    assert_eq!(world.counts().await.pending, 2);
}

#[tokio::test]
async fn a_duplicate_is_told_only_once_the_first_is_durable() {
    let world = World::new().await;
    world.store.hold();
    let first = world.submitting(keyed(vec![task()])).await;
    world.store.holds().await;
    let mut again = world.submitting(keyed(vec![task()])).await;
    world.barrier().await;
    assert!(again.try_recv().is_err());
    world.store.release();
    let first = soon("receipt", first).await.unwrap().unwrap();
    assert_eq!(soon("receipt", again).await.unwrap().unwrap().receipt.first, first.receipt.first);
}

#[tokio::test]
async fn the_same_key_with_other_tasks_is_refused() {
    let world = World::new().await;
    world.try_submit(keyed(vec![task()])).await.unwrap();
    let refused = world.try_submit(keyed(vec![task(); 2])).await.unwrap_err();
    assert_eq!(refused, Refusal::KeyConflict);
    assert_eq!(world.counts().await.submitted, 1);
}

#[tokio::test]
async fn a_key_whose_time_has_come_is_forgotten_here_and_in_the_store() {
    let world = World::new().await;
    world.submit(vec![task()]).await;
    let old = KeyedBatch {
        key: Bytes::from_static(b"key"),
        digest: [1; 32],
        first: TaskId(1),
        count: 1,
        cursor: Seq(0),
        kept_until: Timestamp(1),
        outlives_tasks: false,
    };
    let world = world.restart_with(Event::Keyed(old)).await;
    world.barrier().await;
    let receipt = world.try_submit(keyed(vec![task()])).await.unwrap();
    assert!(receipt.created.is_some(), "the key means a new batch");
    let world = world.restart().await;
    let again = world.try_submit(keyed(vec![task()])).await.unwrap();
    assert_eq!((again.first, again.created), (receipt.first, None));
}

#[tokio::test]
async fn a_key_whose_call_was_answered_is_forgotten_soon_and_a_callers_is_not() {
    let (mut scheduler, _handle) = World::new().await.still().await;
    let callers = v1::SubmitRequest {
        key: "callers".into(),
        key_scope: v1::KeyScope::Caller.into(),
        ..batch(vec![task()])
    };
    let (own, answered_keys) = (keyed(vec![task()]), vec!["key".into(), "callers".into()]);
    let next = v1::SubmitRequest { answered_keys, ..batch(vec![task()]) };
    let is_new = async |scheduler: &mut Scheduler, request: &v1::SubmitRequest| {
        let receiving = submit(scheduler, request.clone());
        if !scheduler.open.is_empty() {
            scheduler.commit();
            commit(scheduler).await;
        }
        receiving.await.unwrap().unwrap().receipt.created.is_some()
    };
    for request in [&own, &callers, &next] {
        assert!(is_new(&mut scheduler, request).await);
    }
    let told = scheduler.last_turn;
    scheduler.last_turn = told.plus(limits::ANSWERED_KEY_KEPT / 2);
    scheduler.upkeep();
    assert!(!is_new(&mut scheduler, &own).await);

    scheduler.last_turn = told.plus(limits::ANSWERED_KEY_KEPT);
    scheduler.upkeep();
    scheduler.commit();
    assert!(scheduler.in_flight.is_none(), "a key is worth no commit of its own");
    assert!(!is_new(&mut scheduler, &callers).await);
    assert!(is_new(&mut scheduler, &own).await);
    let mut stored = Vec::new();
    let mut visit = |event| {
        if let Event::Keyed(batch) = event {
            stored.push((batch.key, batch.first));
        }
    };
    scheduler.store.scan(&mut visit).unwrap();
    assert_eq!(stored, [("callers".into(), TaskId(2)), ("key".into(), TaskId(4))]);
}

#[tokio::test]
async fn the_queue_is_bounded_in_tasks_and_what_ends_makes_room() {
    let mut setup = Setup::default();
    setup.rules.max_queued = 3;
    let world = World::with(setup).await;
    let mut worker = world.join(hello("w", 1)).await;
    world.submit(vec![task(); 2]).await;
    let refused = world.try_submit(batch(vec![task(); 2])).await.unwrap_err();
    assert_eq!(refused, Refusal::TooMany { live: 2, most: 3 });
    let refused = world.try_submit(batch(vec![task(); 4])).await.unwrap_err();
    assert!(refused.to_string().contains("the batch has 4 tasks, and the queue may have 3"));
    let assignment = worker.assignment().await;
    worker.complete(&assignment).await;
    worker.answer().await;
    assert_eq!(world.submit(vec![task(); 2]).await, 3, "a refusal uses no id");
}

#[tokio::test]
async fn the_queue_is_bounded_in_bytes() {
    let mut setup = Setup::default();
    setup.rules.max_queued_bytes = 10;
    let world = World::with(setup).await;
    world.submit(vec![task(); 2]).await;
    let refused = world.try_submit(batch(vec![task()])).await.unwrap_err();
    assert_eq!(refused, Refusal::TooLarge { live: 8, most: 10 });
    assert_eq!(world.stats().await.queued_bytes, 8);
    world.submit(vec![v1::NewTask { payload: Bytes::new(), ..task() }]).await;
}

#[tokio::test]
async fn a_store_that_stalls_refuses_more_than_a_bounded_number_of_bytes() {
    let world = World::new().await;
    world.store.hold();
    let payload = Bytes::from(vec![7; 16 << 20]);
    let large = || batch(vec![v1::NewTask { payload: payload.clone(), ..task() }]);
    let mut receipts = vec![world.submitting(large()).await];
    world.store.holds().await;
    for _ in 0..16 {
        receipts.push(world.submitting(large()).await);
    }
    let refused = world.submitting(large()).await;
    world.barrier().await;
    world.store.release();
    for receipt in receipts {
        soon("receipt", receipt).await.unwrap().unwrap();
    }
    assert_eq!(soon("refusal", refused).await.unwrap().unwrap_err(), Refusal::Slow);
    world.try_submit(large()).await.unwrap();
}

#[tokio::test]
async fn batches_wait_in_line_while_the_open_group_is_long() {
    let (mut scheduler, _handle) = World::new().await.still().await;
    let accepted = |scheduler: &Scheduler| {
        let entries = scheduler.open.group.entries.iter();
        entries.filter(|entry| matches!(entry.event, Event::Submitted { .. })).count()
    };
    let mut receipts = Vec::new();
    let mut submit = |scheduler: &mut Scheduler, tasks| {
        receipts.push(line_up(scheduler, batch(vec![task(); tasks])));
        accepted(scheduler)
    };
    submit(&mut scheduler, 1);
    scheduler.commit();
    assert_eq!(submit(&mut scheduler, 2_000), 2_000);
    assert_eq!(submit(&mut scheduler, 1_000), 3_000, "it was not long before");
    for _ in 0..3 {
        assert_eq!(submit(&mut scheduler, 1_000), 3_000);
    }
    assert!(!scheduler.is_lines_turn());
    // The longer the commit takes.
    let later = scheduler.next_wake();
    assert!(later <= scheduler.last_turn.plus(Duration::from_millis(5)));
    scheduler.last_turn = later;
    assert!(scheduler.is_lines_turn());
    scheduler.submit_from_line();
    assert_eq!(accepted(&scheduler), 5_000);
    // The rest goes with the next group, before whoever comes then.
    commit(&mut scheduler).await;
    assert!(!scheduler.is_lines_turn());
    scheduler.commit();
    assert!(scheduler.is_lines_turn());
    assert_eq!(submit(&mut scheduler, 10), 0);
    scheduler.submit_from_line();
    assert_eq!(accepted(&scheduler), 1_010);
    commit(&mut scheduler).await;
    scheduler.commit();
    commit(&mut scheduler).await;
    let mut first = 1;
    for (receipt, count) in receipts.into_iter().zip([1, 2_000, 1_000, 1_000, 1_000, 1_000, 10]) {
        let receipt = receipt.await.unwrap().unwrap().receipt;
        assert_eq!((receipt.first, receipt.count), (TaskId(first), count));
        first += u64::from(count);
    }
}

#[tokio::test]
async fn who_stands_in_line_when_the_dispatcher_drains_is_refused() {
    let (mut scheduler, _handle) = World::new().await.still().await;
    let _long = line_up(&mut scheduler, batch(vec![task(); 3_000]));
    let receipt = line_up(&mut scheduler, batch(vec![task()]));
    assert!(!scheduler.is_lines_turn());
    scheduler.begin_drain();
    assert!(scheduler.is_lines_turn());
    scheduler.submit_from_line();
    scheduler.commit();
    commit(&mut scheduler).await;
    assert_eq!(receipt.await.unwrap().unwrap_err(), Refusal::Draining);
}

fn keyed(tasks: Vec<v1::NewTask>) -> v1::SubmitRequest {
    v1::SubmitRequest { key: "key".into(), ..batch(tasks) }
}
