//! The model directory: name to loaded model.
//!
//! A moka cache without a bound. In platform mode nothing is ever evicted: a full container answers 507 and the
//! platform chooses what goes (MM-19), so the directory's list always equals the platform's view. In own mode models come
//! and go by themselves (`demand.rs`). What moka brings is the key-level lock of its compute operations, which makes everything that happens to one name happen in order while
//! other names go on:
//!
//! | the name is | load | get, list, invoke | unload |
//! |---|---|---|---|
//! | absent | loads | 404 | 404 |
//! | loading | waits, then as for what came of it: 409, or loads itself | 404 | waits, then unloads |
//! | loaded | 409 | 200 | unloads |
//! | unloading | waits, then loads | 404 | waits, then 404 |
//! | restored | 409 | 200; an invocation loads it first | takes it off the list |
//!
//! "Restored" is what a restarted process lists at once, because the platform believes it loaded: it is loaded again in
//! the background, or by the first request to it, whichever comes first. One that cannot be loaded again leaves the list;
//! one that cannot be loaded just now (memory), or is refused for what it did to the last process, stays.
//!
//! What always holds: a model is listed only while it can answer, or could before the process was restarted; an unload
//! ends after the last request to the model has, and after its memory is free; the journal hears of a load or unload
//! before whoever asked for it.

mod demand;
mod presence;
mod restore;

use std::fmt::Debug;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use moka::future::Cache;
use moka::ops::compute::{CompResult, Op};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio::task;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::engine::{ContentHash, Engine, LoadError, Model, PoolError, PrepareError, Quarantined, SessionError};
use crate::store::{FetchError, NameError, Usage};

use demand::Origin;
pub use demand::{Demand, Settings as DemandSettings};
pub use presence::Presence;

/// Longest model name, in bytes. The platform's are hashes; the contract asks for 1 KiB at least (MM-6).
pub const MAX_NAME_BYTES: usize = 4096;

/// Why the directory refuses.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    #[error("model \"{}\" is loaded already", shortened(.name))]
    AlreadyLoaded { name: String },
    #[error("model \"{}\" is not loaded", shortened(.name))]
    NotLoaded { name: String },
    #[error("a model's name must have 1 to {MAX_NAME_BYTES} bytes and not be \".\" or \"..\"")]
    Name,
    #[error("url \"{}\" is not below {roots}; see --models-root", shortened(.url))]
    OutsideRoots { url: String, roots: String },
    #[error("url \"{}\" does not exist", shortened(.url))]
    MissingUrl { url: String },
    #[error("model \"{}\" cannot be loaded: {source}", shortened(.name))]
    Load {
        name: String,
        #[source]
        source: Arc<LoadError>,
    },
    /// It is on the list, and may not be run.
    #[error("model \"{}\" is refused: {source}", shortened(.name))]
    Refused {
        name: String,
        #[source]
        source: Quarantined,
    },
    #[error(
        "model \"{}\" still answers requests after {waited:?}; it takes no new ones, try again",
        shortened(.name)
    )]
    StillBusy { name: String, waited: Duration },
    #[error("{0}")]
    StoreName(#[from] NameError),
    #[error("model \"{}\" is at \"{expected}\" in the store, not at \"{}\"", shortened(.name), shortened(.url))]
    OtherUrl {
        name: String,
        url: String,
        expected: String,
    },
    #[error("model \"{}\" cannot be brought from the store: {source}", shortened(.name))]
    Fetch {
        name: String,
        #[source]
        source: FetchError,
    },
    /// What others waited for, too.
    #[error("{0}")]
    Flight(Arc<CatalogError>),
    /// As [`Flight`](Self::Flight), for a request: what is the artifact's fault is not the caller's.
    #[error("{source}{}", .again.map(|again| format!("; it is tried again in {again:.1?}")).unwrap_or_default())]
    OnDemand {
        source: Arc<CatalogError>,
        /// When a further request would try again, where that is not now.
        again: Option<Duration>,
    },
}

impl CatalogError {
    /// Whether the store has no such model.
    fn is_not_found(&self) -> bool {
        matches!(self, Self::Fetch { source, .. } if source.is_not_found())
    }

    /// Whether it follows from what the store has, and will not change until that does.
    fn is_about_version(&self) -> bool {
        match self {
            Self::Fetch { source, .. } => matches!(source, FetchError::Archive { .. }),
            _ => self.will_last(),
        }
    }

    /// Whether trying again at once would most likely end in the same.
    fn will_last(&self) -> bool {
        match self {
            Self::Fetch { source, .. } => !matches!(source, FetchError::Stopping),
            Self::Load { source, .. } => !matches!(
                &**source,
                LoadError::NoRoom(_)
                    | LoadError::Pool(_)
                    | LoadError::Session(SessionError::OutOfMemory | SessionError::NoDescriptors)
                    | LoadError::Prepare(PrepareError::Killed | PrepareError::Stopping | PrepareError::NoChild(_))
            ),
            _ => false,
        }
    }
}

/// What the directory is made with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The only places that a load's `url` may lie below (MM-8).
    pub roots: Vec<PathBuf>,
    /// How long an unload waits for the model's last requests.
    pub unload_timeout: Duration,
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
}

/// Outlives this process, and is told of each load and unload before whoever asked for it.
pub trait Journal: Debug + Send + Sync {
    fn loaded(&self, record: Record);
    fn unloaded(&self, name: &str);
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
}

/// A model under its name.
#[derive(Debug)]
struct Entry {
    url: String,
    target_model: Option<String>,
    content: ContentHash,
    /// Locked only to look at it, to clone or to take the `Arc`: an async lock would cost more than it saves. What it is
    /// changes only under the name's lock of the directory.
    model: Mutex<Slot>,
    /// A token per handle; closed when the unload begins.
    users: TaskTracker,
    /// Of a model that came out of the store.
    origin: Option<Origin>,
}

#[derive(Debug)]
enum Slot {
    Loaded(Arc<Model>),
    /// Was loaded before the process was restarted, and is to be loaded again.
    Restored,
    /// Taken out by the unload.
    Empty,
}

/// What a request finds.
enum Lent {
    Model(Handle),
    /// To be loaded first.
    Restored,
    Nothing,
}

/// A loaded model, lent: it stays loaded until the last handle is dropped.
#[derive(Debug, Clone)]
pub struct Handle {
    // Declared in the order in which they must be dropped: an unload takes the model when it has seen the last token.
    model: Arc<Model>,
    entry: Arc<Entry>,
    _token: TaskTrackerToken,
}

impl AsRef<Model> for Handle {
    fn as_ref(&self) -> &Model {
        &self.model
    }
}

impl Handle {
    /// The Target-Model header of the load.
    pub fn target_model(&self) -> Option<&str> {
        self.entry.target_model.as_deref()
    }
}

impl Entry {
    fn new(record: Record, slot: Slot, origin: Option<Origin>) -> Arc<Self> {
        Arc::new(Self {
            url: record.url,
            target_model: record.target_model,
            content: record.content,
            model: Mutex::new(slot),
            users: TaskTracker::new(),
            origin,
        })
    }

    /// Bytes that an unload frees, while the model is loaded.
    fn charge(&self) -> u64 {
        match &*self.slot() {
            Slot::Loaded(model) => model.charge(),
            Slot::Restored | Slot::Empty => 0,
        }
    }

    /// The entry of `model`, and a handle from before anybody can close it.
    fn loaded(record: Record, model: Model, origin: Option<Origin>) -> (Arc<Self>, Handle) {
        let model = Arc::new(model);
        let entry = Self::new(record, Slot::Loaded(Arc::clone(&model)), origin);
        let handle = Handle {
            model,
            _token: entry.users.token(),
            entry: Arc::clone(&entry),
        };
        (entry, handle)
    }

    fn lend(self: &Arc<Self>) -> Lent {
        let token = self.users.token();
        // Asked for after the token is taken: an unload that closes later waits for this token.
        if self.users.is_closed() {
            return Lent::Nothing;
        }
        match &*self.slot() {
            Slot::Loaded(model) => Lent::Model(Handle {
                model: Arc::clone(model),
                entry: Arc::clone(self),
                _token: token,
            }),
            Slot::Restored => Lent::Restored,
            Slot::Empty => Lent::Nothing,
        }
    }

    fn is_to_be_loaded(&self) -> bool {
        !self.users.is_closed() && matches!(*self.slot(), Slot::Restored)
    }

    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.model.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Catalog {
    pub fn new(engine: Arc<Engine>, settings: Settings, demand: Option<Demand>) -> Self {
        Self {
            models: Cache::builder().build(),
            engine,
            demand: demand.map(Arc::new),
            restores: Semaphore::new(settings.restores),
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

    /// Loads the artifact at `path`, which whoever started the process chose: the roots do not bound it.
    pub async fn load_trusted(&self, name: &str, path: &Path) -> Result<u64, CatalogError> {
        let url = path.to_string_lossy();
        let loaded = self.load_from(name, &url, None, path, None).await?;
        Ok(loaded.as_ref().memory())
    }

    /// Loads the artifact at `path` as `name`, and lends it before anybody can unload it.
    async fn load_from(
        &self,
        name: &str,
        url: &str,
        target_model: Option<&str>,
        path: &Path,
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
                    // An unload that ran out of time left it: finish that first.
                    self.retire(name, &current).await?;
                }
                match self.engine.load(path).await {
                    Ok(model) => {
                        let record = Record {
                            name: name.to_owned(),
                            url: url.to_owned(),
                            target_model: target_model.map(ToOwned::to_owned),
                            content: *model.content(),
                        };
                        if let Some(journal) = &self.settings.journal {
                            journal.loaded(record.clone());
                        }
                        let entry = Entry::loaded(record, model, origin);
                        lent = Ok(entry.1);
                        Ok(Op::Put(entry.0))
                    }
                    Err(error) => {
                        lent = Err(load_error(name, error));
                        // Nothing, or what is left of an entry that was retired.
                        Ok::<_, CatalogError>(Op::Remove)
                    }
                }
            })
            .await?;
        lent
    }

    /// Loads the artifact at `path` and puts it in the place of `old`, when that is still what `name` stands for; requests
    /// find the one or the other.
    async fn replace(
        &self,
        name: &str,
        url: &str,
        old: &Arc<Entry>,
        path: &Path,
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
                let record = Record {
                    name: name.to_owned(),
                    url: url.to_owned(),
                    target_model: None,
                    content: *model.content(),
                };
                Ok::<_, CatalogError>(Op::Put(Entry::loaded(record, model, Some(origin)).0))
            })
            .await?;
        match outcome {
            CompResult::ReplacedWith(_) => self.retire(name, old).await,
            _ => Ok(()),
        }
    }

    /// Unloads `name`: takes no new requests, waits for the running ones, gives the memory back (MM-4, MM-15).
    ///
    /// # Cancel safety
    /// When the future is dropped the model takes no requests any more, and a further unload or load finishes.
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

    /// Lends `name` for a request, which waits until `deadline` at most when the model has to be loaded again.
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
                // A task of its own: when one request does not wait for the end, the next one finds it further on.
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
        self.models.get(name).await.map_or(Lent::Nothing, |entry| entry.lend())
    }

    /// The `url` that `name` was loaded with.
    pub async fn url(&self, name: &str) -> Result<String, CatalogError> {
        match self.models.get(name).await {
            Some(entry) if !entry.users.is_closed() => Ok(entry.url.clone()),
            _ => Err(not_loaded(name)),
        }
    }

    /// Up to `limit` loaded models whose names come after `after`, sorted by name, each with its `url`, and whether
    /// there are more.
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

    /// Closes the entry to requests, waits for the last handle, and frees the model.
    async fn retire(&self, name: &str, entry: &Entry) -> Result<(), CatalogError> {
        entry.users.close();
        let waited = self.settings.unload_timeout;
        timeout(waited, entry.users.wait())
            .await
            .map_err(|_| CatalogError::StillBusy {
                name: name.to_owned(),
                waited,
            })?;
        let slot = std::mem::replace(&mut *entry.slot(), Slot::Empty);
        if let Slot::Loaded(model) = slot
            && let Some(model) = Arc::into_inner(model)
        {
            self.engine.unload(model).await;
        }
        if let Some(journal) = &self.settings.journal {
            journal.unloaded(name);
        }
        Ok(())
    }

    /// [`allowed`], on a thread that may wait.
    async fn allowed(&self, name: &str, url: &str) -> Result<PathBuf, CatalogError> {
        let (roots, wanted) = (self.settings.roots.clone(), url.to_owned());
        let checked = self.engine.with_files(move || allowed(&roots, &wanted)).await;
        checked.map_err(|error| load_error(name, LoadError::Pool(error)))?
    }
}

fn not_loaded(name: &str) -> CatalogError {
    CatalogError::NotLoaded { name: name.to_owned() }
}

fn load_error(name: &str, source: LoadError) -> CatalogError {
    CatalogError::Load {
        name: name.to_owned(),
        source: Arc::new(source),
    }
}

/// The real path of `url`, when it lies below one of the roots (MM-8). Links are followed first.
fn allowed(roots: &[PathBuf], url: &str) -> Result<PathBuf, CatalogError> {
    let outside = || CatalogError::OutsideRoots {
        url: url.to_owned(),
        roots: roots
            .iter()
            .map(|root| root.display().to_string())
            .collect::<Vec<_>>()
            .join(", "),
    };
    let path = Path::new(url);
    if !path.is_absolute() {
        return Err(outside());
    }
    let Ok(real) = path.canonicalize() else {
        // Whether a path outside of the roots exists is nobody's business.
        let below_a_root = roots.iter().any(|root| path.starts_with(root))
            && !path.components().any(|component| component == Component::ParentDir);
        return Err(if below_a_root {
            CatalogError::MissingUrl { url: url.to_owned() }
        } else {
            outside()
        });
    };
    // A root may be made after the start, so it is resolved now.
    let mut roots = roots.iter().filter_map(|root| root.canonicalize().ok());
    if roots.any(|root| real.starts_with(root)) {
        Ok(real)
    } else {
        Err(outside())
    }
}

/// The beginning of a name, for a message.
fn shortened(name: &str) -> String {
    const MOST: usize = 128;
    if name.len() <= MOST {
        return name.to_owned();
    }
    format!("{}...", &name[..name.floor_char_boundary(MOST)])
}
