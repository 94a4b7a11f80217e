//! Restarts of the dispatcher and the nameservice under work.

use std::time::Duration;

use taskgrid::client::{GetOptions, SubmitOptions, Task};
use taskgrid::core::task::Status;
use taskgrid::testing::{Grid, nap};

use super::handlers::submit;

#[tokio::test]
async fn tasks_that_run_while_the_dispatcher_is_killed_complete_at_their_first_attempt() {
    let mut grid = Grid::start().await.unwrap();
    let config = taskgrid::worker::Config { slots: Some(20), ..Default::default() };
    grid.add_worker_with(nap(), config).await.unwrap();
    let tasks: Vec<Task> = (0..20).map(|_| Task::new("nap", "1500")).collect();
    let receipt = grid.client().submit(&tasks, &SubmitOptions::default()).await.unwrap();
    grid.until("all to run", async |grid| (grid.totals().await.ok()?.running == 20).then_some(()))
        .await
        .unwrap();
    grid.kill_dispatcher().await;
    grid.start_dispatcher().await.unwrap();
    for id in receipt.ids {
        assert_eq!(grid.client().request_result(id).await.unwrap(), "1", "task {id}");
        assert_eq!(grid.client().task(id).await.unwrap().attempts, 1, "task {id}");
    }
    grid.stop().await.unwrap();
}

#[tokio::test]
async fn short_tasks_in_flight_while_the_dispatcher_is_killed_have_one_result_each() {
    let mut grid = Grid::start().await.unwrap();
    grid.add_worker(nap()).await.unwrap();
    let tasks: Vec<Task> = (0..5_000).map(|_| Task::new("nap", "0")).collect();
    let receipt = grid.client().submit(&tasks, &SubmitOptions::default()).await.unwrap();
    grid.until("some to complete", async |grid| {
        (grid.totals().await.ok()?.completed > 500).then_some(())
    })
    .await
    .unwrap();
    grid.kill_dispatcher().await;
    grid.start_dispatcher().await.unwrap();
    let wait = GetOptions { wait: Duration::from_secs(60), ..GetOptions::default() };
    for found in grid.client().get(&receipt.ids, wait).await.unwrap() {
        let task = found.into_task().unwrap();
        assert_eq!(task.status, Status::Completed, "task {}", task.id);
        assert!(task.attempts <= 2, "task {} had {} attempts", task.id, task.attempts);
    }
    grid.stop().await.unwrap();
}

#[tokio::test]
async fn a_dispatcher_told_to_stop_charges_nothing_and_hands_ids_on_without_a_gap() {
    let mut grid = Grid::start().await.unwrap();
    grid.add_worker(nap()).await.unwrap();
    let running = submit(&grid, Task::new("nap", "1000")).await;
    grid.until_status(running, Status::Running).await.unwrap();
    grid.stop_dispatcher().await.unwrap();
    grid.start_dispatcher().await.unwrap();
    assert_eq!(grid.client().request_result(running).await.unwrap(), "1");
    let next = submit(&grid, Task::new("nap", "0")).await;
    assert_eq!(next.0, running.0 + 1);
    grid.stop().await.unwrap();
}

#[tokio::test]
async fn losing_the_nameservice_stops_discovery_and_not_the_work() {
    let mut grid = Grid::start().await.unwrap();
    grid.add_worker(nap()).await.unwrap();
    grid.kill_nameservice().await;
    for _ in 0..20 {
        let id = submit(&grid, Task::new("nap", "1")).await;
        assert_eq!(grid.client().request_result(id).await.unwrap(), "1");
    }
    let late = grid.enlist(nap(), taskgrid::worker::Config::default()).await.unwrap();
    grid.start_nameservice().await.unwrap();
    let late = grid.worker_id(late);
    grid.until("the late worker and the first one", async |grid| {
        let stats = grid.client().stats().await.ok()?;
        let connected = stats.workers.iter().filter(|worker| worker.connected);
        let ids: Vec<&str> = connected.map(|worker| worker.worker_id.as_str()).collect();
        (ids.len() == 2 && ids.contains(&late.as_str())).then_some(())
    })
    .await
    .unwrap();
    grid.stop().await.unwrap();
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_port_taken_elsewhere_meanwhile_holds_no_role_up() {
    let mut grid = Grid::start().await.unwrap();
    grid.kill_nameservice().await;
    grid.kill_dispatcher().await;
    let ports = [grid.nameservice().port(), grid.dispatcher().port()];
    // Where that fails, somebody has taken it already.
    let _taken = ports.map(|port| std::net::TcpListener::bind(("127.0.0.1", port)));
    grid.start_nameservice().await.unwrap();
    grid.start_dispatcher().await.unwrap();
    assert_eq!([grid.nameservice().port(), grid.dispatcher().port()], ports);
    grid.stop().await.unwrap();
}

#[tokio::test]
async fn a_dispatcher_that_starts_without_a_nameservice_finds_its_workers_in_its_log() {
    let mut grid = Grid::start().await.unwrap();
    let config = taskgrid::worker::Config { slots: Some(1), ..Default::default() };
    grid.add_worker_with(nap(), config).await.unwrap();
    let running = submit(&grid, Task::new("nap", "2500")).await;
    grid.until_status(running, Status::Running).await.unwrap();
    let inherited = submit(&grid, Task::new("nap", "0")).await;
    grid.kill_nameservice().await;
    grid.kill_dispatcher().await;
    grid.start_dispatcher().await.unwrap();
    let new = submit(&grid, Task::new("nap", "0")).await;
    for id in [running, inherited, new] {
        let task = grid.until_status(id, Status::Completed).await.unwrap();
        assert_eq!((task.result.as_deref(), task.attempts), (Some(&b"1"[..]), 1), "task {id}");
    }
    let totals = grid.totals().await.unwrap();
    assert_eq!((totals.completed, totals.lost), (3, 0));
    grid.start_nameservice().await.unwrap();
    grid.stop().await.unwrap();
}

#[tokio::test]
async fn a_paused_dispatcher_gives_up_no_lease() {
    let mut grid = Grid::start().await.unwrap();
    grid.add_worker(nap()).await.unwrap();
    let id = submit(&grid, Task::new("nap", "3000")).await;
    grid.until_status(id, Status::Running).await.unwrap();
    // Longer than a lease.
    grid.pause_dispatcher(Duration::from_millis(1_500)).await;
    assert_eq!(grid.client().request_result(id).await.unwrap(), "1");
    assert_eq!(grid.client().task(id).await.unwrap().attempts, 1);
    grid.stop().await.unwrap();
}
