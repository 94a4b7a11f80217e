//! Batches that wait in line: a long group makes all that is in it wait for all of it, so
//! once the open one is long, batches wait until it is handed over.
//!
//! Otherwise they would go around in step: all that were receipted together come back
//! together, as one more long group. Only batches wait here: outcomes, which end leases, and
//! heartbeats, which keep them, are heard meanwhile. The longer a commit takes, the longer
//! the next group may become, or a slow disk would decide how many tasks come in.

use std::collections::VecDeque;
use std::time::Duration;

use super::Scheduler;
use super::message::{Refusal, Reply};
use super::space::Space;
use crate::core::id::Timestamp;
use crate::dispatcher::batch::Batch;

/// Entries of the open group from which on batches wait, for each step of time that the
/// commit under way has begun. An entry costs the committer half a microsecond, a commit
/// about as much as a thousand of them. So there is room for 400,000 a second, new tasks and
/// outcomes together, whatever the disk.
const LONG: usize = 2_048;
const STEP: Duration = Duration::from_millis(5);
/// Bytes of payloads that may wait, here and in the open group, for the commit under way to
/// end: with a disk that stalls they would fill the memory. Much more than fits into a
/// second of any disk.
const WAITING_BYTES: u64 = 256 << 20;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Line {
    batches: VecDeque<(Batch, Reply)>,
    /// Of their payloads.
    bytes: u64,
}

impl Scheduler {
    /// Submits a batch, once it is its turn.
    pub(super) fn line_up(&mut self, batch: Batch, reply: Reply) {
        if self.line.batches.is_empty() && !self.is_long() {
            self.submit(&batch, reply);
        } else if self.would_fill_the_memory(batch.bytes) {
            // A caller that has left needs no answer.
            drop(reply.send(Err(Refusal::Slow)));
        } else {
            self.line.bytes = self.line.bytes.saturating_add(batch.bytes);
            self.line.batches.push_back((batch, reply));
        }
    }

    /// Submits the batches whose turn it is.
    pub(super) fn submit_from_line(&mut self) {
        while self.is_lines_turn()
            && let Some((batch, reply)) = self.line.batches.pop_front()
        {
            self.line.bytes = self.line.bytes.saturating_sub(batch.bytes);
            self.submit(&batch, reply);
        }
    }

    /// Whether it is the turn of a batch that waits.
    pub(super) fn is_lines_turn(&self) -> bool {
        !self.line.batches.is_empty() && !self.is_long()
    }

    /// Whether so many bytes more are too many to wait for the commit under way.
    pub(super) fn would_fill_the_memory(&self, bytes: u64) -> bool {
        let waiting = self.open.bytes.saturating_add(self.line.bytes);
        waiting > 0 && waiting.saturating_add(bytes) > WAITING_BYTES
    }

    /// Whether the open group takes no more batches. It does if they are refused.
    fn is_long(&self) -> bool {
        let refuses = self.draining || self.space == Space::None;
        !refuses && self.open.group.entries.len() >= LONG.saturating_mul(self.steps())
    }

    /// When the open group may be longer, if any batch waits for that.
    pub(super) fn next_room(&self) -> Option<Timestamp> {
        let in_flight = self.in_flight.as_ref().filter(|_| !self.line.batches.is_empty())?;
        let steps = u32::try_from(self.steps()).unwrap_or(u32::MAX);
        Some(in_flight.handed_over.plus(STEP.saturating_mul(steps)))
    }

    /// Steps that the commit under way has begun; one if there is none.
    fn steps(&self) -> usize {
        let in_flight = self.in_flight.as_ref();
        let past = in_flight.map_or(Duration::ZERO, |it| self.last_turn.since(it.handed_over));
        usize::try_from(past.as_millis() / STEP.as_millis()).unwrap_or(usize::MAX).saturating_add(1)
    }
}
