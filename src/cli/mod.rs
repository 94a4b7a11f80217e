//! The command line: flags and environment become the roles' configurations, or a
//! call of the client. Nothing else reads flags or the environment, and nothing
//! else prints. What this module does not do: it knows no rule of the grid.

use std::ffi::OsStr;
use std::future::Future;
use std::time::Duration;

use clap::builder::Resettable;
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::runtime::{Builder, Runtime};

use crate::shutdown::Shutdown;
use crate::telemetry;

mod client;
mod demo;
mod exit;
mod flags;
mod health;
mod heap;
mod output;
mod payload;
mod roles;
mod signals;
mod store;

#[cfg(test)]
mod tests;

pub use exit::{Exit, Failure};

use flags::LogFlags;
use signals::Signals;

/// The cores of a machine on which a role is faster with one thread of the runtime.
const SMALL: usize = 2;

/// A distributed task system in one binary: durable queue, workers, results.
#[derive(Debug, Parser)]
#[command(name = "taskgrid", version, propagate_version = true, max_term_width = 100)]
#[command(after_help = "`taskgrid up --demo` starts a whole grid here and shows it at work.")]
pub struct Cli {
    #[command(flatten)]
    log: LogFlags,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Up(roles::Up),
    Nameservice(roles::Nameservice),
    Dispatcher(roles::Dispatcher),
    Worker(roles::Worker),
    Monitor(roles::Monitor),
    Client(client::ClientFlags),
    Health(health::Health),
    Store(store::StoreFlags),
    /// Print a completion script for a shell
    Completions {
        /// For which shell
        shell: clap_complete::Shell,
    },
}

impl Command {
    /// Whether more threads of the runtime would only stand in the way. A call needs one.
    /// So does a role on a small machine: what it stores and what its handlers compute
    /// have threads of their own, and a task that changes threads waits for each to wake.
    /// A whole grid is several roles.
    fn needs_one_thread(&self) -> bool {
        let is_small = || std::thread::available_parallelism().is_ok_and(|n| n.get() <= SMALL);
        match self {
            Self::Client(_) | Self::Health(_) | Self::Store(_) | Self::Completions { .. } => true,
            Self::Nameservice(_) | Self::Dispatcher(_) | Self::Worker(_) | Self::Monitor(_) => {
                is_small()
            }
            Self::Up(_) => false,
        }
    }
}

impl Cli {
    /// What the command line asks for. Help and version are printed here and come
    /// back as a silent failure with the exit code 0.
    pub fn read() -> Result<Self, Failure> {
        let matches = without_empty_variables(Self::command()).try_get_matches();
        let read = matches.and_then(|matches| Self::from_arg_matches(&matches));
        read.map_err(|refused| {
            let exit = if refused.use_stderr() { Exit::WrongInput } else { Exit::Done };
            // Where help cannot be printed, nobody reads.
            refused.print().ok();
            Failure::silent(exit)
        })
    }

    /// Starts logging as the flags say: a role tells what it does; a call, and a whole
    /// grid that says by itself where it is, only what is wrong.
    pub fn start_telemetry(&self) -> Result<(), Failure> {
        let usual = match &self.command {
            Command::Up(_)
            | Command::Client(_)
            | Command::Health(_)
            | Command::Store(_)
            | Command::Completions { .. } => "warn",
            Command::Nameservice(_)
            | Command::Dispatcher(_)
            | Command::Worker(_)
            | Command::Monitor(_) => "info",
        };
        // An environment may have it empty.
        let filter = self.log.level.as_deref().filter(|level| !level.is_empty()).unwrap_or(usual);
        Ok(telemetry::start(self.log.format.into(), filter, no_colour())?)
    }

    /// Does what was asked, to its end.
    pub fn run(self) -> Result<Exit, Failure> {
        heap::keep_what_is_freed();
        let runtime = runtime(self.command.needs_one_thread())?;
        let done = runtime.block_on(async {
            let signals = Signals::listen()?;
            match self.command {
                Command::Up(up) => role(signals, async |s| up.run(s).await).await,
                Command::Nameservice(flags) => role(signals, async |s| flags.run(s).await).await,
                Command::Dispatcher(flags) => role(signals, async |s| flags.run(s).await).await,
                Command::Worker(flags) => role(signals, async |s| flags.run(s).await).await,
                Command::Monitor(flags) => role(signals, async |s| flags.run(s).await).await,
                Command::Client(call) if call.ends_in_order() => {
                    role(signals, async |s| call.run(&s).await).await
                }
                Command::Client(call) => interruptible(signals, call.run(&Shutdown::new())).await,
                Command::Health(call) => interruptible(signals, call.run()).await,
                Command::Store(call) => interruptible(signals, call.run()).await,
                Command::Completions { shell } => completions(shell),
            }
        });
        // A thread that waits for somebody to read or to type holds nothing up.
        runtime.shutdown_background();
        done
    }
}

/// A variable that is set to nothing is as good as unset: an image or a compose file
/// sets it also where it has no value for it.
fn without_empty_variables(command: clap::Command) -> clap::Command {
    #[expect(clippy::disallowed_methods, reason = "this is the cli")]
    let is_empty = |name: &OsStr| std::env::var_os(name).is_some_and(|value| value.is_empty());
    command
        .mut_args(|arg| {
            if arg.get_env().is_some_and(is_empty) { arg.env(Resettable::Reset) } else { arg }
        })
        .mut_subcommands(without_empty_variables)
}

/// Whether `NO_COLOR` asks for none (<https://no-color.org>).
fn no_colour() -> bool {
    #[expect(clippy::disallowed_methods, reason = "this is the cli")]
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}

/// Threads that wait for the disk or a name, of which each read of the store wants one. What
/// is more waits in line: a burst of reads would have hundreds of them, and since all take
/// their turns, the least load keeps them all.
const BLOCKING_THREADS: usize = 16;

fn runtime(one_thread: bool) -> Result<Runtime, Failure> {
    let mut builder =
        if one_thread { Builder::new_current_thread() } else { Builder::new_multi_thread() };
    Ok(builder.enable_all().max_blocking_threads(BLOCKING_THREADS).build()?)
}

/// Signals that come so soon after the first are the same wish: `timeout` sends its own to a
/// process and then to the group that it is in.
const ONE_WISH: Duration = Duration::from_millis(250);

/// Runs a role: the first signal lets it drain, a second one ends it at once.
async fn role(
    mut signals: Signals,
    start: impl AsyncFnOnce(Shutdown) -> Result<Exit, Failure>,
) -> Result<Exit, Failure> {
    allow_descriptors();
    let shutdown = Shutdown::new();
    let role = start(shutdown.clone());
    let stop = async {
        signals.next().await;
        tracing::info!("told to stop: draining");
        shutdown.begin();
        tokio::time::sleep(ONE_WISH).await;
        signals.forget();
        signals.next().await;
    };
    tokio::select! {
        ended = role => ended,
        () = stop => Ok(Exit::Interrupted),
    }
}

/// Takes as many file descriptors as this process may have. The usual 1,024 are for
/// programs that wait with `select`, which finds no more.
fn allow_descriptors() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "cannot raise the limit of file descriptors");
    }
}

async fn interruptible(
    mut signals: Signals,
    call: impl Future<Output = Result<Exit, Failure>>,
) -> Result<Exit, Failure> {
    tokio::select! {
        done = call => done,
        () = signals.next() => Ok(Exit::Interrupted),
    }
}

fn completions(shell: clap_complete::Shell) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "taskgrid", &mut script);
    output::print(&script)?;
    Ok(Exit::Done)
}
