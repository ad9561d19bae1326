//! The platform's part in a multi-model endpoint, for one container in multi-model mode of one instance.
//!
//! A request names a model of the store; the container knows it by an opaque name. What the container has not loaded is brought
//! from the store and loaded on demand; when it answers 507, the models that were not used for the longest time are unloaded
//! and the load is repeated until it fits, or nothing is left to unload. What is unpublished of SageMaker's own behaviour (which model
//! goes, how many, whether a call is repeated) is decided here, once: one goes first, then two, four and so on.
//!
//! What always holds: per name loads and unloads are serial, across names they are not; a model in use is not unloaded; a load
//! that was begun goes on when those who wait for it have left; who finds a model gone (the container was started again) causes a
//! fresh load, once.

mod directory;
mod files;
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

use crate::endpoint::client::{Call, CallError, Client, Reply, Target};
use crate::endpoint::error::RuntimeError;
use crate::endpoint::spec::Mode;
use crate::store::{Name, Store};
use crate::wire::{ModelPath, TARGET_MODEL};

use directory::{Directory, Found, Stay};

const NOT_LOADED: u16 = 404;
const NO_ROOM: u16 = 507;

/// Times that a request finds its model gone before that is its answer.
const FRESH_LOADS: u32 = 1;

/// How long things may take (MM-14, MM-15).
#[derive(Debug, Clone)]
pub struct Settings {
    /// For a request to wait for a load.
    pub load_wait: Duration,
    /// For a load, with all that it brings and unloads.
    pub load_timeout: Duration,
    pub unload_timeout: Duration,
}

/// What a platform is made of.
pub struct Parts {
    /// Not held: the container holds this.
    pub target: Weak<dyn Target>,
    /// What `ModelDataUrl` names.
    pub store: Arc<Store>,
    pub client: Client,
    /// Where loads go on when nobody waits for them.
    pub background: Handle,
}

/// What a model is asked.
#[derive(Clone, Copy)]
pub struct Invocation<'a> {
    pub model: &'a Name,
    pub headers: &'a HeaderMap,
    pub body: &'a Bytes,
    /// See [`Call::fatal`].
    pub fatal: bool,
}

/// The models of one container.
pub struct Platform {
    parts: Parts,
    settings: Settings,
    hostname: String,
    label: String,
    root: Root,
    /// Whether models stay loaded after they were asked.
    keeps: bool,
    /// Never held while something is waited for.
    directory: Mutex<Directory>,
    /// Changes whenever there may be room, or somebody to unload.
    changes: watch::Sender<()>,
    /// Loads that found no room although nothing else is loaded take turns: it may have been each other's.
    alone: Semaphore,
}

/// Where models are unpacked for the container, as this process sees it and as the container does.
struct Root {
    here: PathBuf,
    inside: String,
}

/// A model that is loaded and stays so.
struct Use<'a> {
    platform: &'a Arc<Platform>,
    name: &'a Name,
    stay: Stay,
}

impl Drop for Use<'_> {
    fn drop(&mut self) {
        let idle = self.platform.directory().leave(self.name, self.stay);
        self.platform.changes.send_replace(());
        if idle && !self.platform.keeps && self.platform.directory().begin_unload(self.name) {
            let (platform, name) = (Arc::clone(self.platform), self.name.clone());
            self.platform.parts.background.spawn(async move {
                platform.unload(&name).await;
            });
        }
    }
}

impl Platform {
    /// That of `target`, which is the one in `parts`.
    pub fn new(target: &dyn Target, parts: Parts, settings: Settings) -> Arc<Self> {
        let keeps = match target.container().mode {
            Mode::MultiModel { cache } => cache,
            Mode::SingleModel => true,
        };
        Arc::new(Self {
            parts,
            settings,
            hostname: target.container().hostname.clone(),
            label: target.label().to_owned(),
            root: Root {
                here: target.models_root().to_owned(),
                inside: target.models_root_inside().display().to_string(),
            },
            keeps,
            directory: Mutex::default(),
            changes: watch::Sender::default(),
            alone: Semaphore::new(1),
        })
    }

    /// Whether the container has a model, or is about to: who asks for it had better come here.
    pub fn has(&self, name: &Name) -> bool {
        self.directory().has(name)
    }

    /// Invokes a model, which is loaded if it is not. Its reply may have `limit` bytes.
    ///
    /// # Cancel safety
    /// A load that was begun goes on.
    pub async fn invoke(
        self: &Arc<Self>,
        invocation: Invocation<'_>,
        limit: usize,
        deadline: Instant,
    ) -> Result<Reply, RuntimeError> {
        let name = invocation.model;
        let (mut gone, mut full) = (0, false);
        loop {
            let used = self.loaded(name, deadline).await?;
            let call = self.call_of(invocation);
            let reply = self.exchange(call, limit, deadline).await?;
            match reply.status {
                NOT_LOADED if gone < FRESH_LOADS => {
                    gone += 1;
                    tracing::info!(container = self.label(), model = %name, "404: the model is not loaded after all");
                    self.forget(name, used.stay).await;
                }
                NO_ROOM if !full => {
                    full = true;
                    tracing::info!(container = self.label(), model = %name, "507: no memory to run the model");
                    if !self.unload_others(used.stay).await {
                        return Ok(reply);
                    }
                    tracing::info!(container = self.label(), model = %name, "retry");
                }
                _ => return Ok(reply),
            }
        }
    }

    /// The model, once it is loaded.
    async fn loaded<'a>(self: &'a Arc<Self>, name: &'a Name, deadline: Instant) -> Result<Use<'a>, RuntimeError> {
        let until = deadline.min(Instant::now() + self.settings.load_wait);
        let not_ready = || RuntimeError::ModelNotReady {
            model: name.to_string(),
        };
        let in_use = |stay| Use {
            platform: self,
            name,
            stay,
        };
        loop {
            self.see_generation();
            let found = self.directory().arrive(name);
            let (used, mut outcome) = match found {
                Found::Loaded(stay) => return Ok(in_use(stay)),
                Found::Loading(stay, outcome) => (in_use(stay), outcome),
                Found::Absent(stay, outcome) => {
                    let (platform, name) = (Arc::clone(self), name.clone());
                    self.parts
                        .background
                        .spawn(async move { platform.load(&name, stay).await });
                    (in_use(stay), outcome)
                }
                Found::Unloading(mut ended) => {
                    // The end of its sender is what is waited for.
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
                // It was given up, as by the end of the container that it was loaded into.
                Err(_) => continue,
            };
            match result {
                Some(Ok(())) => return Ok(used),
                Some(Err(error)) => return Err(error),
                None => {}
            }
        }
    }

    fn call_of(&self, invocation: Invocation<'_>) -> Call {
        let Invocation {
            model,
            headers,
            body,
            fatal,
        } = invocation;
        let mut headers = headers.clone();
        headers.extend(target_model(model));
        Call {
            method: Method::POST,
            path: format!("{}/invoke", ModelPath::of(&self.opaque(model))),
            headers,
            body: body.clone(),
            fatal,
        }
    }

    async fn exchange(&self, call: Call, limit: usize, deadline: Instant) -> Result<Reply, RuntimeError> {
        let result = match self.parts.target.upgrade() {
            Some(target) => self.parts.client.exchange(&*target, call, limit, deadline).await,
            None => Err(CallError::Down),
        };
        result.map_err(|error| RuntimeError::of_call(&self.hostname, error))
    }

    /// The container does not know the model: its files go, and whoever asks next loads it afresh.
    async fn forget(self: &Arc<Self>, name: &Name, stay: Stay) {
        if self.directory().lost(name, stay) {
            self.clean_up(name).await;
        }
    }

    /// Notices that the container was started again.
    fn see_generation(self: &Arc<Self>) {
        let up = self.parts.target.upgrade().and_then(|target| target.up());
        let Some(up) = up else { return };
        let gone = self.directory().see(up.generation);
        if gone.is_empty() {
            return;
        }
        tracing::info!(
            container = self.label(),
            models = gone.len(),
            "the container was started again; what it had loaded is loaded again when it is asked for"
        );
        for name in gone {
            let platform = Arc::clone(self);
            self.parts
                .background
                .spawn(async move { platform.clean_up(&name).await });
        }
    }

    fn directory(&self) -> MutexGuard<'_, Directory> {
        // Nothing under the lock panics half-way.
        self.directory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn opaque(&self, name: &Name) -> String {
        names::opaque(&self.parts.store.url_of(name))
    }

    fn label(&self) -> &str {
        &self.label
    }
}

/// The header with the client's own name for a model, for the container's log.
fn target_model(name: &Name) -> Option<(HeaderName, HeaderValue)> {
    let value = HeaderValue::from_bytes(name.as_str().as_bytes()).ok()?;
    Some((HeaderName::from_static(TARGET_MODEL), value))
}
