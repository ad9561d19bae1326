//! The HTTP/1.1 client for containers.
//!
//! Invariants:
//! - The client sends only what the caller gave. reqwest adds `Accept: */*` to a request without
//!   an `Accept` header, which means the same.
//! - It follows no redirect, uses no proxy and decompresses no body.
//! - Every call ends at its deadline.
//! - A call that may have reached the container is never repeated: the container may have acted on
//!   it.

mod target;

use std::convert::Infallible;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::stream;
use reqwest::header::{CONTENT_LENGTH, HeaderMap};
use reqwest::redirect::Policy;
use reqwest::{Body, Method, RequestBuilder, Response, StatusCode};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

pub use target::Target;

use crate::endpoint::fleet::LiveAddress;
use crate::tls;

/// Containers listen on this machine and accept connections within 250 ms (ST-5).
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Maximum idle time of a connection. Servers must keep theirs longer (gunicorn: 2 s): a request
/// on a connection that the container is closing would be lost.
const MAX_IDLE: Duration = Duration::from_secs(1);

/// Maximum bytes that are read of an error response's body.
const MAX_ERROR_BYTES: usize = 1 << 20;

/// SageMaker's replacement for a body that it could not read.
const NO_BODY: &str = "could not load the entire response body";

/// Maximum time between a container's refusing connections and its keeper's noticing that the
/// process has ended.
const NOTICE_TIMEOUT: Duration = Duration::from_secs(1);

/// The connections to all containers.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    down_wait: Duration,
}

/// The HTTP client could not be created.
#[derive(Debug, thiserror::Error)]
#[error("start the HTTP client: {0}")]
pub struct ClientError(#[from] reqwest::Error);

/// A request to a container.
#[derive(Debug, Clone)]
pub struct ContainerCall {
    pub method: Method,
    /// Percent-encoded, as it is sent.
    pub path: String,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// Kills the container while it is handling this call. Has no effect on an attached container,
    /// which this program does not run.
    pub fatal: bool,
}

/// A complete response.
#[derive(Debug, Clone)]
pub struct ContainerResponse {
    pub generation: u64,
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// The reason why a call has no response.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// Nothing was sent.
    #[error("the container is not running")]
    Down,
    /// Nothing was sent.
    #[error("the container does not accept connections ({0})")]
    NotConnected(String),
    #[error("the connection to the container broke ({0})")]
    Broken(String),
    #[error("the container did not answer in time")]
    TimedOut,
    #[error("the container answered {status} with more than {limit} bytes")]
    TooLarge { status: u16, limit: usize },
}

/// A response whose body is not read yet.
#[derive(Debug)]
pub struct OpenResponse {
    response: Response,
    deadline: Instant,
    /// The generation of the container that responded.
    pub generation: u64,
}

impl Client {
    /// `down_wait` is how long a call waits for a container that is being restarted.
    pub fn new(down_wait: Duration) -> Result<Self, ClientError> {
        tls::provide();
        let http = reqwest::Client::builder()
            .http1_only()
            .no_proxy()
            .referer(false)
            .redirect(Policy::none())
            .retry(reqwest::retry::never())
            // Plain HTTP needs no certificates. Reading the system's would take longer than the
            // rest of this function.
            .tls_certs_only([])
            .tcp_nodelay(true)
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(MAX_IDLE)
            .build()?;
        Ok(Self { http, down_wait })
    }

    /// Sends `call` and waits for the head of the response. Waits for a container that is down.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection, which tells the server that the client has left.
    pub async fn send(
        &self,
        target: &dyn Target,
        call: ContainerCall,
        deadline: Instant,
    ) -> Result<OpenResponse, CallError> {
        let until = deadline.min(Instant::now() + self.down_wait);
        loop {
            let Some(up) = target::up(target, until).await else {
                return Err(CallError::Down);
            };
            let failed = match self.attempt(target, &up, call.clone(), deadline).await {
                Err(error @ CallError::NotConnected(_)) => error,
                result => return result,
            };
            if target.container().is_attached() || Instant::now() >= until {
                return Err(failed);
            }
            // The process has just ended, and its keeper has not noticed yet.
            let noticed = until.min(Instant::now() + NOTICE_TIMEOUT);
            if timeout_at(noticed, target.lost(up.generation)).await.is_err() {
                return Err(failed);
            }
        }
    }

    /// Sends `call` and reads the response, whose body may have up to `limit` bytes.
    pub async fn exchange(
        &self,
        target: &dyn Target,
        call: ContainerCall,
        limit: usize,
        deadline: Instant,
    ) -> Result<ContainerResponse, CallError> {
        self.send(target, call, deadline).await?.read(limit).await
    }

    async fn attempt(
        &self,
        target: &dyn Target,
        up: &LiveAddress,
        call: ContainerCall,
        deadline: Instant,
    ) -> Result<OpenResponse, CallError> {
        let url = format!("{}{}", up.address, call.path);
        let request = self.http.request(call.method, url).headers(call.headers);
        let sent = async {
            match call.fatal && !target.container().is_attached() {
                true => send_fatal(target, request, call.body.len()).await,
                false => request.body(call.body).send().await,
            }
        };
        match timeout_at(deadline, sent).await {
            Ok(Ok(response)) => Ok(OpenResponse {
                response,
                deadline,
                generation: up.generation,
            }),
            Ok(Err(error)) => Err(failure(&error)),
            Err(_) => Err(CallError::TimedOut),
        }
    }
}

impl OpenResponse {
    pub fn status(&self) -> StatusCode {
        self.response.status()
    }

    pub fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    /// The next part of the body; `None` at its end.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, CallError> {
        match timeout_at(self.deadline, self.response.chunk()).await {
            Ok(Ok(chunk)) => Ok(chunk),
            Ok(Err(error)) => Err(failure(&error)),
            Err(_) => Err(CallError::TimedOut),
        }
    }

    /// Reads the rest of the body. An error's body may be too long or cut short: its status is
    /// what matters.
    pub async fn read(mut self, limit: usize) -> Result<ContainerResponse, CallError> {
        let is_error = !self.status().is_success();
        let limit = if is_error { MAX_ERROR_BYTES } else { limit };
        let body = match self.body(limit).await {
            Err(CallError::TooLarge { .. } | CallError::Broken(_)) if is_error => {
                Bytes::from_static(NO_BODY.as_bytes())
            }
            body => body?,
        };
        Ok(ContainerResponse {
            generation: self.generation,
            status: self.status().as_u16(),
            headers: std::mem::take(self.response.headers_mut()),
            body,
        })
    }

    async fn body(&mut self, limit: usize) -> Result<Bytes, CallError> {
        let status = self.status().as_u16();
        let too_large = CallError::TooLarge { status, limit };
        if self.response.content_length().is_some_and(|bytes| bytes > limit as u64) {
            return Err(too_large);
        }
        let mut first = None;
        let mut all = BytesMut::new();
        while let Some(chunk) = self.chunk().await? {
            if first.as_ref().map_or(0, Bytes::len) + all.len() + chunk.len() > limit {
                return Err(too_large);
            }
            // Most bodies arrive in one piece, which is not copied.
            match first.take() {
                None if all.is_empty() => first = Some(chunk),
                earlier => {
                    all.extend_from_slice(&earlier.unwrap_or_default());
                    all.extend_from_slice(&chunk);
                }
            }
        }
        Ok(first.unwrap_or_else(|| all.freeze()))
    }
}

/// Sends the head of a request, then kills the container, which is waiting for the body. The body
/// never arrives, so the container cannot respond first.
async fn send_fatal(target: &dyn Target, request: RequestBuilder, length: usize) -> reqwest::Result<Response> {
    let (reached, container) = oneshot::channel();
    let mut reached = Some(reached);
    let body = stream::poll_fn(move |_| {
        // reqwest polls the body once there is a connection to write it to.
        if let Some(reached) = reached.take() {
            // Fails only if the receiver is gone, which needs no signal then.
            let _ = reached.send(());
        }
        Poll::<Option<Result<Bytes, Infallible>>>::Pending
    });
    // An empty body would let the container respond at once.
    let request = request.header(CONTENT_LENGTH, length.max(1));
    let mut answer = std::pin::pin!(request.body(Body::wrap_stream(body)).send());
    tokio::select! {
        // The container refused the head, or the request did not reach it.
        answer = &mut answer => return answer,
        Ok(()) = container => {}
    }
    tracing::info!(container = target.label(), "killed by --fault");
    target.kill();
    answer.await
}

fn failure(error: &reqwest::Error) -> CallError {
    let mut deepest: &dyn std::error::Error = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    let reason = deepest.to_string();
    match error {
        error if error.is_connect() => CallError::NotConnected(reason),
        error if error.is_timeout() => CallError::TimedOut,
        _ => CallError::Broken(reason),
    }
}
