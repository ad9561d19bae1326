//! Upkeep of loaded models in the background: unloads idle models and replaces models that have a
//! newer version in the store.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::eviction::missing;
use super::{Demand, fetch_error, milliseconds, unloaded};
use crate::catalog::model_engine::ModelEngine;
use crate::catalog::{Catalog, CatalogEntry, CatalogError, shortened};
use crate::engine::ArtifactPath;
use crate::store::Name;
use crate::telemetry::metrics::UnloadReason;

impl<E: ModelEngine> Catalog<E> {
    /// Unloads models without requests for `idle_unload`. Runs forever.
    pub async fn unload_idle(self: Arc<Self>) {
        const FASTEST: Duration = Duration::from_millis(50);
        const SLOWEST: Duration = Duration::from_secs(10);
        let Some(demand) = &self.demand else { return };
        let Some(idle) = demand.settings.idle_unload else {
            return;
        };
        loop {
            tokio::time::sleep((idle / 4).clamp(FASTEST, SLOWEST)).await;
            let now = demand.now();
            for (name, entry, used) in self.evictable("") {
                if !entry.users.is_empty() || now.saturating_sub(used) < milliseconds(idle) {
                    continue;
                }
                if let Err(error) = self.unload_for(demand, &name, &entry, UnloadReason::Idle).await {
                    tracing::warn!(model = shortened(&name), "{error}");
                }
            }
        }
    }

    /// Checks `name` against the store and replaces `entry` if there is a newer version.
    pub(super) async fn refresh(
        self: &Arc<Self>,
        demand: &Arc<Demand<E::Model>>,
        name: &str,
        entry: &Arc<CatalogEntry<E::Model>>,
    ) -> Result<(), CatalogError> {
        let (Some(origin), Ok(key)) = (&entry.origin, Name::parse(name)) else {
            return Ok(());
        };
        let started = Instant::now();
        let newest = origin.newest().clone();
        let located = match demand.store.newer(&key, &newest).await {
            Ok(None) => return Ok(()),
            Ok(Some(located)) => located,
            Err(error) if error.is_not_found() => {
                return self.unload_for(demand, name, entry, UnloadReason::Gone).await;
            }
            Err(error) => return Err(fetch_error(&key, error)),
        };
        let version = located.version().clone();
        let replaced = async {
            // The store has the loaded version again.
            if version == origin.version {
                return Ok(false);
            }
            let until = started + demand.settings.memory_timeout;
            let lease = self.fetched(demand, &key, located, until).await?;
            let url = demand.store.url_of(&key);
            let path = ArtifactPath::trusted(lease.path());
            let load = || self.replace(name, &url, entry, &path, demand.origin(&lease));
            self.with_eviction(demand, name, until, load).await
        };
        match replaced.await {
            Ok(is_replaced) => {
                *origin.newest() = version.clone();
                if is_replaced {
                    demand.metrics.unload(UnloadReason::Replaced, None);
                    tracing::info!(%version, "model replaced by a newer version");
                }
                Ok(())
            }
            // Both versions do not fit into memory: the next request loads the new one.
            Err(error) if missing(&error).is_some() => {
                self.unload_for(demand, name, entry, UnloadReason::Replaced).await
            }
            Err(error) => {
                if error.is_about_version() {
                    *origin.newest() = version;
                }
                Err(error)
            }
        }
    }

    async fn unload_for(
        &self,
        demand: &Demand<E::Model>,
        name: &str,
        entry: &Arc<CatalogEntry<E::Model>>,
        why: UnloadReason,
    ) -> Result<(), CatalogError> {
        let (started, memory) = (Instant::now(), entry.charge());
        if self.unload_entry(name, entry).await? {
            unloaded(demand, name, why, started, memory);
        }
        Ok(())
    }
}
