//! Explicit loads, ahead of requests. The caller wants to know the present state, so these loads
//! ignore recent failures and try again.

use std::sync::Arc;

use super::{Demand, fetch_error};
use crate::catalog::model_engine::{LoadedModel, ModelEngine};
use crate::catalog::{Catalog, CatalogError, not_loaded};
use crate::engine::LoadedMemory;
use crate::store::Name;

impl<E: ModelEngine> Catalog<E> {
    /// Loads `name` ahead of requests to it; `url` is its place in the store. Returns the bytes of
    /// memory that it takes.
    pub(in crate::catalog) async fn load_ahead(
        self: &Arc<Self>,
        demand: &Arc<Demand<E::Model>>,
        name: &str,
        url: &str,
    ) -> Result<LoadedMemory, CatalogError> {
        let key = Name::parse(name)?;
        let expected = demand.store.url_of(&key);
        if url != expected {
            return Err(CatalogError::OtherUrl {
                name: name.to_owned(),
                url: url.to_owned(),
                expected,
            });
        }
        let already = || CatalogError::AlreadyLoaded { name: name.to_owned() };
        if self.describe(name).await.is_ok() {
            return Err(already());
        }
        demand.failures.invalidate(name);
        let (pending_load, is_own) = self.pending_load(demand, key);
        match pending_load.await {
            Ok(handle) if is_own => Ok(handle.as_ref().loaded_memory()),
            Ok(_) => Err(already()),
            Err(error) => Err(CatalogError::PendingLoad(error)),
        }
    }

    /// Loads the version of `name` that is in the store now, even if another one is on disk or in
    /// memory.
    pub async fn load_newest(self: &Arc<Self>, name: &str) -> Result<(), CatalogError> {
        let name = name.strip_suffix('/').unwrap_or(name);
        let Some(demand) = &self.demand else {
            return Err(not_loaded(name));
        };
        let key = Name::parse(name)?;
        if let Some(entry) = self.models.get(name).await
            && !entry.users.is_closed()
        {
            if let Some(origin) = &entry.origin {
                // Forget that a newer version failed, so that it is tried again.
                *origin.newest() = origin.version.clone();
            }
            self.refresh(demand, name, &entry).await?;
            // `refresh` unloads the model if the store has lost it, or if two versions do not fit.
            if self.describe(name).await.is_ok() {
                return Ok(());
            }
        }
        demand.failures.invalidate(name);
        demand
            .store
            .expire(&key)
            .await
            .map_err(|error| fetch_error(&key, error))?;
        let (pending_load, _) = self.pending_load(demand, key);
        pending_load.await.map(drop).map_err(CatalogError::PendingLoad)
    }
}
