//! What was fetched from a store, unpacked, on disk: found by its URL, within a bound, across restarts.
//!
//! Whoever uses an entry holds a [`Lease`] on it. What is over the bound goes in the order of last use, and so does
//! what was replaced or forgotten: at once when nobody has a lease on it, else with the last lease. Entries with
//! leases count as used just now, so they are the last to be chosen.
//!
//! What always holds:
//! - Entries that can be found take no more of the disk than the bound, or than those with leases where these alone
//!   are over it. Besides there are the folders that are being filled, what was replaced or forgotten and is in use,
//!   and, until the next folder is begun, what is being removed.
//! - An entry's files are there as long as there is a lease on it, and nothing is removed but what the cache has made.
//! - A crash leaves no half entry: one appears whole, by a rename, and is renamed before it is removed (`bucket.rs`).
//! - No file is touched under the lock, and none is removed by whoever drops a lease, who may be serving requests: a
//!   thread of the cache's own does that (`janitor.rs`).

mod bucket;
mod description;
mod index;
mod janitor;

#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::version::Version;
use crate::private;
use bucket::Bucket;
use index::Index;
use janitor::Janitor;

/// How often the use of an entry is noted on disk at most. Only the order of entries after a restart depends on it.
const NOTED: Duration = Duration::from_secs(60);

#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    #[error("{} cannot be used: {source}", path.display())]
    Unusable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    NotOurs(#[from] private::Refusal),
    #[error("{} is on a file system without locks ({source}); name a folder on another", path.display())]
    NoLocks {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} other processes use {}; name another folder", bucket::MOST, path.display())]
    Taken { path: PathBuf },
    #[error("{} was deleted, and another process has taken its place; start again", path.display())]
    Lost { path: PathBuf },
    #[error("write {}: {source}", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// What there is on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Of all entries, those included that are yet to be removed.
    pub bytes: u64,
    /// Those that can be found.
    pub entries: u64,
    /// Bytes of the entries with leases.
    pub leased: u64,
}

/// What is known of an entry.
#[derive(Debug)]
struct Entry {
    /// Tells entries apart that had the same URL one after the other.
    id: u64,
    url: String,
    version: Version,
    /// The folder of all that belongs to it.
    folder: PathBuf,
    /// What was unpacked, in there.
    content: PathBuf,
    bytes: u64,
    /// When it was last known to be what the store has; held to read or write this.
    checked: Mutex<Option<Instant>>,
    /// When its use was last noted on disk; held to read or write this.
    noted: Mutex<Instant>,
}

/// The entries of one process.
pub struct DiskCache {
    shared: Arc<Shared>,
}

struct Shared {
    /// Held to change what is in memory only.
    index: Mutex<Index>,
    next: AtomicU64,
    /// Before the bucket: its thread ends before the bucket's lock is given up.
    janitor: Janitor,
    bucket: Bucket,
}

/// A folder that is being filled; removed on drop, unless it is kept.
#[derive(Debug)]
pub struct Unfinished {
    folder: PathBuf,
    content: PathBuf,
    janitor: janitor::Jobs,
    is_kept: bool,
}

/// As long as it lives, so does the entry.
#[derive(Clone)]
pub struct Lease(Arc<Leased>);

struct Leased {
    entry: Arc<Entry>,
    shared: Arc<Shared>,
}

impl DiskCache {
    /// Opens or makes a place of this process's own in `folder`, for at most `bound` bytes. What an earlier process
    /// has left there is taken over.
    pub fn open(folder: &Path, bound: u64) -> Result<Self, CacheError> {
        let bucket = Bucket::open(folder)?;
        let janitor = Janitor::start().map_err(|source| CacheError::Unusable {
            path: folder.to_owned(),
            source,
        })?;
        let jobs = janitor.jobs();
        let mut index = Index::new(bound);
        let next = AtomicU64::new(0);
        for found in bucket.entries(jobs)? {
            jobs.added(found.description.bytes);
            let entry = Entry {
                id: next.fetch_add(1, Ordering::Relaxed),
                url: found.description.url,
                version: found.description.version,
                content: bucket::content(&found.folder),
                folder: found.folder,
                bytes: found.description.bytes,
                checked: Mutex::default(),
                noted: Mutex::new(Instant::now()),
            };
            if !found.is_settled {
                jobs.settle(&entry.folder);
            }
            index.restore(Arc::new(entry));
        }
        index.removals().for_each(|entry| jobs.remove(&entry));
        Ok(Self {
            shared: Arc::new(Shared {
                index: Mutex::new(index),
                next,
                janitor,
                bucket,
            }),
        })
    }

    /// What was kept of `url`. Waits for the disk.
    pub fn get(&self, url: &str) -> Option<Lease> {
        let entry = self.shared.change(|index| index.lease(url))?;
        let lease = self.leased(entry);
        let entry = &lease.0.entry;
        // Somebody may have tidied up.
        if !entry.content.is_dir() {
            tracing::warn!(url, "a model is gone from the disk, and fetched anew when it is needed");
            self.shared.change(|index| index.forget(entry));
            return None;
        }
        let mut noted = lock(&entry.noted);
        if noted.elapsed() > NOTED {
            *noted = Instant::now();
            self.shared.janitor.jobs().note(&entry.folder);
        }
        drop(noted);
        Some(lease)
    }

    /// Makes a folder to be filled. Waits until what is to be removed is, so that the disk does not fill up with it.
    pub fn begin(&self) -> Result<Unfinished, CacheError> {
        self.shared.janitor.jobs().wait();
        let folder = self.shared.bucket.unfinished()?;
        Ok(Unfinished {
            content: bucket::content(&folder),
            folder,
            janitor: self.shared.janitor.jobs().clone(),
            is_kept: false,
        })
    }

    /// Keeps what was filled as what `url` holds in `version`, in place of any other. Waits for the disk.
    pub fn keep(&self, url: &str, version: &Version, mut unfinished: Unfinished) -> Result<Lease, CacheError> {
        let shared = &self.shared;
        let (folder, bytes) = shared.bucket.finish(&unfinished.folder, url, version)?;
        unfinished.is_kept = true;
        shared.janitor.jobs().added(bytes);
        shared.janitor.jobs().settle(&folder);
        let entry = Arc::new(Entry {
            id: shared.next.fetch_add(1, Ordering::Relaxed),
            url: url.to_owned(),
            version: version.clone(),
            content: bucket::content(&folder),
            folder,
            bytes,
            checked: Mutex::new(Some(Instant::now())),
            noted: Mutex::new(Instant::now()),
        });
        shared.change(|index| index.keep(Arc::clone(&entry)));
        Ok(self.leased(entry))
    }

    /// Makes `url` be unknown. Who has a lease on it keeps it.
    pub fn forget(&self, url: &str) {
        self.shared.change(|index| index.forget_url(url));
    }

    /// Removes what nobody has a lease on, for room on a disk that has less than the bound. Whether there was any: it is
    /// gone when the next folder is begun.
    pub fn clear_idle(&self) -> bool {
        self.shared.change(Index::forget_idle)
    }

    pub fn usage(&self) -> Usage {
        let (entries, leased) = lock(&self.shared.index).count();
        Usage {
            bytes: self.shared.janitor.jobs().bytes(),
            entries,
            leased,
        }
    }

    fn leased(&self, entry: Arc<Entry>) -> Lease {
        let shared = Arc::clone(&self.shared);
        Lease(Arc::new(Leased { entry, shared }))
    }
}

impl Shared {
    /// Changes the index, and has removed what is not in it any more.
    fn change<T>(&self, change: impl FnOnce(&mut Index) -> T) -> T {
        let mut index = lock(&self.index);
        let changed = change(&mut index);
        let jobs = self.janitor.jobs();
        for entry in index.doomed() {
            jobs.disown(&entry);
        }
        for entry in index.removals() {
            jobs.remove(&entry);
        }
        changed
    }
}

impl Unfinished {
    /// The folder to be filled, which is empty.
    pub fn path(&self) -> &Path {
        &self.content
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.is_kept {
            self.janitor.discard(&self.folder);
        }
    }
}

impl Lease {
    /// What was unpacked.
    pub fn path(&self) -> &Path {
        &self.0.entry.content
    }

    pub fn version(&self) -> &Version {
        &self.0.entry.version
    }

    /// When it was last known to be what the store has; `None` when this process does not know.
    pub fn checked(&self) -> Option<Instant> {
        *lock(&self.0.entry.checked)
    }

    /// Notes that the store has it now.
    pub fn set_checked(&self) {
        *lock(&self.0.entry.checked) = Some(Instant::now());
    }

    /// Whoever looks for it next asks the store.
    pub fn set_unchecked(&self) {
        *lock(&self.0.entry.checked) = None;
    }
}

impl Drop for Leased {
    fn drop(&mut self) {
        self.shared.change(|index| index.release(&self.entry));
    }
}

impl fmt::Debug for DiskCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiskCache")
            .field("folder", &self.shared.bucket.folder())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Lease").field(&self.0.entry).finish()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
