//! A grid of processes: a nameservice, a dispatcher with a directory of its own, and
//! workers, on free ports.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use taskgrid::testing::own_host;
use tempfile::TempDir;

use super::process::{Answer, Process, taskgrid, until};

/// The built-in types.
pub(crate) const TYPES: [&str; 5] = ["reverse", "sum", "hash", "upper", "wait"];

/// Waits are as short as roles allow without mistaking a busy machine for a lost one.
const TTL: &str = "1s";
const LEASE: &str = "1s";

pub(crate) struct Grid {
    /// Ends first: whoever waits for others is not there to complain.
    pub(crate) workers: Vec<Process>,
    pub(crate) dispatcher: Process,
    pub(crate) dispatcher_addr: SocketAddr,
    pub(crate) nameservice_addr: SocketAddr,
    flags: Vec<String>,
    data: PathBuf,
    /// Where the data is, if that ends with the grid.
    _dir: Option<TempDir>,
    nameservice: Option<Process>,
}

impl Grid {
    /// A nameservice, and a dispatcher with these further flags.
    pub(crate) fn start(flags: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().to_owned();
        Self { _dir: Some(dir), ..Self::start_in(data, flags) }
    }

    /// The same, with its data in a directory that outlives it.
    pub(crate) fn start_in(data: PathBuf, flags: &[&str]) -> Self {
        let nameservice = nameservice(own());
        let grid = Self::around(nameservice.addr(), data, flags);
        Self { nameservice: Some(nameservice), ..grid }
    }

    /// The same, with a nameservice that is there, and that somebody else keeps.
    pub(crate) fn around(nameservice_addr: SocketAddr, data: PathBuf, flags: &[&str]) -> Self {
        let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let dispatcher = dispatcher(own(), nameservice_addr, &data, &flags);
        let dispatcher_addr = dispatcher.addr();
        Self {
            workers: Vec::new(),
            dispatcher,
            dispatcher_addr,
            nameservice_addr,
            flags,
            data,
            _dir: None,
            nameservice: None,
        }
    }

    /// Its own nameservice.
    pub(crate) fn nameservice(&self) -> &Process {
        self.nameservice.as_ref().expect("it keeps its own")
    }

    /// The same, to end it and to put another one in its place.
    pub(crate) fn nameservice_mut(&mut self) -> &mut Process {
        self.nameservice.as_mut().expect("it keeps its own")
    }

    /// With a worker for each of these types, all of them ready.
    pub(crate) fn with_workers(types: &[&str]) -> Self {
        let mut grid = Self::start(&[]);
        for name in types {
            grid.worker(name, &[]);
        }
        for name in types {
            grid.wait_for_workers(name, 1);
        }
        grid
    }

    /// Adds a worker with these further flags.
    pub(crate) fn worker(&mut self, name: &str, flags: &[&str]) {
        let worker = worker(name, self.nameservice_addr, flags);
        worker.addr();
        self.workers.push(worker);
    }

    /// Waits until so many workers serve the type.
    pub(crate) fn wait_for_workers(&self, name: &str, count: u64) {
        until(&format!("{count} workers of {name}"), || {
            let workers = self.type_row(name)?["workers"].as_u64();
            (workers == Some(count)).then_some(())
        });
    }

    /// Kills the dispatcher, and starts it again as it was.
    pub(crate) fn crash_dispatcher(&mut self) {
        self.dispatcher.kill();
        self.dispatcher = Process::spawn(self.dispatcher_again(), b"");
        assert_eq!(self.dispatcher.addr(), self.dispatcher_addr);
    }

    /// What starts the dispatcher as it was, once it is gone.
    pub(crate) fn dispatcher_again(&self) -> Command {
        let (listen, nameservice) = (self.dispatcher_addr, self.nameservice_addr);
        dispatcher_command(listen, nameservice, &self.data, &self.flags)
    }

    /// What starts the nameservice as it was, once it is gone.
    pub(crate) fn nameservice_again(&self) -> Command {
        nameservice_command(self.nameservice_addr)
    }

    /// Where the dispatcher's data is.
    pub(crate) fn data_dir(&self) -> &Path {
        &self.data
    }

    /// Starts a call of the client.
    pub(crate) fn begin(&self, arguments: &[&str], stdin: &[u8]) -> Process {
        let dispatcher = self.dispatcher_addr.to_string();
        let mut command = taskgrid(&["client", "--dispatcher", &dispatcher]);
        command.args(arguments);
        Process::spawn(command, stdin)
    }

    /// A call of the client, to its end.
    pub(crate) fn call(&self, arguments: &[&str]) -> Answer {
        self.begin(arguments, b"").answer()
    }

    /// What a call of the client prints as JSON.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let answer = self.call(&[arguments, &["-o", "json"]].concat());
        serde_json::from_str(answer.succeeds()).unwrap()
    }

    /// Stores a task and gives its id.
    pub(crate) fn send(&self, arguments: &[&str]) -> String {
        let sent = self.call(&[&["send", "--detach"], arguments].concat());
        sent.succeeds().trim_end().to_owned()
    }

    /// The worker that runs a task, once one does.
    pub(crate) fn runner_of(&self, id: &str) -> String {
        until("running", || {
            let task = self.json(&["status", id]);
            let worker = task["worker"].as_str()?.to_owned();
            (task["status"] == "running").then_some(worker)
        })
    }

    /// The numbers of a type, once it is known.
    pub(crate) fn type_row(&self, name: &str) -> Option<Value> {
        let Value::Array(rows) = self.json(&["types"]) else { panic!("types are an array") };
        rows.into_iter().find(|row| row["type"] == name)
    }

    /// Nothing waits, and nothing runs.
    pub(crate) fn is_empty(&self) {
        for row in self.json(&["types"]).as_array().unwrap() {
            assert_eq!((row["pending"].as_u64(), row["running"].as_u64()), (Some(0), Some(0)));
        }
        for status in ["pending", "running"] {
            assert_eq!(self.json(&["list", "--status", status]), Value::Array(Vec::new()));
        }
    }
}

/// A dispatcher that keeps its data in `dir`.
pub(crate) fn dispatcher(
    listen: SocketAddr,
    nameservice: SocketAddr,
    dir: &Path,
    flags: &[String],
) -> Process {
    Process::spawn(dispatcher_command(listen, nameservice, dir, flags), b"")
}

fn dispatcher_command(
    listen: SocketAddr,
    nameservice: SocketAddr,
    dir: &Path,
    flags: &[String],
) -> Command {
    let (host, port) = (listen.ip().to_string(), listen.port().to_string());
    let mut command = taskgrid(&["dispatcher", "--host", &host, "--port", &port]);
    command.args(["--nameservice", &nameservice.to_string()]);
    if !flags.iter().any(|flag| flag == "--lease") {
        command.args(["--lease", LEASE]);
    }
    command.arg("--data-dir").arg(dir).args(flags);
    command
}

/// A worker of one type.
pub(crate) fn worker(name: &str, nameservice: SocketAddr, flags: &[&str]) -> Process {
    let mut command = taskgrid(&["worker", "--type", name, "--port", "0"]);
    command.args(["--nameservice", &nameservice.to_string()]).args(flags);
    Process::spawn(command, b"")
}

/// A nameservice at this address.
pub(crate) fn nameservice(listen: SocketAddr) -> Process {
    Process::spawn(nameservice_command(listen), b"")
}

/// An address of one's own, with any port: while its process is away nobody else takes it.
fn own() -> SocketAddr {
    SocketAddr::new(own_host().parse().unwrap(), 0)
}

fn nameservice_command(listen: SocketAddr) -> Command {
    let (host, port) = (listen.ip().to_string(), listen.port().to_string());
    taskgrid(&["nameservice", "--host", &host, "--port", &port, "--ttl", TTL])
}

/// An address where nobody listens, and where nobody else will before somebody is told
/// to.
///
/// On an address of its own every port is free, and no socket is opened to find one: a
/// process that another thread is starting at that moment would hold it a little longer.
pub(crate) fn reserved() -> SocketAddr {
    /// None that the system gives out by itself.
    const PORT: u16 = 20_052;
    let host = own_host();
    if cfg!(target_os = "linux") {
        SocketAddr::new(host.parse().unwrap(), PORT)
    } else {
        TcpListener::bind((host, 0)).unwrap().local_addr().unwrap()
    }
}
