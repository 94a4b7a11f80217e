//! The workers of the campaigns: processes of the campaigns' own executable, which use
//! the library as anybody would, and write down each execution as it begins and ends.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use bytes::Bytes;
use clap::Parser;
use futures_util::future::try_join_all;
use rustix::process::{Signal, getpid, kill_process};
use taskgrid::rpc::Listen;
use taskgrid::shutdown::Shutdown;
use taskgrid::telemetry;
use taskgrid::worker::{Config, Context, Error, Failure, Worker};

use super::history::{Fact, How, Recorder};
use super::process::Process;
use super::work::{self, Deed, Work};

/// The first argument of a process that is a worker.
pub(crate) const WORD: &str = "serve-a-campaign";

/// What a worker is told.
#[derive(Debug, Clone, Parser)]
#[command(no_binary_name = true)]
pub(crate) struct Options {
    /// Where to register.
    #[arg(long)]
    pub(crate) nameservice: String,
    /// The file for what it sees.
    #[arg(long)]
    pub(crate) history: PathBuf,
    /// Names the process in the history; no two have the same.
    #[arg(long)]
    pub(crate) name: String,
    /// Its id in the grid, unless it is the name.
    #[arg(long)]
    pub(crate) id: Option<String>,
    /// Where others reach it, unless that is where it listens.
    #[arg(long)]
    pub(crate) advertise: Option<String>,
    #[arg(long, default_value = "127.0.0.1")]
    pub(crate) host: String,
    #[arg(long, default_value_t = 0)]
    pub(crate) port: u16,
    #[arg(long, default_value_t = 2)]
    pub(crate) slots: u32,
    /// So many workers in this one process, each with a number behind its name.
    #[arg(long, default_value_t = 1)]
    pub(crate) many: u32,
    /// What it logs, beside its address.
    #[arg(long)]
    pub(crate) log_level: Option<String>,
}

impl Options {
    pub(crate) fn new(nameservice: SocketAddr, history: &Path, name: &str) -> Self {
        Self {
            nameservice: nameservice.to_string(),
            history: history.to_owned(),
            name: name.to_owned(),
            id: None,
            advertise: None,
            host: "127.0.0.1".to_owned(),
            port: 0,
            slots: 2,
            many: 1,
            log_level: None,
        }
    }

    /// The names of all workers of the process.
    pub(crate) fn names(&self) -> impl Iterator<Item = String> {
        let name = |number: u32| {
            if self.many > 1 { format!("{}-{number}", self.name) } else { self.name.clone() }
        };
        (0..self.many).map(name)
    }

    /// Starts a worker.
    pub(crate) fn start(&self) -> Process {
        Process::spawn(self.command(), b"")
    }

    /// What starts it.
    pub(crate) fn command(&self) -> Command {
        let program = std::env::current_exe().expect("the path of this program is known");
        let mut command = Command::new(program);
        command.env_clear().args([WORD, "--nameservice", &self.nameservice]);
        command.arg("--history").arg(&self.history);
        command.args(["--name", &self.name, "--host", &self.host]);
        command.args(["--port", &self.port.to_string(), "--slots", &self.slots.to_string()]);
        command.args(["--many", &self.many.to_string()]);
        if let Some(id) = &self.id {
            command.args(["--id", id]);
        }
        if let Some(address) = &self.advertise {
            command.args(["--advertise", address]);
        }
        if let Some(level) = &self.log_level {
            command.args(["--log-level", level]);
        }
        command
    }
}

/// What the process of a worker does.
pub(crate) fn main(arguments: impl Iterator<Item = String>) -> ExitCode {
    let options = Options::parse_from(arguments);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime can be built");
    match runtime.block_on(serve(options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(options: Options) -> Result<(), Box<dyn std::error::Error>> {
    if let Some(level) = &options.log_level {
        telemetry::start(telemetry::LogFormat::Text, level, true)?;
    }
    let recorder = Recorder::append_to(&options.history)?;
    let mut workers = Vec::new();
    for name in options.names() {
        workers.push(bind(&options, name, recorder.clone()).await?);
    }
    let last = workers.last().ok_or("a process of no workers")?;
    eprintln!("listening address={}", last.addr());
    let shutdown = Shutdown::new();
    let told = shutdown.clone();
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::spawn(async move {
        terminate.recv().await;
        told.begin();
    });
    try_join_all(workers.into_iter().map(|worker| worker.run(shutdown.clone()))).await?;
    Ok(())
}

async fn bind(options: &Options, name: String, recorder: Recorder) -> Result<Worker, Error> {
    let config = Config {
        listen: Listen { host: options.host.clone(), port: options.port, ..Listen::default() },
        advertise: options.advertise.clone(),
        nameservices: vec![options.nameservice.clone()],
        slots: Some(options.slots),
        id: Some(options.id.clone().unwrap_or_else(|| name.clone())),
        ..Config::default()
    };
    let handler = move |context: Context, payload: Bytes| {
        let (recorder, worker) = (recorder.clone(), name.clone());
        async move { run(&recorder, worker, &context, &payload).await }
    };
    Worker::builder().handle(work::TYPE, handler).bind(config).await
}

/// One execution.
async fn run(
    recorder: &Recorder,
    worker: String,
    context: &Context,
    payload: &Bytes,
) -> Result<Bytes, Failure> {
    let work: Work = String::from_utf8_lossy(payload).parse()?;
    let nonce = format!("{:016x}", rand::random::<u64>());
    let token = context.token();
    recorder.write(Fact::Started {
        nonce: nonce.clone(),
        task: context.task_id(),
        name: work.name.clone(),
        attempt: context.attempt(),
        token: (token.epoch.boot, token.epoch.nonce, token.sequence),
        worker,
    });
    let ended = |how| recorder.write(Fact::Ended { nonce: nonce.clone(), how });
    let is_first = context.attempt() == 1;
    match work.deed {
        Deed::Take(millis) if millis > 0 => {
            let span = Duration::from_millis(millis);
            if tokio::time::timeout(span, context.cancelled()).await.is_ok() {
                ended(How::Failed);
                return Err(Failure::error("told to stop"));
            }
        }
        Deed::Fail(millis) if is_first => {
            ended(How::Failed);
            let span = Duration::from_millis(millis);
            return Err(Failure::error("as it was asked to").retry_after(span));
        }
        Deed::Panic if is_first => {
            ended(How::Failed);
            panic!("as it was asked to");
        }
        Deed::Kill => {
            kill_process(getpid(), Signal::KILL)?;
            std::future::pending::<()>().await;
        }
        Deed::Give(bytes) => {
            ended(How::Failed);
            return Ok(vec![b'.'; bytes].into());
        }
        Deed::Take(_) | Deed::Fail(_) | Deed::Panic => {}
    }
    ended(How::Done);
    Ok(work::result(payload, &nonce).into())
}
