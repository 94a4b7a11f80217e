//! A store that was made by appends, as the bytes of its files, and what it holds.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use taskgrid::core::event::{
    EndedAttempt, Entry, Event, KeyedBatch, LeaseNote, LeaseNotes, TaskEvent,
};
use taskgrid::core::id::{Epoch, Seq, TaskId, Timestamp, Token};
use taskgrid::core::task::{Change, Holder, Reason, Spec};
use taskgrid::core::task_type::{PayloadKind, TaskType, TypeId};
use taskgrid::store::{
    Durability, Embedded, Error, Group, Recovered, Store, StoredEvent, StoredTask, Trim,
};

use super::dice::Dice;

/// Groups, each synced.
const GROUPS: u64 = 40;
/// Tasks of a group.
const TASKS: u64 = 25;

/// The files of a store, and what it holds.
pub(crate) struct Recorded {
    pub(crate) name: &'static str,
    pub(crate) file: Vec<u8>,
    pub(crate) journal: Vec<u8>,
    pub(crate) packs: Vec<u8>,
    pub(crate) lock: Vec<u8>,
    pub(crate) contents: Contents,
}

impl Recorded {
    /// One that was closed in good order.
    pub(crate) fn closed(seed: u64) -> Self {
        let dir = tempfile::tempdir().expect("a directory can be made");
        let store = filled(dir.path(), seed);
        let contents = read(&store).expect("it can be read");
        drop(store);
        Self::of("closed", dir.path(), contents)
    }

    /// One whose process was killed after the last sync, with half of it in the journal.
    pub(crate) fn killed(seed: u64) -> Self {
        let dir = tempfile::tempdir().expect("a directory can be made");
        let store = filled(dir.path(), seed);
        let mut killed = Self::of("killed", dir.path(), Contents::default());
        // Before anything is read, the database takes what the journal has.
        killed.contents = read(&store).expect("it can be read");
        killed
    }

    fn of(name: &'static str, dir: &Path, contents: Contents) -> Self {
        let bytes = |name| std::fs::read(dir.join(name)).expect("it is there");
        let [file, journal, packs, lock] = ["taskgrid.redb", "JOURNAL", "PACKS", "LOCK"].map(bytes);
        Self { name, file, journal, packs, lock, contents }
    }
}

/// All that can be read of a store.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Contents {
    scanned: Vec<Event>,
    recovered: Recovered,
    tasks: Vec<Option<StoredTask>>,
    events: Vec<Option<StoredEvent>>,
    after: Vec<StoredEvent>,
    /// Whether the same was read without payloads and results.
    agrees: bool,
}

impl Contents {
    /// Tasks and events that are kept.
    pub(crate) fn records(&self) -> usize {
        self.tasks.iter().flatten().count() + self.events.iter().flatten().count()
    }

    /// What is not as expected, in a few words.
    pub(crate) fn differs(&self, expected: &Self) -> String {
        let kept = |contents: &Self| {
            let tasks = contents.tasks.iter().flatten().count();
            let events = contents.events.iter().flatten().count();
            format!("{} scanned, {tasks} tasks, {events} events", contents.scanned.len())
        };
        format!("{} were read instead of {}", kept(self), kept(expected))
    }
}

/// Reads a store by all its calls.
pub(crate) fn read(store: &dyn Store) -> Result<Contents, Error> {
    let mut scanned = Vec::new();
    let recovered = store.scan(&mut |event| scanned.push(event))?;
    let last = GROUPS * TASKS + TASKS;
    let ids: Vec<TaskId> = (0..=last).map(TaskId).collect();
    let places: Vec<Seq> = (0..=last).map(Seq).collect();
    let tasks = store.tasks(&ids)?;
    let events = store.events(&places)?;
    let specs = store.specs(&ids)?;
    let facts = store.facts(&places)?;
    let whole = tasks.iter().map(|task| task.as_ref().map(|task| task.spec));
    let mut agrees = specs.into_iter().eq(whole);
    let whole = events.iter().map(|stored| stored.as_ref().map(|stored| stored.event.clone()));
    agrees &= facts.into_iter().eq(whole);
    let after = store.events_after(Seq(0), usize::MAX, usize::MAX)?;
    Ok(Contents { scanned, recovered, tasks, events, after, agrees })
}

/// A group that was not recorded, and what a store holds once it was appended.
pub(crate) fn another_group(contents: &mut Contents) -> Group {
    let (id, seq) = (GROUPS * TASKS + 1, contents.recovered.last_seq.0 + 1);
    let (task, payload) = (spec(300), Bytes::from(vec![b'n'; 300]));
    let result = Bytes::from_static(b"done");
    let ended = event(seq, id, None, Change::Completed).with_result_of(result.len());
    let place = |from: &[Event], is_before: fn(&Event) -> bool| {
        from.iter().rposition(is_before).map_or(0, |place| place + 1)
    };
    let submitted = Event::Submitted { id: TaskId(id), spec: task };
    let at = place(&contents.scanned, |event| matches!(event, Event::Changed(_)));
    contents.scanned.insert(at, Event::Changed(ended.clone()));
    let at = place(&contents.scanned, |event| matches!(event, Event::Submitted { .. }));
    contents.scanned.insert(at, submitted.clone());
    contents.recovered.last_seq = Seq(seq);
    contents.recovered.last_id = Some(TaskId(id));
    let stored = StoredEvent { event: ended.clone(), result: result.clone() };
    let kept = StoredTask { id: TaskId(id), spec: task, payload: payload.clone() };
    contents.tasks[usize::try_from(id).unwrap()] = Some(kept);
    contents.events[usize::try_from(seq).unwrap()] = Some(stored.clone());
    contents.after.push(stored);
    let entries = vec![
        Entry { event: submitted, bytes: payload },
        Entry { event: Event::Changed(ended), bytes: result },
    ];
    Group { entries, trim: Trim::default() }
}

/// Appends as a dispatcher does: tasks, what became of them, keys, notes, trims.
fn filled(dir: &Path, seed: u64) -> Embedded {
    let store = Embedded::open(dir, Durability::Sync).expect("a store can be made");
    store.take_epoch(seed).expect("it begins");
    let mut dice = Dice::new(seed);
    let mut seq = 0;
    let mut old: Vec<(TaskId, Seq)> = Vec::new();
    for number in 0..GROUPS {
        let first = number * TASKS + 1;
        let mut entries = facts(number, first);
        let mut trim = Trim::default();
        for id in first..first + TASKS {
            let size = some_size(&mut dice);
            let submitted = Event::Submitted { id: TaskId(id), spec: spec(size) };
            entries.push(Entry { event: submitted, bytes: bytes(&mut dice, size) });
            let mut previous = None;
            if dice.chance(100) {
                seq += 1;
                let error = "no such image".to_owned();
                let change = Change::Returned { reason: Reason::Error, error, run_at: AT };
                entries.push(Event::Changed(event(seq, id, None, change)).into());
                previous = Some(Seq(seq));
            }
            // The last ones still wait.
            if seq + 1 < GROUPS * TASKS && dice.chance(800) {
                seq += 1;
                let size = some_size(&mut dice);
                let ended = Event::Changed(event(seq, id, previous, Change::Completed));
                entries.push(Entry { event: ended, bytes: bytes(&mut dice, size) });
                old.push((TaskId(id), Seq(seq)));
            }
        }
        if number % 4 == 3 {
            trim.tasks = old.drain(..10).collect();
            trim.notes.push(number - 2);
        }
        store.append(&Group { entries, trim }).expect("it is stored");
        if number == GROUPS / 2 {
            store.tasks(&[]).expect("the database takes what the journal has");
        }
    }
    store
}

const AT: Timestamp = Timestamp(1_764_000_000_000);

/// What comes with a group beside its tasks.
fn facts(number: u64, first: u64) -> Vec<Entry> {
    let name = format!("type-{number}");
    let definition = TaskType { name: name.parse().unwrap(), payload: PayloadKind::Bytes };
    let type_id = TypeId(u32::try_from(number).unwrap());
    let worker: Arc<str> = format!("worker-{number}").into();
    let holder = Holder { worker, incarnation: number };
    let lease = LeaseNote {
        id: TaskId(first),
        token: token(first),
        attempt: 1,
        leased: AT,
        charged: false,
    };
    let batch = KeyedBatch {
        key: Bytes::from(format!("key-{number}")),
        digest: [7; 32],
        first: TaskId(first),
        count: u32::try_from(TASKS).unwrap(),
        cursor: Seq(0),
        kept_until: AT,
        outlives_tasks: true,
    };
    let all = [
        Event::IdsReserved { end: TaskId(first + 10 * TASKS) },
        Event::TypeLearned { type_id, definition },
        Event::WorkerSeen { holder: holder.clone(), address: "127.0.0.1:50061".into() },
        Event::Keyed(batch),
        Event::Leased(LeaseNotes { note: number, holder, leases: vec![lease] }),
    ];
    all.map(Into::into).into()
}

fn spec(payload_bytes: usize) -> Spec {
    Spec {
        type_id: TypeId(2),
        priority: 5,
        created: AT,
        run_at: AT,
        timeout_ms: 0,
        max_attempts: 3,
        max_crashes: 3,
        group: 0,
        payload_bytes: u32::try_from(payload_bytes).unwrap(),
    }
}

fn token(sequence: u64) -> Token {
    Token { epoch: Epoch { boot: 1, nonce: 7 }, sequence }
}

fn event(seq: u64, id: u64, previous: Option<Seq>, change: Change) -> TaskEvent {
    let worker = "worker-1".into();
    let attempt = EndedAttempt { number: 1, token: token(seq), worker, leased: AT, run_us: 15 };
    let (seq, id, attempt) = (Seq(seq), TaskId(id), Some(attempt));
    TaskEvent { seq, id, previous, at: AT, spec: spec(0), attempt, change, result_bytes: 0 }
}

fn bytes(dice: &mut Dice, size: usize) -> Bytes {
    let word = dice.roll().to_le_bytes();
    word.iter().copied().cycle().take(size).collect()
}

/// Small ones stay in their rows, large ones have places of their own: those of half the groups
/// are too many for a record.
fn some_size(dice: &mut Dice) -> usize {
    let most = if dice.chance(100) { 12_000 } else { 400 };
    dice.place(most)
}
