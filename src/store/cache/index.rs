//! Which entries there are, who uses them, and which have to go: in memory, no files.
//!
//! moka keeps the order of use and the bound. It knows of no leases, so before it may evict, all that has a lease
//! counts as used. Where leases alone are over the bound, it evicts some of them too: they are parked, can still be
//! found, and come back with the next change. All changes are made by one thread at a time, and moka's eviction is
//! driven to its end within each, so that nothing goes in between.
//!
//! | | kept | parked | doomed |
//! |---|---|---|---|
//! | can be found | yes | yes | no |
//! | has leases | maybe | yes | yes |
//! | over the bound | goes, or is parked | stays | stays |
//! | replaced, forgotten | goes, or is doomed | is doomed | - |
//! | last lease dropped | stays, if it alone is within the bound | the same | goes |

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use moka::notification::RemovalCause;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use super::{Entry, lock};

/// moka's weights have 32 bits: in this unit, entries may have 4 TiB.
const UNIT: u64 = 1024;

pub struct Index {
    /// In moka's unit.
    bound: u64,
    kept: Cache<String, Arc<Entry>>,
    /// What moka has evicted since it was last asked. Locked by its listener.
    evicted: Arc<Mutex<Vec<Arc<Entry>>>>,
    /// Entries with leases, by their number.
    leased: HashMap<u64, Leased>,
    /// Entries that nobody will find or has a lease on.
    removals: Vec<Arc<Entry>>,
    /// Entries that nobody will find, with leases.
    doomed: Vec<Arc<Entry>>,
}

struct Leased {
    entry: Arc<Entry>,
    leases: usize,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Kept,
    Parked,
    Doomed,
}

impl Index {
    pub fn new(bound: u64) -> Self {
        let evicted: Arc<Mutex<Vec<Arc<Entry>>>> = Arc::default();
        let listener = Arc::clone(&evicted);
        // None at all would be a cache that does not tell what it refuses.
        let bound = (bound / UNIT).max(1);
        let most = u32::try_from(bound).unwrap_or(u32::MAX);
        let kept = Cache::builder()
            .eviction_policy(EvictionPolicy::lru())
            // What is larger than the bound fills it, as long as there is a lease on it: moka would not take it in.
            .weigher(move |_, entry: &Arc<Entry>| u32::try_from(weight(entry)).unwrap_or(u32::MAX).min(most))
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

    /// Adds an entry of before. Those that were used earlier come first.
    pub fn restore(&mut self, entry: Arc<Entry>) {
        self.forget_url(&entry.url);
        self.idle(entry);
        self.settle();
    }

    /// Adds an entry in place of any other of its URL, with a lease on it.
    pub fn keep(&mut self, entry: Arc<Entry>) {
        self.forget_url(&entry.url);
        if self.parked().next().is_some() || self.kept.weighted_size() + weight(&entry) > self.bound {
            self.use_leased();
        }
        self.hold(&entry, State::Kept);
        self.kept.insert(entry.url.clone(), entry);
        self.settle();
    }

    /// The entry of `url`, with a lease on it.
    pub fn lease(&mut self, url: &str) -> Option<Arc<Entry>> {
        let entry = self.find(url)?;
        self.hold(&entry, State::Kept);
        self.settle();
        Some(entry)
    }

    /// Ends a lease.
    pub fn release(&mut self, entry: &Arc<Entry>) {
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
            State::Doomed => self.removals.push(Arc::clone(entry)),
            State::Kept | State::Parked => {
                self.idle(Arc::clone(entry));
                if state == State::Parked || self.parked().next().is_some() {
                    self.use_leased();
                }
            }
        }
        self.settle();
    }

    /// Makes `entry` not be found any more.
    pub fn forget(&mut self, entry: &Entry) {
        if self.find(&entry.url).is_some_and(|found| found.id == entry.id) {
            self.forget_url(&entry.url);
        }
    }

    /// Makes `url` not be found any more.
    pub fn forget_url(&mut self, url: &str) {
        let Some(entry) = self.find(url) else { return };
        self.kept.invalidate(url);
        match self.leased.get_mut(&entry.id) {
            Some(leased) => {
                leased.state = State::Doomed;
                self.doomed.push(entry);
            }
            None => self.removals.push(entry),
        }
        self.settle();
    }

    /// Makes all that nobody has a lease on be unknown. Whether there was any.
    pub fn forget_idle(&mut self) -> bool {
        let entries = self.kept.iter().map(|(_, entry)| entry);
        let idle = Vec::from_iter(entries.filter(|entry| !self.leased.contains_key(&entry.id)));
        for entry in &idle {
            self.forget_url(&entry.url);
        }
        !idle.is_empty()
    }

    /// What is to be removed since this was last asked.
    pub fn removals(&mut self) -> impl Iterator<Item = Arc<Entry>> + use<> {
        std::mem::take(&mut self.removals).into_iter()
    }

    /// What is to be removed when its leases end, since this was last asked.
    pub fn doomed(&mut self) -> impl Iterator<Item = Arc<Entry>> + use<> {
        std::mem::take(&mut self.doomed).into_iter()
    }

    /// How many entries can be found, and the bytes of those with leases.
    pub fn count(&self) -> (u64, u64) {
        let leased = self.leased.values().map(|leased| leased.entry.bytes).sum();
        (self.kept.entry_count() + self.parked().count() as u64, leased)
    }

    /// The entry of `url`, which is not used thereby.
    #[cfg(test)]
    pub fn peek(&self, url: &str) -> Option<Arc<Entry>> {
        let kept = self.kept.iter().find(|(key, _)| key.as_str() == url);
        kept.map(|(_, entry)| entry).or_else(|| self.find(url))
    }

    fn find(&self, url: &str) -> Option<Arc<Entry>> {
        let parked = || self.parked().find(|entry| entry.url == url).map(Arc::clone);
        self.kept.get(url).or_else(parked)
    }

    fn parked(&self) -> impl Iterator<Item = &Arc<Entry>> {
        let parked = self.leased.values().filter(|leased| leased.state == State::Parked);
        parked.map(|leased| &leased.entry)
    }

    /// Lets an entry without leases be the one that was used last.
    fn idle(&mut self, entry: Arc<Entry>) {
        if weight(&entry) > self.bound {
            self.kept.invalidate(&entry.url);
            self.removals.push(entry);
        } else {
            self.kept.insert(entry.url.clone(), entry);
        }
    }

    /// Lets all that has leases be used after all that has none, and what was parked count again. By inserting: moka
    /// takes in what was looked up before what was inserted, whichever came first.
    fn use_leased(&mut self) {
        for leased in self.leased.values_mut() {
            if leased.state != State::Doomed {
                self.kept.insert(leased.entry.url.clone(), Arc::clone(&leased.entry));
                leased.state = State::Kept;
            }
        }
    }

    fn hold(&mut self, entry: &Arc<Entry>, state: State) {
        let leased = self.leased.entry(entry.id).or_insert_with(|| Leased {
            entry: Arc::clone(entry),
            leases: 0,
            state,
        });
        leased.leases += 1;
    }

    /// Lets moka evict what is over the bound, and says what becomes of it.
    fn settle(&mut self) {
        self.kept.run_pending_tasks();
        for entry in std::mem::take(&mut *lock(&self.evicted)) {
            // It was evicted in between, and is there again.
            if self.kept.contains_key(&entry.url) {
                continue;
            }
            match self.leased.get_mut(&entry.id) {
                Some(leased) if leased.state == State::Kept => leased.state = State::Parked,
                Some(_) => {}
                None => self.removals.push(entry),
            }
        }
    }
}

/// What an entry counts.
fn weight(entry: &Entry) -> u64 {
    entry.bytes.div_ceil(UNIT)
}
