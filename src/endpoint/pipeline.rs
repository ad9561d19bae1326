//! A request's way through the containers of a model (MC-4 to MC-8).
//!
//! In series each container takes what the one before it answered: body and `Content-Type` are carried on as they are. What the
//! client accepts is for the last one; those before it see no wish and choose for themselves. Everything else that the
//! client sent goes to all, and the name of a model only to the container that has many. The first container that does
//! not answer with success ends the request, and the error bears its name. A single container is a series of one, and a
//! container that was chosen by its name is as well.

mod head;

use std::sync::Arc;

use bytes::Bytes;
use reqwest::Method;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue};
use tokio::time::Instant;

use crate::endpoint::client::{Answer, Call, Client, Reply, Target};
use crate::endpoint::error::RuntimeError;
use crate::endpoint::multi_model::{Invocation, Platform};
use crate::store::Name;

pub use head::{CLOSED_SESSION_ID, NEW_SESSION_ID};

/// A container, and its models if it has many.
#[derive(Clone)]
pub struct Stage {
    pub target: Arc<dyn Target>,
    pub platform: Option<Arc<Platform>>,
    /// The container is to be killed while it has the request.
    pub fatal: bool,
}

/// What goes in.
#[derive(Debug, Clone)]
pub struct Input {
    /// For all containers.
    pub headers: HeaderMap,
    pub content_type: Option<HeaderValue>,
    pub accept: Option<HeaderValue>,
    pub model: Option<Name>,
    pub body: Bytes,
}

/// Bounds of one request.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes that one container may pass to the next.
    pub between: usize,
    /// Bytes of the last one's reply.
    pub reply: usize,
    /// For all of them.
    pub deadline: Instant,
    /// Whether the last one's reply becomes an object, for which SageMaker asks more of it.
    pub asynchronous: bool,
}

impl Stage {
    pub fn hostname(&self) -> &str {
        &self.target.container().hostname
    }

    async fn ask(&self, client: &Client, input: Input, limit: usize, deadline: Instant) -> Result<Reply, RuntimeError> {
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
                result.map_err(|error| RuntimeError::of_call(self.hostname(), error))
            }
        }
    }

    fn invocation(&self, headers: HeaderMap, body: Bytes) -> Call {
        Call {
            method: Method::POST,
            path: "/invocations".to_owned(),
            headers,
            body,
            fatal: self.fatal,
        }
    }
}

impl Input {
    fn headers_of_call(&self) -> HeaderMap {
        let mut headers = self.headers.clone();
        headers.extend(self.content_type.clone().map(|value| (CONTENT_TYPE, value)));
        headers.extend(self.accept.clone().map(|value| (ACCEPT, value)));
        headers
    }
}

/// Has the container of that name killed by the request that reaches it.
pub fn kill(stages: &mut [Stage], hostname: Option<&str>) {
    for stage in stages {
        stage.fatal = hostname == Some(stage.hostname());
    }
}

/// Returns the last container's reply, which is a success.
pub async fn run(client: &Client, stages: &[Stage], input: Input, limits: Limits) -> Result<Reply, RuntimeError> {
    let Some((last, _)) = stages.split_last() else {
        return Err(RuntimeError::Internal("the model has no containers".to_owned()));
    };
    let input = before_last(client, stages, input, limits).await?;
    let reply = last.ask(client, input, limits.reply, limits.deadline).await?;
    successful(last, reply, limits.asynchronous)
}

/// The same with the last container's answer as it comes. Its head is a success.
pub async fn run_streaming(
    client: &Client,
    stages: &[Stage],
    input: Input,
    limits: Limits,
) -> Result<Answer, RuntimeError> {
    let Some((last, _)) = stages.split_last() else {
        return Err(RuntimeError::Internal("the model has no containers".to_owned()));
    };
    if last.platform.is_some() {
        // The API has no way to say which model (SR-3).
        return Err(RuntimeError::MissingTargetModel);
    }
    let input = before_last(client, stages, input, limits).await?;
    let call = last.invocation(input.headers_of_call(), input.body);
    let of_call = |error| RuntimeError::of_call(last.hostname(), error);
    let answer = client
        .send(&*last.target, call, limits.deadline)
        .await
        .map_err(of_call)?;
    if answer.status().is_success() {
        passable(last, answer.status().as_u16(), answer.headers(), false)?;
        return Ok(answer);
    }
    let reply = answer.read(limits.reply).await.map_err(of_call)?;
    Err(refusal(last, &reply))
}

/// What the last container is to be asked.
async fn before_last(
    client: &Client,
    stages: &[Stage],
    mut input: Input,
    limits: Limits,
) -> Result<Input, RuntimeError> {
    let accept = input.accept.take();
    for pair in stages.windows(2) {
        let [stage, next] = pair else { continue };
        let asked = input.clone();
        let reply = match stage.ask(client, asked, limits.between, limits.deadline).await {
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
            reply => successful(stage, reply?, false)?,
        };
        input.content_type = reply.headers.get(CONTENT_TYPE).cloned();
        input.body = reply.body;
    }
    input.accept = accept;
    Ok(input)
}

fn successful(stage: &Stage, reply: Reply, asynchronous: bool) -> Result<Reply, RuntimeError> {
    match reply.status {
        200..300 => {
            passable(stage, reply.status, &reply.headers, asynchronous)?;
            Ok(reply)
        }
        _ => Err(refusal(stage, &reply)),
    }
}

/// Whether SageMaker would pass on a reply with these headers.
fn passable(stage: &Stage, status: u16, headers: &HeaderMap, asynchronous: bool) -> Result<(), RuntimeError> {
    head::check(stage.hostname(), headers, asynchronous).map_err(|reason| RuntimeError::BadReply {
        container: stage.hostname().to_owned(),
        status,
        reason,
    })
}

fn refusal(stage: &Stage, reply: &Reply) -> RuntimeError {
    RuntimeError::Model {
        container: stage.hostname().to_owned(),
        status: reply.status,
        message: String::from_utf8_lossy(&reply.body).into_owned(),
    }
}

#[cfg(test)]
mod tests;
