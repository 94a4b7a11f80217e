//! Keeps what the nameservice and the dispatcher told last, and asks the dispatcher
//! again: every second, and whenever somebody wants the numbers of this very moment.
//!
//! Those who want them at the same time share one question. Nobody waits long for it:
//! a dispatcher that does not answer makes numbers old, not answers late.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::rates::Rates;
use super::snapshot::{Known, Told};
use crate::clock::Clock;
use crate::core::limits;
use crate::discovery::{Directory, SourceState, View};
use crate::rpc;
use crate::shutdown::Shutdown;
use crate::wire::v1::dispatcher_client::DispatcherClient;
use crate::wire::v1::{GridStats, StatsRequest, StatsResponse};

/// The time between questions that nobody asked for.
const INTERVAL: Duration = Duration::from_secs(1);
/// The time that the dispatcher has to answer one.
const CALL: Duration = Duration::from_secs(2);
/// How long a reader waits for fresh numbers before it gets the last known ones.
const PATIENCE: Duration = Duration::from_millis(50);
/// Readers that wait for the next question; more get the last known numbers.
const READERS: usize = 1_024;
/// Bytes of one answer: every worker and every type.
const ANSWER_BYTES: usize = limits::REGISTRY_BYTES + limits::ENVELOPE_BYTES;

/// Gives the numbers. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Handle {
    readers: mpsc::Sender<oneshot::Sender<()>>,
    known: watch::Receiver<Arc<Known>>,
    clock: Clock,
}

impl Handle {
    /// What is known, after the dispatcher was asked once more if it answers soon.
    pub(super) async fn fresh(&self) -> Arc<Known> {
        let (tell, told) = oneshot::channel();
        if self.readers.try_send(tell).is_ok() {
            // Late, or never because the monitor ends: the last known ones do.
            timeout(PATIENCE, told).await.ok();
        }
        self.known()
    }

    /// What is known at this moment.
    pub(super) fn known(&self) -> Arc<Known> {
        self.known.borrow().clone()
    }

    /// The numbers of this moment.
    pub(super) async fn stats(&self) -> GridStats {
        let known = self.fresh().await;
        known.stats(self.clock.now())
    }

    /// The numbers as they are known.
    pub(super) fn known_stats(&self) -> GridStats {
        self.known().stats(self.clock.now())
    }

    /// Whether a nameservice and the dispatcher have told anything at all.
    pub(super) fn heard(&self) -> (bool, bool) {
        let known = self.known();
        let nameservice = known.nameservices.iter().any(SourceState::was_heard);
        (nameservice, known.dispatcher.stats.is_some())
    }

    pub(super) fn clock(&self) -> Clock {
        self.clock
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Collector {
    clock: Clock,
    view: watch::Receiver<Arc<View>>,
    nameservices: watch::Receiver<Vec<SourceState>>,
    dispatcher: DispatcherClient<rpc::Channel>,
    readers: mpsc::Receiver<oneshot::Sender<()>>,
    rates: Rates,
    known: watch::Sender<Arc<Known>>,
}

impl Collector {
    /// A collector that knows nothing yet, and the handle to what it will know.
    pub(super) fn new(
        clock: Clock,
        directory: &Directory,
        url: String,
        dispatcher: rpc::Channel,
    ) -> (Self, Handle) {
        let (sender, readers) = mpsc::channel(READERS);
        let told = Told { url, problem: "not reached yet".to_owned(), ..Told::default() };
        let (view, nameservices) = (directory.view(), directory.sources());
        let known = Known {
            view: view.borrow().clone(),
            nameservices: nameservices.borrow().clone(),
            dispatcher: told,
        };
        let known = watch::Sender::new(Arc::new(known));
        let handle = Handle { readers: sender, known: known.subscribe(), clock };
        let dispatcher = DispatcherClient::new(dispatcher).max_decoding_message_size(ANSWER_BYTES);
        let rates = Rates::default();
        (Self { clock, view, nameservices, dispatcher, readers, rates, known }, handle)
    }

    /// Collects until `shutdown` begins.
    pub(super) async fn run(mut self, shutdown: Shutdown) {
        tokio::select! {
            () = shutdown.begun() => {}
            () = self.collect() => {}
        }
    }

    async fn collect(&mut self) {
        let mut ticks = interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut waiting = Vec::new();
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                taken = self.readers.recv_many(&mut waiting, READERS) => {
                    if taken == 0 {
                        return;
                    }
                }
                changed = self.view.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.note_nameservices();
                    continue;
                }
                changed = self.nameservices.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.note_nameservices();
                    continue;
                }
            }
            let answer = self.ask().await;
            self.note_dispatcher(answer);
            for reader in waiting.drain(..) {
                // One that has left got older numbers.
                reader.send(()).ok();
            }
        }
    }

    async fn ask(&mut self) -> Result<StatsResponse, String> {
        match timeout(CALL, self.dispatcher.stats(StatsRequest {})).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(rpc::reason(&status)),
            Err(_) => Err(format!("no answer within {CALL:?}")),
        }
    }

    fn note_nameservices(&mut self) {
        let view = self.view.borrow_and_update().clone();
        let nameservices = self.nameservices.borrow_and_update().clone();
        self.known.send_modify(|known| {
            let known = Arc::make_mut(known);
            known.view = view;
            known.nameservices = nameservices;
        });
    }

    fn note_dispatcher(&mut self, answer: Result<StatsResponse, String>) {
        let now = self.clock.now();
        let before = &self.known.borrow().dispatcher.clone();
        let told = match answer {
            Ok(stats) => {
                if !before.problem.is_empty() {
                    tracing::info!(dispatcher = before.url, "watching a dispatcher");
                }
                let rates = self.rates.add(&stats, now);
                let (url, stats) = (before.url.clone(), Some(Arc::new(stats)));
                Told { url, stats, at: now, rates, problem: String::new() }
            }
            Err(problem) => {
                if before.problem.is_empty() {
                    tracing::warn!(
                        dispatcher = before.url,
                        problem,
                        "lost sight of a dispatcher; what it told stands"
                    );
                }
                Told { problem, ..before.clone() }
            }
        };
        self.known.send_modify(|known| Arc::make_mut(known).dispatcher = told);
    }
}
