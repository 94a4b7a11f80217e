//! Watches of the log.

use futures_util::{FutureExt as _, StreamExt as _};
use tonic::{Code, Status};

use super::world::{Fake, Setup, World, batch, hello, soon, task};
use crate::core::id::Seq;
use crate::dispatcher::scheduler::Message;
use crate::dispatcher::watch::{Cursors, Messages, PASSED, Watcher, line};
use crate::shutdown::Shutdown;
use crate::wire::v1;

const CURSORS: Cursors = Cursors { store_id: 5 };

#[tokio::test]
async fn a_watch_tells_each_event_once_in_order() {
    let world = World::new().await;
    let mut worker = world.join(hello("w", 4)).await;
    world.submit(vec![task(); 3]).await;
    let before = worker.assignment().await;
    worker.complete(&before).await;
    worker.answer().await;
    let mut watch = watch(&world, Some(Seq(0)), 16).await;
    assert_eq!(watch.ids(1).await, [1]);
    finish(&mut worker, 2).await;
    assert_eq!(watch.ids(2).await, [2, 3]);
    assert!(watch.messages.next().now_or_never().is_none());
}

#[tokio::test]
async fn a_message_has_each_name_once_and_its_events_their_places() {
    let world = World::new().await;
    let mut one = world.join(hello("one", 1)).await;
    let mut other = world.join(hello("other", 1)).await;
    world.submit(vec![task(); 2]).await;
    let assignments = [one.assignment().await, other.assignment().await];
    let waits = v1::NewTask { delay_ms: 60_000, ..task() };
    let cancelled = world.submit(vec![waits]).await;
    for (worker, assignment) in [&mut one, &mut other].into_iter().zip(&assignments) {
        worker.complete(assignment).await;
        worker.answer().await;
    }
    world.cancel(cancelled).await;
    let mut watch = watch(&world, Some(Seq(0)), 16).await;
    let message = soon("message", watch.messages.next()).await.unwrap().unwrap();
    let name = |index: u32| message.names[usize::try_from(index).unwrap()].as_str();
    let events = message.events.iter();
    let told: Vec<_> = events
        .map(|event| (event.id, name(event.type_index), event.worker_index.map(name)))
        .collect();
    let ids = assignments.map(|assignment| assignment.task_id);
    assert_eq!(
        told,
        [(ids[0], "hash", Some("one")), (ids[1], "hash", Some("other")), (cancelled, "hash", None)]
    );
    assert_eq!(message.names.len(), 3);
}

#[tokio::test]
async fn a_message_with_one_event_of_many_has_no_room_for_the_others() {
    let world = World::new().await;
    let mut worker = world.join(hello("w", 4)).await;
    let first = world.submit(vec![task(); 100]).await;
    finish(&mut worker, 100).await;
    let (cursor, ids) = (CURSORS.encode(Seq(0)), vec![first + 50]);
    let request = v1::WatchRequest { cursor, ids, ..v1::WatchRequest::default() };
    let mut watch = open(&world, request, 16).await.unwrap();
    let message = soon("message", watch.messages.next()).await.unwrap().unwrap();
    assert_eq!((message.events.len(), message.events.capacity()), (1, 1));
}

#[tokio::test]
async fn a_watch_from_now_misses_nothing_that_becomes_durable_after_it() {
    let world = World::new().await;
    let mut worker = world.join(hello("w", 4)).await;
    world.submit(vec![task(); 2]).await;
    world.store.hold();
    let first = worker.assignment().await;
    worker.complete(&first).await;
    world.store.holds().await;
    let mut watch = watch(&world, None, 16).await;
    world.store.release();
    assert_eq!(watch.ids(1).await, [1]);
    let second = worker.assignment().await;
    worker.complete(&second).await;
    assert_eq!(watch.ids(1).await, [2]);
}

#[tokio::test]
async fn a_watch_that_falls_behind_catches_up_from_the_store() {
    let world = World::new().await;
    let mut worker = world.join(hello("w", 1)).await;
    let mut watch = watch(&world, None, 1).await;
    world.submit(vec![task(); 200]).await;
    finish(&mut worker, 200).await;
    assert_eq!(watch.ids(200).await, (1..=200).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_cursor_goes_on_where_it_was() {
    let world = World::new().await;
    let mut worker = world.join(hello("w", 4)).await;
    world.submit(vec![task(); 4]).await;
    finish(&mut worker, 2).await;
    let mut first = watch(&world, Some(Seq(0)), 16).await;
    assert_eq!(first.ids(2).await, [1, 2]);
    finish(&mut worker, 2).await;
    let request = v1::WatchRequest { cursor: first.cursor.clone(), ..v1::WatchRequest::default() };
    let mut second = open(&world, request, 16).await.unwrap();
    assert_eq!(second.ids(2).await, [3, 4]);
}

#[tokio::test]
async fn a_cursor_from_before_what_was_trimmed_is_out_of_range() {
    let mut setup = Setup::default();
    setup.policy.tasks = 1;
    let world = World::with(setup).await;
    let mut worker = world.join(hello("w", 1)).await;
    world.submit(vec![task(); 3]).await;
    finish(&mut worker, 3).await;
    world.until_absent(&[1, 2]).await;
    let request = |place| v1::WatchRequest {
        cursor: CURSORS.encode(Seq(place)),
        ..v1::WatchRequest::default()
    };
    let refused = open(&world, request(1), 1).await.err().unwrap();
    assert_eq!(refused.code(), Code::OutOfRange);
    let mut watch = open(&world, request(2), 1).await.unwrap();
    assert_eq!(watch.ids(1).await, [3]);
}

#[tokio::test]
async fn a_watch_that_is_overtaken_by_the_trimming_is_told_so() {
    let mut setup = Setup::default();
    setup.policy.tasks = 1;
    let world = World::with(setup).await;
    let mut worker = world.join(hello("w", 1)).await;
    let mut watch = watch(&world, None, 1).await;
    world.submit(vec![task(); 300]).await;
    finish(&mut worker, 300).await;
    world.until_absent(&[1, 150, 299]).await;
    let mut told = 0;
    let status = loop {
        match soon("message", watch.messages.next()).await.unwrap() {
            Ok(message) => told += message.events.len(),
            Err(status) => break status,
        }
        assert!(told < 300, "what was trimmed cannot have been told");
    };
    assert_eq!(status.code(), Code::OutOfRange);
}

#[tokio::test]
async fn no_message_of_a_watch_is_too_large_to_be_sent() {
    use prost::Message as _;

    let world = World::new().await;
    let mut watch = watch(&world, None, 16).await;
    let mut worker = world.join(hello("w", 20_000)).await;
    for _ in 0..2 {
        world.submit(vec![task(); 10_000]).await;
    }
    world.barrier().await;
    let mut given = Vec::new();
    for _ in 0..20_000 {
        given.push(worker.assignment().await);
    }
    world.store.hold();
    worker.complete(&given[0]).await;
    world.store.holds().await;
    worker.complete_all(&given[1..]).await;
    world.barrier().await;
    world.store.release();
    let mut told = 0;
    while told < 20_000 {
        let message = soon("message", watch.messages.next()).await.unwrap().unwrap();
        assert!(message.events.len() <= 2_000 && message.encoded_len() < 1 << 20);
        told += message.events.len();
    }
}

#[tokio::test]
async fn a_watch_of_a_task_that_is_seldom_is_told_how_far_it_is() {
    let world = World::new().await;
    let mut worker = world.join(hello("w", 4)).await;
    let seldom = v1::WatchRequest { group: 7, ..v1::WatchRequest::default() };
    let mut watch = open(&world, seldom, 1).await.unwrap();
    let first = watch.cursor.clone();
    // Less than what is passed in silence, and as much once more.
    for _ in 0..2 {
        let passed = usize::try_from(PASSED / 2).unwrap();
        world.submit(vec![task(); passed]).await;
        finish(&mut worker, passed).await;
    }
    let message = soon("message", watch.messages.next()).await.unwrap().unwrap();
    assert!(message.events.is_empty() && message.cursor > first);
    world.submitting(v1::SubmitRequest { group: 7, ..batch(vec![task()]) }).await;
    finish(&mut worker, 1).await;
    assert_eq!(watch.ids(1).await, [PASSED + 1]);
}

#[tokio::test]
async fn a_watch_ends_with_the_dispatcher() {
    let world = World::new().await;
    let mut watch = watch(&world, None, 1).await;
    watch.shutdown.begin();
    let status = soon("farewell", watch.messages.next()).await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
}

#[tokio::test]
async fn a_watch_of_a_store_that_failed_is_told_to_come_back() {
    let world = World::new().await;
    world.store.fail();
    let mut watch = watch(&world, Some(Seq(0)), 1).await;
    let status = soon("farewell", watch.messages.next()).await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "the dispatcher ends, and is started anew");
    assert!(status.message().contains("the test said so"), "{status}");
}

#[tokio::test]
async fn a_watch_that_is_far_behind_ends_with_the_dispatcher_too() {
    const TASKS: usize = 3_000;
    let mut setup = Setup::default();
    setup.policy.tasks = 3_000;
    let world = World::with(setup).await;
    let mut worker = world.join(hello("w", 3_000)).await;
    world.submit(vec![task(); TASKS]).await;
    let mut given = Vec::new();
    for _ in 0..TASKS {
        given.push(worker.assignment().await);
    }
    worker.complete_all(&given).await;
    world.durable().await;
    let mut watch = watch(&world, Some(Seq(0)), 1).await;
    watch.shutdown.begin();
    let mut told = 0;
    let status = loop {
        match soon("farewell", watch.messages.next()).await.unwrap() {
            Ok(message) => told += message.events.len(),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::Unavailable);
    assert!(told < TASKS, "all that it missed was told first");
}

/// A reader of a watch.
struct Watch {
    messages: Messages,
    cursor: bytes::Bytes,
    shutdown: Shutdown,
}

impl Watch {
    /// The ids of the next events.
    async fn ids(&mut self, count: usize) -> Vec<u64> {
        let mut ids = Vec::new();
        while ids.len() < count {
            let message = soon("message", self.messages.next()).await.unwrap().unwrap();
            ids.extend(message.events.iter().map(|event| event.id));
            self.cursor = message.cursor;
        }
        ids
    }
}

async fn watch(world: &World, place: Option<Seq>, room: usize) -> Watch {
    let cursor = place.map(|place| CURSORS.encode(place)).unwrap_or_default();
    open(world, v1::WatchRequest { cursor, ..v1::WatchRequest::default() }, room).await.unwrap()
}

/// A watch that has said hello.
async fn open(world: &World, request: v1::WatchRequest, room: usize) -> Result<Watch, Status> {
    let end = soon("end", world.handle.ask(|reply| Message::End { reply })).await.unwrap();
    let store = std::sync::Arc::new(world.store.clone());
    let watcher = Watcher::new(world.handle.clone(), store, CURSORS, request, end)?;
    let (line, mut messages) = line(room);
    let shutdown = Shutdown::new();
    tokio::spawn(watcher.run(line, shutdown.clone()));
    let hello = soon("hello", messages.next()).await.unwrap().unwrap();
    assert!(hello.events.is_empty());
    Ok(Watch { messages, cursor: hello.cursor, shutdown })
}

async fn finish(worker: &mut Fake, tasks: usize) {
    for _ in 0..tasks {
        let assignment = worker.assignment().await;
        worker.complete(&assignment).await;
        worker.answer().await;
    }
}
