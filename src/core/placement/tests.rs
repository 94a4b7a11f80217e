use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::{Just, Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};

use super::*;

const TYPE: TypeId = TypeId(0);
const OTHER: TypeId = TypeId(1);

#[test]
fn the_least_loaded_worker_wins_by_its_share_not_by_its_count() {
    let mut fleet = fleet(&[(1, 4, 2), (2, 8, 3), (3, 2, 2)]);
    assert_eq!(fleet.place(TYPE, Need::Any), Some(Member(2)));
    assert_eq!(fleet.place(TYPE, Need::Any), Some(Member(1)), "4 of 8 is not less than 2 of 4");
}

#[test]
fn equal_workers_share_evenly_even_if_every_task_is_over_at_once() {
    let mut fleet = fleet(&[(1, 4, 0), (2, 4, 0), (3, 4, 0)]);
    assert_eq!(shares(&mut fleet, 300), [100, 100, 100]);
}

#[test]
fn a_worker_is_filled_in_a_row_once_no_slot_is_free_and_until_one_is() {
    let mut fleet = fleet(&[(1, 1, 0), (2, 1, 0), (3, 1, 0)]);
    for member in 1..=3 {
        fleet.set_prefetch(Member(member), TYPE, IN_A_ROW + 36);
    }
    let mut next = |count: u32| {
        (0..count).map(|_| fleet.place(TYPE, Need::Any).unwrap().0).collect::<Vec<_>>()
    };
    assert_eq!(next(3), [1, 2, 3], "each slot");
    let row = usize::try_from(IN_A_ROW).unwrap();
    assert_eq!(next(IN_A_ROW), vec![1; row]);
    assert_eq!(next(IN_A_ROW), vec![2; row]);
    assert_eq!(next(5), [3; 5]);
    let empty = fleet.held(Member(1));
    for _ in 0..empty {
        fleet.release(Member(1));
    }
    assert_eq!(fleet.place(TYPE, Need::Any), Some(Member(1)), "its slot is free");
}

#[test]
fn equal_workers_share_evenly_when_types_take_turns() {
    let mut fleet = Fleet::default();
    for member in 1..=2 {
        fleet.join(Member(member), &[TYPE, OTHER], 4, 0);
    }
    let mut by_type = BTreeMap::<(TypeId, Member), u32>::new();
    for turn in 0..200 {
        let type_id = if turn % 2 == 0 { TYPE } else { OTHER };
        let member = fleet.place(type_id, Need::Any).unwrap();
        *by_type.entry((type_id, member)).or_default() += 1;
        fleet.release(member);
    }
    assert_eq!(by_type.into_values().collect::<Vec<_>>(), [50, 50, 50, 50]);
}

#[test]
fn the_share_of_a_worker_that_takes_nothing_is_spread_over_all_others() {
    let mut fleet = fleet(&[(1, 4, 0), (2, 4, 0), (3, 4, 0)]);
    fleet.drain(Member(1));
    assert_eq!(shares(&mut fleet, 300), [0, 150, 150]);
}

#[test]
fn credit_is_slots_and_the_prefetch_of_the_type() {
    let mut fleet = Fleet::default();
    fleet.join(Member(1), &[TYPE, OTHER], 2, 0);
    fleet.set_prefetch(Member(1), TYPE, 1);
    assert_eq!((fleet.room(TYPE), fleet.room(OTHER)), (3, 2));
    let placed = [(TYPE, Need::Any); 4].map(|(id, need)| fleet.place(id, need).is_some());
    assert_eq!(placed, [true, true, true, false]);
    fleet.release(Member(1));
    assert_eq!(fleet.place(TYPE, Need::FreeSlot), None, "two run and none is free");
    assert_eq!(fleet.place(OTHER, Need::Any), None, "the prefetch is another type's");
    assert_eq!(fleet.place(TYPE, Need::Any), Some(Member(1)));
}

#[test]
fn equal_workers_share_short_tasks_although_one_reports_half_as_often() {
    let mut fleet = prefetching(&[(1, 2, 1024), (2, 2, 1024)]);
    let counts = run_turns(&mut fleet, 10, |turn| match turn % 2 {
        0 => vec![Member(1), Member(2)],
        _ => vec![Member(1)],
    });
    let (less, more) = (counts[&Member(2)], counts[&Member(1)]);
    assert!(less * 3 >= more * 2, "{less}:{more}");
}

#[test]
fn a_worker_ahead_of_its_equals_is_still_given_what_keeps_it_busy() {
    for (slots, depth) in [(2, 2 + 16), (64, 64 + 64)] {
        let mut fleet = prefetching(&[(1, slots, 1024), (2, slots, 1024)]);
        run_turns(&mut fleet, 10, |_| vec![Member(1)]);
        assert_eq!((fleet.held(Member(1)), fleet.held(Member(2))), (depth, slots + 1024));
    }
}

#[test]
fn a_worker_alone_is_filled_as_far_as_it_said() {
    let mut fleet = prefetching(&[(1, 2, 1024)]);
    let counts = run_turns(&mut fleet, 100, |_| vec![Member(1)]);
    assert_eq!(counts[&Member(1)], 102_600);
}

#[test]
fn shares_go_by_what_workers_say_they_take() {
    let mut fleet = prefetching(&[(1, 2, 1024), (2, 2, 100)]);
    let counts = run_turns(&mut fleet, 100, |_| vec![Member(1), Member(2)]);
    assert_eq!((counts[&Member(1)], counts[&Member(2)]), (102_600, 10_200), "nobody leads");
}

#[test]
fn a_worker_that_has_measured_sooner_waits_for_one_that_has_not() {
    let mut fleet = prefetching(&[(1, 2, 1024), (2, 2, 0)]);
    run_turns(&mut fleet, 10, |_| vec![Member(1)]);
    assert_eq!((fleet.held(Member(1)), fleet.held(Member(2))), (2 + 16, 2));
}

#[test]
fn a_lead_is_forgotten_when_a_worker_joins_drains_or_leaves() {
    let join: fn(&mut Fleet) = |fleet| fleet.join(Member(3), &[TYPE], 2, 0);
    for change in [join, |fleet| fleet.drain(Member(2)), |fleet| fleet.leave(Member(2))] {
        let mut fleet = prefetching(&[(1, 2, 1024), (2, 2, 1024)]);
        run_turns(&mut fleet, 10, |_| vec![Member(1)]);
        assert_eq!(fleet.held(Member(1)), 2 + 16);
        change(&mut fleet);
        run_turns(&mut fleet, 1, |_| Vec::new());
        assert!(fleet.held(Member(1)) > 2 + 16);
    }
}

#[test]
fn a_worker_gets_only_types_that_it_serves() {
    let mut fleet = fleet(&[(1, 4, 0)]);
    assert_eq!(fleet.place(OTHER, Need::Any), None);
    assert_eq!(fleet.place(OTHER, Need::Alone(TaskId(1))), None);
    assert_eq!((fleet.serving(TYPE), fleet.serving(OTHER)), (1, 0));
    fleet.set_prefetch(Member(1), OTHER, 100);
    assert_eq!(fleet.room(OTHER), 0);
}

#[test]
fn a_worker_that_joins_again_is_counted_once_and_with_what_it_holds() {
    let mut fleet = fleet(&[(1, 4, 0)]);
    fleet.join(Member(1), &[TYPE], 2, 1);
    assert_eq!((fleet.serving(TYPE), fleet.held(Member(1)), fleet.room(TYPE)), (1, 1, 1));
    fleet.leave(Member(1));
    assert_eq!((fleet.serving(TYPE), fleet.held(Member(1)), fleet.room(TYPE)), (0, 0, 0));
    assert_eq!(fleet.place(TYPE, Need::Any), None);
}

#[test]
fn a_task_alone_waits_until_its_worker_holds_nothing_and_keeps_all_others_out() {
    let alone = Need::Alone(TaskId(9));
    let mut fleet = fleet(&[(1, 4, 2), (2, 4, 3)]);
    assert_eq!(fleet.place(TYPE, alone), None);
    for _ in 0..10 {
        let beside = fleet.place(TYPE, Need::Any);
        assert!(beside.is_none_or(|member| member == Member(2)), "worker 1 is set aside");
    }
    fleet.release(Member(1));
    assert_eq!(fleet.place(TYPE, alone), None);
    fleet.release(Member(1));
    assert_eq!(fleet.place(TYPE, alone), Some(Member(1)));
    assert_eq!((fleet.place(TYPE, Need::Any), fleet.room(TYPE)), (None, 0));
    fleet.release(Member(1));
    assert_eq!(fleet.place(TYPE, Need::Any), Some(Member(1)));
}

#[test]
fn a_task_alone_takes_any_worker_that_is_idle_and_gives_back_the_one_set_aside() {
    let alone = Need::Alone(TaskId(9));
    let mut fleet = fleet(&[(1, 4, 1), (2, 4, 2)]);
    assert_eq!(fleet.place(TYPE, alone), None);
    fleet.release(Member(2));
    fleet.release(Member(2));
    assert_eq!(fleet.place(TYPE, alone), Some(Member(2)));
    assert_eq!(fleet.place(TYPE, Need::Any), Some(Member(1)));
}

#[test]
fn a_worker_that_was_set_aside_for_a_task_that_ended_is_given_back() {
    let mut fleet = fleet(&[(1, 4, 1)]);
    assert_eq!(fleet.place(TYPE, Need::Alone(TaskId(9))), None);
    fleet.give_up(TaskId(8));
    assert_eq!(fleet.place(TYPE, Need::Any), None, "it was another task's");
    fleet.give_up(TaskId(9));
    assert_eq!(fleet.place(TYPE, Need::Any), Some(Member(1)));
}

#[test]
fn a_task_alone_chooses_anew_when_its_worker_leaves_or_drains() {
    let alone = Need::Alone(TaskId(9));
    for goes in [Fleet::leave, Fleet::drain] {
        let mut fleet = fleet(&[(1, 4, 1), (2, 4, 2)]);
        assert_eq!(fleet.place(TYPE, alone), None);
        goes(&mut fleet, Member(1));
        assert_eq!(fleet.place(TYPE, alone), None);
        assert_eq!(fleet.place(TYPE, Need::Any), None, "worker 2 is set aside");
        fleet.release(Member(2));
        fleet.release(Member(2));
        assert_eq!(fleet.place(TYPE, alone), Some(Member(2)));
    }
}

#[test]
fn two_tasks_alone_do_not_share_a_worker() {
    let (one, two) = (Need::Alone(TaskId(1)), Need::Alone(TaskId(2)));
    let mut fleet = fleet(&[(1, 4, 1), (2, 4, 1)]);
    assert_eq!((fleet.place(TYPE, one), fleet.place(TYPE, two)), (None, None));
    fleet.release(Member(1));
    fleet.release(Member(2));
    assert_eq!(fleet.place(TYPE, two), Some(Member(2)));
    assert_eq!(fleet.place(TYPE, one), Some(Member(1)));
}

#[test]
fn a_worker_set_aside_for_a_task_is_taken_over_by_an_earlier_one_alone() {
    let (earlier, later) = (Need::Alone(TaskId(1)), Need::Alone(TaskId(2)));
    let mut fleet = fleet(&[(1, 4, 1)]);
    assert_eq!((fleet.place(TYPE, later), fleet.place(TYPE, earlier)), (None, None));
    assert_eq!(fleet.place(TYPE, later), None, "a later one does not take it back");
    fleet.release(Member(1));
    assert_eq!((fleet.place(TYPE, later), fleet.place(TYPE, earlier)), (None, Some(Member(1))));
}

#[test]
fn a_worker_that_comes_back_with_a_task_alone_gets_nothing_beside_it() {
    let mut fleet = fleet(&[(1, 4, 1)]);
    fleet.keep_alone(Member(1));
    assert_eq!((fleet.room(TYPE), fleet.place(TYPE, Need::Any)), (0, None));
    assert_eq!(fleet.place(TYPE, Need::Alone(TaskId(9))), None);
    fleet.release(Member(1));
    assert_eq!(fleet.place(TYPE, Need::Any), Some(Member(1)));
}

/// What may happen to a fleet.
#[derive(Debug, Clone)]
enum Step {
    Join(u64, u32),
    Leave(u64),
    Drain(u64),
    Prefetch(u64, u32),
    Place,
    PlaceInSlot,
    PlaceAlone(u64),
    GiveUp(u64),
    Release(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let member = 1..=4_u64;
    let alone = 1_000..1_003_u64;
    let step = prop_oneof![
        2 => (member.clone(), 1..=4_u32).prop_map(|(member, slots)| Step::Join(member, slots)),
        1 => member.clone().prop_map(Step::Leave),
        1 => member.clone().prop_map(Step::Drain),
        2 => (member, 0..=2_u32).prop_map(|(member, ahead)| Step::Prefetch(member, ahead)),
        8 => Just(Step::Place),
        2 => Just(Step::PlaceInSlot),
        3 => alone.clone().prop_map(Step::PlaceAlone),
        1 => alone.prop_map(Step::GiveUp),
        8 => any::<usize>().prop_map(Step::Release),
    ];
    proptest::collection::vec(step, 0..80)
}

/// What a fleet must know, kept in the plainest way.
#[derive(Debug, Default)]
struct Model {
    members: BTreeMap<Member, (u32, u32, bool)>,
    held: Vec<(Member, Need)>,
}

impl Model {
    fn held(&self, member: Member) -> u32 {
        u32::try_from(self.held.iter().filter(|(other, _)| *other == member).count()).unwrap()
    }

    fn gone(&mut self, member: Member) {
        self.members.remove(&member);
        self.held.retain(|(other, _)| *other != member);
    }
}

proptest! {
    #[test]
    fn no_worker_is_given_more_than_its_credit_or_anything_beside_a_task_alone(steps in steps()) {
        let mut fleet = Fleet::default();
        let mut model = Model::default();
        for step in steps {
            play(&mut fleet, &mut model, &step);
            for (member, (slots, ahead, _)) in &model.members {
                prop_assert_eq!(fleet.held(*member), model.held(*member));
                prop_assert!(model.held(*member) <= slots + ahead, "{:?} after {:?}", member, step);
                let alone = model.held.iter().filter(|(other, need)| {
                    other == member && matches!(need, Need::Alone(_))
                });
                prop_assert!(alone.count() == 0 || model.held(*member) == 1, "after {:?}", step);
            }
        }
    }

    #[test]
    fn whoever_is_chosen_was_the_least_loaded_with_room(
        workers in proptest::collection::vec((1..=8_u32, 0..=8_u32), 1..8),
    ) {
        let workers: Vec<_> =
            (0..).zip(workers).map(|(id, (slots, held))| (id, slots, held.min(slots))).collect();
        let mut fleet = fleet(&workers);
        let load = |id: u64| workers.iter().find(|worker| worker.0 == id).copied().unwrap();
        let least = workers.iter().filter(|(_, slots, held)| held < slots);
        match fleet.place(TYPE, Need::Any) {
            None => prop_assert_eq!(least.count(), 0),
            Some(Member(id)) => {
                let (_, slots, held) = load(id);
                for (_, other_slots, other_held) in least {
                    prop_assert!(held * other_slots <= other_held * slots);
                }
            }
        }
    }

    /// However busy the grid is, a task alone gets its worker once that has settled
    /// what it held: nothing new comes in between.
    #[test]
    fn a_task_alone_is_never_put_off_for_ever(slots in 1..=6_u32, count in 1..=4_u64) {
        let mut fleet = fleet(&(1..=count).map(|id| (id, slots, slots)).collect::<Vec<_>>());
        let mut oldest: Vec<Member> =
            (0..slots).flat_map(|_| (1..=count).map(Member)).collect();
        let mut turns = 0;
        while fleet.place(TYPE, Need::Alone(TaskId(1))).is_none() {
            turns += 1;
            prop_assert!(turns <= u64::from(slots) * count, "starved");
            let member = oldest.remove(0);
            fleet.release(member);
            oldest.extend(fleet.place(TYPE, Need::Any));
        }
    }

    #[test]
    fn a_worker_with_room_is_never_left_idle_while_tasks_wait(
        slots in proptest::collection::vec(1..=4_u32, 1..6),
    ) {
        let workers: Vec<_> = (0..).zip(&slots).map(|(id, slots)| (id, *slots, 0)).collect();
        let mut fleet = fleet(&workers);
        let placed = std::iter::from_fn(|| fleet.place(TYPE, Need::Any)).take(100);
        let placed: Vec<Member> = placed.collect();
        prop_assert_eq!(placed.len(), usize::try_from(slots.iter().sum::<u32>()).unwrap());
        let first: BTreeSet<_> = placed.iter().take(slots.len()).collect();
        prop_assert_eq!(first.len(), slots.len(), "each gets its first before any its second");
    }
}

fn play(fleet: &mut Fleet, model: &mut Model, step: &Step) {
    let place = |fleet: &mut Fleet, model: &mut Model, need: Need| {
        if let Some(member) = fleet.place(TYPE, need) {
            assert!(!model.members[&member].2, "a draining worker was given something");
            model.held.push((member, need));
        }
    };
    match *step {
        Step::Join(member, slots) => {
            model.gone(Member(member));
            model.members.insert(Member(member), (slots, 0, false));
            fleet.join(Member(member), &[TYPE], slots, 0);
        }
        Step::Leave(member) => {
            model.gone(Member(member));
            fleet.leave(Member(member));
        }
        Step::Drain(member) => {
            if let Some(known) = model.members.get_mut(&Member(member)) {
                known.2 = true;
            }
            fleet.drain(Member(member));
        }
        Step::Prefetch(member, ahead) => {
            // Credit that shrinks takes nothing back: the model keeps the largest.
            if let Some(known) = model.members.get_mut(&Member(member)) {
                known.1 = known.1.max(ahead);
            }
            fleet.set_prefetch(Member(member), TYPE, ahead);
        }
        Step::Place => place(fleet, model, Need::Any),
        Step::PlaceInSlot => place(fleet, model, Need::FreeSlot),
        Step::PlaceAlone(task) => place(fleet, model, Need::Alone(TaskId(task))),
        Step::GiveUp(task) => fleet.give_up(TaskId(task)),
        Step::Release(at) if !model.held.is_empty() => {
            let (member, _) = model.held.remove(at % model.held.len());
            fleet.release(member);
        }
        Step::Release(_) => {}
    }
}

/// Workers that serve one type: id, slots, held.
fn fleet(workers: &[(u64, u32, u32)]) -> Fleet {
    let mut fleet = Fleet::default();
    for (id, slots, held) in workers {
        fleet.join(Member(*id), &[TYPE], *slots, *held);
    }
    fleet
}

/// How many of `tasks` each of three workers gets if every task is over at once.
fn shares(fleet: &mut Fleet, tasks: u32) -> [u32; 3] {
    let mut counts = [0; 3];
    for _ in 0..tasks {
        let member = fleet.place(TYPE, Need::Any).unwrap();
        counts[usize::try_from(member.0).unwrap() - 1] += 1;
        fleet.release(member);
    }
    counts
}

/// Workers that serve one type: id, slots, prefetch.
fn prefetching(workers: &[(u64, u32, u32)]) -> Fleet {
    let mut fleet = Fleet::default();
    for (id, slots, prefetch) in workers {
        fleet.join(Member(*id), &[TYPE], *slots, 0);
        fleet.set_prefetch(Member(*id), TYPE, *prefetch);
    }
    fleet
}

fn release_all(fleet: &mut Fleet, member: Member) {
    for _ in 0..fleet.held(member) {
        fleet.release(member);
    }
}

/// Places an endless backlog in turns, before each of which some report all they
/// hold; tells how many each got.
fn run_turns(
    fleet: &mut Fleet,
    turns: u32,
    reporting: impl Fn(u32) -> Vec<Member>,
) -> BTreeMap<Member, u32> {
    let mut counts = BTreeMap::new();
    for turn in 0..turns {
        for member in reporting(turn) {
            release_all(fleet, member);
        }
        while let Some(member) = fleet.place(TYPE, Need::Any) {
            *counts.entry(member).or_default() += 1;
        }
    }
    counts
}
