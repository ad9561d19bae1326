//! Hashes of files that are as they were when they were hashed.
//!
//! A platform unloads a model and loads it again, from the same files, any number of times (MM-1, MM-4), and hashing them
//! again is most of what that takes: 20 of 27 ms for 99 MB. A file that has the same number, length and times has the same
//! content: every write moves the time of change (`st_ctime`), also one that hides itself from the time of modification,
//! and no program can set it.
//!
//! What always holds: a hash is remembered only of a file that had not been changed for a while before it was read, nor while
//! it was read. File systems count time in ticks, and a second write in the tick of the first would not be seen (git has
//! the same rule for its index). What is not seen is a write through a mapping that was writable before, until the system
//! brings it to the disk. So this hash only says which content to look for: what is made of a content comes from a private
//! copy, which is hashed as it is written (`artifact/copy.rs`).

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use moka::sync::Cache;

/// Bytes from which on a hash is remembered. Up to there it takes less time than all else that a load does.
const LONG: u64 = 256 << 10;

/// Files whose hashes are remembered: some 200 bytes each.
const FILES: u64 = 16_384;

/// How long a file must not have been changed before it is read. The slowest clock of a file system ticks every 2 s (FAT).
const SETTLED: Duration = Duration::from_secs(2);

/// The hashes of files, those of long ones remembered.
#[derive(Debug)]
pub struct Known {
    hashes: Cache<Stamp, blake3::Hash>,
    settled: Duration,
}

/// A file, and which of its contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Stamp {
    device: u64,
    inode: u64,
    length: u64,
    /// Seconds and nanoseconds since 1970, as in what follows.
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Known {
    pub fn new() -> Self {
        Self::settled_after(SETTLED)
    }

    fn settled_after(settled: Duration) -> Self {
        Self {
            hashes: Cache::new(FILES),
            settled,
        }
    }

    /// The hash of `file`, which is at its beginning.
    pub fn hash(&self, file: &File) -> io::Result<blake3::Hash> {
        let stamp = Stamp::of(&file.metadata()?);
        if stamp.length < LONG {
            return read(file);
        }
        if let Some(hash) = self.hashes.get(&stamp) {
            return Ok(hash);
        }
        let was_settled = stamp.is_settled(SystemTime::now(), self.settled);
        let hash = read(file)?;
        if was_settled && Stamp::of(&file.metadata()?) == stamp {
            self.hashes.insert(stamp, hash);
        }
        Ok(hash)
    }
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Whether the last change was `settled` before `now`, or longer ago.
    fn is_settled(&self, now: SystemTime, settled: Duration) -> bool {
        let (Ok(seconds), Ok(nanoseconds)) = (u64::try_from(self.changed.0), u32::try_from(self.changed.1)) else {
            return false;
        };
        let changed = UNIX_EPOCH + Duration::new(seconds, nanoseconds);
        now.duration_since(changed).is_ok_and(|since| since >= settled)
    }
}

fn read(file: &File) -> io::Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(file)?;
    Ok(hasher.finalize())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const OLD: Duration = Duration::ZERO;

    fn file(content: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), content).unwrap();
        file
    }

    fn hash(known: &Known, path: &std::path::Path) -> blake3::Hash {
        known.hash(&File::open(path).unwrap()).unwrap()
    }

    /// How many hashes are remembered.
    fn remembered(known: &Known) -> u64 {
        known.hashes.run_pending_tasks();
        known.hashes.entry_count()
    }

    #[test]
    fn a_long_file_is_remembered_until_it_changes() {
        let known = Known::settled_after(OLD);
        let content = vec![1; LONG as usize];
        let model = file(&content);
        for _ in 0..2 {
            assert_eq!(hash(&known, model.path()), blake3::hash(&content));
        }
        assert_eq!(remembered(&known), 1);
        // Of the same length, and with the time of modification of the first.
        let modified = fs::metadata(model.path()).unwrap().modified().unwrap();
        let content = vec![2; LONG as usize];
        // Longer than the tick of any file system's clock that tests run on.
        std::thread::sleep(Duration::from_millis(20));
        fs::write(model.path(), &content).unwrap();
        model.as_file().set_modified(modified).unwrap();
        assert_eq!(hash(&known, model.path()), blake3::hash(&content));
    }

    #[test]
    fn what_is_remembered_is_not_read_again() {
        let known = Known::settled_after(OLD);
        let model = file(&vec![1; LONG as usize]);
        let stamp = Stamp::of(&model.as_file().metadata().unwrap());
        let other = blake3::hash(b"not what it holds");
        known.hashes.insert(stamp, other);
        assert_eq!(hash(&known, model.path()), other);
    }

    #[test]
    fn neither_a_short_file_nor_one_that_was_just_written_is_remembered() {
        let known = Known::settled_after(OLD);
        let short = vec![1; LONG as usize - 1];
        assert_eq!(hash(&known, file(&short).path()), blake3::hash(&short));
        assert_eq!(remembered(&known), 0);
        let known = Known::settled_after(Duration::from_secs(3600));
        let long = vec![1; LONG as usize];
        assert_eq!(hash(&known, file(&long).path()), blake3::hash(&long));
        assert_eq!(remembered(&known), 0);
    }

    #[test]
    fn a_file_is_settled_when_it_was_not_changed_for_that_long() {
        let now = UNIX_EPOCH + Duration::from_secs(1000);
        let settled = |changed: (i64, i64)| {
            let stamp = Stamp {
                device: 0,
                inode: 0,
                length: 0,
                modified: (0, 0),
                changed,
            };
            stamp.is_settled(now, Duration::from_secs(2))
        };
        assert!(settled((998, 0)) && settled((0, 0)));
        assert!(!settled((998, 1)) && !settled((1000, 0)));
        // Clocks differ, and nobody knows what such a time means.
        assert!(!settled((1001, 0)) && !settled((-1, 0)));
    }
}
