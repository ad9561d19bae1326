//! The model directory: name to loaded model.
//!
//! A moka cache without a bound. In platform mode nothing is ever evicted: a full container answers
//! 507 and the platform chooses what goes (MM-19), so the directory's list always equals the
//! platform's view. In own mode models come and go by themselves (`demand.rs`). What moka brings is
//! the key-level lock of its compute operations, which makes everything that happens to one name
//! happen in order while other names go on:
//!
//! | the name is | load | get, list, invoke | unload |
//! |---|---|---|---|
//! | absent | loads | 404 | 404 |
//! | loading | waits, then as for what came of it: 409, or loads itself | 404 | waits, then unloads |
//! | loaded | 409 | 200 | unloads |
//! | unloading | waits, then loads | 404 | waits, then 404 |
//! | held by stuck runs after an unload | loads | 404 | 503 while its memory is held, then 200 |
//! | restored | 409 | 200; an invocation loads it first | takes it off the list |
//!
//! "Restored" is what a restarted process lists at once, because the platform believes it loaded:
//! it is loaded again in the background, or by the first request to it, whichever comes first. One
//! that cannot be loaded again leaves the list; one that cannot be loaded just now (memory), or is
//! refused for what it did to the last process, stays.
//!
//! What always holds: a model is listed only while it can answer, or could before the process was
//! restarted; an unload ends after the last request to the model has, and after its memory is free,
//! or says that runs which cannot be ended hold it (`retire.rs`); the journal hears of a load or
//! unload before whoever asked for it.

mod demand;
mod entry;
mod error;
mod presence;
mod rehearse;
mod restore;
mod retire;
mod roots;
mod served;
mod tokenizers;
mod usage;

use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use moka::future::Cache;
use moka::ops::compute::{CompResult, Op};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio::task;
use tokio::time::{Instant, timeout_at};

use crate::engine::{ArtifactPath, ContentHash, Engine, LoadError, PoolError};
use crate::handler::MediaLimits;
use crate::shared::SharedMap;
use crate::store::Usage;
use crate::text::Pool;

use demand::Origin;
use entry::{Entry, Lent, Slot};
use error::{load_error, not_loaded, shortened};
use roots::allowed;
use served::Requests;
use tokenizers::Counted;
use usage::Lately;

pub use demand::{Demand, Settings as DemandSettings};
pub use entry::{Description, Handle};
pub use error::CatalogError;
pub use presence::Presence;

/// Longest model name, in bytes. The platform's are hashes; the contract asks for 1 KiB at least
/// (MM-6).
pub const MAX_NAME_BYTES: usize = 4096;

/// What the directory is made with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The only places that a load's `url` may lie below (MM-8).
    pub roots: Vec<PathBuf>,
    /// How long an unload waits for the model's last requests.
    pub unload_timeout: Duration,
    /// How long the requests of a model's manifest may take at its load, all of them together.
    pub rehearsal_timeout: Duration,
    /// Bounds on the pictures, texts and sounds of a request.
    pub media: MediaLimits,
    /// How many models are loaded again at once.
    pub restores: usize,
    /// Is told what is on the list, so that it can be restored.
    pub journal: Option<Arc<dyn Journal>>,
}

/// A model on the list, as it was loaded: all that a restarted process must know of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub name: String,
    pub url: String,
    pub target_model: Option<String>,
    pub content: ContentHash,
    /// The manifest as JSON, without its requests, where there is something in it. Apart from the
    /// rest of the record in messages, because it may be long.
    #[serde(skip)]
    pub manifest: Option<String>,
}

/// Outlives this process, and is told of each load and unload before whoever asked for it.
pub trait Journal: Debug + Send + Sync {
    fn loaded(&self, record: Record);
    fn unloaded(&self, name: &str);
    /// Models of these contents (`ContentHash::short`) have been asked lately.
    fn used(&self, contents: &[u64]);
}

/// All loaded models.
#[derive(Debug)]
pub struct Catalog {
    models: Cache<String, Arc<Entry>>,
    engine: Arc<Engine>,
    settings: Settings,
    /// In own mode.
    demand: Option<Arc<Demand>>,
    /// A permit for each load after a restart.
    restores: Semaphore,
    lately: Lately,
    /// By the hash of their files.
    tokenizers: SharedMap<blake3::Hash, Counted>,
    /// Their files, which several of them may share.
    tokenizer_files: Arc<Pool>,
}

impl Catalog {
    pub fn new(engine: Arc<Engine>, settings: Settings, demand: Option<Demand>) -> Self {
        Self {
            models: Cache::builder().build(),
            engine,
            demand: demand.map(Arc::new),
            restores: Semaphore::new(settings.restores),
            lately: Lately::default(),
            tokenizers: SharedMap::default(),
            tokenizer_files: Arc::default(),
            settings,
        }
    }

    /// Loads the artifact at `url` as `name` and returns the bytes it takes.
    ///
    /// # Cancel safety
    /// When the future is dropped the load is given up, and what it has loaded is dropped.
    pub async fn load(
        self: &Arc<Self>,
        name: &str,
        url: &str,
        target_model: Option<&str>,
    ) -> Result<u64, CatalogError> {
        if let Some(demand) = &self.demand {
            return self.load_ahead(demand, name, url).await;
        }
        if name.is_empty() || name.len() > MAX_NAME_BYTES || name == "." || name == ".." {
            return Err(CatalogError::Name);
        }
        let path = self.allowed(name, url).await?;
        let loaded = self.load_from(name, url, target_model, &path, None).await?;
        Ok(loaded.as_ref().memory())
    }

    /// Loads the artifact at `path`, which whoever started the process chose: the roots do not
    /// bound it.
    pub async fn load_trusted(&self, name: &str, path: &Path) -> Result<u64, CatalogError> {
        let url = path.to_string_lossy();
        let loaded = self
            .load_from(name, &url, None, &ArtifactPath::trusted(path), None)
            .await?;
        Ok(loaded.as_ref().memory())
    }

    /// Loads the artifact at `path` as `name`, and lends it before anybody can unload it.
    async fn load_from(
        &self,
        name: &str,
        url: &str,
        target_model: Option<&str>,
        path: &ArtifactPath,
        origin: Option<Origin>,
    ) -> Result<Handle, CatalogError> {
        let mut lent = Err(CatalogError::AlreadyLoaded { name: name.to_owned() });
        self.models
            .entry_by_ref(name)
            .and_try_compute_with(|current| async {
                if let Some(current) = current {
                    let current = current.into_value();
                    if !current.users.is_closed() {
                        return Ok(Op::Nop);
                    }
                    // An unload left it behind: finish that first, unless only runs that cannot be
                    // ended hold it.
                    match self.retire(name, &current).await {
                        Ok(()) | Err(CatalogError::StillHeld { .. }) => {}
                        Err(error) => return Err(error),
                    }
                }
                let served = match self.engine.load(path).await {
                    Ok(model) => self.serve(name, path, model, Requests::Run).await,
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
                        if let Some(journal) = &self.settings.journal {
                            journal.loaded(record.clone());
                        }
                        let entry = Entry::loaded(record, served, origin);
                        lent = Ok(entry.1);
                        Ok(Op::Put(entry.0))
                    }
                    Err(error) => {
                        lent = Err(error);
                        // Nothing, or what is left of an entry that was retired.
                        Ok::<_, CatalogError>(Op::Remove)
                    }
                }
            })
            .await?;
        lent
    }

    /// Loads the artifact at `path` and puts it in the place of `old`, when that is still what
    /// `name` stands for; requests find the one or the other.
    async fn replace(
        &self,
        name: &str,
        url: &str,
        old: &Arc<Entry>,
        path: &ArtifactPath,
        origin: Origin,
    ) -> Result<(), CatalogError> {
        let outcome = self
            .models
            .entry_by_ref(name)
            .and_try_compute_with(|current| async {
                let is_current = current.is_some_and(|current| Arc::ptr_eq(current.value(), old));
                if !is_current || old.users.is_closed() {
                    return Ok(Op::Nop);
                }
                let model = self.engine.load(path).await.map_err(|error| load_error(name, error))?;
                let served = self.serve(name, path, model, Requests::Run).await?;
                let record = Record {
                    name: name.to_owned(),
                    url: url.to_owned(),
                    target_model: None,
                    content: *served.model.content(),
                    manifest: None,
                };
                Ok::<_, CatalogError>(Op::Put(Entry::loaded(record, served, Some(origin)).0))
            })
            .await?;
        match outcome {
            CompResult::ReplacedWith(_) => match self.retire(name, old).await {
                // Freed when they end; requests have the newer one.
                Err(CatalogError::StillHeld { .. } | CatalogError::StillBusy { .. }) => Ok(()),
                retired => retired,
            },
            _ => Ok(()),
        }
    }

    /// Unloads `name`: takes no new requests, waits for the running ones, gives the memory back
    /// (MM-4, MM-15).
    ///
    /// # Cancel safety
    /// When the future is dropped the model takes no requests any more, and a further unload or
    /// load finishes.
    pub async fn unload(&self, name: &str) -> Result<(), CatalogError> {
        if self.unload_if(name, |_| true).await? {
            Ok(())
        } else {
            Err(CatalogError::NotLoaded { name: name.to_owned() })
        }
    }

    /// As [`Self::unload`], when `entry` is still what `name` stands for; says whether it was.
    async fn unload_entry(&self, name: &str, entry: &Arc<Entry>) -> Result<bool, CatalogError> {
        self.unload_if(name, |current| Arc::ptr_eq(current, entry)).await
    }

    async fn unload_if(&self, name: &str, is_meant: impl FnOnce(&Arc<Entry>) -> bool) -> Result<bool, CatalogError> {
        let outcome = self
            .models
            .entry_by_ref(name)
            .and_try_compute_with(|current| async {
                match current {
                    Some(current) if is_meant(current.value()) => {
                        self.retire(name, current.value()).await?;
                        Ok::<_, CatalogError>(Op::Remove)
                    }
                    Some(_) | None => Ok(Op::Nop),
                }
            })
            .await?;
        Ok(matches!(outcome, CompResult::Removed(_)))
    }

    /// Lends `name` for a request, which waits until `deadline` at most when the model has to be
    /// loaded again.
    pub async fn get(self: &Arc<Self>, name: &str, deadline: Instant) -> Result<Handle, CatalogError> {
        let name = match &self.demand {
            // A folder of objects is one model, however its name is written.
            Some(_) => name.strip_suffix('/').unwrap_or(name),
            None => name,
        };
        match self.lend(name).await {
            Lent::Model(handle) => {
                if let Some(demand) = &self.demand {
                    self.look_after(demand, name, &handle);
                }
                Ok(handle)
            }
            Lent::Nothing => match &self.demand {
                Some(demand) => self.demand(demand, name, deadline).await,
                None => Err(not_loaded(name)),
            },
            Lent::Restored => {
                // A task of its own: when one request does not wait for the end, the next one finds
                // it further on.
                let (catalog, restored) = (Arc::clone(self), name.to_owned());
                let task = task::spawn(async move { catalog.restore(&restored).await });
                match timeout_at(deadline, task).await {
                    Ok(Ok(result)) => result?,
                    Ok(Err(_)) => return Err(load_error(name, LoadError::Pool(PoolError::Panicked))),
                    Err(_) => return Err(load_error(name, LoadError::Pool(PoolError::Deadline))),
                }
                match self.lend(name).await {
                    Lent::Model(handle) => Ok(handle),
                    Lent::Restored | Lent::Nothing => Err(not_loaded(name)),
                }
            }
        }
    }

    async fn lend(&self, name: &str) -> Lent {
        let Some(entry) = self.models.get(name).await else {
            return Lent::Nothing;
        };
        let lent = entry.lend();
        if self.settings.journal.is_some() && matches!(lent, Lent::Model(_)) {
            self.lately.note(&entry);
        }
        lent
    }

    /// What is known of the loaded model `name`.
    pub async fn describe(&self, name: &str) -> Result<Description, CatalogError> {
        match self.models.get(name).await {
            Some(entry) if !entry.users.is_closed() => Ok(entry.describe()),
            _ => Err(not_loaded(name)),
        }
    }

    /// Up to `limit` loaded models whose names come after `after`, sorted by name, each with its
    /// `url`, and whether there are more.
    pub fn page(&self, after: Option<&str>, limit: usize) -> (Vec<(String, String)>, bool) {
        let mut page: Vec<(Arc<String>, Arc<Entry>)> = self
            .models
            .iter()
            .filter(|(name, entry)| !entry.users.is_closed() && after.is_none_or(|after| name.as_str() > after))
            .collect();
        let more = page.len() > limit;
        if more {
            // Only the page is sorted, however many models there are.
            page.select_nth_unstable_by(limit, |(one, _), (other, _)| one.cmp(other));
            page.truncate(limit);
        }
        page.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        let page = page
            .into_iter()
            .map(|(name, entry)| (name.to_string(), entry.url.clone()));
        (page.collect(), more)
    }

    /// In own mode, what is on disk.
    pub fn archives(&self) -> Option<Usage> {
        self.demand.as_ref().map(|demand| demand.store.usage())
    }

    /// How many models are loaded.
    pub fn len(&self) -> usize {
        self.models.iter().filter(|(_, entry)| !entry.users.is_closed()).count()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// [`allowed`], on a thread that may wait.
    async fn allowed(&self, name: &str, url: &str) -> Result<ArtifactPath, CatalogError> {
        let (roots, wanted) = (self.settings.roots.clone(), url.to_owned());
        let checked = self.engine.with_files(move || allowed(&roots, &wanted)).await;
        checked.map_err(|error| load_error(name, LoadError::Pool(error)))?
    }
}
