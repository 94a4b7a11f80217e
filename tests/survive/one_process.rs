//! A grid in one process whose task takes the whole process down: it must not do so
//! for ever.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use taskgrid::client::{Client, Error, SubmitOptions, Task};
use taskgrid::core::task::Reason;
use taskgrid::dispatcher::{self, Dispatcher, Storage};
use taskgrid::nameservice::{self, Nameservice};
use taskgrid::rpc::Listen;
use taskgrid::shutdown::Shutdown;
use taskgrid::store::Durability;
use taskgrid::worker::{self, Context, Worker};

/// Tells the child where its data is.
const DIRECTORY: &str = "TASKGRID_TEST_ONE_PROCESS";
/// One death of which nothing was stored, three that are charged, one run alone.
const DEATHS: usize = 5;

#[test]
fn a_task_that_takes_its_whole_grid_down_ends_as_poison() {
    let dir = tempfile::tempdir().unwrap();
    for deaths in 0..=DEATHS {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture", "survive::one_process::the_grid_that_dies"])
            .env(DIRECTORY, dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let ended = child.wait_with_output().unwrap();
        if ended.status.success() {
            assert!(deaths >= 3, "it was given up after {deaths} deaths");
            return;
        }
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(!said.contains("panicked"), "{said}");
    }
    panic!("it still takes the grid down after {DEATHS} deaths");
}

/// Runs in a process of its own, started by the test above; elsewhere it has nothing
/// to do.
#[test]
#[expect(clippy::disallowed_methods, reason = "the environment is how a test tells its child")]
fn the_grid_that_dies() {
    let Some(dir) = std::env::var_os(DIRECTORY) else { return };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(run(Path::new(&dir)));
}

async fn run(dir: &Path) {
    let listen = Listen::default();
    let nameservice = Nameservice::bind(nameservice::Config {
        listen: listen.clone(),
        ..nameservice::Config::default()
    })
    .unwrap();
    let nameservices = vec![nameservice.addr().to_string()];
    let path = dir.to_owned();
    let dispatcher = Dispatcher::bind(dispatcher::Config {
        listen: listen.clone(),
        nameservices: nameservices.clone(),
        storage: Storage::directory(path, Durability::Os),
        lease: Duration::from_secs(1),
        ..dispatcher::Config::default()
    })
    .await
    .unwrap();
    let client = Client::connect(&dispatcher.addr().to_string()).unwrap();
    let worker = Worker::builder()
        .handle_blocking("bomb", |_: &Context, _| std::process::abort())
        .handle_blocking("echo", |_: &Context, payload: Bytes| Ok(payload))
        .bind(worker::Config {
            listen,
            nameservices,
            id: Some("w".to_owned()),
            ..worker::Config::default()
        })
        .await
        .unwrap();
    let shutdown = Shutdown::new();
    tokio::spawn(nameservice.run(shutdown.clone()));
    tokio::spawn(dispatcher.run(shutdown.clone()));
    tokio::spawn(worker.run(shutdown));
    // The same batch in each life.
    let options = SubmitOptions { key: Some("bomb".into()), ..SubmitOptions::default() };
    let tasks = [Task::new("bomb", ""), Task::new("echo", "neighbour")];
    let ids = client.submit(&tasks, &options).await.unwrap().ids;
    let failed = client.request_result(ids[0]).await.unwrap_err();
    let Error::TaskFailed(task) = failed else { panic!("{failed}") };
    assert_eq!(task.reason, Some(Reason::Poison));
    assert_eq!(client.request_result(ids[1]).await.unwrap(), "neighbour");
}
