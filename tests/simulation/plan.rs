//! What a seed makes of a world before its first step: how many parts there are,
//! what is asked of them, and which faults they meet how often. Worlds differ a lot
//! on purpose: some see one kind of fault only, some see all.

use std::time::Duration;

use bytes::Bytes;
use taskgrid::core::id::Timestamp;
use taskgrid::core::task::Spec;
use taskgrid::core::task_type::TypeId;

use super::dice::Dice;
use super::wire::{Batch, Draft};
use super::worker::{Deed, Order};

/// What can go wrong from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    DispatcherCrash,
    DispatcherStop,
    DispatcherPause,
    WorkerCrash,
    WorkerDrain,
    WorkerPause,
    ConnBreak,
    ConnStall,
}

const FAULTS: [Fault; 8] = [
    Fault::DispatcherCrash,
    Fault::DispatcherStop,
    Fault::DispatcherPause,
    Fault::WorkerCrash,
    Fault::WorkerDrain,
    Fault::WorkerPause,
    Fault::ConnBreak,
    Fault::ConnStall,
];

/// One world to be.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The slots of each worker.
    pub(crate) slots: Vec<u32>,
    pub(crate) clients: usize,
    /// Batches that each client submits.
    pub(crate) batches: u64,
    /// Faults that happen, as often as they stand here.
    faults: Vec<Fault>,
    /// The mean time between two faults.
    every_ms: u64,
    /// No fault happens after this.
    pub(crate) faults_until: u64,
    /// How many of a thousand calls, and of their answers, are lost or repeated.
    pub(crate) bad_calls: u64,
    /// How many of a thousand messages and commits are slow.
    pub(crate) slow: u64,
    /// How many of a thousand tasks are at most once, and how many have a deed.
    once: u64,
    deeds: u64,
    /// How many of a thousand handlers run for long.
    long: u64,
}

impl Plan {
    pub(crate) fn new(begin: u64, dice: &mut Dice) -> Self {
        let workers = [1, 2, 2, 3, 3][dice.place(5)];
        let slots = (0..workers).map(|_| u32::try_from(dice.between(1, 3)).expect("few"));
        let slots = slots.collect();
        let mut faults = Vec::new();
        // Every third world meets two kinds of faults only: others would hide them.
        let chosen = dice.chance(333).then(|| [0; 2].map(|_| FAULTS[dice.place(FAULTS.len())]));
        faults.extend(chosen.into_iter().flatten());
        for fault in FAULTS.into_iter().filter(|_| chosen.is_none()) {
            let weight = [0, 0, 1, 4][dice.place(4)];
            faults.extend(std::iter::repeat_n(fault, weight));
        }
        Self {
            slots,
            clients: dice.place(2) + 1,
            batches: dice.between(2, 5),
            faults,
            every_ms: [150, 400, 1_000][dice.place(3)],
            faults_until: begin + dice.between(2_000, 7_000),
            bad_calls: [0, 100, 300][dice.place(3)],
            slow: [0, 50, 300][dice.place(3)],
            once: [0, 200, 600][dice.place(3)],
            deeds: [0, 200, 500][dice.place(3)],
            long: [50, 200, 500][dice.place(3)],
        }
    }

    /// The next fault, and after how many milliseconds.
    pub(crate) fn next_fault(&self, dice: &mut Dice) -> Option<(u64, Fault)> {
        if self.faults.is_empty() {
            return None;
        }
        Some((dice.between(1, 2 * self.every_ms), self.faults[dice.place(self.faults.len())]))
    }

    /// A batch whose tasks have payloads from `first` on, and what they do.
    pub(crate) fn batch(&self, first: u64, dice: &mut Dice) -> (Batch, Vec<(u64, Order)>) {
        let count = dice.between(1, 4);
        let mut drafts = Vec::new();
        let mut orders = Vec::new();
        for payload in first..first + count {
            let order = self.order(dice);
            orders.push((payload, order));
            drafts.push(self.draft(payload, order, dice));
        }
        let key = Bytes::copy_from_slice(&first.to_be_bytes());
        (Batch { key, drafts }, orders)
    }

    fn order(&self, dice: &mut Dice) -> Order {
        let run_ms = match dice.place(3) {
            _ if dice.chance(self.long) => dice.between(400, 3_000),
            0 => dice.between(40, 300),
            _ => dice.between(1, 40),
        };
        if !dice.chance(self.deeds) {
            return Order { deed: Deed::Succeeds, times: 0, run_ms };
        }
        let deeds = [
            Deed::Fails,
            Deed::Fails,
            Deed::FailsForGood,
            Deed::Panics,
            Deed::Kills,
            Deed::Kills,
            Deed::Hangs,
        ];
        Order { deed: deeds[dice.place(deeds.len())], times: dice.between(1, 5), run_ms }
    }

    fn draft(&self, payload: u64, order: Order, dice: &mut Dice) -> Draft {
        let is_once = dice.chance(self.once);
        let (max_attempts, max_crashes) = if is_once {
            (1, 0)
        } else {
            ([1, 2, 3][dice.place(3)], [0, 1, 1, 2, 3][dice.place(5)])
        };
        let times = order.deed == Deed::Hangs || dice.chance(100);
        let spec = Spec {
            type_id: TypeId(u32::from(dice.chance(300))),
            priority: u8::try_from(dice.between(4, 6)).expect("a digit"),
            created: Timestamp(0),
            run_at: Timestamp(0),
            timeout_ms: if times { dice.between(100, 600) } else { 0 },
            max_attempts,
            max_crashes,
            group: 0,
            payload_bytes: 8,
        };
        let delay_ms = if dice.chance(150) { dice.between(1, 3_000) } else { 0 };
        Draft { spec, delay_ms, payload }
    }
}

/// How long everything may take to settle once the faults have stopped: a task that
/// kills its worker again and again, alone, with its retries and the waits between.
pub(crate) const SETTLE: Duration = Duration::from_secs(90);
