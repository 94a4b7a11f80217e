//! Workers that are lost, paused, and told to stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use taskgrid::client::{Error, SubmitOptions, Task};
use taskgrid::core::task::{Reason, Status};
use taskgrid::testing::Grid;
use taskgrid::worker::{Builder, Config, Context, Worker, builtin};
use tokio::sync::Semaphore;

use super::handlers::{slow, submit};

#[tokio::test]
async fn a_killed_workers_task_completes_on_another_one_and_is_charged_to_nothing_else() {
    let mut grid = Grid::start().await.unwrap();
    let go = Arc::new(Semaphore::new(0));
    let first = grid.add_worker(slow("first", &go)).await.unwrap();
    let id = submit(&grid, Task::new("slow", "")).await;
    grid.until_status(id, Status::Running).await.unwrap();
    grid.add_worker(slow("second", &go)).await.unwrap();
    started(&grid).await;
    grid.kill_worker(first).await;
    go.add_permits(1);
    assert_eq!(grid.client().request_result(id).await.unwrap(), "second");
    let task = grid.client().task(id).await.unwrap();
    assert_eq!(task.attempts, 2);
    let ends: Vec<_> = task.story.iter().map(|line| (line.status, line.reason)).collect();
    let lost = ends[0];
    assert!(matches!(lost, (Status::Pending, Some(Reason::Lost | Reason::Released))), "{lost:?}");
    assert_eq!(ends[1], (Status::Completed, None));
    assert_eq!(grid.totals().await.unwrap().errors, 0);
    grid.stop().await.unwrap();
}

#[tokio::test]
async fn a_killed_worker_with_64_prefetched_tasks_is_charged_to_those_that_had_started() {
    const SLOTS: usize = 64;
    let mut grid = Grid::start().await.unwrap();
    let started = Arc::new(AtomicUsize::new(0));
    let config = Config { slots: Some(64), ..Config::default() };
    let victim = grid.add_worker_with(short(Some(&started)), config).await.unwrap();
    // What was measured as short is prefetched, each time twice as far.
    for _ in 0..16 {
        let id = submit(&grid, Task::new("short", "")).await;
        grid.client().request_result(id).await.unwrap();
    }

    // As many start as there are slots. Of the others any charge would be the end.
    let task = |place| match Task::new("short", "stay") {
        task if place < SLOTS => task,
        task => task.max_crashes(0),
    };
    let tasks: Vec<Task> = (0..SLOTS + 65).map(task).collect();
    let mut ids = grid.client().submit(&tasks, &SubmitOptions::default()).await.unwrap().ids;
    until_held(&grid, 129).await;
    grid.until("the starts", async |_| (started.load(Ordering::Relaxed) == SLOTS).then_some(()))
        .await
        .unwrap();
    // What becomes of this one is told after all starts.
    grid.client().cancel(&ids.split_off(SLOTS + 64)).await.unwrap();
    until_held(&grid, 128).await;

    grid.kill_worker(victim).await;
    grid.add_worker(short(None)).await.unwrap();
    for (place, id) in ids.into_iter().enumerate() {
        grid.client().request_result(id).await.unwrap();
        let story = grid.client().task(id).await.unwrap().story;
        let ends: Vec<_> = story.iter().map(|line| (line.status, line.reason)).collect();
        let reason = if place < SLOTS { Reason::Lost } else { Reason::Released };
        let told = [(Status::Pending, Some(reason)), (Status::Completed, None)];
        assert_eq!(ends, told, "the task at {place}");
    }
    assert_eq!(grid.totals().await.unwrap().lost, 64);
    grid.stop().await.unwrap();
}

/// A worker of short tasks. With a counter, those that are told to stay are counted,
/// and do so for as long as the worker lives.
fn short(stays: Option<&Arc<AtomicUsize>>) -> Builder {
    let stays = stays.cloned();
    Worker::builder().handle("short", move |_context: Context, payload: Bytes| {
        let stays = stays.clone().filter(|_| payload == "stay");
        async move {
            if let Some(started) = stays {
                started.fetch_add(1, Ordering::Relaxed);
                std::future::pending::<()>().await;
            }
            Ok(payload)
        }
    })
}

/// Waits until the only worker holds so many tasks, by the dispatcher's account.
async fn until_held(grid: &Grid, held: u32) {
    grid.until(&format!("a worker that holds {held}"), async |grid| {
        let workers = grid.client().stats().await.ok()?.workers;
        (workers.first()?.held == held).then_some(())
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_zombies_late_outcome_is_refused_and_counted() {
    let mut grid = Grid::start().await.unwrap();
    let (go, other) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(1)));
    let zombie = grid.add_worker(slow("zombie", &go)).await.unwrap();
    let id = submit(&grid, Task::new("slow", "")).await;
    grid.until_status(id, Status::Running).await.unwrap();
    grid.add_worker(slow("living", &other)).await.unwrap();
    grid.pause_worker(zombie);
    go.add_permits(1);
    assert_eq!(grid.client().request_result(id).await.unwrap(), "living");
    grid.resume_worker(zombie);
    grid.until("the late outcome to be refused", async |grid| {
        (grid.totals().await.ok()?.fenced > 0).then_some(())
    })
    .await
    .unwrap();
    assert_eq!(grid.client().request_result(id).await.unwrap(), "living");
    grid.stop().await.unwrap();
}

#[tokio::test]
async fn a_worker_told_to_stop_finishes_what_runs_and_hands_back_the_rest() {
    let mut grid = Grid::start().await.unwrap();
    let go = Arc::new(Semaphore::new(0));
    let config = taskgrid::worker::Config { slots: Some(1), ..Default::default() };
    let first = grid.add_worker_with(slow("first", &go), config).await.unwrap();
    let id = submit(&grid, Task::new("slow", "")).await;
    grid.until_status(id, Status::Running).await.unwrap();
    go.add_permits(1);
    grid.stop_worker(first).await.unwrap();
    assert_eq!(grid.client().request_result(id).await.unwrap(), "first");
    let waits = submit(&grid, Task::new("slow", "")).await;
    let second = Arc::new(Semaphore::new(1));
    grid.add_worker(slow("second", &second)).await.unwrap();
    assert_eq!(grid.client().request_result(waits).await.unwrap(), "second");
    let totals = grid.totals().await.unwrap();
    assert_eq!((totals.errors, totals.lost), (0, 0));
    grid.stop().await.unwrap();
}

#[tokio::test]
async fn an_at_most_once_task_whose_worker_is_killed_fails_as_unknown_and_started_once() {
    let mut grid = Grid::start().await.unwrap();
    let go = Arc::new(Semaphore::new(0));
    let first = grid.add_worker(slow("first", &go)).await.unwrap();
    let id = submit(&grid, Task::new("slow", "").max_attempts(1).max_crashes(0)).await;
    grid.until_status(id, Status::Running).await.unwrap();
    grid.add_worker(slow("second", &go)).await.unwrap();
    grid.kill_worker(first).await;
    let failed = grid.client().request_result(id).await.unwrap_err();
    let Error::TaskFailed(task) = failed else { panic!("{failed}") };
    assert_eq!((task.reason, task.attempts), (Some(Reason::Unknown), 1));
    grid.stop().await.unwrap();
}

#[tokio::test]
async fn a_cancelled_running_task_stops_and_frees_its_slot() {
    let mut grid = Grid::start().await.unwrap();
    let config = taskgrid::worker::Config { slots: Some(1), ..Default::default() };
    let wait = builtin::register(Worker::builder(), "wait").unwrap();
    grid.add_worker_with(wait, config).await.unwrap();
    let id = submit(&grid, Task::new("wait", "60")).await;
    grid.until_status(id, Status::Running).await.unwrap();
    grid.client().cancel(&[id]).await.unwrap();
    let task = grid.client().task(id).await.unwrap();
    assert_eq!((task.status, task.reason), (Status::Cancelled, Some(Reason::Cancelled)));
    let next = submit(&grid, Task::new("wait", "1ms")).await;
    assert_eq!(grid.client().request_result(next).await.unwrap(), "waited 1ms");
    grid.stop().await.unwrap();
}

/// Waits until the dispatcher has heard of a start: what is lost after that is a
/// crash, not a task that waited in a pipe.
async fn started(grid: &Grid) {
    grid.until("a running task", async |grid| {
        (grid.totals().await.ok()?.running > 0).then_some(())
    })
    .await
    .unwrap();
}
