//! What stands before every route: whether the request names this server at all, and
//! the headers that tell a browser to be careful with the answer.

use std::net::IpAddr;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, HOST, HeaderName, HeaderValue, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{StatusCode, Uri, uri::Authority};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::Response;

use super::complain;

/// Nothing but this server's own files, in nobody's frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
                      connect-src 'self'; img-src 'self'; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'";

/// The names under which a server answers.
///
/// A page of a stranger can make a browser call this machine under a name of the
/// stranger's own ("DNS rebinding"), and would then read what it answers. So a request
/// must name an address, or a name without a dot, which nobody can have bought
/// (`localhost`, a container's name), or one that was allowed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllowedHosts(Vec<String>);

impl AllowedHosts {
    /// Allows these names beside addresses and names without a dot.
    #[must_use]
    pub fn new(names: Vec<String>) -> Self {
        Self(names)
    }

    fn admits(&self, host: &str) -> bool {
        let host = host.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.');
        let is_address = host.parse::<IpAddr>().is_ok();
        let is_bare = !host.is_empty() && !host.contains('.');
        is_address || is_bare || self.0.iter().any(|name| name.eq_ignore_ascii_case(host))
    }
}

/// Puts the guard before all routes.
pub(super) fn guarded(router: Router, hosts: AllowedHosts) -> Router {
    router.layer(from_fn_with_state(hosts, check_host)).layer(from_fn(careful))
}

async fn check_host(State(hosts): State<AllowedHosts>, request: Request, next: Next) -> Response {
    let host = host_of(&request);
    match host {
        Some(host) if hosts.admits(&host) => next.run(request).await,
        Some(host) => complain(
            StatusCode::MISDIRECTED_REQUEST,
            &format!("this server is not known as {host:?}; allow the name with --allow-host"),
        ),
        None => complain(StatusCode::BAD_REQUEST, "the request names no host"),
    }
}

/// The host that a request names, without its port.
fn host_of(request: &Request) -> Option<String> {
    let named = |uri: &Uri| uri.host().map(str::to_owned);
    named(request.uri()).or_else(|| {
        let header = request.headers().get(HOST)?.to_str().ok()?;
        Some(header.parse::<Authority>().ok()?.host().to_owned())
    })
}

async fn careful(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers: [(HeaderName, &str); 4] = [
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (CACHE_CONTROL, "no-store"),
    ];
    for (name, value) in headers {
        response.headers_mut().entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_bare_names_and_allowed_names_are_this_server_and_bought_ones_are_not() {
        let hosts = AllowedHosts::new(vec!["grid.example.org".to_owned()]);
        for fine in [
            "127.0.0.1",
            "[::1]",
            "localhost",
            "monitoring",
            "grid.example.org",
            "GRID.example.org.",
        ] {
            assert!(hosts.admits(fine), "{fine}");
        }
        for bad in ["evil.example", "127.0.0.1.evil.example", "", ".", "example.org"] {
            assert!(!hosts.admits(bad), "{bad}");
        }
    }
}
