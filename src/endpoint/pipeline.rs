//! The path of a request through the containers of a model (MC-4 to MC-8).
//!
//! In a series, each container takes the body and the `Content-Type` of the previous response
//! unchanged. Only the last container gets the client's `Accept`; the others choose their format
//! themselves. All containers get the client's other headers, but only the container in
//! multi-model mode gets the model's name. The first container that fails ends the request, and
//! the error contains its name. A single container, or one that the request names, is a series of
//! one.

mod head;

use std::sync::Arc;

use bytes::Bytes;
use reqwest::Method;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue};
use tokio::time::Instant;

use crate::endpoint::client::{Client, ContainerCall, ContainerResponse, OpenResponse, Target};
use crate::endpoint::error::RuntimeError;
use crate::endpoint::multi_model::{Invocation, Platform};
use crate::store::Name;

pub use head::{CLOSED_SESSION_ID, NEW_SESSION_ID};

/// A container of the pipeline.
#[derive(Clone)]
pub struct PipelineStage {
    pub target: Arc<dyn Target>,
    /// The models of a container in multi-model mode.
    pub platform: Option<Arc<Platform>>,
    /// Whether to kill the container while it handles the request.
    pub fatal: bool,
}

/// The input of the pipeline.
#[derive(Debug, Clone)]
pub struct PipelineInput {
    /// Headers for all containers.
    pub headers: HeaderMap,
    pub content_type: Option<HeaderValue>,
    pub accept: Option<HeaderValue>,
    pub model: Option<Name>,
    pub body: Bytes,
}

/// The limits of one request.
#[derive(Debug, Clone, Copy)]
pub struct PipelineLimits {
    /// Maximum bytes that one container passes to the next.
    pub between: usize,
    /// Maximum bytes of the last container's response.
    pub reply: usize,
    /// The deadline of all containers together.
    pub deadline: Instant,
    /// Whether the last response is stored as an object. SageMaker then restricts its headers
    /// further.
    pub asynchronous: bool,
}

impl PipelineStage {
    pub fn hostname(&self) -> &str {
        &self.target.container().hostname
    }

    async fn call(
        &self,
        client: &Client,
        input: PipelineInput,
        limit: usize,
        deadline: Instant,
    ) -> Result<ContainerResponse, RuntimeError> {
        let headers = input.headers_of_call();
        match (&self.platform, &input.model) {
            (Some(platform), Some(model)) => {
                let invocation = Invocation {
                    model,
                    headers: &headers,
                    body: &input.body,
                    fatal: self.fatal,
                };
                platform.invoke(invocation, limit, deadline).await
            }
            (Some(_), None) => Err(RuntimeError::MissingTargetModel),
            (None, _) => {
                let call = self.invocation(headers, input.body);
                let result = client.exchange(&*self.target, call, limit, deadline).await;
                result.map_err(|error| RuntimeError::from_call(self.hostname(), error))
            }
        }
    }

    fn invocation(&self, headers: HeaderMap, body: Bytes) -> ContainerCall {
        ContainerCall {
            method: Method::POST,
            path: "/invocations".to_owned(),
            headers,
            body,
            fatal: self.fatal,
        }
    }
}

impl PipelineInput {
    fn headers_of_call(&self) -> HeaderMap {
        let mut headers = self.headers.clone();
        headers.extend(self.content_type.clone().map(|value| (CONTENT_TYPE, value)));
        headers.extend(self.accept.clone().map(|value| (ACCEPT, value)));
        headers
    }
}

/// Marks the container with this hostname, if any, to be killed by its request.
pub fn kill(stages: &mut [PipelineStage], hostname: Option<&str>) {
    for stage in stages {
        stage.fatal = hostname == Some(stage.hostname());
    }
}

/// Runs the pipeline. Returns the last container's response, which is a success.
pub async fn run(
    client: &Client,
    stages: &[PipelineStage],
    input: PipelineInput,
    limits: PipelineLimits,
) -> Result<ContainerResponse, RuntimeError> {
    let Some((last, _)) = stages.split_last() else {
        return Err(RuntimeError::Internal("the model has no containers".to_owned()));
    };
    let input = run_all_but_last(client, stages, input, limits).await?;
    let reply = last.call(client, input, limits.reply, limits.deadline).await?;
    require_success(last, reply, limits.asynchronous)
}

/// Runs the pipeline and streams the last container's response, whose status is a success.
pub async fn run_streaming(
    client: &Client,
    stages: &[PipelineStage],
    input: PipelineInput,
    limits: PipelineLimits,
) -> Result<OpenResponse, RuntimeError> {
    let Some((last, _)) = stages.split_last() else {
        return Err(RuntimeError::Internal("the model has no containers".to_owned()));
    };
    if last.platform.is_some() {
        // The API has no header for the model (SR-3).
        return Err(RuntimeError::MissingTargetModel);
    }
    let input = run_all_but_last(client, stages, input, limits).await?;
    let call = last.invocation(input.headers_of_call(), input.body);
    let from_call = |error| RuntimeError::from_call(last.hostname(), error);
    let answer = client
        .send(&*last.target, call, limits.deadline)
        .await
        .map_err(from_call)?;
    if answer.status().is_success() {
        check_headers(last, answer.status().as_u16(), answer.headers(), false)?;
        return Ok(answer);
    }
    let reply = answer.read(limits.reply).await.map_err(from_call)?;
    Err(refusal(last, &reply))
}

/// Runs all containers but the last. Returns the input of the last one.
async fn run_all_but_last(
    client: &Client,
    stages: &[PipelineStage],
    mut input: PipelineInput,
    limits: PipelineLimits,
) -> Result<PipelineInput, RuntimeError> {
    let accept = input.accept.take();
    for pair in stages.windows(2) {
        let [stage, next] = pair else { continue };
        let stage_input = input.clone();
        let reply = match stage.call(client, stage_input, limits.between, limits.deadline).await {
            Err(RuntimeError::ReplyTooLarge {
                container,
                status,
                limit,
                ..
            }) => {
                let next = Some(next.hostname().to_owned());
                return Err(RuntimeError::ReplyTooLarge {
                    container,
                    status,
                    limit,
                    next,
                });
            }
            reply => require_success(stage, reply?, false)?,
        };
        input.content_type = reply.headers.get(CONTENT_TYPE).cloned();
        input.body = reply.body;
    }
    input.accept = accept;
    Ok(input)
}

fn require_success(
    stage: &PipelineStage,
    reply: ContainerResponse,
    asynchronous: bool,
) -> Result<ContainerResponse, RuntimeError> {
    match reply.status {
        200..300 => {
            check_headers(stage, reply.status, &reply.headers, asynchronous)?;
            Ok(reply)
        }
        _ => Err(refusal(stage, &reply)),
    }
}

/// Refuses a response whose headers SageMaker would not pass on.
fn check_headers(
    stage: &PipelineStage,
    status: u16,
    headers: &HeaderMap,
    asynchronous: bool,
) -> Result<(), RuntimeError> {
    head::check(stage.hostname(), headers, asynchronous).map_err(|reason| RuntimeError::BadReply {
        container: stage.hostname().to_owned(),
        status,
        reason,
    })
}

fn refusal(stage: &PipelineStage, reply: &ContainerResponse) -> RuntimeError {
    RuntimeError::Model {
        container: stage.hostname().to_owned(),
        status: reply.status,
        message: String::from_utf8_lossy(&reply.body).into_owned(),
    }
}

#[cfg(test)]
mod tests;
