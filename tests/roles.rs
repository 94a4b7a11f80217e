//! The roles as processes of their own, as they are run for real: what they print, what
//! they refuse, in which order they may be started, and what is left of tasks when one
//! of them is killed.
//!
//! Every process listens on a free port, keeps its data in a temporary directory, and
//! is killed by its own id when its test ends.

#![expect(clippy::unwrap_used, reason = "what goes wrong in a test shall end it")]
#![expect(clippy::print_stderr, reason = "a test tells what it measured or left out")]

#[path = "roles/bench.rs"]
mod bench;
#[path = "roles/checks.rs"]
mod checks;
#[path = "roles/crashes.rs"]
mod crashes;
#[path = "roles/ends.rs"]
mod ends;
#[path = "roles/grid.rs"]
#[expect(dead_code, reason = "the campaigns ask more of a grid")]
mod grid;
#[path = "roles/http.rs"]
mod http;
#[path = "roles/monitor.rs"]
mod monitor;
#[path = "roles/process.rs"]
#[expect(dead_code, reason = "the campaigns ask more of a process")]
mod process;
#[path = "roles/readme.rs"]
mod readme;
#[path = "roles/refusals.rs"]
mod refusals;
#[path = "roles/shown.rs"]
mod shown;
#[path = "roles/starts.rs"]
mod starts;
#[path = "roles/stores.rs"]
mod stores;

use grid::{Grid, TYPES};

const HASH_OF_TEXT: &str = "982d9e3eb996f559e633f4d194def3761d909f5a3b647d1a851fead67c32c9d1\n";

#[test]
fn each_type_prints_its_result_and_nothing_else() {
    let grid = Grid::with_workers(&TYPES);
    for (name, payload, result) in [
        ("reverse", "hello", "olleh\n"),
        ("reverse", "noe\u{308}l 🇩🇪", "🇩🇪 le\u{308}on\n"),
        ("sum", "[1,2,3]", "6\n"),
        ("sum", "[]", "0\n"),
        ("sum", "[9007199254740993,1]", "9007199254740994\n"),
        ("sum", "[0.1,0.2,0.7]", "1.0\n"),
        ("hash", "text", HASH_OF_TEXT),
        ("upper", "straße", "STRASSE\n"),
        ("wait", "300ms", "waited 300ms\n"),
        ("wait", "0.25", "waited 250ms\n"),
    ] {
        grid.call(&["send", name, payload]).prints(result);
    }
    grid.call(&["send", "upper"]).prints("\n");

    let file = grid.data_dir().join("payload");
    std::fs::write(&file, b"text").unwrap();
    grid.call(&["send", "hash", &format!("@{}", file.display())]).prints(HASH_OF_TEXT);
    grid.begin(&["send", "hash", "-"], b"text").answer().prints(HASH_OF_TEXT);
    // What is no UTF-8, from both; the sum is `printf '\377\000\200' | sha256sum`.
    let bytes = b"\xff\x00\x80";
    let hash = "ef192b7af54e943f206ab27075ec1805384c972c9959fc5820f1fa7d5268fcef\n";
    std::fs::write(&file, bytes).unwrap();
    grid.call(&["send", "hash", &format!("@{}", file.display())]).prints(hash);
    grid.begin(&["send", "hash", "-"], bytes).answer().prints(hash);
    grid.is_empty();
}
