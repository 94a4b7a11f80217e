//! `taskgrid store verify` on what a dispatcher left, and what the dispatcher says of a
//! store that was damaged meanwhile.

use super::grid::{Grid, dispatcher, reserved};
use super::process::{Answer, Process, until};

#[test]
fn a_store_is_verified_once_its_dispatcher_is_gone_and_a_damaged_one_is_refused_with_9() {
    let mut grid = Grid::with_workers(&["hash"]);
    grid.call(&["send", "hash", &"x".repeat(1_000)]).succeeds();
    let dir = grid.data_dir().to_str().unwrap().to_owned();
    let verify = |more: &[&str]| -> Answer {
        Process::start(&[&["store", "verify", "--data-dir", &dir], more].concat()).answer()
    };
    verify(&[]).is_refused_call(8, &["in use by process", &grid.dispatcher.id().to_string()]);

    grid.dispatcher.kill();
    let killed = verify(&[]);
    let told = killed.succeeds();
    assert!(told.contains(" is sound; it was not closed in good order"), "{told}");
    assert!(told.lines().any(|line| line.starts_with("payloads  1 ")), "{told}");

    grid.crash_dispatcher();
    grid.dispatcher.terminate();
    until("closed", || (verify(&[]).code != Some(8)).then_some(()));
    let summary = verify(&["-o", "json"]);
    let summary: serde_json::Value = serde_json::from_str(summary.succeeds()).unwrap();
    assert_eq!((&summary["sound"], &summary["closed"]), (&true.into(), &true.into()), "{summary}");
    assert_eq!(summary["tables"][0]["name"], "tasks", "{summary}");
    assert_eq!(summary["tables"][0]["records"], 1, "{summary}");

    let file = grid.data_dir().join("taskgrid.redb");
    let mut bytes = std::fs::read(&file).unwrap();
    let place = bytes.windows(1_000).position(|bytes| bytes == [b'x'; 1_000]).unwrap();
    bytes[place + 500] ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    let damaged = verify(&[]);
    assert_eq!(damaged.code, Some(9), "{damaged:?}");
    for told in
        ["damaged: record 1 of table payloads: its checksum does not match\n", " is damaged\n"]
    {
        assert!(damaged.stdout.contains(told), "{told} is not in {damaged:?}");
    }
    for told in ["error: the store is damaged: ", "hint: put back a copy of the directory"] {
        assert!(damaged.stderr.contains(told), "{told} is not in {damaged:?}");
    }
    let summary: serde_json::Value = serde_json::from_str(&verify(&["-o", "json"]).stdout).unwrap();
    assert_eq!((&summary["sound"], &summary["damage_count"]), (&false.into(), &2.into()));
    assert!(std::fs::read(&file).unwrap() == bytes, "it was changed");

    let refused = dispatcher(reserved(), grid.nameservice_addr, grid.data_dir(), &[]).answer();
    refused.is_refused(9, &["the store is damaged", "put back a copy"]);
    assert!(refused.stderr.contains("hint: `taskgrid store verify`"), "{refused:?}");
}

#[test]
fn a_directory_without_a_store_is_refused_with_2() {
    let dir = tempfile::tempdir().unwrap();
    let answer = Process::start(&["store", "verify", "--data-dir", dir.path().to_str().unwrap()]);
    answer.answer().is_refused_call(2, &["there is no store in"]);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}
