//! Acceptance of a batch: its key, the queue's limits, its ids.

use super::Scheduler;
use super::group::Effect;
use super::message::{Receipt, Refusal, Reply, Snapshot, Stored};
use super::space::Space;
use crate::core::event::{Entry, Event, KeyedBatch};
use crate::core::id::{Seq, TaskId, Timestamp};
use crate::core::keys::Lookup;
use crate::core::limits;
use crate::dispatcher::batch::{Batch, Key};

/// Bytes of payloads that are soon enough on the disk together with the outcomes;
/// more are better written while their tasks run.
const UNHURRIED_BYTES: u64 = 16 << 10;

impl Scheduler {
    pub(super) fn submit(&mut self, batch: &Batch, reply: Reply) {
        let answered_until = self.last_turn.plus(limits::ANSWERED_KEY_KEPT);
        for key in &batch.answered {
            self.keys.shorten(key, answered_until);
        }
        let before = self.open.length();
        let stored = self.admit(batch).map(|receipt| Stored {
            tasks: if batch.wait.is_zero() { Vec::new() } else { self.look_at(receipt) },
            receipt,
        });
        if self.space == Space::None {
            // No commit may come for long, and none of this depends on one.
            drop(reply.send(stored));
            return;
        }
        self.after_commit(Effect::Receipt(reply, Box::new(stored)));
        if !batch.wait.is_zero() && batch.bytes <= UNHURRIED_BYTES {
            self.open.leave_time(before, self.last_turn);
        }
    }

    /// How the tasks of a receipt stand, each with word of its end.
    fn look_at(&mut self, receipt: Receipt) -> Vec<Snapshot> {
        let ids = (0..u64::from(receipt.count)).map(|step| receipt.first.plus(step));
        ids.map(|id| self.snapshot(id, true)).collect()
    }

    fn admit(&mut self, batch: &Batch) -> Result<Receipt, Refusal> {
        if self.draining {
            return Err(Refusal::Draining);
        }
        if self.space == Space::None {
            return Err(self.refuse_without_space(batch));
        }
        if let Some(key) = &batch.key {
            match self.keys.find(&key.text, &key.digest) {
                Lookup::New => {}
                Lookup::Same(known) => {
                    let KeyedBatch { first, count, cursor, .. } = known;
                    return Ok(Receipt { first, count, cursor, created: None });
                }
                Lookup::Other => return Err(Refusal::KeyConflict),
                Lookup::Full => return Err(Refusal::KeysFull),
            }
        }
        if self.space != Space::Enough {
            return Err(Refusal::NoSpace);
        }
        let count = u32::try_from(batch.drafts.len()).unwrap_or(u32::MAX);
        self.check_room(count, batch.bytes)?;
        let now = self.last_turn;
        let cursor = Seq(self.queue.next_seq().0.saturating_sub(1));
        let first = self.accept(batch, now);
        if let Some(key) = &batch.key {
            self.remember(key, first, count, cursor, now);
        }
        Ok(Receipt { first, count, cursor, created: Some(now) })
    }

    /// A batch whose key is known may be in the group that waits for space.
    fn refuse_without_space(&self, batch: &Batch) -> Refusal {
        if self.is_known(batch) { Refusal::Waits } else { Refusal::NoSpace }
    }

    /// Whether it was accepted before, under its key.
    pub(super) fn is_known(&self, batch: &Batch) -> bool {
        let known = batch.key.as_ref().map(|key| self.keys.find(&key.text, &key.digest));
        matches!(known, Some(Lookup::Same(_)))
    }

    fn check_room(&self, count: u32, bytes: u64) -> Result<(), Refusal> {
        if self.would_fill_the_memory(bytes) {
            return Err(Refusal::Slow);
        }
        let (live, has, most) = (self.queue.live(), u64::from(count), self.rules.max_queued);
        if has > most {
            return Err(Refusal::NeverFits { has, what: "tasks", most, flag: "--max-queued" });
        }
        if live + has > most {
            return Err(Refusal::TooMany { live, most });
        }
        let (live, most) = (self.queue.live_bytes(), self.rules.max_queued_bytes);
        if bytes > most {
            let (has, what) = (bytes, "bytes of payloads");
            return Err(Refusal::NeverFits { has, what, most, flag: "--max-queued-bytes" });
        }
        if live + bytes > most {
            return Err(Refusal::TooLarge { live, most });
        }
        Ok(())
    }

    fn accept(&mut self, batch: &Batch, now: Timestamp) -> TaskId {
        let count = u64::try_from(batch.drafts.len()).unwrap_or(u64::MAX);
        if let Some(end) = self.queue.ids.wanted(count) {
            self.queue.ids.reserve(end);
            self.open.group.entries.push(Event::IdsReserved { end }.into());
            self.open.ids_end = Some(end);
        }
        self.open.bytes = self.open.bytes.saturating_add(batch.bytes);
        let first = self.queue.ids.next();
        for draft in &batch.drafts {
            let id = self.queue.ids.next();
            let spec = draft.accept(now);
            self.queue.accept(id, &spec, now);
            self.tally.submitted(&spec);
            // One that is not due would take the room of those that are.
            if spec.run_at <= now {
                self.staged.offer(id, &spec, &draft.payload, batch.bytes);
            }
            let event = Event::Submitted { id, spec };
            self.open.group.entries.push(Entry { event, bytes: draft.payload.clone() });
            self.open.stores_to = Some(id);
        }
        first
    }

    fn remember(&mut self, key: &Key, first: TaskId, count: u32, cursor: Seq, now: Timestamp) {
        let kept = if key.is_callers { limits::CALLER_KEY_KEPT } else { limits::CALL_KEY_KEPT };
        let batch = KeyedBatch {
            key: key.text.clone(),
            digest: key.digest,
            first,
            count,
            cursor,
            kept_until: now.plus(kept),
            outlives_tasks: key.is_callers,
        };
        self.keys.insert(batch.clone());
        self.open.group.entries.push(Event::Keyed(batch).into());
    }
}
