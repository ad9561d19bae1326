//! The models of each container in multi-model mode, and the slots of each instance for
//! asynchronous invocations.

use std::sync::{Arc, PoisonError, Weak};

use tokio::sync::Semaphore;

use super::Runtime;
use crate::endpoint::client::Target;
use crate::endpoint::error::RuntimeError;
use crate::endpoint::fleet::{Fleet, Instance, RunningContainer};
use crate::endpoint::multi_model::{Platform, PlatformParts};
use crate::store::{self, OpenError, Store};

impl Runtime {
    /// The models of a container in multi-model mode. Call [`Self::open_stores`] first: otherwise
    /// the first call opens the store, which blocks on disk I/O.
    pub(super) fn platform(&self, container: &Arc<RunningContainer>) -> Result<Arc<Platform>, RuntimeError> {
        let platform = container.platform.get_or_init(|| self.new_platform(container));
        platform.clone().map_err(RuntimeError::Internal)
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

    /// The free slots of an instance for asynchronous invocations.
    pub(super) fn slots(&self, fleet: &Fleet, instance: &Instance) -> Option<Arc<Semaphore>> {
        let configured = fleet.deployment().asynchronous.as_ref()?.max_concurrent;
        let slots = configured.map_or(self.settings.async_concurrency, |slots| slots as usize);
        let slots = instance.slots.get_or_init(|| Arc::new(Semaphore::new(slots.max(1))));
        Some(Arc::clone(slots))
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
    container.spec().is_multi_model() && container.platform.get().is_none()
}
