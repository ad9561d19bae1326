//! The status of each known model, for operators and for control planes that manage several
//! servers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use super::model_engine::{LoadedModel, ModelEngine};
use super::{Catalog, CatalogError, Handle, Lookup, ModelSlot};
use crate::engine::{InferenceError, LoadedMemory, Standing};
use crate::telemetry::models::ModelStats;

/// Status of a model.
#[derive(Debug, Clone)]
pub enum ModelStatus {
    Loaded,
    /// Loaded, but refuses requests until its stuck runs end.
    Stuck(Arc<InferenceError>),
    /// Listed after a restart, but not loaded again yet.
    Restored,
    /// Being loaded from the store.
    Loading,
    /// Failed to load from the store a moment ago, at this time.
    Failed(Arc<CatalogError>, SystemTime),
}

/// A listed model, for operators.
#[derive(Debug, Clone)]
pub struct ModelOverview {
    pub name: String,
    /// The Target-Model header of the load request.
    pub target_model: Option<String>,
    /// The `url` of the load request.
    pub url: String,
    pub status: ModelStatus,
    /// The memory of the model; `None` if it is not in memory.
    pub memory: Option<LoadedMemory>,
    pub stats: Arc<ModelStats>,
}

impl<E: ModelEngine> Catalog<E> {
    /// Describes all listed models, in no order. Takes milliseconds for thousands of models: call
    /// it on a thread that may block.
    pub fn overview(&self) -> Vec<ModelOverview> {
        let listed = self.models.iter().filter(|(_, entry)| !entry.users.is_closed());
        listed
            .filter_map(|(name, entry)| {
                let (status, memory) = match &*entry.slot() {
                    ModelSlot::Loaded(served) => (status(served.model.standing()), Some(served.model.loaded_memory())),
                    ModelSlot::Restored => (ModelStatus::Restored, None),
                    ModelSlot::Empty => return None,
                };
                Some(ModelOverview {
                    name: name.to_string(),
                    target_model: entry.target_model.clone(),
                    url: entry.url.clone(),
                    status,
                    memory,
                    stats: Arc::clone(&entry.stats),
                })
            })
            .collect()
    }

    /// Returns the models of the store that are being loaded, or that failed to load a moment ago.
    pub fn unlisted(&self) -> Vec<(String, ModelStatus)> {
        self.demand.as_ref().map(|demand| demand.statuses()).unwrap_or_default()
    }

    /// Returns a handle to `name` if it is in memory. Unlike [`Self::get`], this loads nothing and
    /// counts no use.
    pub async fn peek(&self, name: &str) -> Option<Handle<E::Model>> {
        match self.models.get(name).await?.lookup() {
            Lookup::Model(handle) => Some(handle),
            Lookup::Restored | Lookup::Nothing => None,
        }
    }

    /// Returns all models that are listed, loading or recently failed, by name.
    pub fn statuses(&self) -> BTreeMap<String, ModelStatus> {
        let mut models = BTreeMap::new();
        if let Some(demand) = &self.demand {
            models.extend(demand.statuses());
        }
        // Last, so that "loaded" replaces "loading" and "failed" of the same name.
        for (name, entry) in self.models.iter().filter(|(_, entry)| !entry.users.is_closed()) {
            let status = match &*entry.slot() {
                ModelSlot::Loaded(served) => status(served.model.standing()),
                ModelSlot::Restored => ModelStatus::Restored,
                ModelSlot::Empty => continue,
            };
            models.insert(name.to_string(), status);
        }
        models
    }
}

fn status(standing: &Standing) -> ModelStatus {
    match standing.check() {
        Ok(()) => ModelStatus::Loaded,
        Err(stuck) => ModelStatus::Stuck(Arc::new(stuck)),
    }
}
