//! Roles that are told to end do so in good order.

use std::io::Write as _;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::grid::Grid;
use super::process::until;

#[test]
fn a_worker_that_is_told_to_end_finishes_what_it_runs() {
    let mut grid = two_workers("20s");
    let id = grid.send(&["wait", "1"]);
    let runner = grid.runner_of(&id);
    let worker = grid.workers.remove(usize::from(runner == "two"));
    worker.terminate();
    // As from `timeout`, or from a shell that ends: one wish, told twice.
    worker.signal(Signal::INT);
    assert_eq!(worker.answer().code, Some(0));
    let task = grid.json(&["status", &id]);
    assert_eq!(
        (&task["status"], &task["attempts"], &task["worker"]),
        (&"completed".into(), &1.into(), &(&*runner).into()),
        "{task}"
    );
}

#[test]
fn a_worker_without_the_time_to_finish_hands_back_what_it_runs() {
    let mut grid = two_workers("100ms");
    let id = grid.send(&["wait", "2", "--max-attempts", "1", "--max-crashes", "1"]);
    let runner = grid.runner_of(&id);
    let worker = grid.workers.remove(usize::from(runner == "two"));
    worker.terminate();
    assert_eq!(worker.answer().code, Some(0));
    grid.call(&["result", &id]).prints("waited 2s\n");
    let task = grid.json(&["status", &id]);
    assert_eq!((&task["status"], &task["attempts"]), (&"completed".into(), &2.into()), "{task}");
    assert_ne!(task["worker"], runner, "{task}");
    let reasons: Vec<_> =
        task["story"].as_array().unwrap().iter().map(|line| line["reason"].as_str()).collect();
    assert_eq!(reasons, [Some("released"), None], "{task}");
}

#[test]
fn a_dispatcher_that_is_told_to_end_does_not_wait_for_those_who_never_leave() {
    const DRAIN: Duration = Duration::from_secs(30);
    let mut grid = Grid::start(&["--drain-timeout", "30s"]);
    grid.worker("wait", &[]);
    grid.wait_for_workers("wait", 1);
    // A watch and a wait for a result; a peer that says nothing at all, and one that
    // says hello and then nothing.
    let watch = grid.begin(&["watch"], b"");
    until("watched", || {
        grid.call(&["send", "wait", "0"]).prints("waited 0s\n");
        watch.printed(|text| Some(!text.is_empty())).then_some(())
    });
    let id = grid.send(&["wait", "60"]);
    let waiting = grid.begin(&["result", &id], b"");
    let silent = TcpStream::connect(grid.dispatcher_addr).unwrap();
    let mut greeted = TcpStream::connect(grid.dispatcher_addr).unwrap();
    greeted.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
    assert_eq!(grid.json(&["status", &id])["status"], "running");

    let told = Instant::now();
    grid.dispatcher.terminate();
    let ended = grid.dispatcher.answer_within(DRAIN);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(told.elapsed() < DRAIN / 3, "it took {:?}", told.elapsed());
    assert!(!ended.stderr.contains("in time"), "nothing had to be cut:\n{}", ended.stderr);
    drop((watch, waiting, silent, greeted));
}

#[test]
fn roles_that_have_nothing_to_do_end_at_once() {
    let mut grid = Grid::with_workers(&["hash"]);
    let worker = grid.workers.remove(0);
    for role in [worker, grid.dispatcher] {
        role.terminate();
        let ended = role.answer();
        assert_eq!((ended.code, &*ended.stdout), (Some(0), ""), "{ended:?}");
        assert!(!ended.stderr.contains("error:"), "{ended:?}");
    }
}

/// Workers of `wait`, named one and two, with this drain timeout.
fn two_workers(drain_timeout: &str) -> Grid {
    let mut grid = Grid::start(&[]);
    for name in ["one", "two"] {
        grid.worker("wait", &["--id", name, "--drain-timeout", drain_timeout]);
    }
    grid.wait_for_workers("wait", 2);
    grid
}
