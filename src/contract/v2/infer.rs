//! `POST /v2/models/{name}/infer`.
//!
//! The reply is JSON, with the data of those outputs behind it that the request wants as binary
//! data. `Accept` and `Content-Type` have no say: the protocol's clients do not mean anything by
//! them.

use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use tokio::time::Instant;

use super::check;
use crate::codec::{Encoded, Format, INFERENCE_HEADER_CONTENT_LENGTH, ReplyPlan};
use crate::contract::State;
use crate::contract::coding;
use crate::contract::error::Error;
use crate::contract::invoke::{body_limit, read_body, reply};
use crate::contract::models::text_header;
use crate::engine::{Model, RequestMemory, Work};
use crate::handler::Handler;
use crate::tensor::{Inputs, Value};
use crate::wire::v2::ModelPath;

/// What a body is that has more than JSON in it.
const BINARY: &str = "application/octet-stream";

pub(super) async fn infer(
    state: &State,
    model: &ModelPath,
    request: &HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Error> {
    let deadline = Instant::now() + state.settings.request_timeout;
    let body = read_body(state, request, payload, deadline).await?;
    let body = coding::unpacked(state, request, body, body_limit(state)).await?;
    check(state, model, deadline).await?;
    let handle = state.catalog.get(&model.name, deadline).await?;

    let size = body.bytes.len();
    let inference = Inference {
        body: body.bytes,
        _memory: body.memory,
        json_bytes: text_header(request, INFERENCE_HEADER_CONTENT_LENGTH),
        model: model.name.clone(),
        handler: Arc::clone(handle.handler()),
    };
    let encoded = Model::answer(&handle, size, deadline, inference).await?;

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

/// A request, as far as the model's answer depends on it.
struct Inference {
    body: Bytes,
    _memory: Option<RequestMemory>,
    /// As the header says it.
    json_bytes: Option<String>,
    model: String,
    handler: Arc<Handler>,
}

impl Work for Inference {
    type Plan = (ReplyPlan, Format);
    type Answer = Encoded;
    type Error = Error;

    fn decode(&self) -> Result<(Inputs, Self::Plan), Error> {
        let asked = self
            .handler
            .decode_open_inference(self.json_bytes.as_deref(), &self.body)?;
        // JSON alone, or with binary data behind it, as the request says.
        let (format, reply) = self.handler.negotiate(None, Format::Json, &asked.reply)?;
        let inputs = Inputs {
            tensors: asked.inputs,
            optional: asked.optional,
        };
        Ok((inputs, (reply, format)))
    }

    fn outputs((reply, _): &Self::Plan) -> Option<&[usize]> {
        reply.outputs()
    }

    fn apart(&self, (reply, format): &Self::Plan, outputs: Option<&[Value]>) -> Option<usize> {
        self.handler.apart(*format, reply, outputs)
    }

    fn encode(&self, (reply, format): Self::Plan, runs: &[Vec<Value>]) -> Result<Encoded, Error> {
        Ok(self.handler.encode(format, &reply, &self.model, runs)?)
    }
}
