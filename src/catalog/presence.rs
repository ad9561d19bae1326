//! How things stand with each model that is known of, for people and for those who look after
//! several servers.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Catalog, CatalogError, Slot};
use crate::engine::InferenceError;

/// How it stands with a model.
#[derive(Debug, Clone)]
pub enum Presence {
    Loaded,
    /// Loaded, and takes no requests until runs have ended that are stuck.
    Stuck(Arc<InferenceError>),
    /// To be loaded again, since the process was restarted.
    Restored,
    /// On its way out of the store.
    Loading,
    /// Could not be brought from the store a moment ago.
    Failed(Arc<CatalogError>),
}

impl Catalog {
    /// All models that are on the list, on their way there, or failed a moment ago, by name.
    pub fn presences(&self) -> BTreeMap<String, Presence> {
        let mut models = BTreeMap::new();
        if let Some(demand) = &self.demand {
            models.extend(demand.presences());
        }
        // Last: what is loaded is loaded, whatever else is tried.
        for (name, entry) in self.models.iter().filter(|(_, entry)| !entry.users.is_closed()) {
            let presence = match &*entry.slot() {
                Slot::Loaded(served) => match served.model.standing().check() {
                    Ok(()) => Presence::Loaded,
                    Err(stuck) => Presence::Stuck(Arc::new(stuck)),
                },
                Slot::Restored => Presence::Restored,
                Slot::Empty => continue,
            };
            models.insert(name.to_string(), presence);
        }
        models
    }
}
