//! Every limit that a client, a worker or an operator can run into, with its
//! reason. Limits of the transport stand in `rpc`.

use std::time::Duration;

/// Tasks in one Submit. More gains no speed, and a batch is held whole in memory.
pub const BATCH_TASKS: usize = 10_000;
/// Encoded bytes of one Submit, beside one payload of the largest size.
pub const BATCH_BYTES: usize = 8 << 20;
/// Ids in one Get, Cancel or Retry.
pub const IDS: usize = 1_000;
/// Ids in the filter of one Watch.
pub const WATCH_IDS: usize = 10_000;
/// Bytes of tasks after which an answer or a message of a stream is cut.
pub const ANSWER_BYTES: usize = 4 << 20;
/// Tasks on one page of List.
pub const PAGE: usize = 1_000;
/// The longest wait of one call: within the patience of proxies between.
pub const WAIT: Duration = Duration::from_secs(600);

/// The largest payload, and the largest result, unless configured.
pub const PAYLOAD_BYTES: u64 = 4 << 20;
/// The largest `--max-payload`: a message is held whole in memory by every hop.
pub const PAYLOAD_BYTES_MAX: u64 = 64 << 20;
/// Bytes of a message beside its payload: ids, tokens, names, errors.
pub const ENVELOPE_BYTES: usize = 64 << 10;
/// Tasks that may wait and run, unless configured. About 1 GB of disk when small.
pub const QUEUED_TASKS: u64 = 50_000_000;
/// Payload bytes of tasks that wait and run, unless configured.
pub const QUEUED_BYTES: u64 = 64 << 30;

/// Bytes of a task type's name.
pub const TYPE_NAME_BYTES: usize = 64;
/// Task types that a dispatcher learns: each has lanes of its own.
pub const TYPES: usize = 10_000;
/// Types of one worker.
pub const WORKER_TYPES: usize = 64;
/// Bytes of a JSON Schema.
pub const SCHEMA_BYTES: usize = 64 << 10;
/// Bytes of an idempotency key.
pub const KEY_BYTES: usize = 128;
/// Keys remembered at once, each about 150 bytes of memory.
pub const KEYS: usize = 1_000_000;
/// How long a key of a call's own retries is remembered.
pub const CALL_KEY_KEPT: Duration = Duration::from_secs(600);
/// How long it is remembered once its caller has the answer to its only try. A caller tries
/// no more then; something between that repeats calls by itself might.
pub const ANSWERED_KEY_KEPT: Duration = Duration::from_secs(10);
/// Keys that a submit may name as answered.
pub const ANSWERED_KEYS: usize = 64;
/// How long a caller's key is remembered at least.
pub const CALLER_KEY_KEPT: Duration = Duration::from_secs(24 * 3600);

/// The most urgent priority is 0, the least urgent is this.
pub const PRIORITY_LEAST: u8 = 9;
/// The priority of a task that names none.
pub const PRIORITY_DEFAULT: u8 = 5;
/// The longest delay of a task.
pub const DELAY: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Charged errors until a task fails, unless the task says otherwise.
pub const MAX_ATTEMPTS_DEFAULT: u32 = 3;
/// Lost workers until a task's run alone, unless the task says otherwise.
pub const MAX_CRASHES_DEFAULT: u32 = 3;
/// The most a task may ask for of either.
pub const MAX_TRIES: u32 = 1_000;

/// Slots of one worker.
pub const SLOTS: u32 = 65_536;
/// Tasks of a type that a worker takes beyond its slots, at most.
pub const PREFETCH: u32 = 1_024;
/// The handler time that a prefetch covers: longer than a turn of the session,
/// short enough that a lost worker delays nothing that anybody notices.
pub const PREFETCH_TIME: Duration = Duration::from_millis(5);
/// Bytes of a handler's error that are kept.
pub const ERROR_BYTES: usize = 4 << 10;
/// Bytes of a progress message.
pub const PROGRESS_BYTES: usize = 1 << 10;
/// Bytes of a worker's id.
pub const WORKER_ID_BYTES: usize = 128;
/// Bytes of a worker's address: a DNS name, a colon, a port.
pub const ADDRESS_BYTES: usize = 261;
/// Bytes of a worker's version.
pub const VERSION_BYTES: usize = 64;
/// Workers in one registry.
pub const WORKERS: usize = 100_000;
/// Encoded bytes of all registrations: a snapshot is one message.
pub const REGISTRY_BYTES: usize = 64 << 20;

/// The longest lease that may be configured, and the shortest.
pub const LEASE: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(500)..=Duration::from_secs(3600);
/// The longest time-to-live of a registration that may be configured, and the shortest.
pub const TTL: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(500)..=Duration::from_secs(3600);

/// How long results are kept, unless configured.
pub const RETAIN: Duration = Duration::from_secs(24 * 3600);
/// How many ended tasks are kept, unless configured.
pub const RETAIN_TASKS: u64 = 10_000_000;
/// How many bytes of payloads and results are kept, of failed tasks and of all others each,
/// unless configured.
pub const RETAIN_BYTES: u64 = 64 << 30;
/// How many failed tasks are kept: bounded apart, so that neither a flood of
/// failures pushes results out nor the other way round.
pub const RETAIN_FAILED: u64 = 1_000_000;
