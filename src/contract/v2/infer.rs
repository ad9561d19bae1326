//! `POST /v2/models/{name}/infer`.
//!
//! The response is JSON, followed by the data of the outputs that the request wants in binary. The
//! handler ignores `Accept` and `Content-Type`, because clients of the protocol set them to
//! arbitrary values.

use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, web};
use tokio::time::Instant;

use super::check;
use crate::codec::INFERENCE_HEADER_CONTENT_LENGTH;
use crate::contract::AppState;
use crate::contract::coding;
use crate::contract::error::Error;
use crate::contract::invoke::{body_limit, read_body, reply};
use crate::contract::models::text_header;
use crate::contract::request_log;
use crate::engine::Model;
use crate::handler::{Invocation, Protocol};
use crate::wire::v2::V2ModelPath;

/// Content-Type of a body with binary data after the JSON.
const BINARY: &str = "application/octet-stream";

pub(super) async fn infer(
    state: &AppState,
    model: &V2ModelPath,
    request: &HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Error> {
    let arrived = Instant::now();
    let deadline = arrived + state.settings.request_timeout;
    let body = read_body(state, request, payload, (arrived, deadline)).await?;
    let body = coding::decompressed(state, request, body, body_limit(state)).await?;
    check(state, model, deadline).await?;
    let asked = Instant::now();
    let handle = state.catalog.get(&model.name, deadline).await?;
    let record = request_log::found_model(state, request, &model.name, &handle, (arrived, asked));

    let size = body.bytes.len();
    let invocation = Invocation {
        body: body.bytes,
        memory: body.memory,
        protocol: Protocol::OpenInference {
            json_bytes: text_header(request, INFERENCE_HEADER_CONTENT_LENGTH),
        },
        model: model.name.clone(),
        handler: Arc::clone(handle.handler()),
        logged: request_log::logged(request),
    };
    let encoded = record.settle(Model::answer(&handle, size, deadline, invocation).await)?;

    let mut response = HttpResponse::Ok();
    match encoded.json_bytes {
        Some(bytes) => {
            response
                .content_type(BINARY)
                .insert_header((INFERENCE_HEADER_CONTENT_LENGTH, bytes));
        }
        None => {
            response.content_type(encoded.content_type.as_ref());
        }
    }
    Ok(reply(state, request, response, encoded.body).await)
}
