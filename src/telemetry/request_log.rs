//! The records of single requests: a sample of them in the log, and traces.
//!
//! A request is chosen when its head arrives: for the log at random, for a trace by its
//! `traceparent` header or at random. A request that is not chosen costs at most two random
//! numbers. A chosen one has a [`RequestRecord`], to which the threads that answer it add their
//! times.
//!
//! Invariants: a record has no part of a body, and no header besides the ids of the request. It is
//! written once, however the request ends.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Instant, SystemTime};

use opentelemetry::KeyValue;
use opentelemetry::trace::{SpanContext, Status};

use super::cause::Cause;
use super::recorder::Phase;
use super::times::{RequestTimes, Step, StepTime, as_milliseconds, milliseconds};
use super::traces::{RequestSpan, Traces};

/// Status of a request whose client hung up before the response, as nginx logs it.
const CLIENT_CLOSED_REQUEST: u16 = 499;

/// Chooses requests for the log and for traces.
#[derive(Debug)]
pub struct RequestLog {
    /// Share of the requests that are logged, from 0 to 1.
    logged: f64,
    traces: Option<Traces>,
    /// Share of the requests without a `traceparent` header that are traced.
    traced: f64,
}

/// The head of a request.
#[derive(Debug, Clone, Copy)]
pub struct RequestHead<'a> {
    pub method: &'a str,
    pub path: &'a str,
    /// The path without the name of the model; `None` for an unknown path.
    pub route: Option<&'static str>,
    pub inference_id: Option<&'a str>,
}

/// A chosen request: the facts that are found while it is answered.
#[derive(Debug, Default)]
pub struct LoggedRequest {
    pub times: RequestTimes,
    model: OnceLock<ModelFacts>,
    /// Bytes of the request's body, as it was sent.
    bytes: AtomicU64,
}

#[derive(Debug)]
struct ModelFacts {
    name: String,
    target_model: Option<String>,
    is_cold: bool,
}

impl LoggedRequest {
    /// Notes the model that answers the request, and whether the request waited for its load.
    pub fn found_model(&self, name: &str, target_model: Option<&str>, is_cold: bool) {
        let _ = self.model.set(ModelFacts {
            name: name.to_owned(),
            target_model: target_model.map(ToOwned::to_owned),
            is_cold,
        });
    }

    /// Whether a model has been noted.
    pub fn has_model(&self) -> bool {
        self.model.get().is_some()
    }

    pub fn read_body(&self, bytes: usize) {
        self.bytes.store(bytes as u64, Ordering::Relaxed);
    }
}

impl RequestLog {
    /// Creates a log of the share `logged` of all requests. `traces` are of the requests whose
    /// callers trace them, and of the share `traced` of those without a caller's trace.
    pub const fn new(logged: f64, traces: Option<Traces>, traced: f64) -> Self {
        Self { logged, traces, traced }
    }

    /// Starts the record of a request, if it is chosen. Reads only what the choice needs: of most
    /// requests nothing.
    pub fn start<'a>(
        &self,
        parent: impl FnOnce() -> Option<SpanContext>,
        head: impl FnOnce() -> RequestHead<'a>,
    ) -> Option<RequestRecord> {
        let is_logged = is_chosen(self.logged);
        if !is_logged && self.traces.is_none() {
            return None;
        }
        let parent = parent();
        let traces = self.traces.as_ref().filter(|_| match &parent {
            Some(parent) => parent.is_sampled(),
            None => is_chosen(self.traced),
        });
        if !is_logged && traces.is_none() {
            return None;
        }
        let head = head();
        let (arrived, arrived_at) = (Instant::now(), SystemTime::now());
        let name = || match head.route {
            Some(route) => format!("{} {route}", head.method),
            None => head.method.to_owned(),
        };
        Some(RequestRecord {
            is_logged,
            span: traces.map(|traces| traces.start_request(name(), arrived_at, parent.as_ref())),
            method: head.method.to_owned(),
            path: head.path.to_owned(),
            route: head.route,
            inference_id: head.inference_id.map(ToOwned::to_owned),
            trace_id: parent.map(|parent| parent.trace_id().to_string()),
            arrived,
            arrived_at,
            logged: Arc::default(),
            outcome: Outcome::default(),
        })
    }

    /// Sends the traces that still wait.
    pub async fn stop(&self) {
        if let Some(traces) = self.traces.clone() {
            traces.stop().await;
        }
    }
}

fn is_chosen(share: f64) -> bool {
    share > 0.0 && (share >= 1.0 || fastrand::f64() < share)
}

/// The record of a chosen request. Dropping it writes it.
#[derive(Debug)]
pub struct RequestRecord {
    is_logged: bool,
    span: Option<RequestSpan>,
    method: String,
    path: String,
    route: Option<&'static str>,
    inference_id: Option<String>,
    trace_id: Option<String>,
    arrived: Instant,
    arrived_at: SystemTime,
    logged: Arc<LoggedRequest>,
    outcome: Outcome,
}

#[derive(Debug)]
struct Outcome {
    status: u16,
    cause: Option<Cause>,
    response_bytes: Option<u64>,
}

impl Default for Outcome {
    fn default() -> Self {
        Self {
            status: CLIENT_CLOSED_REQUEST,
            cause: Some(Cause::HungUp),
            response_bytes: None,
        }
    }
}

impl RequestRecord {
    /// The part of the record that the request carries with it.
    pub const fn logged(&self) -> &Arc<LoggedRequest> {
        &self.logged
    }

    /// The span that the next server or the caller may continue; `None` without a trace.
    pub fn span(&self) -> Option<&SpanContext> {
        self.span.as_ref().map(RequestSpan::context)
    }

    /// Sets the status of the response, the cause of an error, and the bytes of the body.
    pub const fn answered(&mut self, status: u16, cause: Option<Cause>, response_bytes: Option<u64>) {
        self.outcome = Outcome {
            status,
            cause,
            response_bytes,
        };
    }

    /// Writes the line. Failed requests have one with the reason already.
    fn log(&self, steps: &[StepTime], took_ms: f64) {
        let Outcome {
            status, response_bytes, ..
        } = self.outcome;
        let model = self.logged.model.get();
        let of = |phase| milliseconds(steps, Step::Phase(phase));
        let batch = steps
            .iter()
            .map(|step| step.requests)
            .max()
            .filter(|&requests| requests > 1);
        tracing::info!(
            status,
            method = self.method,
            path = self.path,
            model = model.map(|model| model.name.as_str()),
            target_model = model.and_then(|model| model.target_model.as_deref()),
            inference_id = self.inference_id,
            trace_id = self.trace_id(),
            duration_ms = took_ms,
            load_ms = milliseconds(steps, Step::Load),
            read_ms = of(Phase::Read),
            parse_ms = of(Phase::Parse),
            queue_ms = of(Phase::Queue),
            run_ms = of(Phase::Run),
            write_ms = of(Phase::Write),
            batch_requests = batch,
            request_bytes = self.logged.bytes.load(Ordering::Relaxed),
            response_bytes,
            "request"
        );
    }

    /// The id of the request's trace: the server's own, or else the caller's.
    pub fn trace_id(&self) -> Option<String> {
        let own = self.span().map(|span| span.trace_id().to_string());
        own.or_else(|| self.trace_id.clone())
    }

    /// The attributes of the request's span, by OpenTelemetry's conventions for HTTP, and
    /// Longshore's own.
    fn attributes(&self) -> Vec<KeyValue> {
        let Outcome { status, cause, .. } = self.outcome;
        let mut attributes = vec![
            KeyValue::new("http.request.method", self.method.clone()),
            KeyValue::new("url.path", self.path.clone()),
            KeyValue::new("http.response.status_code", i64::from(status)),
        ];
        if let Some(route) = self.route {
            attributes.push(KeyValue::new("http.route", route));
        }
        if let Some(cause) = cause {
            attributes.push(KeyValue::new("error.type", cause.label()));
        }
        if let Some(model) = self.logged.model.get() {
            attributes.push(KeyValue::new("longshore.model", model.name.clone()));
            attributes.push(KeyValue::new("longshore.cold", model.is_cold));
            if let Some(target) = &model.target_model {
                attributes.push(KeyValue::new("longshore.target_model", target.clone()));
            }
        }
        if let Some(id) = &self.inference_id {
            attributes.push(KeyValue::new("longshore.inference_id", id.clone()));
        }
        attributes
    }
}

impl Drop for RequestRecord {
    fn drop(&mut self) {
        let end = Instant::now();
        let steps = self.logged.times.steps();
        let is_error = (400..600).contains(&self.outcome.status) && self.outcome.status != CLIENT_CLOSED_REQUEST;
        if self.is_logged && !is_error {
            self.log(&steps, as_milliseconds(end.saturating_duration_since(self.arrived)));
        }
        let attributes = self.attributes();
        let Some(span) = self.span.take() else { return };
        let status = match self.outcome.status {
            // A client's mistake does not count as an error of the server's span.
            500.. => Status::error(self.outcome.cause.map_or("", Cause::label)),
            _ => Status::Unset,
        };
        span.end(attributes, status, &steps, (self.arrived, self.arrived_at), end);
    }
}
