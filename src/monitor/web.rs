//! The monitor's routes: the numbers and tasks as JSON, the page and its events.

use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::sse::{Event, Sse};
use axum::response::{Html, IntoResponse, Response};
use futures_util::{Stream, StreamExt as _};
use serde::Deserialize;
use serde_json::json;
use tokio_stream::wrappers::IntervalStream;

use super::collector::Handle;
use super::failures::Failures;
use super::page;
use crate::client::json::TaskJson;
use crate::client::{Client, Error, GetOptions};
use crate::core::id::TaskId;
use crate::http::{complain, json as answer, route};
use crate::shutdown::Shutdown;

/// The longest time that a read of a task may wait for its end.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// The time between two events of a page.
const EVENTS: Duration = Duration::from_secs(1);

/// What the routes need. Cheap to clone.
#[derive(Clone)]
pub(super) struct Web {
    pub(super) handle: Handle,
    pub(super) failures: Failures,
    pub(super) client: Client,
    pub(super) shutdown: Shutdown,
}

/// All routes of the monitor but its vitals.
pub(super) fn routes(web: Web) -> Router {
    let router = route(Router::new(), "/stats", stats);
    let router = route(router, "/workers", workers);
    let router = route(router, "/tasks/{id}", task);
    let router = route(router, "/", whole_page);
    let router = route(router, "/events", events);
    route(router, "/assets/{name}", asset).with_state(web)
}

/// Ticks, the first at once, until `shutdown` begins.
pub(super) fn every(interval: Duration, shutdown: Shutdown) -> impl Stream<Item = ()> + Send {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let end = async move { shutdown.begun().await };
    IntervalStream::new(ticks).map(|_| ()).take_until(Box::pin(end))
}

async fn stats(State(web): State<Web>) -> Response {
    answer(StatusCode::OK, &web.handle.stats().await)
}

async fn workers(State(web): State<Web>) -> Response {
    let stats = web.handle.stats().await;
    answer(StatusCode::OK, &json!({ "workers": stats.workers, "sources": stats.sources }))
}

#[derive(Debug, Deserialize)]
struct Wait {
    wait: Option<String>,
}

async fn task(
    State(web): State<Web>,
    Path(id): Path<String>,
    query: Result<Query<Wait>, QueryRejection>,
) -> Response {
    let Query(Wait { wait }) = match query {
        Ok(query) => query,
        Err(refused) => return complain(refused.status(), &refused.body_text()),
    };
    let Ok(id) = id.parse() else {
        let problem = format!("{id:?} is no id of a task: ids are whole numbers");
        return complain(StatusCode::BAD_REQUEST, &problem);
    };
    let wait = match wait.as_deref().map(humantime::parse_duration).transpose() {
        Ok(wait) => wait.unwrap_or_default().min(LONGEST_WAIT),
        Err(error) => {
            let problem = format!("wait is no duration, such as 30s: {error}");
            return complain(StatusCode::BAD_REQUEST, &problem);
        }
    };
    let options = GetOptions { wait, story: true, omit_payload: false };
    match web.client.get_one(TaskId(id), options).await {
        Ok(task) => answer(StatusCode::OK, &TaskJson::new(&task, true)),
        Err(error) => {
            let status = match &error {
                Error::NotFound { .. } => StatusCode::NOT_FOUND,
                Error::Expired { .. } => StatusCode::GONE,
                Error::Unreachable { .. } | Error::NotReady { .. } | Error::Refused { .. } => {
                    StatusCode::SERVICE_UNAVAILABLE
                }
                Error::NotAllowed { .. } => StatusCode::FORBIDDEN,
                _ => StatusCode::BAD_GATEWAY,
            };
            complain(status, &error.to_string())
        }
    }
}

async fn whole_page(State(web): State<Web>) -> Response {
    let stats = web.handle.stats().await;
    Html(page::whole(&stats, &web.failures.newest().await).into_string()).into_response()
}

/// The changing part of the page, again and again.
async fn events(State(web): State<Web>) -> Response {
    let events = every(EVENTS, web.shutdown.clone()).then(move |()| {
        let web = web.clone();
        async move {
            let live = page::live(&web.handle.known_stats(), &web.failures.newest().await);
            Ok::<_, Infallible>(Event::default().event("live").data(live.into_string()))
        }
    });
    Sse::new(events).into_response()
}

async fn asset(Path(name): Path<String>) -> Response {
    let found = match name.as_str() {
        "live.js" => Some(("text/javascript", include_str!("assets/live.js"))),
        "style.css" => Some(("text/css", include_str!("assets/style.css"))),
        _ => None,
    };
    match found {
        Some((kind, text)) => {
            ([(CONTENT_TYPE, format!("{kind}; charset=utf-8"))], text).into_response()
        }
        None => complain(StatusCode::NOT_FOUND, "there is no such file"),
    }
}
