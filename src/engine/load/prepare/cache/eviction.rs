//! Accounts for the disk space of prepared models, and decides when entries must be evicted.
//!
//! Between two scans of the folder, the account counts what this process adds. A scan of thousands
//! of files before each new one would take longer than to write it, on a network's file system.
//!
//! Invariants: what this process adds, together with what the last scan saw, stays within the
//! limit. Additions of other processes are seen once this process has added a sixteenth of the
//! limit, or the limit is reached.

use std::io;

/// The account of the disk space, in bytes. Locked while a file is added.
#[derive(Debug)]
pub struct DiskSpace {
    limit: u64,
    /// Files in the folder at the end of the last scan; `None` before the first.
    seen: Option<u64>,
    /// Files that this process has added since.
    added: u64,
}

impl DiskSpace {
    pub fn new(limit: u64) -> Self {
        Self {
            limit,
            seen: None,
            added: 0,
        }
    }

    /// Fails if files of `bytes` bytes exceed the limit by themselves.
    pub fn check(&self, bytes: u64) -> io::Result<()> {
        self.room(bytes).map(drop)
    }

    /// Bytes of the files that the last scan saw, and of those that were added since.
    pub fn used(&self) -> u64 {
        self.seen.unwrap_or(0) + self.added
    }

    /// Bytes that are left next to files of `bytes` bytes.
    fn room(&self, bytes: u64) -> io::Result<u64> {
        let limit = self.limit;
        limit.checked_sub(bytes).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::StorageFull,
                format!("a prepared model of {bytes} bytes exceeds the limit of {limit} bytes; raise --cache-size"),
            )
        })
    }

    /// Counts a file of `bytes` bytes that is to be added now. If the folder has to be scanned
    /// before, `evict` reduces it to the number of bytes that it is given, and returns how many are
    /// left.
    pub fn add(&mut self, bytes: u64, evict: impl FnOnce(u64) -> io::Result<u64>) -> io::Result<()> {
        let limit = self.limit;
        let room = self.room(bytes)?;
        let is_within =
            |seen: u64| seen.saturating_add(self.added) <= room && self.added.saturating_add(bytes) <= limit / 16;
        if !self.seen.is_some_and(is_within) {
            self.seen = Some(evict(room)?);
            self.added = 0;
        }
        self.added += bytes;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Adds `bytes`. Returns the bytes that a scan had to leave, if there was one: it finds `seen`
    /// bytes.
    fn add(space: &mut DiskSpace, bytes: u64, seen: u64) -> Option<u64> {
        let mut scanned = None;
        let added = space.add(bytes, |room| {
            scanned = Some(room);
            Ok(seen.min(room))
        });
        added.unwrap();
        scanned
    }

    #[test]
    fn added_bytes_count_and_refused_ones_do_not() {
        let mut space = DiskSpace::new(1600);
        assert_eq!(add(&mut space, 0, 1530), Some(1600), "the first scan");
        assert!(space.add(1601, |_| Ok(0)).is_err());
        assert!(space.add(1600, |_| Err(io::ErrorKind::NotFound.into())).is_err());
        assert_eq!(add(&mut space, 55, 0), None);
        assert_eq!(add(&mut space, 15, 0), None);
        assert_eq!(add(&mut space, 1, 1600), Some(1599), "together they exceed the limit");
        assert_eq!(add(&mut space, 1, 1600), Some(1599));
    }

    #[test]
    fn the_folder_is_scanned_again_after_adding_a_sixteenth_of_the_limit() {
        let mut space = DiskSpace::new(1600);
        for index in 0..4 {
            assert_eq!(add(&mut space, 25, 0).is_some(), index == 0);
        }
        assert!(add(&mut space, 1, 0).is_some());
        assert!(add(&mut space, 1, 0).is_none());
    }
}
