//! How workers share what there is.

use std::collections::BTreeMap;

use taskgrid::client::{SubmitOptions, Task};
use taskgrid::testing::{Grid, nap};
use taskgrid::worker::Config;

// Naps, not work: the machine shares its cores less evenly than the dispatcher its tasks.
#[tokio::test]
async fn two_equal_workers_share_tasks_evenly() {
    let mut grid = Grid::start().await.unwrap();
    for id in ["left", "right"] {
        let config = Config { id: Some(id.to_owned()), slots: Some(8), ..Config::default() };
        grid.add_worker_with(nap(), config).await.unwrap();
    }
    let done = run(&grid, (0..400).map(|_| Task::new("nap", "20")).collect()).await;
    assert_eq!(done.values().sum::<u64>(), 400);
    for (worker, completed) in done {
        assert!((160..=240).contains(&completed), "{worker} completed {completed}");
    }
    grid.stop().await.unwrap();
}

#[tokio::test]
async fn a_worker_with_twice_the_slots_gets_twice_as_many_long_tasks() {
    let mut grid = Grid::start().await.unwrap();
    for (id, slots) in [("small", 4), ("large", 8)] {
        let config = Config { id: Some(id.to_owned()), slots: Some(slots), ..Config::default() };
        grid.add_worker_with(nap(), config).await.unwrap();
    }
    let done = run(&grid, (0..240).map(|_| Task::new("nap", "20")).collect()).await;
    let ratio = done["large"] * 100 / done["small"];
    assert!((150..=250).contains(&ratio), "{done:?}");
    grid.stop().await.unwrap();
}

/// Runs tasks to their ends, and tells how many each worker completed.
async fn run(grid: &Grid, tasks: Vec<Task>) -> BTreeMap<String, u64> {
    let count = u64::try_from(tasks.len()).unwrap();
    grid.client().submit(&tasks, &SubmitOptions::default()).await.unwrap();
    grid.until("all to complete", async |grid| {
        (grid.totals().await.ok()?.completed == count).then_some(())
    })
    .await
    .unwrap();
    let stats = grid.client().stats().await.unwrap();
    stats.workers.into_iter().map(|worker| (worker.worker_id, worker.completed)).collect()
}
