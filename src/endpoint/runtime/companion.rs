//! The platform's data about each container, which live as long as the container: its models, or
//! its slots for asynchronous invocations.

use std::sync::{Arc, PoisonError, Weak};

use tokio::sync::Semaphore;

use super::Runtime;
use crate::endpoint::client::Target;
use crate::endpoint::error::RuntimeError;
use crate::endpoint::fleet::{Fleet, Instance, RunningContainer};
use crate::endpoint::multi_model::{Platform, PlatformParts};
use crate::store::{self, OpenError, Store};

/// The platform of a container in multi-model mode, or the reason why it could not be created.
struct Models(Result<Arc<Platform>, String>);

/// The slots of an instance, kept with its first container, which is not in multi-model mode.
struct Slots(Arc<Semaphore>);

impl Runtime {
    /// The models of a container in multi-model mode. Call [`Self::open_stores`] first: otherwise
    /// the first call opens the store, which blocks on disk I/O.
    pub(super) fn platform(&self, container: &Arc<RunningContainer>) -> Result<Arc<Platform>, RuntimeError> {
        let models = container.platform_data(|| Models(self.new_platform(container)));
        let Some(models) = models else {
            return Err(RuntimeError::Internal(
                "the container is not in multi-model mode".to_owned(),
            ));
        };
        models.0.clone().map_err(RuntimeError::Internal)
    }

    /// Opens the missing stores of containers in multi-model mode, on a thread for blocking work.
    pub(super) async fn open_stores(self: &Arc<Self>, endpoint: &str) {
        let Some(fleet) = self.fleets.get(endpoint) else {
            return;
        };
        let mut unopened = Vec::new();
        for variant in fleet.variants() {
            for instance in variant.instances().iter() {
                let containers = instance.containers().iter();
                unopened.extend(containers.filter(|container| is_unopened(container)).cloned());
            }
        }
        if unopened.is_empty() {
            return;
        }
        let runtime = Arc::clone(self);
        let opening = self.background.spawn_blocking(move || {
            for container in &unopened {
                // The requests that need the store report the error.
                let _ = runtime.platform(container);
            }
        });
        let _ = opening.await;
    }

    fn new_platform(&self, container: &Arc<RunningContainer>) -> Result<Arc<Platform>, String> {
        let hostname = &container.spec().hostname;
        let Some(url) = &container.spec().model_data_url else {
            return Err(format!(
                "container {hostname} is in multi-model mode without a ModelDataUrl"
            ));
        };
        let opened = self.store(url);
        let store = opened.map_err(|error| format!("open the models of container {hostname}: {error}"))?;
        let target = Arc::downgrade(container) as Weak<dyn Target>;
        let parts = PlatformParts {
            target,
            store,
            client: self.client.clone(),
            background: self.background.clone(),
        };
        Ok(Platform::new(&**container, parts, self.settings.multi_model.clone()))
    }

    /// The free slots of an instance for asynchronous invocations. Only for instances without a
    /// container in multi-model mode.
    pub(super) fn slots(&self, fleet: &Fleet, instance: &Instance) -> Option<Arc<Semaphore>> {
        let configured = fleet.deployment().asynchronous.as_ref()?.max_concurrent;
        let slots = configured.map_or(self.settings.async_concurrency, |slots| slots as usize);
        let first = instance.containers().first()?;
        let slots = first.platform_data(|| Slots(Arc::new(Semaphore::new(slots.max(1)))))?;
        Some(Arc::clone(&slots.0))
    }

    fn store(&self, url: &str) -> Result<Arc<Store>, OpenError> {
        // Locked while a store opens, so that each URL has only one. No code panics while it holds
        // the lock, so a poisoned value is consistent.
        let mut stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
        stores.retain(|_, store| store.strong_count() > 0);
        if let Some(store) = stores.get(url).and_then(Weak::upgrade) {
            return Ok(store);
        }
        let settings = store::StoreConfig {
            url: url.to_owned(),
            ..self.settings.store.clone()
        };
        let store = Arc::new(Store::open(settings, &self.disk)?);
        stores.insert(url.to_owned(), Arc::downgrade(&store));
        Ok(store)
    }
}

fn is_unopened(container: &RunningContainer) -> bool {
    container.spec().is_multi_model() && !container.has_platform_data()
}
