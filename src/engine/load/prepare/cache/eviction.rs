//! Accounts for the disk space of prepared models, and decides when entries must be evicted.
//!
//! Between two scans of the folder, a ledger counts what this process adds.
//!
//! Invariants: what this process adds, together with what the last scan saw, stays within the
//! limit. Additions of other processes are seen once this process has added a sixteenth of the
//! limit, or the limit is reached.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The ledger of the disk space.
#[derive(Debug)]
pub struct EvictionLedger {
    limit: u64,
    /// Bytes of files that are being written.
    pending: AtomicU64,
    added: Mutex<Added>,
}

#[derive(Debug, Default)]
struct Added {
    /// Bytes added since the process started.
    total: u64,
    /// The last scan of the folder: the bytes in it, and `total` at its start.
    seen: u64,
    at: u64,
}

/// Bytes of a file that is being written. Not counted after a drop, unless they were committed.
#[derive(Debug)]
pub struct PendingBytes<'a> {
    ledger: &'a EvictionLedger,
    bytes: u64,
}

/// A scan of the folder that has started.
#[derive(Debug)]
pub struct FolderScan {
    at: u64,
}

impl EvictionLedger {
    pub fn new(limit: u64) -> Self {
        Self {
            limit,
            pending: AtomicU64::new(0),
            added: Mutex::default(),
        }
    }

    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Counts `bytes` bytes as being written, whether or not they fit.
    pub fn add(&self, bytes: u64) -> PendingBytes<'_> {
        self.pending.fetch_add(bytes, Ordering::Relaxed);
        PendingBytes { ledger: self, bytes }
    }

    /// Whether the folder must be scanned before the pending files are written.
    pub fn needs_scan(&self) -> bool {
        let added = self.added();
        let since = added.total - added.at;
        let taken = added.seen.saturating_add(since).saturating_add(self.pending());
        taken > self.limit || since > self.limit / 16
    }

    pub fn begin_scan(&self) -> FolderScan {
        FolderScan { at: self.added().total }
    }

    /// Bytes over the limit if the folder holds `seen` bytes.
    pub fn excess(&self, scan: &FolderScan, seen: u64) -> u64 {
        let since = self.added().total - scan.at;
        let taken = seen.saturating_add(since).saturating_add(self.pending());
        taken.saturating_sub(self.limit)
    }

    /// Ends a scan that saw `seen` bytes. Bytes that were added meanwhile may be among them, and
    /// then count twice until the next scan.
    pub fn end_scan(&self, scan: &FolderScan, seen: u64) {
        let mut added = self.added();
        added.seen = seen;
        added.at = scan.at;
    }

    fn pending(&self) -> u64 {
        self.pending.load(Ordering::Relaxed)
    }

    fn added(&self) -> MutexGuard<'_, Added> {
        // Nothing panics while the lock is held.
        self.added.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PendingBytes<'_> {
    /// Counts the bytes as added to the folder.
    pub fn commit(self) {
        self.ledger.added().total += self.bytes;
    }
}

impl Drop for PendingBytes<'_> {
    fn drop(&mut self) {
        self.ledger.pending.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pending_bytes_count_and_dropped_ones_do_not() {
        let ledger = EvictionLedger::new(160);
        let scan = ledger.begin_scan();
        ledger.end_scan(&scan, 100);
        drop(ledger.add(100));
        let first = ledger.add(55);
        assert!(!ledger.needs_scan());
        let second = ledger.add(10);
        assert!(ledger.needs_scan(), "together they exceed the limit");
        assert_eq!(ledger.excess(&scan, 100), 5);
        drop(first);
        assert!(!ledger.needs_scan());
        second.commit();
        assert_eq!(ledger.excess(&scan, 200), 50);
    }

    #[test]
    fn the_folder_is_scanned_again_after_adding_a_sixteenth_of_the_limit() {
        let ledger = EvictionLedger::new(1600);
        for _ in 0..4 {
            ledger.add(25).commit();
            assert!(!ledger.needs_scan());
        }
        ledger.add(1).commit();
        assert!(ledger.needs_scan());
        let scan = ledger.begin_scan();
        ledger.add(7).commit();
        ledger.end_scan(&scan, 1000);
        assert!(!ledger.needs_scan());
        assert_eq!(ledger.excess(&scan, 1600), 7, "added during the scan");
    }
}
