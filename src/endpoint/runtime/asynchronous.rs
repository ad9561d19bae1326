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

use super::invoke::{RequestLimits, ResultLocations, content_type};
use super::request::{Api, InvocationRequest};
use super::routing::Destination;
use super::{Runtime, new_id};
use crate::endpoint::error::RuntimeError;
use crate::store::Objects;

/// A waiting invocation looks for a free instance at this interval, because changes of an endpoint
/// are not signalled.
const RECHECK_INTERVAL: Duration = Duration::from_millis(500);

/// Maximum time to write failures when the server stops.
const FAILURE_TIMEOUT: Duration = Duration::from_secs(5);

/// Accepted asynchronous invocations that are not complete.
#[derive(Default)]
pub(super) struct AsyncQueue {
    tasks: TaskTracker,
    stopping: CancellationToken,
    /// The queue of each endpoint: a fair semaphore whose holder looks for a free instance.
    queues: Mutex<HashMap<String, Arc<Semaphore>>>,
    /// Changes when an instance may have become free.
    changes: watch::Sender<()>,
}

/// An accepted invocation and the location of its result.
struct AsyncJob {
    endpoint: String,
    request: InvocationRequest,
    body: Bytes,
    locations: ResultLocations,
}

impl AsyncQueue {
    /// Signals that an instance may have become free.
    pub fn notice(&self) {
        self.changes.send_replace(());
    }

    fn queue(&self, endpoint: &str) -> Arc<Semaphore> {
        // No code panics while it holds the lock, so a poisoned value is consistent.
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        queues.retain(|name, queue| name == endpoint || Arc::strong_count(queue) > 1);
        let queue = queues.entry(endpoint.to_owned());
        Arc::clone(queue.or_insert_with(|| Arc::new(Semaphore::new(1))))
    }
}

impl Runtime {
    /// Accepts an invocation.
    pub fn invoke_async(
        self: &Arc<Self>,
        endpoint: &str,
        request: InvocationRequest,
        body: Bytes,
    ) -> Result<ResultLocations, RuntimeError> {
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
        let id = new_id();
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
        let locations = ResultLocations {
            inference_id: request.inference_id.clone().unwrap_or_else(new_id),
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
        let job = AsyncJob {
            endpoint: endpoint.to_owned(),
            request,
            body,
            locations: locations.clone(),
        };
        // The order of arrival is fixed by taking the queue here.
        let queue = self.asynchronous.queue(endpoint);
        let runtime = Arc::clone(self);
        let (stopping, tasks) = (self.asynchronous.stopping.clone(), &self.asynchronous.tasks);
        tasks.spawn_on(
            async move { runtime.run_job(job, queue, stopping).await },
            &self.background,
        );
        Ok(locations)
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
        if timeout(FAILURE_TIMEOUT, tasks.wait()).await.is_err() {
            tracing::error!(
                invocations = tasks.len(),
                "asynchronous invocations ended without a failure object"
            );
        }
    }

    async fn run_job(&self, job: AsyncJob, queue: Arc<Semaphore>, stopping: CancellationToken) {
        let AsyncJob {
            endpoint,
            request,
            body,
            locations,
        } = job;
        let result = tokio::select! {
            biased;
            result = self.result(&endpoint, request, body, queue, &locations) => result,
            () = stopping.cancelled() => Err(RuntimeError::Unavailable("the server stopped before the invocation was complete".to_owned())),
        };
        self.asynchronous.notice();
        let inference_id = &locations.inference_id;
        match result {
            Ok(()) => tracing::info!(
                endpoint,
                inference_id,
                output = locations.output,
                "asynchronous invocation done"
            ),
            Err(error) => {
                tracing::warn!(endpoint, inference_id, %error, "asynchronous invocation failed");
                self.write_failure(&endpoint, &locations, &error).await;
            }
        }
    }

    async fn result(
        &self,
        endpoint: &str,
        request: InvocationRequest,
        body: Bytes,
        queue: Arc<Semaphore>,
        locations: &ResultLocations,
    ) -> Result<(), RuntimeError> {
        let ttl = request.asynchronous.ttl.unwrap_or(self.settings.async_ttl);
        let begun = timeout_at(Instant::now() + ttl, self.begin(endpoint, queue)).await;
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
        let bounds = RequestLimits {
            reply: limit,
            deadline: Instant::now() + timeout,
            asynchronous: true,
        };
        let reply = self.run(&chosen, request, body, bounds).await?;
        // Releases the instance for the next invocation.
        drop((chosen, slot));
        self.asynchronous.notice();
        let content_type = content_type(&reply.headers).to_owned();
        let put = self.objects.put(&locations.output, reply.body, &content_type).await;
        put.map_err(|error| RuntimeError::Dependency(format!("the result was not written: {error}")))
    }

    /// Waits for this invocation's turn, then for a free instance.
    async fn begin(
        &self,
        endpoint: &str,
        queue: Arc<Semaphore>,
    ) -> Result<(Destination, OwnedSemaphorePermit), RuntimeError> {
        let closed = |_| RuntimeError::Internal("the queue of asynchronous invocations is closed".to_owned());
        let _turn = queue.acquire().await.map_err(closed)?;
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
                let chosen = Destination {
                    fleet,
                    variant,
                    instance,
                };
                return Ok((chosen, slot));
            }
            // Holds no fleet while it waits, so that the fleet can end.
            drop((fleet, variant));
            let _ = timeout(RECHECK_INTERVAL, changes.changed()).await;
        }
    }

    async fn write_failure(&self, endpoint: &str, locations: &ResultLocations, error: &RuntimeError) {
        let Some(url) = &locations.failure else { return };
        let body = error.answer(self.at(endpoint)).body.to_string();
        if let Err(error) = self.objects.put(url, body.into(), "application/json").await {
            tracing::error!(endpoint, url, %error, "the failure of an asynchronous invocation was not written");
        }
    }
}
