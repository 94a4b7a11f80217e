//! Keeps one worker registered with its nameservices.
//!
//! ```text
//!            registered                  heartbeat answered
//!  register ────────────▶ beat, a third ◀──┐
//!     ▲  │ failed:        of a TTL apart ──┘
//!     │  └ pause              │
//!     └───────────────────────┘ not registered (the nameservice is new) ·
//!                               unreachable
//! ```
//!
//! When the shutdown begins, it deregisters, so that nobody dials a worker that is
//! about to leave.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tonic::{Code, Request, Status};
use tracing::{debug, info, warn};

use crate::core::limits;
use crate::core::registry::Registration;
use crate::rpc::{self, Backoff, CALL_TIMEOUT, Network};
use crate::shutdown::Shutdown;
use crate::wire::v1;
use crate::wire::v1::name_service_client::NameServiceClient;

/// The time a deregistration may take: without it, a TTL does the same.
const GOODBYE: Duration = Duration::from_secs(1);
/// The longest time between heartbeats, whatever TTL a nameservice names.
const LONGEST_PAUSE: Duration = Duration::from_secs(1_200);
/// The shortest one.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);

/// Announces one worker.
#[derive(Debug)]
pub struct Announcer {
    links: Vec<Link>,
    registered: watch::Sender<usize>,
}

/// The announcement to one nameservice.
#[derive(Debug)]
struct Link {
    url: String,
    client: NameServiceClient<rpc::Channel>,
    registration: v1::Registration,
}

impl Announcer {
    /// An announcer to the nameservices at `urls` (`http://host:port` or
    /// `host:port`), of a worker that can be reached at the registration's address.
    /// Must be called within a tokio runtime.
    pub fn new(
        network: &Network,
        urls: &[String],
        registration: &Registration,
    ) -> Result<Self, rpc::Error> {
        let link = |url: &String| {
            let client = NameServiceClient::new(network.channel(url)?)
                .max_decoding_message_size(limits::ENVELOPE_BYTES);
            Ok(Link { url: url.clone(), client, registration: registration.into() })
        };
        let links = urls.iter().map(link).collect::<Result<_, rpc::Error>>()?;
        Ok(Self { links, registered: watch::Sender::new(0) })
    }

    /// With how many nameservices the worker is registered, as far as is known.
    #[must_use]
    pub fn registered(&self) -> watch::Receiver<usize> {
        self.registered.subscribe()
    }

    /// Announces until `shutdown` begins, then takes at most a second to deregister.
    pub async fn run(self, shutdown: Shutdown) {
        let Self { links, registered } = self;
        join_all(links.into_iter().map(|link| link.run(&registered, &shutdown))).await;
    }
}

impl Link {
    async fn run(mut self, registered: &watch::Sender<usize>, shutdown: &Shutdown) {
        tokio::select! {
            () = shutdown.begun() => {}
            () = self.announce(registered) => {}
        }
        self.leave().await;
    }

    async fn announce(&mut self, registered: &watch::Sender<usize>) {
        let mut backoff = Backoff::new();
        let mut quiet = false;
        loop {
            match self.register().await {
                Ok(ttl) => {
                    info!(nameservice = %self.url, worker = %self.registration.worker_id, "registered");
                    backoff.reset();
                    quiet = false;
                    let counted = Counted::new(registered);
                    let lost = self.beat(ttl).await;
                    drop(counted);
                    info!(nameservice = %self.url, reason = %rpc::reason(&lost), "registering again");
                    if lost.code() == Code::NotFound {
                        continue;
                    }
                }
                // Said once, not with every attempt.
                Err(status) if !quiet => {
                    warn!(nameservice = %self.url, reason = %rpc::reason(&status), "cannot register");
                    quiet = true;
                }
                Err(status) => {
                    debug!(nameservice = %self.url, reason = %rpc::reason(&status), "cannot register");
                }
            }
            sleep(backoff.next()).await;
        }
    }

    async fn register(&mut self) -> Result<Duration, Status> {
        let registration = Some(self.registration.clone());
        let request = timed(v1::RegisterRequest { registration });
        let answer = self.client.register(request).await?;
        Ok(Duration::from_millis(answer.into_inner().ttl_ms))
    }

    /// Beats until that fails; tells how.
    async fn beat(&mut self, mut ttl: Duration) -> Status {
        loop {
            sleep((ttl / 3).clamp(SHORTEST_PAUSE, LONGEST_PAUSE)).await;
            let request = timed(v1::HeartbeatRequest {
                worker_id: self.registration.worker_id.clone(),
                incarnation: self.registration.incarnation,
            });
            match self.client.heartbeat(request).await {
                Ok(answer) => ttl = Duration::from_millis(answer.into_inner().ttl_ms),
                Err(status) => return status,
            }
        }
    }

    async fn leave(&mut self) {
        let request = Request::new(v1::DeregisterRequest {
            worker_id: self.registration.worker_id.clone(),
            incarnation: self.registration.incarnation,
        });
        match timeout(GOODBYE, self.client.deregister(request)).await {
            Ok(Ok(_)) => debug!(nameservice = %self.url, "deregistered"),
            Ok(Err(status)) => {
                debug!(nameservice = %self.url, reason = %rpc::reason(&status), "cannot deregister");
            }
            Err(_) => debug!(nameservice = %self.url, "no answer to a deregistration"),
        }
    }
}

fn timed<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(CALL_TIMEOUT);
    request
}

/// Counts one registration for as long as it lives.
struct Counted<'a>(&'a watch::Sender<usize>);

impl<'a> Counted<'a> {
    fn new(registered: &'a watch::Sender<usize>) -> Self {
        registered.send_modify(|count| *count += 1);
        Self(registered)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count = count.saturating_sub(1));
    }
}
