//! One role on a thread and runtime of its own.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use super::Error;
use crate::shutdown::Shutdown;

/// A running role, or what is left of one.
#[derive(Debug)]
pub(super) struct Role {
    name: String,
    addr: SocketAddr,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    shutdown: Shutdown,
    kill: oneshot::Sender<()>,
    runtime: Handle,
    barrier: Arc<Barrier>,
    thread: JoinHandle<Result<(), String>>,
}

/// Holds a runtime's only thread up.
#[derive(Debug, Default)]
struct Barrier {
    closed: Mutex<bool>,
    opened: Condvar,
}

impl Role {
    /// Starts a role: `bind` gives its address and what runs it.
    pub(super) async fn start<Bind, Run, Life, Problem>(
        name: &str,
        bind: Bind,
    ) -> Result<Self, Error>
    where
        Bind: AsyncFnOnce() -> Result<(SocketAddr, Run), Problem> + Send + 'static,
        Run: FnOnce(Shutdown) -> Life,
        Life: Future<Output = Result<(), Problem>>,
        Problem: std::error::Error,
    {
        let failed = |problem: String| Error::Start { role: name.to_owned(), problem };
        let (bound, is_bound) = oneshot::channel();
        let (kill, killed) = oneshot::channel();
        let shutdown = Shutdown::new();
        let until = shutdown.clone();
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let body = move || {
            let ended = runtime.block_on(async {
                let (addr, run) = match bind().await {
                    Ok(role) => role,
                    Err(problem) => {
                        // Whoever started it waits for this.
                        bound.send(Err(problem.to_string())).ok();
                        return Ok(());
                    }
                };
                bound.send(Ok(addr)).ok();
                tokio::select! {
                    ended = run(until) => ended.map_err(|problem| problem.to_string()),
                    _ = killed => Ok(()),
                }
            });
            runtime.shutdown_background();
            ended
        };
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(body)?;
        let addr = is_bound.await.map_err(|_| failed("it panicked".to_owned()))?.map_err(failed)?;
        let barrier = Arc::default();
        let running = Running { shutdown, kill, runtime: handle, barrier, thread };
        Ok(Self { name: name.to_owned(), addr, running: Some(running) })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What runs, leaving the name and the address.
    pub(super) fn take(&mut self) -> Self {
        Self { name: self.name.clone(), addr: self.addr, running: self.running.take() }
    }

    pub(super) fn pause(&self) {
        let Some(running) = &self.running else { return };
        *running.barrier.closed.lock().unwrap_or_else(PoisonError::into_inner) = true;
        let barrier = running.barrier.clone();
        running.runtime.spawn(async move { barrier.wait() });
    }

    pub(super) fn resume(&self) {
        if let Some(running) = &self.running {
            running.barrier.open();
        }
    }

    /// Drops all that the role does, where it stands.
    pub(super) async fn kill(mut self) {
        let Some(running) = self.running.take() else { return };
        running.barrier.open();
        // A role that ended by itself needs no killing.
        running.kill.send(()).ok();
        joined(running.thread).await.ok();
    }

    /// Tells the role to stop, and waits until it has.
    pub(super) async fn stop(mut self) -> Result<(), Error> {
        let Some(running) = self.running.take() else { return Ok(()) };
        running.barrier.open();
        running.shutdown.begin();
        joined(running.thread)
            .await
            .map_err(|problem| Error::End { role: self.name.clone(), problem })
    }
}

/// How a thread ended. Waits beside the caller's runtime: its connections must be
/// able to close meanwhile.
async fn joined(thread: JoinHandle<Result<(), String>>) -> Result<(), String> {
    let panicked = || "it panicked".to_owned();
    let joined = tokio::task::spawn_blocking(move || thread.join()).await;
    joined.map_err(|_| panicked())?.map_err(|_| panicked())?
}

impl Drop for Role {
    fn drop(&mut self) {
        // A test that failed leaves nothing running.
        if let Some(running) = self.running.take() {
            running.barrier.open();
            running.kill.send(()).ok();
        }
    }
}

impl Barrier {
    fn wait(&self) {
        let mut closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        while *closed {
            closed = self.opened.wait(closed).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn open(&self) {
        *self.closed.lock().unwrap_or_else(PoisonError::into_inner) = false;
        self.opened.notify_all();
    }
}
