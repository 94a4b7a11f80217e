//! The monitor beside a real grid, and what every role tells of itself.

use std::net::SocketAddr;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use taskgrid::wire::v1::GetStatsRequest;
use taskgrid::wire::v1::monitor_client::MonitorClient;

use super::grid::{Grid, TYPES, dispatcher, nameservice, reserved, worker};
use super::http::{self, get, http_addr};
use super::process::{Process, taskgrid, until};

#[test]
fn the_numbers_agree_as_json_as_metrics_and_over_grpc() {
    let mut grid = Grid::with_workers(&TYPES);
    let monitor = Monitor::of(&grid);
    let line = |number: usize| {
        let name = TYPES[number % 4];
        let payload = if name == "sum" { json!("[1,2]") } else { json!("text") };
        json!({ "type": name, "payload": payload }).to_string()
    };
    let tasks = (0..500).map(line).collect::<Vec<_>>().join("\n");
    grid.begin(&["submit", "-"], tasks.as_bytes()).answer().succeeds();
    // One that fails, one that is cancelled, one that waits.
    let failing = ["send", "wait", "5", "--timeout", "10ms", "--max-attempts", "1"];
    grid.call(&failing).is_refused_call(1, &["timeout"]);
    let cancelled = grid.send(&["wait", "60", "--delay", "1h"]);
    grid.call(&["cancel", &cancelled]).succeeds();
    grid.workers.clear();
    grid.send(&["wait", "1"]);

    let stats = monitor.stats();
    let told = |name: &str| stats[name].as_u64().unwrap();
    assert_eq!((told("completed_tasks"), told("failed_tasks")), (500, 1));
    assert_eq!((told("cancelled_tasks"), told("submitted_tasks")), (1, 503));
    assert_eq!((told("pending_tasks") + told("running_tasks"), told("attempt_errors")), (1, 1));
    let by_type = stats["types"].as_array().unwrap();
    let completed = by_type.iter().map(|row| row["completed"].as_u64().unwrap());
    assert_eq!(completed.sum::<u64>(), 500);

    let metrics = monitor.get("/metrics");
    for (name, field) in [
        ("taskgrid_tasks_submitted_total", "submitted_tasks"),
        ("taskgrid_tasks_completed_total", "completed_tasks"),
        ("taskgrid_tasks_failed_total", "failed_tasks"),
        ("taskgrid_tasks_cancelled_total", "cancelled_tasks"),
        ("taskgrid_attempt_errors_total", "attempt_errors"),
    ] {
        assert_eq!(sum(&metrics, name), told(field), "{name}");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let over_grpc = runtime.block_on(async {
        let url = format!("http://{}", monitor.process.addr());
        let mut client = MonitorClient::connect(url).await.unwrap();
        client.get_stats(GetStatsRequest {}).await.unwrap().into_inner().stats.unwrap()
    });
    assert_eq!(over_grpc.completed_tasks, 500);
    assert_eq!((over_grpc.failed_tasks, over_grpc.submitted_tasks), (1, 503));
    let page = monitor.get("/");
    assert!(page.contains("<dd>500</dd>") && page.contains("10ms"), "{page}");
}

#[test]
fn a_task_is_read_by_its_id_and_waited_for() {
    let grid = Grid::with_workers(&["wait"]);
    let monitor = Monitor::of(&grid);
    let id = grid.send(&["wait", "100ms"]);
    let task = http::json(monitor.http, &format!("/tasks/{id}?wait=30s"));
    assert_eq!(
        (task["status"].as_str(), task["result"].as_str()),
        (Some("completed"), Some("waited 100ms"))
    );
    assert_eq!(task["story"][0]["attempt"], 1);
    for (path, status, words) in [
        ("/tasks/999999999", 404, "there is no task 999999999"),
        ("/tasks/one", 400, "no id of a task"),
        ("/tasks/1?wait=long", 400, "no duration"),
        ("/tasks/1?wait=1s&wait=2s", 400, r#"{"error":"Failed to deserialize query"#),
        ("/assets/../stats", 404, ""),
        ("/nothing", 404, ""),
    ] {
        let (found, body) = get(monitor.http, path);
        assert_eq!(found, status, "{path}");
        assert!(body.contains(words), "{path}: {body}");
    }
}

#[test]
fn what_dies_is_named_and_what_comes_back_is_seen() {
    let grid_addrs = (reserved(), reserved());
    let mut names = nameservice(grid_addrs.0);
    let dir = tempfile::tempdir().unwrap();
    let flags: [String; 0] = [];
    let mut tasks = dispatcher(grid_addrs.1, grid_addrs.0, dir.path(), &flags);
    let mut hash = worker("hash", grid_addrs.0, &["--id", "hash-1"]);
    let monitor = Monitor::at(grid_addrs.0, grid_addrs.1);
    monitor.until_well();

    names.kill();
    let missing = monitor.until_missing("the nameservice at");
    assert_eq!(missing.len(), 1, "{missing:?}");
    assert_eq!(monitor.stats()["active_workers"], 1, "its worker goes on");
    names = nameservice(grid_addrs.0);
    monitor.until_well();

    tasks.kill();
    let missing = monitor.until_missing("the dispatcher at");
    assert!(missing[0].contains("refused"), "{missing:?}");
    let (status, problem) = get(monitor.http, "/tasks/1");
    assert_eq!(status, 503, "{problem}");
    tasks = dispatcher(grid_addrs.1, grid_addrs.0, dir.path(), &flags);
    monitor.until_well();

    hash.kill();
    monitor.until_missing("no worker serves the type hash");
    assert_eq!(monitor.stats()["active_workers"], 0);
    hash = worker("hash", grid_addrs.0, &["--id", "hash-1"]);
    monitor.until_well();
    drop((hash, tasks, names));
}

#[test]
fn every_role_tells_whether_it_is_ready_and_its_metrics() {
    let names = Process::start(&["nameservice", "--port", "0", "--http-port", "0"]);
    let names_addr = names.addr();
    let dir = tempfile::tempdir().unwrap();
    let port = ["--http-port".to_owned(), "0".to_owned()];
    let tasks = dispatcher("127.0.0.1:0".parse().unwrap(), names_addr, dir.path(), &port);
    let hash = worker("hash", names_addr, &["--http-port", "0"]);
    let monitor = Monitor::at(names_addr, tasks.addr());
    let roles = [
        (http_addr(&names), "taskgrid_registrations{health=\"healthy\"}"),
        (http_addr(&tasks), "taskgrid_tasks_completed_total{type=\"hash\"} 0"),
        (http_addr(&hash), "taskgrid_attempts_started_total{type=\"hash\"} 0"),
        (monitor.http, "taskgrid_source_up{role=\"dispatcher\""),
    ];
    monitor.until_well();
    for (addr, line) in roles {
        assert_eq!(http::json(addr, "/healthz"), json!({ "alive": true }));
        until("ready", || (get(addr, "/readyz").0 == 200).then_some(()));
        let (status, metrics) = get(addr, "/metrics");
        assert_eq!(status, 200);
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
        assert!(metrics.contains("taskgrid_build_info{version="), "{metrics}");
        accepted_by_promtool(&metrics);
    }
}

#[test]
fn a_role_without_its_others_is_alive_and_not_ready() {
    let nobody = reserved();
    let dir = tempfile::tempdir().unwrap();
    let port = ["--http-port".to_owned(), "0".to_owned()];
    let tasks = dispatcher("127.0.0.1:0".parse().unwrap(), nobody, dir.path(), &port);
    let hash = worker("hash", nobody, &["--http-port", "0"]);
    let monitor = Monitor::at(nobody, reserved());
    for (addr, lacks) in [
        (http_addr(&tasks), "no task type is known"),
        (http_addr(&hash), "no nameservice knows this worker"),
        (monitor.http, "the dispatcher: it was never reached"),
    ] {
        assert_eq!(get(addr, "/healthz").0, 200);
        let (status, body) = get(addr, "/readyz");
        assert_eq!(status, 503);
        assert!(body.contains(lacks), "{body}");
    }
}

struct Monitor {
    process: Process,
    http: SocketAddr,
}

impl Monitor {
    fn of(grid: &Grid) -> Self {
        let monitor = Self::at(grid.nameservice_addr, grid.dispatcher_addr);
        monitor.until_well();
        monitor
    }

    fn at(nameservice: SocketAddr, dispatcher: SocketAddr) -> Self {
        let mut command = taskgrid(&["monitor", "--port", "0", "--http-port", "0"]);
        command.args(["--nameservice", &nameservice.to_string()]);
        command.args(["--dispatcher", &dispatcher.to_string()]);
        let process = Process::spawn(command, b"");
        let http = http_addr(&process);
        Self { process, http }
    }

    fn get(&self, path: &str) -> String {
        let (status, body) = get(self.http, path);
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    fn stats(&self) -> Value {
        http::json(self.http, "/stats")
    }

    /// Waits until everything is there, at least one worker with it.
    fn until_well(&self) {
        until("well", || {
            let stats = self.stats();
            let well = stats["missing"] == json!([]) && stats["active_workers"] != 0;
            well.then_some(())
        });
    }

    /// Waits until something is named as missing; gives all that is.
    fn until_missing(&self, words: &str) -> Vec<String> {
        until(words, || {
            let missing: Vec<String> =
                serde_json::from_value(self.stats()["missing"].clone()).unwrap();
            missing.iter().any(|line| line.contains(words)).then_some(missing)
        })
    }
}

/// The sum of a metric over its labels.
fn sum(metrics: &str, name: &str) -> u64 {
    let samples = metrics.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        rest.rsplit_once(' ').filter(|(labels, _)| labels.is_empty() || labels.starts_with('{'))
    });
    samples.map(|(_, value)| value.parse::<u64>().unwrap()).sum()
}

/// Prometheus' own checker of names and descriptions, where it is installed; where it
/// must be, `TASKGRID_TEST_PROMTOOL` says so.
fn accepted_by_promtool(metrics: &str) {
    let mut command = Command::new("promtool");
    command.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut checker = match command.stderr(Stdio::piped()).spawn() {
        Ok(checker) => checker,
        Err(error) => {
            #[expect(clippy::disallowed_methods, reason = "what is installed is no flag of tests")]
            let must = std::env::var_os("TASKGRID_TEST_PROMTOOL").is_some();
            assert!(!must, "promtool cannot be run: {error}");
            eprintln!("NOT RUN: promtool check metrics: {error}");
            return;
        }
    };
    std::io::Write::write_all(&mut checker.stdin.take().unwrap(), metrics.as_bytes()).unwrap();
    let found = checker.wait_with_output().unwrap();
    assert!(found.status.success(), "{found:?}");
}
