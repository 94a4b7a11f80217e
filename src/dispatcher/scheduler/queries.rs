//! Reads, cancels and retries. All answers wait for the group they depend on.

use tokio::sync::oneshot;

use super::Scheduler;
use super::group::Effect;
use super::message::{Again, Counted, Listing, Oldest, Running, Snapshot};
use super::space::Space;
use crate::core::id::{Seq, TaskId};
use crate::core::number_map::NumberSet;
use crate::core::queue::{Command, Standing};
use crate::core::task::{Spec, Status};
use bytes::Bytes;

impl Scheduler {
    pub(super) fn look(
        &mut self,
        ids: &[TaskId],
        wait: bool,
        reply: oneshot::Sender<Vec<Snapshot>>,
    ) {
        let snapshots = ids.iter().map(|id| self.snapshot(*id, wait)).collect();
        if self.space == Space::None {
            let asked: NumberSet<TaskId> = ids.iter().copied().collect();
            if !self.undecided().any(|id| asked.contains(&id)) {
                // A full disk keeps nobody from what is on it.
                drop(reply.send(snapshots));
                return;
            }
        }
        self.after_commit(Effect::Snapshots(reply, snapshots));
    }

    pub(super) fn cancel(
        &mut self,
        tasks: &[(TaskId, Option<Spec>)],
        reply: oneshot::Sender<Vec<Snapshot>>,
    ) {
        for (id, spec) in tasks {
            let Some(spec) = spec.filter(|_| !self.draining) else { continue };
            let held = self.queue.leases.find(*id);
            let lease = held.map(|held| (held.lease.holder.clone(), held.lease.token));
            let command = Command::Cancel { spec };
            let Ok(event) = self.queue.decide(*id, command, self.last_turn, 0) else { continue };
            self.record(event, Bytes::new());
            if let Some((holder, token)) = lease {
                self.stop_handler(&holder, token);
            }
        }
        let snapshots = tasks.iter().map(|(id, _)| self.snapshot(*id, false)).collect();
        self.after_commit(Effect::Snapshots(reply, snapshots));
    }

    pub(super) fn retry(&mut self, tasks: &[Again], reply: oneshot::Sender<Vec<Snapshot>>) {
        for task in tasks {
            let Some((spec, last, attempts, token)) = task.known.filter(|_| !self.draining) else {
                continue;
            };
            let command = Command::Retry { spec, last, attempts, token };
            if let Ok(event) = self.queue.decide(task.id, command, self.last_turn, 0) {
                self.record(event, Bytes::new());
            }
        }
        let snapshots = tasks.iter().map(|task| self.snapshot(task.id, false)).collect();
        self.after_commit(Effect::Snapshots(reply, snapshots));
    }

    pub(super) fn list(&mut self, listing: &Listing, reply: oneshot::Sender<Vec<Snapshot>>) {
        let Listing { status, type_id, before, limit } = *listing;
        let queue = &self.queue;
        let in_status = |status| match status {
            Status::Pending => queue.lanes.newest(type_id, before, limit),
            Status::Running => queue.leases.newest(before, limit),
            ended => queue.ended.newest(ended, before, limit),
        };
        let all = [
            Status::Pending,
            Status::Running,
            Status::Completed,
            Status::Failed,
            Status::Cancelled,
        ];
        let mut ids: Vec<TaskId> = match status {
            Some(status) => in_status(status),
            None => all.into_iter().flat_map(in_status).collect(),
        };
        ids.sort_unstable_by(|a, b| b.cmp(a));
        ids.truncate(limit);
        let snapshots = ids.into_iter().map(|id| self.snapshot(id, false)).collect();
        self.after_commit(Effect::Snapshots(reply, snapshots));
    }

    pub(super) fn stats(&mut self, reply: oneshot::Sender<Counted>) {
        let held = self.held_by_worker();
        let mut stats = self.tally.report(&self.types, &self.queue, &self.fleet, &held);
        stats.uptime_ms = self.tally.uptime_ms(self.last_turn);
        let lanes = &self.queue.lanes;
        let ids = self.types.by_name().map(|(_, id)| lanes.oldest(id)).enumerate();
        let oldest = ids.filter_map(|(place, id)| {
            let id = id?;
            Some(Oldest { place, id, due: self.queue.due(id) })
        });
        let oldest = oldest.collect();
        // Counted are of this moment: they depend on no commit.
        drop(reply.send(Counted { stats, oldest, now: self.last_turn }));
    }

    /// The end of what is durable: a watch from there is told what becomes durable
    /// after this moment, and a place beyond it may come to nothing in a crash.
    pub(super) fn end(&self, reply: oneshot::Sender<Seq>) {
        let end = self.durable_to;
        // A caller that has left needs no answer.
        reply.send(end).ok();
    }

    pub(super) fn snapshot(&mut self, id: TaskId, wait: bool) -> Snapshot {
        let standing = self.queue.standing(id);
        let given = self.queue.ids.was_given(id);
        let running = self.queue.leases.find(id).map(|held| Running {
            attempt: held.lease.attempt,
            worker: held.lease.holder.worker.clone(),
            leased: held.lease.leased,
            last: held.progress.last,
        });
        let is_open = match standing {
            Standing::Pending(..) | Standing::Running => true,
            Standing::Ended(..) | Standing::Absent => false,
        };
        let ends = (wait && is_open).then(|| self.wait_for(id));
        Snapshot { id, given, standing, running, ends }
    }

    fn wait_for(&mut self, id: TaskId) -> oneshot::Receiver<super::Ended> {
        let (tell, ends) = oneshot::channel();
        let waiters = self.waiters.entry(id).or_default();
        waiters.retain(|waiter| !waiter.is_closed());
        waiters.push(tell);
        ends
    }
}
