//! A submitted batch, parsed: what comes out of here is well-formed, of known types
//! and with payloads that their types take.

use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use sha2::{Digest as _, Sha256};
use tonic::Status;
use twox_hash::xxhash3_128;

use super::types::{self, Types};
use crate::core::id::Timestamp;
use crate::core::limits;
use crate::core::task::Spec;
use crate::core::task_type::TypeId;
use crate::wire::{Malformed, v1};

/// Tasks that are stored together.
#[derive(Debug)]
pub(crate) struct Batch {
    /// The tasks, in the order of the request.
    pub(crate) drafts: Vec<Draft>,
    /// The key that names the batch.
    pub(crate) key: Option<Key>,
    /// Keys that are needed no longer: of calls that were answered.
    pub(crate) answered: Vec<Bytes>,
    /// Bytes of all payloads.
    pub(crate) bytes: u64,
    /// How long the caller waits for the tasks to end; zero if it only wants a receipt.
    pub(crate) wait: Duration,
}

/// One task before its acceptance.
#[derive(Debug)]
pub(crate) struct Draft {
    spec: Spec,
    delay: Duration,
    /// What the handler gets.
    pub(crate) payload: Bytes,
}

impl Draft {
    /// What is asked for, if the task is accepted at `now`.
    pub(crate) fn accept(&self, now: Timestamp) -> Spec {
        Spec { created: now, run_at: now.plus(self.delay), ..self.spec }
    }
}

/// An idempotency key and what it stands for.
#[derive(Debug)]
pub(crate) struct Key {
    /// As the client chose it.
    pub(crate) text: Bytes,
    /// Of the batch without its key: SHA-256 for a caller's key, XXH3 for a call's own.
    pub(crate) digest: [u8; 32],
    /// Remembered as a caller's own key, rather than for the retries of one call.
    pub(crate) is_callers: bool,
}

/// What a batch is checked against.
pub(crate) struct Admission<'a> {
    /// The known types.
    pub(crate) types: &'a Types,
    /// Whether all live workers are known: before that, an unknown type may be
    /// one whose worker has not been heard of yet.
    pub(crate) complete: bool,
    /// Bytes of the largest payload.
    pub(crate) max_payload: u64,
}

impl Admission<'_> {
    /// Parses a request.
    pub(crate) fn parse(&self, mut request: v1::SubmitRequest) -> Result<Batch, Status> {
        // How long the caller waits is no part of what its key stands for.
        let wait = Duration::from_millis(std::mem::take(&mut request.wait_ms)).min(limits::WAIT);
        // Nor is what it says of other calls.
        let answered = std::mem::take(&mut request.answered_keys);
        if answered.len() > limits::ANSWERED_KEYS {
            let (count, most) = (answered.len(), limits::ANSWERED_KEYS);
            let problem = format!("{count} keys; a submit names at most {most}");
            return Err(Malformed::new("answered_keys", problem).into());
        }
        let key = parse_key(&mut request)?;
        let count = request.tasks.len();
        if count == 0 {
            return Err(Malformed::new("tasks", "a batch has at least one task").into());
        }
        if count > limits::BATCH_TASKS {
            let problem = format!("{count} tasks; a batch has at most {}", limits::BATCH_TASKS);
            return Err(Malformed::new("tasks", problem).into());
        }
        if !wait.is_zero() && count > limits::IDS {
            let problem = format!("{count} tasks; at most {} can be waited for", limits::IDS);
            return Err(Malformed::new("wait_ms", problem).into());
        }
        let batch_type = std::mem::take(&mut request.r#type);
        let mut known: Option<(String, TypeId)> = None;
        let mut bytes = 0;
        let mut drafts = Vec::with_capacity(count);
        for (place, task) in request.tasks.into_iter().enumerate() {
            let name = if task.r#type.is_empty() { &batch_type } else { &task.r#type };
            let type_id = match &known {
                Some((known, id)) if known == name => *id,
                _ => {
                    let id = self.find_type(name, place)?;
                    known = Some((name.clone(), id));
                    id
                }
            };
            let draft = self.parse_task(&task, type_id, request.group);
            let draft = draft
                .map_err(|m| Malformed::new(format!("tasks[{place}].{}", m.field), m.problem))?;
            bytes += u64::from(draft.spec.payload_bytes);
            drafts.push(draft);
        }
        Ok(Batch { drafts, key, answered, bytes, wait })
    }

    fn find_type(&self, name: &str, place: usize) -> Result<TypeId, Status> {
        if let Some(id) = self.types.find(name) {
            return Ok(id);
        }
        if self.complete {
            let problem = self.types.explain_unknown(name);
            return Err(Status::not_found(format!("tasks[{place}].type: {problem}")));
        }
        Err(Status::unavailable(format!(
            "task type {} is not known yet: the workers have not all been heard of; try again",
            types::shown(name)
        )))
    }

    fn parse_task(
        &self,
        task: &v1::NewTask,
        type_id: TypeId,
        group: u64,
    ) -> Result<Draft, Malformed> {
        let payload_bytes = u32::try_from(task.payload.len()).unwrap_or(u32::MAX);
        if u64::from(payload_bytes) > self.max_payload {
            let problem = format!(
                "{payload_bytes} bytes; a payload has at most {} here (--max-payload)",
                self.max_payload
            );
            return Err(Malformed::new("payload", problem));
        }
        if let Some(known) = self.types.get(type_id) {
            let refused = known.checker.check(&task.payload);
            refused.map_err(|refused| Malformed::new("payload", refused.to_string()))?;
        }
        let priority = task.priority.unwrap_or(limits::PRIORITY_DEFAULT.into());
        let priority = u8::try_from(priority).ok().filter(|p| *p <= limits::PRIORITY_LEAST);
        let priority = priority
            .ok_or_else(|| Malformed::new("priority", "a priority is 0 (most urgent) to 9"))?;
        let delay = Duration::from_millis(task.delay_ms);
        if delay > limits::DELAY {
            return Err(Malformed::new("delay_ms", "a task is delayed by at most ten years"));
        }
        let max_attempts = task.max_attempts.unwrap_or(limits::MAX_ATTEMPTS_DEFAULT);
        if !(1..=limits::MAX_TRIES).contains(&max_attempts) {
            return Err(Malformed::new("max_attempts", "a task has 1 to 1000 attempts"));
        }
        let max_crashes = task.max_crashes.unwrap_or(limits::MAX_CRASHES_DEFAULT);
        if max_crashes > limits::MAX_TRIES {
            return Err(Malformed::new("max_crashes", "a task survives 0 to 1000 crashes"));
        }
        let spec = Spec {
            type_id,
            priority,
            created: Timestamp::default(),
            run_at: Timestamp::default(),
            timeout_ms: task.timeout_ms,
            max_attempts,
            max_crashes,
            group,
            payload_bytes,
        };
        Ok(Draft { spec, delay, payload: task.payload.clone() })
    }
}

/// Takes the key out of a request; the digest is over what remains.
fn parse_key(request: &mut v1::SubmitRequest) -> Result<Option<Key>, Malformed> {
    if request.key.len() > limits::KEY_BYTES {
        let problem =
            format!("{} bytes; a key has at most {}", request.key.len(), limits::KEY_BYTES);
        return Err(Malformed::new("key", problem));
    }
    // Copied: a key is remembered for hours, and as a part of its request would keep all
    // of the request's memory.
    let key = Bytes::copy_from_slice(&std::mem::take(&mut request.key));
    let is_callers = request.key_scope() == v1::KeyScope::Caller;
    request.key_scope = 0;
    if key.is_empty() {
        return Ok(None);
    }
    let digest = if is_callers { callers_digest(request) } else { calls_digest(request) };
    Ok(Some(Key { text: key, digest, is_callers }))
}

/// SHA-256: a caller may give its key to whatever it likes.
fn callers_digest(request: &mut v1::SubmitRequest) -> [u8; 32] {
    let mut hasher = Sha256::new();
    each_part(request, |part| hasher.update(part));
    hasher.finalize().into()
}

/// XXH3, which reads ten times as fast: a call's own key is random and comes again with
/// the same bytes, so that this guards against mistakes only.
fn calls_digest(request: &mut v1::SubmitRequest) -> [u8; 32] {
    let mut hasher = xxhash3_128::Hasher::new();
    each_part(request, |part| hasher.write(part));
    let mut digest = [0; 32];
    digest[..16].copy_from_slice(&hasher.finish_128().to_le_bytes());
    digest
}

/// A request part by part, each with its length: encoded as a whole, or task by task, it
/// would need as much memory again, fresh from the system.
fn each_part(request: &mut v1::SubmitRequest, mut part: impl FnMut(&[u8])) {
    let mut tasks = std::mem::take(&mut request.tasks);
    part(&request.encode_length_delimited_to_vec());
    let mut encoded = Vec::new();
    for task in &mut tasks {
        let payload = std::mem::take(&mut task.payload);
        encoded.clear();
        task.encode_length_delimited(&mut encoded).expect("a vector has room for any message");
        prost::encode_length_delimiter(payload.len(), &mut encoded)
            .expect("a vector has room for any length");
        part(&encoded);
        part(&payload);
        task.payload = payload;
    }
    request.tasks = tasks;
}

#[cfg(test)]
mod tests;
