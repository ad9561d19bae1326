//! Inference: `POST /invocations` and `POST /models/{name}/invoke` (`IN` and `MM` clauses).

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use actix_web::body::{BodySize, MessageBody};
use actix_web::http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, VARY};
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder, web};
use bytes::Bytes;
use tokio::time::Instant;

use super::AppState;
use super::body::{self, Body, BodyLimit};
use super::coding;
use super::error::Error;
use super::models::text_header;
use super::request_log;
use crate::catalog::Handle;
use crate::engine::Model;
use crate::handler::{Invocation, Protocol};
use crate::telemetry::recorder::Phase;
use crate::telemetry::times::Step;
use crate::wire::{CUSTOM_ATTRIBUTES, MAX_CUSTOM_ATTRIBUTES, TARGET_MODEL};

/// The Content-Type that `curl -d` sends by default. Treated as a missing one, because no model
/// accepts form data.
const CURL_DEFAULT: &str = "application/x-www-form-urlencoded";

/// Whether a Content-Type, with or without parameters, describes the body.
fn is_specific(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    !essence.is_empty() && !essence.eq_ignore_ascii_case(CURL_DEFAULT)
}

/// `POST /invocations` (IN-1).
pub(super) async fn invocations(
    state: web::Data<AppState>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Error> {
    let invocations = &state.settings.invocations;
    let target = invocations
        .by_target
        .then(|| text_header(&request, TARGET_MODEL))
        .flatten();
    let chosen = match (target, &invocations.default) {
        (Some(target), _) if target.is_empty() => Err(Error::NoTargetModel),
        (Some(target), _) => Ok(target),
        (None, Some(default)) => state.health.admit().map(|()| default.clone()),
        (None, None) if invocations.by_target => Err(Error::NoTargetModel),
        // MM-24: in multi-model mode the path chooses the model, and this path chooses none.
        (None, None) => Err(Error::NoModelChosen),
    };
    match chosen {
        Ok(name) => model(&state, &name, &request, payload).await,
        Err(error) => {
            body::discard(&request, payload).await;
            Err(error)
        }
    }
}

/// Answers a request with the model `name` (MM-5). Only the path chooses the model, never a header
/// (MM-7).
pub(super) async fn model(
    state: &AppState,
    name: &str,
    request: &HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Error> {
    let arrived = Instant::now();
    let deadline = arrived + state.settings.request_timeout;
    // Read the body first: a client reads a refusal only after it has sent its body, and a slow
    // body must not delay an unload.
    let body = read_body(state, request, payload, (arrived, deadline)).await?;
    let attributes = custom_attributes(request)?;
    let body = coding::decompressed(state, request, body, body_limit(state)).await?;
    state.wait_for_default(name, deadline).await?;
    let asked = Instant::now();
    let handle = state.catalog.get(name, deadline).await?;
    let record = request_log::found_model(state, request, name, &handle, (arrived, asked));
    warn_of_another_target(name, handle.target_model(), request);

    let (size, invocation) = invocation(state, name, &handle, request, body);
    let encoded = record.settle(Model::answer(&handle, size, deadline, invocation).await)?;

    let mut response = HttpResponse::Ok();
    // IN-2, CT-2: exactly the type of the sent body, because a pipeline passes it to the next
    // container as its Content-Type (MC-4).
    response.content_type(encoded.content_type.as_ref());
    if let Some(attributes) = attributes {
        response.insert_header((CUSTOM_ATTRIBUTES, attributes));
    }
    Ok(reply(state, request, response, encoded.body).await)
}

/// The work of a request with headers as SageMaker forwards them, and the size of its body.
pub(super) fn invocation(
    state: &AppState,
    name: &str,
    handle: &Handle,
    request: &HttpRequest,
    body: Body,
) -> (usize, Invocation) {
    let content_type = text_header(request, CONTENT_TYPE.as_str())
        .filter(|given| is_specific(given))
        .unwrap_or_else(|| state.settings.formats.default_content_type.clone());
    let size = handle.handler().weight(&content_type, &body.bytes);
    let invocation = Invocation {
        body: body.bytes,
        memory: body.memory,
        protocol: Protocol::Headers {
            content_type,
            accept: accept(request),
            default: state.settings.formats.default_accept,
            documents: state.settings.formats.documents,
        },
        model: name.to_owned(),
        handler: Arc::clone(handle.handler()),
        logged: request_log::logged(request),
    };
    (size, invocation)
}

/// Completes a response with a body, compressed if the client accepts that and it makes the body
/// smaller.
pub(super) async fn reply(
    state: &AppState,
    request: &HttpRequest,
    mut response: HttpResponseBuilder,
    body: Bytes,
) -> HttpResponse {
    if state.settings.compress_above.is_some() {
        response.insert_header((VARY, ACCEPT_ENCODING.as_str()));
    }
    let compressed = coding::compressed(state, request, &body).await;
    let body = match compressed {
        Some((coding, compressed)) => {
            response.insert_header((CONTENT_ENCODING, coding.name()));
            compressed
        }
        None => body,
    };
    response.body(ChunkedBody(body))
}

/// Limit on the body of an inference request.
pub(super) const fn body_limit(state: &AppState) -> BodyLimit {
    BodyLimit {
        bytes: state.settings.max_body,
        option: Some("--max-body"),
    }
}

/// Reads the body of an inference request that arrived at the first of two times, until the second
/// one.
pub(super) async fn read_body(
    state: &AppState,
    request: &HttpRequest,
    payload: web::Payload,
    (arrived, deadline): (Instant, Instant),
) -> Result<Body, Error> {
    let body = body::read(&state.engine, request, payload, body_limit(state), deadline).await?;
    let recorder = state.metrics.recorder();
    recorder.phase_since(Phase::Read, arrived.into_std());
    if let Some(logged) = request_log::logged(request) {
        logged.read_body(body.bytes.len());
        logged.times.end(Step::Phase(Phase::Read), arrived.into_std());
    }
    Ok(body)
}

/// A response body that is passed to the connection in pieces. The server copies each piece that
/// it gets. Passing a large body at once would hold it twice in memory for as long as a slow
/// client reads.
pub(super) struct ChunkedBody(pub Bytes);

/// Size of a piece in bytes, about the size of a connection's buffer.
const PIECE: usize = 64 << 10;

impl MessageBody for ChunkedBody {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        BodySize::Sized(self.0.len() as u64)
    }

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, Infallible>>> {
        let length = self.0.len().min(PIECE);
        let piece = self.0.split_to(length);
        Poll::Ready((length > 0).then_some(Ok(piece)))
    }

    fn try_into_bytes(self) -> Result<Bytes, Self> {
        if self.0.len() <= PIECE { Ok(self.0) } else { Err(self) }
    }
}

/// Returns the header to echo. The platform forwards it but does not copy it to the response
/// (IN-3).
fn custom_attributes(request: &HttpRequest) -> Result<Option<HeaderValue>, Error> {
    let Some(value) = request.headers().get(CUSTOM_ATTRIBUTES) else {
        return Ok(None);
    };
    let acceptable = value.len() <= MAX_CUSTOM_ATTRIBUTES && value.to_str().is_ok();
    acceptable.then(|| Some(value.clone())).ok_or(Error::CustomAttributes)
}

/// Joins all Accept headers into one list.
fn accept(request: &HttpRequest) -> Option<String> {
    let mut lists = request
        .headers()
        .get_all(ACCEPT)
        .map(|value| String::from_utf8_lossy(value.as_bytes()));
    let first = lists.next()?.into_owned();
    Some(lists.fold(first, |list, more| list + "," + &more))
}

/// Warns if the caller names another model than the one loaded under this path, because it has
/// probably confused two models (MM-7).
fn warn_of_another_target(name: &str, loaded: Option<&str>, request: &HttpRequest) {
    let Some(loaded) = loaded else { return };
    if let Some(asked) = request.headers().get(TARGET_MODEL)
        && asked.as_bytes() != loaded.as_bytes()
    {
        let asked = String::from_utf8_lossy(asked.as_bytes());
        tracing::warn!(
            model = name,
            target_model = loaded,
            asked = asked.as_ref(),
            "the Target-Model header differs from that of the load request"
        );
    }
}
