use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::super::super::exit::Failure;
use super::super::super::output::Format;
use super::report::{Report, Tally};
use super::run::{self, Settings};
use crate::shutdown::Shutdown;
use crate::testing::Grid;
use crate::worker::{self, Context, Worker, builtin};

/// Far beyond what anything here takes, also on a slow machine.
const LONG: Duration = Duration::from_secs(60);

const SETTINGS: Settings = Settings {
    interval: Duration::ZERO,
    batch: 10,
    count: None,
    deadline: Duration::from_secs(2),
    seed: 7,
};

#[tokio::test]
async fn wrong_results_and_failures_and_silence_are_told_apart() {
    let mut grid = Grid::start().await.unwrap();
    let liar = builtin::register(Worker::builder(), "hash")
        .unwrap()
        .handle_blocking("upper", |_, _| Ok(Bytes::from_static(b"lies")))
        .handle_blocking("sum", |_, _| Err(worker::Failure::permanent("no\nidea")))
        .handle("wait", |_: Context, _: Bytes| std::future::pending())
        .handle_blocking("resize", |_, payload| Ok(payload));
    grid.add_worker(liar).await.unwrap();

    let mut test = Test::start(&grid, Settings { count: Some(20), ..SETTINGS });
    let tally = test.end().await.unwrap();
    let told = |event: &str, type_name: &str| {
        let is_of =
            |line: &&String| line.contains(&format!("  {event}  ")) && line.contains(type_name);
        test.lines.iter().filter(is_of).count()
    };
    let count = |event: &str, type_name: &str| u64::try_from(told(event, type_name)).unwrap();
    assert_eq!(tally.right, count("right", "hash"));
    assert_eq!(tally.wrong, count("wrong", "upper"));
    assert_eq!(tally.failed, count("failed", "sum"));
    assert_eq!(tally.late, count("late", "wait"));
    for number in [tally.right, tally.wrong, tally.failed, tally.late] {
        assert!(number > 0, "{tally}");
    }
    assert_eq!(tally.right + tally.wrong + tally.failed + tally.late, 20, "{tally}");
    assert!(!tally.is_all_right());
    assert_eq!(told("note", "resize is not tested"), 1, "{:#?}", test.lines);
    assert!(test.lines.iter().any(|line| line.ends_with("ms: no idea\n")), "{:#?}", test.lines);
    let log = std::fs::read_to_string(test.log.path()).unwrap();
    assert_eq!(log, test.lines.concat(), "the log file has what the terminal has");
    grid.stop().await.unwrap();
}

#[tokio::test]
async fn a_task_that_ends_late_is_judged_all_the_same() {
    let mut grid = Grid::start().await.unwrap();
    let gate = Arc::new(Semaphore::new(0));
    let behind = Arc::clone(&gate);
    let slow = Worker::builder().handle("upper", move |_: Context, payload: Bytes| {
        let gate = Arc::clone(&behind);
        async move {
            gate.acquire().await.map_err(worker::Failure::permanent)?.forget();
            let text = String::from_utf8(payload.to_vec()).map_err(worker::Failure::permanent)?;
            Ok(text.to_uppercase().into())
        }
    });
    grid.add_worker(slow).await.unwrap();
    let settings = Settings { batch: 1, deadline: Duration::ZERO, interval: LONG, ..SETTINGS };
    let mut test = Test::start(&grid, settings);
    test.until("  late  ").await;
    gate.add_permits(1);
    test.until("  right  ").await;
    test.shutdown.begin();
    let tally = test.end().await.unwrap();
    assert_eq!((tally.sent, tally.right, tally.late), (1, 1, 0), "{:#?}", test.lines);
    assert!(tally.is_all_right());
    grid.stop().await.unwrap();
}

#[tokio::test]
async fn a_test_that_begins_before_its_grid_waits_for_a_worker() {
    let mut grid = Grid::start().await.unwrap();
    grid.kill_dispatcher().await;
    let mut test = Test::start(&grid, Settings { count: Some(10), ..SETTINGS });
    test.until("  away  ").await;
    grid.start_dispatcher().await.unwrap();
    test.until("  back  ").await;
    test.until("waiting for a worker").await;
    let worker = builtin::register(Worker::builder(), "reverse").unwrap();
    grid.add_worker(worker).await.unwrap();
    let tally = test.end().await.unwrap();
    assert_eq!((tally.sent, tally.right, tally.outages), (10, 10, 1), "{:#?}", test.lines);
    assert!(test.lines.last().unwrap().contains("at the end 10 sent: 10 right; the grid was away"));
    grid.stop().await.unwrap();
}

#[tokio::test]
async fn an_interval_beyond_the_end_of_the_clock_is_no_panic() {
    let mut grid = Grid::start().await.unwrap();
    grid.add_worker(builtin::register(Worker::builder(), "reverse").unwrap()).await.unwrap();
    let settings = Settings { interval: Duration::MAX, count: Some(1), ..SETTINGS };
    let tally = Test::start(&grid, settings).end().await.unwrap();
    assert_eq!((tally.sent, tally.right), (1, 1));
    grid.stop().await.unwrap();
}

/// A test that runs beside a test.
struct Test {
    shutdown: Shutdown,
    told: mpsc::UnboundedReceiver<String>,
    /// What it told so far, as far as it was read.
    lines: Vec<String>,
    log: tempfile::NamedTempFile,
    running: JoinHandle<Result<Tally, Failure>>,
}

impl Test {
    fn start(grid: &Grid, settings: Settings) -> Self {
        let (sender, told) = mpsc::unbounded_channel();
        let log = tempfile::NamedTempFile::new().unwrap();
        let file = (log.reopen().unwrap(), log.path().to_owned());
        let report = Report::new(Format::Text, Told(sender), false, file);
        let (client, shutdown) = (grid.client().clone(), Shutdown::new());
        let end = shutdown.clone();
        let runtime = Handle::current();
        let running = tokio::task::spawn_blocking(move || {
            runtime.block_on(run::run(&client, settings, report, &end))
        });
        Self { shutdown, told, lines: Vec::new(), log, running }
    }

    async fn until(&mut self, part: &str) {
        loop {
            let line = timeout(LONG, self.told.recv()).await;
            let line = line.unwrap_or_default().unwrap_or_else(|| panic!("{:#?}", self.lines));
            let found = line.contains(part);
            self.lines.push(line);
            if found {
                return;
            }
        }
    }

    async fn end(&mut self) -> Result<Tally, Failure> {
        let tally = timeout(LONG, &mut self.running).await.unwrap().unwrap();
        while let Some(line) = self.told.recv().await {
            self.lines.push(line);
        }
        tally
    }
}

/// Each write is a line.
struct Told(mpsc::UnboundedSender<String>);

impl Write for Told {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.send(String::from_utf8(line.to_vec()).unwrap()).map_err(io::Error::other)?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
