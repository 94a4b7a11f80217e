//! Who is registered: the state of a nameservice.
//!
//! ```text
//!              register                    deregister · sweep after a TTL without
//!  (unknown) ───────────▶ registered ───▶  heartbeat · address taken by another
//!                         ▲        │
//!                         └────────┘ register again · heartbeat · probed
//! ```
//!
//! A worker is known by its id; of two processes with one id the newer incarnation
//! wins. Every method returns what it changed, for those who watch.
//!
//! What this module does not do: it probes nobody and has no clock.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::id::Timestamp;
use super::limits;
use super::task_type::{PayloadKind, TaskType, TypeName};

/// Failed probes in a row after which a worker is unhealthy: one may be a hiccup.
pub const FAILED_PROBES: u32 = 2;

/// What a worker says of itself. Always well-formed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// Names the worker across its restarts.
    pub worker: Arc<str>,
    /// Tells one process of that worker from the next: a later one is greater.
    pub incarnation: u64,
    /// `host:port` as others reach it.
    pub address: Arc<str>,
    /// The types it serves.
    pub types: Vec<TaskType>,
    /// How many tasks it runs at once.
    pub slots: u32,
    /// The version of its program, for people.
    pub version: String,
}

impl Registration {
    /// Whether it serves a type.
    #[must_use]
    pub fn serves(&self, name: &TypeName) -> bool {
        self.types.iter().any(|task_type| task_type.name == *name)
    }

    /// The most bytes that it takes when encoded.
    fn bytes(&self) -> usize {
        // Tags, lengths and numbers of one registration and of one type.
        const FRAME: usize = 96;
        const TYPE_FRAME: usize = 32;
        let types: usize = self
            .types
            .iter()
            .map(|task_type| {
                let schema = match &task_type.payload {
                    PayloadKind::Json { schema } => schema.as_ref().map_or(0, |text| text.len()),
                    PayloadKind::Bytes | PayloadKind::Text | PayloadKind::Duration { .. } => 0,
                };
                task_type.name.as_str().len() + schema + TYPE_FRAME
            })
            .sum();
        self.worker.len() + self.address.len() + self.version.len() + types + FRAME
    }
}

/// Whether a registered worker answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Health {
    /// Failed its last probes: listed, not offered.
    Unhealthy,
    /// Not probed yet: offered.
    #[default]
    Unknown,
    /// Answered its last probe: offered.
    Healthy,
}

/// A registration as the registry keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// What the worker said.
    pub registration: Arc<Registration>,
    /// What the probes found.
    pub health: Health,
    /// When it first registered under this incarnation.
    pub registered: Timestamp,
    /// When it was last heard of.
    pub heartbeat: Timestamp,
}

/// What those who watch are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A new or changed registration.
    Put(Endpoint),
    /// The registration of this worker ended.
    Removed(Arc<str>),
}

/// Why the registry did not do as it was asked. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// A newer process of that worker is registered.
    #[error(
        "worker {worker} is registered with the newer incarnation {known}: \
         give each worker an id of its own"
    )]
    Older {
        /// The worker's id.
        worker: Arc<str>,
        /// The incarnation that is registered.
        known: u64,
    },
    /// There is no such registration: register (again).
    #[error("worker {worker} is not registered under this incarnation: register again")]
    NotRegistered {
        /// The worker's id.
        worker: Arc<str>,
    },
    /// As many workers, or as many bytes of them, as a registry takes.
    #[error("the registry is full: {workers} workers, {bytes} bytes; run a second grid")]
    Full {
        /// How many are registered.
        workers: usize,
        /// Their encoded bytes.
        bytes: usize,
    },
}

/// All registrations.
#[derive(Debug)]
pub struct Registry {
    ttl: Duration,
    entries: BTreeMap<Arc<str>, Entry>,
    /// Which worker has an address.
    addresses: BTreeMap<Arc<str>, Arc<str>>,
    /// Which workers serve a type.
    types: BTreeMap<TypeName, BTreeSet<Arc<str>>>,
    /// When which registration ends unless its worker is heard of.
    ends: BTreeSet<(Timestamp, Arc<str>)>,
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    endpoint: Endpoint,
    ends: Timestamp,
    failed_probes: u32,
}

impl Registry {
    /// An empty one, whose registrations end `ttl` after their last heartbeat.
    #[must_use]
    pub fn new(ttl: Duration) -> Self {
        Self {
            ttl,
            entries: BTreeMap::new(),
            addresses: BTreeMap::new(),
            types: BTreeMap::new(),
            ends: BTreeSet::new(),
            bytes: 0,
        }
    }

    /// Makes a worker known, or renews what is known of it. A new incarnation ends
    /// the old one's registration; another worker at the same address loses its own.
    pub fn register(
        &mut self,
        registration: Registration,
        now: Timestamp,
    ) -> Result<Vec<Change>, Rejected> {
        let worker = Arc::clone(&registration.worker);
        let known = self.entries.get(&worker);
        if let Some(entry) = known {
            let incarnation = entry.endpoint.registration.incarnation;
            if incarnation > registration.incarnation {
                return Err(Rejected::Older { worker, known: incarnation });
            }
            if *entry.endpoint.registration == registration {
                self.heard(&worker, now);
                return Ok(Vec::new());
            }
        }
        let evicted = self.addresses.get(&registration.address).filter(|&w| *w != worker).cloned();
        self.check_room(&registration, evicted.as_ref())?;

        let mut changes = Vec::new();
        if let Some(other) = evicted
            && self.remove(&other).is_some()
        {
            changes.push(Change::Removed(other));
        }
        let before = self.remove(&worker);
        let same_process = before
            .filter(|entry| entry.endpoint.registration.incarnation == registration.incarnation);
        let registration = Arc::new(registration);
        let endpoint = Endpoint {
            registration,
            health: same_process.as_ref().map_or(Health::Unknown, |entry| entry.endpoint.health),
            registered: same_process.as_ref().map_or(now, |entry| entry.endpoint.registered),
            heartbeat: now,
        };
        let failed_probes = same_process.map_or(0, |entry| entry.failed_probes);
        changes.push(Change::Put(endpoint.clone()));
        self.insert(Entry { endpoint, ends: now.plus(self.ttl), failed_probes });
        Ok(changes)
    }

    /// Keeps a registration alive for another TTL. Never creates one.
    pub fn heartbeat(
        &mut self,
        worker: &str,
        incarnation: u64,
        now: Timestamp,
    ) -> Result<(), Rejected> {
        match self.get(worker).map(|known| &known.registration) {
            Some(known) if known.incarnation == incarnation => {
                let worker = Arc::clone(&known.worker);
                self.heard(&worker, now);
                Ok(())
            }
            Some(_) | None => Err(Rejected::NotRegistered { worker: worker.into() }),
        }
    }

    /// Ends a registration; of another incarnation, or of nobody, it changes nothing.
    pub fn deregister(&mut self, worker: &str, incarnation: u64) -> Vec<Change> {
        if self.get(worker).is_none_or(|known| known.registration.incarnation != incarnation) {
            return Vec::new();
        }
        self.remove(worker)
            .map(|entry| Change::Removed(Arc::clone(&entry.endpoint.registration.worker)))
            .into_iter()
            .collect()
    }

    /// Ends all registrations whose time has come.
    pub fn sweep(&mut self, now: Timestamp) -> Vec<Change> {
        let mut changes = Vec::new();
        while let Some((ends, worker)) = self.ends.first() {
            if *ends > now {
                break;
            }
            let worker = Arc::clone(worker);
            self.remove(&worker);
            changes.push(Change::Removed(worker));
        }
        changes
    }

    /// When there is something to sweep.
    #[must_use]
    pub fn next_end(&self) -> Option<Timestamp> {
        self.ends.first().map(|(ends, _)| *ends)
    }

    /// Lets every registration live `span` longer: the nameservice itself stood
    /// still for so long, and heartbeats may wait unread.
    pub fn postpone(&mut self, span: Duration) {
        self.ends.clear();
        for (worker, entry) in &mut self.entries {
            entry.ends = entry.ends.plus(span);
            self.ends.insert((entry.ends, Arc::clone(worker)));
        }
    }

    /// Notes whether a worker answered a probe: unhealthy after two failures in a
    /// row, healthy after one answer. Says what that changed.
    pub fn probed(&mut self, worker: &str, incarnation: u64, answered: bool) -> Option<Change> {
        let entry = self.entries.get_mut(worker)?;
        if entry.endpoint.registration.incarnation != incarnation {
            return None;
        }
        entry.failed_probes = if answered { 0 } else { entry.failed_probes.saturating_add(1) };
        let health = match entry.failed_probes {
            0 => Health::Healthy,
            FAILED_PROBES.. => Health::Unhealthy,
            _ => entry.endpoint.health,
        };
        if entry.endpoint.health == health {
            return None;
        }
        entry.endpoint.health = health;
        Some(Change::Put(entry.endpoint.clone()))
    }

    /// The workers that serve a type and are not unhealthy, in order of their ids.
    pub fn lookup(&self, name: &TypeName) -> impl Iterator<Item = &Endpoint> {
        self.types
            .get(name)
            .into_iter()
            .flatten()
            .filter_map(|worker| self.get(worker))
            .filter(|endpoint| endpoint.health != Health::Unhealthy)
    }

    /// All registrations, in order of the workers' ids.
    pub fn list(&self) -> impl Iterator<Item = &Endpoint> {
        self.entries.values().map(|entry| &entry.endpoint)
    }

    /// The registration of one worker.
    #[must_use]
    pub fn get(&self, worker: &str) -> Option<&Endpoint> {
        self.entries.get(worker).map(|entry| &entry.endpoint)
    }

    /// How many are registered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nobody is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether the registration would fit, once those that it replaces are gone.
    fn check_room(
        &self,
        registration: &Registration,
        evicted: Option<&Arc<str>>,
    ) -> Result<(), Rejected> {
        let mut workers = self.entries.len() + 1;
        let mut bytes = self.bytes + registration.bytes();
        let before = [Some(&registration.worker), evicted];
        for endpoint in before.into_iter().flatten().filter_map(|worker| self.get(worker)) {
            workers -= 1;
            bytes -= endpoint.registration.bytes();
        }
        if workers > limits::WORKERS || bytes > limits::REGISTRY_BYTES {
            return Err(Rejected::Full { workers: self.entries.len(), bytes: self.bytes });
        }
        Ok(())
    }

    fn heard(&mut self, worker: &Arc<str>, now: Timestamp) {
        if let Some(entry) = self.entries.get_mut(worker) {
            self.ends.remove(&(entry.ends, Arc::clone(worker)));
            entry.endpoint.heartbeat = now;
            // A registration that was let live longer keeps what it was given.
            entry.ends = entry.ends.max(now.plus(self.ttl));
            self.ends.insert((entry.ends, Arc::clone(worker)));
        }
    }

    fn insert(&mut self, entry: Entry) {
        let registration = &entry.endpoint.registration;
        let worker = Arc::clone(&registration.worker);
        self.addresses.insert(Arc::clone(&registration.address), Arc::clone(&worker));
        for task_type in &registration.types {
            self.types.entry(task_type.name.clone()).or_default().insert(Arc::clone(&worker));
        }
        self.ends.insert((entry.ends, Arc::clone(&worker)));
        self.bytes += registration.bytes();
        self.entries.insert(worker, entry);
    }

    fn remove(&mut self, worker: &str) -> Option<Entry> {
        let entry = self.entries.remove(worker)?;
        let registration = &entry.endpoint.registration;
        self.addresses.remove(&registration.address);
        for task_type in &registration.types {
            if let Some(workers) = self.types.get_mut(&task_type.name) {
                workers.remove(worker);
                if workers.is_empty() {
                    self.types.remove(&task_type.name);
                }
            }
        }
        self.ends.remove(&(entry.ends, Arc::clone(&registration.worker)));
        self.bytes -= registration.bytes();
        Some(entry)
    }
}

#[cfg(test)]
mod tests;
