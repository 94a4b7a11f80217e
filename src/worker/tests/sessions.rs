use std::sync::Arc;

use tokio::sync::Semaphore;

use super::fake::{EPOCH, Session, completed, gated, hello, released, task, token, worker};
use crate::wire::v1;
use crate::worker::{Config, Error, TypeSpec, Worker};

#[tokio::test]
async fn an_outcome_is_sent_again_after_a_reconnect_until_it_is_answered() {
    let gate = Arc::new(Semaphore::new(0));
    let worker = worker(Worker::builder().handle("gate", gated(&gate)), 1).await;
    let mut session = Session::open(&worker, 1).await;
    session.assign(vec![task(1, "a"), task(2, "b"), task(3, "c")]).await;
    gate.add_permits(1);
    assert_eq!(session.end_of(1).await, completed("a"));
    session.started(&[2]).await;
    drop(session);

    let mut session = Session::open(&worker, 2).await;
    let held = |sequence, started| v1::HeldLease {
        task_id: 100 + sequence,
        token: Some(token(sequence)),
        started,
        attempt: 1,
    };
    assert_eq!(session.hello.held, [held(1, true), held(2, true), held(3, false)]);
    assert_eq!(session.end_of(1).await, completed("a"), "it was not answered");
    gate.add_permits(1);
    assert_eq!(session.end_of(2).await, completed("b"), "it ran on without a session");
    session.settle(&[1], v1::Answer::Accepted).await;
    session.settle(&[2], v1::Answer::Fenced).await;
    gate.add_permits(1);
    assert_eq!(session.end_of(3).await, completed("c"));
    session.settle(&[3], v1::Answer::Unspecified).await;
    // The next outcome tells that the answers before it have been read.
    session.assign(vec![task(4, "d")]).await;
    gate.add_permits(1);
    assert_eq!(session.end_of(4).await, completed("d"));
    drop(session);

    let session = Session::open(&worker, 3).await;
    assert_eq!(session.hello.held, [held(3, true), held(4, true)], "1 and 2 had final answers");
}

#[tokio::test]
async fn a_newer_session_of_the_same_dispatcher_replaces_the_older_one() {
    let worker = worker(Worker::builder().handle_blocking("same", |_, p| Ok(p)), 1).await;
    let mut old = Session::open(&worker, 1).await;
    let mut new = Session::open(&worker, 2).await;
    assert_eq!(old.end().await.unwrap().code(), tonic::Code::Aborted);
    let late = Session::open_with(&worker, hello("d", 1)).await.err();
    assert_eq!(late.unwrap().code(), tonic::Code::Aborted);
    new.assign(vec![task(1, "x")]).await;
    assert_eq!(new.end_of(1).await, completed("x"));
}

#[tokio::test]
async fn assignments_of_another_session_are_discarded() {
    let worker = worker(Worker::builder().handle_blocking("same", |_, p| Ok(p)), 1).await;
    let mut session = Session::open(&worker, 2).await;
    let stale = v1::Assign { session: 1, tasks: vec![task(1, "stale")] };
    session.send(v1::session_request::Frame::Assign(stale)).await;
    session.assign(vec![task(2, "x"), task(2, "again")]).await;
    assert_eq!(session.end_of(2).await, completed("x"));
}

#[tokio::test]
async fn a_type_that_is_not_served_and_tasks_beyond_the_credit_are_rejected() {
    let gate = Arc::new(Semaphore::new(0));
    let worker = worker(Worker::builder().handle("gate", gated(&gate)), 1).await;
    let mut session = Session::open(&worker, 1).await;
    session.assign(vec![v1::Assignment { type_index: 1, ..task(1, "") }]).await;
    assert_eq!(session.end_of(1).await, released(v1::Release::Rejected));
    session.assign((2..5_000).map(|n| task(n, "")).collect()).await;
    session.until("rejections", |heard| heard.outcomes.len() > 2_000).await;
    for outcome in &session.heard.outcomes {
        assert_eq!(outcome.end, Some(released(v1::Release::Rejected)));
    }
}

#[tokio::test]
async fn several_dispatchers_share_the_slots_and_hear_only_of_their_own() {
    let gate = Arc::new(Semaphore::new(0));
    let worker = worker(Worker::builder().handle("gate", gated(&gate)), 1).await;
    let mut one = Session::open(&worker, 1).await;
    let mut other = Session::open_with(&worker, hello("e", 1)).await.unwrap();
    one.assign(vec![task(1, "one")]).await;
    one.started(&[1]).await;
    other.assign(vec![task(1, "other")]).await;
    gate.add_permits(1);
    assert_eq!(one.end_of(1).await, completed("one"));
    other.started(&[1]).await;
    gate.add_permits(1);
    assert_eq!(other.end_of(1).await, completed("other"));
}

#[tokio::test]
async fn silence_is_broken_three_times_a_lease() {
    let worker = worker(Worker::builder().handle_blocking("same", |_, p| Ok(p)), 1).await;
    let short = v1::DispatcherHello { lease_ms: 600, ..hello("d", 1) };
    let mut session = Session::open_with(&worker, short).await.unwrap();
    session.until("empty reports", |heard| heard.empty >= 2).await;
}

#[tokio::test]
async fn a_session_without_a_proper_hello_is_refused() {
    let worker = worker(Worker::builder().handle_blocking("same", |_, p| Ok(p)), 1).await;
    for bad in [
        v1::DispatcherHello { dispatcher_id: String::new(), ..hello("d", 1) },
        v1::DispatcherHello { epoch: None, ..hello("d", 1) },
        v1::DispatcherHello { lease_ms: 0, ..hello("d", 1) },
    ] {
        let refused = Session::open_with(&worker, bad).await.err().unwrap();
        assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    }
    let frame = v1::session_request::Frame::Recall(v1::Recall::default());
    let request = v1::SessionRequest { frame: Some(frame) };
    let refused = worker.client().session(tokio_stream::iter([request])).await.err().unwrap();
    assert_eq!(refused.code(), tonic::Code::InvalidArgument);
}

#[tokio::test]
async fn a_later_start_of_a_worker_has_a_greater_incarnation() {
    let build = || Worker::builder().handle_blocking(TypeSpec::new("same").text(), |_, p| Ok(p));
    let (one, other) = (worker(build(), 1).await, worker(build(), 1).await);
    let (one, other) = (Session::open(&one, 1).await, Session::open(&other, 1).await);
    assert_ne!(one.hello.incarnation, other.hello.incarnation);
    assert!(one.hello.incarnation >> 20 <= other.hello.incarnation >> 20);
    assert_ne!(one.hello.worker_id, other.hello.worker_id);
    assert_eq!(one.hello.types[0].payload(), v1::PayloadKind::Text);
    assert_eq!(EPOCH.boot, 3);
}

#[tokio::test]
async fn a_worker_that_cannot_be_right_is_not_bound() {
    let same = |builder: crate::worker::Builder, name: &str| {
        builder.handle_blocking(TypeSpec::new(name).json(), |_, p| Ok(p))
    };
    let one = same(Worker::builder(), "a");
    let twice = same(same(Worker::builder(), "a"), "a");
    let schema = Worker::builder()
        .handle_blocking(TypeSpec::new("a").json_schema(r#"{"type":1}"#), |_, p| Ok(p));
    let config = Config::default;
    assert!(matches!(Worker::builder().bind(config()).await, Err(Error::Types(0))));
    assert!(matches!(twice.bind(config()).await, Err(Error::TypeTwice(_))));
    assert!(matches!(
        same(Worker::builder(), "A").bind(config()).await,
        Err(Error::BadTypeName(_))
    ));
    assert!(matches!(schema.bind(config()).await, Err(Error::BadSchema { .. })));
    let no_slots = Config { slots: Some(0), ..config() };
    assert!(matches!(one.bind(no_slots).await, Err(Error::Slots(0))));
    let spaced = Config { id: Some("a b".to_owned()), ..config() };
    assert!(matches!(same(Worker::builder(), "a").bind(spaced).await, Err(Error::BadId(_))));
}
