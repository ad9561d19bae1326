//! The status of each known model, for operators and for control planes that manage several
//! servers.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::model_engine::{LoadedModel, ModelEngine};
use super::{Catalog, CatalogError, ModelSlot};
use crate::engine::InferenceError;

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
    /// Failed to load from the store a moment ago.
    Failed(Arc<CatalogError>),
}

impl<E: ModelEngine> Catalog<E> {
    /// Returns all models that are listed, loading or recently failed, by name.
    pub fn statuses(&self) -> BTreeMap<String, ModelStatus> {
        let mut models = BTreeMap::new();
        if let Some(demand) = &self.demand {
            models.extend(demand.statuses());
        }
        // Last, so that "loaded" replaces "loading" and "failed" of the same name.
        for (name, entry) in self.models.iter().filter(|(_, entry)| !entry.users.is_closed()) {
            let status = match &*entry.slot() {
                ModelSlot::Loaded(served) => match served.model.standing().check() {
                    Ok(()) => ModelStatus::Loaded,
                    Err(stuck) => ModelStatus::Stuck(Arc::new(stuck)),
                },
                ModelSlot::Restored => ModelStatus::Restored,
                ModelSlot::Empty => continue,
            };
            models.insert(name.to_string(), status);
        }
        models
    }
}
