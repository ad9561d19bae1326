//! The model directory: name to loaded model.
//!
//! A moka cache without a bound. In platform mode nothing is ever evicted: a full container answers 507 and the
//! platform chooses what goes (MM-19), so the directory's list always equals the platform's view. What moka brings is
//! the key-level lock of its compute operations, which makes everything that happens to one name happen in order while
//! other names go on:
//!
//! | the name is | load | get, list, invoke | unload |
//! |---|---|---|---|
//! | absent | loads | 404 | 404 |
//! | loading | waits, then as for what came of it: 409, or loads itself | 404 | waits, then unloads |
//! | loaded | 409 | 200 | unloads |
//! | unloading | waits, then loads | 404 | waits, then 404 |
//!
//! What always holds: a model is in the directory only while it can answer; an unload ends after the last request to
//! the model has, and after its memory is free.

use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use moka::future::Cache;
use moka::ops::compute::{CompResult, Op};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::engine::{Engine, LoadError, Model};

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
    #[error(
        "model \"{}\" still answers requests after {waited:?}; it takes no new ones, try again",
        shortened(.name)
    )]
    StillBusy { name: String, waited: Duration },
}

/// What the directory is made with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The only places that a load's `url` may lie below (MM-8).
    pub roots: Vec<PathBuf>,
    /// How long an unload waits for the model's last requests.
    pub unload_timeout: Duration,
}

/// All loaded models.
#[derive(Debug)]
pub struct Catalog {
    models: Cache<String, Arc<Entry>>,
    engine: Arc<Engine>,
    settings: Settings,
}

/// A loaded model under its name.
#[derive(Debug)]
struct Entry {
    url: String,
    target_model: Option<String>,
    /// Taken out by the unload. Locked only to clone or take the `Arc`: an async lock would cost more than it saves.
    model: Mutex<Option<Arc<Model>>>,
    /// A token per handle; closed when the unload begins.
    users: TaskTracker,
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
    fn handle(self: &Arc<Self>) -> Option<Handle> {
        let token = self.users.token();
        // Asked for after the token is taken: an unload that closes later waits for this token.
        if self.users.is_closed() {
            return None;
        }
        let model = self.model.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        Some(Handle {
            model,
            entry: Arc::clone(self),
            _token: token,
        })
    }
}

impl Catalog {
    pub fn new(engine: Arc<Engine>, settings: Settings) -> Self {
        Self {
            models: Cache::builder().build(),
            engine,
            settings,
        }
    }

    /// Loads the artifact at `url` as `name` and returns the bytes it takes.
    ///
    /// # Cancel safety
    /// When the future is dropped the load is given up, and what it has loaded is dropped.
    pub async fn load(&self, name: &str, url: &str, target_model: Option<&str>) -> Result<u64, CatalogError> {
        if name.is_empty() || name.len() > MAX_NAME_BYTES || name == "." || name == ".." {
            return Err(CatalogError::Name);
        }
        let (roots, wanted) = (self.settings.roots.clone(), url.to_owned());
        let checked = self.engine.with_files(move || allowed(&roots, &wanted)).await;
        let path = checked.map_err(|error| CatalogError::Load {
            name: name.to_owned(),
            source: Arc::new(LoadError::Pool(error)),
        })??;
        self.load_from(name, url, target_model, &path).await
    }

    /// Loads the artifact at `path`, which whoever started the process chose: the roots do not bound it.
    pub async fn load_trusted(&self, name: &str, path: &Path) -> Result<u64, CatalogError> {
        self.load_from(name, &path.to_string_lossy(), None, path).await
    }

    async fn load_from(
        &self,
        name: &str,
        url: &str,
        target_model: Option<&str>,
        path: &Path,
    ) -> Result<u64, CatalogError> {
        let failure = Mutex::new(None);
        let outcome = self
            .models
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
                    Ok(model) => Ok(Op::Put(Arc::new(Entry {
                        url: url.to_owned(),
                        target_model: target_model.map(ToOwned::to_owned),
                        model: Mutex::new(Some(Arc::new(model))),
                        users: TaskTracker::new(),
                    }))),
                    Err(error) => {
                        *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                        // Nothing, or what is left of an entry that was retired.
                        Ok(Op::Remove)
                    }
                }
            })
            .await?;
        if let Some(source) = failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(CatalogError::Load {
                name: name.to_owned(),
                source: Arc::new(source),
            });
        }
        match outcome {
            CompResult::Inserted(entry) | CompResult::ReplacedWith(entry) => {
                Ok(entry.value().handle().map_or(0, |handle| handle.as_ref().memory()))
            }
            CompResult::Unchanged(_) | CompResult::StillNone(_) | CompResult::Removed(_) => {
                Err(CatalogError::AlreadyLoaded { name: name.to_owned() })
            }
        }
    }

    /// Unloads `name`: takes no new requests, waits for the running ones, gives the memory back (MM-4, MM-15).
    ///
    /// # Cancel safety
    /// When the future is dropped the model takes no requests any more, and a further unload or load finishes.
    pub async fn unload(&self, name: &str) -> Result<(), CatalogError> {
        let outcome = self
            .models
            .entry_by_ref(name)
            .and_try_compute_with(|current| async {
                let Some(current) = current else {
                    return Ok(Op::Nop);
                };
                self.retire(name, current.value()).await?;
                Ok::<_, CatalogError>(Op::Remove)
            })
            .await?;
        match outcome {
            CompResult::Removed(_) => Ok(()),
            CompResult::StillNone(_)
            | CompResult::Unchanged(_)
            | CompResult::Inserted(_)
            | CompResult::ReplacedWith(_) => Err(CatalogError::NotLoaded { name: name.to_owned() }),
        }
    }

    /// Lends `name` for a request.
    pub async fn get(&self, name: &str) -> Result<Handle, CatalogError> {
        self.models
            .get(name)
            .await
            .and_then(|entry| entry.handle())
            .ok_or_else(|| CatalogError::NotLoaded { name: name.to_owned() })
    }

    /// The `url` that `name` was loaded with.
    pub async fn url(&self, name: &str) -> Result<String, CatalogError> {
        let handle = self.get(name).await?;
        Ok(handle.entry.url.clone())
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
        let model = entry.model.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(model) = model.and_then(Arc::into_inner) {
            self.engine.unload(model).await;
        }
        Ok(())
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
