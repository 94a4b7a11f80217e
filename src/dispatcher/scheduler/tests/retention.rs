//! What is forgotten, and how that is told.

use std::time::Duration;

use super::world::{Hello, Setup, World, hello, task};
use crate::core::id::TaskId;
use crate::core::queue::Standing;
use crate::core::task::Reason;
use crate::store::Store as _;

#[tokio::test]
async fn results_beyond_their_number_are_forgotten_oldest_first() {
    let mut setup = Setup::default();
    setup.policy.tasks = 2;
    let world = World::with(setup).await;
    run(&world, 5).await;
    world.until_absent(&[1, 2, 3]).await;
    let seen = world.look(&[1, 3, 4, 5, 6]).await;
    let kept = seen.iter().map(|s| matches!(s.standing, Standing::Ended(..))).collect::<Vec<_>>();
    assert_eq!(kept, [false, false, true, true, false]);
    let given = seen.iter().map(|snapshot| snapshot.given).collect::<Vec<_>>();
    assert_eq!(given, [true, true, true, true, false], "expired is not never existed");
    assert_eq!(world.store.tasks(&[TaskId(3)]).unwrap(), [None]);
    let world = world.restart().await;
    let seen = world.look(&[1, 4, 6]).await;
    assert_eq!([true, true, false], [seen[0].given, seen[1].given, seen[2].given]);
}

#[tokio::test]
async fn results_beyond_their_bytes_are_forgotten_oldest_first_also_after_a_restart() {
    let mut setup = Setup::default();
    // "text" and "done".
    setup.policy.bytes = 3 * 8;
    let world = World::with(setup).await;
    run(&world, 5).await;
    world.until_absent(&[1, 2]).await;
    let world = world.restart().await;
    run(&world, 1).await;
    world.until_absent(&[3]).await;
    world.barrier().await;
    let kept = world.look(&[4, 5, 6]).await;
    assert!(kept.iter().all(|task| matches!(task.standing, Standing::Ended(..))), "{kept:?}");
}

#[tokio::test]
async fn failed_tasks_are_forgotten_behind_results_that_are_kept() {
    let mut setup = Setup::default();
    setup.policy.failed = 2;
    let world = World::with(setup).await;
    run(&world, 1).await;
    let mut worker = world.join(Hello { incarnation: 2, session: 2, ..hello("w", 1) }).await;
    world.submit(vec![task(); 4]).await;
    for _ in 0..4 {
        let assignment = worker.assignment().await;
        worker.fail(&assignment, Reason::Permanent).await;
        worker.answer().await;
    }
    world.until_absent(&[2, 3]).await;
    let kept = world.look(&[1, 4, 5]).await;
    assert!(kept.iter().all(|task| matches!(task.standing, Standing::Ended(..))), "{kept:?}");
}

#[tokio::test]
async fn results_are_forgotten_when_they_are_too_old() {
    let mut setup = Setup::default();
    setup.policy.age = Duration::from_millis(300);
    let world = World::with(setup).await;
    run(&world, 3).await;
    world.until_absent(&[1, 2, 3]).await;
    assert!(world.look(&[2]).await[0].given);
}

#[tokio::test]
async fn a_commit_that_takes_long_is_not_asked_about_again_and_again() {
    let mut setup = Setup::default();
    setup.policy.tasks = 0;
    let world = World::with(setup).await;
    let mut worker = world.join(hello("w", 1)).await;
    world.submit(vec![task()]).await;
    let assignment = worker.assignment().await;
    world.store.hold();
    worker.complete(&assignment).await;
    world.store.holds().await;
    let before = world.store.walks();
    for _ in 0..100 {
        world.barrier().await;
    }
    assert!(world.store.walks() - before <= 1);
    world.store.release();
    world.until_absent(&[1]).await;
}

async fn run(world: &World, tasks: usize) {
    let mut worker = world.join(hello("w", 1)).await;
    world.submit(vec![task(); tasks]).await;
    for _ in 0..tasks {
        let assignment = worker.assignment().await;
        worker.complete(&assignment).await;
        worker.answer().await;
    }
}
