//! Another system's server, as Debian packages it, on a free port of loopback.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::work::Failure;

/// Longer than a server takes to listen.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it is looked whether it does.
const LOOK: Duration = Duration::from_millis(10);

/// Which server, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Gearmand,
    /// In memory.
    Beanstalkd,
    /// Syncing its log at every command that changes something.
    BeanstalkdSynced,
}

/// A server that listens. It ends with this value, its directory last.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    pub(crate) addr: SocketAddr,
    _directory: TempDir,
}

impl Kind {
    /// Where its program may be: not every path of commands has those of the system.
    fn programs(self) -> [&'static str; 2] {
        match self {
            Self::Gearmand => ["gearmand", "/usr/sbin/gearmand"],
            Self::Beanstalkd | Self::BeanstalkdSynced => ["beanstalkd", "/usr/bin/beanstalkd"],
        }
    }

    fn package(self) -> &'static str {
        match self {
            Self::Gearmand => "gearman-job-server",
            Self::Beanstalkd | Self::BeanstalkdSynced => "beanstalkd",
        }
    }

    /// Its name and version, or why it cannot be compared with.
    pub(crate) fn version(self) -> Result<String, String> {
        let flag = match self {
            Self::Gearmand => "--version",
            Self::Beanstalkd | Self::BeanstalkdSynced => "-v",
        };
        let told = self.programs().into_iter().find_map(|program| {
            let output = Command::new(program).arg(flag).output().ok()?;
            let told = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            Some(told.split(" - ").next().unwrap_or_default().to_owned())
        });
        told.ok_or_else(|| {
            let [name, _] = self.programs();
            format!("{name} is not here and is left out: apt-get install {}", self.package())
        })
    }

    /// Starts it, and waits until it listens.
    pub(crate) fn start(self) -> Result<Server, Failure> {
        let directory = TempDir::new()?;
        let port = free_port()?;
        let [first, second] = self.programs();
        let child = match self.command(first, port, &directory).spawn() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.command(second, port, &directory).spawn()
            }
            other => other,
        }?;
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut server = Server { child, addr, _directory: directory };
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(addr).is_err() {
            if let Some(status) = server.child.try_wait()? {
                return Err(format!("{first} ended instead of listening: {status}").into());
            }
            if Instant::now() >= deadline {
                return Err(format!("{first} does not listen on {addr}").into());
            }
            thread::park_timeout(LOOK);
        }
        Ok(server)
    }

    fn command(self, program: &str, port: u16, directory: &TempDir) -> Command {
        let mut command = Command::new(program);
        let port = port.to_string();
        match self {
            Self::Gearmand => {
                // Of 1, 2 and 4 threads, which is the default, one was fastest on two cores.
                command.args(["--listen", "127.0.0.1", "--threads", "1", "--port", &port]);
                command.args(["--log-file", "none"]);
                command.arg("--pid-file").arg(directory.path().join("pid"));
            }
            Self::Beanstalkd => {
                command.args(["-l", "127.0.0.1", "-p", &port]);
            }
            Self::BeanstalkdSynced => {
                command.args(["-l", "127.0.0.1", "-p", &port, "-f0", "-b"]).arg(directory.path());
            }
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // One that has ended cannot be killed, which is fine.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A port that was free a moment ago: these servers cannot choose one themselves.
fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}
