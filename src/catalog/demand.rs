//! Standalone mode: a request loads its model from the store, and models are evicted when others
//! need the memory.
//!
//! | the name is | a request | evicted, idle, or deleted from the store |
//! |---|---|---|
//! | absent | starts a pending load and waits for it | |
//! | loading | waits for the pending load | |
//! | loaded | is answered | is unloaded after its last request |
//! | recently failed | gets the error of the last load | |
//!
//! A pending load is a separate task. It continues if the request that started it times out. Every
//! request that waits for it gets a handle to the loaded model, so that the model cannot be
//! evicted before these requests have been answered.
//!
//! A load evicts other models only when the memory ledger refuses it; the catalog has no bound of
//! its own. The reason: the memory of a model is known only after it is loaded, and free memory
//! depends on requests too. The least recently used model is evicted first. Models with running
//! requests are evicted only if all models have some. Models that were loaded at the start of the
//! server are never evicted.

mod ahead;
mod eviction;
#[cfg(test)]
mod tests;
mod upkeep;

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use moka::sync::Cache;
use tokio::sync::Notify;
use tokio::task;
use tokio::time::{Instant as Deadline, timeout_at};
use tracing::Instrument;

pub use eviction::{Evicted, PAUSE as EVICTION_PAUSE, PAUSES as EVICTION_PAUSES};

use super::model_engine::{LoadedModel, ModelEngine};
use super::{Catalog, CatalogError, Handle, Lookup, ModelStatus, Operation, load_error, model_span, shortened};
use crate::engine::{ArtifactPath, LoadError, LoadedMemory, Model, PoolError};
use crate::store::{FetchError, Lease, Located, Name, Store, Version};
use crate::telemetry::metrics::{LoadOutcome, Metrics, UnloadReason};

/// Largest number of failures that are remembered.
const FAILURES: u64 = 4096;

/// Options of standalone mode.
#[derive(Debug, Clone)]
pub struct DemandConfig {
    /// Whether a load may evict other models when memory is full.
    pub evict: bool,
    /// Idle time after which a model is unloaded.
    pub idle_unload: Option<Duration>,
    /// Shortest time between two checks of a loaded model against the store.
    pub revalidate: Duration,
    /// Time during which a model that failed to load is not tried again.
    pub negative_ttl: Duration,
    /// Longest time that a load waits for memory.
    pub memory_timeout: Duration,
}

/// State of standalone mode: the store, pending loads and recent failures.
#[derive(Debug)]
pub struct Demand<M = Model> {
    pub(super) store: Store,
    pub(super) settings: DemandConfig,
    metrics: Arc<Metrics>,
    /// Keyed by name. Locked only for a lookup, an insertion or a removal, never during a load.
    pending: Mutex<HashMap<String, PendingLoad<M>>>,
    /// Notified when a pending load has ended.
    load_ended: Notify,
    failures: Cache<String, RecentFailure>,
    /// Held by the one load that evicts models. Two loads that need the same memory then evict
    /// once.
    evicting: tokio::sync::Mutex<()>,
    /// Incremented after each eviction.
    evictions: AtomicU64,
    clock: Instant,
}

type PendingLoad<M> = Shared<BoxFuture<'static, Result<Handle<M>, Arc<CatalogError>>>>;

/// Removes the pending load from the map when its task ends, also after a panic.
struct PendingGuard<M>(Arc<Demand<M>>, String);

impl<M> Drop for PendingGuard<M> {
    fn drop(&mut self) {
        self.0.pending().remove(&self.1);
        self.0.load_ended.notify_waiters();
    }
}

/// Error of a failed load, and its time.
#[derive(Debug, Clone)]
struct RecentFailure {
    error: Arc<CatalogError>,
    at: Instant,
    /// The same time, for people.
    time: SystemTime,
}

/// Version and usage of a model from the store. Times are milliseconds on [`Demand`]'s clock.
#[derive(Debug)]
pub(super) struct Origin {
    version: Version,
    /// Newest version seen in the store. Differs from `version` if the newest could not be loaded.
    newest: Mutex<Version>,
    used: AtomicU64,
    /// Time of the last check against the store.
    checked: AtomicU64,
    /// Whether a check against the store is running.
    is_checked: AtomicBool,
}

impl Origin {
    fn newest(&self) -> MutexGuard<'_, Version> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<M> Demand<M> {
    /// URL of the store, without credentials.
    pub fn url(&self) -> String {
        self.store.url()
    }

    pub fn new(store: Store, settings: DemandConfig, metrics: Arc<Metrics>) -> Self {
        Self {
            store,
            metrics,
            pending: Mutex::default(),
            load_ended: Notify::new(),
            failures: Cache::builder()
                .max_capacity(FAILURES)
                .time_to_live(settings.negative_ttl)
                .build(),
            settings,
            evicting: tokio::sync::Mutex::default(),
            evictions: AtomicU64::new(0),
            clock: Instant::now(),
        }
    }

    fn now(&self) -> u64 {
        milliseconds(self.clock.elapsed())
    }

    fn pending(&self) -> MutexGuard<'_, HashMap<String, PendingLoad<M>>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn origin(&self, lease: &Lease) -> Origin {
        let now = self.now();
        Origin {
            version: lease.version().clone(),
            newest: Mutex::new(lease.version().clone()),
            used: AtomicU64::new(now),
            checked: AtomicU64::new(now),
            is_checked: AtomicBool::new(false),
        }
    }

    /// Records a request to the model of `origin`. Returns whether a check against the store is
    /// due, and marks it as running if so.
    fn touch(&self, origin: &Origin) -> bool {
        let now = self.now();
        origin.used.store(now, Ordering::Relaxed);
        let unchecked = now.saturating_sub(origin.checked.load(Ordering::Relaxed));
        unchecked > milliseconds(self.settings.revalidate) && !origin.is_checked.swap(true, Ordering::Relaxed)
    }

    /// Lists recent failures, then pending loads. A name may be in both; its pending load counts.
    pub(super) fn statuses(&self) -> Vec<(String, ModelStatus)> {
        let failures = self.failures.iter();
        let failed =
            failures.map(|(name, failure)| (name.to_string(), ModelStatus::Failed(failure.error, failure.time)));
        let mut statuses: Vec<_> = failed.collect();
        statuses.extend(self.pending().keys().map(|name| (name.clone(), ModelStatus::Loading)));
        statuses
    }

    /// Returns the error of a recent failed load.
    fn failed(&self, name: &str) -> Option<CatalogError> {
        let failure = self.failures.get(name)?;
        Some(CatalogError::OnDemand {
            source: failure.error,
            again: Some(self.settings.negative_ttl.saturating_sub(failure.at.elapsed())),
        })
    }

    fn remember(&self, name: &str, error: &Arc<CatalogError>) {
        if error.will_last() {
            let failure = RecentFailure {
                error: Arc::clone(error),
                at: Instant::now(),
                time: SystemTime::now(),
            };
            self.failures.insert(name.to_owned(), failure);
        }
    }
}

impl<E: ModelEngine> Catalog<E> {
    /// Serves [`Catalog::get`] for a model that is not loaded.
    pub(super) async fn demand(
        self: &Arc<Self>,
        demand: &Arc<Demand<E::Model>>,
        name: &str,
        deadline: Deadline,
    ) -> Result<Handle<E::Model>, CatalogError> {
        let key = Name::parse(name)?;
        if let Some(failed) = demand.failed(name) {
            return Err(failed);
        }
        let (pending_load, _) = self.pending_load(demand, key);
        match timeout_at(deadline, pending_load).await {
            Ok(Ok(handle)) => Ok(handle.after_load()),
            Ok(Err(source)) => Err(CatalogError::OnDemand { source, again: None }),
            Err(_) => Err(load_error(name, LoadError::Pool(PoolError::Deadline))),
        }
    }

    /// Records a request that found its model loaded, and checks the model against the store if
    /// due.
    pub(super) fn record_hit(self: &Arc<Self>, demand: &Arc<Demand<E::Model>>, name: &str, handle: &Handle<E::Model>) {
        let Some(origin) = &handle.entry.origin else { return };
        if demand.touch(origin) {
            let (catalog, demand) = (Arc::clone(self), Arc::clone(demand));
            let (name, entry) = (name.to_owned(), Arc::clone(&handle.entry));
            let span = model_span(Operation::Refresh, &name, None);
            let refresh = async move {
                if let Err(error) = catalog.refresh(&demand, &name, &entry).await {
                    tracing::warn!("check for a newer version failed; the loaded version stays in use: {error}");
                }
                if let Some(origin) = &entry.origin {
                    origin.checked.store(demand.now(), Ordering::Relaxed);
                    origin.is_checked.store(false, Ordering::Relaxed);
                }
            };
            task::spawn(refresh.instrument(span));
        }
    }

    /// Returns the pending load of `name`, and whether this call has started it.
    fn pending_load(self: &Arc<Self>, demand: &Arc<Demand<E::Model>>, name: Name) -> (PendingLoad<E::Model>, bool) {
        let mut pending = demand.pending();
        if let Some(pending_load) = pending.get(name.as_str()) {
            return (pending_load.clone(), false);
        }
        let key = name.as_str().to_owned();
        let lost = load_error(&key, LoadError::Pool(PoolError::Panicked));
        let (catalog, guard) = (Arc::clone(self), PendingGuard(Arc::clone(demand), key.clone()));
        let span = model_span(Operation::Load, &key, None);
        let load = async move {
            let demand = &guard.0;
            let result = catalog.load_and_report(demand, &name).await.map_err(Arc::new);
            if let Err(error) = &result {
                demand.remember(name.as_str(), error);
            }
            result
        };
        let task = task::spawn(load.instrument(span));
        let pending_load = async move { task.await.unwrap_or_else(|_| Err(Arc::new(lost))) };
        let pending_load = pending_load.boxed().shared();
        pending.insert(key, pending_load.clone());
        (pending_load, true)
    }

    async fn load_and_report(
        self: &Arc<Self>,
        demand: &Demand<E::Model>,
        name: &Name,
    ) -> Result<Handle<E::Model>, CatalogError> {
        let started = Instant::now();
        let loaded = self.fetch_and_load(demand, name).await;
        let took = started.elapsed();
        match &loaded {
            Ok((handle, fetched)) => {
                demand.metrics.load(LoadOutcome::Ok, took);
                let LoadedMemory { own, shared, .. } = handle.as_ref().loaded_memory();
                let (fetch_ms, load_ms) = (milliseconds(*fetched - started), milliseconds(fetched.elapsed()));
                tracing::info!(
                    memory_bytes = own,
                    shared_bytes = shared,
                    fetch_ms,
                    load_ms,
                    "model loaded"
                );
            }
            Err(error) => {
                let outcome = if error.is_no_memory() {
                    LoadOutcome::NoMemory
                } else {
                    LoadOutcome::Failed
                };
                demand.metrics.load(outcome, took);
                // An unknown name is the caller's mistake; the response reports it.
                if !error.is_not_found() {
                    tracing::warn!("{error}");
                }
            }
        }
        loaded.map(|(handle, _)| handle)
    }

    /// Loads a model into memory from the disk cache or the store. Also returns the time at which
    /// its files were on disk.
    async fn fetch_and_load(
        self: &Arc<Self>,
        demand: &Demand<E::Model>,
        name: &Name,
    ) -> Result<(Handle<E::Model>, Instant), CatalogError> {
        let until = Instant::now() + demand.settings.memory_timeout;
        let located = demand
            .store
            .find(name)
            .await
            .map_err(|error| fetch_error(name, error))?;
        let lease = self.fetched(demand, name, located, until).await?;
        let fetched = Instant::now();
        let url = demand.store.url_of(name);
        let load = || self.load_or_lookup(name.as_str(), &url, lease.path(), || demand.origin(&lease));
        let handle = self.with_eviction(demand, name.as_str(), until, load).await?;
        Ok((handle, fetched))
    }

    async fn load_or_lookup(
        self: &Arc<Self>,
        name: &str,
        url: &str,
        path: &Path,
        origin: impl Fn() -> Origin,
    ) -> Result<Handle<E::Model>, CatalogError> {
        loop {
            match self
                .load_from(name, url, None, &ArtifactPath::trusted(path), Some(origin()))
                .await
            {
                // Another load finished between the lookup and this load.
                Err(CatalogError::AlreadyLoaded { .. }) => {
                    if let Lookup::Model(handle) = self.lookup(name).await {
                        return Ok(handle);
                    }
                }
                loaded => return loaded,
            }
        }
    }

    /// Downloads `located` unless it is on disk already.
    async fn fetched(
        &self,
        demand: &Demand<E::Model>,
        name: &Name,
        located: Located,
        until: Instant,
    ) -> Result<Lease, CatalogError> {
        let arrival = match located {
            Located::OnDisk(lease) => return Ok(lease),
            Located::InStore(arrival) => arrival,
        };
        let bytes = demand.store.memory(&arrival);
        let reserve = || async {
            let reserved = self.engine.reserve_body(bytes);
            reserved.map_err(|refused| load_error(name.as_str(), refused.into()))
        };
        let _reserved = self.with_eviction(demand, name.as_str(), until, reserve).await?;
        demand
            .store
            .fetch(arrival)
            .await
            .map_err(|error| fetch_error(name, error))
    }
}

fn fetch_error(name: &Name, source: FetchError) -> CatalogError {
    CatalogError::Fetch {
        name: name.as_str().to_owned(),
        source,
    }
}

fn unloaded<M>(demand: &Demand<M>, name: &str, why: UnloadReason, started: Instant, memory_bytes: u64) {
    let elapsed = started.elapsed();
    demand.metrics.unload(why, Some(elapsed));
    let unload_ms = milliseconds(elapsed);
    tracing::info!(
        model = shortened(name),
        why = why.label(),
        memory_bytes,
        unload_ms,
        "model unloaded"
    );
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
