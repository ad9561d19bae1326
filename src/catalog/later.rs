//! Gives models that were loaded unprepared (`--prepare later`) their prepared form while they
//! serve.
//!
//! The prepared model takes the place of the old one in its entry. So name, statistics, handles and
//! the journal stay as they are: nothing was unloaded.
//!
//! Invariants:
//! - Each request runs in one of the two models, and none waits for the change.
//! - A preparation keeps no model in memory, and delays no unload.
//! - An unload ends after the memory of both models is free (MM-4).

use std::mem;
use std::sync::{Arc, Weak};
use std::time::Duration;

use moka::ops::compute::Op;
use tokio::task;
use tokio::time::{Instant, sleep};
use tracing::Instrument;

use super::error::load_error;
use super::model_engine::{LoadedModel, ModelEngine};
use super::served::{ManifestRequests, ServedModel};
use super::state::{self, Action, End, ModelOperation};
use super::{Catalog, CatalogEntry, CatalogError, ModelSlot, Operation, change, model_span};
use crate::engine::{ArtifactPath, LoadedMemory};

/// Pauses between attempts at a preparation for which the machine has no room.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Interval at which a replaced model is checked for requests that still run in it.
const CHECK_INTERVAL: Duration = Duration::from_millis(50);

impl<E: ModelEngine> Catalog<E> {
    /// Starts to prepare the model of `entry`, if it is to be prepared. `path` is that of its
    /// artifact.
    pub(super) fn prepare_later(
        self: &Arc<Self>,
        name: &str,
        entry: &Arc<CatalogEntry<E::Model>>,
        path: &ArtifactPath,
    ) {
        let unprepared = match &*entry.slot() {
            ModelSlot::Loaded(served) => self.engine.unprepared(&served.model),
            ModelSlot::Restored | ModelSlot::Empty => None,
        };
        let Some(unprepared) = unprepared else { return };
        let span = model_span(Operation::Prepare, name, entry.target_model.as_deref());
        let (catalog, name, path) = (Arc::clone(self), name.to_owned(), path.clone());
        let entry = Arc::downgrade(entry);
        let preparation = async move {
            if let Err(error) = catalog.prepare(&name, &entry, &path, &unprepared).await {
                tracing::warn!("the model stays unprepared: {error}");
            }
        };
        task::spawn(preparation.instrument(span));
    }

    async fn prepare(
        &self,
        name: &str,
        entry: &Weak<CatalogEntry<E::Model>>,
        path: &ArtifactPath,
        unprepared: &E::Unprepared,
    ) -> Result<(), CatalogError> {
        let (started, mut pause) = (Instant::now(), FIRST_PAUSE);
        let model = loop {
            match self.engine.prepare(unprepared).await {
                Ok(Some(model)) => break model,
                Ok(None) => return Ok(()),
                Err(error) if error.may_pass() => {
                    tracing::debug!(again_in = ?pause, "the model cannot be prepared yet: {error}");
                    sleep(pause).await;
                    pause = (2 * pause).min(LONGEST_PAUSE);
                    if !entry.upgrade().is_some_and(|entry| takes_another(&entry)) {
                        return Ok(());
                    }
                }
                Err(error) => return Err(load_error(name, error)),
            }
        };
        // It has passed the requests of its manifest before.
        let served = self.serve(name, path, model, ManifestRequests::Skip).await?;
        let LoadedMemory { own, shared, .. } = served.model.loaded_memory();
        match self.put_prepared(name, entry, served).await {
            Ok(entry) => {
                let prepare_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
                tracing::info!(memory_bytes = own, shared_bytes = shared, prepare_ms, "model prepared");
                self.free_replaced(&entry).await;
            }
            // The model was unloaded, or replaced by a newer version.
            Err(unused) => {
                self.engine.unload(unused.model).await;
            }
        }
        Ok(())
    }

    /// Puts `served` in the place of the model of `entry`. Gives it back if `entry` is not that of
    /// `name` any more.
    async fn put_prepared(
        &self,
        name: &str,
        entry: &Weak<CatalogEntry<E::Model>>,
        served: ServedModel<E::Model>,
    ) -> Result<Arc<CatalogEntry<E::Model>>, ServedModel<E::Model>> {
        let mut placed = Err(served);
        self.models
            .entry_by_ref(name)
            .and_compute_with(|current| async {
                let current = current.map(|current| current.into_value());
                let current = current.filter(|current| Weak::as_ptr(entry) == Arc::as_ptr(current));
                let Some(current) = current.filter(|current| takes_another(current)) else {
                    return Op::Nop;
                };
                if let Err(served) = mem::replace(&mut placed, Ok(Arc::clone(&current))) {
                    current.replace_model(served);
                }
                change(End::Prepared, None)
            })
            .await;
        placed
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

/// Whether the model of `entry` can be replaced.
fn takes_another<M: LoadedModel>(entry: &CatalogEntry<M>) -> bool {
    state::action(entry.state(), ModelOperation::Refresh) == Action::Load
}
