use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use tokio::sync::Semaphore;

use super::fake::{Session, completed, failure, gated, hello, soon, task, token, worker};
use crate::core::limits;
use crate::wire::v1::{self, outcome::End};
use crate::worker::{Context, Failure, TypeSpec, Worker, builtin};

#[tokio::test]
async fn tasks_start_in_order_of_arrival_on_no_more_than_the_slots() {
    let gate = Arc::new(Semaphore::new(0));
    let worker = worker(Worker::builder().handle("gate", gated(&gate)), 2).await;
    let mut session = Session::open(&worker, 1).await;
    assert_eq!(session.hello.slots, 2);
    session.assign((1..=5).map(|n| task(n, "x")).collect()).await;
    session.started(&[1, 2]).await;
    for next in [3, 4, 5] {
        gate.add_permits(1);
        session.until("outcome", |heard| heard.outcomes.len() == 1).await;
        session.started(&[next]).await;
        session.heard.outcomes.clear();
        assert_eq!(session.heard.started.iter().max(), Some(&next), "a slot for each");
    }
}

#[tokio::test]
async fn blocking_and_async_tasks_share_the_slots_and_the_order() {
    let starts = Arc::new(Mutex::new(Vec::new()));
    let running = Arc::new(AtomicUsize::new(0));
    let (log, count) = (Arc::clone(&starts), Arc::clone(&running));
    let (log_too, count_too) = (Arc::clone(&starts), Arc::clone(&running));
    let alone = |count: &AtomicUsize| assert_eq!(count.fetch_add(1, Ordering::SeqCst), 0);
    let builder = Worker::builder()
        .handle_blocking("blocking", move |context, payload| {
            alone(&count);
            log.lock().unwrap().push(context.task_id());
            count.fetch_sub(1, Ordering::SeqCst);
            Ok(payload)
        })
        .handle("async", move |context: Context, payload: Bytes| {
            let (log, count) = (Arc::clone(&log_too), Arc::clone(&count_too));
            async move {
                alone(&count);
                log.lock().unwrap().push(context.task_id());
                tokio::task::yield_now().await;
                count.fetch_sub(1, Ordering::SeqCst);
                Ok(payload)
            }
        });
    let worker = worker(builder, 1).await;
    let mut session = Session::open(&worker, 1).await;
    let tasks =
        (0..50).map(|n| v1::Assignment { type_index: u32::from(n % 3 == 0), ..task(n, "x") });
    session.assign(tasks.collect()).await;
    for (_, outcome) in session.outcomes(50).await {
        assert_eq!(outcome.end, Some(completed("x")));
    }
    assert_eq!(*starts.lock().unwrap(), (100..150).collect::<Vec<u64>>());
}

#[tokio::test]
async fn tasks_that_last_keep_no_short_ones_of_their_type_from_free_slots() {
    // More than there are processors that could be kept busy, and slots for all of them.
    const LONG: u64 = 40;
    let (gate, closed) = std::sync::mpsc::channel::<()>();
    let closed = Mutex::new(closed);
    let builder = Worker::builder().handle_blocking("odd", move |_, payload| {
        if payload == "long" {
            // Opened for all by dropping the other end.
            closed.lock().unwrap().recv().unwrap_err();
        }
        Ok(payload)
    });
    let worker = worker(builder, 64).await;
    let mut session = Session::open(&worker, 1).await;
    // Now they are known to be short.
    session.assign((0..100).map(|n| task(n, "short")).collect()).await;
    session.outcomes(100).await;
    let long = (100..100 + LONG).map(|n| task(n, "long"));
    session.assign(long.chain((200..300).map(|n| task(n, "short"))).collect()).await;
    for (_, outcome) in session.outcomes(100).await {
        assert_eq!(outcome.end, Some(completed("short")));
    }
    drop(gate);
    session.outcomes(usize::try_from(LONG).unwrap()).await;
}

/// On which thread a handler runs.
fn place() -> Bytes {
    let apart = std::thread::current().name() == Some("taskgrid-handler");
    if apart { "apart" } else { "here" }.into()
}

#[tokio::test]
async fn small_tasks_that_only_compute_run_where_they_come_in_once_they_are_known_to_be_short() {
    let builder = Worker::builder()
        .handle_computing("computing", |_, _| Ok(place()))
        .handle_blocking("blocking", |_, _| Ok(place()));
    let worker = worker(builder, 2).await;
    let mut session = Session::open(&worker, 1).await;
    session.assign(vec![task(0, "")]).await;
    assert_eq!(session.end_of(0).await, completed("apart"), "it is not known");
    // More than are run in one go.
    session.assign((1..2_000).map(|n| task(n, "")).collect()).await;
    for (_, outcome) in session.outcomes(1_999).await {
        assert_eq!(outcome.end, Some(completed("here")));
    }
    session.assign(vec![task(2_000, &"x".repeat(4_097))]).await;
    assert_eq!(session.end_of(2_000).await, completed("apart"), "it is large");
    for n in [2_001, 2_002] {
        session.assign(vec![v1::Assignment { type_index: 1, ..task(n, "") }]).await;
        assert_eq!(session.end_of(n).await, completed("apart"), "it may block");
    }
}

#[tokio::test]
async fn what_a_session_was_to_run_is_run_without_it() {
    let gate = Arc::new(Semaphore::new(0));
    let builder = Worker::builder().handle_computing("computing", |_, _| Ok(place()));
    let worker = worker(builder.handle("gate", gated(&gate)), 1).await;
    let mut session = Session::open(&worker, 1).await;
    session.assign(vec![task(1, "")]).await;
    session.end_of(1).await;
    session.settle(&[1], v1::Answer::Accepted).await;
    session.assign(vec![v1::Assignment { type_index: 1, ..task(2, "") }, task(3, "")]).await;
    session.started(&[2]).await;
    let mut other = Session::open_with(&worker, hello("other", 1)).await.unwrap();
    other.assign(vec![task(4, "")]).await;
    drop(session);
    gate.add_permits(1);
    // Behind the other's in line.
    assert_eq!(other.end_of(4).await, completed("here"));
    let mut session = Session::open(&worker, 2).await;
    let ends = session.outcomes(2).await;
    assert_eq!(ends.iter().map(|(sequence, _)| *sequence).collect::<Vec<_>>(), [2, 3]);
    assert!(matches!(ends[1].1.end, Some(End::Completed(_))), "{ends:?}");
}

#[tokio::test]
async fn a_handler_sees_its_task_and_its_fencing_token() {
    let builder = Worker::builder().handle("tell", async |context: Context, _: Bytes| {
        let (task, attempt, token) = (context.task_id(), context.attempt(), context.token());
        Ok(format!("{} {task} {attempt} {token}", context.task_type()).into())
    });
    let worker = worker(builder, 1).await;
    let mut session = Session::open(&worker, 1).await;
    session.assign(vec![v1::Assignment { attempt: 4, ..task(9, "") }]).await;
    assert_eq!(session.end_of(9).await, completed("tell 109 4 3.9"));
}

#[tokio::test]
async fn failures_carry_their_reason_and_their_delay() {
    let builder =
        Worker::builder().handle("fail", async |_: Context, payload: Bytes| {
            match payload.as_ref() {
                b"later" => Err(Failure::error("busy").retry_after(Duration::from_secs(7))),
                b"never" => Err(Failure::permanent("wrong").retry_after(Duration::from_secs(7))),
                _ => Err(std::io::Error::other("broken"))?,
            }
        });
    let worker = worker(builder, 1).await;
    let mut session = Session::open(&worker, 1).await;
    session.assign(vec![task(1, "later"), task(2, "never"), task(3, "")]).await;
    let ends: Vec<_> = session.outcomes(3).await.into_iter().map(|(_, o)| o.end).collect();
    let failed = |message: &str, reason: v1::Reason, retry_after_ms| {
        let message = message.to_owned();
        let failure = v1::Failure { message, reason: reason.into(), retry_after_ms };
        Some(v1::outcome::End::Failed(failure))
    };
    assert_eq!(
        ends,
        [
            failed("busy", v1::Reason::Error, Some(7_000)),
            failed("wrong", v1::Reason::Permanent, None),
            failed("broken", v1::Reason::Error, None),
        ]
    );
}

#[tokio::test]
async fn a_panic_fails_its_attempt_and_nothing_else() {
    fn fall(payload: &[u8]) {
        assert_ne!(payload, b"fall", "fell down");
    }
    let builder = Worker::builder()
        .handle("async", async |_: Context, payload: Bytes| {
            fall(&payload);
            Ok(payload)
        })
        .handle_blocking("blocking", |_, payload| {
            fall(&payload);
            Ok(payload)
        })
        .handle_computing("computing", |_, payload| {
            fall(&payload);
            Ok(payload)
        });
    let worker = worker(builder, 1).await;
    let mut session = Session::open(&worker, 1).await;
    // The last once before it is known to be short, and once after.
    for (n, type_index) in (0_u64..).zip([0, 1, 2, 2]) {
        let sequence = n * 2;
        let of_type = |task| v1::Assignment { type_index, ..task };
        let tasks = [task(sequence, "fall"), task(sequence + 1, "stand")];
        session.assign(tasks.map(of_type).to_vec()).await;
        let mut outcomes = session.outcomes(2).await;
        assert_eq!(outcomes.pop().unwrap().1.end, Some(completed("stand")));
        let (reason, message) = failure(outcomes.pop().unwrap().1.end.unwrap());
        assert_eq!(reason, v1::Reason::Panic);
        assert!(message.contains("fell down"), "{message}");
    }
}

#[tokio::test]
async fn a_result_over_the_limit_is_a_permanent_failure_that_names_both_sizes() {
    let builder =
        Worker::builder().handle_blocking("big", |_, _| Ok(vec![0; (1 << 20) + 1].into()));
    let worker = worker(builder, 1).await;
    let mut session = Session::open(&worker, 1).await;
    session.assign(vec![task(1, "")]).await;
    let (reason, message) = failure(session.end_of(1).await);
    assert_eq!(reason, v1::Reason::Permanent);
    assert_eq!(message, "the result has 1048577 bytes, and at most 1048576 are taken");
}

#[tokio::test]
async fn prefetch_is_announced_once_a_type_has_been_measured() {
    let gate = Arc::new(Semaphore::new(0));
    let builder = builtin::register(Worker::builder(), "hash").unwrap();
    let worker = worker(builder.handle("gate", gated(&gate)), 1).await;
    let mut session = Session::open(&worker, 1).await;
    session.assign(vec![task(1, "text")]).await;
    let hash = "982d9e3eb996f559e633f4d194def3761d909f5a3b647d1a851fead67c32c9d1";
    assert_eq!(session.end_of(1).await, completed(hash));
    session.until("prefetch", |heard| !heard.prefetch.is_empty()).await;
    let announced = session.heard.prefetch.remove(0);
    assert_eq!(announced.type_index, 0, "the other type was not measured");
    assert!((1..=limits::PREFETCH).contains(&announced.tasks), "{announced:?}");
    drop(session);
    // It restarts at hello, and is told again without another task.
    let mut session = Session::open(&worker, 2).await;
    session.until("prefetch", |heard| !heard.prefetch.is_empty()).await;
}

#[tokio::test]
async fn progress_reaches_the_dispatcher_cut_to_its_limit() {
    let gate = Arc::new(Semaphore::new(0));
    let waits = Arc::clone(&gate);
    let builder = Worker::builder().handle("slow", move |context: Context, payload: Bytes| {
        let gate = Arc::clone(&waits);
        async move {
            context.progress("h".repeat(limits::PROGRESS_BYTES + 1));
            gate.acquire().await?.forget();
            Ok(payload)
        }
    });
    let worker = worker(builder, 1).await;
    let mut session = Session::open(&worker, 1).await;
    session.assign(vec![task(1, "")]).await;
    session.until("progress", |heard| !heard.progress.is_empty()).await;
    assert_eq!(session.heard.progress, ["h".repeat(limits::PROGRESS_BYTES)]);
    gate.add_permits(1);
    assert_eq!(session.end_of(1).await, completed(""));
}

#[tokio::test]
async fn a_typed_handler_takes_and_gives_json() {
    #[derive(serde::Deserialize)]
    struct Box {
        width: u32,
        height: u32,
    }
    let builder = Worker::builder()
        .handle_json::<Box, u32, _>("area", async |_, Box { width, height }| Ok(width * height));
    let worker = worker(builder, 1).await;
    let mut session = Session::open(&worker, 1).await;
    assert_eq!(session.hello.types[0].payload(), v1::PayloadKind::Json);
    session.assign(vec![task(1, r#"{"width": 6, "height": 7}"#)]).await;
    assert_eq!(session.end_of(1).await, completed("42"));
    session.assign(vec![task(2, r#"{"width": 6}"#)]).await;
    let (reason, message) = failure(session.end_of(2).await);
    assert_eq!(reason, v1::Reason::Permanent);
    assert!(message.contains("height"), "{message}");
}

#[tokio::test]
async fn a_typed_handler_takes_and_gives_messages_of_protobuf() {
    #[derive(Clone, PartialEq, prost::Message)]
    struct Note {
        #[prost(string, tag = "1")]
        text: String,
    }
    let note = |text: &str| Note { text: text.to_owned() }.encode_to_vec();
    let builder = Worker::builder()
        .handle_proto::<Note, Note, _>(TypeSpec::new("shout").json(), async |_, Note { text }| {
            Ok(Note { text: text.to_uppercase() })
        });
    let worker = worker(builder, 1).await;
    let mut session = Session::open(&worker, 1).await;
    assert_eq!(session.hello.types[0].payload(), v1::PayloadKind::Bytes);
    session.assign(vec![v1::Assignment { payload: note("grüße").into(), ..task(1, "") }]).await;
    assert_eq!(session.end_of(1).await, End::Completed(note("GRÜSSE").into()));
    session.assign(vec![task(2, "no message")]).await;
    let (reason, message) = failure(session.end_of(2).await);
    assert_eq!(reason, v1::Reason::Permanent);
    assert!(message.starts_with("the payload is not what it takes: "), "{message}");
}

#[tokio::test]
async fn many_tiny_tasks_come_back_once_each() {
    let builder = builtin::register(Worker::builder(), "upper").unwrap();
    let worker = worker(builder, 2).await;
    let mut session = Session::open(&worker, 1).await;
    for batch in 0..20_u64 {
        let first = batch * 500;
        session.assign((first..first + 500).map(|n| task(n, &format!("t{n}"))).collect()).await;
        let outcomes = session.outcomes(500).await;
        for (n, (sequence, outcome)) in (first..).zip(&outcomes) {
            assert_eq!((*sequence, outcome.task_id), (n, n + 100));
            assert_eq!(outcome.end, Some(completed(&format!("T{n}"))));
        }
        let sequences: Vec<u64> = outcomes.iter().map(|(sequence, _)| *sequence).collect();
        session.settle(&sequences, v1::Answer::Accepted).await;
    }
}

#[tokio::test]
async fn execute_runs_one_task_on_a_free_slot() {
    let gate = Arc::new(Semaphore::new(0));
    let worker = worker(Worker::builder().handle("gate", gated(&gate)), 1).await;
    let order = |sequence, name: &str| v1::ExecuteRequest {
        task_id: 1,
        token: Some(token(sequence)),
        r#type: name.to_owned(),
        payload: "x".into(),
        attempt: 1,
        timeout_ms: 0,
    };
    let mut client = worker.client();
    let unknown = client.execute(order(1, "gat")).await.expect_err("not served");
    assert_eq!(unknown.code(), tonic::Code::NotFound);

    let mut session = Session::open(&worker, 1).await;
    session.assign(vec![task(2, "x")]).await;
    session.started(&[2]).await;
    let busy = client.execute(order(3, "gate")).await.expect_err("no slot is free");
    assert_eq!(busy.code(), tonic::Code::ResourceExhausted);

    gate.add_permits(2);
    assert_eq!(session.end_of(2).await, completed("x"));
    let executed = soon("outcome", client.execute(order(4, "gate"))).await.unwrap();
    let outcome = executed.into_inner().outcome.unwrap();
    assert_eq!(outcome.end, Some(completed("x")));
    assert_eq!(outcome.token, Some(token(4)));
}

#[tokio::test]
async fn a_dropped_execute_frees_its_slot() {
    let gate = Arc::new(Semaphore::new(0));
    let worker = worker(Worker::builder().handle("gate", gated(&gate)), 1).await;
    let mut client = worker.client();
    let order = v1::ExecuteRequest {
        token: Some(token(1)),
        r#type: "gate".to_owned(),
        ..v1::ExecuteRequest::default()
    };
    let call = tokio::spawn(async move { client.execute(order).await });
    let mut session = Session::open(&worker, 1).await;
    call.abort();
    assert!(call.await.expect_err("aborted").is_cancelled());
    session.assign(vec![task(2, "x")]).await;
    session.started(&[2]).await;
    gate.add_permits(1);
    assert_eq!(session.end_of(2).await, completed("x"));
}
