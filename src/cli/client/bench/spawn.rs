//! A grid of processes of this very program: nameservice, dispatcher, workers, on
//! free ports, with a temporary directory. They end with this value, however it ends.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

use super::super::super::exit::{Exit, Failure};
use super::super::super::roles::Durability;
use crate::client::Client;
use crate::rpc::Network;

/// Longer than a role takes to listen, or to be found by another.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often it is looked whether workers are there.
const LOOK: Duration = Duration::from_millis(20);
/// Lines of a role that did not start, for whoever asks why.
const LINES: usize = 5;

/// Which grid to start.
#[derive(Debug, Clone)]
pub(super) struct Config {
    pub(super) type_name: String,
    pub(super) durability: Durability,
    pub(super) workers: u16,
    pub(super) slots: Option<u32>,
    pub(super) network: Network,
}

/// The processes. Whoever needs others ends first, the directory last.
pub(super) struct Grid {
    config: Config,
    workers: Vec<Role>,
    dispatcher: Role,
    nameservice: Role,
    client: Client,
    _directory: TempDir,
}

struct Role {
    child: Child,
    addr: SocketAddr,
}

impl Grid {
    /// Starts all of them; the dispatcher has a session with each worker.
    pub(super) async fn start(config: Config) -> Result<Self, Failure> {
        let directory = TempDir::new()?;
        let nameservice = Role::start(&["nameservice"], &config.network).await?;
        let (names, data) = (nameservice.addr.to_string(), directory.path().display().to_string());
        let durability = config.durability.as_str();
        let arguments = [
            "dispatcher",
            "--nameservice",
            &names,
            "--data-dir",
            &data,
            "--durability",
            durability,
        ];
        let dispatcher = Role::start(&arguments, &config.network).await?;
        let client = Client::connect_on(&config.network, &dispatcher.addr.to_string())?;
        let workers = Vec::new();
        let mut grid =
            Self { config, workers, dispatcher, nameservice, client, _directory: directory };
        grid.enlist_workers().await?;
        Ok(grid)
    }

    /// Where the dispatcher is.
    pub(super) fn dispatcher(&self) -> String {
        self.dispatcher.addr.to_string()
    }

    pub(super) fn durability(&self) -> &'static str {
        self.config.durability.as_str()
    }

    /// The dispatcher's resident memory, where the system tells it.
    pub(super) fn dispatcher_rss(&self) -> Option<u64> {
        let path = format!("/proc/{}/status", self.dispatcher.child.id());
        let status = std::fs::read_to_string(path).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kib * 1024)
    }

    /// Ends all workers.
    pub(super) async fn dismiss_workers(&mut self) -> Result<(), Failure> {
        self.workers.clear();
        self.until_served_by(0).await
    }

    /// Starts all workers.
    pub(super) async fn enlist_workers(&mut self) -> Result<(), Failure> {
        let names = self.nameservice.addr.to_string();
        let slots = self.config.slots.map(|slots| slots.to_string());
        let mut arguments =
            vec!["worker", "--type", &self.config.type_name, "--nameservice", &names];
        if let Some(slots) = &slots {
            arguments.extend(["--slots", slots]);
        }
        for _ in 0..self.config.workers {
            self.workers.push(Role::start(&arguments, &self.config.network).await?);
        }
        self.until_served_by(self.config.workers).await
    }

    async fn until_served_by(&self, workers: u16) -> Result<(), Failure> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let types = self.client.stats().await?.types;
            let name = Some(&self.config.type_name);
            let served = types.iter().find(|stats| stats.r#type.as_ref().map(|t| &t.name) == name);
            if served.map_or(0, |stats| stats.workers) == u32::from(workers) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let told = format!("the spawned grid has not the {workers} workers it should have");
                return Err(Failure::new(Exit::Internal, told));
            }
            sleep(LOOK).await;
        }
    }
}

impl Role {
    /// Starts a role on a free port, and waits until it listens.
    async fn start(arguments: &[&str], network: &Network) -> Result<Self, Failure> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["--log-format", "text", "--log-level", "info"]).args(arguments);
        command.args(["--port", "0"]).env_clear();
        if *network == Network::Tcp {
            command.arg("--tcp-only");
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let (sender, told) = oneshot::channel();
        if let Some(stderr) = child.stderr.take() {
            thread::Builder::new().name("log".to_owned()).spawn(move || read(stderr, sender))?;
        }
        let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
        // From here on it ends with this value.
        let mut role = Self { child, addr: unknown };
        let name = arguments.first().copied().unwrap_or_default();
        let failure = |told: String| {
            Failure::new(Exit::Internal, format!("the spawned {name} does not listen: {told}"))
        };
        role.addr = match timeout(PATIENCE, told).await {
            Ok(Ok(listens)) => listens.map_err(failure)?,
            Ok(Err(_)) => return Err(failure("it said nothing".to_owned())),
            Err(_) => {
                return Err(failure(format!(
                    "{} have passed",
                    humantime::format_duration(PATIENCE)
                )));
            }
        };
        Ok(role)
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        // One that has ended cannot be killed, which is fine.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Reads what a role logs to its end, and tells the first address, or, if there is
/// none, the last lines.
fn read(stderr: impl Read, sender: oneshot::Sender<Result<SocketAddr, String>>) {
    let mut sender = Some(sender);
    let mut last = VecDeque::new();
    for line in BufReader::new(stderr).lines().map_while(Result::ok) {
        let address = line.split_once("listening address=");
        if let Some(address) = address.and_then(|(_, rest)| rest.trim().parse().ok())
            && let Some(sender) = sender.take()
        {
            // Who waits no longer has said why.
            sender.send(Ok(address)).ok();
        }
        last.push_back(line);
        if last.len() > LINES {
            last.pop_front();
        }
    }
    if let Some(sender) = sender {
        sender.send(Err(Vec::from(last).join("; "))).ok();
    }
}
