//! What becomes durable together, and what happens once it is.

use taskgrid::core::event::{Event, TaskEvent};
use taskgrid::core::id::{Seq, TaskId, Token};
use taskgrid::core::placement::Member;
use taskgrid::core::queue::Standing;

use super::{Dispatcher, Errand, Turn, Why};
use crate::log::Group;
use crate::wire::{Assignment, Down};

/// The group that fills, or the one that is being synced.
#[derive(Debug, Default)]
pub(super) struct Open {
    pub(super) group: Group,
    pub(super) effects: Vec<Effect>,
    pub(super) ids_end: Option<TaskId>,
    pub(super) stores_to: Option<TaskId>,
}

impl Open {
    pub(super) fn is_empty(&self) -> bool {
        self.group.is_empty() && self.effects.is_empty()
    }
}

/// What waits for a group to be durable.
#[derive(Debug, Clone, Copy)]
pub(super) enum Effect {
    Receipt(u64, Option<TaskId>),
    View(u64, TaskId, Standing, Why),
    Push(Member, Assignment),
    /// The outcome is final; `true` if it is what was stored.
    Answer(Member, TaskId, Token, bool),
    Judge(Member, Token, Seq),
    Stop(Member, Token),
}

/// Frames for one worker.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    pub(super) assign: Vec<Assignment>,
    pub(super) settled: Vec<Token>,
    pub(super) cancel: Vec<Token>,
}

impl Dispatcher {
    pub(super) fn record(&mut self, event: TaskEvent, result: u64, cx: &mut Turn<'_>) {
        cx.oracle.recorded(&event);
        let is_end = event.change.status().is_terminal();
        if is_end && self.queue.progress(event.id).runs_alone(&event.spec) {
            self.fleet.give_up(event.id);
        }
        self.queue.apply(&event, cx.now);
        if is_end {
            self.staged.remove(&event.id);
        }
        self.open.group.entries.push((Event::Changed(event), result));
    }

    /// Lets an effect happen once all that was decided before is durable.
    pub(super) fn after_commit(&mut self, effect: Effect, cx: &mut Turn<'_>) {
        if !self.open.group.is_empty() {
            self.open.effects.push(effect);
        } else if let Some(in_flight) = &mut self.in_flight {
            in_flight.effects.push(effect);
        } else {
            self.carry_out(effect, cx);
        }
    }

    pub(super) fn commit(&mut self) {
        if self.in_flight.is_some() || self.open.group.is_empty() {
            return;
        }
        self.write_notes();
        self.in_flight = Some(std::mem::take(&mut self.open));
        self.errands.push(Errand::Commit);
    }

    /// The group in flight is durable: everything that waited for it happens.
    pub(crate) fn on_committed(&mut self, cx: &mut Turn<'_>) {
        let Some(open) = self.in_flight.take() else { return };
        if let Some(end) = open.ids_end {
            self.queue.ids.sync(end);
        }
        if let Some(id) = open.stores_to {
            self.stored_to = self.stored_to.max(id);
        }
        for effect in open.effects {
            self.carry_out(effect, cx);
        }
    }

    pub(super) fn carry_out(&mut self, effect: Effect, cx: &mut Turn<'_>) {
        match effect {
            Effect::Receipt(call, first) => self.errands.push(Errand::Receipt(call, first)),
            Effect::View(call, id, standing, why) => {
                self.errands.push(Errand::View(call, id, standing, why));
            }
            Effect::Push(member, assignment) => {
                self.outgoing.entry(member).or_default().assign.push(assignment);
            }
            Effect::Answer(member, id, token, is_accepted) => {
                if is_accepted {
                    cx.oracle.answered(id, token, cx.log);
                }
                self.outgoing.entry(member).or_default().settled.push(token);
            }
            Effect::Judge(member, token, place) => {
                self.errands.push(Errand::Judge(member, token, place));
            }
            Effect::Stop(member, token) => {
                self.outgoing.entry(member).or_default().cancel.push(token);
            }
        }
    }

    pub(super) fn send_frames(&mut self) {
        for (member, outgoing) in std::mem::take(&mut self.outgoing) {
            let Some(session) = self.sessions.get(&member) else { continue };
            let Outgoing { assign, settled, cancel } = outgoing;
            let mut send = |frame| self.errands.push(Errand::Send(session.conn, frame));
            if !assign.is_empty() {
                send(Down::Assign { number: session.number, tasks: assign });
            }
            if !settled.is_empty() {
                send(Down::Settled(settled));
            }
            if !cancel.is_empty() {
                send(Down::Cancel(cancel));
            }
        }
    }
}
