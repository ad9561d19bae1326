//! Accounts for the disk space of prepared models, and decides when entries must be evicted.
//!
//! Between two scans of the folder, a ledger counts what this process adds. A scan of thousands of
//! files before each new one would take longer than the new one, on a network's file system.
//!
//! Invariants: what this process adds, together with what the last scan saw, stays within the
//! limit. Additions of other processes are seen once this process has added a sixteenth of the
//! limit, or the limit is reached.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The ledger of the disk space.
#[derive(Debug)]
pub struct EvictionLedger {
    limit: u64,
    /// Locked during a scan, too: only threads that add files wait for it.
    space: Mutex<Space>,
}

/// Numbers of bytes.
#[derive(Debug, Default)]
struct Space {
    /// Files that are being written.
    pending: u64,
    /// Files in the folder at the end of the last scan; `None` before the first.
    seen: Option<u64>,
    /// Files that were added since.
    added: u64,
}

/// Bytes of a file that is being written. Not counted after a drop, unless they were committed.
#[derive(Debug)]
pub struct PendingBytes<'a> {
    ledger: &'a EvictionLedger,
    bytes: u64,
}

impl EvictionLedger {
    pub fn new(limit: u64) -> Self {
        Self {
            limit,
            space: Mutex::default(),
        }
    }

    /// Counts `bytes` bytes as being written. If the folder has to be scanned before, `evict`
    /// reduces it to the number of bytes that it is given, and returns how many are left.
    pub fn reserve(&self, bytes: u64, evict: impl FnOnce(u64) -> io::Result<u64>) -> io::Result<PendingBytes<'_>> {
        let limit = self.limit;
        if bytes > limit {
            return Err(io::Error::new(
                io::ErrorKind::StorageFull,
                format!("a prepared model of {bytes} bytes exceeds the limit of {limit} bytes; raise --cache-size"),
            ));
        }
        let mut space = self.space();
        let pending = space.pending.saturating_add(bytes);
        let room = limit.saturating_sub(pending);
        let is_within = |seen: u64| seen.saturating_add(space.added) <= room && space.added <= limit / 16;
        if !space.seen.is_some_and(is_within) {
            space.seen = Some(evict(room)?);
            space.added = 0;
        }
        space.pending = pending;
        Ok(PendingBytes { ledger: self, bytes })
    }

    fn space(&self) -> MutexGuard<'_, Space> {
        self.space.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PendingBytes<'_> {
    /// Counts the bytes as added to the folder.
    pub fn commit(self) {
        self.ledger.space().added += self.bytes;
    }
}

impl Drop for PendingBytes<'_> {
    fn drop(&mut self) {
        self.ledger.space().pending -= self.bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reserves `bytes`. Returns as well the bytes that a scan had to leave, if there was one: it
    /// finds `seen` bytes.
    fn reserve(ledger: &EvictionLedger, bytes: u64, seen: u64) -> (PendingBytes<'_>, Option<u64>) {
        let mut scanned = None;
        let pending = ledger.reserve(bytes, |room| {
            scanned = Some(room);
            Ok(seen.min(room))
        });
        (pending.unwrap(), scanned)
    }

    #[test]
    fn pending_bytes_count_and_dropped_ones_do_not() {
        let ledger = EvictionLedger::new(160);
        assert_eq!(reserve(&ledger, 0, 100).1, Some(160), "the first scan");
        let (first, scanned) = reserve(&ledger, 55, 100);
        assert_eq!(scanned, None);
        let (second, scanned) = reserve(&ledger, 10, 100);
        assert_eq!(scanned, Some(160 - 55 - 10), "together they exceed the limit");
        drop(first);
        assert_eq!(reserve(&ledger, 50, 100).1, None);
        second.commit();
        assert_eq!(reserve(&ledger, 50, 100).1, None);
        assert_eq!(reserve(&ledger, 56, 200).1, Some(160 - 56));
        assert!(ledger.reserve(161, |_| Ok(0)).is_err());
    }

    #[test]
    fn the_folder_is_scanned_again_after_adding_a_sixteenth_of_the_limit() {
        let ledger = EvictionLedger::new(1600);
        for index in 0..5 {
            let (pending, scanned) = reserve(&ledger, 25, 0);
            assert_eq!(scanned.is_some(), index == 0);
            pending.commit();
        }
        assert!(reserve(&ledger, 1, 0).1.is_some());
        assert!(reserve(&ledger, 1, 0).1.is_none());
    }
}
