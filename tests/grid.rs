//! A whole grid of real roles on free ports: tasks go through, and nothing that was
//! receipted is lost by a restart.

#![expect(clippy::unwrap_used, reason = "what goes wrong in a test shall end it")]

use std::path::Path;
use std::time::Duration;

use taskgrid::client::{Client, Error, Found, GetOptions, ListOptions, SubmitOptions, Task, Watch};
use taskgrid::core::task::Status;
use taskgrid::dispatcher::Storage;
use taskgrid::grid::{self, Grid};
use taskgrid::rpc::Network;
use taskgrid::shutdown::Shutdown;
use taskgrid::store::Durability;
use tokio::task::JoinHandle;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_of_each_type_goes_through() {
    let grid = Running::start(Storage::Memory).await;
    for (type_name, payload, result) in [
        ("reverse", "hello", "olleh"),
        ("sum", "[1,2,3]", "6"),
        ("hash", "text", "982d9e3eb996f559e633f4d194def3761d909f5a3b647d1a851fead67c32c9d1"),
        ("upper", "straße", "STRASSE"),
        ("wait", "1ms", "waited 1ms"),
    ] {
        let id = grid.client.send_task(type_name, payload).await.unwrap();
        assert_eq!(grid.client.request_result(id).await.unwrap(), result, "{type_name}");
    }
    grid.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_is_refused_at_submit_and_nothing_is_stored() {
    let grid = Running::start(Storage::Memory).await;
    for (type_name, payload) in [("sum", "[1,"), ("sum", r#"["a"]"#), ("wait", "-1"), ("wait", "x")]
    {
        let refused = grid.client.send_task(type_name, payload).await.unwrap_err();
        assert!(matches!(refused, Error::WrongInput { .. }), "{type_name} {payload}: {refused}");
    }
    let refused = grid.client.send_task("hsah", "x").await.unwrap_err();
    assert!(matches!(&refused, Error::UnknownType { .. }), "{refused}");
    assert!(refused.to_string().contains("did you mean \"hash\""), "{refused}");
    let stats = grid.client.stats().await.unwrap();
    assert_eq!(stats.totals.unwrap().submitted, 0);
    grid.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_task_tells_why_and_can_be_tried_again() {
    let grid = Running::start(Storage::Memory).await;
    let id = grid.client.send_task("sum", format!("[{0},{0}]", i128::MAX)).await.unwrap();
    let failed = grid.client.request_result(id).await.unwrap_err();
    assert!(matches!(failed, Error::TaskFailed(_)), "{failed}");
    let found = grid.client.retry(&[id]).await.unwrap();
    assert_eq!(statuses(found), [Status::Pending]);
    assert!(grid.client.request_result(id).await.is_err());
    let task = grid.client.task(id).await.unwrap();
    assert_eq!((task.status, task.attempts), (Status::Failed, 2));
    grid.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pending_and_running_tasks_can_be_cancelled() {
    let grid = Running::start(Storage::Memory).await;
    let running = grid.client.send_task("wait", "60").await.unwrap();
    let later = Task::new("hash", "x").delay(Duration::from_secs(3_600));
    let receipt = grid.client.submit(&[later], &SubmitOptions::default()).await.unwrap();
    let found = grid.client.cancel(&[running, receipt.ids[0]]).await.unwrap();
    assert_eq!(statuses(found), [Status::Cancelled, Status::Cancelled]);
    grid.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_of_one_type_hold_all_of_its_tasks_whatever_lies_between_them() {
    let grid = Running::start(Storage::Memory).await;
    let names = (0..60).map(|n| if n * n % 7 < 2 { "upper" } else { "reverse" });
    let tasks: Vec<Task> = names.map(|name| Task::new(name, "a")).collect();
    let patience = Duration::from_secs(60);
    let run = grid.client.run(&tasks, &SubmitOptions::default(), patience).await.unwrap();
    for type_name in ["upper", "reverse"] {
        let of_type = run.receipt.ids.iter().zip(&tasks).rev();
        let expected: Vec<_> =
            of_type.filter(|(_, task)| task.type_name() == type_name).map(|(id, _)| *id).collect();
        for page_size in 1..=60 {
            let type_name = Some(type_name.to_owned());
            let mut options = ListOptions { type_name, page_size, ..ListOptions::default() };
            let mut listed = Vec::new();
            loop {
                let page = grid.client.list(options.clone()).await.unwrap();
                listed.extend(page.tasks.iter().map(|task| task.id));
                if page.next_page_token.is_empty() {
                    break;
                }
                options.page_token = page.next_page_token;
            }
            assert_eq!(listed, expected, "{:?}, {page_size} a page", options.type_name);
        }
    }
    grid.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_an_end_is_told_the_same_story_as_who_comes_later() {
    let grid = Running::start(Storage::Memory).await;
    let id = grid.client.send_task("wait", "1s").await.unwrap();
    // What is told wrongly, if anything, is the attempt that runs when the wait begins.
    while grid.client.task(id).await.unwrap().status == Status::Pending {}
    let options = GetOptions { story: true, ..GetOptions::default() };
    let waits = GetOptions { wait: Duration::from_secs(60), ..options };
    let waited = grid.client.get(&[id], waits).await.unwrap().remove(0).into_task().unwrap();
    let later = grid.client.get(&[id], options).await.unwrap().remove(0).into_task().unwrap();
    assert_eq!((waited.status, waited.story.len()), (Status::Completed, 1));
    assert_eq!(waited, later);
    let brief = grid.client.get(&[id], GetOptions::default()).await.unwrap().remove(0);
    let run = brief.into_task().unwrap().run;
    assert_eq!((run, later.run), (Some(later.story[0].run), run), "and how long it ran");
    grid.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_tells_how_its_tasks_ended_and_how_those_stand_that_have_not() {
    let grid = Running::start(Storage::Memory).await;
    assert_eq!(grid.client.run_task("sum", "[1,2,3]").await.unwrap(), "6");
    let failed = grid.client.run_task("wait", "soon").await.unwrap_err();
    assert!(matches!(failed, Error::WrongInput { .. }), "{failed}");
    let tasks = [Task::new("wait", "60"), Task::new("upper", "a")];
    let wait = Duration::from_millis(500);
    let run = grid.client.run(&tasks, &SubmitOptions::default(), wait).await.unwrap();
    assert_eq!(statuses(run.found), [Status::Running, Status::Completed]);
    grid.client.cancel(&run.receipt.ids).await.unwrap();
    grid.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_key_gives_the_same_tasks_and_other_tasks_a_conflict() {
    let grid = Running::start(Storage::Memory).await;
    let options = SubmitOptions { key: Some("mine".into()), ..SubmitOptions::default() };
    let first = grid.client.submit(&[Task::new("hash", "a")], &options).await.unwrap();
    let again = grid.client.submit(&[Task::new("hash", "a")], &options).await.unwrap();
    assert_eq!((again.ids, again.duplicate), (first.ids, true));
    let other = grid.client.submit(&[Task::new("hash", "b")], &options).await.unwrap_err();
    assert!(matches!(other, Error::Conflict { .. }), "{other}");
    grid.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_from_a_receipt_misses_nothing() {
    let grid = Running::start(Storage::Memory).await;
    let tasks: Vec<Task> = (0..500).map(|n| Task::new("hash", n.to_string())).collect();
    let options = SubmitOptions { group: 7, ..SubmitOptions::default() };
    let receipt = grid.client.submit(&tasks, &options).await.unwrap();
    let wanted =
        Watch { cursor: receipt.cursor.clone(), group: 7, ends_only: true, ..Watch::default() };
    let mut watching = grid.client.watch(wanted).await.unwrap();
    let mut seen = std::collections::BTreeSet::new();
    while seen.len() < receipt.ids.len() {
        for event in watching.next().await.unwrap().events {
            assert!(seen.insert(event.id), "task {} ended twice", event.id);
        }
    }
    grid.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_keeps_results_and_runs_what_waits() {
    let dir = tempfile::tempdir().unwrap();
    let grid = Running::start(directory(dir.path())).await;
    let done = grid.client.send_task("upper", "kept").await.unwrap();
    assert_eq!(grid.client.request_result(done).await.unwrap(), "KEPT");
    let later = Task::new("reverse", "later").delay(Duration::from_secs(1));
    let receipt = grid.client.submit(&[later], &SubmitOptions::default()).await.unwrap();
    grid.stop().await;

    let grid = Running::start(directory(dir.path())).await;
    assert_eq!(grid.client.request_result(done).await.unwrap(), "KEPT");
    assert_eq!(grid.client.request_result(receipt.ids[0]).await.unwrap(), "retal");
    let next = grid.client.send_task("hash", "").await.unwrap();
    assert!(next > receipt.ids[0], "ids go on after a restart");
    grid.stop().await;
}

/// A grid that runs, and a client of it.
struct Running {
    client: Client,
    shutdown: Shutdown,
    role: JoinHandle<Result<(), grid::Error>>,
}

impl Running {
    async fn start(storage: Storage) -> Self {
        let drain_timeout = Duration::from_secs(5);
        let network = Network::System;
        let config = grid::Config { storage, usual_ports: false, drain_timeout, network };
        let grid = Grid::bind(config).await.unwrap();
        let client = Client::connect(&grid.addr().dispatcher.to_string()).unwrap();
        let shutdown = Shutdown::new();
        let role = tokio::spawn(grid.run(shutdown.clone()));
        grid::ready(&client).await.unwrap();
        Self { client, shutdown, role }
    }

    async fn stop(self) {
        self.shutdown.begin();
        self.role.await.unwrap().unwrap();
    }
}

fn directory(path: &Path) -> Storage {
    Storage::directory(path, Durability::Os)
}

fn statuses(found: Vec<Found>) -> Vec<Status> {
    found.into_iter().map(|found| found.into_task().unwrap().status).collect()
}
