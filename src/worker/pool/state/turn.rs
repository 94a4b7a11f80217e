//! Whose turn it is, and who is to run it: the runtime, a runner, or a session.
//!
//! To hand a task to a thread, and to hear from it, takes tens of microseconds where a
//! processor has to be woken. What is over sooner is brief, and its session runs it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::State;
use crate::worker::handler::Kind;
use crate::worker::pool::Waiting;
use crate::worker::pool::runners::{SHORT, Want};

/// A task is brief if its handler only computes, takes less than this in the mean, …
pub(super) const BRIEF: Duration = Duration::from_micros(if cfg!(test) { 20_000_000 } else { 5 });
/// … or than this where no other waits: nothing is gained by several threads then, and what
/// is found in no cache takes longer.
const BRIEF_ALONE: Duration = if cfg!(test) { BRIEF.saturating_mul(2) } else { SHORT };
/// Besides, its payload has no more bytes than this.
const BRIEF_BYTES: usize = 4 << 10;
/// How long a session runs brief tasks before it reads and writes again.
pub(in crate::worker::pool) const BRIEF_TURN: Duration = Duration::from_micros(250);

/// What the task is whose turn it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::worker::pool) enum Turn {
    /// One for the runtime.
    Async,
    /// One for a runner, of this type.
    Blocking(usize),
    /// One that its session runs, or another that comes by.
    Brief,
}

impl State {
    /// Whose turn it is, if a slot is free for it.
    pub(in crate::worker::pool) fn turn(&mut self) -> Option<Turn> {
        while self.free > 0 && !self.stopped {
            let front = self.queue.front()?;
            let Some(desk) = self.desks.get_mut(&front.desk) else {
                self.queue.pop_front();
                continue;
            };
            if desk.is_full() {
                desk.parked.extend(self.queue.pop_front());
                continue;
            }
            let (type_index, has_session) = (front.type_index, desk.session.is_some());
            return Some(match self.kinds[type_index] {
                Kind::Async => Turn::Async,
                Kind::Computing if has_session && self.is_brief(front) => Turn::Brief,
                Kind::Computing | Kind::Blocking => Turn::Blocking(type_index),
            });
        }
        None
    }

    /// Whether this task of a computing type is over soon.
    fn is_brief(&self, task: &Waiting) -> bool {
        let limit = if self.queue.len() > 1 { BRIEF } else { BRIEF_ALONE };
        task.payload.len() <= BRIEF_BYTES && self.run_times[task.type_index].is_below(limit)
    }

    /// Tells the session of the task whose turn it is, which is brief.
    pub(in crate::worker::pool) fn call_session(&mut self) {
        let front = self.queue.front().and_then(|front| self.desks.get(&front.desk));
        // Whether or not it was told of something to report: that may wait for room.
        self.after.bells.extend(front.map(|desk| Arc::clone(&desk.bell)));
    }

    /// Whether one more thread is worth calling for the task whose turn it is, of this type.
    pub(in crate::worker::pool) fn wants_runner(
        &mut self,
        type_index: usize,
        now: Instant,
    ) -> bool {
        let is_short = self.run_times[type_index].is_below(SHORT);
        match self.runners.want_another(is_short, now) {
            Want::Now => true,
            Want::Later { is_new } => {
                self.after.deadlines_moved |= is_new;
                false
            }
        }
    }
}
