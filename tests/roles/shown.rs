//! What the client shows of a grid.

use super::grid::Grid;

#[test]
fn numbers_of_types_and_workers_count_since_the_dispatchers_start() {
    let mut grid = Grid::with_workers(&["hash"]);
    grid.call(&["send", "hash", "text"]).prints(super::HASH_OF_TEXT);
    assert_eq!(grid.type_row("hash").unwrap()["completed"], 1);
    for verb in ["types", "workers"] {
        let shown = grid.call(&[verb]);
        let told = "COMPLETED and FAILED since the dispatcher's start, ";
        assert!(
            shown.succeeds().contains("COMPLETED") && shown.stderr.starts_with(told),
            "{shown:?}"
        );
        assert_eq!(grid.call(&[verb, "-o", "json"]).stderr, "");
    }
    grid.crash_dispatcher();
    assert_eq!(grid.type_row("hash").unwrap()["completed"], 0);
}

#[test]
fn a_watch_tells_the_end_of_a_task_that_had_ended_and_ends_with_it() {
    let grid = Grid::with_workers(&["hash", "sum"]);
    grid.call(&["send", "hash", "text"]).prints(super::HASH_OF_TEXT);
    let watched = grid.json(&["watch", "1"]);
    assert_eq!((&watched["id"], &watched["status"]), (&1.into(), &"completed".into()));
    assert_eq!(watched["result"], super::HASH_OF_TEXT.trim_end());
    assert!(watched["worker"].is_string() && watched["timestamp"].is_u64(), "{watched}");

    let too_large = format!("[{0},{0}]", i128::MAX);
    assert_eq!(grid.call(&["send", "sum", &too_large]).code, Some(1));
    let failed = grid.call(&["watch", "2", "1"]);
    assert_eq!(failed.code, Some(1), "{failed:?}");
    let lines: Vec<&str> = failed.stdout.lines().collect();
    assert_eq!(lines.len(), 2, "{failed:?}");
    assert!(lines.iter().any(|line| line.contains("task 2  failed  ")), "{failed:?}");
}
