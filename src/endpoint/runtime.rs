//! The runtime API: invocations of running endpoints.
//!
//! Invariants:
//! - A request looks up its fleet once and holds it until the response. So it sees the endpoint
//!   either before or after an update, and its containers do not end meanwhile.
//! - The AWS clients understand every response. Errors follow the one table in `error.rs`.

mod asynchronous;
mod companion;
mod counts;
mod http;
mod invoke;
mod request;
mod routing;
mod sessions;
mod stream;
mod turns;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use uuid::Uuid;

use crate::endpoint::client::{Client, ClientError};
use crate::endpoint::deal::Deal;
use crate::endpoint::error::{ErrorContext, RuntimeError};
use crate::endpoint::fault::Faults;
use crate::endpoint::fleet::{Fleet, Fleets};
use crate::endpoint::multi_model;
use crate::store::{self, Disk, LocationError, ObjectError, Objects, OpenError, Store};

pub use counts::InvocationCounts;
pub use http::{ERROR_TYPE, REQUEST_ID, data, routes};
pub use invoke::{InvocationResponse, ResultLocations};
pub use request::{Api, InvocationRequest};
pub use stream::StreamedResponse;

use asynchronous::AsyncQueue;
use routing::Router;
use sessions::Sessions;

/// The configuration of the runtime API. The defaults are SageMaker's.
#[derive(Debug, Clone)]
pub struct RuntimeConfig {
    pub account: String,
    pub region: String,
    /// Maximum bytes of a request's body and of a response's.
    pub max_body: usize,
    /// Maximum bytes that one container of a pipeline passes to the next.
    pub max_between: usize,
    /// Maximum bytes of the body of `InvokeEndpointAsync`.
    pub max_async_body: usize,
    /// Maximum bytes of the input object of an asynchronous invocation, and of its result.
    pub max_async_object: usize,
    /// The timeout of a request, for all containers together.
    pub timeout: Duration,
    /// The timeout of a streamed response.
    pub stream_timeout: Duration,
    /// The default timeout of an asynchronous invocation.
    pub async_timeout: Duration,
    /// The default maximum time that an asynchronous invocation waits for an instance.
    pub async_ttl: Duration,
    /// The default number of concurrent asynchronous invocations per instance.
    pub async_concurrency: usize,
    /// Maximum number of accepted asynchronous invocations that are not complete.
    pub async_queue: usize,
    pub deal: Deal,
    /// Maximum time that a request waits for a container that is being restarted.
    pub down_wait: Duration,
    pub multi_model: multi_model::MultiModelConfig,
    /// The store settings for downloading models. The URL is ignored; `ModelDataUrl` replaces it.
    pub store: store::StoreConfig,
    /// The folder of unpacked models of containers in multi-model mode, and its maximum bytes.
    pub archives: (PathBuf, u64),
}

impl RuntimeConfig {
    /// A configuration with SageMaker's numbers.
    pub fn new(store: store::StoreConfig, archives: (PathBuf, u64)) -> Self {
        let seconds = Duration::from_secs;
        Self {
            account: "000000000000".to_owned(),
            region: "us-east-1".to_owned(),
            max_body: 25 << 20,
            max_between: 5 << 20,
            max_async_body: 128_000,
            max_async_object: 1 << 30,
            timeout: seconds(60),
            stream_timeout: seconds(8 * 60),
            async_timeout: seconds(15 * 60),
            async_ttl: seconds(6 * 60 * 60),
            async_concurrency: 4,
            async_queue: 4096,
            deal: Deal::random(None),
            down_wait: seconds(10),
            multi_model: multi_model::MultiModelConfig {
                load_wait: seconds(60),
                load_timeout: seconds(360),
                unload_timeout: seconds(360),
            },
            store,
            archives,
        }
    }
}

/// The reason why the runtime API could not start.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeStartError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Objects(#[from] LocationError),
    #[error(transparent)]
    Disk(#[from] OpenError),
}

/// The runtime API.
pub struct Runtime {
    settings: RuntimeConfig,
    /// The running endpoints.
    fleets: Arc<Fleets>,
    client: Client,
    faults: Arc<Faults>,
    sessions: Sessions,
    routing: Router,
    objects: Objects,
    /// The runtime for loads and asynchronous invocations.
    background: Handle,
    asynchronous: AsyncQueue,
    /// The disk space of all stores.
    disk: Disk,
    /// One store for each `ModelDataUrl`, as long as it is used.
    stores: Mutex<HashMap<String, Weak<Store>>>,
    counts: InvocationCounts,
}

impl Runtime {
    /// Loads and asynchronous invocations run on `background`, independent of requests.
    pub fn new(
        settings: RuntimeConfig,
        fleets: Arc<Fleets>,
        faults: Arc<Faults>,
        background: Handle,
    ) -> Result<Arc<Self>, RuntimeStartError> {
        let store = &settings.store;
        let (folder, bytes) = &settings.archives;
        Ok(Arc::new(Self {
            client: Client::new(settings.down_wait)?,
            objects: Objects::open(store.environment.clone(), store.timeout, store.retries)?,
            disk: Disk::open(folder, *bytes)?,
            routing: Router::new(settings.deal),
            settings,
            fleets,
            faults,
            sessions: Sessions::default(),
            background,
            asynchronous: AsyncQueue::default(),
            stores: Mutex::default(),
            counts: InvocationCounts::default(),
        }))
    }

    /// Counts of the invocations since the start.
    pub fn counts(&self) -> &InvocationCounts {
        &self.counts
    }

    /// The fleet that serves an endpoint.
    fn fleet(&self, endpoint: &str) -> Result<Arc<Fleet>, RuntimeError> {
        let fleet = self.fleets.get(endpoint);
        if fleet.is_none() {
            // The endpoint may have been removed, of which the runtime is not notified.
            self.sessions.forget(endpoint);
            self.routing.forget(endpoint);
        }
        fleet.ok_or_else(|| RuntimeError::UnknownEndpoint {
            spelled: self.fleets.spelled_otherwise(endpoint),
        })
    }

    fn at<'a>(&'a self, endpoint: &'a str) -> ErrorContext<'a> {
        ErrorContext {
            account: &self.settings.account,
            region: &self.settings.region,
            endpoint,
        }
    }
}

/// A unique id of a request or an inference, in the form of AWS's.
pub fn new_id() -> String {
    Uuid::new_v4().to_string()
}

impl From<ObjectError> for RuntimeError {
    fn from(error: ObjectError) -> Self {
        Self::Validation(error.to_string())
    }
}
