//! HTTP as every role serves it: whether it is alive, whether it is ready, and its
//! numbers; the monitor adds its own routes.
//!
//! Served by hyper's HTTP/1 with a timer, because axum's own server waits for ever
//! for a peer that says nothing. What this module does not do: it speaks no gRPC,
//! and knows nothing of tasks.

mod guard;
mod serve;
mod vitals;

pub use guard::AllowedHosts;
pub use serve::serve;
pub use vitals::{Vitals, serve_vitals, vitals};

use axum::Router;
use axum::handler::Handler;
use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, HeaderValue};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Serialize;

use crate::security;

/// Adds a route that is read with GET, if the policy table names it: what does not
/// stand there does not exist.
pub fn route<State, Arguments>(
    router: Router<State>,
    path: &'static str,
    handler: impl Handler<Arguments, State>,
) -> Router<State>
where
    State: Clone + Send + Sync + 'static,
    Arguments: 'static,
{
    if security::policy(&format!("GET {path}")).is_none() {
        tracing::error!(path, "the policy table does not name this route; this is a bug");
        return router;
    }
    router.route(path, get(handler))
}

/// An answer in JSON.
pub fn json(status: StatusCode, body: &impl Serialize) -> Response {
    match serde_json::to_vec(body) {
        Ok(mut text) => {
            text.push(b'\n');
            let kind = HeaderValue::from_static("application/json");
            (status, [(CONTENT_TYPE, kind)], text).into_response()
        }
        Err(error) => complain(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

/// A refusal, in JSON: `{"error": "…"}`.
#[must_use]
pub fn complain(status: StatusCode, problem: &str) -> Response {
    json(status, &serde_json::json!({ "error": problem }))
}

#[cfg(test)]
mod tests;
