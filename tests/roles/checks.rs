//! `taskgrid client test` tells a grid that works from one that does not, whatever
//! happens to its dispatcher meanwhile.

use std::path::PathBuf;

use bytes::Bytes;
use taskgrid::shutdown::Shutdown;
use taskgrid::worker::{Config, Worker, builtin};

use super::grid::{Grid, TYPES};

#[test]
fn a_dispatcher_that_was_away_is_told_of_and_all_results_are_right() {
    const TASKS: usize = 60;
    let mut grid = Grid::with_workers(&TYPES);
    let log = log_of(&grid);
    let arguments = ["test", "--interval", "0s", "--count", "60", "--log-file"];
    let test = grid.begin(&[&arguments[..], &[log.to_str().unwrap()]].concat(), b"");
    test.printed(|text| text.contains("  sum  ").then_some(()));
    grid.dispatcher.kill();
    test.printed(|text| text.contains("  away  ").then_some(()));
    grid.crash_dispatcher();

    let answer = test.answer();
    let told = answer.succeeds();
    assert_eq!(answer.stderr, "");
    let lines = |event: &str| told.lines().filter(|line| line.contains(event)).count();
    assert_eq!([lines("  right  "), lines("  away  "), lines("  back  ")], [TASKS, 1, 1], "{told}");
    let sum = told.lines().last().unwrap();
    let expected = "at the end 60 sent: 60 right; the grid was away once, for ";
    assert!(sum.contains(expected), "{sum}");
    assert_eq!(std::fs::read_to_string(&log).unwrap(), told);
    let listed = grid.call(&["list", "--limit", "0", "-o", "id"]);
    assert_eq!(listed.succeeds().lines().count(), TASKS, "nothing was sent twice");
    grid.is_empty();
}

#[test]
fn a_test_that_is_told_to_end_says_how_it_went() {
    let mut grid = Grid::with_workers(&TYPES);
    let log = log_of(&grid);
    std::fs::write(&log, "before\n").unwrap();
    let log = log.to_str().unwrap();
    let test = grid.begin(&["test", "--log-file", log], b"");
    test.printed(|text| text.contains("  sum  ").then_some(()));
    test.terminate();
    let answer = test.answer();
    assert!(answer.succeeds().lines().last().unwrap().contains("at the end 10 sent: 10 right"));
    let logged = std::fs::read_to_string(log).unwrap();
    assert_eq!(logged, format!("before\n{}", answer.stdout), "what was there stays");

    // Also where the grid ends before the test does.
    let test = grid.begin(&["test", "--log-file", log, "-o", "ndjson"], b"");
    test.printed(|text| text.contains(r#""event":"sum""#).then_some(()));
    grid.dispatcher.kill();
    test.printed(|text| text.contains(r#""event":"away""#).then_some(()));
    test.terminate();
    test.answer().succeeds();
}

#[test]
fn a_worker_that_lies_is_found_out() {
    let grid = Grid::start(&[]);
    let config =
        Config { nameservices: vec![grid.nameservice_addr.to_string()], ..Config::default() };
    let all = Shutdown::new();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let honest = builtin::register(Worker::builder(), "reverse").unwrap();
    let liar = honest.handle_blocking("hash", |_, _| Ok(Bytes::from_static(b"lies")));
    let liar = runtime.block_on(liar.bind(config)).unwrap();
    let liar = runtime.spawn(liar.run(all.clone()));
    grid.wait_for_workers("hash", 1);
    let log = log_of(&grid);
    let arguments = ["test", "--count", "10", "--log-file", log.to_str().unwrap()];
    let answer = grid.call(&arguments);
    assert_eq!(answer.code, Some(1), "{answer:?}");
    let of =
        |type_name: &str| answer.stdout.lines().filter(|line| line.contains(type_name)).count();
    let (right, wrong) = (of("  reverse  "), of("  hash     "));
    assert!(right > 0 && wrong > 0 && right + wrong == 10, "{answer:?}");
    for line in answer.stdout.lines().filter(|line| line.contains("  hash     ")) {
        assert!(line.contains("  wrong    task ") && line.ends_with("gave \"lies\""), "{line}");
    }
    let sum = format!("at the end 10 sent: {right} right, {wrong} wrong");
    assert!(answer.stdout.trim_end().ends_with(&sum), "{answer:?}");
    all.begin();
    runtime.block_on(liar).unwrap().unwrap();
}

#[test]
fn a_log_file_that_cannot_be_is_refused_at_once() {
    let grid = Grid::start(&[]);
    let answer = grid.call(&["test", "--log-file", "/nowhere/at/all.log"]);
    answer.is_refused_call(2, &["cannot write /nowhere/at/all.log", "No such file"]);
}

fn log_of(grid: &Grid) -> PathBuf {
    grid.data_dir().join("tests.log")
}
