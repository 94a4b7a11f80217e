//! Calling other roles: channels that connect by themselves, and the pauses
//! between attempts of those who call again.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use tonic::Status;
use tonic::transport::Endpoint;

use super::serve::{KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT};
use super::{Channel, Error, Network};

/// The time a connection may take to be made: three attempts of TCP.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// The time a short unary call may take. Not for calls that wait, nor for streams.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes in flight to this caller on one stream, and on one connection: the
/// same reasons as those of the server's windows.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;

/// TCP's own probes of a silent connection, where HTTP/2 must not ping.
const TCP_PROBE_AFTER: Duration = Duration::from_secs(10);
const TCP_PROBE_EVERY: Duration = Duration::from_secs(3);
const TCP_PROBES: u32 = 3;

/// The first pause, doubled each time up to the last; each grows by up to its own
/// length again by jitter, so that no pause is longer than 2 s: after a partition work
/// is to go on as before within a lease and 2 s.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(1);

/// A channel to `http://host:port` or `host:port`. Connects with the first call,
/// and again by itself after a loss; calls have no deadline unless they set one.
/// Must be called within a tokio runtime.
///
/// It pings often, which servers of this program expect. Others may not: see
/// [`foreign_channel`].
pub fn channel(address: &str) -> Result<Channel, Error> {
    Network::System.channel(address)
}

/// As [`channel`], to a server of another make: without pings of HTTP/2, because
/// gRPC's C core (Python, Ruby, C++) ends a connection with `too_many_pings` when
/// they come more often than every five minutes. A host that vanished is found
/// out by TCP.
pub fn foreign_channel(address: &str) -> Result<Channel, Error> {
    Network::System.foreign_channel(address)
}

/// The pauses between attempts to reach a peer: from about 50 ms, doubling, up to
/// 2 s, with jitter, for ever.
#[derive(Debug)]
pub struct Backoff {
    pauses: <ExponentialBuilder as backon::BackoffBuilder>::Backoff,
}

impl Backoff {
    /// Pauses from the shortest on.
    #[must_use]
    pub fn new() -> Self {
        let pauses = ExponentialBuilder::default()
            .with_min_delay(FIRST_PAUSE)
            .with_max_delay(LAST_PAUSE)
            .without_max_times()
            .with_jitter()
            .build();
        Self { pauses }
    }

    /// How long to wait before the next attempt.
    #[expect(clippy::should_implement_trait, reason = "there always is a next one")]
    pub fn next(&mut self) -> Duration {
        self.pauses.next().unwrap_or(LAST_PAUSE)
    }

    /// The peer was reached: the next pause is a short one again.
    pub fn reset(&mut self) {
        *self = Self::new();
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self::new()
    }
}

/// What a status says to a person. One that the transport made up says "transport
/// error" itself, its innermost cause "connection refused".
#[must_use]
pub fn reason(status: &Status) -> String {
    let mut cause = std::error::Error::source(status);
    let mut text = status.message().to_owned();
    while let Some(error) = cause {
        text = error.to_string();
        cause = error.source();
    }
    text
}

/// The endpoint of a [`channel`].
pub(super) fn pinging(address: &str) -> Result<Endpoint, Error> {
    Ok(endpoint(address)?
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true))
}

/// The endpoint of a [`foreign_channel`].
pub(super) fn silent(address: &str) -> Result<Endpoint, Error> {
    Ok(endpoint(address)?
        .tcp_keepalive(Some(TCP_PROBE_AFTER))
        .tcp_keepalive_interval(Some(TCP_PROBE_EVERY))
        .tcp_keepalive_retries(Some(TCP_PROBES)))
}

fn endpoint(address: &str) -> Result<Endpoint, Error> {
    let bad = |problem: &str| Error::BadUrl { url: address.to_owned(), problem: problem.into() };
    let authority = match address.split_once("://") {
        Some(("http", authority)) => authority.strip_suffix('/').unwrap_or(authority),
        Some((scheme, _)) => return Err(bad(&format!("{scheme} is not spoken"))),
        None => address,
    };
    if authority.contains('/') {
        return Err(bad("it has a path"));
    }
    let endpoint = Endpoint::from_shared(format!("http://{authority}"))
        .map_err(|_| bad("it does not parse"))?;
    if endpoint.uri().port_u16().is_none_or(|port| port == 0) {
        return Err(bad("it names no port"));
    }
    if endpoint.uri().host().is_none_or(str::is_empty) {
        return Err(bad("it names no host"));
    }
    Ok(endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW))
}
