//! Sending ready tasks to workers with credit, and noting the leases.

use std::collections::BTreeMap;

use taskgrid::core::event::{Event, LeaseNote, LeaseNotes};
use taskgrid::core::id::TaskId;
use taskgrid::core::placement::Need;
use taskgrid::core::task::{Holder, Spec};
use taskgrid::core::task_type::TypeId;

use super::group::Effect;
use super::{Dispatcher, Errand, LEASE, Turn};
use crate::bugs::Bug;
use crate::wire::Assignment;

/// Tasks of one type that are placed in one go.
const TURN: usize = 8;
/// Tasks that are read at once.
const FETCH: usize = 4;

impl Dispatcher {
    pub(super) fn assign(&mut self, cx: &mut Turn<'_>) {
        if self.draining || !self.is_gate_open() {
            return;
        }
        let types: Vec<TypeId> = self.queue.lanes.ready_types().collect();
        for type_id in types {
            self.assign_alone(type_id, cx);
            while self.assign_some(type_id, cx) {}
        }
    }

    fn assign_alone(&mut self, type_id: TypeId, cx: &mut Turn<'_>) {
        let Some(id) = self.queue.lanes.next_alone(type_id) else { return };
        match self.staged.get(&id).map(|(spec, _)| *spec) {
            Some(spec) => _ = self.place(id, &spec, cx),
            None => self.fetch(type_id),
        }
    }

    fn assign_some(&mut self, type_id: TypeId, cx: &mut Turn<'_>) -> bool {
        let room = usize::try_from(self.fleet.room(type_id)).unwrap_or(usize::MAX);
        if room == 0 || self.fetching.contains(&type_id) {
            return false;
        }
        let wanted = room.min(TURN);
        let ids: Vec<TaskId> = self.queue.lanes.next(type_id).take(wanted).collect();
        let mut placed = 0;
        for id in &ids {
            let Some((spec, _)) = self.staged.get(id).copied() else {
                self.fetch(type_id);
                return false;
            };
            if self.place(*id, &spec, cx) {
                placed += 1;
            }
        }
        placed == wanted
    }

    fn place(&mut self, id: TaskId, spec: &Spec, cx: &mut Turn<'_>) -> bool {
        let progress = self.queue.progress(id);
        let need = if progress.runs_alone(spec) {
            Need::Alone(id)
        } else if spec.at_most_once() || progress.runs_at_once() {
            Need::FreeSlot
        } else {
            Need::Any
        };
        let Some(member) = self.fleet.place(spec.type_id, need) else { return false };
        let Some(session) = self.sessions.get(&member) else { return false };
        let holder = session.holder.clone();
        let is_cautious = id < self.inherited_below && cx.now < self.cautious_until;
        let charged = need != Need::Any || is_cautious;
        let note = self.queue.lease(id, spec, &holder, cx.now, cx.now.plus(LEASE), charged);
        let (Some(note), Some((_, payload))) = (note, self.staged.remove(&id)) else {
            self.fleet.release(member);
            return false;
        };
        let beside = self.queue.leases.of(&holder);
        let lone = beside.iter().find(|id| self.runs_alone(**id));
        if let Some(lone) = lone.filter(|_| beside.len() > 1) {
            cx.oracle.violated(format!("task {lone} must run alone and is one of {beside:?}"));
        }
        if matches!(need, Need::Alone(_)) {
            cx.oracle.bite("run alone");
        }
        cx.oracle.leased(&note, &holder, cx.awake);
        let assignment = Assignment {
            id,
            sequence: note.token.sequence,
            payload,
            attempt: note.attempt,
            timeout_ms: spec.timeout_ms,
        };
        let forgets = cx.bug == Some(Bug::OnceUnnoted) && spec.at_most_once();
        if charged && !forgets {
            self.write_note(&holder, vec![note]);
            self.open.effects.push(Effect::Push(member, assignment));
        } else if self.queue.ids.is_synced(id) {
            if !forgets {
                self.fresh.push((holder, note));
            }
            self.outgoing.entry(member).or_default().assign.push(assignment);
        } else {
            self.fresh.push((holder, note));
            self.after_commit(Effect::Push(member, assignment), cx);
        }
        true
    }

    fn fetch(&mut self, type_id: TypeId) {
        let missing = |id: &TaskId| !self.staged.contains_key(id) && *id <= self.stored_to;
        let lanes = &self.queue.lanes;
        let next = lanes.next_alone(type_id).into_iter().chain(lanes.next(type_id).take(FETCH));
        let ids: Vec<TaskId> = next.filter(missing).collect();
        if ids.is_empty() || !self.fetching.insert(type_id) {
            return;
        }
        self.errands.push(Errand::Fetch(type_id, ids));
    }

    /// Notes of the leases that were given before the last group and are still open.
    pub(super) fn write_notes(&mut self) {
        let fresh = std::mem::take(&mut self.fresh);
        let aging = std::mem::replace(&mut self.aging, fresh);
        self.write_open(aging);
    }

    pub(super) fn note_all_leases(&mut self) {
        let mut leases = std::mem::take(&mut self.aging);
        leases.append(&mut self.fresh);
        self.write_open(leases);
    }

    fn write_open(&mut self, leases: Vec<(Holder, LeaseNote)>) {
        let mut by_holder: BTreeMap<Holder, Vec<LeaseNote>> = BTreeMap::new();
        for (holder, note) in leases {
            let held = self.queue.leases.find(note.id);
            if held.is_some_and(|held| held.lease.token == note.token) {
                by_holder.entry(holder).or_default().push(note);
            }
        }
        for (holder, notes) in by_holder {
            self.write_note(&holder, notes);
        }
    }

    fn write_note(&mut self, holder: &Holder, leases: Vec<LeaseNote>) {
        let note = self.queue.notes.number();
        for lease in &leases {
            self.queue.notes.open(note);
            self.queue.leases.note(lease.id, note);
        }
        let notes = LeaseNotes { note, holder: holder.clone(), leases };
        self.open.group.entries.push((Event::Leased(notes), 0));
    }
}
