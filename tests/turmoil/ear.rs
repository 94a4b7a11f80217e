//! Hears every message of the simulated network, as it is sent, lost, held and delivered:
//! for the figures, and for the digest by which two runs of a seed are compared.

use std::fmt::{self, Write as _};
use std::hash::{DefaultHasher, Hasher as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Event, Metadata, Subscriber};

/// What the simulator calls itself.
const NETWORK: &str = "turmoil";

/// A clone is the same ear.
#[derive(Debug, Clone)]
pub(crate) struct Ear {
    heard: Arc<Mutex<Heard>>,
    /// Whether it says what the roles log.
    tells: bool,
}

/// What was heard.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    pub(crate) sent: u64,
    pub(crate) lost: u64,
    pub(crate) held: u64,
    hasher: DefaultHasher,
    /// In milliseconds, of the step that is being made.
    now: u64,
}

impl Ear {
    /// Hears all that this process's simulator says from here on.
    pub(crate) fn listen(tells: bool) -> Self {
        let ear = Self { heard: Arc::default(), tells };
        tracing::subscriber::set_global_default(ear.clone()).expect("nobody else listens");
        ear
    }

    /// The time for what comes.
    pub(crate) fn tick(&self, now: u64) {
        self.heard().now = now;
    }

    /// Of the whole network until now: who sent which bytes to whom, when, and what became
    /// of them.
    pub(crate) fn digest(&self) -> u64 {
        self.heard().hasher.finish()
    }

    pub(crate) fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hears(&self, metadata: &Metadata<'_>) -> bool {
        let target = metadata.target();
        target == NETWORK || self.tells && target.starts_with("taskgrid")
    }
}

impl Subscriber for Ear {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.hears(metadata) { Interest::always() } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.hears(metadata)
    }

    fn event(&self, event: &Event<'_>) {
        if event.metadata().target() == NETWORK {
            let mut heard = self.heard();
            let now = heard.now;
            heard.hasher.write_u64(now);
            event.record(&mut *heard);
        } else {
            let mut line = String::new();
            event.record(&mut Line(&mut line));
            let (now, metadata) = (self.heard().now, event.metadata());
            eprintln!("{now:>7} {} {}:{line}", metadata.level(), metadata.target());
        }
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

impl Visit for Heard {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            let message = format!("{value:?}");
            match message.as_str() {
                "Send" => self.sent += 1,
                "Drop" => self.lost += 1,
                "Hold" => self.held += 1,
                _ => {}
            }
        }
        write!(Hashed(&mut self.hasher), "{}={value:?}", field.name()).expect("a hash takes all");
    }
}

/// Text on its way into a hash.
struct Hashed<'a>(&'a mut DefaultHasher);

impl fmt::Write for Hashed<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write(text.as_bytes());
        Ok(())
    }
}

/// An event of the log as a line.
struct Line<'a>(&'a mut String);

impl Visit for Line<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let name = field.name();
        let told = if name == "message" {
            write!(self.0, " {value:?}")
        } else {
            write!(self.0, " {name}={value:?}")
        };
        told.expect("a string takes all");
    }
}
