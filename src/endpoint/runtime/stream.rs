//! `InvokeEndpointWithResponseStream`: streams the container's response in frames.
//!
//! An error before the first bytes of the body is an ordinary error response. Later the status has
//! been sent, so an error is a frame of its own (SR-2).

use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt};
use reqwest::header::HeaderMap;

use super::Runtime;
use super::invoke::{forwarded, input};
use super::request::InvocationRequest;
use super::routing::Destination;
use crate::endpoint::client::{CallError, OpenResponse};
use crate::endpoint::error::RuntimeError;
use crate::endpoint::event_stream::{MAX_PAYLOAD, StreamFault, model_stream_error, payload_part};
use crate::endpoint::pipeline;

/// The response of `InvokeEndpointWithResponseStream`.
pub struct StreamedResponse {
    pub variant: String,
    /// The forwarded headers of the container.
    pub headers: HeaderMap,
    /// The frames.
    pub body: BoxStream<'static, Bytes>,
}

/// The rest of a response.
struct RestOfResponse {
    answer: OpenResponse,
    /// Received bytes that are not sent in frames yet.
    chunk: Bytes,
    /// Held until the last frame, so that the request counts as outstanding.
    _chosen: Destination,
}

impl Runtime {
    /// Invokes an endpoint. Returns when the first bytes of the body have arrived.
    pub async fn invoke_streaming(
        self: &Arc<Self>,
        endpoint: &str,
        request: InvocationRequest,
        body: Bytes,
    ) -> Result<StreamedResponse, RuntimeError> {
        let timeout = self.settings.stream_timeout;
        let (chosen, bounds) = self.route(endpoint, &request, &body, timeout).await?;
        let mut stages = self.stages(&chosen, &request)?;
        let injected = self.injected(&chosen, &request, bounds.deadline).await?;
        pipeline::kill(&mut stages, injected.kill.as_deref());
        let last = stages
            .last()
            .map_or_else(String::new, |stage| stage.hostname().to_owned());
        let limits = self.limits(bounds);
        let mut answer = pipeline::run_streaming(&self.client, &stages, input(request, body), limits).await?;
        let chunk = answer.chunk().await;
        let chunk = chunk.map_err(|error| RuntimeError::from_call(&last, error))?;
        self.note_session(&chosen, answer.headers());
        Ok(StreamedResponse {
            variant: chosen.variant.name().to_owned(),
            headers: forwarded(answer.headers()),
            body: match chunk {
                Some(chunk) => frames(RestOfResponse {
                    answer,
                    chunk,
                    _chosen: chosen,
                }),
                None => stream::empty().boxed(),
            },
        })
    }
}

fn frames(rest: RestOfResponse) -> BoxStream<'static, Bytes> {
    stream::unfold(Some(rest), |rest| async {
        let mut rest = rest?;
        while rest.chunk.is_empty() {
            match rest.answer.chunk().await {
                Ok(Some(chunk)) => rest.chunk = chunk,
                Ok(None) => return None,
                Err(error) => return Some((broken(&error), None)),
            }
        }
        let part = rest.chunk.split_to(rest.chunk.len().min(MAX_PAYLOAD));
        Some((payload_part(&part), Some(rest)))
    })
    .boxed()
}

fn broken(error: &CallError) -> Bytes {
    let fault = match error {
        CallError::TimedOut => StreamFault::TimedOut,
        _ => StreamFault::Broken,
    };
    model_stream_error(fault, &error.to_string())
}
