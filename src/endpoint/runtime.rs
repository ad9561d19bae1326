//! The runtime API: invocations of the endpoints that serve.
//!
//! What always holds: a request asks once what serves, and keeps it until it is answered, so it sees the endpoint as it was or as
//! it is, and never its containers end. Every reply is one that the AWS clients understand, errors by the one table in
//! `error.rs`.

mod asynchronous;
mod companion;
mod http;
mod ids;
mod invoke;
mod pattern;
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

use crate::endpoint::client::{Client, ClientError};
use crate::endpoint::deal::Deal;
use crate::endpoint::error::{Place, RuntimeError};
use crate::endpoint::fault::Faults;
use crate::endpoint::fleet::{Fleet, Fleets};
use crate::endpoint::multi_model;
use crate::store::{self, Disk, LocationError, ObjectError, Objects, OpenError, Store};

pub use http::{ERROR_TYPE, REQUEST_ID, data, routes};
pub use invoke::{Response, Written};
pub use request::{Api, Request};
pub use stream::Streamed;

use asynchronous::Asynchronous;
use ids::Ids;
use routing::Routing;
use sessions::Sessions;

/// What the runtime API is started with. The defaults are SageMaker's numbers.
#[derive(Debug, Clone)]
pub struct Settings {
    pub account: String,
    pub region: String,
    /// Bytes of a request, and of a reply.
    pub max_body: usize,
    /// Bytes that one container of a pipeline may pass to the next.
    pub max_between: usize,
    /// Bytes of a body that comes with `InvokeEndpointAsync`.
    pub max_async_body: usize,
    /// Bytes of an object that an asynchronous invocation reads, and of its result.
    pub max_async_object: usize,
    /// For a request, all containers together.
    pub timeout: Duration,
    /// For a reply that comes in parts.
    pub stream_timeout: Duration,
    /// For an asynchronous request, where it does not say.
    pub async_timeout: Duration,
    /// For an asynchronous request to wait, where it does not say.
    pub async_ttl: Duration,
    /// Asynchronous requests at once on an instance, where its endpoint does not say.
    pub async_concurrency: usize,
    /// Asynchronous requests that are accepted and not done.
    pub async_queue: usize,
    pub deal: Deal,
    /// For a request to wait for a container that is being started again.
    pub down_wait: Duration,
    pub multi_model: multi_model::Settings,
    /// How what `ModelDataUrl` names is read: all but the URL.
    pub store: store::StoreConfig,
    /// Where what was read for containers in multi-model mode lies unpacked, and bytes that all of it may take.
    pub archives: (PathBuf, u64),
}

impl Settings {
    /// SageMaker's numbers (section 3.2 of the contract).
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
            multi_model: multi_model::Settings {
                load_wait: seconds(60),
                load_timeout: seconds(360),
                unload_timeout: seconds(360),
            },
            store,
            archives,
        }
    }
}

/// Why the runtime API cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Objects(#[from] LocationError),
    #[error(transparent)]
    Disk(#[from] OpenError),
}

/// The runtime API.
pub struct Runtime {
    settings: Settings,
    /// What serves.
    fleets: Arc<Fleets>,
    client: Client,
    faults: Arc<Faults>,
    ids: Ids,
    sessions: Sessions,
    routing: Routing,
    objects: Objects,
    /// Where loads and asynchronous invocations run.
    background: Handle,
    asynchronous: Asynchronous,
    /// Of all stores together.
    disk: Disk,
    /// One for each `ModelDataUrl`, as long as somebody uses it.
    stores: Mutex<HashMap<String, Weak<Store>>>,
}

impl Runtime {
    /// Loads and asynchronous invocations run in the background, where nobody need wait for them.
    pub fn new(
        settings: Settings,
        fleets: Arc<Fleets>,
        faults: Arc<Faults>,
        background: Handle,
    ) -> Result<Arc<Self>, StartError> {
        let store = &settings.store;
        let (folder, bytes) = &settings.archives;
        Ok(Arc::new(Self {
            client: Client::new(settings.down_wait)?,
            objects: Objects::open(store.environment.clone(), store.timeout, store.retries)?,
            disk: Disk::open(folder, *bytes)?,
            routing: Routing::new(settings.deal),
            settings,
            fleets,
            faults,
            ids: Ids::default(),
            sessions: Sessions::default(),
            background,
            asynchronous: Asynchronous::default(),
            stores: Mutex::default(),
        }))
    }

    /// For a reply, unlike all others.
    pub fn request_id(&self) -> String {
        self.ids.next()
    }

    /// What serves an endpoint.
    fn fleet(&self, endpoint: &str) -> Result<Arc<Fleet>, RuntimeError> {
        let fleet = self.fleets.get(endpoint);
        if fleet.is_none() {
            // It may have been there; nobody tells when it goes.
            self.sessions.forget(endpoint);
            self.routing.forget(endpoint);
        }
        fleet.ok_or_else(|| RuntimeError::UnknownEndpoint {
            spelled: self.fleets.spelled_otherwise(endpoint),
        })
    }

    fn at<'a>(&'a self, endpoint: &'a str) -> Place<'a> {
        Place {
            account: &self.settings.account,
            region: &self.settings.region,
            endpoint,
        }
    }
}

impl From<ObjectError> for RuntimeError {
    fn from(error: ObjectError) -> Self {
        Self::Validation(error.to_string())
    }
}
