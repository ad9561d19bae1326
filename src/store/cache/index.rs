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

use super::CacheEntry;

pub struct Index {
    /// Limit in bytes.
    bound: u64,
    /// Bytes of the entries that can be found.
    bytes: u64,
    /// Entries that can be found, by URL.
    found: HashMap<String, Found>,
    /// URLs of the entries that can be found and have no leases, by their last use.
    idle: BTreeMap<u64, String>,
    /// Entries that cannot be found, but have leases, by id.
    dropped: HashMap<u64, Found>,
    /// Number of uses so far.
    uses: u64,
    removals: Vec<Removal>,
}

struct Found {
    entry: Arc<CacheEntry>,
    leases: usize,
    /// When the last lease ended, as a number of uses.
    last: u64,
}

/// An entry that cannot be found any more.
pub enum Removal {
    /// It has no leases.
    Now(Arc<CacheEntry>),
    /// It has leases.
    Later(Arc<CacheEntry>),
}

impl Index {
    pub fn new(bound: u64) -> Self {
        Self {
            bound,
            bytes: 0,
            found: HashMap::new(),
            idle: BTreeMap::new(),
            dropped: HashMap::new(),
            uses: 0,
            removals: Vec::new(),
        }
    }

    /// Adds an entry of an earlier process. The least recently used entries have to come first.
    pub fn restore(&mut self, entry: Arc<CacheEntry>) {
        if entry.bytes > self.bound {
            self.removals.push(Removal::Now(entry));
            return;
        }
        self.keep(Arc::clone(&entry));
        self.release(&entry);
    }

    /// Adds an entry with a lease on it, in place of any other entry of its URL.
    pub fn keep(&mut self, entry: Arc<CacheEntry>) {
        self.forget(&entry.url);
        self.bytes += entry.bytes;
        let found = Found {
            entry: Arc::clone(&entry),
            leases: 1,
            last: 0,
        };
        self.found.insert(entry.url.clone(), found);
        self.evict();
    }

    /// Looks up the entry of `url`, and adds a lease on it.
    pub fn lease(&mut self, url: &str) -> Option<Arc<CacheEntry>> {
        let found = self.found.get_mut(url)?;
        if found.leases == 0 {
            self.idle.remove(&found.last);
        }
        found.leases += 1;
        Some(Arc::clone(&found.entry))
    }

    /// Ends a lease.
    pub fn release(&mut self, entry: &CacheEntry) {
        if let Some(dropped) = self.dropped.get_mut(&entry.id) {
            dropped.leases -= 1;
            if dropped.leases == 0
                && let Some(dropped) = self.dropped.remove(&entry.id)
            {
                self.removals.push(Removal::Now(dropped.entry));
            }
        } else if let Some(found) = self.found.get_mut(&entry.url) {
            found.leases -= 1;
            if found.leases > 0 {
                return;
            }
            self.uses += 1;
            found.last = self.uses;
            self.idle.insert(found.last, entry.url.clone());
            self.evict();
        }
    }

    /// Forgets the entry of `url`, so that it is not found again.
    pub fn forget(&mut self, url: &str) {
        let Some(found) = self.found.remove(url) else { return };
        self.bytes -= found.entry.bytes;
        if found.leases == 0 {
            self.idle.remove(&found.last);
            self.removals.push(Removal::Now(found.entry));
        } else {
            self.removals.push(Removal::Later(Arc::clone(&found.entry)));
            self.dropped.insert(found.entry.id, found);
        }
    }

    /// Forgets `entry`, unless another one has replaced it.
    pub fn forget_entry(&mut self, entry: &CacheEntry) {
        if self
            .found
            .get(&entry.url)
            .is_some_and(|found| found.entry.id == entry.id)
        {
            self.forget(&entry.url);
        }
    }

    /// Forgets the entries without leases. Returns whether there were any.
    pub fn forget_idle(&mut self) -> bool {
        let idle = Vec::from_iter(self.idle.values().cloned());
        idle.iter().for_each(|url| self.forget(url));
        !idle.is_empty()
    }

    /// Takes the entries that cannot be found any more since the last call.
    pub fn removals(&mut self) -> Vec<Removal> {
        std::mem::take(&mut self.removals)
    }

    /// Number of entries that can be found, and bytes of all entries with leases.
    pub fn count(&self) -> (u64, u64) {
        let leased = self.found.values().filter(|found| found.leases > 0);
        let leased = leased.chain(self.dropped.values());
        (self.found.len() as u64, leased.map(|found| found.entry.bytes).sum())
    }

    /// Looks up the entry of `url` without counting as a use.
    #[cfg(test)]
    pub fn peek(&self, url: &str) -> Option<Arc<CacheEntry>> {
        Some(Arc::clone(&self.found.get(url)?.entry))
    }

    /// Forgets the least recently used entries until the others are within the limit.
    fn evict(&mut self) {
        while self.bytes > self.bound
            && let Some((_, url)) = self.idle.pop_first()
        {
            self.forget(&url);
        }
    }
}
