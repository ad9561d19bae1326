//! Puts the prepared form of a model in the place of the model that was loaded before its
//! preparation (`--prepare later`).
//!
//! The prepared model takes the place of the other one in its entry. So name, statistics, handles
//! and the journal stay as they are: nothing was unloaded.
//!
//! Invariants:
//! - Each request runs in one of the two models, and none waits for the exchange.
//! - A preparation keeps no model in memory, and delays no unload. One that has begun goes on after
//!   an unload; its result is in the cache for the next load.
//! - The prepared model is loaded under the lock of the name. So an unload ends after the memory of
//!   both models is free (MM-4).

use std::sync::{Arc, Weak};
use std::time::Duration;

use moka::ops::compute::Op;
use tokio::task;
use tokio::time::{Instant, sleep};
use tracing::Instrument;

use super::error::load_error;
use super::model_engine::{LoadedModel, ModelEngine};
use super::served::ManifestRequests;
use super::state::{self, Action, End, ModelOperation};
use super::{Catalog, CatalogEntry, CatalogError, ModelSlot, Operation, change, model_span};
use crate::engine::{ArtifactPath, LoadedMemory};

/// Pauses between attempts at a preparation for which the machine has no room.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Interval at which a replaced model is checked for requests that still run in it.
const CHECK_INTERVAL: Duration = Duration::from_millis(50);

/// A model that was loaded, and is to be prepared.
struct Preparation<E: ModelEngine> {
    name: String,
    entry: Weak<CatalogEntry<E::Model>>,
    /// The path of the artifact.
    path: ArtifactPath,
    model: E::ToPrepare,
}

impl<E: ModelEngine> Catalog<E> {
    /// Starts to prepare the model of `entry`, if it is to be prepared. `path` is that of its
    /// artifact.
    pub(super) fn prepare_later(
        self: &Arc<Self>,
        name: &str,
        entry: &Arc<CatalogEntry<E::Model>>,
        path: &ArtifactPath,
    ) {
        let model = match &*entry.slot() {
            ModelSlot::Loaded(served) => self.engine.to_prepare(&served.model),
            ModelSlot::Restored | ModelSlot::Empty => None,
        };
        let Some(model) = model else { return };
        let span = model_span(Operation::Prepare, name, entry.target_model.as_deref());
        let preparation = Preparation::<E> {
            name: name.to_owned(),
            entry: Arc::downgrade(entry),
            path: path.clone(),
            model,
        };
        let catalog = Arc::clone(self);
        let prepared = async move {
            if let Err(error) = catalog.prepare(&preparation).await {
                tracing::warn!("the model serves on unprepared: {error}");
            }
            // Removes a copy of the model's files.
            let _ = catalog.engine.with_files(move || drop(preparation)).await;
        };
        task::spawn(prepared.instrument(span));
    }

    /// Prepares a model and exchanges it. Tries again while the machine has no room.
    async fn prepare(&self, preparation: &Preparation<E>) -> Result<(), CatalogError> {
        let (started, mut pause) = (Instant::now(), FIRST_PAUSE);
        loop {
            let error = match self.try_prepare(preparation, started).await {
                Err(error) if may_pass(&error) => error,
                done => return done,
            };
            tracing::info!(again_in = ?pause, "the model is not prepared yet: {error}");
            sleep(pause).await;
            pause = (2 * pause).min(LONGEST_PAUSE);
        }
    }

    async fn try_prepare(&self, preparation: &Preparation<E>, started: Instant) -> Result<(), CatalogError> {
        let turn = self.preparations.acquire().await;
        if !preparation.is_wanted() {
            return Ok(());
        }
        let has_form = self.engine.prepare(&preparation.model).await;
        drop(turn);
        if !has_form.map_err(|error| load_error(&preparation.name, error))? {
            return Ok(());
        }
        let Some(entry) = self.exchange(preparation, started).await? else {
            return Ok(());
        };
        self.free_replaced(&entry).await;
        Ok(())
    }

    /// Loads the prepared model, and puts it in the place of the other one. `None` if that was
    /// unloaded, or replaced by a newer version.
    async fn exchange(
        &self,
        preparation: &Preparation<E>,
        started: Instant,
    ) -> Result<Option<Arc<CatalogEntry<E::Model>>>, CatalogError> {
        let name = &preparation.name;
        let mut exchanged = None;
        self.models
            .entry_by_ref(name)
            .and_try_compute_with(|current| async {
                let current = current.map(|current| current.into_value());
                let Some(entry) = current.filter(|current| preparation.is_for(current)) else {
                    return Ok(Op::Nop);
                };
                let loaded = self.engine.load_prepared(&preparation.model).await;
                let Some(model) = loaded.map_err(|error| load_error(name, error))? else {
                    return Ok(Op::Nop);
                };
                // The requests of the manifest have been answered by the model as it was uploaded.
                let served = self
                    .serve(name, &preparation.path, model, ManifestRequests::Skip)
                    .await?;
                let LoadedMemory { own, shared, .. } = served.model.loaded_memory();
                entry.replace_model(served);
                let prepare_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
                tracing::info!(memory_bytes = own, shared_bytes = shared, prepare_ms, "model prepared");
                exchanged = Some(entry);
                Ok::<_, CatalogError>(change(End::Prepared, None))
            })
            .await?;
        Ok(exchanged)
    }

    /// Frees the replaced model of `entry` after the last request that runs in it.
    async fn free_replaced(&self, entry: &CatalogEntry<E::Model>) {
        while entry.has_replaced() {
            // An unload waits for this lock.
            let freeing = entry.unload_progress.freeing.lock().await;
            let unused = entry.take_replaced();
            let is_used = unused.is_none();
            if let Some(served) = unused {
                self.engine.unload(served.model).await;
            }
            drop(freeing);
            if is_used {
                sleep(CHECK_INTERVAL).await;
            }
        }
    }
}

impl<E: ModelEngine> Preparation<E> {
    fn is_wanted(&self) -> bool {
        self.entry.upgrade().is_some_and(|entry| takes_another(&entry))
    }

    /// Whether it is for the model of `entry`, which is that of the name now.
    fn is_for(&self, entry: &Arc<CatalogEntry<E::Model>>) -> bool {
        Weak::as_ptr(&self.entry) == Arc::as_ptr(entry) && takes_another(entry)
    }
}

/// Whether the model of `entry` can be replaced.
fn takes_another<M: LoadedModel>(entry: &CatalogEntry<M>) -> bool {
    state::action(entry.state(), ModelOperation::Refresh) == Action::Load
}

/// Whether the cause is the state of the machine.
fn may_pass(error: &CatalogError) -> bool {
    matches!(error, CatalogError::Load { source, .. } if source.may_pass())
}
