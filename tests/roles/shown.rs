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
