//! Records failed requests: in the log, in the statistics of their model, and in the list of the
//! last failures.
//!
//! This runs for failed requests only, after the handler: it may look the model up by its name,
//! which a successful request never does for its statistics.

use actix_web::body::MessageBody;
use actix_web::dev::{RequestHead, ServiceResponse};
use actix_web::{HttpMessage, HttpRequest, ResponseError};

use super::AppState;
use super::error::Error;
use super::request_log;
use super::v2::V2Error;
use crate::telemetry::cause::Cause;
use crate::telemetry::failures::{Failure, without_quotes};
use crate::telemetry::metrics::Route;
use crate::wire::v2::{V2ModelPath, V2Path};
use crate::wire::{INFERENCE_ID, ModelPath, TARGET_MODEL};

/// The model that the body of a request names, for requests whose path and headers name none.
struct NamedInBody(String);

/// Notes the model that the body of `request` names.
pub(super) fn note_model(request: &HttpRequest, name: &str) {
    request.extensions_mut().insert(NamedInBody(name.to_owned()));
}

/// Returns the cause of an error response. A response of actix itself has only a status.
pub(super) fn cause(response: &ServiceResponse<impl MessageBody>) -> Cause {
    match error(response) {
        Some(error) => error.cause(),
        None if response.status().is_client_error() => Cause::BadRequest,
        None => Cause::Internal,
    }
}

/// The error of a response; `None` for a response of a handler or of actix itself.
pub(super) fn error(response: &ServiceResponse<impl MessageBody>) -> Option<&Error> {
    let error = response.response().error()?;
    let of_protocol = || error.as_error::<V2Error>().map(|error| &error.0);
    error.as_error::<Error>().or_else(of_protocol)
}

/// Logs and records an error response of `route`.
pub(super) async fn record(
    state: &AppState,
    route: Route,
    cause: Cause,
    response: &ServiceResponse<impl MessageBody>,
    trace_id: Option<&str>,
) {
    let request = response.request();
    // The record must not contain the client's data.
    let error = error(response);
    let text = match error {
        Some(error) if error.quotes_data() => without_quotes(&error.to_string()),
        Some(error) => error.to_string(),
        None => response.status().to_string(),
    };
    let sent = request.headers().get(TARGET_MODEL);
    let sent = sent.map(|name| String::from_utf8_lossy(name.as_bytes()).into_owned());
    let name = named(state, route, request, sent.as_deref());
    let listed = match &name {
        Some(name) => state.catalog.listed(name).await,
        None => None,
    };
    let target = listed.as_ref().and_then(|listed| listed.target_model.clone()).or(sent);
    log(response, (name.as_deref(), target.as_deref()), trace_id, &text);

    let is_of_model = match route {
        Route::Invocations | Route::Invoke | Route::Infer => true,
        Route::Load | Route::Unload | Route::Protocol | Route::ExecutionParameters | Route::Debug | Route::Other => {
            false
        }
        // An answer about the state does not count: 404 for an unknown model, 503 for a start.
        Route::Ping | Route::Metrics | Route::List | Route::Get | Route::Page => return,
    };
    if is_of_model && let Some(listed) = &listed {
        state.metrics.model_failed(&listed.stats, cause, &text);
    }
    let status = response.status().as_u16();
    let failure = Failure::now(route.label(), Some(status), cause, &text);
    state
        .metrics
        .failures
        .add(failure.of(name.as_deref(), target.as_deref()));
}

/// Logs a refusal with the opaque model name of the path and the client's name for it, because
/// operators use the log to map one to the other.
fn log(
    response: &ServiceResponse<impl MessageBody>,
    (model, target_model): (Option<&str>, Option<&str>),
    trace_id: Option<&str>,
    text: &str,
) {
    let request = response.request();
    let status = response.status().as_u16();
    // The names come from clients; the log escapes line breaks in them (ST-11).
    let (method, path) = (request.method().as_str(), request.path());
    let inference_id = request.headers().get(INFERENCE_ID);
    let inference_id = inference_id.map(|id| String::from_utf8_lossy(id.as_bytes()));
    let inference_id = inference_id.as_deref();
    macro_rules! logged {
        ($level:ident) => {
            tracing::$level!(
                status,
                method,
                path,
                model,
                target_model,
                inference_id,
                trace_id,
                "{text}"
            )
        };
    }
    match response.status().is_server_error() {
        true => logged!(warn),
        false => logged!(info),
    }
}

/// Logs and records a request that was refused by its head, before a client sent its body.
pub(super) fn record_head(state: &AppState, route: Route, head: &RequestHead, refusal: &Error) {
    let (method, path) = (head.method.as_str(), head.uri.path());
    let status = refusal.status_code().as_u16();
    let failure = Failure::now(route.label(), Some(status), refusal.cause(), &refusal.to_string());
    let name = match ModelPath::parse(path) {
        Some(ModelPath::Model(name) | ModelPath::Invoke(name)) => Some(name),
        None => None,
    };
    let (model, target_model) = (name.as_deref(), request_log::text(&head.headers, TARGET_MODEL));
    tracing::info!(status, method, path, model, target_model, "{refusal}");
    state.metrics.failures.add(failure.of(model, target_model));
}

/// The name of the model that a request is about.
pub(super) fn named(state: &AppState, route: Route, request: &HttpRequest, target: Option<&str>) -> Option<String> {
    if let Some(NamedInBody(name)) = request.extensions().get() {
        return Some(name.clone());
    }
    match route {
        Route::Invocations => {
            let invocations = &state.settings.invocations;
            let target = target.filter(|_| invocations.by_target).map(ToOwned::to_owned);
            target.or_else(|| invocations.default.clone())
        }
        Route::Infer | Route::Protocol => match V2Path::parse(request.uri().path())? {
            V2Path::Model(V2ModelPath { name, .. }) | V2Path::Load(name) | V2Path::Unload(name) => Some(name),
            V2Path::Server | V2Path::Live | V2Path::Ready | V2Path::Index => None,
        },
        Route::Invoke | Route::Unload | Route::Get | Route::Other => match ModelPath::parse(request.uri().path())? {
            ModelPath::Model(name) | ModelPath::Invoke(name) => Some(name),
        },
        Route::Ping
        | Route::Metrics
        | Route::ExecutionParameters
        | Route::Load
        | Route::List
        | Route::Page
        | Route::Debug => None,
    }
}
