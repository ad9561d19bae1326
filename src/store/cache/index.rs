//! The index of entries, their leases and their order of eviction: memory only, no files.
//!
//! | | idle | leased | dropped |
//! |---|---|---|---|
//! | can be found | yes | yes | no |
//! | has leases | no | yes | yes |
//! | over the limit | goes, in the order of last use | stays | stays |
//! | replaced, forgotten | goes | is dropped | - |
//! | last lease ends | - | is idle, if within the limit on its own | goes |

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use super::CacheEntry;

pub struct Index {
    /// Limit in bytes.
    bound: u64,
    /// Bytes of the entries that can be found.
    bytes: u64,
    /// Bytes of the entries with leases, whether or not they can be found.
    leased: u64,
    /// Entries that can be found, by URL.
    found: HashMap<String, Arc<CacheEntry>>,
    /// Those of them without leases, by their last use.
    idle: BTreeMap<u64, Arc<CacheEntry>>,
    /// Number of uses so far.
    uses: u64,
    removals: Vec<Arc<CacheEntry>>,
}

/// The index's account of an entry, which changes under the index's lock only.
#[derive(Debug, Default)]
pub struct EntryUse {
    leases: AtomicUsize,
    /// When the last lease ended, as a number of uses.
    last: AtomicU64,
}

impl Index {
    pub fn new(bound: u64) -> Self {
        Self {
            bound,
            bytes: 0,
            leased: 0,
            found: HashMap::new(),
            idle: BTreeMap::new(),
            uses: 0,
            removals: Vec::new(),
        }
    }

    /// Adds an entry of an earlier process. The least recently used entries have to come first.
    pub fn restore(&mut self, entry: Arc<CacheEntry>) {
        if entry.bytes > self.bound {
            self.removals.push(entry);
            return;
        }
        self.keep(Arc::clone(&entry));
        self.release(&entry);
    }

    /// Adds an entry with a lease on it, in place of any other entry of its URL.
    pub fn keep(&mut self, entry: Arc<CacheEntry>) {
        self.forget(&entry.url);
        self.hold(&entry);
        self.bytes += entry.bytes;
        self.found.insert(entry.url.clone(), entry);
        self.evict();
    }

    /// Looks up the entry of `url`, and adds a lease on it.
    pub fn lease(&mut self, url: &str) -> Option<Arc<CacheEntry>> {
        let entry = Arc::clone(self.found.get(url)?);
        self.hold(&entry);
        Some(entry)
    }

    fn hold(&mut self, entry: &CacheEntry) {
        if entry.usage.leases.fetch_add(1, Relaxed) == 0 {
            self.idle.remove(&entry.usage.last.load(Relaxed));
            self.leased += entry.bytes;
        }
    }

    /// Ends a lease.
    pub fn release(&mut self, entry: &Arc<CacheEntry>) {
        if entry.usage.leases.fetch_sub(1, Relaxed) > 1 {
            return;
        }
        self.leased -= entry.bytes;
        if self.can_find(entry) {
            self.uses += 1;
            entry.usage.last.store(self.uses, Relaxed);
            self.idle.insert(self.uses, Arc::clone(entry));
            self.evict();
        } else {
            self.removals.push(Arc::clone(entry));
        }
    }

    /// Forgets the entry of `url`, so that it is not found again.
    pub fn forget(&mut self, url: &str) {
        if let Some(entry) = self.found.remove(url) {
            self.bytes -= entry.bytes;
            self.idle.remove(&entry.usage.last.load(Relaxed));
            self.removals.push(entry);
        }
    }

    /// Forgets the entries without leases. Returns whether there were any.
    pub fn forget_idle(&mut self) -> bool {
        let idle = std::mem::take(&mut self.idle);
        idle.values().for_each(|entry| self.forget(&entry.url));
        !idle.is_empty()
    }

    /// Takes the entries to be removed since the last call. Those with leases come again when the
    /// last one ends.
    pub fn removals(&mut self) -> Vec<Arc<CacheEntry>> {
        std::mem::take(&mut self.removals)
    }

    /// Number of entries that can be found, and bytes of those with leases.
    pub fn count(&self) -> (u64, u64) {
        (self.found.len() as u64, self.leased)
    }

    /// Whether a lookup finds this entry, rather than another one or none.
    pub fn can_find(&self, entry: &Arc<CacheEntry>) -> bool {
        self.found
            .get(&entry.url)
            .is_some_and(|found| Arc::ptr_eq(found, entry))
    }

    /// Looks up the entry of `url` without counting as a use.
    #[cfg(test)]
    pub fn peek(&self, url: &str) -> Option<Arc<CacheEntry>> {
        self.found.get(url).cloned()
    }

    /// Forgets the least recently used entries until the others are within the limit.
    fn evict(&mut self) {
        while self.bytes > self.bound
            && let Some((_, entry)) = self.idle.pop_first()
        {
            self.forget(&entry.url);
        }
    }
}

impl EntryUse {
    pub fn has_leases(&self) -> bool {
        self.leases.load(Relaxed) > 0
    }
}
