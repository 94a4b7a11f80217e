//! The parts that every task goes through, one at a time: the queue of the core, and
//! the append of a group in each store.
//!
//! `cargo bench --bench micro` measures; `cargo test` runs everything once.

#![expect(clippy::unwrap_used, reason = "what goes wrong here shall end it")]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use divan::counter::ItemsCount;
use divan::{Bencher, Divan};
use taskgrid::core::event::{Entry, Event};
use taskgrid::core::id::{Epoch, Seq, TaskId, Timestamp};
use taskgrid::core::queue::{Command, Queue};
use taskgrid::core::task::{Holder, Outcome, Spec};
use taskgrid::core::task_type::TypeId;
use taskgrid::store::{Durability, Embedded, Group, Memory, Store};
use tempfile::TempDir;

const NOW: Timestamp = Timestamp(1_764_000_000_000);
const PAYLOAD: &[u8] = b"thirty-two bytes of some payload";

/// Tasks in the queue when it is measured.
const QUEUED: [u64; 2] = [1_000, 100_000];
/// Tasks of a group.
const GROUPS: [u64; 3] = [1, 16, 500];

fn main() {
    // Tests get the arguments of all tests, of which this knows some and needs none.
    if std::env::args().any(|argument| argument == "--bench") {
        divan::main();
    } else {
        Divan::default().test_benches();
    }
}

#[divan::bench(args = QUEUED, sample_count = 20)]
fn accept(bencher: Bencher<'_, '_>, tasks: u64) {
    bencher.counter(ItemsCount::new(tasks)).with_inputs(Queue::default).bench_values(
        |mut queue| {
            accept_all(&mut queue, tasks);
            queue
        },
    );
}

#[divan::bench(args = QUEUED, sample_count = 20)]
fn lease(bencher: Bencher<'_, '_>, tasks: u64) {
    let input = || queued(tasks);
    bencher.counter(ItemsCount::new(tasks)).with_inputs(input).bench_values(|mut queue| {
        lease_all(&mut queue, tasks);
        queue
    });
}

#[divan::bench(args = QUEUED, sample_count = 20)]
fn end(bencher: Bencher<'_, '_>, tasks: u64) {
    let input = || {
        let mut queue = queued(tasks);
        lease_all(&mut queue, tasks);
        queue
    };
    bencher.counter(ItemsCount::new(tasks)).with_inputs(input).bench_values(|mut queue| {
        end_all(&mut queue, tasks);
        queue
    });
}

#[divan::bench(args = GROUPS, sample_count = 100)]
fn append_memory(bencher: Bencher<'_, '_>, tasks: u64) {
    append(bencher, &Memory::new(), tasks);
}

#[divan::bench(args = GROUPS, sample_count = 100)]
fn append_embedded_os(bencher: Bencher<'_, '_>, tasks: u64) {
    let directory = TempDir::new().unwrap();
    append(bencher, &Embedded::open(directory.path(), Durability::Os).unwrap(), tasks);
}

#[divan::bench(args = GROUPS, sample_count = 100)]
fn append_embedded_sync(bencher: Bencher<'_, '_>, tasks: u64) {
    let directory = TempDir::new().unwrap();
    append(bencher, &Embedded::open(directory.path(), Durability::Sync).unwrap(), tasks);
}

/// One commit of so many tasks.
fn append(bencher: Bencher<'_, '_>, store: &dyn Store, tasks: u64) {
    let mut next = 1;
    let group = || {
        let ids = next..next + tasks;
        next = ids.end;
        let event = |id| Event::Submitted { id: TaskId(id), spec: spec() };
        let entry = |id| Entry { event: event(id), bytes: Bytes::from_static(PAYLOAD) };
        Group { entries: ids.map(entry).collect(), ..Group::default() }
    };
    let bencher = bencher.counter(ItemsCount::new(tasks)).with_inputs(group);
    bencher.bench_local_values(|group| store.append(&group).unwrap());
}

fn queued(tasks: u64) -> Queue {
    let mut queue = Queue::default();
    queue.begin(vec![Epoch { boot: 1, nonce: 1 }], Seq::default());
    accept_all(&mut queue, tasks);
    queue
}

fn accept_all(queue: &mut Queue, tasks: u64) {
    let spec = spec();
    for id in 1..=tasks {
        queue.accept(TaskId(id), &spec, NOW);
    }
}

fn lease_all(queue: &mut Queue, tasks: u64) {
    let (spec, until) = (spec(), NOW.plus(Duration::from_secs(10)));
    let holder = Holder { worker: Arc::from("worker"), incarnation: 1 };
    for id in 1..=tasks {
        queue.lease(TaskId(id), &spec, &holder, NOW, until, false).unwrap();
    }
}

fn end_all(queue: &mut Queue, tasks: u64) {
    for id in (1..=tasks).map(TaskId) {
        let token = queue.leases.find(id).unwrap().lease.token;
        let settle = Command::Settle { token, outcome: Outcome::Completed, run_us: 10 };
        let event = queue.decide(id, settle, NOW, 0).unwrap();
        queue.apply(&event, NOW);
    }
}

fn spec() -> Spec {
    Spec {
        type_id: TypeId(1),
        priority: 5,
        created: NOW,
        run_at: NOW,
        timeout_ms: 0,
        max_attempts: 3,
        max_crashes: 3,
        group: 1,
        payload_bytes: u32::try_from(PAYLOAD.len()).unwrap(),
    }
}
