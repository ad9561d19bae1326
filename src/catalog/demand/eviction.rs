//! Eviction: unloads models until the memory ledger admits another one.
//!
//! Loads that lack memory evict one at a time, but retry in parallel: one eviction may free enough
//! for two loads, and a slow load must not block the others.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::{Demand, unloaded};
use crate::catalog::model_engine::ModelEngine;
use crate::catalog::{Catalog, CatalogEntry, CatalogError, shortened};
use crate::engine::{LoadError, NoRoom, SessionError};
use crate::telemetry::metrics::UnloadReason;

/// Time that a load waits when all models have requests, and how many times it waits. After that
/// it closes one of them to new requests.
pub const PAUSE: Duration = Duration::from_millis(20);
pub const PAUSES: usize = 5;

/// Result of an attempt to evict.
enum EvictionOutcome {
    Some,
    /// All models have requests.
    AllBusy,
    /// No model may be unloaded.
    NoCandidate,
}

/// A model from the store: its name, its entry and the time of its last request.
type Candidate<M> = (String, Arc<CatalogEntry<M>>, u64);

/// The models that an eviction has unloaded.
#[derive(Debug, Clone, Copy, Default)]
pub struct Evicted {
    pub count: u64,
    pub bytes: u64,
}

impl Evicted {
    /// Whether the eviction unloads the next victim, in the order of their last use,
    /// when `missing` bytes were not free. A model with requests is unloaded only if no other was,
    /// and only if the load has waited for long enough.
    pub fn takes_next(&self, missing: u64, is_busy: bool, is_pressing: bool) -> bool {
        self.bytes < missing.max(1) && (!is_busy || (self.count == 0 && is_pressing))
    }
}

/// Memory that the ledger refused.
pub(super) struct MissingMemory {
    needed: u64,
    /// The part of `needed` that is not free.
    bytes: u64,
}

pub(super) fn missing(error: &CatalogError) -> Option<MissingMemory> {
    let CatalogError::Load { source, .. } = error else {
        return None;
    };
    match &**source {
        LoadError::NoRoom(NoRoom { needed, available, .. }) => Some(MissingMemory {
            needed: *needed,
            bytes: needed.saturating_sub(*available),
        }),
        // ONNX Runtime does not report how much was missing.
        LoadError::Session(SessionError::OutOfMemory) => Some(MissingMemory { needed: 0, bytes: 1 }),
        _ => None,
    }
}

impl<E: ModelEngine> Catalog<E> {
    /// Retries `attempt` and evicts other models in between. Ends when it succeeds, when eviction
    /// cannot help, or at `until`.
    pub(super) async fn with_eviction<T, F: Future<Output = Result<T, CatalogError>>>(
        &self,
        demand: &Demand<E::Model>,
        name: &str,
        until: Instant,
        attempt: impl Fn() -> F,
    ) -> Result<T, CatalogError> {
        let mut pauses = 0;
        loop {
            let before = demand.evictions.load(Ordering::Acquire);
            let error = match attempt().await {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            let missing = match missing(&error) {
                Some(missing) if demand.settings.evict && Instant::now() < until => missing,
                _ => return Err(error),
            };
            if missing.needed > self.engine.memory_for_models() {
                return Err(error);
            }
            let load_ended = demand.load_ended.notified();
            let evicting = demand.evicting.lock().await;
            if demand.evictions.load(Ordering::Acquire) != before {
                continue;
            }
            match self.evict(demand, name, missing.bytes, pauses >= PAUSES).await {
                EvictionOutcome::Some => {
                    demand.evictions.fetch_add(1, Ordering::Release);
                    continue;
                }
                // No other load is pending that could end with less memory than it reserved, so
                // waiting would not help.
                EvictionOutcome::NoCandidate if demand.pending().len() <= 1 => return Err(error),
                EvictionOutcome::NoCandidate | EvictionOutcome::AllBusy => {}
            }
            drop(evicting);
            pauses += 1;
            let _ = timeout(PAUSE, load_ended).await;
        }
    }

    /// Unloads models other than `name` until `bytes` more are free. Takes models without
    /// requests. If there are none and `is_pressing` is true, takes one with requests and waits
    /// for these.
    async fn evict(&self, demand: &Demand<E::Model>, name: &str, bytes: u64, is_pressing: bool) -> EvictionOutcome {
        let mut victims = self.evictable(name);
        if victims.is_empty() {
            return EvictionOutcome::NoCandidate;
        }
        victims.sort_by_key(|(_, entry, used)| (!entry.users.is_empty(), *used));
        let mut evicted = Evicted::default();
        for (victim, entry, _) in victims {
            let is_busy = !entry.users.is_empty();
            if !evicted.takes_next(bytes, is_busy, is_pressing) {
                break;
            }
            let (started, memory) = (Instant::now(), entry.charge());
            match self.unload_entry(&victim, &entry).await {
                Ok(true) => {
                    evicted.count += 1;
                    evicted.bytes += memory;
                    unloaded(demand, &victim, UnloadReason::Memory, started, memory);
                }
                Ok(false) => {}
                Err(error) => tracing::warn!(model = shortened(&victim), "eviction failed: {error}"),
            }
        }
        if evicted.count > 0 {
            EvictionOutcome::Some
        } else {
            EvictionOutcome::AllBusy
        }
    }

    /// Lists the loaded models from the store, except `name`. Leaves out models with stuck runs,
    /// because an unload does not free their memory.
    pub(super) fn evictable(&self, name: &str) -> Vec<Candidate<E::Model>> {
        self.models
            .iter()
            .filter(|(other, entry)| other.as_str() != name && !entry.users.is_closed())
            .filter(|(_, entry)| entry.standing().is_none_or(|standing| standing.runs() == 0))
            .filter_map(|(other, entry)| {
                let used = entry.origin.as_ref()?.used.load(Ordering::Relaxed);
                Some((other.to_string(), entry, used))
            })
            .collect()
    }
}
