//! What several nameservices tell, merged into one view of the live workers.
//!
//! A nameservice holds soft state: after its start it knows nobody, and workers
//! come back to it within one TTL. So the view of a young nameservice adds but does
//! not remove, until it has been up for one TTL; and while a nameservice cannot be
//! reached, what it last told stands. Of several registrations of one worker the
//! newest incarnation counts.
//!
//! Beside them there may be workers that the caller remembers from an earlier life.
//! Each stands in the view until a nameservice tells of it, or of another worker at
//! its address, or has told everything without it.
//!
//! What this module does not do: it dials nobody and has no clock.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::id::Timestamp;
use super::registry::{Health, Registration};

/// A worker that some nameservice told of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// What the worker said of itself.
    pub registration: Arc<Registration>,
    /// The best that a nameservice says of its health.
    pub health: Health,
}

/// All workers, as far as the nameservices told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    /// By worker id.
    pub endpoints: BTreeMap<Arc<str>, Endpoint>,
    /// The addresses of workers that are remembered, and of which no nameservice has
    /// told: whether they live is not known.
    pub remembered: BTreeMap<Arc<str>, Arc<str>>,
    /// Whether a nameservice that had been up for one TTL has told everything it
    /// knew. Until then a worker that is missing here may well be alive; from then
    /// on the view stays complete.
    pub complete: bool,
}

/// Which nameservice told something: its place in the caller's list.
pub type Source = usize;

/// The merged state.
#[derive(Debug)]
pub struct Directory {
    sources: Vec<Told>,
    remembered: BTreeMap<Arc<str>, Arc<str>>,
    /// Until then they are remembered whatever the nameservices leave out.
    remembered_until: Timestamp,
    complete: bool,
}

/// What one nameservice told.
#[derive(Debug, Default)]
struct Told {
    endpoints: BTreeMap<Arc<str>, Known>,
    /// Its snapshot was a young one's: this is when it has been up for one TTL.
    young_until: Option<Timestamp>,
}

#[derive(Debug)]
struct Known {
    endpoint: Endpoint,
    /// From before the nameservice's start, and not told again since.
    inherited: bool,
}

impl Directory {
    /// An empty one for as many nameservices.
    #[must_use]
    pub fn new(sources: usize) -> Self {
        Self {
            sources: (0..sources).map(|_| Told::default()).collect(),
            remembered: BTreeMap::new(),
            remembered_until: Timestamp::default(),
            complete: false,
        }
    }

    /// Takes in workers that are remembered, each with its address. Up to `until` a
    /// view without one of them does not make it forgotten: it may have lost its
    /// registration just when its caller started.
    pub fn remember(&mut self, workers: BTreeMap<Arc<str>, Arc<str>>, until: Timestamp) {
        self.remembered = workers;
        self.remembered_until = until;
    }

    /// A nameservice told everything it knows.
    pub fn snapshot(
        &mut self,
        source: Source,
        endpoints: impl IntoIterator<Item = Endpoint>,
        uptime: Duration,
        ttl: Duration,
        now: Timestamp,
    ) {
        let Some(told) = self.sources.get_mut(source) else { return };
        if uptime < ttl {
            for known in told.endpoints.values_mut() {
                known.inherited = true;
            }
            told.young_until = Some(now.plus(ttl.saturating_sub(uptime)));
        } else {
            told.endpoints.clear();
            told.young_until = None;
            self.complete = true;
        }
        for endpoint in endpoints {
            self.put(source, endpoint);
        }
        self.forget_missing(now);
    }

    /// A nameservice told of a new or changed registration.
    pub fn put(&mut self, source: Source, endpoint: Endpoint) {
        let Some(told) = self.sources.get_mut(source) else { return };
        let Registration { worker, address, .. } = &*endpoint.registration;
        self.remembered.remove(worker);
        // Two processes do not listen at one address: the remembered one is gone.
        self.remembered.retain(|_, remembered| remembered != address);
        told.put(endpoint);
    }

    /// A nameservice told that a registration ended. It knew of that one, so this
    /// counts even while it is young.
    pub fn removed(&mut self, source: Source, worker: &str) {
        if let Some(told) = self.sources.get_mut(source) {
            told.endpoints.remove(worker);
            self.remembered.remove(worker);
        }
    }

    /// A nameservice cannot be reached. What it told stands, and does not become
    /// its whole view by the mere passing of time.
    pub fn lost(&mut self, source: Source) {
        if let Some(told) = self.sources.get_mut(source) {
            told.young_until = None;
        }
    }

    /// Does what has become due; see [`Self::next_due`].
    pub fn tick(&mut self, now: Timestamp) {
        for told in &mut self.sources {
            if told.young_until.is_some_and(|until| until <= now) {
                told.young_until = None;
                told.endpoints.retain(|_, known| !known.inherited);
                self.complete = true;
            }
        }
        self.forget_missing(now);
    }

    fn forget_missing(&mut self, now: Timestamp) {
        if self.complete && now >= self.remembered_until {
            self.remembered.clear();
        }
    }

    /// When a nameservice stops being young, or who is missing is forgotten.
    #[must_use]
    pub fn next_due(&self) -> Option<Timestamp> {
        let grown = self.sources.iter().filter_map(|told| told.young_until);
        let has_missing = self.complete && !self.remembered.is_empty();
        grown.chain(has_missing.then_some(self.remembered_until)).min()
    }

    /// Everything, merged.
    #[must_use]
    pub fn view(&self) -> View {
        let mut view = View {
            endpoints: BTreeMap::new(),
            remembered: self.remembered.clone(),
            complete: self.complete,
        };
        for (worker, known) in self.sources.iter().flat_map(|told| &told.endpoints) {
            let told = &known.endpoint;
            match view.endpoints.get_mut(worker) {
                None => {
                    view.endpoints.insert(Arc::clone(worker), told.clone());
                }
                Some(best) if rank(told) > rank(best) => *best = told.clone(),
                Some(_) => {}
            }
        }
        view
    }
}

impl Told {
    fn put(&mut self, endpoint: Endpoint) {
        let worker = Arc::clone(&endpoint.registration.worker);
        self.endpoints.insert(worker, Known { endpoint, inherited: false });
    }
}

/// Of one incarnation that several nameservices know, one that reaches it is right.
fn rank(endpoint: &Endpoint) -> (u64, Health) {
    (endpoint.registration.incarnation, endpoint.health)
}

#[cfg(test)]
mod tests;
