//! `InvokeEndpointAsync`: answered at once with where the result will be, and done when an instance is free.
//!
//! What always holds: what was accepted comes to a result or a failure, each written as an object and logged, and both when the server
//! stops before; requests of an endpoint begin in the order in which they came; no instance works on more of them at once
//! than its endpoint allows. Those that wait hold no containers: an endpoint may be updated meanwhile, or deleted, which
//! is the end of them.

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

/// Who waits for a free instance looks again after that: nobody tells when an endpoint changes.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// For failures to be written when the server stops.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Requests that were accepted and are not done.
#[derive(Default)]
pub(super) struct Asynchronous {
    tasks: TaskTracker,
    stopping: CancellationToken,
    /// Whose turn it is to look for a free instance, by endpoint: one at a time, in the order of their coming.
    lines: Mutex<HashMap<String, Arc<Semaphore>>>,
    /// Changes when an instance may have become free.
    changes: watch::Sender<()>,
}

/// A request, and where its end is written to.
struct Job {
    endpoint: String,
    request: Request,
    body: Bytes,
    written: Written,
}

impl Asynchronous {
    pub fn notice(&self) {
        self.changes.send_replace(());
    }

    fn line(&self, endpoint: &str) -> Arc<Semaphore> {
        // Nothing under the lock panics half-way.
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.retain(|name, line| name == endpoint || Arc::strong_count(line) > 1);
        let line = lines.entry(endpoint.to_owned());
        Arc::clone(line.or_insert_with(|| Arc::new(Semaphore::new(1))))
    }
}

impl Runtime {
    /// Accepts a request.
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
        // The API has no way to say which model, or which container.
        if models.clone().any(|model| model.multi_model().is_some()) {
            return Err(RuntimeError::MissingTargetModel);
        }
        if models.any(|model| model.is_direct()) {
            return Err(RuntimeError::MissingHostname);
        }
        match &request.asynchronous.input {
            None if body.is_empty() => return Err(RuntimeError::MissingInput),
            Some(_) if !body.is_empty() => return Err(RuntimeError::TwoInputs),
            // Who may write no files here may read none either.
            Some(input) if Objects::is_local(input) && !Objects::is_local(&configured.output) => {
                let message = "InputLocation must be an object, such as s3://bucket/key.";
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
            let reason =
                format!("{queue} asynchronous invocations are not done yet; try again later, or raise --async-queue");
            return Err(RuntimeError::Unavailable(reason));
        }
        let job = Job {
            endpoint: endpoint.to_owned(),
            request,
            body,
            written: written.clone(),
        };
        // Its place in the line is taken now.
        let line = self.asynchronous.line(endpoint);
        let runtime = Arc::clone(self);
        let (stopping, tasks) = (self.asynchronous.stopping.clone(), &self.asynchronous.tasks);
        tasks.spawn_on(
            async move { runtime.work_off(job, line, stopping).await },
            &self.background,
        );
        Ok(written)
    }

    /// Waits until what was accepted is done, for `grace` at most; then ends the rest with failures that say so.
    pub async fn finish(&self, grace: Duration) {
        let tasks = &self.asynchronous.tasks;
        tasks.close();
        if timeout(grace, tasks.wait()).await.is_err() {
            tracing::warn!(
                invocations = tasks.len(),
                "asynchronous invocations are given up; the server is stopping"
            );
        }
        self.asynchronous.stopping.cancel();
        if timeout(LAST_WORDS, tasks.wait()).await.is_err() {
            tracing::error!(
                invocations = tasks.len(),
                "asynchronous invocations ended without a word in their failure object"
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
            () = stopping.cancelled() => Err(RuntimeError::Unavailable("the server was stopped before the end".to_owned())),
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
            RuntimeError::Unavailable(format!("the request expired after it had waited for {ttl}"))
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
        // The next one may begin.
        drop((chosen, slot));
        self.asynchronous.notice();
        let content_type = content_type(&reply.headers).to_owned();
        let put = self.objects.put(&written.output, reply.body, &content_type).await;
        put.map_err(|error| RuntimeError::Dependency(format!("the result was not written: {error}")))
    }

    /// An instance that is free, when it is this one's turn.
    async fn begin(
        &self,
        endpoint: &str,
        line: Arc<Semaphore>,
    ) -> Result<(Chosen, OwnedSemaphorePermit), RuntimeError> {
        let closed = |_| RuntimeError::Internal("the line of asynchronous invocations is closed".to_owned());
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
            // What does not serve this request may end meanwhile.
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
