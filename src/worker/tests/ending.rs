use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Semaphore;

use super::fake::{
    Running, Session, completed, failure, gated, released, sequence, soon, task, token, worker,
    worker_with,
};
use crate::wire::v1;
use crate::worker::{Builder, Config, Context, Failure, Worker};

/// A handler that, told to stay, does not stop before the sender is dropped.
fn stays() -> (mpsc::Sender<()>, impl Fn(&Context, Bytes) -> Result<Bytes, Failure> + Send + Sync) {
    let (release, held) = mpsc::channel::<()>();
    let held = Mutex::new(held);
    let handler = move |_: &Context, payload: Bytes| {
        if payload.as_ref() == b"stay" {
            assert!(held.lock().unwrap().recv().is_err(), "nothing is ever sent");
        }
        Ok(payload)
    };
    (release, handler)
}

/// A worker-to-be whose handler stays.
fn stubborn() -> (mpsc::Sender<()>, Builder) {
    let (release, handler) = stays();
    (release, Worker::builder().handle_blocking("stubborn", handler))
}

#[tokio::test]
async fn a_recall_brings_back_what_waits_and_leaves_what_runs() {
    let gate = Arc::new(Semaphore::new(0));
    let worker = worker(Worker::builder().handle("gate", gated(&gate)), 1).await;
    let mut session = Session::open(&worker, 1).await;
    session.assign((1..=3).map(|n| task(n, "x")).collect()).await;
    session.started(&[1]).await;
    session.recall(&[1, 3, 99]).await;
    let (sequence, outcome) = session.outcomes(1).await.remove(0);
    assert_eq!(sequence, 3);
    assert_eq!(outcome.end, Some(released(v1::Release::Recalled)));
    assert_eq!(outcome.run_us, 0, "its handler did not start");
    gate.add_permits(2);
    let ends: Vec<_> = session.outcomes(2).await.into_iter().map(|(n, o)| (n, o.end)).collect();
    assert_eq!(ends, [(1, Some(completed("x"))), (2, Some(completed("x")))]);
}

#[tokio::test]
async fn a_cancel_drops_what_waits_and_signals_what_runs() {
    let builder = Worker::builder().handle("polite", async |context: Context, _: Bytes| {
        context.cancelled().await;
        Err(Failure::error("stopped half way"))
    });
    let worker = worker(builder, 1).await;
    let mut session = Session::open(&worker, 1).await;
    session.assign(vec![task(1, ""), task(2, "")]).await;
    session.started(&[1]).await;
    session.cancel(&[1, 2]).await;
    for (_, outcome) in session.outcomes(2).await {
        assert_eq!(outcome.end, Some(released(v1::Release::Cancelled)));
    }
}

#[tokio::test]
async fn a_cancelled_handler_that_does_not_stop_loses_its_slot() {
    let gate = Arc::new(Semaphore::new(0));
    let (release, builder) = stubborn();
    let worker = worker(builder.handle("gate", gated(&gate)), 1).await;
    let mut session = Session::open(&worker, 1).await;
    let waits_for_ever = v1::Assignment { type_index: 1, ..task(2, "") };
    session.assign(vec![task(1, "stay"), waits_for_ever, task(3, "go")]).await;
    session.started(&[1]).await;
    session.cancel(&[1]).await;
    assert_eq!(session.end_of(1).await, released(v1::Release::Cancelled));
    session.started(&[2]).await;
    session.cancel(&[2]).await;
    session.until("outcomes", |heard| heard.outcomes.len() == 2).await;
    let ends: Vec<_> = session.outcomes(2).await.into_iter().map(|(_, o)| o.end).collect();
    assert_eq!(ends, [Some(released(v1::Release::Cancelled)), Some(completed("go"))]);
    drop(release);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_said_that_it_only_computes_and_blocks_does_not_keep_the_worker() {
    let (release, handler) = stays();
    let builder = Worker::builder().handle_computing("liar", handler);
    let config =
        Config { slots: Some(1), drain_timeout: Duration::from_millis(10), ..Config::default() };
    let mut worker = worker_with(builder, config).await;
    let mut session = Session::open(&worker, 1).await;
    session.assign(vec![task(1, "go")]).await;
    session.end_of(1).await;
    session.assign(vec![task(2, "stay")]).await;
    let busy = || v1::ExecuteRequest {
        token: Some(token(3)),
        r#type: "liar".to_owned(),
        ..v1::ExecuteRequest::default()
    };
    // Another connection than that of the session, which stands still now.
    let mut client = worker.client();
    soon("full worker", async { while client.execute(busy()).await.is_ok() {} }).await;
    worker.begin_shutdown();
    worker.ended().await;
    drop(release);
}

#[tokio::test]
async fn a_handler_that_asks_only_after_it_was_told_to_stop_hears_so() {
    let (release, held) = mpsc::channel::<()>();
    let (says, mut said) = tokio::sync::mpsc::unbounded_channel();
    let held = Mutex::new(held);
    let builder = Worker::builder()
        .handle_blocking("late", move |context, payload| {
            assert!(held.lock().unwrap().recv().is_err(), "nothing is ever sent");
            says.send(context.clone().is_cancelled())?;
            Ok(payload)
        })
        .handle("quick", async |_: Context, payload| Ok(payload));
    let worker = worker(builder, 2).await;
    let mut session = Session::open(&worker, 1).await;
    session.assign(vec![task(1, "")]).await;
    session.started(&[1]).await;
    session.cancel(&[1]).await;
    // Behind the cancel. Should this take longer than the handler is given, it is given up.
    session.assign(vec![v1::Assignment { type_index: 1, ..task(2, "x") }]).await;
    session.until("the quick one", |heard| heard.outcomes.iter().any(|o| sequence(o) == 2)).await;
    drop(release);
    assert_eq!(said.recv().await, Some(true));
    let outcomes = session.outcomes(2).await;
    assert_eq!(outcomes[0].1.end, Some(released(v1::Release::Cancelled)));
}

#[tokio::test]
async fn a_handler_that_was_given_up_hears_that_it_is_wanted_no_more() {
    let (release, held) = mpsc::channel::<()>();
    let (says, mut said) = tokio::sync::mpsc::unbounded_channel();
    let held = Mutex::new(held);
    let builder = Worker::builder().handle_blocking("held", move |context, payload| {
        assert!(held.lock().unwrap().recv().is_err(), "nothing is ever sent");
        says.send(context.is_cancelled())?;
        Ok(payload)
    });
    let worker = worker(builder, 1).await;
    let mut session = Session::open(&worker, 1).await;
    session.assign(vec![task(1, "")]).await;
    session.started(&[1]).await;
    session.cancel(&[1]).await;
    assert_eq!(session.end_of(1).await, released(v1::Release::Cancelled));
    drop(release);
    assert_eq!(said.recv().await, Some(true));
}

#[tokio::test]
async fn a_run_timeout_ends_the_attempt_of_either_flavour() {
    let gate = Arc::new(Semaphore::new(0));
    let (release, builder) = stubborn();
    let worker = worker(builder.handle("gate", gated(&gate)), 1).await;
    let mut session = Session::open(&worker, 1).await;
    let blocking = v1::Assignment { timeout_ms: 20, ..task(1, "stay") };
    let waiting = v1::Assignment { timeout_ms: 30, type_index: 1, ..task(2, "") };
    session.assign(vec![blocking, waiting, task(3, "go")]).await;
    let mut outcomes = session.outcomes(3).await;
    assert_eq!(outcomes.remove(2).1.end, Some(completed("go")));
    for ((_, outcome), timeout) in outcomes.into_iter().zip(["20ms", "30ms"]) {
        assert!(outcome.run_us >= 20_000, "{}", outcome.run_us);
        let (reason, message) = failure(outcome.end.unwrap());
        assert_eq!(reason, v1::Reason::Timeout);
        assert_eq!(message, format!("ran longer than its timeout of {timeout}"));
    }
    drop(release);
}

#[tokio::test]
async fn the_timeout_counts_from_the_start_not_from_the_arrival() {
    let gate = Arc::new(Semaphore::new(0));
    let builder = Worker::builder()
        .handle("gate", gated(&gate))
        .handle_blocking("quick", |_, payload| Ok(payload));
    let worker = worker(builder, 1).await;
    let mut session = Session::open(&worker, 1).await;
    let first = v1::Assignment { timeout_ms: 100, ..task(1, "") };
    let second = v1::Assignment { timeout_ms: 50, type_index: 1, ..task(2, "in time") };
    session.assign(vec![first, second]).await;
    let mut outcomes = session.outcomes(2).await;
    assert_eq!(outcomes.remove(1).1.end, Some(completed("in time")));
    assert_eq!(failure(outcomes.remove(0).1.end.unwrap()).0, v1::Reason::Timeout);
}

#[tokio::test]
async fn a_drain_gives_back_what_waits_finishes_what_runs_and_waits_for_answers() {
    let gate = Arc::new(Semaphore::new(0));
    let mut worker = worker(Worker::builder().handle("gate", gated(&gate)), 1).await;
    let mut session = Session::open(&worker, 1).await;
    session.assign(vec![task(1, "x"), task(2, "y")]).await;
    session.started(&[1]).await;
    worker.begin_shutdown();
    session.until("draining", |heard| heard.draining).await;
    assert_eq!(session.end_of(2).await, released(v1::Release::Drain));
    session.assign(vec![task(3, "z")]).await;
    assert_eq!(session.end_of(3).await, released(v1::Release::Drain));
    gate.add_permits(1);
    assert_eq!(session.end_of(1).await, completed("x"));
    session.settle(&[1, 2, 3], v1::Answer::Accepted).await;
    worker.ended().await;
    assert!(session.end().await.is_none(), "the stream ends in good order");
}

#[tokio::test]
async fn what_still_runs_at_the_drains_deadline_is_given_back() {
    let gate = Arc::new(Semaphore::new(0));
    let (release, builder) = stubborn();
    let config =
        Config { slots: Some(2), drain_timeout: Duration::from_millis(50), ..Config::default() };
    let mut worker: Running = worker_with(builder.handle("gate", gated(&gate)), config).await;
    let mut session = Session::open(&worker, 1).await;
    session.assign(vec![task(1, "stay"), v1::Assignment { type_index: 1, ..task(2, "") }]).await;
    session.started(&[1, 2]).await;
    worker.begin_shutdown();
    for (_, outcome) in session.outcomes(2).await {
        assert_eq!(outcome.end, Some(released(v1::Release::Drain)));
        assert!(outcome.run_us > 0);
    }
    session.settle(&[1, 2], v1::Answer::Accepted).await;
    worker.ended().await;
    drop(release);
}

#[tokio::test]
async fn a_worker_that_leaves_takes_no_new_dispatcher() {
    let gate = Arc::new(Semaphore::new(0));
    let mut worker = worker(Worker::builder().handle("gate", gated(&gate)), 1).await;
    let mut session = Session::open(&worker, 1).await;
    session.assign(vec![task(1, "x")]).await;
    session.started(&[1]).await;
    worker.begin_shutdown();
    session.until("draining", |heard| heard.draining).await;
    let refused = Session::open_with(&worker, super::fake::hello("other", 1)).await.err();
    assert_eq!(refused.unwrap().code(), tonic::Code::Unavailable);
    drop(session);
    // The one it works for may come back for its outcomes.
    let mut session = Session::open(&worker, 2).await;
    assert!(session.hello.draining);
    gate.add_permits(1);
    assert_eq!(session.end_of(1).await, completed("x"));
    session.settle(&[1], v1::Answer::Accepted).await;
    worker.ended().await;
}

#[tokio::test]
async fn a_run_that_is_dropped_stops_its_handlers() {
    let (held, mut dropped) = tokio::sync::mpsc::channel::<()>(1);
    let builder = Worker::builder().handle("forever", move |_: Context, payload: Bytes| {
        let held = held.clone();
        async move {
            std::future::pending::<()>().await;
            drop(held);
            Ok(payload)
        }
    });
    let worker = worker(builder, 1).await;
    let mut session = Session::open(&worker, 1).await;
    session.assign(vec![task(1, "")]).await;
    session.started(&[1]).await;
    drop(worker);
    assert_eq!(super::fake::soon("end of the handler", dropped.recv()).await, None);
}

#[tokio::test]
async fn a_drain_deadline_beyond_the_end_of_the_clock_is_no_panic() {
    let config = Config { drain_timeout: Duration::MAX, ..Config::default() };
    let mut worker =
        worker_with(Worker::builder().handle_blocking("echo", |_, p| Ok(p)), config).await;
    worker.begin_shutdown();
    worker.ended().await;
}
