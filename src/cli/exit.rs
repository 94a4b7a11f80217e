//! How the program ends: exit codes, and the one place where errors are printed.

use std::fmt;
use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;

use crate::{client, dispatcher, grid, monitor, nameservice, rpc, store, telemetry, worker};

/// The exit codes. A stable part of the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done and succeeded.
    Done,
    /// A task failed or was cancelled.
    TaskFailed,
    /// Wrong usage, or a payload or type that is refused as wrong.
    WrongInput,
    /// There is no such task, or it is no longer kept.
    NotFound,
    /// The time to wait has passed; the task goes on.
    TimedOut,
    /// The grid cannot be reached.
    Unreachable,
    /// Refused: try later.
    Refused,
    /// Not allowed.
    NotAllowed,
    /// A key, a port or a data directory is in use for something else.
    Conflict,
    /// The store is not what was written.
    Damaged,
    /// A bug, or a broken system.
    Internal,
    /// Stopped before its end: by Ctrl-C, by SIGTERM, or as nobody reads what it tells.
    Interrupted,
}

impl Exit {
    /// The number that the shell sees.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::TaskFailed => 1,
            Self::WrongInput => 2,
            Self::NotFound => 3,
            Self::TimedOut => 4,
            Self::Unreachable => 5,
            Self::Refused => 6,
            Self::NotAllowed => 7,
            Self::Conflict => 8,
            Self::Damaged => 9,
            Self::Internal => 70,
            Self::Interrupted => 130,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        exit.code().into()
    }
}

/// Why a command did not do what was asked, for a person and for the shell.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// Printed as `error: …`; nothing is printed when empty.
    pub message: String,
    /// Printed as `hint: …` below it.
    pub hint: Option<String>,
}

impl Failure {
    /// A failure with a message.
    pub fn new(exit: Exit, message: impl fmt::Display) -> Self {
        Self { exit, message: message.to_string(), hint: None }
    }

    /// A failure of which everything was said before.
    #[must_use]
    pub fn silent(exit: Exit) -> Self {
        Self { exit, message: String::new(), hint: None }
    }

    /// With the next step to take.
    #[must_use]
    pub fn hint(mut self, hint: impl fmt::Display) -> Self {
        self.hint = Some(hint.to_string());
        self
    }

    /// Prints it to stderr and gives the exit code.
    #[must_use]
    pub fn report(self) -> ExitCode {
        if !self.message.is_empty() {
            complain(&self.message);
        }
        if let Some(hint) = &self.hint {
            say("hint", "36", hint);
        }
        self.exit.into()
    }
}

/// Prints `error: …` to stderr: for what does not end the command at once.
pub(super) fn complain(message: &str) {
    say("error", "31", message);
}

fn say(label: &str, colour: &str, message: &str) {
    let mut stderr = io::stderr().lock();
    let line = if stderr.is_terminal() && !super::no_colour() {
        format!("\x1b[1;{colour}m{label}:\x1b[0m {message}\n")
    } else {
        format!("{label}: {message}\n")
    };
    // Where stderr is gone too, there is nobody left to tell.
    stderr.write_all(line.as_bytes()).ok();
}

impl From<client::Error> for Failure {
    fn from(error: client::Error) -> Self {
        use client::Error;
        let exit = match &error {
            Error::Unreachable { .. } => Exit::Unreachable,
            Error::NotReady { .. } | Error::Refused { .. } => Exit::Refused,
            Error::WrongInput { .. } | Error::TooLarge { .. } | Error::UnknownType { .. } => {
                Exit::WrongInput
            }
            Error::Conflict { .. } => Exit::Conflict,
            Error::NotFound { .. } | Error::Expired { .. } | Error::CursorTooOld { .. } => {
                Exit::NotFound
            }
            Error::TimedOut { .. } => Exit::TimedOut,
            Error::TaskFailed(_) | Error::TaskCancelled(_) => Exit::TaskFailed,
            Error::NotAllowed { .. } => Exit::NotAllowed,
            Error::Internal { .. } => Exit::Internal,
        };
        let failure = Self::new(exit, &error);
        match &error {
            Error::Unreachable { .. } => failure.hint(
                "is the grid up? `taskgrid up` starts one here; --dispatcher says where it is",
            ),
            Error::NotReady { .. } => {
                failure.hint("try again later; --patience says how long to go on trying")
            }
            Error::Refused { .. } => failure.hint("nothing was stored; try again later"),
            Error::Conflict { .. } => {
                failure.hint("a key names one batch: take another key for other tasks")
            }
            Error::TimedOut { id, .. } => {
                failure.hint(format!("it goes on: taskgrid client result {id}"))
            }
            Error::TaskFailed(task) | Error::TaskCancelled(task) => failure.hint(format!(
                "taskgrid client status {0} tells its story, taskgrid client retry {0} tries again",
                task.id
            )),
            Error::TooLarge { tasks, .. } if *tasks > 1 => {
                failure.hint("take smaller batches; the dispatcher's --max-payload sets the limit")
            }
            Error::TooLarge { .. } => failure.hint(
                "the dispatcher's --max-payload limits it; send the address of what is larger",
            ),
            Error::UnknownType { .. } => {
                failure.hint("a type is known once a worker has registered it: start one that does")
            }
            Error::NotFound { .. } => failure.hint("taskgrid client list shows what there is"),
            Error::Expired { .. } => failure.hint(
                "the dispatcher's --retain, --retain-tasks and --retain-bytes say what is kept",
            ),
            Error::CursorTooOld { .. } => failure
                .hint("taskgrid client list shows how tasks stand; a new watch begins from now"),
            Error::Internal { .. } => {
                failure.hint("a bug, or two versions: compare taskgrid --version here and there")
            }
            // Their messages say what would be right.
            Error::WrongInput { .. } | Error::NotAllowed { .. } => failure,
        }
    }
}

impl From<rpc::Error> for Failure {
    fn from(error: rpc::Error) -> Self {
        use rpc::Error;
        match &error {
            Error::AddressInUse { .. } => Self::new(Exit::Conflict, &error).hint(
                "another one may be running; end it, or start the role by itself with another \
                 --port or --http-port (0: any free one)",
            ),
            Error::NotLoopback { .. } | Error::Resolve { .. } | Error::BadUrl { .. } => {
                Self::new(Exit::WrongInput, &error)
            }
            Error::Listen { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Self::new(Exit::NotAllowed, &error).hint("ports from 1024 on are open to anybody")
            }
            Error::Listen { source, .. } if source.kind() == io::ErrorKind::AddrNotAvailable => {
                Self::new(Exit::WrongInput, &error)
                    .hint("--host takes an address of this machine, or 0.0.0.0 for all it has")
            }
            Error::Listen { .. } | Error::Serve(_) => Self::new(Exit::Internal, &error),
        }
    }
}

impl From<telemetry::Error> for Failure {
    fn from(error: telemetry::Error) -> Self {
        match &error {
            telemetry::Error::BadFilter { .. } => Self::new(Exit::WrongInput, &error),
            telemetry::Error::Started(_) => Self::new(Exit::Internal, &error),
        }
    }
}

/// What the system refused while reading or printing. Whoever reads our stdout may
/// leave when they have seen enough (`| head`): that is no failure of ours.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::silent(Exit::Done),
            _ => Self::new(Exit::Internal, error),
        }
    }
}

impl From<store::Error> for Failure {
    fn from(error: store::Error) -> Self {
        use store::Error;
        match &error {
            Error::InUse { .. } => Self::new(Exit::Conflict, &error)
                .hint("another dispatcher may be running; --data-dir takes another directory"),
            Error::Unusable { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                Self::new(Exit::Refused, &error).hint("free space on that disk and start again")
            }
            Error::Unusable { .. } => Self::new(Exit::WrongInput, &error).hint(
                "--data-dir takes a directory that this user can write, with all files in it",
            ),
            Error::Format { .. } => Self::new(Exit::Conflict, &error)
                .hint("run the version that wrote it, or take another --data-dir"),
            Error::Full => Self::new(Exit::Refused, &error)
                .hint("free space on that disk and start again: what was receipted is safe"),
            Error::Damaged { .. } => Self::new(Exit::Damaged, &error)
                .hint("`taskgrid store verify` with the same --data-dir tells what is damaged"),
            Error::Failed { .. } => Self::new(Exit::Internal, &error),
        }
    }
}

impl From<dispatcher::Error> for Failure {
    fn from(error: dispatcher::Error) -> Self {
        use dispatcher::Error;
        match error {
            Error::Rpc(error) => error.into(),
            Error::Store(error) => error.into(),
            Error::Lease(_) => Self::new(Exit::WrongInput, error),
            Error::Thread(_) => Self::new(Exit::Internal, error),
        }
    }
}

impl From<nameservice::Error> for Failure {
    fn from(error: nameservice::Error) -> Self {
        match error {
            nameservice::Error::Rpc(error) => error.into(),
            nameservice::Error::Ttl(_) => Self::new(Exit::WrongInput, error),
        }
    }
}

impl From<monitor::Error> for Failure {
    fn from(error: monitor::Error) -> Self {
        match error {
            monitor::Error::Rpc(error) => error.into(),
            monitor::Error::Client(error) => error.into(),
            monitor::Error::Panicked(_) => Self::new(Exit::Internal, error),
        }
    }
}

impl From<worker::Error> for Failure {
    fn from(error: worker::Error) -> Self {
        match error {
            worker::Error::Rpc(error) => error.into(),
            other => Self::new(Exit::WrongInput, other),
        }
    }
}

impl From<grid::Error> for Failure {
    fn from(error: grid::Error) -> Self {
        use grid::Error;
        match error {
            Error::Nameservice(error) => error.into(),
            Error::Dispatcher(error) => error.into(),
            Error::Worker(error) => error.into(),
            Error::Monitor(error) => error.into(),
            Error::Client(error) => error.into(),
            Error::Type(_) | Error::NotReady { .. } | Error::Panicked(_) => {
                Self::new(Exit::Internal, error)
            }
        }
    }
}

impl From<worker::builtin::NotBuiltIn> for Failure {
    fn from(error: worker::builtin::NotBuiltIn) -> Self {
        Self::new(Exit::WrongInput, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::fake;
    use crate::core::id::TaskId;
    use crate::core::task::Status;

    #[test]
    fn every_error_of_the_client_has_the_exit_code_of_the_manual_and_a_next_step() {
        let problem = || "because".to_owned();
        let task = || Box::new(fake::view(17, Status::Failed));
        let id = TaskId(17);
        let waited = std::time::Duration::from_secs(1);
        let cases = [
            (client::Error::TaskFailed(task()), 1, "retry 17"),
            (client::Error::TaskCancelled(task()), 1, "retry 17"),
            (client::Error::WrongInput { problem: problem() }, 2, ""),
            (client::Error::TooLarge { problem: problem(), tasks: 1 }, 2, "the address"),
            (client::Error::TooLarge { problem: problem(), tasks: 2 }, 2, "smaller batches"),
            (client::Error::UnknownType { problem: problem() }, 2, "worker"),
            (client::Error::NotFound { id }, 3, "client list"),
            (client::Error::Expired { id }, 3, "--retain"),
            (client::Error::CursorTooOld { problem: problem() }, 3, "client list"),
            (client::Error::TimedOut { id, waited }, 4, "result 17"),
            (client::Error::Unreachable { url: problem(), problem: problem() }, 5, "--dispatcher"),
            (client::Error::NotReady { url: problem(), problem: problem() }, 6, "--patience"),
            (client::Error::Refused { problem: problem() }, 6, "later"),
            (client::Error::NotAllowed { problem: problem() }, 7, ""),
            (client::Error::Conflict { problem: problem() }, 8, "another key"),
            (client::Error::Internal { problem: problem() }, 70, "--version"),
        ];
        for (error, code, step) in cases {
            let failure = Failure::from(error);
            assert_eq!(failure.exit.code(), code, "{}", failure.message);
            let hint = failure.hint.unwrap_or_default();
            assert_eq!(hint.is_empty(), step.is_empty(), "{}", failure.message);
            assert!(hint.contains(step), "{hint}");
        }
        assert_eq!(Exit::Done.code(), 0);
        assert_eq!(Exit::Interrupted.code(), 130);
    }

    #[test]
    fn a_port_in_use_is_a_conflict_also_through_the_roles_error() {
        let address = ([127, 0, 0, 1], 50052).into();
        let error = dispatcher::Error::from(rpc::Error::AddressInUse { address });
        let failure = Failure::from(error);
        assert_eq!(failure.exit, Exit::Conflict);
        assert_eq!(failure.message, "cannot listen on 127.0.0.1:50052: address in use");
        assert!(failure.hint.is_some());
    }

    #[test]
    fn a_reader_who_leaves_is_no_failure() {
        let failure = Failure::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!((failure.exit, failure.message.as_str()), (Exit::Done, ""));
    }
}
