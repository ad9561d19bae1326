//! Room for a model: others are unloaded until the ledger admits it.
//!
//! Loads that find no room take turns in making it, and try again beside each other: what one has unloaded may be enough for
//! two, and a model that takes long to load holds up none that does not.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::{Demand, unloaded};
use crate::catalog::{Catalog, CatalogError, Entry, shortened};
use crate::engine::{LoadError, NoRoom, SessionError};
use crate::telemetry::metrics::Eviction;

/// How long a load that finds no model without requests waits before it looks again, and how often, before it makes one
/// take no more requests.
const PAUSE: Duration = Duration::from_millis(20);
const PAUSES: usize = 5;

/// What came of making room.
enum Evicted {
    Some,
    /// All models have requests.
    AllBusy,
    /// No model may be unloaded.
    NoCandidate,
}

/// Memory that was refused.
pub(super) struct Missing {
    needed: u64,
    /// Of it, what is not free.
    bytes: u64,
}

pub(super) fn missing(error: &CatalogError) -> Option<Missing> {
    let CatalogError::Load { source, .. } = error else {
        return None;
    };
    match &**source {
        LoadError::NoRoom(NoRoom { needed, available, .. }) => Some(Missing {
            needed: *needed,
            bytes: needed.saturating_sub(*available),
        }),
        // How much, nobody knows.
        LoadError::Session(SessionError::OutOfMemory) => Some(Missing { needed: 0, bytes: 1 }),
        _ => None,
    }
}

impl Catalog {
    /// Tries `attempt` until it succeeds, or fails for another reason than room that can be made.
    pub(super) async fn with_room<T, F: Future<Output = Result<T, CatalogError>>>(
        &self,
        demand: &Demand,
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
            let landed = demand.landed.notified();
            let turn = demand.room.lock().await;
            if demand.evictions.load(Ordering::Acquire) != before {
                continue;
            }
            match self.evict(demand, name, missing.bytes, pauses >= PAUSES).await {
                Evicted::Some => {
                    demand.evictions.fetch_add(1, Ordering::Release);
                    continue;
                }
                // Nor is another load under way, which may end with less than it has reserved: nothing will change.
                Evicted::NoCandidate if demand.flights().len() <= 1 => return Err(error),
                Evicted::NoCandidate | Evicted::AllBusy => {}
            }
            drop(turn);
            pauses += 1;
            let _ = timeout(PAUSE, landed).await;
        }
    }

    /// Unloads models other than `name` until `bytes` are free that were not: those without requests, and when there are
    /// none and it `is_pressing`, one that has some, after these have been answered.
    async fn evict(&self, demand: &Demand, name: &str, bytes: u64, is_pressing: bool) -> Evicted {
        let mut victims = self.evictable(name);
        if victims.is_empty() {
            return Evicted::NoCandidate;
        }
        victims.sort_by_key(|(_, entry, used)| (!entry.users.is_empty(), *used));
        let (mut count, mut freed) = (0, 0);
        for (victim, entry, _) in victims {
            let is_busy = !entry.users.is_empty();
            if freed >= bytes.max(1) || (is_busy && (count > 0 || !is_pressing)) {
                break;
            }
            let (started, memory) = (Instant::now(), entry.charge());
            match self.unload_entry(&victim, &entry).await {
                Ok(true) => {
                    count += 1;
                    freed += memory;
                    unloaded(demand, &victim, Eviction::Memory, started, memory);
                }
                Ok(false) => {}
                Err(error) => tracing::warn!(model = shortened(&victim), "not unloaded to make room: {error}"),
            }
        }
        if count > 0 { Evicted::Some } else { Evicted::AllBusy }
    }

    /// The loaded models that came out of the store, other than `name`, and when they were asked for last; but those with
    /// stuck runs, whose memory an unload does not free.
    pub(super) fn evictable(&self, name: &str) -> Vec<(String, Arc<Entry>, u64)> {
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
