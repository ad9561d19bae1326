//! What is loaded by hand, ahead of requests. Whoever asks for that wants to know how things are now, so what failed a moment
//! ago is tried again.

use std::sync::Arc;

use super::{Demand, fetch_error};
use crate::catalog::{Catalog, CatalogError, not_loaded};
use crate::store::Name;

impl Catalog {
    /// Loads `name` ahead of requests to it; `url` is where it is in the store. Returns the bytes that it takes.
    pub(in crate::catalog) async fn load_ahead(
        self: &Arc<Self>,
        demand: &Arc<Demand>,
        name: &str,
        url: &str,
    ) -> Result<u64, CatalogError> {
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
        let (flight, is_own) = self.flight(demand, key);
        match flight.await {
            Ok(handle) if is_own => Ok(handle.as_ref().memory()),
            Ok(_) => Err(already()),
            Err(error) => Err(CatalogError::Flight(error)),
        }
    }

    /// Brings `name` as it is in the store now, whatever is on disk or loaded.
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
                // What could not be loaded is tried again.
                *origin.newest() = origin.version.clone();
            }
            self.refresh(demand, name, &entry).await?;
            // It may have gone: from the store, or to make room for its newer version.
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
        let (flight, _) = self.flight(demand, key);
        flight.await.map(drop).map_err(CatalogError::Flight)
    }
}
