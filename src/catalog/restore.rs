//! Restoring after a restart: lists the models of the previous process at once, and loads them
//! again in the given order. A request to one of them loads it out of order.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use moka::ops::compute::Op;
use tokio::task::JoinSet;
use tracing::Instrument;

use super::model_engine::{LoadedModel, ModelEngine};
use super::roots::unresolved;
use super::served::{ManifestRequests, ServedModel};
use super::state::{self, Action, End, ModelOperation};
use super::{
    Catalog, CatalogEntry, CatalogError, ModelSlot, Operation, Record, change, load_error, model_span, shortened,
};
use crate::engine::{ArtifactPath, ContentHash, LoadError, SessionError};
use crate::manifest::{FILE, Manifest};

/// Error of a restore.
#[derive(Debug, thiserror::Error)]
enum RestoreError {
    /// A later attempt may succeed.
    #[error(transparent)]
    ForNow(CatalogError),
    #[error("{0}")]
    ForGood(String),
}

impl<E: ModelEngine> Catalog<E> {
    /// Lists `models` and returns their names. The first request to a model loads it, or
    /// [`Catalog::restore_all`] does.
    pub async fn list_again(&self, models: Vec<Record>) -> Vec<String> {
        let mut names = Vec::with_capacity(models.len());
        for record in models {
            names.push(record.name.clone());
            self.models
                .insert(
                    record.name.clone(),
                    CatalogEntry::new(record, ModelSlot::Restored, None, Arc::default()),
                )
                .await;
        }
        names
    }

    /// Loads those of `names` that are listed but not in memory, in this order, `at_once` at a
    /// time. Ends after one attempt for each.
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
                        let listed = catalog.listed(&name).await;
                        let target_model = listed.and_then(|listed| listed.target_model);
                        tracing::warn!(
                            model = shortened(&name),
                            target_model,
                            "model not restored yet: {error}"
                        );
                    }
                }
                not_yet
            });
        }
        let not_yet: usize = tasks.join_all().await.into_iter().sum();
        let restore_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::info!(models, not_yet, restore_ms, "models restored");
    }

    /// Loads `name` if it is listed but not in memory. Concurrent calls load it once. If it can
    /// never be loaded again, the model leaves the list and the call succeeds: the next request
    /// does not find it (MM-20).
    pub(super) async fn restore(self: &Arc<Self>, name: &str) -> Result<(), CatalogError> {
        let mut restored = None;
        self.models
            .entry_by_ref(name)
            .and_try_compute_with(|current| async {
                let Some(entry) = current.map(|current| current.into_value()) else {
                    return Ok(Op::Nop);
                };
                if state::action(entry.state(), ModelOperation::Restore) != Action::LoadAgain {
                    return Ok(Op::Nop);
                }
                let span = model_span(Operation::Restore, name, entry.target_model.as_deref());
                match self.load_again(name, &entry).instrument(span.clone()).await {
                    Ok((served, path)) => {
                        span.in_scope(|| tracing::debug!("model restored"));
                        *entry.slot() =
                            ModelSlot::Loaded(Arc::new(served.called(shortened(name), entry.target_model.clone())));
                        restored = Some((entry, path));
                        Ok(change(End::Restored, None))
                    }
                    Err(RestoreError::ForNow(error)) => Err(error),
                    Err(RestoreError::ForGood(error)) => {
                        let url = shortened(&entry.url);
                        span.in_scope(|| tracing::warn!(url, "model cannot be restored and leaves the list: {error}"));
                        self.record(End::RestoreFailedForGood, name, None);
                        Ok(change(End::RestoreFailedForGood, None))
                    }
                }
            })
            .await?;
        if let Some((entry, path)) = restored {
            self.prepare_later(name, &entry, &path);
        }
        Ok(())
    }

    async fn load_again(
        &self,
        name: &str,
        entry: &CatalogEntry<E::Model>,
    ) -> Result<(ServedModel<E::Model>, ArtifactPath), RestoreError> {
        // The verdict is known by content, so repeated requests do not read the files again.
        self.check(name, entry)?;
        let path = match self.allowed(name, &entry.url).await {
            Ok(path) => path,
            Err(CatalogError::MissingUrl { url }) => unresolved(&self.settings.roots, &url),
            Err(error @ CatalogError::Load { .. }) => return Err(RestoreError::ForNow(error)),
            Err(error) => return Err(RestoreError::ForGood(error.to_string())),
        };
        let manifest = match entry
            .manifest
            .as_deref()
            .map(serde_json::from_str::<Manifest>)
            .transpose()
        {
            Ok(manifest) => manifest.unwrap_or_default().shared(),
            Err(error) => return Err(RestoreError::ForGood(format!("{FILE}: {error}"))),
        };
        let model = match self.reload(&path, entry.content, &manifest).await {
            Ok(model) => model,
            Err(error) => {
                // This attempt may itself have quarantined the content.
                self.check(name, entry)?;
                return Err(lost(name, error));
            }
        };
        if *model.content() != entry.content {
            self.engine.unload(model).await;
            return Err(RestoreError::ForGood(
                "its files now contain a different model".to_owned(),
            ));
        }
        let served = self.serve(name, &path, model, ManifestRequests::Skip).await;
        served
            .map(|served| (served, path))
            .map_err(|error| match error.will_last() {
                true => RestoreError::ForGood(error.to_string()),
                // The machine has no memory left for the model's tokenizer.
                false => RestoreError::ForNow(error),
            })
    }

    async fn reload(
        &self,
        path: &ArtifactPath,
        content: ContentHash,
        manifest: &Arc<Manifest>,
    ) -> Result<E::Model, LoadError> {
        let permit = self.restores.acquire().await;
        let restored = self.engine.restore(path, content, manifest).await;
        drop(permit);
        match restored {
            // A load needs more memory while it runs than afterwards: one load may fit where
            // several in parallel do not.
            Err(LoadError::NoRoom(_) | LoadError::Session(SessionError::OutOfMemory)) => {
                let all = u32::try_from(self.settings.restores).unwrap_or(u32::MAX);
                let _alone = self.restores.acquire_many(all).await;
                self.engine.restore(path, content, manifest).await
            }
            restored => restored,
        }
    }

    fn check(&self, name: &str, entry: &CatalogEntry<E::Model>) -> Result<(), RestoreError> {
        self.engine.check(&entry.content).map_err(|source| {
            RestoreError::ForNow(CatalogError::Refused {
                name: name.to_owned(),
                source,
            })
        })
    }
}

/// Classifies a load error: an error of the machine may pass, one of the artifact does not.
fn lost(name: &str, error: LoadError) -> RestoreError {
    let is_about_artifact = match &error {
        LoadError::Artifact(error) => error.is_about_content(),
        LoadError::Session(error) => error.is_about_content(),
        LoadError::Adapter { .. } => true,
        LoadError::NoRoom(_) | LoadError::Prepare(_) | LoadError::Quarantined(_) | LoadError::Pool(_) => false,
    };
    if is_about_artifact {
        RestoreError::ForGood(error.to_string())
    } else {
        RestoreError::ForNow(load_error(name, error))
    }
}
