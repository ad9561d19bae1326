//! `GET` and `PUT /debug/log-level`: the level of the log, while the server runs.
//!
//! Off unless `--log-control` allows it, because everyone who reaches the port could fill the log.
//! A change with `?for=10min` ends by itself. A restart of the worker ends it, too.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use actix_web::http::Method;
use actix_web::rt::{self, task::JoinHandle};
use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::AppState;
use super::body::{self, BodyLimit};
use super::error::Error;
use crate::config::LogLevel;
use crate::telemetry::levels;

/// Limit on the body: a level, and those of some modules.
const MAX_BODY: BodyLimit = BodyLimit {
    bytes: 4 << 10,
    option: None,
};

/// The task that ends a change of the level.
#[derive(Debug, Default)]
pub(super) struct LevelChange(Mutex<Option<JoinHandle<()>>>);

/// The query of a `PUT`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Change {
    /// Time after which the level of `--log-level` returns.
    #[serde(rename = "for", default)]
    duration: Option<String>,
}

#[derive(Serialize)]
struct Answer {
    level: String,
}

/// Answers with the level, after setting it if the request is a `PUT`.
pub(super) async fn answer(
    state: &AppState,
    request: &HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Error> {
    if !state.settings.log_control {
        body::discard(request, payload).await;
        return Err(Error::LogControlOff);
    }
    if *request.method() == Method::PUT {
        let deadline = Instant::now() + state.settings.request_timeout;
        let body = body::read(&state.engine, request, payload, MAX_BODY, deadline).await?;
        set(state, request.query_string(), &body.bytes)?;
    }
    let level = levels::current().map(|level| level.to_string()).unwrap_or_default();
    Ok(HttpResponse::Ok().json(Answer { level }))
}

fn set(state: &AppState, query: &str, body: &[u8]) -> Result<(), Error> {
    let wrong = |reason: String| Error::LogLevel { reason };
    let text = str::from_utf8(body).unwrap_or_default().trim();
    let level: LogLevel = text.parse().map_err(wrong)?;
    let change = web::Query::<Change>::from_query(query).map_err(|_| wrong(QUERY.to_owned()))?;
    let duration = match &change.duration {
        Some(text) => Some(humantime::parse_duration(text).map_err(|_| wrong(QUERY.to_owned()))?),
        None => None,
    };
    levels::set(&level);
    tracing::warn!("the level of the log is {level} now");
    let first = state.settings.log_level.clone();
    let end = duration.map(|duration| rt::spawn(restore(first, duration)));
    let before = std::mem::replace(
        &mut *state.level_change.0.lock().unwrap_or_else(PoisonError::into_inner),
        end,
    );
    if let Some(before) = before {
        before.abort();
    }
    Ok(())
}

/// Help for a wrong query.
const QUERY: &str = "the query has a time such as ?for=10min, or is empty";

async fn restore(level: LogLevel, after: Duration) {
    rt::time::sleep(after).await;
    levels::set(&level);
    tracing::warn!("the level of the log is that of --log-level again: {level}");
}
