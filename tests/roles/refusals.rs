//! What is refused: one line says why and names the thing, the exit code is the one of
//! the manual, and nothing is left behind.

use std::net::TcpListener;

use super::grid::{Grid, TYPES, dispatcher, reserved};
use super::process::{Process, until};

#[test]
fn wrong_payloads_and_types_are_refused_with_2() {
    let grid = Grid::with_workers(&TYPES);
    for (name, payload, words) in [
        ("sum", "[1,", &["payload", "JSON"][..]),
        ("sum", r#"["a"]"#, &["payload", "/0"]),
        ("sum", "7", &["payload", "array"]),
        ("wait", "-1", &["payload", "-1"]),
        ("wait", "x", &["payload", "x"]),
    ] {
        grid.call(&["send", name, payload]).is_refused_call(2, words);
    }
    // Until all workers have been heard of, the call waits, and says so.
    let unknown = ["send", "hsah", "text"];
    grid.call(&unknown).is_refused(2, &["hsah", "did you mean \"hash\""]);
    grid.call(&unknown).is_refused_call(2, &["hsah", "did you mean \"hash\""]);
    let reversed = grid.begin(&["send", "reverse", "-"], b"\xff\xfe").answer();
    reversed.is_refused_call(2, &["payload", "UTF-8"]);
    grid.is_empty();
    assert_eq!(grid.call(&["list", "--limit", "0"]).succeeds().lines().count(), 1, "a header");
}

#[test]
fn payloads_over_the_limit_are_refused_with_2_and_the_limit() {
    let mut grid = Grid::start(&["--max-payload", "1MiB"]);
    grid.worker("hash", &[]);
    grid.wait_for_workers("hash", 1);
    let sized = |bytes: usize| grid.begin(&["send", "hash", "-"], &vec![b'x'; bytes]).answer();
    sized(1 << 20).succeeds();
    // A byte too many, more than a message may have, and more than any may have.
    sized((1 << 20) + 1).is_refused_call(2, &["1048577 bytes", "1048576"]);
    sized(16 << 20).is_refused_call(2, &["too large", "16777"]);
    sized((64 << 20) + 1).is_refused_call(2, &["stdin", "64 MiB"]);

    // Among others it is a bad line, and stops no other.
    let lines = [&b"a\n"[..], &vec![b'x'; 16 << 20], b"\nb\n", &vec![b'x'; 2 << 20], b"\nc\n"];
    let submitted = grid.begin(&["submit", "--type", "hash", "-"], &lines.concat()).answer();
    assert_eq!(submitted.code, Some(2), "{}", submitted.stderr);
    assert_eq!(submitted.stdout.lines().count(), 3, "{}", submitted.stderr);
    for told in ["error: line 2: too large", "error: line 4: ", "3 completed, 2 bad lines"] {
        assert!(submitted.stderr.contains(told), "{told} is not in {}", submitted.stderr);
    }
    grid.is_empty();
}

#[test]
fn unknown_and_expired_ids_are_refused_with_3() {
    let mut grid = Grid::start(&["--retain", "500ms"]);
    grid.worker("hash", &[]);
    grid.wait_for_workers("hash", 1);
    for verb in ["result", "status", "cancel", "retry", "watch"] {
        grid.call(&[verb, "999999"]).is_refused_call(3, &["999999", "no task"]);
    }
    let id = grid.send(&["hash", "x"]);
    let expired = until("expired", || {
        let answer = grid.call(&["result", &id]);
        (answer.code != Some(0)).then_some(answer)
    });
    expired.is_refused_call(3, &[&format!("task {id}"), "expired"]);
    for verb in ["status", "cancel", "retry", "watch"] {
        grid.call(&[verb, &id]).is_refused_call(3, &[&format!("task {id}"), "expired"]);
    }
    grid.is_empty();
}

#[test]
fn the_port_of_another_role_ends_with_2() {
    let grid = Grid::start(&[]);
    let nameservice = grid.nameservice_addr.to_string();
    let answer = Process::start(&["client", "types", "--dispatcher", &nameservice]).answer();
    answer.is_refused_call(2, &["is no dispatcher", "the port of another role?"]);
}

#[test]
fn a_dispatcher_that_is_not_there_ends_with_5() {
    let nowhere = reserved().to_string();
    for verb in [&["send", "hash", "x"][..], &["types"], &["result", "1"], &["watch"], &["list"]] {
        let flags = ["client", "--patience", "0s", "--dispatcher", &nowhere];
        Process::start(&[&flags, verb].concat()).answer().is_refused_call(5, &[&nowhere]);
    }
}

#[test]
fn a_dispatcher_that_does_not_know_the_type_yet_ends_with_6() {
    let dir = tempfile::tempdir().unwrap();
    let at = reserved();
    // It has not heard of the nameservice, so any type may be there.
    let dispatcher = dispatcher(at, reserved(), dir.path(), &[]);
    dispatcher.addr();
    let at = at.to_string();
    let flags = ["client", "--patience", "0s", "--dispatcher", &at, "send", "hash", "x"];
    let answer = Process::start(&flags).answer();
    answer.is_refused_call(6, &[&at, "not ready", "\"hash\" is not known yet"]);
}

#[test]
fn a_port_in_use_ends_every_role_with_8() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let port = taken.local_addr().unwrap().port().to_string();
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("data").display().to_string();
    for role in [
        &["nameservice"][..],
        &["dispatcher", "--data-dir", &data_dir],
        &["worker", "--type", "hash"],
    ] {
        let started = Process::start(&[role, &["--port", &port]].concat());
        started.answer().is_refused(8, &[&address, "in use"]);
    }
    assert!(!dir.path().join("data").exists(), "nothing was made for what did not start");
}

#[test]
fn a_data_directory_in_use_ends_with_8_and_one_that_cannot_be_with_2() {
    let grid = Grid::start(&[]);
    let taken = grid.data_dir().display().to_string();
    let with =
        |dir: &str| Process::start(&["dispatcher", "--port", "0", "--data-dir", dir]).answer();
    with(&taken).is_refused(8, &[&taken, "in use"]);
    // Not even root can make a directory below a file.
    let file = grid.data_dir().join("file");
    std::fs::write(&file, b"kept").unwrap();
    let below = file.join("data").display().to_string();
    with(&below).is_refused(2, &[&below]);
    with(&file.display().to_string()).is_refused(2, &[&file.display().to_string()]);
    assert_eq!(std::fs::read(&file).unwrap(), b"kept");
}

#[test]
fn a_file_of_the_store_that_cannot_be_opened_is_named_as_what_it_is() {
    let dir = tempfile::TempDir::new().unwrap();
    // Not even root can open a directory to write into it.
    let notes = dir.path().join("SYNCED");
    std::fs::create_dir(&notes).unwrap();
    let data_dir = dir.path().display().to_string();
    let started = Process::start(&["dispatcher", "--port", "0", "--data-dir", &data_dir]);
    let told = format!("cannot use {} for the store: ", notes.display());
    started.answer().is_refused(2, &[&told]);
}

#[test]
fn a_worker_of_an_unknown_type_ends_with_2() {
    let started = Process::start(&["worker", "--type", "hsah", "--port", "0"]);
    started.answer().is_refused(2, &["hsah", "hash"]);
}
