//! The ids of a request, and its record in the log and in a trace.
//!
//! Invariants:
//! - A response has the ids of its request: `X-Amzn-SageMaker-Inference-Id` as it came, and
//!   `traceparent` with the server's span, or as it came if the server records none.
//! - Requests for health, for metrics and for the page are never chosen: they come every few
//!   seconds and say nothing about a model.

use std::sync::Arc;

use actix_web::HttpMessage;
use actix_web::HttpRequest;
use actix_web::body::{BodySize, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::Method;
use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::trace::SpanContext;

use super::resource::Resource;
use super::{AppState, failure, texts};
use crate::catalog::Handle;
use crate::telemetry::metrics::{ModelRequest, Route};
use crate::telemetry::propagation::{self, traceparent};
use crate::telemetry::request_log::{LoggedRequest, RequestHead, RequestRecord};
use crate::telemetry::times::Step;
use crate::wire::{INFERENCE_ID, TARGET_MODEL, TRACE_PARENT, TRACE_STATE};

/// Starts the record of a request, if it is chosen.
pub(super) fn start(state: &AppState, route: Route, request: &ServiceRequest) -> Option<RequestRecord> {
    if is_of_the_server(route) {
        return None;
    }
    let head = || RequestHead {
        method: request.method().as_str(),
        path: request.path(),
        route: template(request.path(), request.method()),
        inference_id: text(request.headers(), INFERENCE_ID),
    };
    let record = state.settings.request_log.start(|| parent(request.headers()), head)?;
    request.extensions_mut().insert(Arc::clone(record.logged()));
    Some(record)
}

/// Whether a request is about the server, and not about its models.
fn is_of_the_server(route: Route) -> bool {
    match route {
        Route::Ping | Route::List | Route::Metrics | Route::ExecutionParameters | Route::Page => true,
        Route::Invocations
        | Route::Load
        | Route::Get
        | Route::Unload
        | Route::Invoke
        | Route::Infer
        | Route::Protocol
        | Route::Debug
        | Route::Other => false,
    }
}

/// The path with a placeholder for the model's name, as OpenTelemetry's `http.route`.
fn template(path: &str, method: &Method) -> Option<&'static str> {
    Some(match Resource::of(path) {
        Resource::Invocations => "/invocations",
        Resource::Models => "/models",
        Resource::Model if *method == Method::POST => "/models/{name}/invoke",
        Resource::Model => "/models/{name}",
        Resource::Protocol { is_inference: true } => "/v2/models/{name}/infer",
        Resource::Protocol { is_inference: false } => "/v2",
        Resource::Profile => "/debug/profile/{name}",
        Resource::LogLevel => "/debug/log-level",
        Resource::Text(api) => texts::path(api),
        Resource::Ping => "/ping",
        Resource::ExecutionParameters => "/execution-parameters",
        Resource::Metrics => "/metrics",
        Resource::Page(_) => "/",
        Resource::Unknown => return None,
    })
}

/// The part of the record that the request carries, if it was chosen.
pub(super) fn logged(request: &HttpRequest) -> Option<Arc<LoggedRequest>> {
    request.extensions().get::<Arc<LoggedRequest>>().map(Arc::clone)
}

/// Starts to count a request to the loaded model `name`, and notes the model in the record. The
/// request arrived at the first of two times, and asked for the model at the second one.
pub(super) fn found_model<'a>(
    state: &'a AppState,
    request: &HttpRequest,
    name: &str,
    handle: &'a Handle,
    (arrived, asked): (tokio::time::Instant, tokio::time::Instant),
) -> ModelRequest<'a> {
    if let Some(logged) = logged(request) {
        logged.found_model(name, handle.target_model(), handle.is_cold());
        if handle.is_cold() {
            logged.times.end(Step::Load, asked.into_std());
        }
    }
    state
        .metrics
        .start_model_request(handle.stats(), arrived, handle.is_cold())
}

/// The trace that a request names.
pub(super) fn parent(headers: &HeaderMap) -> Option<SpanContext> {
    propagation::parse(text(headers, TRACE_PARENT)?, text(headers, TRACE_STATE))
}

/// Notes the model that a request names, if its handler has found none.
pub(super) async fn note_model<B>(
    state: &AppState,
    route: Route,
    response: &ServiceResponse<B>,
    record: &RequestRecord,
) {
    if record.logged().has_model() {
        return;
    }
    let request = response.request();
    let target = text(request.headers(), TARGET_MODEL);
    if let Some(name) = failure::named(state, route, request, target) {
        let listed = state.catalog.listed(&name).await.and_then(|listed| listed.target_model);
        record.logged().found_model(&name, listed.as_deref().or(target), false);
    }
}

/// The trace that a request belongs to: that of its record, or the one that it names.
pub(super) fn trace_id<B>(response: &ServiceResponse<B>, record: Option<&RequestRecord>) -> Option<String> {
    match record {
        Some(record) => record.trace_id(),
        None => parent(response.request().headers()).map(|parent| parent.trace_id().to_string()),
    }
}

/// A header of a request, if it is ASCII.
pub(super) fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Bytes of a response's body, if they are known before it is sent.
pub(super) fn size(response: &ServiceResponse<impl MessageBody>) -> Option<u64> {
    match response.response().body().size() {
        BodySize::None => Some(0),
        BodySize::Sized(bytes) => Some(bytes),
        BodySize::Stream => None,
    }
}

/// Adds the ids of the request to its response.
pub(super) fn echo<B>(response: &mut ServiceResponse<B>, record: Option<&RequestRecord>) {
    let sent = response.request().headers();
    let id = sent.get(INFERENCE_ID).cloned();
    let own = record.and_then(RequestRecord::span).map(traceparent);
    let span = match own {
        Some(own) => HeaderValue::from_str(&own).ok(),
        None => sent.get(TRACE_PARENT).filter(|_| parent(sent).is_some()).cloned(),
    };
    let headers = response.headers_mut();
    for (name, value) in [(INFERENCE_ID, id), (TRACE_PARENT, span)] {
        if let Some(value) = value {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
}
