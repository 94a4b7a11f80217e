use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::time::timeout;
use tonic::Status as Answer;

use super::fake::{self, Fake};
use super::json::TaskJson;
use super::*;
use crate::wire::v1::KeyScope;

/// Far beyond what anything here takes, also on a slow machine.
const LONG: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_task_is_sent_and_its_result_requested() {
    let fake = Fake::start();
    let client = fake.client();
    let id = client.send_task("echo", "hello").await.unwrap();
    assert_eq!(client.request_result(id).await.unwrap(), "hello!");
    let request = fake.script().submits.remove(0);
    assert_eq!(request.key.len(), 16);
    assert_eq!(request.key_scope(), KeyScope::Call);
}

#[tokio::test]
async fn a_batch_says_its_type_once() {
    let fake = Fake::start();
    let tasks = ["echo", "hang", "echo"].map(|name| Task::new(name, "x"));
    fake.client().submit(&tasks, &SubmitOptions::default()).await.unwrap();
    let request = fake.script().submits.remove(0);
    assert_eq!(request.r#type, "echo");
    let said: Vec<_> = request.tasks.iter().map(|task| task.r#type.as_str()).collect();
    assert_eq!(said, ["", "hang", ""]);
}

#[tokio::test]
async fn a_task_without_a_type_does_not_get_that_of_its_batch() {
    let fake = Fake::start();
    let tasks = ["echo", ""].map(|name| Task::new(name, "x"));
    fake.client().submit(&tasks, &SubmitOptions::default()).await.unwrap();
    let request = fake.script().submits.remove(0);
    assert_eq!(request.r#type, "");
    let said: Vec<_> = request.tasks.iter().map(|task| task.r#type.as_str()).collect();
    assert_eq!(said, ["echo", ""]);
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_again_under_the_same_key() {
    let fake = Fake::start();
    fake.script().lose_answers =
        [Answer::unavailable("restarting"), Answer::unavailable("restarting")].into();
    let tasks = [Task::new("echo", "a"), Task::new("echo", "b")];
    let receipt = fake.client().submit(&tasks, &SubmitOptions::default()).await.unwrap();
    assert_eq!(receipt.ids, [TaskId(1), TaskId(2)]);
    assert!(receipt.duplicate);
    let script = fake.script();
    assert_eq!(script.submits.len(), 3);
    assert!(script.submits.iter().all(|request| *request == script.submits[0]));
}

#[tokio::test]
async fn two_submits_have_keys_of_their_own() {
    let fake = Fake::start();
    let client = fake.client();
    let first = client.send_task("echo", "same").await.unwrap();
    let second = client.send_task("echo", "same").await.unwrap();
    assert_ne!(first, second);
}

#[tokio::test]
async fn the_key_of_an_answered_submit_is_told_with_the_next_one() {
    let fake = Fake::start();
    let client = fake.client();
    client.send_task("echo", "answered").await.unwrap();
    fake.script().lose_answers = [Answer::unavailable("restarting")].into();
    client.send_task("echo", "tried twice").await.unwrap();
    let options = SubmitOptions { key: Some(Bytes::from_static(b"mine")), group: 0 };
    client.submit(&[Task::new("echo", "keyed")], &options).await.unwrap();
    client.clone().send_task("echo", "last").await.unwrap();
    let script = fake.script();
    let told: Vec<_> = script.submits.iter().map(|request| &request.answered_keys[..]).collect();
    let (none, first): (&[Bytes], _) = (&[], &[script.submits[0].key.clone()]);
    assert_eq!(told, [none, first, first, none, none]);
}

#[tokio::test]
async fn a_burst_of_answered_submits_is_told_in_parts_of_a_bounded_number() {
    let fake = Fake::start();
    let client = fake.client();
    let sends = (0..100).map(|n| client.send_task("echo", n.to_string()));
    futures_util::future::try_join_all(sends).await.unwrap();
    for _ in 0..3 {
        client.send_task("echo", "next").await.unwrap();
    }
    let script = fake.script();
    let told: Vec<_> = script.submits.iter().map(|request| request.answered_keys.len()).collect();
    assert!(told.iter().all(|&keys| keys <= limits::ANSWERED_KEYS), "{told:?}");
    let mut keys: Vec<_> = script.submits.iter().map(|request| request.key.clone()).collect();
    let last = keys.pop().unwrap();
    let mut all: Vec<_> = script.submits.iter().flat_map(|r| r.answered_keys.clone()).collect();
    assert!(!all.contains(&last));
    keys.sort_unstable();
    all.sort_unstable();
    assert_eq!(all, keys, "each is told once");
}

#[tokio::test]
async fn a_callers_key_gives_the_same_ids() {
    let fake = Fake::start();
    let options = SubmitOptions { key: Some(Bytes::from_static(b"mine")), group: 7 };
    let tasks = [Task::new("echo", "a")];
    let first = fake.client().submit(&tasks, &options).await.unwrap();
    let second = fake.client().submit(&tasks, &options).await.unwrap();
    assert_eq!(first.ids, second.ids);
    assert_eq!((first.duplicate, second.duplicate), (false, true));
    assert_eq!(first.timestamp_created, Some(fake::created()));
    let request = fake.script().submits.remove(0);
    assert_eq!((request.key_scope(), request.group), (KeyScope::Caller, 7));
}

#[tokio::test]
async fn patience_ends_with_the_last_problem() {
    // A port that nobody listens on: bound, and let go again.
    let url = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().to_string()
    };
    let client = Client::connect(&url).unwrap().with_patience(Duration::from_millis(200));
    let error = client.stats().await.unwrap_err();
    let Error::Unreachable { url: told, problem } = error else { panic!("{error:?}") };
    assert_eq!(told, url);
    assert!(problem.contains("refused"), "{problem}");
}

#[tokio::test]
async fn short_tasks_are_run_in_one_call_and_longer_ones_asked_for() {
    let fake = Fake::start();
    let client = fake.client();
    assert_eq!(client.run_task("echo", "hello").await.unwrap(), "hello!");
    let failed = client.run_task("fail", "hello").await.unwrap_err();
    assert!(matches!(failed, Error::TaskFailed(task) if task.error == "no way"));
    assert_eq!(fake.script().submits.len(), 2);
    assert_eq!(fake.script().gets, 0);
    let tasks = [Task::new("echo", "a"), Task::new("hang", "b")];
    let run =
        client.run(&tasks, &SubmitOptions::default(), Duration::from_millis(1)).await.unwrap();
    let asked = fake.script().gets;
    assert!(asked > 0, "the answer came before the wait was over");
    let statuses: Vec<Status> =
        run.found.into_iter().map(|found| found.into_task().unwrap().status).collect();
    assert_eq!(statuses, [Status::Completed, Status::Pending]);
    fake.script().lose_answers = [Answer::unavailable("restarting")].into();
    let run = client.run(&tasks[..1], &SubmitOptions::default(), LONG).await.unwrap();
    assert!(run.receipt.duplicate);
    assert_eq!(fake.script().gets, asked);
}

#[tokio::test]
async fn more_tasks_than_one_call_waits_for_are_run_too() {
    let fake = Fake::start();
    let tasks = vec![Task::new("echo", "a"); 1_001];
    let run = fake.client().run(&tasks, &SubmitOptions::default(), LONG).await.unwrap();
    assert_eq!(run.found.iter().map(Found::id).collect::<Vec<_>>(), run.receipt.ids);
    assert_eq!(fake.script().submits.remove(0).wait_ms, 0);
}

#[tokio::test]
async fn answers_that_stop_early_are_completed() {
    let fake = Fake::start();
    let client = fake.client();
    let tasks: Vec<Task> = (0..10).map(|n| Task::new("echo", n.to_string())).collect();
    let ids = client.submit(&tasks, &SubmitOptions::default()).await.unwrap().ids;
    fake.script().get_at_most = 3;
    let found = client.get(&ids, GetOptions::default()).await.unwrap();
    assert_eq!(found.iter().map(Found::id).collect::<Vec<_>>(), ids);
    assert_eq!(fake.script().gets, 4);
    let found = client.get(&[], GetOptions::default()).await.unwrap();
    assert_eq!(found, []);
}

#[tokio::test]
async fn a_task_that_failed_comes_with_the_error() {
    let fake = Fake::start();
    let client = fake.client();
    let id = client.send_task("fail", "x").await.unwrap();
    let error = client.request_result(id).await.unwrap_err();
    assert_eq!(error.to_string(), "task 1 failed (permanent): no way");
    assert!(matches!(error, Error::TaskFailed(task) if task.id == id));
}

#[tokio::test]
async fn waiting_ends_without_the_task() {
    let fake = Fake::start();
    let client = fake.client();
    let id = client.send_task("hang", "x").await.unwrap();
    let error = client.request_result_within(id, Duration::ZERO).await.unwrap_err();
    assert!(matches!(error, Error::TimedOut { .. }), "{error:?}");
    let error = client.request_result(TaskId(99)).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { id: TaskId(99) }), "{error:?}");
}

#[tokio::test]
async fn a_wait_ends_in_time_although_as_many_others_wait_as_may() {
    let fake = Fake::start();
    let client = fake.client();
    let id = client.send_task("hang", "").await.unwrap();
    let wait = client.shared.waiting.available_permits();
    let others: Vec<_> = std::iter::repeat_with(|| {
        let client = client.clone();
        tokio::spawn(async move { client.request_result(id).await })
    })
    .take(wait)
    .collect();
    while client.shared.waiting.available_permits() > 0 {
        tokio::task::yield_now().await;
    }
    let soon = Duration::from_millis(50);
    let waiting = client.request_result_within(id, soon);
    let waited = timeout(LONG, waiting).await.unwrap().unwrap_err();
    assert!(matches!(waited, Error::TimedOut { .. }), "{waited}");
    let (tasks, options) = ([Task::new("hang", "")], SubmitOptions::default());
    let run = client.run(&tasks, &options, soon);
    let found = timeout(LONG, run).await.unwrap().unwrap().found;
    assert!(matches!(&found[0], Found::Task(task) if !task.status.is_terminal()), "{found:?}");
    for other in others {
        other.abort();
    }
}

#[tokio::test]
async fn refusals_are_told_apart() {
    let fake = Fake::start();
    let client = fake.client();
    let error = client.send_task("nope", "x").await.unwrap_err();
    assert!(matches!(error, Error::UnknownType { .. }), "{error:?}");
    let error = client.send_task("echo", "bad").await.unwrap_err();
    assert!(matches!(error, Error::WrongInput { .. }), "{error:?}");
    fake.script().refuse = [Answer::resource_exhausted("full")].into();
    let error = client.send_task("echo", "x").await.unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error:?}");
    fake.script().refuse = [Answer::already_exists("other tasks")].into();
    let error = client.send_task("echo", "x").await.unwrap_err();
    assert!(matches!(error, Error::Conflict { .. }), "{error:?}");
    let error = Client::connect("http://").unwrap_err();
    assert!(matches!(error, Error::WrongInput { .. }), "{error:?}");
}

#[tokio::test]
async fn a_batch_that_fits_no_message_is_refused_before_anything_is_sent() {
    let fake = Fake::start();
    let client = fake.client();
    let payload = Bytes::from(vec![b'x'; 1 << 20]);
    let tasks = vec![Task::new("echo", payload); 137];
    let submitted = client.submit(&tasks, &SubmitOptions::default()).await.unwrap_err();
    let run = client.run(&tasks, &SubmitOptions::default(), LONG).await.unwrap_err();
    for error in [submitted, run] {
        assert!(matches!(error, Error::TooLarge { .. }), "{error:?}");
        let told = error.to_string();
        for part in ["14365", "the limit is: 142671872 bytes", "fewer tasks"] {
            assert!(told.contains(part), "{part} is not in {told}");
        }
    }
    assert_eq!(fake.script().submits, []);
}

#[tokio::test]
async fn a_batch_that_the_dispatcher_finds_too_large_is_told_its_limit() {
    let fake = Fake::start();
    let payload = Bytes::from(vec![b'x'; 1 << 20]);
    let tasks = vec![Task::new("echo", payload); 17];
    let error = fake.client().submit(&tasks, &SubmitOptions::default()).await.unwrap_err();
    let told = error.to_string();
    for part in ["found 178259", "the limit is: 16842752 bytes", "fewer tasks"] {
        assert!(told.contains(part), "{part} is not in {told}");
    }
    assert!(matches!(error, Error::TooLarge { .. }), "{error:?}");
    assert_eq!(fake.script().submits, []);
}

#[tokio::test]
async fn a_watch_goes_on_from_its_cursor() {
    let fake = Fake::start();
    let client = fake.client();
    let tasks: Vec<Task> = (0..5).map(|n| Task::new("echo", n.to_string())).collect();
    let receipt = client.submit(&tasks, &SubmitOptions::default()).await.unwrap();
    fake.script().cut_watches_after = [2, 0, 1].into();
    let watch = Watch { cursor: receipt.cursor, ..Watch::default() };
    let events = client.watch(watch).await.unwrap().into_stream();
    let seen: Vec<TaskId> = timeout(
        LONG,
        events
            .flat_map(|part| futures_util::stream::iter(part.unwrap().events))
            .take(5)
            .map(|e| e.id)
            .collect(),
    )
    .await
    .unwrap();
    assert_eq!(seen, receipt.ids);
    let cursors = fake.script().watches.clone();
    assert_eq!(cursors, ["0", "2", "2", "3"].map(Bytes::from));
}

#[test]
fn an_event_has_its_worker_by_its_place_among_the_names() {
    let read = |worker_index| {
        let mut event = v1::TaskEvent { worker_index, ..v1::TaskEvent::default() };
        event.set_status(v1::Status::Completed);
        let names = vec!["echo".to_owned(), "echo-1".to_owned()];
        let message = v1::WatchResponse { events: vec![event], names, cursor: Bytes::new() };
        Events::try_from(message).map(|mut told| told.events.remove(0).worker)
    };
    assert_eq!(&*read(Some(1)).unwrap(), "echo-1");
    assert_eq!(&*read(None).unwrap(), "");
    assert!(read(Some(2)).unwrap_err().to_string().contains("event.worker_index"));
}

#[tokio::test]
async fn a_watch_from_now_sees_what_happens_after_it() {
    let fake = Fake::start();
    let client = fake.client();
    client.send_task("echo", "before").await.unwrap();
    let id = client.send_task("hang", "x").await.unwrap();
    let mut watching = client.watch(Watch::default()).await.unwrap();
    fake.end(id);
    let events = timeout(LONG, watching.next()).await.unwrap().unwrap().events;
    assert_eq!(events.len(), 1);
    assert_eq!((events[0].id, events[0].result.as_deref()), (id, Some(&b"x!"[..])));
}

#[tokio::test]
async fn a_watch_from_now_that_stands_misses_nothing_although_its_connection_is_lost_at_once() {
    let fake = Fake::start();
    let client = fake.client();
    let id = client.send_task("hang", "x").await.unwrap();
    fake.script().silent_watches = 2;
    let mut watching = client.watch(Watch::default()).await.unwrap();
    fake.end(id);
    let events = timeout(LONG, watching.next()).await.unwrap().unwrap().events;
    assert_eq!(events[0].id, id);
}

#[tokio::test]
async fn a_cursor_that_is_too_old_is_told() {
    let fake = Fake::start();
    fake.script().cursors_too_old = true;
    let watch = Watch { cursor: Bytes::from_static(b"0"), ..Watch::default() };
    let error = fake.client().watch(watch).await.unwrap_err();
    assert!(matches!(error, Error::CursorTooOld { .. }), "{error:?}");
}

#[test]
fn a_task_as_json_begins_with_the_seven_fields_in_their_order() {
    let mut task = fake::view(17, Status::Pending);
    let json = serde_json::to_string(&TaskJson::new(&task, true)).unwrap();
    assert_eq!(
        json,
        r#"{"id":17,"type":"echo","payload":"hello","result":null,"status":"pending","timestamp_created":1764000000000,"timestamp_completed":null,"attempts":0,"priority":5,"error":null,"reason":null,"worker":null,"timings":{"timestamp_run_at":1764000000000,"total_ms":null,"run_us":null}}"#
    );
    task.status = Status::Completed;
    task.result = Some(Bytes::from_static(b"\xff"));
    task.timestamp_completed = Some(Timestamp(1_764_000_000_012));
    let json = serde_json::to_string(&TaskJson::new(&task, true)).unwrap();
    assert!(
        json.starts_with(
            r#"{"id":17,"type":"echo","payload":"aGVsbG8=","result":"/w==","status":"completed","timestamp_created":1764000000000,"timestamp_completed":1764000000012,"encoding":"base64","#
        ),
        "{json}"
    );
    let json = serde_json::to_string(&TaskJson::new(&task, false)).unwrap();
    assert!(json.contains(r#""payload":null"#), "{json}");
}
