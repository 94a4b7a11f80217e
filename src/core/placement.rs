//! Which worker gets the next task of a type: the least loaded one with credit,
//! ties going round.
//!
//! Credit is what a worker said it takes: its slots, plus a prefetch for each of
//! its types, less what it holds. What it holds is counted by what was sent and
//! what it answered, never inferred.
//!
//! Of short tasks a prefetch is done between two reports, and the worker that comes to
//! report a moment sooner would be given it all again, although its equals are no
//! slower. So one that was given more than its share of the last tasks is filled only
//! to a small depth, which keeps it busy, until the others have caught up.

use std::collections::BTreeMap;

use super::id::TaskId;
use super::task_type::TypeId;

/// Names a worker's session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member(pub u64);

/// The workers with a session.
#[derive(Debug, Default)]
pub struct Fleet {
    members: BTreeMap<Member, Load>,
    by_type: BTreeMap<TypeId, Serving>,
}

/// The workers that serve one type.
#[derive(Debug, Default)]
struct Serving {
    members: Vec<Member>,
    /// Where the search for the next one begins: after the one that was chosen last.
    turn: usize,
    /// The worker whose prefetch is being filled, and how many tasks more it gets.
    filled: Option<(Member, u32)>,
    /// Tasks that were given lately, to all.
    given: u64,
    /// The weights of all that are not draining.
    weight: u64,
}

/// What a worker takes beyond its slots, of one type.
#[derive(Debug, Default)]
struct Ahead {
    /// Tasks that it said it takes.
    tasks: u32,
    /// Tasks that it was given lately.
    given: u64,
    /// What its share goes by: its slots and its prefetch. While it has announced none,
    /// as much as the largest of the others: it may only have had no time to measure.
    weight: u64,
}

/// Tasks of a type that make up "lately": beyond twice as many, all counts are halved.
const LATELY: u64 = 8_192;
/// Tasks that a worker may have been given beyond its share …
const LEAD: u64 = 512;
/// … before it is given no more than this beyond its slots, or as many as its slots
/// where they are more.
const SHALLOW: u32 = 16;

/// Tasks that one worker gets in a row once all have something for each slot, and until
/// one has a free slot again. A message carries them together: what a message costs would
/// else be paid for a few tasks where many workers are filled in turn.
const IN_A_ROW: u32 = 256;

/// What one worker takes and holds.
#[derive(Debug)]
struct Load {
    slots: u32,
    held: u32,
    prefetch: BTreeMap<TypeId, Ahead>,
    draining: bool,
    alone: Alone,
}

/// Whether a worker is set aside for a task that must run alone.
#[derive(Debug, PartialEq, Eq)]
enum Alone {
    No,
    /// It gets nothing more until it holds nothing, and then this task.
    Reserved(TaskId),
    /// It runs such a task.
    Busy,
}

/// How a task may be placed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// In a free slot or in the prefetch.
    Any,
    /// In a free slot only.
    FreeSlot,
    /// On a worker that holds nothing else.
    Alone(TaskId),
}

impl Fleet {
    /// Adds a worker with what it serves and holds.
    pub fn join(&mut self, member: Member, types: &[TypeId], slots: u32, held: u32) {
        self.leave(member);
        let prefetch = types.iter().map(|id| (*id, Ahead::default())).collect();
        let load = Load { slots, held, prefetch, draining: false, alone: Alone::No };
        self.members.insert(member, load);
        for type_id in types {
            self.by_type.entry(*type_id).or_default().members.push(member);
            self.begin_shares(*type_id);
        }
    }

    /// Takes a worker out.
    pub fn leave(&mut self, member: Member) {
        let Some(load) = self.members.remove(&member) else { return };
        for type_id in load.prefetch.keys() {
            if let Some(serving) = self.by_type.get_mut(type_id) {
                serving.members.retain(|other| *other != member);
            }
            self.begin_shares(*type_id);
        }
    }

    /// Gives a worker nothing more.
    pub fn drain(&mut self, member: Member) {
        let Some(load) = self.members.get_mut(&member) else { return };
        load.draining = true;
        let types: Vec<TypeId> = load.prefetch.keys().copied().collect();
        for type_id in types {
            self.begin_shares(type_id);
        }
    }

    /// Begins to count who was given how much of a type: others share it now.
    fn begin_shares(&mut self, type_id: TypeId) {
        self.for_each_ahead(type_id, |_, ahead| ahead.given = 0);
        if let Some(serving) = self.by_type.get_mut(&type_id) {
            (serving.given, serving.filled) = (0, None);
        }
        self.weigh(type_id);
    }

    fn weigh(&mut self, type_id: TypeId) {
        let (mut most, mut sum) = (0, 0);
        self.for_each_ahead(type_id, |_, ahead| most = ahead.tasks.max(most));
        self.for_each_ahead(type_id, |slots, ahead| {
            let tasks = if ahead.tasks == 0 { most } else { ahead.tasks };
            ahead.weight = u64::from(slots) + u64::from(tasks);
            sum += ahead.weight;
        });
        if let Some(serving) = self.by_type.get_mut(&type_id) {
            serving.weight = sum;
        }
    }

    /// Does something with the slots and the prefetch of each that serves a type and is
    /// not draining.
    fn for_each_ahead(&mut self, type_id: TypeId, mut act: impl FnMut(u32, &mut Ahead)) {
        let serving = self.by_type.get(&type_id).into_iter();
        for member in serving.flat_map(|serving| &serving.members) {
            let load = self.members.get_mut(member).filter(|load| !load.draining);
            let Some(load) = load else { continue };
            if let Some(ahead) = load.prefetch.get_mut(&type_id) {
                act(load.slots, ahead);
            }
        }
    }

    /// Sets how far ahead tasks of a type may be sent.
    pub fn set_prefetch(&mut self, member: Member, type_id: TypeId, tasks: u32) {
        let load = self.members.get_mut(&member);
        if let Some(ahead) = load.and_then(|load| load.prefetch.get_mut(&type_id)) {
            ahead.tasks = tasks;
            self.weigh(type_id);
        }
    }

    /// Notes that a worker holds one task less.
    pub fn release(&mut self, member: Member) {
        let Some(load) = self.members.get_mut(&member) else { return };
        load.held = load.held.saturating_sub(1);
        if load.held == 0 && load.alone == Alone::Busy {
            load.alone = Alone::No;
        }
        if load.held < load.slots {
            for type_id in load.prefetch.keys() {
                if let Some(serving) = self.by_type.get_mut(type_id) {
                    serving.filled = None;
                }
            }
        }
    }

    /// How many tasks a worker holds.
    #[must_use]
    pub fn held(&self, member: Member) -> u32 {
        self.members.get(&member).map_or(0, |load| load.held)
    }

    /// How many workers serve a type.
    #[must_use]
    pub fn serving(&self, type_id: TypeId) -> usize {
        self.by_type.get(&type_id).map_or(0, |serving| serving.members.len())
    }

    /// How many tasks of a type could be sent at this moment.
    #[must_use]
    pub fn room(&self, type_id: TypeId) -> u32 {
        let serving = self.by_type.get(&type_id).into_iter().flat_map(|serving| &serving.members);
        let room = serving.filter_map(|member| Some(self.members.get(member)?.room(type_id)));
        room.fold(0, u32::saturating_add)
    }

    /// Gives back the worker that was set aside for a task, if one was: the task
    /// has ended before its run alone, or runs elsewhere.
    pub fn give_up(&mut self, task: TaskId) {
        for load in self.members.values_mut() {
            if load.alone == Alone::Reserved(task) {
                load.alone = Alone::No;
            }
        }
    }

    /// Notes that a worker came back with a task that runs alone: it gets nothing
    /// more until it holds nothing.
    pub fn keep_alone(&mut self, member: Member) {
        if let Some(load) = self.members.get_mut(&member) {
            load.alone = Alone::Busy;
        }
    }

    /// Chooses a worker for one task of a type and counts the task as held by it.
    pub fn place(&mut self, type_id: TypeId, need: Need) -> Option<Member> {
        match need {
            Need::Any | Need::FreeSlot => self.place_beside(type_id, need),
            Need::Alone(task) => self.place_alone(type_id, task),
        }
    }

    fn place_beside(&mut self, type_id: TypeId, need: Need) -> Option<Member> {
        let member = match self.place_in_a_row(type_id, need) {
            Some(member) => member,
            None => self.least_loaded(type_id, need)?,
        };
        let load = self.members.get_mut(&member)?;
        load.held += 1;
        load.prefetch.get_mut(&type_id)?.given += 1;
        let serving = self.by_type.get_mut(&type_id)?;
        serving.given += 1;
        if serving.given > 2 * LATELY {
            self.halve_shares(type_id);
        }
        Some(member)
    }

    /// The worker that got the task before, while it is filled.
    fn place_in_a_row(&mut self, type_id: TypeId, need: Need) -> Option<Member> {
        let serving = self.by_type.get_mut(&type_id)?;
        let (member, left) = serving.filled.take()?;
        let load = self.members.get(&member)?;
        let goes_on = need == Need::Any && load.has_room(type_id, need, serving.shares());
        if goes_on && left > 1 {
            serving.filled = Some((member, left - 1));
        }
        goes_on.then_some(member)
    }

    fn least_loaded(&mut self, type_id: TypeId, need: Need) -> Option<Member> {
        let serving = self.by_type.get_mut(&type_id)?;
        let turn = serving.turn.checked_rem(serving.members.len())?;
        let shares = serving.shares();
        let members = serving.members.iter().copied().enumerate();
        let in_turn = members.clone().skip(turn).chain(members.take(turn));
        let mut best: Option<(usize, Member, u64, u64)> = None;
        for (at, member) in in_turn {
            let Some(load) = self.members.get(&member) else { continue };
            if !load.has_room(type_id, need, shares) {
                continue;
            }
            let (held, slots) = (u64::from(load.held), u64::from(load.slots));
            // held / slots < best held / best slots, without dividing.
            if best.is_none_or(|(_, _, bh, bs)| held * bs < bh * slots) {
                best = Some((at, member, held, slots));
            }
        }
        let (at, member, held, slots) = best?;
        serving.turn = at + 1;
        serving.filled = (held >= slots).then_some((member, IN_A_ROW - 1));
        Some(member)
    }

    fn halve_shares(&mut self, type_id: TypeId) {
        let mut sum = 0;
        self.for_each_ahead(type_id, |_, ahead| {
            ahead.given /= 2;
            sum += ahead.given;
        });
        if let Some(serving) = self.by_type.get_mut(&type_id) {
            serving.given = sum;
        }
    }

    /// A worker that holds nothing gets the task; if none does, the one that holds
    /// least is set aside for it, so that a busy grid does not put it off for ever.
    /// One that is set aside for a later task is taken over if there is no other:
    /// of a type only the first such task is placed, and must not wait for the next.
    fn place_alone(&mut self, type_id: TypeId, task: TaskId) -> Option<Member> {
        let serving = self.by_type.get(&type_id)?;
        let candidates = serving.members.iter().filter_map(|member| {
            let load = self.members.get(member).filter(|load| !load.draining)?;
            let rank = match load.alone {
                Alone::Reserved(other) if other == task => 0,
                Alone::No => 1,
                Alone::Reserved(later) if later > task => 2,
                Alone::Reserved(_) | Alone::Busy => return None,
            };
            Some((load.held > 0, rank, load.held, *member))
        });
        let (is_busy, _, _, member) = candidates.min()?;
        if is_busy {
            self.members.get_mut(&member)?.alone = Alone::Reserved(task);
            return None;
        }
        self.start_alone(member, task)
    }

    fn start_alone(&mut self, member: Member, task: TaskId) -> Option<Member> {
        self.give_up(task);
        let load = self.members.get_mut(&member)?;
        (load.alone, load.held) = (Alone::Busy, 1);
        Some(member)
    }
}

impl Serving {
    fn shares(&self) -> Shares {
        Shares { given: self.given, weight: self.weight }
    }
}

impl Load {
    fn room(&self, type_id: TypeId) -> u32 {
        let ahead = self.prefetch.get(&type_id).map_or(0, |ahead| ahead.tasks);
        match self.alone {
            Alone::No if !self.draining => {
                self.slots.saturating_add(ahead).saturating_sub(self.held)
            }
            Alone::No | Alone::Reserved(_) | Alone::Busy => 0,
        }
    }

    fn has_room(&self, type_id: TypeId, need: Need, shares: Shares) -> bool {
        let beyond = match (need, self.prefetch.get(&type_id)) {
            (Need::Any, Some(ahead)) if shares.is_exceeded_by(ahead) => {
                ahead.tasks.min(self.slots.max(SHALLOW))
            }
            (Need::Any, Some(ahead)) => ahead.tasks,
            (Need::Any, None) | (Need::FreeSlot | Need::Alone(_), _) => 0,
        };
        !self.draining && self.alone == Alone::No && self.held < self.slots.saturating_add(beyond)
    }
}

/// How much of a type was given lately, and what all its workers weigh.
#[derive(Debug, Clone, Copy)]
struct Shares {
    given: u64,
    weight: u64,
}

impl Shares {
    /// Whether a worker was given more than its share and the lead that is allowed:
    /// given - lead > all given * weight / all weights, without dividing.
    fn is_exceeded_by(self, ahead: &Ahead) -> bool {
        ahead.given.saturating_sub(LEAD) * self.weight > self.given * ahead.weight
    }
}

#[cfg(test)]
mod tests;
