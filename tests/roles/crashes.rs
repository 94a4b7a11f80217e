//! What a kill -9 leaves: nothing receipted is lost, nothing is there twice.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::grid::Grid;
use super::process::{Answer, PATIENCE, until};

/// `10x100000` runs ten rounds of 100,000 tasks in place of two of 20,000.
const ROUNDS: &str = "TASKGRID_TEST_KILLS";

/// How the tasks of a round ended, by id: the payload and the result.
type Ends = BTreeMap<u64, (String, String)>;

/// What came of a submit in the midst of which the dispatcher was killed.
struct Interrupted {
    /// All that was printed.
    ends: Ends,
    /// Lines that were printed before the kill.
    seen: usize,
    /// How long the dispatcher took to listen again.
    restart: Duration,
}

#[test]
fn a_killed_dispatcher_loses_no_task_and_doubles_none() {
    let (rounds, lines) = size();
    let mut grid = Grid::with_workers(&["hash"]);
    let mut stored = 0;
    for round in 0..rounds {
        let payloads: Vec<String> = (0..lines).map(|line| format!("{round}-{line}\n")).collect();
        let payloads = payloads.concat();
        let began = Instant::now();
        let Interrupted { ends: first, seen, restart } = interrupted(&mut grid, round, &payloads);
        let interrupted_at = began.elapsed();
        let again = submit(&grid, &payloads);
        let again_at = began.elapsed();
        let ends = ends(&again.stdout);
        stored += lines;

        assert_eq!(again.code, Some(0), "{}", again.stderr);
        assert_eq!(ends.len(), lines, "as many tasks as lines");
        for (id, end) in &first {
            assert_eq!(ends.get(id), Some(end), "task {id} is the same both times");
        }
        for (payload, result) in ends.values() {
            assert_eq!(*result, sha256(payload), "{payload}");
        }
        let sent: BTreeSet<&str> = ends.values().map(|(payload, _)| &**payload).collect();
        assert!(sent == payloads.lines().collect(), "each line is one task");
        eprintln!(
            "round {round}: killed after {seen} results, back after {restart:.1?}, at its end \
             after {interrupted_at:.1?}; again: {}, after {again_at:.1?}; checked after {:.1?}",
            again.stderr.trim(),
            began.elapsed()
        );
    }
    let listed = grid.begin(&["list", "--limit", "0", "-o", "id"], b"");
    let listed = listed.answer_within(patience(stored));
    assert_eq!(listed.succeeds().lines().count(), stored, "no second task of any");
    grid.is_empty();
}

/// Submits, and kills the dispatcher when some results are there and others are not;
/// every second time the client too.
fn interrupted(grid: &mut Grid, round: usize, payloads: &str) -> Interrupted {
    let lines = payloads.lines().count();
    let mut call = grid.begin(&["submit", "--type", "hash", "-"], payloads.as_bytes());
    let early = lines / 20 + round % 7 * (lines / 20);
    let count = |text: &str| text.lines().count();
    call.printed(|text| (count(text) >= early).then_some(()));
    grid.dispatcher.kill();
    let kills_client = round % 2 == 1;
    if kills_client {
        call.kill();
    }
    let seen = call.printed(|text| Some(count(text)));
    assert!((1..lines).contains(&seen), "the kill came in the middle: {seen} of {lines}");
    let killed = Instant::now();
    grid.crash_dispatcher();
    let restart = killed.elapsed();
    let first = call.answer_within(patience(lines));
    if !kills_client {
        assert_eq!(first.code, Some(0), "{}", first.stderr);
        assert_eq!(count(&first.stdout), lines);
    }
    Interrupted { ends: ends(&first.stdout), seen, restart }
}

fn submit(grid: &Grid, payloads: &str) -> Answer {
    let lines = payloads.lines().count();
    grid.begin(&["submit", "--type", "hash", "-"], payloads.as_bytes())
        .answer_within(patience(lines))
}

/// What was printed, each task once. The last line of a killed client may be torn.
fn ends(stdout: &str) -> Ends {
    let whole = stdout.rfind('\n').map_or("", |end| &stdout[..end]);
    let mut ends = Ends::new();
    for line in whole.lines() {
        let task: Value = serde_json::from_str(line).unwrap();
        assert_eq!(task["status"], "completed", "{line}");
        assert!(task["attempts"].as_u64().unwrap() <= 2, "more than one extra start: {line}");
        let text = |name: &str| task[name].as_str().unwrap().to_owned();
        let before = ends.insert(task["id"].as_u64().unwrap(), (text("payload"), text("result")));
        assert!(before.is_none(), "a second end: {line}");
    }
    ends
}

#[test]
fn a_killed_dispatcher_takes_up_the_tasks_that_its_workers_run() {
    const TASKS: usize = 20;
    let mut grid = Grid::start(&["--lease", "10s"]);
    grid.worker("wait", &["--slots", "20"]);
    grid.wait_for_workers("wait", 1);
    let begun = grid.begin(&["submit", "--type", "wait", "--detach", "-"], &b"2\n".repeat(TASKS));
    let ids = begun.answer().succeeds().to_owned();
    let ids: Vec<&str> = ids.lines().collect();
    assert_eq!(ids.len(), TASKS);
    until("all running", || (grid.type_row("wait")?["running"] == TASKS).then_some(()));
    grid.crash_dispatcher();

    let results = grid.call(&[&["result"], &ids[..]].concat());
    results.prints(&"waited 2s\n".repeat(TASKS));
    for task in grid.json(&["list"]).as_array().unwrap() {
        assert_eq!(
            (&task["status"], &task["attempts"]),
            (&"completed".into(), &1.into()),
            "{task}"
        );
    }
    grid.is_empty();
}

#[test]
fn a_killed_workers_task_is_run_by_another_and_not_charged_as_an_error() {
    let mut grid = Grid::start(&[]);
    for name in ["one", "two"] {
        grid.worker("wait", &["--id", name]);
    }
    grid.wait_for_workers("wait", 2);
    let id = grid.send(&["wait", "2", "--max-attempts", "1"]);
    let lost = grid.runner_of(&id);
    let (place, other) = if lost == "one" { (0, "two") } else { (1, "one") };
    grid.workers[place].kill();
    grid.call(&["result", &id]).prints("waited 2s\n");

    let task = grid.json(&["status", &id]);
    assert_eq!((&task["status"], &task["attempts"]), (&"completed".into(), &2.into()), "{task}");
    let story: Vec<_> = task["story"].as_array().unwrap().iter().collect();
    let told = |line: &Value| {
        ["worker", "status", "reason"].map(|name| line[name].as_str().unwrap_or("-").to_owned())
    };
    assert_eq!(story.len(), 2, "{task}");
    assert_eq!(told(story[0]), [&lost, "pending", "lost"]);
    assert_eq!(told(story[1]), [other, "completed", "-"]);
    let shown = grid.call(&["status", &id]);
    for word in [&lost, other, "lost", "completed", "waited 2s"] {
        assert!(shown.succeeds().contains(word), "{word} is not in\n{}", shown.stdout);
    }
    grid.is_empty();
}

/// How many rounds, of how many lines.
fn size() -> (usize, usize) {
    #[expect(clippy::disallowed_methods, reason = "cargo test has no flags of ours")]
    let Ok(size) = std::env::var(ROUNDS) else { return (2, 20_000) };
    let (rounds, lines) = size.split_once('x').unwrap_or((&size, "20000"));
    (rounds.parse().unwrap(), lines.parse().unwrap())
}

fn sha256(text: &str) -> String {
    Sha256::digest(text).iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"))
}

/// A thousand a second at the least.
fn patience(lines: usize) -> Duration {
    PATIENCE + Duration::from_millis(u64::try_from(lines).unwrap())
}
