//! Events to store: one obvious sample of each, and strategies for any.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use crate::core::event::{
    EndedAttempt, Entry, Event, KeyedBatch, LeaseNote, LeaseNotes, TaskEvent,
};
use crate::core::id::{Epoch, Seq, TaskId, Timestamp, Token};
use crate::core::task::{Change, Holder, Reason, Spec};
use crate::core::task_type::{PayloadKind, TaskType, TypeId};
use crate::store::Group;

impl Entry {
    /// The same event with these bytes.
    pub(in crate::store) fn with(mut self, bytes: &[u8]) -> Self {
        self.bytes = Bytes::copy_from_slice(bytes);
        self.count_bytes();
        self
    }
}

pub(in crate::store) fn group(entries: impl IntoIterator<Item = Entry>) -> Group {
    Group { entries: entries.into_iter().collect(), ..Group::default() }
}

pub(in crate::store) fn spec(payload_bytes: u32) -> Spec {
    Spec {
        type_id: TypeId(2),
        priority: 5,
        created: Timestamp(1_764_000_000_000),
        run_at: Timestamp(1_764_000_000_000),
        timeout_ms: 0,
        max_attempts: 3,
        max_crashes: 3,
        group: 0,
        payload_bytes,
    }
}

pub(in crate::store) fn submitted(id: u64, payload: &[u8]) -> Entry {
    let spec = spec(u32::try_from(payload.len()).unwrap());
    Entry::from(Event::Submitted { id: TaskId(id), spec }).with(payload)
}

pub(in crate::store) fn changed(seq: u64, id: u64, previous: Option<u64>, change: Change) -> Entry {
    Entry::from(Event::Changed(TaskEvent {
        seq: Seq(seq),
        id: TaskId(id),
        previous: previous.map(Seq),
        at: Timestamp(1_764_000_000_012),
        spec: spec(0),
        attempt: Some(EndedAttempt {
            number: 1,
            token: token(seq),
            worker: "worker-1".into(),
            leased: Timestamp(1_764_000_000_003),
            run_us: 15,
        }),
        change,
        result_bytes: 0,
    }))
}

pub(in crate::store) fn returned() -> Change {
    Change::Returned {
        reason: Reason::Error,
        error: "no such image".to_owned(),
        run_at: Timestamp(1_764_000_001_000),
    }
}

pub(in crate::store) fn leased(note: u64, id: u64) -> Event {
    Event::Leased(LeaseNotes {
        note,
        holder: holder("w", 3),
        leases: vec![LeaseNote {
            id: TaskId(id),
            token: token(note),
            attempt: 1,
            leased: Timestamp(5),
            charged: false,
        }],
    })
}

pub(in crate::store) fn keyed(first: u64, key: &'static [u8]) -> Event {
    Event::Keyed(KeyedBatch {
        key: Bytes::from_static(key),
        digest: [7; 32],
        first: TaskId(first),
        count: 1,
        cursor: Seq(0),
        kept_until: Timestamp(9),
        outlives_tasks: true,
    })
}

pub(in crate::store) fn holder(worker: &str, incarnation: u64) -> Holder {
    Holder { worker: worker.into(), incarnation }
}

pub(in crate::store) fn task_type(name: &str) -> TaskType {
    TaskType { name: name.parse().unwrap(), payload: PayloadKind::Bytes }
}

fn token(sequence: u64) -> Token {
    Token { epoch: Epoch { boot: 1, nonce: 7 }, sequence }
}

/// Any event.
pub(in crate::store) fn any_event() -> impl Strategy<Value = Event> {
    let submitted =
        (any::<u64>(), any_spec()).prop_map(|(id, spec)| Event::Submitted { id: TaskId(id), spec });
    prop_oneof![submitted, any_task_event().prop_map(Event::Changed), any_side_event()]
}

/// Any event that is of no one task.
pub(in crate::store) fn any_side_event() -> impl Strategy<Value = Event> {
    // Few names and numbers, so that one replaces another.
    let leased = (0..20_u64, any_holder(), vec(any_lease_note(), 0..4))
        .prop_map(|(note, holder, leases)| Event::Leased(LeaseNotes { note, holder, leases }));
    let learned = (0..5_u32, "[a-z][a-z0-9._-]{0,9}", any_payload_kind()).prop_map(
        |(number, name, payload)| Event::TypeLearned {
            type_id: TypeId(number),
            definition: TaskType { name: name.parse().unwrap(), payload },
        },
    );
    let seen = (any_holder(), any_text())
        .prop_map(|(holder, address)| Event::WorkerSeen { holder, address });
    let left = any_holder().prop_map(|holder| Event::WorkerLeft { worker: holder.worker });
    let reserved = any::<u64>().prop_map(|end| Event::IdsReserved { end: TaskId(end) });
    let skipped = (0..20_u64, any::<u64>())
        .prop_map(|(from, to)| Event::IdsSkipped { from: TaskId(from), to: TaskId(to) });
    let stopped = any::<u64>().prop_map(|id| Event::Stopped { next_id: TaskId(id) });
    prop_oneof![leased, any_keyed(), learned, seen, left, reserved, skipped, stopped]
}

pub(in crate::store) fn any_change() -> impl Strategy<Value = Change> {
    prop_oneof![
        3 => Just(Change::Completed),
        1 => (any_reason(), ".{0,40}", any::<u64>()).prop_map(|(reason, error, at)| {
            Change::Returned { reason, error, run_at: Timestamp(at) }
        }),
        1 => (any_reason(), ".{0,40}").prop_map(|(reason, error)| Change::Failed { reason, error }),
        1 => Just(Change::Cancelled),
        1 => (any::<u32>(), option::of(any_token()))
            .prop_map(|(attempts, token)| Change::Retried { attempts, token }),
    ]
}

fn any_task_event() -> impl Strategy<Value = TaskEvent> {
    let attempt = (any::<u32>(), any_token(), any_text(), any::<u64>(), any::<u64>()).prop_map(
        |(number, token, worker, leased, run_us)| EndedAttempt {
            number,
            token,
            worker,
            leased: Timestamp(leased),
            run_us,
        },
    );
    let numbers = (any::<u64>(), any::<u64>(), option::of(any::<u64>()), any::<u64>());
    (numbers, any_spec(), option::of(attempt), any_change()).prop_map(
        |((seq, id, previous, at), spec, attempt, change)| TaskEvent {
            seq: Seq(seq),
            id: TaskId(id),
            previous: previous.map(Seq),
            at: Timestamp(at),
            spec,
            attempt,
            change,
            result_bytes: 0,
        },
    )
}

fn any_keyed() -> impl Strategy<Value = Event> {
    let batch = (0..20_u64, any::<u32>(), any::<u64>(), any::<u64>(), any::<bool>());
    (vec(any::<u8>(), 0..20), any::<[u8; 32]>(), batch).prop_map(
        |(key, digest, (first, count, cursor, kept_until, outlives_tasks))| {
            Event::Keyed(KeyedBatch {
                key: key.into(),
                digest,
                first: TaskId(first),
                count,
                cursor: Seq(cursor),
                kept_until: Timestamp(kept_until),
                outlives_tasks,
            })
        },
    )
}

fn any_spec() -> impl Strategy<Value = Spec> {
    let times = (any::<u64>(), any::<u64>(), any::<u64>());
    let rest = (any::<u32>(), any::<u32>(), any::<u64>(), any::<u32>());
    (any::<u32>(), any::<u8>(), times, rest).prop_map(
        |(type_id, priority, (created, run_at, timeout_ms), rest)| Spec {
            type_id: TypeId(type_id),
            priority,
            created: Timestamp(created),
            run_at: Timestamp(run_at),
            timeout_ms,
            max_attempts: rest.0,
            max_crashes: rest.1,
            group: rest.2,
            payload_bytes: rest.3,
        },
    )
}

fn any_lease_note() -> impl Strategy<Value = LeaseNote> {
    (any::<u64>(), any_token(), any::<u32>(), any::<u64>(), any::<bool>()).prop_map(
        |(id, token, attempt, leased, charged)| LeaseNote {
            id: TaskId(id),
            token,
            attempt,
            leased: Timestamp(leased),
            charged,
        },
    )
}

fn any_token() -> impl Strategy<Value = Token> {
    any::<(u64, u64, u64)>()
        .prop_map(|(boot, nonce, sequence)| Token { epoch: Epoch { boot, nonce }, sequence })
}

fn any_holder() -> impl Strategy<Value = Holder> {
    ("[a-e]?", any::<u64>())
        .prop_map(|(worker, incarnation)| Holder { worker: worker.into(), incarnation })
}

fn any_text() -> impl Strategy<Value = Arc<str>> {
    ".{0,20}".prop_map(Arc::from)
}

fn any_payload_kind() -> impl Strategy<Value = PayloadKind> {
    prop_oneof![
        Just(PayloadKind::Bytes),
        Just(PayloadKind::Text),
        option::of(any_text()).prop_map(|schema| PayloadKind::Json { schema }),
        option::of(any::<u32>()).prop_map(|at_most| PayloadKind::Duration {
            at_most: at_most.map(|ms| Duration::from_millis(u64::from(ms))),
        }),
    ]
}

fn any_reason() -> impl Strategy<Value = Reason> {
    prop::sample::select(vec![
        Reason::Error,
        Reason::Permanent,
        Reason::Timeout,
        Reason::Panic,
        Reason::Lost,
        Reason::Poison,
        Reason::Unknown,
        Reason::Released,
        Reason::Cancelled,
        Reason::Silence,
    ])
}
