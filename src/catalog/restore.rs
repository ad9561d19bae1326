//! After a restart: the models of the process before are on the list at once, and loaded again one
//! by one, in the order given. A request to one of them has it loaded out of turn.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use moka::ops::compute::Op;
use tokio::task::JoinSet;

use super::roots::unresolved;
use super::served::{Requests, Served};
use super::{Catalog, CatalogError, Entry, Record, Slot, load_error, shortened};
use crate::engine::{ArtifactError, ArtifactPath, ContentHash, LoadError, Model, SessionError};
use crate::manifest::{FILE, Manifest};

/// Why a model could not be loaded again.
#[derive(Debug, thiserror::Error)]
enum Lost {
    /// It may be possible later.
    #[error(transparent)]
    ForNow(CatalogError),
    #[error("{0}")]
    ForGood(String),
}

impl Catalog {
    /// Puts `models` on the list, and returns their names. They are loaded when somebody asks for
    /// them, or by [`Catalog::restore_all`].
    pub async fn list_again(&self, models: Vec<Record>) -> Vec<String> {
        let mut names = Vec::with_capacity(models.len());
        for record in models {
            names.push(record.name.clone());
            self.models
                .insert(record.name.clone(), Entry::new(record, Slot::Restored, None))
                .await;
        }
        names
    }

    /// Loads those of `names` that are on the list only, in this order, `at_once` at a time. Ends
    /// when each of them has been tried.
    pub async fn restore_all(self: Arc<Self>, names: Vec<String>, at_once: usize) {
        if names.is_empty() {
            return;
        }
        let (started, models) = (Instant::now(), names.len());
        let left = Arc::new(Mutex::new(names.into_iter()));
        let next =
            |left: &Mutex<std::vec::IntoIter<String>>| left.lock().unwrap_or_else(PoisonError::into_inner).next();
        let mut tasks = JoinSet::new();
        for _ in 0..at_once {
            let (catalog, left) = (Arc::clone(&self), Arc::clone(&left));
            tasks.spawn(async move {
                let mut not_yet = 0;
                while let Some(name) = next(&left) {
                    if let Err(error) = catalog.restore(&name).await {
                        not_yet += 1;
                        tracing::warn!(model = shortened(&name), "not loaded again yet: {error}");
                    }
                }
                not_yet
            });
        }
        let not_yet: usize = tasks.join_all().await.into_iter().sum();
        let restore_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::info!(models, not_yet, restore_ms, "models restored");
    }

    /// Loads `name` again, when it is on the list only. Once, however many ask for it. When that is
    /// not possible for good, the model leaves the list, which is no error: a further request does
    /// not find it (MM-20).
    pub(super) async fn restore(&self, name: &str) -> Result<(), CatalogError> {
        self.models
            .entry_by_ref(name)
            .and_try_compute_with(|current| async {
                let Some(entry) = current.map(|current| current.into_value()) else {
                    return Ok(Op::Nop);
                };
                if !entry.is_to_be_loaded() {
                    return Ok(Op::Nop);
                }
                match self.load_again(name, &entry).await {
                    Ok(served) => {
                        tracing::debug!(model = shortened(name), "model restored");
                        *entry.slot() = Slot::Loaded(Arc::new(served.called(shortened(name))));
                        Ok(Op::Nop)
                    }
                    Err(Lost::ForNow(error)) => Err(error),
                    Err(Lost::ForGood(error)) => {
                        let (model, url) = (shortened(name), shortened(&entry.url));
                        tracing::warn!(model, url, "cannot be loaded again and leaves the list: {error}");
                        if let Some(journal) = &self.settings.journal {
                            journal.unloaded(name);
                        }
                        Ok(Op::Remove)
                    }
                }
            })
            .await
            .map(drop)
    }

    async fn load_again(&self, name: &str, entry: &Entry) -> Result<Served, Lost> {
        // Known without looking at the files again, however often somebody asks.
        self.check(name, entry)?;
        let path = match self.allowed(name, &entry.url).await {
            Ok(path) => path,
            Err(CatalogError::MissingUrl { url }) => unresolved(&self.settings.roots, &url),
            Err(error @ CatalogError::Load { .. }) => return Err(Lost::ForNow(error)),
            Err(error) => return Err(Lost::ForGood(error.to_string())),
        };
        let manifest = match entry
            .manifest
            .as_deref()
            .map(serde_json::from_str::<Manifest>)
            .transpose()
        {
            Ok(manifest) => manifest.unwrap_or_default().shared(),
            Err(error) => return Err(Lost::ForGood(format!("{FILE}: {error}"))),
        };
        let model = match self.reload(&path, entry.content, &manifest).await {
            Ok(model) => model,
            Err(error) => {
                // It may have become known by this very try.
                self.check(name, entry)?;
                return Err(lost(name, error));
            }
        };
        if *model.content() != entry.content {
            self.engine.unload(model).await;
            return Err(Lost::ForGood("its files hold another model now".to_owned()));
        }
        let served = self.serve(name, &path, model, Requests::Skip).await;
        served.map_err(|error| Lost::ForGood(error.to_string()))
    }

    async fn reload(
        &self,
        path: &ArtifactPath,
        content: ContentHash,
        manifest: &Arc<Manifest>,
    ) -> Result<Model, LoadError> {
        let permit = self.restores.acquire().await;
        let restored = self.engine.restore(path, content, manifest).await;
        drop(permit);
        match restored {
            // A load needs more memory while it goes on than afterwards: where several have no
            // room, one may.
            Err(LoadError::NoRoom(_) | LoadError::Session(SessionError::OutOfMemory)) => {
                let all = u32::try_from(self.settings.restores).unwrap_or(u32::MAX);
                let _alone = self.restores.acquire_many(all).await;
                self.engine.restore(path, content, manifest).await
            }
            restored => restored,
        }
    }

    fn check(&self, name: &str, entry: &Entry) -> Result<(), Lost> {
        self.engine.check(&entry.content).map_err(|source| {
            Lost::ForNow(CatalogError::Refused {
                name: name.to_owned(),
                source,
            })
        })
    }
}

/// What is the machine's fault may pass; what is the artifact's does not.
fn lost(name: &str, error: LoadError) -> Lost {
    match error {
        LoadError::Artifact(
            ArtifactError::NoDescriptors { .. } | ArtifactError::NoCopy { .. } | ArtifactError::Changed { .. },
        )
        | LoadError::Session(SessionError::OutOfMemory)
        | LoadError::NoRoom(_)
        | LoadError::Prepare(_)
        | LoadError::Quarantined(_)
        | LoadError::Pool(_) => Lost::ForNow(load_error(name, error)),
        LoadError::Artifact(_) | LoadError::Session(_) => Lost::ForGood(error.to_string()),
    }
}
