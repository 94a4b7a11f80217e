//! What an attempt's end is charged to.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use taskgrid::client::{Error, GetOptions, SubmitOptions, Task};
use taskgrid::core::task::{Reason, Status};
use taskgrid::testing::{Grid, nap};
use taskgrid::worker::{Context, Failure, Worker};

use super::handlers::{flaky, submit};

#[tokio::test]
async fn a_handler_that_fails_twice_completes_on_its_third_attempt() {
    let mut grid = Grid::start().await.unwrap();
    grid.add_worker(flaky().0).await.unwrap();
    let id = submit(&grid, Task::new("flaky", "3")).await;
    assert_eq!(grid.client().request_result(id).await.unwrap(), "at last");
    assert_eq!(grid.client().task(id).await.unwrap().attempts, 3);
    grid.stop().await.unwrap();
}

#[tokio::test]
async fn a_handler_that_always_fails_ends_with_its_last_error_and_a_retry_is_a_new_round() {
    let mut grid = Grid::start().await.unwrap();
    let (worker, starts) = flaky();
    grid.add_worker(worker).await.unwrap();
    let id = submit(&grid, Task::new("flaky", "5")).await;
    let failed = grid.client().request_result(id).await.unwrap_err();
    let Error::TaskFailed(task) = failed else { panic!("{failed}") };
    assert_eq!((task.reason, task.attempts), (Some(Reason::Error), 3));
    assert_eq!(task.error, "attempt 3 is too early");
    grid.client().retry(&[id]).await.unwrap();
    assert_eq!(grid.client().request_result(id).await.unwrap(), "at last");
    assert_eq!(starts.load(Ordering::Relaxed), 5);
    grid.stop().await.unwrap();
}

#[tokio::test]
async fn a_permanent_failure_and_a_panic_end_their_attempt_only() {
    let mut grid = Grid::start().await.unwrap();
    let worker = Worker::builder()
        .handle_blocking("never", |_: &Context, _| Err(Failure::permanent("no such image")))
        .handle_blocking("bug", |context: &Context, _| {
            assert!(context.attempt() > 1, "the first attempt panics");
            Ok(Bytes::from("fine"))
        });
    grid.add_worker(worker).await.unwrap();
    let never = submit(&grid, Task::new("never", "")).await;
    let failed = grid.client().request_result(never).await.unwrap_err();
    let Error::TaskFailed(task) = failed else { panic!("{failed}") };
    assert_eq!((task.reason, task.attempts), (Some(Reason::Permanent), 1));
    let bug = submit(&grid, Task::new("bug", "")).await;
    assert_eq!(grid.client().request_result(bug).await.unwrap(), "fine");
    let story = grid.client().task(bug).await.unwrap().story;
    assert_eq!(story[0].reason, Some(Reason::Panic));
    grid.stop().await.unwrap();
}

#[tokio::test]
async fn a_handler_that_runs_too_long_fails_with_a_timeout() {
    let mut grid = Grid::start().await.unwrap();
    grid.add_worker(nap()).await.unwrap();
    let task = Task::new("nap", "60000").timeout(Duration::from_millis(50)).max_attempts(1);
    let id = submit(&grid, task).await;
    let failed = grid.client().request_result(id).await.unwrap_err();
    let Error::TaskFailed(task) = failed else { panic!("{failed}") };
    assert_eq!(task.reason, Some(Reason::Timeout));
    grid.stop().await.unwrap();
}

#[tokio::test]
async fn a_task_that_kills_its_worker_every_time_ends_as_poison_and_its_neighbours_complete() {
    let mut grid = Grid::start().await.unwrap();
    let victims = Arc::new(AtomicU32::new(0));
    let worker = || {
        let victims = victims.clone();
        Worker::builder().handle("mixed", move |context: Context, payload: Bytes| {
            let victims = victims.clone();
            async move {
                if payload == "poison" {
                    victims.fetch_add(1, Ordering::Relaxed);
                    // The test kills the worker meanwhile.
                    context.cancelled().await;
                }
                Ok(payload)
            }
        })
    };
    let config = || taskgrid::worker::Config {
        id: Some("victim".to_owned()),
        slots: Some(4),
        ..Default::default()
    };
    let mut key = grid.add_worker_with(worker(), config()).await.unwrap();
    let poison = submit(&grid, Task::new("mixed", "poison")).await;
    let tasks: Vec<Task> = (0..200).map(|n| Task::new("mixed", n.to_string())).collect();
    let neighbours = grid.client().submit(&tasks, &SubmitOptions::default()).await.unwrap();
    for deaths in 1..=4 {
        grid.until("the poison to run", async |grid| {
            let task = grid.client().task(poison).await.ok()?;
            let runs = task.status == Status::Running && task.attempts == deaths;
            (runs && victims.load(Ordering::Relaxed) >= deaths).then_some(())
        })
        .await
        .unwrap();
        grid.kill_worker(key).await;
        key = grid.add_worker_with(worker(), config()).await.unwrap();
    }
    let task = grid.until_status(poison, Status::Failed).await.unwrap();
    assert_eq!((task.reason, task.attempts), (Some(Reason::Poison), 4));
    let wait = GetOptions { wait: Duration::from_secs(60), ..GetOptions::default() };
    for found in grid.client().get(&neighbours.ids, wait).await.unwrap() {
        assert_eq!(found.into_task().unwrap().status, Status::Completed);
    }
    grid.stop().await.unwrap();
}
