//! What goes wrong from outside, and what comes back afterwards.

use super::{Happening, World};
use crate::plan::Fault;
use crate::wire::Up;
use crate::worker::Worker;

impl World {
    pub(super) fn schedule_fault(&mut self) {
        if let Some((after, fault)) = self.plan.next_fault(&mut self.dice)
            && self.now + after <= self.plan.faults_until
        {
            self.schedule(after, Happening::Fault(fault));
        }
    }

    pub(super) fn strike(&mut self, fault: Fault) {
        let at = self.dice.place(self.workers.len());
        let is_up = self.dispatcher.is_some();
        match fault {
            Fault::DispatcherCrash if is_up => self.crash_dispatcher(),
            Fault::DispatcherStop if is_up && self.paused_until <= self.now => {
                if let Some(dispatcher) = self.dispatcher.as_mut().filter(|d| !d.draining) {
                    dispatcher.begin_drain();
                    self.schedule_turn(self.now);
                }
            }
            Fault::DispatcherPause if is_up && self.paused_until <= self.now => {
                // Longer than a third of a lease: shorter ones are forgiven by its length.
                let span = self.dice.between(400, 3_000);
                self.paused_until = self.now + span;
                self.paused += span;
            }
            Fault::WorkerCrash if self.workers[at].alive => self.kill_worker(at),
            Fault::WorkerDrain if self.workers[at].alive && !self.workers[at].draining => {
                let patience = self.now + self.dice.between(0, 800);
                let incarnation = self.workers[at].holder.incarnation;
                self.shift(at, Worker::drain);
                self.schedule(0, Happening::Leaving(at, incarnation, patience));
            }
            Fault::WorkerPause => {
                self.workers[at].paused_until = self.now + self.dice.between(50, 3_000);
            }
            Fault::ConnBreak => {
                if let Some(conn) = self.conn_of(at) {
                    self.break_conn(conn);
                }
            }
            Fault::ConnStall => self.stall(at),
            Fault::DispatcherCrash
            | Fault::DispatcherStop
            | Fault::DispatcherPause
            | Fault::WorkerCrash
            | Fault::WorkerDrain => {}
        }
        self.schedule_fault();
    }

    fn stall(&mut self, at: usize) {
        let until = self.now + self.dice.between(50, 2_500);
        let (down, up) = (self.dice.chance(600), self.dice.chance(600));
        let Some(conn) = self.conn_of(at).and_then(|conn| self.conns.get_mut(&conn)) else {
            return;
        };
        if down {
            conn.down_stalled_until = until;
        }
        if up {
            conn.up_stalled_until = until;
        }
    }

    /// The dispatcher's process is gone; the disk may have had its last group.
    fn crash_dispatcher(&mut self) {
        let Some(mut dispatcher) = self.dispatcher.take() else { return };
        let group = dispatcher.take_in_flight();
        if let Some(group) = group.filter(|_| self.dice.chance(500)) {
            self.append(group);
        }
        self.dispatcher_is_gone();
    }

    /// The dispatcher has stopped in good order.
    pub(super) fn end_dispatcher(&mut self) {
        self.dispatcher = None;
        self.dispatcher_is_gone();
    }

    fn dispatcher_is_gone(&mut self) {
        self.forget_links();
        self.next_turn = None;
        // What was due for this boot is for nobody.
        self.boot += 1;
        self.paused -= self.paused_until.saturating_sub(self.now);
        self.paused_until = 0;
        let after = self.dice.between(10, 1_500);
        self.schedule(after, Happening::DispatcherStarts);
    }

    /// A worker's process is gone.
    pub(super) fn kill_worker(&mut self, at: usize) {
        let conn = self.workers[at].session.map(|session| session.conn);
        self.workers[at].die(&mut self.oracle);
        self.workers[at].paused_until = 0;
        let linked = self.conn_of(at).filter(|linked| Some(*linked) != conn);
        for conn in conn.into_iter().chain(linked) {
            self.cut_up(conn);
        }
        let after = self.dice.between(10, 1_500);
        self.schedule(after, Happening::WorkerStarts(at));
    }

    /// A worker that drains: lets handlers finish for a while, gives back what still
    /// runs, waits a moment for the last answers, and goes.
    pub(super) fn leave(&mut self, at: usize, patience: u64) {
        let is_late = self.now >= patience;
        if is_late && !self.workers[at].is_idle() {
            self.shift(at, Worker::give_up_all);
        }
        let worker = &self.workers[at];
        let has_waited = self.now >= patience + 1_000;
        if worker.is_idle() && worker.is_answered() || has_waited {
            let conn = worker.session.map(|session| session.conn);
            self.workers[at].die(&mut self.oracle);
            if let Some(conn) = conn {
                self.push_up(conn, Up::Closed { goodbye: true });
            }
            let after = self.dice.between(10, 1_500);
            return self.schedule(after, Happening::WorkerStarts(at));
        }
        let incarnation = worker.holder.incarnation;
        self.schedule(20, Happening::Leaving(at, incarnation, patience));
    }
}
