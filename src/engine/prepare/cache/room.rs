//! The bound of what prepared models take on disk, as far as one process can know it: a ledger between two looks at the folder.
//!
//! What always holds: what this process adds stays within the bound together with what it saw there. What other processes
//! add is seen when a sixteenth of the bound was added by this one, or the bound is reached.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The ledger.
#[derive(Debug)]
pub struct Room {
    limit: u64,
    /// Bytes that are being added.
    pending: AtomicU64,
    added: Mutex<Added>,
}

#[derive(Debug, Default)]
struct Added {
    /// Bytes added since the process began.
    total: u64,
    /// The last look at the folder: bytes in it, and `total` when it began.
    seen: u64,
    at: u64,
}

/// Bytes that are being added; forgotten on drop, unless they were.
#[derive(Debug)]
pub struct Adding<'a> {
    room: &'a Room,
    bytes: u64,
}

/// A look at the folder that has begun.
#[derive(Debug)]
pub struct Look {
    at: u64,
}

impl Room {
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

    /// Takes `bytes` into account, whether or not they fit.
    pub fn add(&self, bytes: u64) -> Adding<'_> {
        self.pending.fetch_add(bytes, Ordering::Relaxed);
        Adding { room: self, bytes }
    }

    /// Whether the folder has to be looked at before what is being added may be.
    pub fn is_to_be_looked_at(&self) -> bool {
        let added = self.added();
        let since = added.total - added.at;
        let taken = added.seen.saturating_add(since).saturating_add(self.pending());
        taken > self.limit || since > self.limit / 16
    }

    pub fn look(&self) -> Look {
        Look { at: self.added().total }
    }

    /// Bytes over the bound when the folder holds `seen`.
    pub fn excess(&self, look: &Look, seen: u64) -> u64 {
        let since = self.added().total - look.at;
        let taken = seen.saturating_add(since).saturating_add(self.pending());
        taken.saturating_sub(self.limit)
    }

    /// The look has ended: the folder holds `seen` bytes. What was added meanwhile may be among them, and counts twice until
    /// the next look.
    pub fn looked(&self, look: &Look, seen: u64) {
        let mut added = self.added();
        added.seen = seen;
        added.at = look.at;
    }

    fn pending(&self) -> u64 {
        self.pending.load(Ordering::Relaxed)
    }

    fn added(&self) -> MutexGuard<'_, Added> {
        // Nothing panics while it is locked.
        self.added.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Adding<'_> {
    /// The bytes are in the folder.
    pub fn done(self) {
        self.room.added().total += self.bytes;
    }
}

impl Drop for Adding<'_> {
    fn drop(&mut self) {
        self.room.pending.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_being_added_counts_and_what_was_given_up_does_not() {
        let room = Room::new(160);
        let look = room.look();
        room.looked(&look, 100);
        drop(room.add(100));
        let first = room.add(55);
        assert!(!room.is_to_be_looked_at());
        let second = room.add(10);
        assert!(room.is_to_be_looked_at(), "together they are too much");
        assert_eq!(room.excess(&look, 100), 5);
        drop(first);
        assert!(!room.is_to_be_looked_at());
        second.done();
        assert_eq!(room.excess(&look, 200), 50);
    }

    #[test]
    fn others_are_noticed_when_a_sixteenth_was_added() {
        let room = Room::new(1600);
        for _ in 0..4 {
            room.add(25).done();
            assert!(!room.is_to_be_looked_at());
        }
        room.add(1).done();
        assert!(room.is_to_be_looked_at());
        let look = room.look();
        room.add(7).done();
        room.looked(&look, 1000);
        assert!(!room.is_to_be_looked_at());
        assert_eq!(room.excess(&look, 1600), 7, "added during the look");
    }
}
