//! The three routes that every role has: `/healthz`, `/readyz`, `/metrics`.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::{AllowedHosts, json, route, serve};
use crate::metrics::{Exposition, of_process};
use crate::rpc::{self, Listener};
use crate::shutdown::Shutdown;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// How long an answer may take to be sent once the role ends.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What a role tells of itself.
pub trait Vitals: Send + Sync + 'static {
    /// What it lacks to do its whole work, for people; nothing when it is ready. A
    /// role that is alive but not ready needs time or another role, no restart.
    fn lacks(&self) -> impl Future<Output = Vec<String>> + Send;

    /// Its numbers of this moment.
    fn metrics(&self) -> impl Future<Output = Exposition> + Send;
}

/// The routes of a role's vitals.
pub fn vitals<V: Vitals>(role: V) -> Router {
    let router =
        route(Router::new(), "/healthz", async || json(StatusCode::OK, &json!({ "alive": true })));
    let router = route(router, "/readyz", ready::<V>);
    let router = route(router, "/metrics", metrics::<V>);
    router.with_state(Arc::new(role))
}

/// Serves a role's vitals until `shutdown` begins, if it has a port for them.
pub async fn serve_vitals(
    listener: Option<Listener>,
    role: impl Vitals,
    shutdown: Shutdown,
) -> Result<(), rpc::Error> {
    if let Some(listener) = listener {
        let hosts = AllowedHosts::default();
        Box::pin(serve(listener, vitals(role), hosts, shutdown, LAST_WORDS)).await
    } else {
        shutdown.begun().await;
        Ok(())
    }
}

async fn ready<V: Vitals>(State(role): State<Arc<V>>) -> Response {
    let lacks = role.lacks().await;
    let ready = lacks.is_empty();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    json(status, &json!({ "ready": ready, "lacks": lacks }))
}

async fn metrics<V: Vitals>(State(role): State<Arc<V>>, headers: HeaderMap) -> Response {
    let mut all = role.metrics().await;
    of_process(&mut all);
    let accepted = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (kind, text) = if accepted.contains("application/openmetrics-text") {
        (OPEN_METRICS, all.open_metrics())
    } else {
        (PROMETHEUS, all.prometheus_text())
    };
    ([(CONTENT_TYPE, HeaderValue::from_static(kind))], text).into_response()
}
