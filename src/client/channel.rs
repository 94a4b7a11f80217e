//! How a dispatcher is dialled.

use std::time::Duration;

use tonic::transport::{Channel, Endpoint};

use super::error::Error;

/// A channel that connects with its first call, and again whenever it must.
pub(super) fn lazy(url: &str) -> Result<Channel, Error> {
    let with_scheme = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
    let endpoint = Endpoint::from_shared(with_scheme)
        .ok()
        .filter(|endpoint| endpoint.uri().host().is_some_and(|host| !host.is_empty()))
        .ok_or_else(|| Error::WrongInput {
            problem: format!("{url:?} is no address of a dispatcher: write http://HOST:PORT"),
        })?;
    Ok(endpoint
        .connect_timeout(Duration::from_secs(5))
        .tcp_nodelay(true)
        .http2_keep_alive_interval(Duration::from_secs(5))
        .keep_alive_timeout(Duration::from_secs(5))
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(8 << 20)
        .connect_lazy())
}
