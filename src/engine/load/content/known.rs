//! A cache of file hashes, valid as long as the files do not change.
//!
//! A platform unloads a model and loads it again from the same files any number of times (MM-1,
//! MM-4). Hashing the files again would be most of that work: 20 of 27 ms for 99 MB. A file with
//! the same inode number, length and times has the same content: every write updates the time of
//! change (`st_ctime`), even one that resets the modification time, and no program can set it.
//!
//! Invariants: a hash is cached only if the file did not change for a while before it was read,
//! nor while it was read. File systems measure time in ticks, and would not show a second write
//! within the tick of the first (git has the same rule for its index). One kind of change is
//! missed: a write through an existing writable mapping, until the system writes it to disk. So
//! the hash of an uploaded file only selects which content to look up. Everything that is derived
//! from a content comes from a private copy, which is hashed as it is written
//! (`artifact/copy.rs`). Prepared forms are hashed here, too. Only this user can write them, so the
//! hash of a new one is cached at once.

use std::fs::File;
use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use moka::sync::Cache;

use crate::disk_cache::FileStamp;

/// Smallest file, in bytes, whose hash is cached. Hashing a smaller one takes less time than the
/// rest of a load.
const LONG: u64 = 256 << 10;

/// Number of files whose hashes are cached, at some 200 bytes each.
const FILES: u64 = 65_536;

/// Time without a change that is required before a file is read. The coarsest clock of a file
/// system ticks every 2 s (FAT).
const SETTLED: Duration = Duration::from_secs(2);

/// Hashes files, and caches the hashes of long ones.
#[derive(Debug)]
pub struct KnownHashes {
    hashes: Cache<FileStamp, blake3::Hash>,
    settled: Duration,
}

impl KnownHashes {
    pub fn new() -> Self {
        Self::settled_after(SETTLED)
    }

    fn settled_after(settled: Duration) -> Self {
        Self {
            hashes: Cache::new(FILES),
            settled,
        }
    }

    /// Returns the hash of `file`, whose position must be at its start.
    pub fn hash(&self, file: &File) -> io::Result<blake3::Hash> {
        let stamp = FileStamp::of(&file.metadata()?);
        if stamp.bytes < LONG {
            return read(file);
        }
        if let Some(hash) = self.hashes.get(&stamp) {
            return Ok(hash);
        }
        let was_settled = is_settled(stamp.changed, SystemTime::now(), self.settled);
        let hash = read(file)?;
        if was_settled && FileStamp::of(&file.metadata()?) == stamp {
            self.hashes.insert(stamp, hash);
        }
        Ok(hash)
    }

    /// Caches the `hash` of a long file that had the stamp `hashed` and was only renamed since.
    pub fn renamed(&self, file: &File, hashed: &FileStamp, hash: blake3::Hash) -> io::Result<()> {
        let stamp = FileStamp::of(&file.metadata()?);
        if stamp.bytes >= LONG && stamp.has_same_content(hashed) {
            self.hashes.insert(stamp, hash);
        }
        Ok(())
    }
}

/// Whether the last change, at `changed`, was at least `settled` before `now`.
fn is_settled(changed: (i64, i64), now: SystemTime, settled: Duration) -> bool {
    let (Ok(seconds), Ok(nanoseconds)) = (u64::try_from(changed.0), u32::try_from(changed.1)) else {
        return false;
    };
    let changed = UNIX_EPOCH + Duration::new(seconds, nanoseconds);
    now.duration_since(changed).is_ok_and(|since| since >= settled)
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

    fn hash(known: &KnownHashes, path: &std::path::Path) -> blake3::Hash {
        known.hash(&File::open(path).unwrap()).unwrap()
    }

    /// The number of cached hashes.
    fn remembered(known: &KnownHashes) -> u64 {
        known.hashes.run_pending_tasks();
        known.hashes.entry_count()
    }

    #[test]
    fn the_hash_of_a_long_file_is_cached_until_the_file_changes() {
        let known = KnownHashes::settled_after(OLD);
        let content = vec![1; LONG as usize];
        let model = file(&content);
        for _ in 0..2 {
            assert_eq!(hash(&known, model.path()), blake3::hash(&content));
        }
        assert_eq!(remembered(&known), 1);
        // The new content has the same length and modification time.
        let modified = fs::metadata(model.path()).unwrap().modified().unwrap();
        let content = vec![2; LONG as usize];
        // Longer than a tick of the file systems that tests run on.
        std::thread::sleep(Duration::from_millis(20));
        fs::write(model.path(), &content).unwrap();
        model.as_file().set_modified(modified).unwrap();
        assert_eq!(hash(&known, model.path()), blake3::hash(&content));
    }

    #[test]
    fn a_file_with_a_cached_hash_is_not_read_again() {
        let known = KnownHashes::settled_after(OLD);
        let model = file(&vec![1; LONG as usize]);
        let stamp = FileStamp::of(&model.as_file().metadata().unwrap());
        let other = blake3::hash(b"not what it holds");
        known.hashes.insert(stamp, other);
        assert_eq!(hash(&known, model.path()), other);
    }

    #[test]
    fn the_hash_of_a_renamed_file_is_cached_unless_it_was_written_meanwhile() {
        let known = KnownHashes::new();
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        for is_written in [true, false] {
            fs::write(&from, vec![1; LONG as usize]).unwrap();
            let model = File::open(&from).unwrap();
            let stamp = FileStamp::of(&model.metadata().unwrap());
            if is_written {
                fs::write(&from, vec![2; LONG as usize + 1]).unwrap();
            }
            fs::rename(&from, &to).unwrap();
            known.renamed(&model, &stamp, blake3::hash(b"a hash")).unwrap();
            assert_eq!(remembered(&known), u64::from(!is_written));
        }
        assert_eq!(hash(&known, &to), blake3::hash(b"a hash"));
    }

    #[test]
    fn hashes_of_short_and_of_recently_written_files_are_not_cached() {
        let known = KnownHashes::settled_after(OLD);
        let short = vec![1; LONG as usize - 1];
        assert_eq!(hash(&known, file(&short).path()), blake3::hash(&short));
        assert_eq!(remembered(&known), 0);
        let known = KnownHashes::settled_after(Duration::from_secs(3600));
        let long = vec![1; LONG as usize];
        assert_eq!(hash(&known, file(&long).path()), blake3::hash(&long));
        assert_eq!(remembered(&known), 0);
    }

    #[test]
    fn a_file_is_settled_if_it_did_not_change_for_the_given_time() {
        let now = UNIX_EPOCH + Duration::from_secs(1000);
        let settled = |changed| is_settled(changed, now, Duration::from_secs(2));
        assert!(settled((998, 0)) && settled((0, 0)));
        assert!(!settled((998, 1)) && !settled((1000, 0)));
        // Times in the future and before 1970: clocks differ, so such a file does not count as
        // settled.
        assert!(!settled((1001, 0)) && !settled((-1, 0)));
    }
}
