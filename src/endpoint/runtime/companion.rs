//! What the platform keeps beside each container, for as long as that exists: its models, and how many asynchronous requests
//! it works on.

use std::sync::{Arc, PoisonError, Weak};

use tokio::sync::Semaphore;

use super::Runtime;
use crate::endpoint::client::Target;
use crate::endpoint::error::RuntimeError;
use crate::endpoint::fleet::{Fleet, Instance, RunningContainer};
use crate::endpoint::multi_model::{Parts, Platform};
use crate::store::{self, OpenError, Store};

/// Of a container in multi-model mode: its models, or why there are none.
struct Models(Result<Arc<Platform>, String>);

/// Of an instance's first container that is not in multi-model mode.
struct Slots(Arc<Semaphore>);

impl Runtime {
    /// The models of a container in multi-model mode. It is to be called after
    /// [`Self::open_stores`]: the first time the store is opened, which looks at the disk.
    pub(super) fn platform(&self, container: &Arc<RunningContainer>) -> Result<Arc<Platform>, RuntimeError> {
        let models = container.companion(|| Models(self.new_platform(container)));
        let Some(models) = models else {
            return Err(RuntimeError::Internal("the container has no models".to_owned()));
        };
        models.0.clone().map_err(RuntimeError::Internal)
    }

    /// Opens the stores of containers in multi-model mode that have none yet, away from the threads that answer.
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
                // Whoever needs it is told what is wrong.
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
        let store = opened.map_err(|error| format!("the models of container {hostname}: {error}"))?;
        let target = Arc::downgrade(container) as Weak<dyn Target>;
        let parts = Parts {
            target,
            store,
            client: self.client.clone(),
            background: self.background.clone(),
        };
        Ok(Platform::new(&**container, parts, self.settings.multi_model.clone()))
    }

    /// How many more asynchronous requests an instance takes. Only of those without a container in multi-model mode.
    pub(super) fn slots(&self, fleet: &Fleet, instance: &Instance) -> Option<Arc<Semaphore>> {
        let configured = fleet.deployment().asynchronous.as_ref()?.max_concurrent;
        let slots = configured.map_or(self.settings.async_concurrency, |slots| slots as usize);
        let first = instance.containers().first()?;
        let slots = first.companion(|| Slots(Arc::new(Semaphore::new(slots.max(1)))))?;
        Some(Arc::clone(&slots.0))
    }

    fn store(&self, url: &str) -> Result<Arc<Store>, OpenError> {
        // Held while a store is opened: one for each URL is enough. Nothing panics half-way.
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
    container.spec().is_multi_model() && !container.has_companion()
}
