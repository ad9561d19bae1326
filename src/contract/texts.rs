//! Text interfaces of other servers: `POST /embed`, `/rerank` and `/predict` of
//! text-embeddings-inference, and `POST /v1/embeddings` of OpenAI.
//!
//! They serve local use and clusters; SageMaker only sends `/invocations` and `/models`. The model
//! is the one that `/invocations` would choose. If the server has several models, the body may
//! name one in `model`.
//!
//! Invariant: the result equals that of `/invocations`, in another form.

use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;
use tokio::time::Instant;

use super::AppState;
use super::coding;
use super::error::Error;
use super::failure;
use super::invoke::{body_limit, read_body, reply};
use super::models::text_header;
use super::request_log;
use crate::engine::Model;
use crate::handler::{Invocation, Protocol, TextApi};
use crate::wire::TARGET_MODEL;

/// Returns the interface that a path belongs to.
pub(super) fn api(path: &str) -> Option<TextApi> {
    let all = [TextApi::Embed, TextApi::Rerank, TextApi::Predict, TextApi::OpenAi];
    all.into_iter().find(|&api| self::path(api) == path)
}

/// Returns the path of an interface.
pub(super) const fn path(api: TextApi) -> &'static str {
    match api {
        TextApi::Embed => "/embed",
        TextApi::Rerank => "/rerank",
        TextApi::Predict => "/predict",
        TextApi::OpenAi => "/v1/embeddings",
    }
}

/// The member of a JSON body that chooses the model.
#[derive(Deserialize)]
struct ModelField {
    model: Option<String>,
}

/// Answers a request of one of these interfaces.
pub(super) async fn answer(
    state: &AppState,
    api: TextApi,
    request: &HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Error> {
    let arrived = Instant::now();
    let deadline = arrived + state.settings.request_timeout;
    let body = read_body(state, request, payload, (arrived, deadline)).await?;
    let body = coding::decompressed(state, request, body, body_limit(state)).await?;
    let invocations = &state.settings.invocations;
    let name = match (&invocations.default, text_header(request, TARGET_MODEL)) {
        (Some(default), _) => state.health.admit().map(|()| default.clone())?,
        (None, Some(target)) if !target.is_empty() => target,
        (None, _) => {
            let named = serde_json::from_slice::<ModelField>(&body.bytes).ok();
            let name = named.and_then(|named| named.model).ok_or(Error::NoTargetModel)?;
            failure::note_model(request, &name);
            name
        }
    };
    state.wait_for_default(&name, deadline).await?;
    let asked = Instant::now();
    let handle = state.catalog.get(&name, deadline).await?;
    let record = request_log::found_model(state, request, &name, &handle, (arrived, asked));
    let size = handle.handler().weight("application/json", &body.bytes);
    let invocation = Invocation {
        body: body.bytes,
        memory: body.memory,
        protocol: Protocol::Texts(api),
        model: name,
        handler: Arc::clone(handle.handler()),
        logged: request_log::logged(request),
    };
    let encoded = record.settle(Model::answer(&handle, size, deadline, invocation).await)?;
    let mut response = HttpResponse::Ok();
    response.content_type(encoded.content_type.as_ref());
    Ok(reply(state, request, response, encoded.body).await)
}
