//! Running handlers: blocking ones on threads of their own, async ones on the
//! runtime, both watched by one task that ends what takes too long.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use futures_util::FutureExt as _;

use super::desk::Place;
use super::outcome::Answer;
use super::state::{BRIEF_TURN, State, Taken, Turn};
use super::{OfThread, Pool, Shared};
use crate::worker::handler::{Context, Run, Running};

impl Pool {
    /// Does something that may give brief tasks their turn, and runs them, but not for long;
    /// says whether more of them wait.
    pub(super) fn brief_turns(&self, act: impl FnOnce(&mut State)) -> bool {
        let shared = &self.shared;
        let begun = Instant::now();
        let mut next = shared.with(|state| {
            act(state);
            shared.take_brief(state, begun)
        });
        while let Some(taken) = next {
            let lease = taken.lease;
            let answer = shared.run_blocking(taken, &self.of_session);
            let now = Instant::now();
            let in_time = now.duration_since(begun) < BRIEF_TURN;
            next = shared.with(|state| {
                // If it was given up in this moment, its end has been told.
                state.finish(lease, answer, now);
                if in_time { shared.take_brief(state, now) } else { None }
            });
            if !in_time {
                return true;
            }
        }
        false
    }

    /// Ends handlers whose time is up, until the pool is stopped.
    pub(in crate::worker) async fn watch_deadlines(&self) {
        let shared = &self.shared;
        loop {
            let (next, stopped) = shared.with(|state| {
                let now = Instant::now();
                // First, as it frees slots for what waits.
                state.overdue(now);
                let missing = state.runners.look(now);
                if matches!(state.turn(), Some(Turn::Blocking(_))) {
                    (0..missing).for_each(|_| shared.call_runner(state));
                }
                shared.pump(state);
                (state.overdue(now), state.stopped)
            });
            if stopped {
                return;
            }
            match next {
                Some(at) => tokio::select! {
                    () = shared.deadlines.notified() => {}
                    () = tokio::time::sleep_until(at.into()) => {}
                },
                None => shared.deadlines.notified().await,
            }
        }
    }
}

/// What a runner does next.
enum Next {
    Run(Taken),
    Wait,
    Leave,
}

impl Shared {
    /// Starts all async tasks whose turn it is, and calls a runner or a session when it is a
    /// blocking or a brief one's; these go on from there.
    pub(super) fn pump(self: &Arc<Self>, state: &mut State) {
        while let Some(turn) = state.turn() {
            match turn {
                Turn::Async => self.start_async(state),
                Turn::Blocking(type_index) => {
                    if state.wants_runner(type_index, Instant::now()) {
                        self.call_runner(state);
                    }
                    return;
                }
                Turn::Brief => return state.call_session(),
            }
        }
    }

    /// The task whose turn it is, if it is brief; starts any other where it belongs.
    fn take_brief(self: &Arc<Self>, state: &mut State, now: Instant) -> Option<Taken> {
        while state.turn() == Some(Turn::Brief) {
            if let Some(taken) = state.take(Place::Session, now) {
                return Some(taken);
            }
        }
        self.pump(state);
        None
    }

    fn call_runner(self: &Arc<Self>, state: &mut State) {
        if state.runners.idle > state.runners.called {
            state.runners.called += 1;
            state.after.calls += 1;
        } else if state.runners.alive < state.slots {
            let shared = Arc::clone(self);
            let thread = std::thread::Builder::new().name("taskgrid-handler".to_owned());
            match thread.spawn(move || shared.runner()) {
                Ok(_) => state.runners.alive += 1,
                Err(error) => tracing::error!(%error, "cannot make a thread for a handler"),
            }
        }
    }

    /// A thread's life: run, end one and take the next, until the pool stops.
    fn runner(self: Arc<Self>) {
        let pool: Arc<dyn Running> = Arc::new(OfThread(Arc::clone(&self)));
        let mut done = None;
        let mut seen = 0;
        loop {
            let next = self.with(|state| {
                let next = self.turn_over(state, done.take());
                if matches!(next, Next::Run(_)) {
                    state.runners.take(&mut seen);
                }
                next
            });
            match next {
                Next::Run(taken) => {
                    let lease = taken.lease;
                    done = Some((lease, self.run_blocking(taken, &pool)));
                }
                Next::Wait => self.wait_for_work(),
                Next::Leave => return,
            }
        }
    }

    fn turn_over(
        self: &Arc<Self>,
        state: &mut State,
        done: Option<(crate::worker::handler::LeaseId, Answer)>,
    ) -> Next {
        let now = Instant::now();
        if let Some((lease, answer)) = done
            && !state.finish(lease, answer, now)
        {
            // The attempt was given up, and with it this thread's place.
            state.runners.detached -= 1;
            if state.runners.alive >= state.slots {
                return Next::Leave;
            }
            state.runners.alive += 1;
        }
        while let Some(turn) = state.turn() {
            match turn {
                Turn::Async => self.start_async(state),
                Turn::Blocking(_) => {
                    let Some(taken) = state.take(Place::Runner, now) else { continue };
                    self.pump(state);
                    return Next::Run(taken);
                }
                Turn::Brief => {
                    state.call_session();
                    break;
                }
            }
        }
        if state.stopped {
            state.runners.alive -= 1;
            return Next::Leave;
        }
        Next::Wait
    }

    fn wait_for_work(&self) {
        let mut state = self.lock();
        while !state.stopped && matches!(state.turn(), None | Some(Turn::Brief)) {
            state.runners.idle += 1;
            state = self.work.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner);
            state.runners.idle -= 1;
            state.runners.called = state.runners.called.saturating_sub(1);
        }
    }

    fn run_blocking(&self, taken: Taken, pool: &Arc<dyn Running>) -> Answer {
        let (Run::Blocking(run) | Run::Computing(run)) = &self.types[taken.type_index].run else {
            return Answer::Panicked("an async handler on a blocking thread".to_owned());
        };
        let context = Context::new(taken.lease, taken.type_index, Arc::clone(pool));
        match catch_unwind(AssertUnwindSafe(|| run(&context, taken.payload))) {
            Ok(result) => Answer::Returned(result),
            Err(panic) => Answer::Panicked(panic_message(panic.as_ref())),
        }
    }

    fn start_async(self: &Arc<Self>, state: &mut State) {
        let Some(taken) = state.take(Place::Runtime(None), Instant::now()) else { return };
        let lease = taken.lease;
        let shared = Arc::clone(self);
        let attempt = async move {
            let Taken { lease, type_index, payload } = taken;
            let context = Context::new(lease, type_index, Arc::new(OfThread(Arc::clone(&shared))));
            let answer = match &shared.types[type_index].run {
                Run::Async(run) => {
                    // The call itself belongs inside, where its panic is caught.
                    let run = async { run.run(context, payload).await };
                    match AssertUnwindSafe(run).catch_unwind().await {
                        Ok(result) => Answer::Returned(result),
                        Err(panic) => Answer::Panicked(panic_message(panic.as_ref())),
                    }
                }
                Run::Blocking(_) | Run::Computing(_) => {
                    Answer::Panicked("a blocking handler on a runtime".to_owned())
                }
            };
            shared.with(|state| {
                // If it was given up in this moment, its end has been told.
                state.finish(lease, answer, Instant::now());
                shared.pump(state);
            });
        };
        let abort = self.runtime.spawn(attempt).abort_handle();
        if let Some(running) = state.running(lease.desk, lease.token) {
            running.place = Place::Runtime(Some(abort));
        }
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let owned = || panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(owned).unwrap_or("without a message").to_owned()
}
