//! The binary as a person or a script meets it, where no grid is needed.

#![expect(clippy::unwrap_used, reason = "what goes wrong in a test shall end it")]

use std::io::{Read as _, Write as _};

use snapbox::cmd::{Command, cargo_bin};
use snapbox::str;

#[test]
fn the_help_shows_what_there_is() {
    taskgrid("--help").assert().success().stderr_eq("").stdout_eq(str![[r#"
A distributed task system in one binary: durable queue, workers, results

Usage: taskgrid [OPTIONS] <COMMAND>

Commands:
  up           Run a whole grid in this process: nameservice, dispatcher, workers and monitor
  nameservice  Run the nameservice: who serves which task type, and where
  dispatcher   Run a dispatcher: the durable queue, which pushes tasks to workers and keeps results
  worker       Run a worker of built-in task types
  monitor      Run the monitor: the whole grid in numbers, over HTTP and gRPC, and a page to look at
  client       Send tasks, wait for results, see how tasks stand
  health       Ask a role over HTTP how it is: 0 if well, 1 if not, 5 if it does not answer
  store        Look into a data directory that no dispatcher uses
  completions  Print a completion script for a shell
  help         Print this message or the help of the given subcommand(s)

Options:
  -h, --help     Print help
  -V, --version  Print version

Logging:
      --log-format <FORMAT>  How log lines look on stderr: text or json [env: TASKGRID_LOG_FORMAT=]
                             [default: text]
      --log-level <LEVEL>    What to log: error, warn, info, debug, trace, or target=level,…
                             [default: info for roles, warn for the client] [env:
                             TASKGRID_LOG_LEVEL=]

`taskgrid up --demo` starts a whole grid here and shows it at work.

"#]]);
}

#[test]
fn without_a_command_the_help_is_an_error() {
    taskgrid("").assert().code(2).stdout_eq("");
}

#[test]
fn wrong_usage_ends_with_2_and_says_why() {
    taskgrid("client send sum [1] --priority 10").assert().code(2).stdout_eq("").stderr_eq(str![[
        r#"
error: invalid value '10' for '--priority <N>': 10 is not in 0..=9

For more information, try '--help'.

"#
    ]]);
}

#[test]
fn a_send_without_a_grid_ends_with_5_and_a_hint() {
    // Nobody listens on a port that was let go again.
    let addr = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    taskgrid(&format!("client send sum [1,2,3] --patience 0s --dispatcher {addr}"))
        .assert()
        .code(5)
        .stdout_eq("")
        .stderr_eq(str![[r#"
error: cannot reach the dispatcher at 127.0.0.1:[..]: Connection refused (os error 111)
hint: is the grid up? `taskgrid up` starts one here; --dispatcher says where it is

"#]]);
}

#[test]
fn an_address_that_is_none_ends_with_2() {
    taskgrid("client types --dispatcher nonsense").assert().code(2).stdout_eq("").stderr_eq(str![
        [r#"
error: "nonsense" is no address of a server: it names no port; it looks like http://host:port

"#]
    ]);
}

#[test]
fn an_address_that_is_none_leaves_a_dispatchers_data_directory_alone() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().to_str().unwrap();
    taskgrid(&format!("dispatcher --port 0 --nameservice nonsense --data-dir {data}"))
        .assert()
        .code(2)
        .stderr_eq("error: \"nonsense\" is no address of a server: [..]\n");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_host_of_another_machine_ends_with_2() {
    // Of the addresses that are nobody's (RFC 5737).
    taskgrid("nameservice --host 192.0.2.7 --insecure --port 0").assert().code(2).stderr_eq(str![
        [r#"
error: cannot listen on 192.0.2.7:0: Cannot assign requested address (os error 99)
hint: --host takes an address of this machine, or 0.0.0.0 for all it has

"#]
    ]);
}

#[test]
fn a_file_that_is_not_there_ends_with_2() {
    taskgrid("client submit nowhere.ndjson").assert().code(2).stdout_eq("").stderr_eq(str![[r#"
error: cannot read nowhere.ndjson: No such file or directory (os error 2)

"#]]);
    taskgrid("client send sum @nowhere.json").assert().code(2).stdout_eq("").stderr_eq(str![[r#"
error: cannot read nowhere.json: No such file or directory (os error 2)
hint: @ names a file, - is stdin; text that begins with @ is written @@

"#]]);
}

#[test]
fn a_log_level_that_is_none_ends_with_2() {
    taskgrid("client types --log-level taskgrid=loud").assert().code(2).stdout_eq("").stderr_eq(
        str![[r#"
error: "taskgrid=loud" is no log level: try info, debug, or info,taskgrid=debug

"#]],
    );
}

#[test]
fn flags_have_environment_variables() {
    taskgrid("client types --patience 0s")
        .env("TASKGRID_DISPATCHER", "elsewhere")
        .assert()
        .code(2)
        .stderr_eq("error: \"elsewhere\" is no address[..]\n");
}

#[test]
fn an_empty_variable_counts_as_unset() {
    taskgrid("worker --type hsah")
        .env("TASKGRID_WORKER_PORT", "")
        .env("TASKGRID_DRAIN_TIMEOUT", "")
        .env("TASKGRID_LOG_FORMAT", "")
        .assert()
        .code(2)
        .stderr_eq("error: \"hsah\" is no built-in[..]\n");
    let without_a_type = taskgrid("worker").env("TASKGRID_WORKER_TYPE", "").output().unwrap();
    let told = String::from_utf8_lossy(&without_a_type.stderr);
    assert!(told.contains("not provided:\n  --type <TYPE>"), "{told}");
}

#[test]
fn a_role_that_is_well_passes_its_health_check() {
    let url = answering("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok\n");
    taskgrid(&format!("health {url}")).assert().success().stdout_eq("").stderr_eq("");
    let url = answering("HTTP/1.1 204 No Content\r\n\r\n");
    taskgrid(&format!("health {url}")).assert().success().stdout_eq("").stderr_eq("");
}

#[test]
fn a_role_that_is_not_well_fails_its_health_check_and_says_why() {
    let url = answering("HTTP/1.1 503 Service Unavailable\r\n\r\n{\"missing\":\"\x1b[1mx\"}\nmore");
    taskgrid(&format!("health {url}"))
        .assert()
        .code(1)
        .stdout_eq("")
        .stderr_eq("error: [..] answered 503 Service Unavailable: {\"missing\":\" [1mx\"}\n");
    // Whatever length the line has, its beginning is enough.
    let endless = format!("HTTP/1.1 500 Oh\r\n\r\n{}", "x".repeat(1 << 20));
    let told = taskgrid(&format!("health {}", answering(&endless))).output().unwrap();
    assert_eq!((told.status.code(), told.stderr.len() < 1_000), (Some(1), true));
    // A redirection is an answer, and not that of a role that is well.
    let url = answering("HTTP/1.1 302 Found\r\nlocation: /\r\ncontent-length: 0\r\n\r\n");
    taskgrid(&format!("health {url}")).assert().code(1).stderr_eq("error: [..] answered 302[..]\n");
}

#[test]
fn a_health_check_that_nobody_answers_ends_with_5() {
    // Nobody listens; one who hangs up; one who speaks something else; one who is silent.
    let addr = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let never = format!("http://{}/ --timeout 20ms", silent.local_addr().unwrap());
    for url in [format!("http://{addr}/"), answering(""), answering("SSH-2.0\r\n"), never] {
        taskgrid(&format!("health {url}"))
            .assert()
            .code(5)
            .stdout_eq("")
            .stderr_eq("error: no answer from http://127.0.0.1:[..]: [..]\n");
    }
}

#[test]
fn a_health_check_of_what_is_no_url_ends_with_2() {
    for url in
        ["nonsense", "/readyz", "127.0.0.1:8080", "https://127.0.0.1/", "http://:80/", "http:///x"]
    {
        let told = taskgrid(&format!("health {url}")).output().unwrap();
        let stderr = String::from_utf8_lossy(&told.stderr);
        assert_eq!(told.status.code(), Some(2), "{url}: {stderr}");
        assert!(stderr.contains("it looks like http://host:port/path"), "{url}: {stderr}");
    }
}

#[test]
fn the_version_and_the_completions_are_printed() {
    let version = format!("taskgrid {}\n", env!("CARGO_PKG_VERSION"));
    taskgrid("--version").assert().success().stdout_eq(version);
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = taskgrid(&format!("completions {shell}")).output().unwrap();
        assert!(script.status.success() && script.stdout.len() > 1_000, "{shell}");
    }
}

#[test]
fn an_empty_input_is_no_task_and_no_failure() {
    taskgrid("client submit -")
        .stdin("\n\n")
        .assert()
        .success()
        .stdout_eq("")
        .stderr_eq("0 stored\n");
}

/// The binary with these arguments, and nothing of this environment that it reads.
fn taskgrid(arguments: &str) -> Command {
    let command = Command::new(cargo_bin!("taskgrid")).args(arguments.split_whitespace());
    ["TASKGRID_DISPATCHER", "TASKGRID_PATIENCE", "TASKGRID_LOG_LEVEL", "TASKGRID_LOG_FORMAT"]
        .into_iter()
        .fold(command, Command::env_remove)
}

/// The URL of a server that gives this answer to the first who asks, and hangs up.
fn answering(answer: &str) -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/readyz", listener.local_addr().unwrap());
    let answer = answer.to_owned();
    std::thread::spawn(move || {
        let (mut peer, _) = listener.accept().unwrap();
        let mut asked = Vec::new();
        while !asked.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            peer.read_exact(&mut byte).unwrap();
            asked.push(byte[0]);
        }
        // Who has read enough may have hung up before.
        peer.write_all(answer.as_bytes()).ok();
    });
    url
}
