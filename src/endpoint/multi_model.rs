//! The platform's side of a multi-model endpoint, for one container in multi-model mode.
//!
//! A request names a model of the store; the container knows it by an opaque name. The platform
//! downloads a model that the container has not loaded and loads it on demand. If the container
//! answers 507, the platform unloads the least recently used models and repeats the load until it
//! fits or no model is left to unload. SageMaker does not document which models it unloads, how
//! many, or whether it repeats a call. Here it unloads one model first, then two, then four and so
//! on.
//!
//! Invariants:
//! - Loads and unloads of one model are serial. Those of different models run concurrently.
//! - A model in use is never unloaded.
//! - A load continues after the requests that wait for it have left.
//! - A request that finds its model gone, because the container restarted, causes one new load.

mod directory;
mod files;
mod life;
mod load;
mod names;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use reqwest::Method;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout_at};

use crate::endpoint::client::{CallError, Client, ContainerCall, ContainerResponse, Target};
use crate::endpoint::error::RuntimeError;
use crate::endpoint::spec::Mode;
use crate::page::state::{HeldModel, LifeEvent};
use crate::store::{Name, Store};
use crate::wire::{ModelPath, TARGET_MODEL};

use directory::{Directory, Lookup, ResidencyId};
use life::{Life, LifeStep};

const NOT_LOADED: u16 = 404;
const OUT_OF_MEMORY: u16 = 507;

/// Maximum number of new loads for a request whose model is gone. Then the request gets the 404.
const MAX_RELOADS: u32 = 1;

/// The timeouts of loads and unloads (MM-14, MM-15).
#[derive(Debug, Clone)]
pub struct MultiModelConfig {
    /// Maximum time that a request waits for a load.
    pub load_wait: Duration,
    /// Maximum time of a load, including the download and the unloads that it needs.
    pub load_timeout: Duration,
    /// Maximum time of an unload.
    pub unload_timeout: Duration,
}

/// The parts of a [`Platform`].
pub struct PlatformParts {
    /// A weak reference, because the container owns the platform.
    pub target: Weak<dyn Target>,
    /// The store that `ModelDataUrl` names.
    pub store: Arc<Store>,
    pub client: Client,
    /// The runtime for loads, which continue without a waiting request.
    pub background: Handle,
}

/// A request to a model.
#[derive(Clone, Copy)]
pub struct Invocation<'a> {
    pub model: &'a Name,
    pub headers: &'a HeaderMap,
    pub body: &'a Bytes,
    /// See [`ContainerCall::fatal`].
    pub fatal: bool,
}

/// The models of one container.
pub struct Platform {
    parts: PlatformParts,
    settings: MultiModelConfig,
    hostname: String,
    label: String,
    root: ModelsRoot,
    /// Whether models stay loaded after a request.
    keep_loaded: bool,
    /// Never locked across an `await`.
    directory: Mutex<Directory>,
    /// Changes when memory may have become free, or a model has become idle.
    changes: watch::Sender<()>,
    /// Serializes loads that found no memory although no other model is loaded: they may have
    /// blocked each other.
    alone: Semaphore,
    life: Life,
}

/// The models root, by this process's path and by the container's.
struct ModelsRoot {
    here: PathBuf,
    inside: String,
}

/// The use of a model by a request. The model is not unloaded until this is dropped.
struct ModelUse<'a> {
    platform: &'a Arc<Platform>,
    name: &'a Name,
    residency: ResidencyId,
}

impl Drop for ModelUse<'_> {
    fn drop(&mut self) {
        let idle = self.platform.directory().release(self.name, self.residency);
        self.platform.changes.send_replace(());
        if idle && !self.platform.keep_loaded && self.platform.directory().begin_unload(self.name) {
            let (platform, name) = (Arc::clone(self.platform), self.name.clone());
            self.platform.parts.background.spawn(async move {
                platform.unload(&name).await;
            });
        }
    }
}

impl Platform {
    /// The platform of `target`, to which `parts` refers as well.
    pub fn new(target: &dyn Target, parts: PlatformParts, settings: MultiModelConfig) -> Arc<Self> {
        let keep_loaded = match target.container().mode {
            Mode::MultiModel { cache } => cache,
            Mode::SingleModel => true,
        };
        Arc::new(Self {
            parts,
            settings,
            hostname: target.container().hostname.clone(),
            label: target.label().to_owned(),
            root: ModelsRoot {
                here: target.models_root().to_owned(),
                inside: target.models_root_inside().display().to_string(),
            },
            keep_loaded,
            directory: Mutex::default(),
            changes: watch::Sender::default(),
            alone: Semaphore::new(1),
            life: Life::default(),
        })
    }

    /// Whether the model is loaded or being loaded here. Requests for it should come to this
    /// container.
    pub fn has(&self, name: &Name) -> bool {
        self.directory().has(name)
    }

    /// The models in the container, by name.
    pub fn held(&self) -> Vec<HeldModel> {
        self.directory().held()
    }

    /// The last steps in the lives of its models, the newest last.
    pub fn life(&self) -> Vec<LifeEvent> {
        self.life.last()
    }

    /// Invokes a model, loading it first if necessary. Its response may have up to `limit` bytes.
    ///
    /// # Cancel safety
    /// A load in progress continues.
    pub async fn invoke(
        self: &Arc<Self>,
        invocation: Invocation<'_>,
        limit: usize,
        deadline: Instant,
    ) -> Result<ContainerResponse, RuntimeError> {
        let name = invocation.model;
        let (mut gone, mut full) = (0, false);
        loop {
            let used = self.loaded(name, deadline).await?;
            let call = self.call_of(invocation);
            let reply = self.exchange(call, limit, deadline).await?;
            match reply.status {
                NOT_LOADED if gone < MAX_RELOADS => {
                    gone += 1;
                    tracing::info!(container = self.label(), model = %name, "404: the container has lost the model");
                    self.life.note(name, LifeStep::Lost, None);
                    self.forget(name, used.residency).await;
                }
                OUT_OF_MEMORY if !full => {
                    full = true;
                    tracing::info!(container = self.label(), model = %name, "507: not enough memory to run the model");
                    self.life.note(
                        name,
                        LifeStep::Full,
                        Some("not enough memory to run the model".to_owned()),
                    );
                    if !self.unload_others(used.residency).await {
                        return Ok(reply);
                    }
                    tracing::info!(container = self.label(), model = %name, "retry");
                    self.life.note(name, LifeStep::Retry, None);
                }
                _ => return Ok(reply),
            }
        }
    }

    /// Waits until the model is loaded, starting a load if necessary.
    async fn loaded<'a>(self: &'a Arc<Self>, name: &'a Name, deadline: Instant) -> Result<ModelUse<'a>, RuntimeError> {
        let until = deadline.min(Instant::now() + self.settings.load_wait);
        let not_ready = || RuntimeError::ModelNotReady {
            model: name.to_string(),
        };
        let in_use = |residency| ModelUse {
            platform: self,
            name,
            residency,
        };
        loop {
            self.check_generation();
            let found = self.directory().acquire(name);
            let (used, mut outcome) = match found {
                Lookup::Loaded(residency) => return Ok(in_use(residency)),
                Lookup::Loading(residency, outcome) => (in_use(residency), outcome),
                Lookup::Absent(residency, outcome) => {
                    let (platform, name) = (Arc::clone(self), name.clone());
                    self.parts
                        .background
                        .spawn(async move { platform.load(&name, residency).await });
                    (in_use(residency), outcome)
                }
                Lookup::Unloading(mut ended) => {
                    // The channel closes when the unload has ended.
                    while timeout_at(until, ended.changed())
                        .await
                        .map_err(|_| not_ready())?
                        .is_ok()
                    {}
                    continue;
                }
            };
            let ended = timeout_at(until, outcome.wait_for(Option::is_some)).await;
            let result = match ended.map_err(|_| not_ready())? {
                Ok(result) => result.clone(),
                // The load was abandoned, for example because the container ended.
                Err(_) => continue,
            };
            match result {
                Some(Ok(())) => return Ok(used),
                Some(Err(error)) => return Err(error),
                None => {}
            }
        }
    }

    fn call_of(&self, invocation: Invocation<'_>) -> ContainerCall {
        let Invocation {
            model,
            headers,
            body,
            fatal,
        } = invocation;
        let mut headers = headers.clone();
        headers.extend(target_model(model));
        ContainerCall {
            method: Method::POST,
            path: format!("{}/invoke", ModelPath::of(&self.opaque(model))),
            headers,
            body: body.clone(),
            fatal,
        }
    }

    async fn exchange(
        &self,
        call: ContainerCall,
        limit: usize,
        deadline: Instant,
    ) -> Result<ContainerResponse, RuntimeError> {
        let result = match self.parts.target.upgrade() {
            Some(target) => self.parts.client.exchange(&*target, call, limit, deadline).await,
            None => Err(CallError::Down),
        };
        result.map_err(|error| RuntimeError::from_call(&self.hostname, error))
    }

    /// Removes the files of a model that the container does not know. The next request loads it
    /// again.
    async fn forget(self: &Arc<Self>, name: &Name, residency: ResidencyId) {
        if self.directory().lost(name, residency) {
            self.clean_up(name).await;
        }
    }

    /// Notices a restart of the container, and removes the files of the models that it lost.
    fn check_generation(self: &Arc<Self>) {
        let up = self.parts.target.upgrade().and_then(|target| target.up());
        let Some(up) = up else { return };
        let gone = self.directory().set_generation(up.generation);
        if gone.is_empty() {
            return;
        }
        tracing::info!(
            container = self.label(),
            models = gone.len(),
            "the container restarted; its models are loaded again on demand"
        );
        for name in gone {
            self.life
                .note(&name, LifeStep::Lost, Some("the container restarted".to_owned()));
            let platform = Arc::clone(self);
            self.parts
                .background
                .spawn(async move { platform.clean_up(&name).await });
        }
    }

    fn directory(&self) -> MutexGuard<'_, Directory> {
        // No code panics while it holds the lock, so a poisoned value is consistent.
        self.directory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn opaque(&self, name: &Name) -> String {
        names::opaque(&self.parts.store.url_of(name))
    }

    fn label(&self) -> &str {
        &self.label
    }
}

/// The header with the client's name for the model, for the container's log.
fn target_model(name: &Name) -> Option<(HeaderName, HeaderValue)> {
    let value = HeaderValue::from_bytes(name.as_str().as_bytes()).ok()?;
    Some((HeaderName::from_static(TARGET_MODEL), value))
}
