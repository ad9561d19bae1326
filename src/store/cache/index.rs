//! The index of entries, their leases and their order of eviction: memory only, no files.
//!
//! moka keeps the order of use and the limit, but knows nothing of leases. So before an eviction,
//! leased entries are marked as used. Where leases alone exceed the limit, moka evicts some of them
//! too: they are parked, can still be found, and return to moka with the next change. Changes are
//! made by one thread at a time, and each change completes moka's eviction, so that nothing
//! interleaves.
//!
//! | | kept | parked | doomed |
//! |---|---|---|---|
//! | can be found | yes | yes | no |
//! | has leases | maybe | yes | yes |
//! | over the bound | goes, or is parked | stays | stays |
//! | replaced, forgotten | goes, or is doomed | is doomed | - |
//! | last lease dropped | stays, if within the limit on its own | the same | goes |

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use moka::notification::RemovalCause;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use super::{CacheEntry, lock};

/// moka's weights have 32 bits: in this unit, an entry may have 4 TiB.
const UNIT: u64 = 1024;

pub struct Index {
    /// Limit in moka's unit.
    bound: u64,
    kept: Cache<String, Arc<CacheEntry>>,
    /// Entries that moka evicted since the last change. Locked by its listener.
    evicted: Arc<Mutex<Vec<Arc<CacheEntry>>>>,
    /// Entries with leases, by id.
    leased: HashMap<u64, LeasedEntry>,
    /// Entries that cannot be found and have no leases.
    removals: Vec<Arc<CacheEntry>>,
    /// Entries that cannot be found, but have leases.
    doomed: Vec<Arc<CacheEntry>>,
}

struct LeasedEntry {
    entry: Arc<CacheEntry>,
    leases: usize,
    state: EntryState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum EntryState {
    Kept,
    Parked,
    Doomed,
}

impl Index {
    pub fn new(bound: u64) -> Self {
        let evicted: Arc<Mutex<Vec<Arc<CacheEntry>>>> = Arc::default();
        let listener = Arc::clone(&evicted);
        // moka's listener does not report what a cache of capacity zero refuses.
        let bound = (bound / UNIT).max(1);
        let most = u32::try_from(bound).unwrap_or(u32::MAX);
        let kept = Cache::builder()
            .eviction_policy(EvictionPolicy::lru())
            // A leased entry above the limit weighs the whole limit, because moka would refuse it.
            .weigher(move |_, entry: &Arc<CacheEntry>| u32::try_from(weight(entry)).unwrap_or(u32::MAX).min(most))
            .max_capacity(bound)
            .eviction_listener(move |_, entry, cause: RemovalCause| {
                if cause.was_evicted() {
                    lock(&listener).push(entry);
                }
            })
            .build();
        Self {
            bound,
            kept,
            evicted,
            leased: HashMap::new(),
            removals: Vec::new(),
            doomed: Vec::new(),
        }
    }

    /// Adds an entry of an earlier process. The least recently used entries have to come first.
    pub fn restore(&mut self, entry: Arc<CacheEntry>) {
        self.forget_url(&entry.url);
        self.idle(entry);
        self.settle();
    }

    /// Adds an entry with a lease on it, in place of any other entry of its URL.
    pub fn keep(&mut self, entry: Arc<CacheEntry>) {
        self.forget_url(&entry.url);
        if self.parked().next().is_some() || self.kept.weighted_size() + weight(&entry) > self.bound {
            self.use_leased();
        }
        self.hold(&entry, EntryState::Kept);
        self.kept.insert(entry.url.clone(), entry);
        self.settle();
    }

    /// Looks up the entry of `url`, and adds a lease on it.
    pub fn lease(&mut self, url: &str) -> Option<Arc<CacheEntry>> {
        let entry = self.find(url)?;
        self.hold(&entry, EntryState::Kept);
        self.settle();
        Some(entry)
    }

    /// Ends a lease.
    pub fn release(&mut self, entry: &Arc<CacheEntry>) {
        let Some(leased) = self.leased.get_mut(&entry.id) else {
            return;
        };
        leased.leases -= 1;
        if leased.leases > 0 {
            return;
        }
        let state = leased.state;
        self.leased.remove(&entry.id);
        match state {
            EntryState::Doomed => self.removals.push(Arc::clone(entry)),
            EntryState::Kept | EntryState::Parked => {
                self.idle(Arc::clone(entry));
                if state == EntryState::Parked || self.parked().next().is_some() {
                    self.use_leased();
                }
            }
        }
        self.settle();
    }

    /// Forgets `entry`, so that it is not found again.
    pub fn forget(&mut self, entry: &CacheEntry) {
        if self.find(&entry.url).is_some_and(|found| found.id == entry.id) {
            self.forget_url(&entry.url);
        }
    }

    /// Forgets the entry of `url`.
    pub fn forget_url(&mut self, url: &str) {
        let Some(entry) = self.find(url) else { return };
        self.kept.invalidate(url);
        match self.leased.get_mut(&entry.id) {
            Some(leased) => {
                leased.state = EntryState::Doomed;
                self.doomed.push(entry);
            }
            None => self.removals.push(entry),
        }
        self.settle();
    }

    /// Forgets the entries without leases. Returns whether there were any.
    pub fn forget_idle(&mut self) -> bool {
        let entries = self.kept.iter().map(|(_, entry)| entry);
        let idle = Vec::from_iter(entries.filter(|entry| !self.leased.contains_key(&entry.id)));
        for entry in &idle {
            self.forget_url(&entry.url);
        }
        !idle.is_empty()
    }

    /// Takes the entries to be removed since the last call.
    pub fn removals(&mut self) -> impl Iterator<Item = Arc<CacheEntry>> + use<> {
        std::mem::take(&mut self.removals).into_iter()
    }

    /// Takes the entries to be removed when their leases end, since the last call.
    pub fn doomed(&mut self) -> impl Iterator<Item = Arc<CacheEntry>> + use<> {
        std::mem::take(&mut self.doomed).into_iter()
    }

    /// Number of entries that can be found, and bytes of those with leases.
    pub fn count(&self) -> (u64, u64) {
        let leased = self.leased.values().map(|leased| leased.entry.bytes).sum();
        (self.kept.entry_count() + self.parked().count() as u64, leased)
    }

    /// Looks up the entry of `url` without counting as a use.
    #[cfg(test)]
    pub fn peek(&self, url: &str) -> Option<Arc<CacheEntry>> {
        let kept = self.kept.iter().find(|(key, _)| key.as_str() == url);
        kept.map(|(_, entry)| entry).or_else(|| self.find(url))
    }

    fn find(&self, url: &str) -> Option<Arc<CacheEntry>> {
        let parked = || self.parked().find(|entry| entry.url == url).map(Arc::clone);
        self.kept.get(url).or_else(parked)
    }

    fn parked(&self) -> impl Iterator<Item = &Arc<CacheEntry>> {
        let parked = self.leased.values().filter(|leased| leased.state == EntryState::Parked);
        parked.map(|leased| &leased.entry)
    }

    /// Makes an entry without leases the most recently used one.
    fn idle(&mut self, entry: Arc<CacheEntry>) {
        if weight(&entry) > self.bound {
            self.kept.invalidate(&entry.url);
            self.removals.push(entry);
        } else {
            self.kept.insert(entry.url.clone(), entry);
        }
    }

    /// Marks leased entries as used after all others, and returns parked ones to moka. Inserts
    /// rather than looks up, because moka applies pending lookups before pending insertions.
    fn use_leased(&mut self) {
        for leased in self.leased.values_mut() {
            if leased.state != EntryState::Doomed {
                self.kept.insert(leased.entry.url.clone(), Arc::clone(&leased.entry));
                leased.state = EntryState::Kept;
            }
        }
    }

    fn hold(&mut self, entry: &Arc<CacheEntry>, state: EntryState) {
        let leased = self.leased.entry(entry.id).or_insert_with(|| LeasedEntry {
            entry: Arc::clone(entry),
            leases: 0,
            state,
        });
        leased.leases += 1;
    }

    /// Makes moka evict what exceeds the limit, and sorts the evicted entries.
    fn settle(&mut self) {
        self.kept.run_pending_tasks();
        for entry in std::mem::take(&mut *lock(&self.evicted)) {
            // It was evicted in between, and inserted again.
            if self.kept.contains_key(&entry.url) {
                continue;
            }
            match self.leased.get_mut(&entry.id) {
                Some(leased) if leased.state == EntryState::Kept => leased.state = EntryState::Parked,
                Some(_) => {}
                None => self.removals.push(entry),
            }
        }
    }
}

/// An entry's weight in moka's unit.
fn weight(entry: &CacheEntry) -> u64 {
    entry.bytes.div_ceil(UNIT)
}
