//! `InvokeEndpoint`, and the steps that the other operations share with it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName};
use tokio::time::{Instant, sleep, timeout_at};

use super::Runtime;
use super::request::InvocationRequest;
use super::routing::Destination;
use crate::endpoint::client::ContainerResponse;
use crate::endpoint::error::RuntimeError;
use crate::endpoint::fault::InjectedFaults;
use crate::endpoint::pipeline::{self, CLOSED_SESSION_ID, NEW_SESSION_ID, PipelineInput, PipelineLimits};
use crate::wire::CUSTOM_ATTRIBUTES;

/// The headers of a container's response that reach the client (IN-2).
const FORWARDED: [&str; 4] = ["content-type", CUSTOM_ATTRIBUTES, NEW_SESSION_ID, CLOSED_SESSION_ID];

/// The response of `InvokeEndpoint`.
#[derive(Debug)]
pub struct InvocationResponse {
    pub variant: String,
    /// The forwarded headers of the container.
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// The id of an asynchronous invocation and the locations of its result and its failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResultLocations {
    pub inference_id: String,
    pub output: String,
    pub failure: Option<String>,
}

/// The limits of one invocation.
#[derive(Debug, Clone, Copy)]
pub(super) struct RequestLimits {
    /// Maximum bytes of the response.
    pub reply: usize,
    pub deadline: Instant,
    /// Whether the response is stored as an object. SageMaker then restricts its headers further.
    pub asynchronous: bool,
}

impl Runtime {
    /// Invokes an endpoint.
    ///
    /// # Cancel safety
    /// The connection to the container is closed, so the container sees that the client has left.
    /// A load in progress continues.
    pub async fn invoke(
        self: &Arc<Self>,
        endpoint: &str,
        request: InvocationRequest,
        body: Bytes,
    ) -> Result<InvocationResponse, RuntimeError> {
        let (chosen, bounds) = self.route(endpoint, &request, &body, self.settings.timeout).await?;
        let reply = self.run(&chosen, request, body, bounds).await?;
        Ok(InvocationResponse {
            variant: chosen.variant.name().to_owned(),
            headers: forwarded(&reply.headers),
            body: reply.body,
        })
    }

    /// Chooses the instance for a request, and the request's limits.
    pub(super) async fn route(
        self: &Arc<Self>,
        endpoint: &str,
        request: &InvocationRequest,
        body: &Bytes,
        timeout: Duration,
    ) -> Result<(Destination, RequestLimits), RuntimeError> {
        let limit = self.settings.max_body;
        if body.len() > limit {
            return Err(RuntimeError::BodyTooLarge { limit });
        }
        self.open_stores(endpoint).await;
        let chosen = self.choose(endpoint, request, body)?;
        let bounds = RequestLimits {
            reply: limit,
            deadline: Instant::now() + timeout,
            asynchronous: false,
        };
        Ok((chosen, bounds))
    }

    /// Sends a request through the containers of the instance, and injects faults.
    pub(super) async fn run(
        &self,
        chosen: &Destination,
        request: InvocationRequest,
        body: Bytes,
        bounds: RequestLimits,
    ) -> Result<ContainerResponse, RuntimeError> {
        let mut stages = self.stages(chosen, &request)?;
        let injected = self.injected(chosen, &request, bounds.deadline).await?;
        pipeline::kill(&mut stages, injected.kill.as_deref());
        let reply = pipeline::run(&self.client, &stages, input(request, body), self.limits(bounds)).await?;
        self.note_session(chosen, &reply.headers);
        Ok(reply)
    }

    /// Injects the latency and the error of fault rules. Returns the faults that remain for the
    /// containers.
    pub(super) async fn injected(
        &self,
        chosen: &Destination,
        request: &InvocationRequest,
        deadline: Instant,
    ) -> Result<InjectedFaults, RuntimeError> {
        let model = request.target_model.as_ref().map(crate::store::Name::as_str);
        let mut injected = self.faults.next(chosen.endpoint(), chosen.variant.name(), model);
        if !injected.latency.is_zero() {
            let first = chosen.instance.containers().first();
            let container = || first.map_or_else(String::new, |first| first.spec().hostname.clone());
            let slept = timeout_at(deadline, sleep(injected.latency)).await;
            slept.map_err(|_| RuntimeError::TimedOut { container: container() })?;
        }
        match injected.error.take() {
            Some(error) => Err(error),
            None => Ok(injected),
        }
    }

    pub(super) fn limits(&self, bounds: RequestLimits) -> PipelineLimits {
        PipelineLimits {
            between: self.settings.max_between,
            reply: bounds.reply,
            deadline: bounds.deadline,
            asynchronous: bounds.asynchronous,
        }
    }

    pub(super) fn note_session(&self, chosen: &Destination, reply: &HeaderMap) {
        let (endpoint, variant) = (chosen.endpoint(), chosen.variant.name());
        self.sessions
            .note(endpoint, variant, chosen.instance.id(), reply, SystemTime::now());
    }
}

pub(super) fn input(request: InvocationRequest, body: Bytes) -> PipelineInput {
    PipelineInput {
        headers: request.headers,
        content_type: request.content_type,
        accept: request.accept,
        model: request.target_model,
        body,
    }
}

/// The headers of a container's response that reach the client.
pub(super) fn forwarded(reply: &HeaderMap) -> HeaderMap {
    let found = FORWARDED.iter().filter_map(|name| {
        let value = reply.get(*name)?;
        Some((HeaderName::from_static(name), value.clone()))
    });
    found.collect()
}

/// The media type of a response, for the object that stores it.
pub(super) fn content_type(reply: &HeaderMap) -> &str {
    let value = reply.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    value.unwrap_or("application/octet-stream")
}
