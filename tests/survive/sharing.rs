//! How workers share what there is: by what they hold, which no clock decides.

use std::collections::BTreeMap;

use bytes::Bytes;
use taskgrid::client::{SubmitOptions, Task};
use taskgrid::core::limits;
use taskgrid::testing::{Grid, nap};
use taskgrid::worker::{Config, Context, Worker};

/// Longer than any test runs, in milliseconds.
const LONG: &str = "3600000";

#[tokio::test]
async fn two_equal_workers_share_long_tasks_evenly() {
    let held = shared(&[("left", 8), ("right", 8)], 10).await;
    assert_eq!(held, BTreeMap::from([("left".to_owned(), 5), ("right".to_owned(), 5)]));
}

#[tokio::test]
async fn a_worker_with_twice_the_slots_gets_twice_as_many_long_tasks() {
    let held = shared(&[("small", 8), ("large", 16)], 12).await;
    assert_eq!(held, BTreeMap::from([("large".to_owned(), 8), ("small".to_owned(), 4)]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_of_many_slots_gets_as_many_of_the_largest_tasks() {
    const SLOTS: u32 = 12;
    let mut grid = Grid::start().await.unwrap();
    let measure = || {
        Worker::builder().handle("measure", |_: Context, payload: Bytes| async move {
            Ok(payload.len().to_string().into())
        })
    };
    let first = grid.add_worker(measure()).await.unwrap();
    grid.stop_worker(first).await.unwrap();
    let largest = usize::try_from(limits::PAYLOAD_BYTES).unwrap();
    let mut ids = Vec::new();
    for _ in 0..SLOTS {
        let task = Task::new("measure", vec![b'x'; largest]);
        ids.extend(grid.client().submit(&[task], &SubmitOptions::default()).await.unwrap().ids);
    }
    let config = Config { slots: Some(SLOTS), ..Config::default() };
    grid.add_worker_with(measure(), config).await.unwrap();
    for id in ids {
        assert_eq!(grid.client().request_result(id).await.unwrap(), largest.to_string());
        assert_eq!(grid.client().task(id).await.unwrap().attempts, 1);
    }
    grid.stop().await.unwrap();
}

/// How many of these tasks each of the workers, with these slots, has at once.
async fn shared(workers: &[(&str, u32)], tasks: usize) -> BTreeMap<String, u32> {
    let mut grid = Grid::start().await.unwrap();
    for (id, slots) in workers {
        let config =
            Config { id: Some((*id).to_owned()), slots: Some(*slots), ..Config::default() };
        grid.add_worker_with(nap(), config).await.unwrap();
    }
    let naps = vec![Task::new("nap", LONG); tasks];
    let ids = grid.client().submit(&naps, &SubmitOptions::default()).await.unwrap().ids;
    grid.until("all to run", async |grid| {
        let running = grid.totals().await.ok()?.running;
        (usize::try_from(running) == Ok(tasks)).then_some(())
    })
    .await
    .unwrap();
    let stats = grid.client().stats().await.unwrap();
    grid.client().cancel(&ids).await.unwrap();
    grid.stop().await.unwrap();
    stats.workers.into_iter().map(|worker| (worker.worker_id, worker.held)).collect()
}
