//! Loads and unloads: the steps between the store, the disk and the container.
//!
//! ```text
//! find, fetch -> link below the models root -> POST /models -> loaded
//!                                              ^         |
//!                                              |        507
//!                                              |         v
//!                                              +-- DELETE others
//! ```
//!
//! Each step logs a line with the container and the model, so the log shows their order.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;
use reqwest::Method;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue};
use tokio::task;
use tokio::time::{Instant, timeout_at};

use super::directory::{EvictionStep, ResidencyId};
use super::files::{self, PlacedFiles};
use super::life::LifeStep;
use super::{NOT_LOADED, OUT_OF_MEMORY, Platform, target_model};
use crate::archive::is_full;
use crate::endpoint::client::{ContainerCall, ContainerResponse};
use crate::endpoint::error::RuntimeError;
use crate::store::{FetchError, Lease, Located, Name};
use crate::wire::{LoadRequest, ModelPath};

/// Maximum bytes of a response to a load or an unload. Only error messages are read.
const MAX_REPLY: usize = 1 << 20;

/// Maximum number of repeated loads because the container ended during one. Another model may have
/// ended the container.
const MAX_RESTARTS: u32 = 1;

impl Platform {
    /// Loads a model from the store into the container, and reports the result to waiting
    /// requests.
    pub(super) async fn load(self: &Arc<Self>, name: &Name, residency: ResidencyId) {
        let deadline = Instant::now() + self.settings.load_timeout;
        let result = match timeout_at(deadline, self.try_load(name, residency, deadline)).await {
            Ok(result) => result,
            Err(_) => Err(RuntimeError::TimedOut {
                container: self.hostname.clone(),
            }),
        };
        match result {
            Ok(generation) => {
                self.check_generation();
                let is_current = self.directory().loaded(name, residency, generation);
                if !is_current {
                    self.clean_up(name).await;
                }
                tracing::info!(container = self.label(), model = %name, "loaded");
                self.life.note(name, LifeStep::Loaded, None);
            }
            Err(error) => {
                tracing::warn!(container = self.label(), model = %name, %error, "the model was not loaded");
                self.life.note(name, LifeStep::Failed, Some(error.to_string()));
                let files = self.directory().failed(name, residency);
                remove(files).await;
                self.directory().unloaded(name, Some(error));
            }
        }
        self.changes.send_replace(());
        self.unload_unless_kept(name).await;
    }

    /// Loads a model. Returns the generation of the container that loaded it.
    async fn try_load(&self, name: &Name, residency: ResidencyId, deadline: Instant) -> Result<u64, RuntimeError> {
        let opaque = self.opaque(name);
        let placed = self.place(name, residency, &opaque).await?;
        self.directory().set_files(name, residency, placed);
        let request = LoadRequest {
            url: files::url(&self.root.inside, &opaque),
            model_name: opaque,
        };
        let body = serde_json::to_vec(&request).map_err(|error| RuntimeError::Internal(error.to_string()))?;
        self.post_until_it_fits(name, residency, body.into(), deadline).await
    }

    /// Downloads the model and puts its files below the models root. If the disk is full, unloads
    /// idle models and tries again.
    async fn place(&self, name: &Name, residency: ResidencyId, opaque: &str) -> Result<PlacedFiles, RuntimeError> {
        loop {
            let full = match self.download(name, opaque).await {
                Err(FetchError::NoRoom(reason)) => reason,
                result => return result.map_err(|error| self.download_error(name, error)),
            };
            tracing::info!(container = self.label(), model = %name, reason = full, "no disk space for the model");
            self.life.note(
                name,
                LifeStep::Full,
                Some(format!("no disk space for the model: {full}")),
            );
            if !self.unload_others(residency).await {
                return Err(self.download_error(name, FetchError::NoRoom(full)));
            }
            tracing::info!(container = self.label(), model = %name, "retry");
            self.life.note(name, LifeStep::Retry, None);
        }
    }

    async fn download(&self, name: &Name, opaque: &str) -> Result<PlacedFiles, FetchError> {
        let store = &self.parts.store;
        let lease: Lease = match store.find(name).await? {
            Located::OnDisk(lease) => lease,
            Located::InStore(arrival) => {
                tracing::info!(container = self.label(), model = %name, url = store.url_of(name), "download");
                self.life.note(name, LifeStep::Download, Some(store.url_of(name)));
                store.fetch(arrival).await?
            }
        };
        let (root, opaque) = (self.root.here.clone(), opaque.to_owned());
        let placing = task::spawn_blocking(move || PlacedFiles::new(lease, &root, &opaque));
        let placed = placing.await.map_err(|_| FetchError::Stopping)?;
        placed.map_err(|error| match is_full(&error) {
            true => FetchError::NoRoom(error.to_string()),
            false => FetchError::Disk(error.to_string()),
        })
    }

    fn download_error(&self, name: &Name, error: FetchError) -> RuntimeError {
        let url = self.parts.store.url_of(name);
        match error {
            FetchError::Store(error) => RuntimeError::Download {
                url,
                reason: error.to_string(),
            },
            FetchError::Archive { source, .. } => RuntimeError::Validation(format!(
                "Failed to extract model data archive ({url}). Please ensure that the object located at the URL is a valid \
                 tar.gz archive. ({source})"
            )),
            FetchError::Disk(_) | FetchError::NoRoom(_) | FetchError::Stopping => {
                RuntimeError::Unavailable(error.to_string())
            }
        }
    }

    /// Asks the container to load a model, and unloads others as long as it has no memory for it.
    async fn post_until_it_fits(
        &self,
        name: &Name,
        residency: ResidencyId,
        body: Bytes,
        deadline: Instant,
    ) -> Result<u64, RuntimeError> {
        let (mut count, mut restarts) = (1, 0);
        let mut alone = None;
        let mut again = false;
        loop {
            tracing::info!(container = self.label(), model = %name, "{}", if again { "retry" } else { "load" });
            let step = if again { LifeStep::Retry } else { LifeStep::Load };
            self.life.note(name, step, None);
            again = true;
            let freed = self.directory().freed();
            let mut changes = self.changes.subscribe();
            let reply = match self.post(name, residency, body.clone(), deadline).await {
                Err(RuntimeError::NoAnswer { .. } | RuntimeError::Unavailable(_)) if restarts < MAX_RESTARTS => {
                    restarts += 1;
                    continue;
                }
                reply => reply?,
            };
            match reply.status {
                // 409: loaded already, by a load whose response was lost, or after a failed
                // unload.
                200 | 409 => return Ok(reply.generation),
                OUT_OF_MEMORY => {
                    tracing::info!(container = self.label(), model = %name, "507: not enough memory for the model");
                    self.life
                        .note(name, LifeStep::Full, Some("not enough memory for the model".to_owned()));
                }
                _ => return Err(self.refusal(&reply)),
            }
            loop {
                let step = self.directory().plan_eviction(residency, freed, count);
                match step {
                    EvictionStep::Freed => break,
                    EvictionStep::Unload(names) => {
                        join_all(names.iter().map(|name| self.unload(name))).await;
                        count *= 2;
                        break;
                    }
                    EvictionStep::Wait => {
                        // Cannot fail: `self` owns the sender.
                        let _ = changes.changed().await;
                    }
                    EvictionStep::Nothing if alone.is_none() => {
                        alone = self.alone.acquire().await.ok();
                        break;
                    }
                    EvictionStep::Nothing => return Err(self.refusal(&reply)),
                }
            }
        }
    }

    async fn post(
        &self,
        name: &Name,
        residency: ResidencyId,
        body: Bytes,
        deadline: Instant,
    ) -> Result<ContainerResponse, RuntimeError> {
        let mut headers = HeaderMap::from_iter(target_model(name));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        let call = ContainerCall {
            method: Method::POST,
            path: "/models".to_owned(),
            headers,
            body,
            fatal: false,
        };
        self.directory().set_posted(name, residency, true);
        let reply = self.exchange(call, MAX_REPLY, deadline).await;
        self.directory().set_posted(name, residency, false);
        self.changes.send_replace(());
        reply
    }

    /// The error for a load or an unload that the container refused.
    fn refusal(&self, reply: &ContainerResponse) -> RuntimeError {
        RuntimeError::Model {
            container: self.hostname.clone(),
            status: reply.status,
            message: String::from_utf8_lossy(&reply.body).into_owned(),
        }
    }

    /// Unloads the least recently used half of the idle models, at least one. False if no model is
    /// idle.
    pub(super) async fn unload_others(&self, residency: ResidencyId) -> bool {
        let step = {
            let mut directory = self.directory();
            let (freed, count) = (directory.freed(), directory.idle_count().div_ceil(2));
            directory.plan_eviction(residency, freed, count.max(1))
        };
        let EvictionStep::Unload(names) = step else {
            return false;
        };
        join_all(names.iter().map(|name| self.unload(name))).await;
        true
    }

    /// Unloads a model that is marked as unloading, and removes its files. If the container
    /// refuses, the model counts as unloaded all the same: the next load gets a 409 if it is not.
    pub(super) async fn unload(&self, name: &Name) {
        tracing::info!(container = self.label(), model = %name, "unload");
        self.life.note(name, LifeStep::Unload, None);
        let call = ContainerCall {
            method: Method::DELETE,
            path: ModelPath::of(&self.opaque(name)),
            headers: HeaderMap::from_iter(target_model(name)),
            body: Bytes::new(),
            fatal: false,
        };
        let deadline = Instant::now() + self.settings.unload_timeout;
        match self.exchange(call, MAX_REPLY, deadline).await {
            Ok(reply) if matches!(reply.status, 200..300 | NOT_LOADED) => {
                self.life.note(name, LifeStep::Unloaded, None);
            }
            Ok(reply) => {
                let error = self.refusal(&reply);
                tracing::warn!(container = self.label(), model = %name, %error, "the model was not unloaded");
            }
            Err(error) => {
                tracing::warn!(container = self.label(), model = %name, %error, "the model was not unloaded");
            }
        }
        self.clean_up(name).await;
    }

    /// Removes the files of a model that is unloading, and ends its residency.
    pub(super) async fn clean_up(&self, name: &Name) {
        let files = self.directory().take_files(name);
        remove(files).await;
        self.directory().unloaded(name, None);
        self.changes.send_replace(());
    }

    /// Unloads an idle model at once if models are not kept. No request has waited until the end
    /// of its load.
    async fn unload_unless_kept(&self, name: &Name) {
        let marked = !self.keep_loaded && self.directory().begin_unload(name);
        if marked {
            self.unload(name).await;
        }
    }
}

async fn remove(files: Option<PlacedFiles>) {
    if let Some(files) = files {
        // Fails only when the runtime shuts down, which removes the whole folder.
        let _ = task::spawn_blocking(move || files.remove()).await;
    }
}
