//! Connections between the dispatcher and the workers: who dials whom, what is
//! delivered, and what is lost.

use taskgrid::core::id::millis;
use taskgrid::core::placement::Member;

use super::{Happening, World};
use crate::dispatcher::{LEASE, Message};
use crate::wire::{Conn, Down, Up};

/// The dispatcher's end of its conversation with one worker.
#[derive(Debug, Default)]
pub(super) struct Link {
    conn: Option<u64>,
    /// The loop was told of the worker and has not answered.
    joining: bool,
    member: Option<Member>,
    heard: u64,
}

impl World {
    pub(super) fn dial(&mut self, at: usize) {
        let worker = &self.workers[at];
        // A worker that leaves is no longer registered; a link may still find it.
        let answers = worker.alive && (!worker.draining || self.dice.chance(300));
        if !answers || self.links[at].conn.is_some() {
            return self.dial_again(at);
        }
        self.sessions += 1;
        let number = self.sessions;
        let name = self.boot * 1_000_000 + number;
        let conn = Conn {
            worker: at,
            incarnation: self.workers[at].holder.incarnation,
            boot: self.boot,
            number,
            down: std::collections::VecDeque::new(),
            up: std::collections::VecDeque::new(),
            serial: None,
            down_stalled_until: 0,
            up_stalled_until: 0,
        };
        self.conns.insert(name, conn);
        self.links[at] = Link { conn: Some(name), joining: false, member: None, heard: self.now };
        let epoch = self.dispatcher.as_ref().and_then(|dispatcher| dispatcher.queue.epoch());
        let epoch = epoch.expect("a dispatcher that dials has begun its boot");
        self.push_down(name, Down::Hello { epoch, number });
        self.schedule(millis(LEASE), Happening::LinkCheck(name));
    }

    fn dial_again(&mut self, at: usize) {
        let after = self.dice.between(20, 250);
        self.schedule(after, Happening::Dial(self.boot, at));
    }

    pub(super) fn push_down(&mut self, name: u64, frame: Down) {
        let after = self.latency();
        if let Down::Assign { tasks, .. } = &frame {
            for task in tasks {
                self.oracle.pushed(task.id, task.payload);
            }
        }
        let Some(conn) = self.conns.get_mut(&name) else { return };
        conn.down.push_back(frame);
        self.schedule(after, Happening::Down(name));
    }

    pub(super) fn push_up(&mut self, name: u64, frame: Up) {
        let after = self.latency();
        let Some(conn) = self.conns.get_mut(&name) else { return };
        conn.up.push_back(frame);
        self.schedule(after, Happening::Up(name));
    }

    pub(super) fn deliver_down(&mut self, name: u64) {
        let Some(conn) = self.conns.get_mut(&name) else { return };
        if conn.down_stalled_until > self.now {
            let until = conn.down_stalled_until;
            return self.schedule_at(until, Happening::Down(name));
        }
        let (at, incarnation, serial) = (conn.worker, conn.incarnation, conn.serial);
        let Some(frame) = conn.down.pop_front() else { return };
        if !self.is_alive(at, incarnation) {
            return;
        }
        self.oracle.note(|| format!("  {frame:?}"));
        match (frame, serial) {
            (Down::Hello { epoch, number }, _) => {
                let serial = self.shift(at, |worker, cx| worker.attach(name, epoch, number, cx));
                if serial.is_none() {
                    self.push_up(name, Up::Closed { goodbye: false });
                }
                if let Some(conn) = self.conns.get_mut(&name) {
                    conn.serial = serial;
                }
            }
            (Down::Assign { number, tasks }, Some(serial)) => {
                self.shift(at, |worker, cx| worker.assign(serial, number, &tasks, cx));
            }
            (Down::Settled(tokens), Some(serial)) => {
                self.shift(at, |worker, cx| worker.settled(serial, &tokens, cx));
            }
            (Down::Cancel(tokens), Some(serial)) => {
                self.shift(at, |worker, cx| worker.cancel(serial, &tokens, cx));
            }
            (Down::Closed, Some(serial)) => self.workers[at].detach(serial, self.bug),
            (Down::Assign { .. } | Down::Settled(_) | Down::Cancel(_) | Down::Closed, None) => {}
        }
    }

    pub(super) fn deliver_up(&mut self, name: u64) {
        let Some(conn) = self.conns.get_mut(&name) else { return };
        let at = conn.worker;
        let is_heard = self.dispatcher.is_some() && self.links[at].conn == Some(name);
        if conn.boot != self.boot || !is_heard {
            return conn.up.clear();
        }
        if conn.up_stalled_until > self.now {
            let until = conn.up_stalled_until;
            return self.schedule_at(until, Happening::Up(name));
        }
        // The loop's answer to the hello comes before anything else is read.
        if self.links[at].joining {
            return self.schedule(5, Happening::Up(name));
        }
        let number = conn.number;
        let Some(frame) = conn.up.pop_front() else { return };
        self.links[at].heard = self.now;
        self.oracle.note(|| format!("  {frame:?}"));
        match frame {
            Up::Hello(hello) => {
                let spec = |id| self.log.tasks.get(id).map(|(spec, _)| *spec);
                let specs = hello.held.iter().map(|held| spec(&held.id)).collect();
                self.links[at].joining = true;
                self.tell(Message::Join { conn: name, number, hello, specs });
            }
            Up::Report(report) => {
                if let Some(member) = self.links[at].member {
                    self.tell(Message::Report { member, report });
                }
            }
            Up::Closed { goodbye } => self.hang_up(at, goodbye),
        }
    }

    /// The loop knows the worker.
    pub(super) fn joined(&mut self, name: u64, member: Member) {
        let Some(conn) = self.conns.get(&name) else { return };
        let link = &mut self.links[conn.worker];
        if link.conn == Some(name) {
            (link.joining, link.member, link.heard) = (false, Some(member), self.now);
            self.schedule(millis(LEASE), Happening::LinkCheck(name));
        }
    }

    /// A worker that is silent for a whole lease is given up.
    pub(super) fn check_link(&mut self, name: u64) {
        let Some(conn) = self.conns.get_mut(&name) else { return };
        let at = conn.worker;
        let link = &self.links[at];
        if link.conn != Some(name) || link.joining || conn.boot != self.boot {
            return;
        }
        let until = link.heard + millis(LEASE);
        let is_readable = !conn.up.is_empty() && conn.up_stalled_until <= self.now;
        if until > self.now || is_readable {
            return self.schedule_at(until.max(self.now + 5), Happening::LinkCheck(name));
        }
        self.push_down(name, Down::Closed);
        self.hang_up(at, false);
    }

    /// The dispatcher's end is over.
    fn hang_up(&mut self, at: usize, goodbye: bool) {
        let link = std::mem::take(&mut self.links[at]);
        if let Some(member) = link.member {
            self.tell(Message::Leave { member, goodbye });
        }
        self.dial_again(at);
    }

    /// A connection breaks: from anywhere on, what is under way is lost, and each
    /// end hears of it in its own time.
    pub(super) fn break_conn(&mut self, name: u64) {
        self.cut_down(name);
        self.cut_up(name);
    }

    /// Loses what is under way to the worker, from anywhere on.
    pub(super) fn cut_down(&mut self, name: u64) {
        let stall = if self.dice.chance(300) { self.dice.between(1, 900) } else { 0 };
        let Some(conn) = self.conns.get_mut(&name) else { return };
        let kept = self.dice.place(conn.down.len() + 1);
        conn.down.truncate(kept);
        conn.down_stalled_until = conn.down_stalled_until.max(self.now + stall);
        self.push_down(name, Down::Closed);
    }

    /// Loses what is under way to the dispatcher, from anywhere on.
    pub(super) fn cut_up(&mut self, name: u64) {
        let stall = if self.dice.chance(300) { self.dice.between(1, 900) } else { 0 };
        let Some(conn) = self.conns.get_mut(&name) else { return };
        let kept = self.dice.place(conn.up.len() + 1);
        conn.up.truncate(kept);
        conn.up_stalled_until = conn.up_stalled_until.max(self.now + stall);
        self.push_up(name, Up::Closed { goodbye: false });
    }

    /// The connection over which a worker is spoken to.
    pub(super) fn conn_of(&self, at: usize) -> Option<u64> {
        self.links[at].conn
    }

    /// Forgets all links: the process that had them is gone.
    pub(super) fn forget_links(&mut self) {
        let boot = self.boot;
        let names: Vec<u64> =
            self.conns.iter().filter(|(_, c)| c.boot == boot).map(|(n, _)| *n).collect();
        for name in names {
            self.cut_down(name);
            if let Some(conn) = self.conns.get_mut(&name) {
                conn.up.clear();
            }
        }
        self.links.iter_mut().for_each(|link| *link = Link::default());
    }
}
