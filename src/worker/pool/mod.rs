//! Where tasks wait for slots and run: one queue, one set of slots, shared by all
//! dispatchers that have given leases.
//!
//! Built for tasks of a microsecond: a blocking handler's thread ends one attempt
//! and takes the next under one lock, and a session is woken once for all that
//! happened since it last looked. What this module does not do: it speaks no
//! gRPC; the session turns frames into calls of a [`Pool`] and back.

mod desk;
mod numbers;
mod outcome;
mod run;
mod runners;
mod state;

use std::collections::BTreeSet;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use self::numbers::Numbers;
use self::state::State;
use super::handler::{LeaseId, Run, Running};
use crate::core::id::{Epoch, TaskId, Token};
use crate::core::task_type::TaskType;
use crate::wire::v1;

/// A type with its handler.
pub(super) struct Served {
    pub(super) task_type: TaskType,
    pub(super) run: Run,
}

/// A handle to the pool. Cheap to clone.
#[derive(Clone)]
pub(super) struct Pool {
    shared: Arc<Shared>,
    /// For contexts of handlers that run within a session.
    of_session: Arc<dyn Running>,
}

/// What handles, runners and running handlers share.
struct Shared {
    state: Mutex<State>,
    types: Arc<[Served]>,
    /// Runs the async handlers.
    runtime: Handle,
    /// Called when a blocking task waits for an idle runner.
    work: Condvar,
    /// Rung when the next deadline may have changed.
    deadlines: Notify,
    /// Rung with every change while the worker drains.
    changed: Notify,
}

/// A task that waits for a slot.
struct Waiting {
    desk: u64,
    token: Token,
    type_index: usize,
    payload: Bytes,
    timeout_ms: u64,
}

/// Who opens a session.
pub(super) struct Caller {
    pub(super) dispatcher: String,
    pub(super) epoch: Epoch,
    pub(super) number: u64,
    pub(super) max_result_bytes: u64,
}

/// A session that began.
pub(super) struct Attached {
    pub(super) desk: u64,
    pub(super) serial: u64,
    /// Rung when there is something to report, or to run.
    pub(super) bell: Arc<Notify>,
    /// Cancelled when a newer session replaced this one, or the worker leaves.
    pub(super) ended: CancellationToken,
    pub(super) held: Vec<v1::HeldLease>,
    pub(super) draining: bool,
}

/// A task of a caller of Execute.
pub(super) struct Order {
    pub(super) task: TaskId,
    pub(super) attempt: u32,
    pub(super) token: Token,
    pub(super) type_index: usize,
    pub(super) payload: Bytes,
    pub(super) timeout_ms: u64,
}

/// Why the pool takes no session or task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The worker leaves.
    Draining,
    /// No slot, or no room for another dispatcher.
    Full,
    /// A newer session of the same dispatcher is there.
    Replaced,
}

impl Pool {
    /// A pool of so many slots. Must be made within a runtime.
    pub(super) fn new(types: Arc<[Served]>, slots: u32) -> Self {
        let kinds = types.iter().map(|served| served.run.kind());
        let shared = Shared {
            state: Mutex::new(State::new(slots, kinds.collect())),
            types,
            runtime: Handle::current(),
            work: Condvar::new(),
            deadlines: Notify::new(),
            changed: Notify::new(),
        };
        let shared = Arc::new(shared);
        let of_session = Arc::new(OfThread(Arc::clone(&shared)));
        Self { shared, of_session }
    }

    /// What it counts, at this moment.
    pub(super) fn numbers(&self) -> Numbers {
        self.shared.with(|state| state.numbers())
    }

    pub(super) fn attach(&self, caller: Caller) -> Result<Attached, Refusal> {
        self.shared.with(|state| state.attach(caller))
    }

    pub(super) fn detach(&self, desk: u64, serial: u64) {
        self.shared.with(|state| {
            state.detach(desk, serial);
            // Nobody is left to run what it would have run.
            self.shared.pump(state);
        });
    }

    /// All that there is to tell a session, as far as one message takes it.
    pub(super) fn report(&self, desk: u64, serial: u64) -> Option<v1::Report> {
        self.shared.with(|state| state.report(desk, serial))
    }

    /// Takes tasks in, and runs those that are brief; says whether more of them wait.
    pub(super) fn assign(&self, desk: u64, serial: u64, assign: v1::Assign) -> bool {
        self.brief_turns(|state| state.assign(desk, serial, assign))
    }

    /// Hears which outcomes were answered, and runs brief tasks that waited for that; says
    /// whether more of them wait.
    pub(super) fn settled(
        &self,
        desk: u64,
        serial: u64,
        tokens: impl Iterator<Item = Token>,
    ) -> bool {
        self.brief_turns(|state| state.settled(desk, serial, tokens))
    }

    /// Runs brief tasks, whosever they are; says whether more of them wait.
    pub(super) fn run_brief(&self) -> bool {
        self.brief_turns(|_| ())
    }

    pub(super) fn recall(&self, desk: u64, serial: u64, tokens: &BTreeSet<Token>) {
        self.shared.with(|state| state.withdraw(desk, serial, tokens, v1::Release::Recalled));
    }

    pub(super) fn cancel(&self, desk: u64, serial: u64, tokens: &BTreeSet<Token>) {
        self.shared.with(|state| state.cancel(desk, serial, tokens, Instant::now()));
    }

    /// Starts what can be started: for whoever looks in now and then, in case a
    /// thread could not be made before.
    pub(super) fn nudge(&self) {
        self.shared.with(|state| self.shared.pump(state));
    }

    /// Runs one task now, or refuses it. Dropping the returned future's owner
    /// cancels the task.
    pub(super) async fn execute(
        &self,
        order: Order,
        max_result_bytes: u64,
    ) -> Result<v1::Outcome, Refusal> {
        let token = order.token;
        let (desk, bell) = self.shared.with(|state| {
            let desk = state.call(order, max_result_bytes)?;
            let bell = Arc::clone(&state.desks[&desk].bell);
            self.shared.pump(state);
            Ok((desk, bell))
        })?;
        let _call = Call { pool: self, desk, token };
        loop {
            if let Some(outcome) = self.shared.with(|state| state.call_outcome(desk, token)) {
                return Ok(outcome);
            }
            bell.notified().await;
        }
    }

    // The end, in this order.

    /// Takes nothing more; what waits is given back.
    pub(super) fn drain(&self) {
        self.shared.with(State::drain);
    }

    /// Waits until no handler runs.
    pub(super) async fn idle(&self) {
        self.until(|state| state.busy() == 0).await;
    }

    /// Gives back what still runs.
    pub(super) fn give_up(&self) {
        self.shared.with(|state| state.give_up_all(Instant::now()));
    }

    /// Waits until every outcome that a session can deliver has been answered.
    pub(super) async fn answered(&self) {
        self.until(State::is_answered).await;
    }

    /// Ends sessions, runners, the watch over deadlines, and what still runs.
    pub(super) fn stop(&self) {
        self.shared.with(|state| state.stop_all(Instant::now()));
        self.shared.work.notify_all();
        self.shared.deadlines.notify_one();
    }

    /// Whether the worker has left.
    pub(super) fn is_stopped(&self) -> bool {
        self.shared.lock().stopped
    }

    async fn until(&self, condition: impl Fn(&State) -> bool) {
        loop {
            let changed = self.shared.changed.notified();
            let mut changed = std::pin::pin!(changed);
            changed.as_mut().enable();
            // Not through `with`, which would ring the bell that is waited for.
            if condition(&self.shared.lock()) {
                return;
            }
            changed.await;
        }
    }
}

/// A call of Execute that waits.
struct Call<'a> {
    pool: &'a Pool,
    desk: u64,
    token: Token,
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.pool.shared.with(|state| state.hang_up(self.desk, self.token, Instant::now()));
    }
}

impl Shared {
    /// Does something under the lock, then what it left to be done after.
    fn with<R>(&self, act: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.lock();
        let result = act(&mut state);
        let after = std::mem::take(&mut state.after);
        let draining = state.draining;
        drop(state);
        for bell in after.bells {
            bell.notify_one();
        }
        for signal in after.signals {
            signal.cancel();
        }
        for _ in 0..after.calls {
            self.work.notify_one();
        }
        if after.deadlines_moved {
            self.deadlines.notify_one();
        }
        if draining {
            self.changed.notify_waiters();
        }
        result
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No handler's code runs under the lock, so a panic there is a bug of the
        // pool, told where it happened; the others carry on.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The pool as the contexts of a thread's handlers share it: threads that counted one
/// pointer's copies together would wait for each other with every task.
struct OfThread(Arc<Shared>);

impl Running for OfThread {
    fn progress(&self, lease: LeaseId, message: String) {
        self.0.with(|state| state.progress(lease, message));
    }

    fn signal(&self, lease: LeaseId) -> CancellationToken {
        self.0.with(|state| state.signal(lease))
    }

    fn type_name(&self, type_index: usize) -> &str {
        self.0.types[type_index].task_type.name.as_str()
    }
}
