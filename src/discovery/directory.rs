//! Watches nameservices and keeps one merged view of the live workers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;
use tonic::Status;
use tracing::{debug, info, warn};

use crate::clock::Clock;
use crate::core::directory::{self as core, Endpoint, Source, View};
use crate::core::id::Timestamp;
use crate::core::limits;
use crate::rpc::{self, Backoff, Network};
use crate::shutdown::Shutdown;
use crate::wire::v1;
use crate::wire::v1::name_service_client::NameServiceClient;
use crate::wire::v1::watch_workers_response::Change as Message;

/// Messages of nameservices that wait to be merged.
const MESSAGES: usize = 256;
/// Bytes of one message: all registrations.
const MESSAGE_BYTES: usize = limits::REGISTRY_BYTES + limits::ENVELOPE_BYTES;

/// A view of all live workers, kept up to date.
#[derive(Debug)]
pub struct Directory {
    watchers: Vec<Watcher>,
    heard: mpsc::Receiver<Heard>,
    merged: core::Directory,
    view: watch::Sender<Arc<View>>,
    sources: watch::Sender<Vec<SourceState>>,
    clock: Clock,
}

/// How one nameservice stands, as seen from here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceState {
    /// Where it is.
    pub url: String,
    /// Whether the watch stands: what it told is of this moment then.
    pub reachable: bool,
    /// When it was lost sight of; `None` while the watch stands, and if it never did.
    pub lost: Option<Timestamp>,
    /// Why the watch does not stand; empty while it does.
    pub problem: String,
}

impl SourceState {
    /// Whether it ever told anything.
    #[must_use]
    pub fn was_heard(&self) -> bool {
        self.reachable || self.lost.is_some()
    }
}

/// The watch of one nameservice.
#[derive(Debug)]
struct Watcher {
    source: Source,
    url: String,
    client: NameServiceClient<rpc::Channel>,
    heard: mpsc::Sender<Heard>,
}

#[derive(Debug)]
struct Heard {
    source: Source,
    news: News,
}

#[derive(Debug)]
enum News {
    Snapshot { endpoints: Vec<Endpoint>, uptime: Duration, ttl: Duration },
    Put(Endpoint),
    Removed(String),
    Lost { reason: String },
}

impl Directory {
    /// A directory over the nameservices at `urls` (`http://host:port` or
    /// `host:port`). Its view is empty and incomplete until [`Self::run`] has heard
    /// of one. Must be called within a tokio runtime.
    pub fn new(network: &Network, urls: &[String], clock: Clock) -> Result<Self, rpc::Error> {
        let (sender, heard) = mpsc::channel(MESSAGES);
        let watcher = |(source, url): (Source, &String)| {
            let client = NameServiceClient::new(network.channel(url)?)
                .max_decoding_message_size(MESSAGE_BYTES);
            Ok(Watcher { source, url: url.clone(), client, heard: sender.clone() })
        };
        let watchers = urls.iter().enumerate().map(watcher).collect::<Result<_, rpc::Error>>()?;
        let merged = core::Directory::new(urls.len());
        let unheard = |url: &String| SourceState {
            url: url.clone(),
            reachable: false,
            lost: None,
            problem: "not reached yet".to_owned(),
        };
        let sources = watch::Sender::new(urls.iter().map(unheard).collect());
        Ok(Self { watchers, heard, merged, view: watch::Sender::default(), sources, clock })
    }

    /// The same, with workers that the caller remembers from before, each with its
    /// address. Until then they are not forgotten, whatever the nameservices say.
    #[must_use]
    pub fn remembering(mut self, workers: BTreeMap<Arc<str>, Arc<str>>, until: Timestamp) -> Self {
        self.merged.remember(workers, until);
        self.view.send_replace(Arc::new(self.merged.view()));
        self
    }

    /// The view, and a way to wait for the next one.
    #[must_use]
    pub fn view(&self) -> watch::Receiver<Arc<View>> {
        self.view.subscribe()
    }

    /// How the nameservices stand, in the order of their URLs.
    #[must_use]
    pub fn sources(&self) -> watch::Receiver<Vec<SourceState>> {
        self.sources.subscribe()
    }

    /// Watches until `shutdown` begins.
    pub async fn run(mut self, shutdown: Shutdown) {
        let watchers = std::mem::take(&mut self.watchers);
        let watching = join_all(watchers.into_iter().map(Watcher::run));
        tokio::select! {
            () = shutdown.begun() => {}
            // Ends only where there is no nameservice to watch.
            _ = async { tokio::join!(watching, self.merge()) } => shutdown.begun().await,
        }
    }

    /// Folds in what is heard. All that waits becomes one new view.
    async fn merge(&mut self) {
        let mut batch = Vec::with_capacity(MESSAGES);
        loop {
            let due = self.merged.next_due().map(|at| self.clock.instant(at));
            let wake = async {
                match due {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            let mut closed = false;
            tokio::select! {
                taken = self.heard.recv_many(&mut batch, MESSAGES) => closed = taken == 0,
                () = wake => {}
            }
            for Heard { source, news } in batch.drain(..) {
                self.fold(source, news);
            }
            self.merged.tick(self.clock.now());
            let view = self.merged.view();
            self.view.send_if_modified(|before| {
                let changed = **before != view;
                if changed {
                    *before = Arc::new(view);
                }
                changed
            });
            if closed {
                return;
            }
        }
    }

    fn fold(&mut self, source: Source, news: News) {
        match news {
            News::Snapshot { endpoints, uptime, ttl } => {
                self.merged.snapshot(source, endpoints, uptime, ttl, self.clock.now());
            }
            News::Put(endpoint) => self.merged.put(source, endpoint),
            News::Removed(worker) => self.merged.removed(source, &worker),
            News::Lost { reason } => {
                self.merged.lost(source);
                return self.note_lost(source, reason);
            }
        }
        self.note_heard(source);
    }

    fn note_heard(&self, source: Source) {
        self.sources.send_if_modified(|sources| match sources.get_mut(source) {
            Some(state) if !state.reachable => {
                *state = SourceState {
                    url: std::mem::take(&mut state.url),
                    reachable: true,
                    lost: None,
                    problem: String::new(),
                };
                true
            }
            Some(_) | None => false,
        });
    }

    fn note_lost(&self, source: Source, reason: String) {
        self.sources.send_modify(|sources| {
            let Some(state) = sources.get_mut(source) else { return };
            if state.reachable {
                state.lost = Some(self.clock.now());
            }
            state.reachable = false;
            state.problem = reason;
        });
    }
}

impl Watcher {
    async fn run(mut self) {
        let mut backoff = Backoff::new();
        let mut quiet = false;
        loop {
            let mut told = false;
            let reason = self.watch(&mut told).await.err();
            let reason =
                reason.as_ref().map_or_else(|| "it ended the watch".to_owned(), rpc::reason);
            if told {
                backoff.reset();
                quiet = false;
            }
            // Said once, not with every attempt.
            if quiet {
                debug!(nameservice = %self.url, %reason, "cannot watch");
            } else {
                warn!(nameservice = %self.url, %reason, "lost sight of a nameservice; what it told stands");
            }
            quiet = true;
            if !self.tell(News::Lost { reason }).await {
                return;
            }
            sleep(backoff.next()).await;
        }
    }

    /// Watches until the stream ends. `told` says whether anything came.
    async fn watch(&mut self, told: &mut bool) -> Result<(), Status> {
        let mut stream = self.client.watch(v1::WatchWorkersRequest {}).await?.into_inner();
        while let Some(message) = stream.message().await? {
            if !*told {
                info!(nameservice = %self.url, "watching a nameservice");
                *told = true;
            }
            if let Some(news) = self.parse(message)
                && !self.tell(news).await
            {
                return Ok(());
            }
        }
        Ok(())
    }

    /// What a message says; nothing of what is malformed.
    fn parse(&self, message: v1::WatchWorkersResponse) -> Option<News> {
        match message.change? {
            Message::Snapshot(snapshot) => Some(News::Snapshot {
                endpoints: snapshot
                    .endpoints
                    .into_iter()
                    .filter_map(|e| self.endpoint(e))
                    .collect(),
                uptime: Duration::from_millis(snapshot.uptime_ms),
                ttl: Duration::from_millis(snapshot.ttl_ms).min(*limits::TTL.end()),
            }),
            Message::Put(endpoint) => self.endpoint(endpoint).map(News::Put),
            Message::Removed(worker) => Some(News::Removed(worker)),
        }
    }

    fn endpoint(&self, message: v1::Endpoint) -> Option<Endpoint> {
        match message.try_into() {
            Ok(endpoint) => Some(endpoint),
            Err(malformed) => {
                warn!(nameservice = %self.url, %malformed, "skipping a registration");
                None
            }
        }
    }

    /// Whether anybody listens.
    async fn tell(&self, news: News) -> bool {
        self.heard.send(Heard { source: self.source, news }).await.is_ok()
    }
}
