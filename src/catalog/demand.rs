//! Own mode: a model comes out of the store when somebody asks for it, and goes when others need the room.
//!
//! | the name is | a request | evicted, idle for long, or gone from the store |
//! |---|---|---|
//! | absent | starts a flight, and waits for it | |
//! | in flight | waits for the flight that there is | |
//! | loaded | is answered | is unloaded when its last request has been answered |
//! | failed a moment ago | gets what the last flight failed of | |
//!
//! A flight is a task of its own: it goes on when the request that started it gives up, and what it brings is held for
//! all that wait for it, so that nobody else's need can take it away before they have been answered.
//!
//! Room is made by the ledger's word alone (a load is refused for want of memory), not by a bound on a cache: what a model
//! takes is known when it has been loaded, and what is free depends on requests too. The longest unused model goes first,
//! and none with requests under way while there is one without. Models that the server was started with stay.

mod ahead;
mod room;
mod upkeep;

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use moka::sync::Cache;
use tokio::sync::Notify;
use tokio::task;
use tokio::time::{Instant as Deadline, timeout_at};

use super::{Catalog, CatalogError, Handle, Lent, Presence, load_error, shortened};
use crate::engine::{ArtifactPath, LoadError, PoolError};
use crate::store::{FetchError, Lease, Located, Name, Store, Version};
use crate::telemetry::metrics::{Eviction, Metrics, Operation};

/// Failures that are remembered at a time.
const FAILURES: u64 = 4096;

/// How own mode is run.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Whether models are unloaded to make room for others.
    pub evict: bool,
    /// Without requests for so long, a model is unloaded.
    pub idle_unload: Option<Duration>,
    /// For which a loaded model is not looked up in the store.
    pub revalidate: Duration,
    /// For which a model that could not be loaded is not tried again.
    pub negative_ttl: Duration,
    /// How long a load waits for room.
    pub patience: Duration,
}

/// What own mode knows beside the directory.
#[derive(Debug)]
pub struct Demand {
    pub(super) store: Store,
    pub(super) settings: Settings,
    metrics: Arc<Metrics>,
    /// Locked to look a flight up or to enter or leave, never while one goes on.
    flights: Mutex<HashMap<String, Flight>>,
    /// A flight has ended.
    landed: Notify,
    failures: Cache<String, Failure>,
    /// Taken by one load at a time, to make room: two that need the same room need it once.
    room: tokio::sync::Mutex<()>,
    /// Raised when room has been made.
    evictions: AtomicU64,
    clock: Instant,
}

type Flight = Shared<BoxFuture<'static, Result<Handle, Arc<CatalogError>>>>;

/// A flight that goes on, however it ends.
struct Airborne(Arc<Demand>, String);

impl Drop for Airborne {
    fn drop(&mut self) {
        self.0.flights().remove(&self.1);
        self.0.landed.notify_waiters();
    }
}

/// Why a model could not be loaded, and when.
#[derive(Debug, Clone)]
struct Failure {
    error: Arc<CatalogError>,
    at: Instant,
}

/// What is known of a model that came out of the store. Times are milliseconds on [`Demand`]'s clock.
#[derive(Debug)]
pub(super) struct Origin {
    version: Version,
    /// The newest version that the store was seen to have: another one than `version` when that could not be loaded.
    newest: Mutex<Version>,
    used: AtomicU64,
    /// Looked up in the store.
    checked: AtomicU64,
    /// Being looked up in the store.
    is_checked: AtomicBool,
}

impl Origin {
    fn newest(&self) -> MutexGuard<'_, Version> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Demand {
    /// The store, without credentials.
    pub fn url(&self) -> String {
        self.store.url()
    }

    pub fn new(store: Store, settings: Settings, metrics: Arc<Metrics>) -> Self {
        Self {
            store,
            metrics,
            flights: Mutex::default(),
            landed: Notify::new(),
            failures: Cache::builder()
                .max_capacity(FAILURES)
                .time_to_live(settings.negative_ttl)
                .build(),
            settings,
            room: tokio::sync::Mutex::default(),
            evictions: AtomicU64::new(0),
            clock: Instant::now(),
        }
    }

    fn now(&self) -> u64 {
        milliseconds(self.clock.elapsed())
    }

    fn flights(&self) -> MutexGuard<'_, HashMap<String, Flight>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// Notes that `origin`'s model is asked for, and says whether it is time to look it up in the store.
    fn touch(&self, origin: &Origin) -> bool {
        let now = self.now();
        origin.used.store(now, Ordering::Relaxed);
        let unchecked = now.saturating_sub(origin.checked.load(Ordering::Relaxed));
        unchecked > milliseconds(self.settings.revalidate) && !origin.is_checked.swap(true, Ordering::Relaxed)
    }

    /// What failed a moment ago, and what is on its way; of a name that is both, the latter comes last.
    pub(super) fn presences(&self) -> Vec<(String, Presence)> {
        let failures = self.failures.iter();
        let failed = failures.map(|(name, failure)| (name.to_string(), Presence::Failed(failure.error)));
        let mut presences: Vec<_> = failed.collect();
        presences.extend(self.flights().keys().map(|name| (name.clone(), Presence::Loading)));
        presences
    }

    /// What a flight failed of a moment ago.
    fn failed(&self, name: &str) -> Option<CatalogError> {
        let failure = self.failures.get(name)?;
        Some(CatalogError::OnDemand {
            source: failure.error,
            again: Some(self.settings.negative_ttl.saturating_sub(failure.at.elapsed())),
        })
    }

    fn remember(&self, name: &str, error: &Arc<CatalogError>) {
        if error.will_last() {
            let (error, at) = (Arc::clone(error), Instant::now());
            self.failures.insert(name.to_owned(), Failure { error, at });
        }
    }
}

impl Catalog {
    /// As [`Catalog::get`] when the model is not loaded.
    pub(super) async fn demand(
        self: &Arc<Self>,
        demand: &Arc<Demand>,
        name: &str,
        deadline: Deadline,
    ) -> Result<Handle, CatalogError> {
        let key = Name::parse(name)?;
        demand.metrics.demand_misses.inc();
        if let Some(failed) = demand.failed(name) {
            return Err(failed);
        }
        let (flight, _) = self.flight(demand, key);
        match timeout_at(deadline, flight).await {
            Ok(landed) => landed.map_err(|source| CatalogError::OnDemand { source, again: None }),
            Err(_) => Err(load_error(name, LoadError::Pool(PoolError::Deadline))),
        }
    }

    /// A request was lent `handle`: looks its model up in the store when that has not been done for long.
    pub(super) fn look_after(self: &Arc<Self>, demand: &Arc<Demand>, name: &str, handle: &Handle) {
        let Some(origin) = &handle.entry.origin else { return };
        demand.metrics.demand_hits.inc();
        if demand.touch(origin) {
            let (catalog, demand) = (Arc::clone(self), Arc::clone(demand));
            let (name, entry) = (name.to_owned(), Arc::clone(&handle.entry));
            task::spawn(async move {
                if let Err(error) = catalog.refresh(&demand, &name, &entry).await {
                    tracing::warn!(model = shortened(&name), "the model in memory stays in use: {error}");
                }
                if let Some(origin) = &entry.origin {
                    origin.checked.store(demand.now(), Ordering::Relaxed);
                    origin.is_checked.store(false, Ordering::Relaxed);
                }
            });
        }
    }

    /// The flight that brings `name`, and whether this call has started it.
    fn flight(self: &Arc<Self>, demand: &Arc<Demand>, name: Name) -> (Flight, bool) {
        let mut flights = demand.flights();
        if let Some(flight) = flights.get(name.as_str()) {
            return (flight.clone(), false);
        }
        let key = name.as_str().to_owned();
        let lost = load_error(&key, LoadError::Pool(PoolError::Panicked));
        let (catalog, airborne) = (Arc::clone(self), Airborne(Arc::clone(demand), key.clone()));
        let task = task::spawn(async move {
            let demand = &airborne.0;
            let landed = catalog.bring_and_tell(demand, &name).await.map_err(Arc::new);
            if let Err(error) = &landed {
                demand.remember(name.as_str(), error);
            }
            landed
        });
        let flight = async move { task.await.unwrap_or_else(|_| Err(Arc::new(lost))) };
        let flight = flight.boxed().shared();
        flights.insert(key, flight.clone());
        (flight, true)
    }

    async fn bring_and_tell(&self, demand: &Demand, name: &Name) -> Result<Handle, CatalogError> {
        let started = Instant::now();
        let brought = self.bring(demand, name).await;
        let seconds = started.elapsed().as_secs_f64();
        match &brought {
            Ok((handle, fetched)) => {
                demand.metrics.model_operation(Operation::Load, "ok", seconds);
                let memory_bytes = handle.as_ref().memory();
                let (fetch_ms, load_ms) = (milliseconds(*fetched - started), milliseconds(fetched.elapsed()));
                tracing::info!(model = name.as_str(), memory_bytes, fetch_ms, load_ms, "model loaded");
            }
            Err(error) => {
                demand.metrics.model_operation(Operation::Load, "failed", seconds);
                // Names that are none are the caller's mistakes, and told with the request.
                if !error.is_not_found() {
                    tracing::warn!("{error}");
                }
            }
        }
        brought.map(|(handle, _)| handle)
    }

    /// From the store, or the disk, into memory; and when it was on disk.
    async fn bring(&self, demand: &Demand, name: &Name) -> Result<(Handle, Instant), CatalogError> {
        let until = Instant::now() + demand.settings.patience;
        let located = demand
            .store
            .find(name)
            .await
            .map_err(|error| fetch_error(name, error))?;
        let lease = self.fetched(demand, name, located, until).await?;
        let fetched = Instant::now();
        let url = demand.store.url_of(name);
        let load = || self.load_or_lend(name.as_str(), &url, lease.path(), || demand.origin(&lease));
        let handle = self.with_room(demand, name.as_str(), until, load).await?;
        Ok((handle, fetched))
    }

    async fn load_or_lend(
        &self,
        name: &str,
        url: &str,
        path: &Path,
        origin: impl Fn() -> Origin,
    ) -> Result<Handle, CatalogError> {
        loop {
            match self
                .load_from(name, url, None, &ArtifactPath::trusted(path), Some(origin()))
                .await
            {
                // By a flight that has landed since this one was found to be needed.
                Err(CatalogError::AlreadyLoaded { .. }) => {
                    if let Lent::Model(handle) = self.lend(name).await {
                        return Ok(handle);
                    }
                }
                loaded => return loaded,
            }
        }
    }

    /// What was found, on disk.
    async fn fetched(
        &self,
        demand: &Demand,
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
        let _reserved = self.with_room(demand, name.as_str(), until, reserve).await?;
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

fn unloaded(demand: &Demand, name: &str, why: Eviction, started: Instant, memory_bytes: u64) {
    let elapsed = started.elapsed();
    demand.metrics.evictions(why);
    demand
        .metrics
        .model_operation(Operation::Unload, "ok", elapsed.as_secs_f64());
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
