//! `taskgrid client bench` measures, small and in each of its modes.

use serde_json::Value;

use super::grid::Grid;
use super::process::{Answer, Process};

#[test]
fn bulk_is_measured_on_a_grid_of_its_own() {
    let report = spawned("--tasks 2000 --batch 100 --connections 2 --workers 2 --slots 4");
    assert_eq!((&report["mode"], &report["durability"]), (&"bulk".into(), &"sync".into()));
    assert!(report["backlog"].is_null(), "{report}");
    assert!(report["tenths"]["last_tenth"].is_object(), "{report}");
}

#[test]
fn tasks_of_tomorrow_wait_beside_those_that_are_measured() {
    let report = spawned("--tasks 2000 --scheduled 12000");
    assert_eq!(report["scheduled"], 12_000, "{report}");
}

#[test]
fn latency_is_measured_one_by_one_and_at_a_rate() {
    let report = spawned("--latency --tasks 2000 --durability os");
    assert_eq!((&report["mode"], &report["durability"]), (&"latency".into(), &"os".into()));
    let report = spawned("--latency --tasks 2000 --rate 2000");
    assert_eq!((&report["mode"], &report["rate"]), (&"latency".into(), &2000.into()));
}

#[test]
fn a_backlog_is_queued_and_then_worked_off() {
    let report = spawned("--backlog 2000 --batch 50 --size 0");
    for tenth in ["first_tenth", "last_tenth"] {
        let rates = &report["backlog"][tenth];
        assert!(rates["submit_per_second"].as_u64() > Some(0), "{report}");
    }
}

#[test]
fn a_grid_that_is_there_is_measured_and_what_is_not_known_is_null() {
    let grid = Grid::with_workers(&["hash", "upper"]);
    let report = measured(&grid.call(&["bench", "--tasks", "2000", "-o", "ndjson"]));
    assert_eq!((&report["wrong"], &report["durability"]), (&0.into(), &Value::Null));
    assert!(report["dispatcher_rss_bytes"].is_null(), "{report}");
    let unchecked = ["bench", "--tasks", "2000", "--type", "upper", "-o", "json"];
    assert!(measured(&grid.call(&unchecked))["wrong"].is_null());
    let table = grid.call(&["bench", "--tasks", "2000"]);
    assert!(table.succeeds().contains("\ntasks a second "), "{table:?}");
    let unknown = grid.call(&["bench", "--type", "resize"]);
    unknown.is_refused(2, &["resize"]);
    grid.is_empty();
}

#[test]
fn the_largest_payloads_are_measured_without_further_flags() {
    let arguments =
        ["client", "bench", "--spawn", "-o", "json", "--tasks", "3", "--size", "4194304"];
    let answer = Process::start(&arguments).answer();
    let report: Value = serde_json::from_str(answer.succeeds()).unwrap();
    for (name, value) in [("tasks", 3), ("batch", 1), ("lost", 0), ("wrong", 0), ("failed", 0)] {
        assert_eq!(report[name], value, "{report}");
    }
}

#[test]
fn a_batch_that_cannot_be_sent_is_refused_with_2() {
    let arguments =
        ["client", "bench", "--spawn", "--tasks", "1000", "--size", "1048576", "--batch", "1000"];
    let words = ["1048576000 bytes", "the limit is 16842752"];
    Process::start(&arguments).answer().is_refused_call(2, &words);
}

#[test]
fn a_type_that_takes_no_text_is_refused_with_one_that_does() {
    for more in ["", " --scheduled 10"] {
        let arguments = format!("client bench --spawn --type sum{more}");
        let answer = Process::start(&arguments.split(' ').collect::<Vec<_>>()).answer();
        answer.is_refused_call(2, &["not JSON"]);
        assert!(answer.stderr.contains("hint: what is sent is text"), "{answer:?}");
    }
}

/// The report on a spawned grid, 2,000 tasks of which all went well.
fn spawned(arguments: &str) -> Value {
    let arguments = format!("client bench --spawn -o json {arguments}");
    let arguments: Vec<&str> = arguments.split(' ').collect();
    let report = measured(&Process::start(&arguments).answer());
    assert_eq!(report["wrong"], 0, "{report}");
    if cfg!(target_os = "linux") {
        assert!(report["dispatcher_rss_bytes"].as_u64() > Some(1 << 20), "{report}");
    }
    report
}

fn measured(answer: &Answer) -> Value {
    let report: Value = serde_json::from_str(answer.succeeds()).unwrap();
    assert_eq!(answer.stderr, "");
    assert_eq!(report["tasks"], 2000, "{report}");
    for name in ["lost", "duplicated", "failed"] {
        assert_eq!(report[name], 0, "{report}");
    }
    for name in ["tasks_per_second", "submit_per_second"] {
        assert!(report[name].as_u64() > Some(0), "{report}");
    }
    let latency = ["p50", "p90", "p99", "p999", "max"];
    let latency = latency.map(|name| report["latency_us"][name].as_u64().unwrap());
    assert!(latency.is_sorted() && latency[0] > 0, "{report}");
    assert!(report["seconds"].as_f64() > Some(0.0), "{report}");
    report
}
