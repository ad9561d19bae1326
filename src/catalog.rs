//! The model directory: name to loaded model.
//!
//! The directory is a moka cache without a bound. In platform mode the catalog never evicts: a
//! full container answers 507 and the platform chooses which model to unload (MM-19). The list of
//! models therefore always equals the platform's view. In standalone mode the catalog loads and
//! evicts models on its own (`demand.rs`). The catalog uses moka for the per-key lock of its
//! compute operations: operations on one name run in order, while other names proceed:
//!
//! | the name is | load | get, list, invoke | unload |
//! |---|---|---|---|
//! | absent | loads | 404 | 404 |
//! | loading | waits; 409 if that load succeeded, otherwise loads | 404 | waits, then unloads |
//! | loaded | 409 | 200 | unloads |
//! | unloading | waits, then loads | 404 | waits, then 404 |
//! | held by stuck runs after an unload | loads | 404 | 503 while its memory is held, then 200 |
//! | restored | 409 | 200; an invocation loads it first | removes it from the list |
//!
//! A restarted process lists its former models at once as "restored", because the platform
//! believes that they are loaded. Each one is loaded again in the background or by its first
//! request, whichever comes first. A restored model that can never be loaded again leaves the
//! list. It stays on the list if the machine is the cause (memory, file descriptors, a GPU), or if
//! it is quarantined because it crashed the last process.
//!
//! The catalog is generic over the part of the engine that it uses (`model_engine.rs`), so that
//! tests run each cell of the table without ONNX Runtime (`tests/`).
//!
//! Invariants:
//! - A model is listed only while it can answer, or if it could before the restart.
//! - An unload ends after the model's last request and after its memory is free. If runs that
//!   cannot be ended hold the memory, the unload reports that instead (`retire.rs`).
//! - The journal records a load or unload before the caller gets its response.

mod demand;
mod entry;
mod error;
mod later;
mod model_engine;
mod rehearse;
mod restore;
mod retire;
mod roots;
mod served;
mod state;
mod status;
#[cfg(test)]
mod tests;
mod tokenizers;
mod usage;

use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use moka::future::Cache;
use moka::ops::compute::{CompResult, Op};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio::task;
use tokio::time::{Instant, timeout_at};
use tracing::Span;

use crate::engine::{ArtifactPath, ContentHash, Engine, LoadError, LoadedMemory, PoolError};
use crate::handler::MediaLimits;
use crate::shared::SharedMap;
use crate::store::Usage;
use crate::telemetry::models::ModelStats;
use crate::text::Pool;

use demand::Origin;
use entry::{CatalogEntry, Lookup, ModelSlot};
use error::{load_error, not_loaded, shortened};
use model_engine::{LoadedModel, ModelEngine};
use roots::allowed;
use served::ManifestRequests;
use state::{Action, Change, End, JournalLine, ModelOperation, ModelState};
use tokenizers::CountedTokenizer;
use usage::RecentUse;

pub use demand::{Demand, DemandConfig, EVICTION_PAUSE, EVICTION_PAUSES, Evicted};
pub use entry::{Handle, ModelInfo};
pub use error::CatalogError;
pub use status::{ModelOverview, ModelStatus};

/// Longest model name, in bytes. The platform's names are hashes; the contract requires at least
/// 1 KiB (MM-6).
pub const MAX_NAME_BYTES: usize = 4096;

/// Limits and collaborators of the catalog.
#[derive(Debug, Clone)]
pub struct CatalogConfig {
    /// Directories that must contain the `url` of a load (MM-8).
    pub roots: Vec<PathBuf>,
    /// Longest time that an unload waits for the model's last requests.
    pub unload_timeout: Duration,
    /// Time limit at a load for all requests of the model's manifest together.
    pub rehearsal_timeout: Duration,
    /// Limits on the pictures, texts and sounds of a request.
    pub media: MediaLimits,
    /// Number of models that are prepared in parallel while they serve.
    pub preparations: usize,
    /// Number of models that are restored in parallel.
    pub restores: usize,
    /// Records the list of models, so that a restarted process can restore it.
    pub journal: Option<Arc<dyn Journal>>,
}

/// A listed model with all that a restarted process needs to load it again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub name: String,
    pub url: String,
    pub target_model: Option<String>,
    pub content: ContentHash,
    /// The manifest as JSON, without its requests; `None` if it is empty. Messages carry it apart
    /// from the rest of the record, because it may be long.
    #[serde(skip)]
    pub manifest: Option<String>,
}

/// An operation on a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Load,
    Unload,
    Restore,
    Refresh,
    Prepare,
}

/// The span of an operation on a model. All records of the log that the operation causes are inside
/// it, so that each has the model's name.
pub fn model_span(operation: Operation, model: &str, target_model: Option<&str>) -> Span {
    let model = shortened(model);
    // At the level of errors, so that it is there whatever level the log has.
    match operation {
        Operation::Load => tracing::error_span!("load", model, target_model),
        Operation::Unload => tracing::error_span!("unload", model, target_model),
        Operation::Restore => tracing::error_span!("restore", model, target_model),
        Operation::Refresh => tracing::error_span!("refresh", model, target_model),
        // It continues after the operation that has loaded the model.
        Operation::Prepare => tracing::error_span!(parent: None, "prepare", model, target_model),
    }
}

/// Facts about a listed model.
#[derive(Debug, Clone)]
pub struct Listed {
    /// The client's name for the model, from the load request.
    pub target_model: Option<String>,
    /// Statistics of the requests to the model.
    pub stats: Arc<ModelStats>,
}

/// Record of the loaded models that outlives this process. The catalog writes each load and unload
/// to it before it answers the caller.
pub trait Journal: Debug + Send + Sync {
    fn loaded(&self, record: Record);
    fn unloaded(&self, name: &str);
    /// Reports that models with these contents (`ContentHash::short`) got requests recently.
    fn used(&self, contents: &[u64]);
}

/// All loaded models.
#[derive(Debug)]
pub struct Catalog<E: ModelEngine = Engine> {
    models: Cache<String, Arc<CatalogEntry<E::Model>>>,
    engine: Arc<E>,
    settings: CatalogConfig,
    /// `Some` in standalone mode.
    demand: Option<Arc<Demand<E::Model>>>,
    /// One permit for each preparation of a model that serves already.
    preparations: Semaphore,
    /// One permit for each restore in progress.
    restores: Semaphore,
    recent_use: RecentUse<E::Model>,
    /// Keyed by the hash of the tokenizer's files.
    tokenizers: SharedMap<blake3::Hash, CountedTokenizer>,
    /// Files of the tokenizers; several tokenizers may share one.
    tokenizer_files: Arc<Pool>,
}

impl<E: ModelEngine> Catalog<E> {
    pub fn new(engine: Arc<E>, settings: CatalogConfig, demand: Option<Demand<E::Model>>) -> Self {
        Self {
            models: Cache::builder().build(),
            engine,
            demand: demand.map(Arc::new),
            preparations: Semaphore::new(settings.preparations),
            restores: Semaphore::new(settings.restores),
            recent_use: RecentUse::default(),
            tokenizers: SharedMap::default(),
            tokenizer_files: Arc::default(),
            settings,
        }
    }

    /// Loads the artifact at `url` as `name` and returns the memory it takes.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the load and drops a model that it has already loaded.
    pub async fn load(
        self: &Arc<Self>,
        name: &str,
        url: &str,
        target_model: Option<&str>,
    ) -> Result<LoadedMemory, CatalogError> {
        if let Some(demand) = &self.demand {
            return self.load_ahead(demand, name, url).await;
        }
        if name.is_empty() || name.len() > MAX_NAME_BYTES || name == "." || name == ".." {
            return Err(CatalogError::Name);
        }
        let path = self.allowed(name, url).await?;
        let loaded = self.load_from(name, url, target_model, &path, None).await?;
        Ok(loaded.as_ref().loaded_memory())
    }

    /// Loads the artifact at `path` without checking it against the roots: the path comes from the
    /// command line.
    pub async fn load_trusted(self: &Arc<Self>, name: &str, path: &Path) -> Result<LoadedMemory, CatalogError> {
        let url = path.to_string_lossy();
        let loaded = self
            .load_from(name, &url, None, &ArtifactPath::trusted(path), None)
            .await?;
        Ok(loaded.as_ref().loaded_memory())
    }

    /// Loads the artifact at `path` as `name`. Takes the handle before the entry is visible, so
    /// that no unload can come between.
    async fn load_from(
        self: &Arc<Self>,
        name: &str,
        url: &str,
        target_model: Option<&str>,
        path: &ArtifactPath,
        origin: Option<Origin>,
    ) -> Result<Handle<E::Model>, CatalogError> {
        let mut handle = Err(CatalogError::AlreadyLoaded { name: name.to_owned() });
        self.models
            .entry_by_ref(name)
            .and_try_compute_with(|current| async {
                let current = current.map(|current| current.into_value());
                match (
                    state::action(ModelState::of(current.as_ref()), ModelOperation::Load),
                    &current,
                ) {
                    (Action::Load, _) => {}
                    // Only stuck runs may go on holding the old entry.
                    (Action::FinishUnloadThenLoad, Some(current)) => match self.retire(name, current).await {
                        Ok(()) | Err(CatalogError::StillHeld { .. }) => {}
                        Err(error) => return Err(error),
                    },
                    _ => return Ok(Op::Nop),
                }
                let served = match self.engine.load(path).await {
                    Ok(model) => self.serve(name, path, model, ManifestRequests::Run).await,
                    Err(error) => Err(load_error(name, error)),
                };
                match served {
                    Ok(served) => {
                        let record = Record {
                            name: name.to_owned(),
                            url: url.to_owned(),
                            target_model: target_model.map(ToOwned::to_owned),
                            content: *served.model.content(),
                            manifest: served.manifest(),
                        };
                        self.record(End::Loaded, name, Some(&record));
                        let (entry, own) = CatalogEntry::loaded(record, served, origin, Arc::default());
                        handle = Ok(own);
                        Ok(change(End::Loaded, Some(entry)))
                    }
                    Err(error) => {
                        handle = Err(error);
                        Ok::<_, CatalogError>(change(End::LoadFailed, None))
                    }
                }
            })
            .await?;
        if let Ok(handle) = &handle {
            self.prepare_later(name, &handle.entry, path);
        }
        handle
    }

    /// Loads the artifact at `path` and replaces `old` with it, if `old` is still the entry of
    /// `name`. Returns whether it was. Each request gets either the old model or the new one.
    async fn replace(
        self: &Arc<Self>,
        name: &str,
        url: &str,
        old: &Arc<CatalogEntry<E::Model>>,
        path: &ArtifactPath,
        origin: Origin,
    ) -> Result<bool, CatalogError> {
        let outcome = self
            .models
            .entry_by_ref(name)
            .and_try_compute_with(|current| async {
                let is_current = current.is_some_and(|current| Arc::ptr_eq(current.value(), old));
                if !is_current || state::action(old.state(), ModelOperation::Refresh) != Action::Load {
                    return Ok(Op::Nop);
                }
                let model = self.engine.load(path).await.map_err(|error| load_error(name, error))?;
                let served = self.serve(name, path, model, ManifestRequests::Run).await?;
                let record = Record {
                    name: name.to_owned(),
                    url: url.to_owned(),
                    target_model: None,
                    content: *served.model.content(),
                    manifest: None,
                };
                let (entry, _) = CatalogEntry::loaded(record, served, Some(origin), Arc::clone(&old.stats));
                Ok::<_, CatalogError>(change(End::Refreshed, Some(entry)))
            })
            .await?;
        let CompResult::ReplacedWith(new) = outcome else {
            return Ok(false);
        };
        self.prepare_later(name, new.value(), path);
        match self.retire(name, old).await {
            // The old model is freed when its requests end; new requests get the new model.
            Ok(()) | Err(CatalogError::StillHeld { .. } | CatalogError::StillBusy { .. }) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Unloads `name`: refuses new requests, waits for the running ones, frees the memory (MM-4,
    /// MM-15).
    ///
    /// # Cancel safety
    /// If the future is dropped, the model accepts no more requests, and the next unload or load
    /// completes the work. The journal has the model until then.
    ///
    /// Returns the bytes that were freed: those that no other model uses.
    pub async fn unload(&self, name: &str) -> Result<u64, CatalogError> {
        let unloaded = self.unload_if(name, |_| true).await?;
        let not_loaded = || CatalogError::NotLoaded { name: name.to_owned() };
        unloaded
            .map(|entry| entry.unload_progress.freed.load(Ordering::Relaxed))
            .ok_or_else(not_loaded)
    }

    /// Unloads `name` as [`Self::unload`] does, but only if `entry` is still its entry. Returns
    /// whether it was.
    async fn unload_entry(&self, name: &str, entry: &Arc<CatalogEntry<E::Model>>) -> Result<bool, CatalogError> {
        let unloaded = self.unload_if(name, |current| Arc::ptr_eq(current, entry)).await?;
        Ok(unloaded.is_some())
    }

    async fn unload_if(
        &self,
        name: &str,
        is_meant: impl FnOnce(&Arc<CatalogEntry<E::Model>>) -> bool,
    ) -> Result<Option<Arc<CatalogEntry<E::Model>>>, CatalogError> {
        let outcome = self
            .models
            .entry_by_ref(name)
            .and_try_compute_with(|current| async {
                let current = current.map(|current| current.into_value()).filter(is_meant);
                match (
                    state::action(ModelState::of(current.as_ref()), ModelOperation::Unload),
                    current,
                ) {
                    (Action::Unload, Some(current)) => {
                        self.retire(name, &current).await?;
                        Ok::<_, CatalogError>(change(End::Unloaded, None))
                    }
                    _ => Ok(Op::Nop),
                }
            })
            .await?;
        Ok(match outcome {
            CompResult::Removed(entry) => Some(entry.into_value()),
            _ => None,
        })
    }

    /// Returns a handle to `name` for a request. If the model has to be loaded first, waits until
    /// `deadline` at most.
    pub async fn get(self: &Arc<Self>, name: &str, deadline: Instant) -> Result<Handle<E::Model>, CatalogError> {
        let name = match &self.demand {
            // A folder of objects is the same model with and without the slash at the end.
            Some(_) => name.strip_suffix('/').unwrap_or(name),
            None => name,
        };
        match self.lookup(name).await {
            Lookup::Model(handle) => {
                if let Some(demand) = &self.demand {
                    self.record_hit(demand, name, &handle);
                }
                Ok(handle)
            }
            Lookup::Nothing => match &self.demand {
                Some(demand) => self.demand(demand, name, deadline).await,
                None => Err(not_loaded(name)),
            },
            Lookup::Restored => {
                // Runs in its own task, so that the restore continues when this request times out.
                let (catalog, restored) = (Arc::clone(self), name.to_owned());
                let task = task::spawn(async move { catalog.restore(&restored).await });
                match timeout_at(deadline, task).await {
                    Ok(Ok(result)) => result?,
                    Ok(Err(_)) => return Err(load_error(name, LoadError::Pool(PoolError::Panicked))),
                    Err(_) => return Err(load_error(name, LoadError::Pool(PoolError::Deadline))),
                }
                match self.lookup(name).await {
                    Lookup::Model(handle) => Ok(handle.after_load()),
                    Lookup::Restored | Lookup::Nothing => Err(not_loaded(name)),
                }
            }
        }
    }

    async fn lookup(&self, name: &str) -> Lookup<E::Model> {
        let Some(entry) = self.models.get(name).await else {
            return Lookup::Nothing;
        };
        let found = entry.lookup();
        if self.settings.journal.is_some() && matches!(found, Lookup::Model(_)) {
            self.recent_use.note(&entry);
        }
        found
    }

    /// Describes the loaded model `name`.
    pub async fn describe(&self, name: &str) -> Result<ModelInfo, CatalogError> {
        match self.models.get(name).await {
            Some(entry) if state::action(entry.state(), ModelOperation::Describe) == Action::Answer => {
                Ok(entry.describe())
            }
            Some(_) | None => Err(not_loaded(name)),
        }
    }

    /// The facts about `name` that a failed request needs, if it is listed.
    pub async fn listed(&self, name: &str) -> Option<Listed> {
        let entry = self.models.get(name).await?;
        Some(Listed {
            target_model: entry.target_model.clone(),
            stats: Arc::clone(&entry.stats),
        })
    }

    /// Returns up to `limit` loaded models whose names sort after `after`, ordered by name, each
    /// with its `url`, and whether there are more.
    pub fn page(&self, after: Option<&str>, limit: usize) -> (Vec<(String, String)>, bool) {
        let mut page: Vec<_> = self
            .models
            .iter()
            .filter(|(name, entry)| entry.state().is_listed() && after.is_none_or(|after| name.as_str() > after))
            .collect();
        let more = page.len() > limit;
        if more {
            // Sort only the page, because there may be many models.
            page.select_nth_unstable_by(limit, |(one, _), (other, _)| one.cmp(other));
            page.truncate(limit);
        }
        page.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        let page = page
            .into_iter()
            .map(|(name, entry)| (name.to_string(), entry.url.clone()));
        (page.collect(), more)
    }

    /// Records the end of an operation in the journal. `record` is the model of a load.
    fn record(&self, end: End, name: &str, record: Option<&Record>) {
        let (_, line) = state::settle(end);
        match (&self.settings.journal, line, record) {
            (Some(journal), Some(JournalLine::Loaded), Some(record)) => journal.loaded(record.clone()),
            (Some(journal), Some(JournalLine::Unloaded), _) => journal.unloaded(name),
            _ => {}
        }
    }

    /// Disk usage of the store's cache, in standalone mode.
    pub fn archives(&self) -> Option<Usage> {
        self.demand.as_ref().map(|demand| demand.store.usage())
    }

    /// Number of listed models.
    pub fn len(&self) -> usize {
        self.models
            .iter()
            .filter(|(_, entry)| entry.state().is_listed())
            .count()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Runs [`allowed`] on a thread that may block.
    async fn allowed(&self, name: &str, url: &str) -> Result<ArtifactPath, CatalogError> {
        let (roots, wanted) = (self.settings.roots.clone(), url.to_owned());
        let checked = self.engine.with_files(move || allowed(&roots, &wanted)).await;
        checked.map_err(|error| load_error(name, LoadError::Pool(error)))?
    }
}

/// The change of a name's entry at the end of an operation, for moka. `entry` is the new one.
fn change<M>(end: End, entry: Option<Arc<CatalogEntry<M>>>) -> Op<Arc<CatalogEntry<M>>> {
    match (state::settle(end).0, entry) {
        (Change::Put, Some(entry)) => Op::Put(entry),
        (Change::Remove, _) => Op::Remove,
        (Change::Keep, _) | (Change::Put, None) => Op::Nop,
    }
}
