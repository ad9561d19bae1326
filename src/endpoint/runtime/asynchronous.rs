//! `InvokeEndpointAsync`: responds at once with the location of the result, and runs the
//! invocation when an instance is free.
//!
//! Invariants:
//! - Every accepted invocation ends with a result or a failure, which is written as an object and
//!   logged, even if the server stops first.
//! - Invocations of an endpoint start in the order of their arrival.
//! - No instance runs more of them at the same time than its endpoint allows.
//! - A waiting invocation holds no containers. So its endpoint can be updated meanwhile; if the
//!   endpoint is deleted, the invocation fails.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Runtime;
use super::invoke::{Bounds, Written, content_type};
use super::request::{Api, Request};
use super::routing::Chosen;
use crate::endpoint::error::RuntimeError;
use crate::store::Objects;

/// A waiting invocation looks for a free instance at this interval, because changes of an endpoint
/// are not signalled.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Maximum time to write failures when the server stops.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Accepted asynchronous invocations that are not complete.
#[derive(Default)]
pub(super) struct Asynchronous {
    tasks: TaskTracker,
    stopping: CancellationToken,
    /// The queue of each endpoint: a fair semaphore whose holder looks for a free instance.
    lines: Mutex<HashMap<String, Arc<Semaphore>>>,
    /// Changes when an instance may have become free.
    changes: watch::Sender<()>,
}

/// An accepted invocation and the location of its result.
struct Job {
    endpoint: String,
    request: Request,
    body: Bytes,
    written: Written,
}

impl Asynchronous {
    /// Signals that an instance may have become free.
    pub fn notice(&self) {
        self.changes.send_replace(());
    }

    fn line(&self, endpoint: &str) -> Arc<Semaphore> {
        // No code panics while it holds the lock, so a poisoned value is consistent.
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.retain(|name, line| name == endpoint || Arc::strong_count(line) > 1);
        let line = lines.entry(endpoint.to_owned());
        Arc::clone(line.or_insert_with(|| Arc::new(Semaphore::new(1))))
    }
}

impl Runtime {
    /// Accepts an invocation.
    pub fn invoke_async(
        self: &Arc<Self>,
        endpoint: &str,
        request: Request,
        body: Bytes,
    ) -> Result<Written, RuntimeError> {
        if body.len() > self.settings.max_async_body {
            return Err(Api::Async.too_large(self.settings.max_async_body));
        }
        let fleet = self.fleet(endpoint)?;
        let configured = fleet.deployment().asynchronous.as_ref();
        let configured = configured.ok_or(RuntimeError::NotAsynchronous)?;
        let mut models = fleet.variants().iter().map(|variant| variant.model());
        // The API has no headers for the model or the container.
        if models.clone().any(|model| model.multi_model().is_some()) {
            return Err(RuntimeError::MissingTargetModel);
        }
        if models.any(|model| model.is_direct()) {
            return Err(RuntimeError::MissingHostname);
        }
        match &request.asynchronous.input {
            None if body.is_empty() => return Err(RuntimeError::MissingInput),
            Some(_) if !body.is_empty() => return Err(RuntimeError::TwoInputs),
            // A local input is allowed only if the output is local too, so that a client cannot
            // read this machine's files through an endpoint that writes to a bucket.
            Some(input) if Objects::is_local(input) && !Objects::is_local(&configured.output) => {
                let message = "InputLocation must be an object, such as s3://bucket/key, because S3OutputPath is one.";
                return Err(RuntimeError::Validation(message.to_owned()));
            }
            _ => {}
        }
        let id = self.ids.next();
        let name = request
            .asynchronous
            .filename
            .clone()
            .unwrap_or_else(|| format!("{id}.out"));
        let path = match &request.asynchronous.path_extension {
            Some(extension) => format!("{}/{name}", extension.trim_matches('/')),
            None => name,
        };
        if path.split('/').any(|segment| matches!(segment, "" | "." | "..")) {
            let member = "s3OutputPathExtension";
            let constraint = "Member must be a path without empty parts".to_owned();
            return Err(RuntimeError::Constraint { member, constraint });
        }
        let below = |prefix: &str, path: &str| format!("{}/{path}", prefix.trim_end_matches('/'));
        let failure = configured.failure.as_ref();
        let written = Written {
            inference_id: request.inference_id.clone().unwrap_or_else(|| self.ids.next()),
            output: below(&configured.output, &path),
            failure: failure.map(|prefix| below(prefix, &format!("{id}-error.out"))),
        };
        if self.asynchronous.tasks.is_closed() {
            return Err(RuntimeError::Unavailable("the server is stopping".to_owned()));
        }
        let queue = self.settings.async_queue;
        if self.asynchronous.tasks.len() >= queue {
            let reason = format!(
                "{queue} asynchronous invocations are pending already; try again later, or raise --async-queue"
            );
            return Err(RuntimeError::Unavailable(reason));
        }
        let job = Job {
            endpoint: endpoint.to_owned(),
            request,
            body,
            written: written.clone(),
        };
        // The order of arrival is fixed by taking the queue here.
        let line = self.asynchronous.line(endpoint);
        let runtime = Arc::clone(self);
        let (stopping, tasks) = (self.asynchronous.stopping.clone(), &self.asynchronous.tasks);
        tasks.spawn_on(
            async move { runtime.work_off(job, line, stopping).await },
            &self.background,
        );
        Ok(written)
    }

    /// Waits for all accepted invocations, for at most `grace`. Then ends the others with a
    /// failure that names the reason.
    pub async fn finish(&self, grace: Duration) {
        let tasks = &self.asynchronous.tasks;
        tasks.close();
        if timeout(grace, tasks.wait()).await.is_err() {
            tracing::warn!(
                invocations = tasks.len(),
                "the server is stopping; aborting asynchronous invocations"
            );
        }
        self.asynchronous.stopping.cancel();
        if timeout(LAST_WORDS, tasks.wait()).await.is_err() {
            tracing::error!(
                invocations = tasks.len(),
                "asynchronous invocations ended without a failure object"
            );
        }
    }

    async fn work_off(&self, job: Job, line: Arc<Semaphore>, stopping: CancellationToken) {
        let Job {
            endpoint,
            request,
            body,
            written,
        } = job;
        let result = tokio::select! {
            biased;
            result = self.result(&endpoint, request, body, line, &written) => result,
            () = stopping.cancelled() => Err(RuntimeError::Unavailable("the server stopped before the invocation was complete".to_owned())),
        };
        self.asynchronous.notice();
        let inference_id = &written.inference_id;
        match result {
            Ok(()) => tracing::info!(
                endpoint,
                inference_id,
                output = written.output,
                "asynchronous invocation done"
            ),
            Err(error) => {
                tracing::warn!(endpoint, inference_id, %error, "asynchronous invocation failed");
                self.write_failure(&endpoint, &written, &error).await;
            }
        }
    }

    async fn result(
        &self,
        endpoint: &str,
        request: Request,
        body: Bytes,
        line: Arc<Semaphore>,
        written: &Written,
    ) -> Result<(), RuntimeError> {
        let ttl = request.asynchronous.ttl.unwrap_or(self.settings.async_ttl);
        let begun = timeout_at(Instant::now() + ttl, self.begin(endpoint, line)).await;
        let (chosen, slot) = begun.map_err(|_| {
            let ttl = humantime::format_duration(ttl);
            RuntimeError::Unavailable(format!("the request expired after waiting {ttl} for a free instance"))
        })??;
        let timeout = request.asynchronous.timeout.unwrap_or(self.settings.async_timeout);
        let limit = self.settings.max_async_object;
        let body = match &request.asynchronous.input {
            Some(url) => self.objects.get(url, limit).await?,
            None => body,
        };
        let bounds = Bounds {
            reply: limit,
            deadline: Instant::now() + timeout,
            asynchronous: true,
        };
        let reply = self.run(&chosen, request, body, bounds).await?;
        // Releases the instance for the next invocation.
        drop((chosen, slot));
        self.asynchronous.notice();
        let content_type = content_type(&reply.headers).to_owned();
        let put = self.objects.put(&written.output, reply.body, &content_type).await;
        put.map_err(|error| RuntimeError::Dependency(format!("the result was not written: {error}")))
    }

    /// Waits for this invocation's turn, then for a free instance.
    async fn begin(
        &self,
        endpoint: &str,
        line: Arc<Semaphore>,
    ) -> Result<(Chosen, OwnedSemaphorePermit), RuntimeError> {
        let closed = |_| RuntimeError::Internal("the queue of asynchronous invocations is closed".to_owned());
        let _turn = line.acquire().await.map_err(closed)?;
        let mut changes = self.asynchronous.changes.subscribe();
        let mut named: Option<String> = None;
        loop {
            let fleet = self.fleet(endpoint)?;
            let known = named.as_deref().filter(|name| fleet.variant(name).is_some());
            let variant = self.routing.variant(&fleet, known)?;
            named = Some(variant.name().to_owned());
            let mut instances = variant.instances().to_vec();
            instances.sort_by_key(|instance| (!instance.is_up(), instance.outstanding()));
            let free = instances.into_iter().find_map(|instance| {
                let slot = self.slots(&fleet, &instance)?.try_acquire_owned().ok()?;
                Some((instance.begin(), slot))
            });
            if let Some((instance, slot)) = free {
                let chosen = Chosen {
                    fleet,
                    variant,
                    instance,
                };
                return Ok((chosen, slot));
            }
            // Holds no fleet while it waits, so that the fleet can end.
            drop((fleet, variant));
            let _ = timeout(LOOK_AGAIN, changes.changed()).await;
        }
    }

    async fn write_failure(&self, endpoint: &str, written: &Written, error: &RuntimeError) {
        let Some(url) = &written.failure else { return };
        let body = error.answer(self.at(endpoint)).body.to_string();
        if let Err(error) = self.objects.put(url, body.into(), "application/json").await {
            tracing::error!(endpoint, url, %error, "the failure of an asynchronous invocation was not written");
        }
    }
}
