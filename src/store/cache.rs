//! The disk cache of models that were fetched from a store and unpacked: found by URL, limited in
//! size, kept across restarts. `disk_cache.rs` compares it with the cache of prepared models.
//!
//! Users of an entry hold a [`Lease`] on it. Over the limit, entries are evicted in the order of
//! last use. An evicted, replaced or forgotten entry without leases is removed at once, one with
//! leases when the last lease ends. Leased entries count as just used, so they are evicted last.
//!
//! Invariants:
//! - Entries that can be found stay within the limit, unless those with leases alone exceed it. Not
//!   counted against the limit: downloads in progress, evicted entries still in use, and entries
//!   queued for deletion, which are gone before the next download begins.
//! - An entry's files exist as long as there is a lease on it. The cache removes only what it made.
//! - A crash leaves no half entry: an entry appears whole, by a rename, and loses its description
//!   before it is removed (`bucket.rs`).
//! - No file is touched under the lock. Threads that drop a lease may be serving requests, so they
//!   remove no files: a thread of the cache does that (`janitor.rs`).

mod bucket;
mod description;
mod index;
mod janitor;

#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::version::Version;
use crate::disk_cache::{FolderError, unusable};
use bucket::EntryFolders;
use index::{EntryUse, Index};
use janitor::Janitor;

/// Shortest time between two writes of an entry's last use. Only the eviction order after a restart
/// depends on it.
const TOUCH_INTERVAL: Duration = Duration::from_secs(60);

#[derive(Debug, thiserror::Error)]
pub enum DiskCacheError {
    #[error(transparent)]
    Folder(#[from] FolderError),
    #[error("{} is on a file system without locks ({source}); name a folder on another file system", path.display())]
    NoLocks {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} other processes use {}; name another folder", bucket::MAX_PROCESSES, path.display())]
    Taken { path: PathBuf },
    #[error("{} was deleted, and another process has claimed it since; start again", path.display())]
    Lost { path: PathBuf },
    #[error("write {}: {source}", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Usage of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of all entries, including those queued for deletion.
    pub bytes: u64,
    /// Entries that can be found.
    pub entries: u64,
    /// Bytes of the entries with leases.
    pub leased: u64,
}

/// An entry's properties, in memory.
#[derive(Debug)]
struct CacheEntry {
    url: String,
    version: Version,
    /// The folder of all files of the entry.
    folder: PathBuf,
    /// The unpacked files, below `folder`.
    content: PathBuf,
    bytes: u64,
    usage: EntryUse,
    /// When the entry was last known to be the store's version; locked for the access alone.
    checked: Mutex<Option<Instant>>,
    /// When the last use was last written to disk; locked for the access alone.
    touched: Mutex<Instant>,
}

/// The disk cache of one process.
#[derive(Debug)]
pub struct DiskCache {
    shared: Arc<CacheShared>,
}

struct CacheShared {
    /// Locked for changes in memory only.
    index: Mutex<Index>,
    /// Declared before the bucket: its thread ends before the bucket's lock is released.
    janitor: Janitor,
    bucket: EntryFolders,
}

/// A folder that is being filled. Dropping it removes the folder, unless the cache kept it.
#[derive(Debug)]
pub struct Unfinished {
    folder: PathBuf,
    content: PathBuf,
    shared: Arc<CacheShared>,
    is_kept: bool,
}

/// Keeps an entry's files on disk.
#[derive(Debug, Clone)]
pub struct Lease(Arc<LeaseHolder>);

#[derive(Debug)]
struct LeaseHolder {
    entry: Arc<CacheEntry>,
    shared: Arc<CacheShared>,
}

impl DiskCache {
    /// Opens a subfolder of `folder` for this process alone, limited to `bound` bytes. The entries
    /// of an earlier process there are taken over.
    pub fn open(folder: &Path, bound: u64) -> Result<Self, DiskCacheError> {
        let bucket = EntryFolders::open(folder)?;
        let janitor = Janitor::start().map_err(unusable(folder))?;
        let found = bucket.entries(&janitor)?;
        let shared = Arc::new(CacheShared {
            index: Mutex::new(Index::new(bound)),
            janitor,
            bucket,
        });
        for found in found {
            let description = found.description;
            let entry = shared.entry(description.url, description.version, found.folder, description.bytes);
            if !found.is_settled {
                shared.janitor.settle(&entry.folder);
            }
            shared.change(|index| index.restore(entry));
        }
        Ok(Self { shared })
    }

    /// Looks up the entry of `url`. Waits for the disk.
    pub fn get(&self, url: &str) -> Option<Lease> {
        let entry = self.shared.change(|index| index.lease(url))?;
        let lease = self.leased(entry);
        let entry = &lease.0.entry;
        // Another program may have deleted it.
        if !entry.content.is_dir() {
            tracing::warn!(
                url,
                "a fetched model was deleted from the disk; it is fetched again when it is needed"
            );
            self.shared.change(|index| {
                if index.can_find(entry) {
                    index.forget(url);
                }
            });
            return None;
        }
        let mut touched = lock(&entry.touched);
        if touched.elapsed() > TOUCH_INTERVAL {
            *touched = Instant::now();
            self.shared.janitor.touch(entry);
        }
        drop(touched);
        Some(lease)
    }

    /// Creates a folder to be filled. Waits for queued deletions, so that they do not fill up the
    /// disk.
    pub fn begin(&self) -> Result<Unfinished, DiskCacheError> {
        self.shared.janitor.wait();
        let folder = self.shared.bucket.unfinished()?;
        Ok(Unfinished {
            content: bucket::content(&folder),
            folder,
            shared: Arc::clone(&self.shared),
            is_kept: false,
        })
    }

    /// Keeps a filled folder as `version` of `url`, in place of any other entry of it. Waits for
    /// the disk.
    pub fn keep(&self, url: &str, version: &Version, mut unfinished: Unfinished) -> Result<Lease, DiskCacheError> {
        let shared = &self.shared;
        let (folder, bytes) = shared.bucket.finish(&unfinished.folder, url, version)?;
        unfinished.is_kept = true;
        shared.janitor.settle(&folder);
        let entry = shared.entry(url.to_owned(), version.clone(), folder, bytes);
        *lock(&entry.checked) = Some(Instant::now());
        shared.change(|index| index.keep(Arc::clone(&entry)));
        Ok(self.leased(entry))
    }

    /// Forgets the entry of `url`. Existing leases stay valid.
    pub fn forget(&self, url: &str) {
        self.shared.change(|index| index.forget(url));
    }

    /// Removes the entries without leases, where the disk has less room than the limit. Returns
    /// whether there were any. Their files are gone when the next folder is begun.
    pub fn clear_idle(&self) -> bool {
        self.shared.change(Index::forget_idle)
    }

    pub fn usage(&self) -> Usage {
        let (entries, leased) = lock(&self.shared.index).count();
        Usage {
            bytes: self.shared.janitor.bytes(),
            entries,
            leased,
        }
    }

    fn leased(&self, entry: Arc<CacheEntry>) -> Lease {
        let shared = Arc::clone(&self.shared);
        Lease(Arc::new(LeaseHolder { entry, shared }))
    }
}

impl CacheShared {
    /// An entry that was added to the disk, to be added to the index.
    fn entry(&self, url: String, version: Version, folder: PathBuf, bytes: u64) -> Arc<CacheEntry> {
        self.janitor.added(bytes);
        Arc::new(CacheEntry {
            url,
            version,
            content: bucket::content(&folder),
            folder,
            bytes,
            usage: EntryUse::default(),
            checked: Mutex::default(),
            touched: Mutex::new(Instant::now()),
        })
    }

    /// Changes the index, and queues the entries that dropped out of it for deletion.
    fn change<T>(&self, change: impl FnOnce(&mut Index) -> T) -> T {
        let mut index = lock(&self.index);
        let changed = change(&mut index);
        for entry in index.removals() {
            match entry.usage.has_leases() {
                true => self.janitor.disown(&entry),
                false => self.janitor.remove(&entry),
            }
        }
        changed
    }
}

impl Unfinished {
    /// The folder to be filled, which starts empty.
    pub fn path(&self) -> &Path {
        &self.content
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.is_kept {
            self.shared.janitor.discard(&self.folder);
        }
    }
}

impl Lease {
    /// The folder of the unpacked files.
    pub fn path(&self) -> &Path {
        &self.0.entry.content
    }

    pub fn version(&self) -> &Version {
        &self.0.entry.version
    }

    /// When the entry was last known to be the store's version; `None` after a restart.
    pub fn checked(&self) -> Option<Instant> {
        *lock(&self.0.entry.checked)
    }

    /// Records that the store has this version now.
    pub fn set_checked(&self) {
        *lock(&self.0.entry.checked) = Some(Instant::now());
    }

    /// Makes the next lookup ask the store.
    pub fn set_unchecked(&self) {
        *lock(&self.0.entry.checked) = None;
    }
}

impl Drop for LeaseHolder {
    fn drop(&mut self) {
        self.shared.change(|index| index.release(&self.entry));
    }
}

impl fmt::Debug for CacheShared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DiskCache").field(&self.bucket.folder()).finish()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
