//! Prepared models on disk, found by their content's hash.
//!
//! An entry is two files: `<key>.ort`, the model as it is mapped, and `<key>.json`, what was found out about it and the hash
//! of the first. A model that has no prepared form has the second alone. The key holds all that a prepared model depends on:
//! content, ONNX Runtime's build and execution provider, the processor's features, the version of what is written here.
//! On a GPU there are no prepared models; TensorRT keeps its engines in a folder `<key>.tensorrt`, which is its own affair.
//!
//! What always holds:
//! - Files appear whole, by a rename, and are never written again: a mapping outlives its file's name. The folder may be
//!   deleted or shared between processes at any time.
//! - A file is mapped only after its hash was checked in this process: what a crash or a bad disk has left of it is found
//!   then, and made anew. So nothing has to be synchronised to disk while a model is waited for.
//! - The folder belongs to this user alone: whoever writes there answers for all models.
//! - The files' sizes stay within a bound; what was not used for longest goes first.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::Findings;
use super::platform::Platform;
use crate::engine::artifact::Facts;
use crate::engine::content::ContentHash;

/// Part of every key: raised when what is written changes its meaning.
const VERSION: u32 = 1;

/// Unfinished files older than this belong to nobody any more.
const ABANDONED: Duration = Duration::from_secs(60 * 60);

#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    #[error("{} cannot be used: {source}", folder.display())]
    Unusable {
        folder: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} belongs to another user, or others may write to it", folder.display())]
    NotOurs { folder: PathBuf },
    #[error("{} lies in memory: models prepared there would take what they are to save", folder.display())]
    InMemory { folder: PathBuf },
}

/// What is known of a prepared model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    /// The file to be mapped; `None` when the uploaded one is to be served.
    pub file: Option<PathBuf>,
    pub findings: Findings,
    pub facts: Facts,
}

/// `<key>.json`.
#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    findings: Findings,
    facts: Facts,
    /// Of the prepared file, when there is one.
    hash: Option<String>,
    bytes: u64,
}

/// A folder of prepared models; or, without one, what this process remembers.
#[derive(Debug)]
pub struct Cache {
    folder: Option<PathBuf>,
    limit: u64,
    /// What keys depend on besides the content.
    platform: String,
    /// Bytes in the folder, as far as this process knows.
    used: AtomicU64,
    /// A random number that tells processes apart. Not their ids: containers that share the folder may have the same.
    process: u64,
    /// Files whose hash was checked, with what says that they are still the same. Locked to look up and insert.
    checked: Mutex<HashMap<PathBuf, Stamp>>,
    /// Without a folder: what was found out.
    remembered: Mutex<HashMap<ContentHash, (Findings, Facts)>>,
    complained: AtomicBool,
}

/// Identity of a file's content without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

impl Stamp {
    fn of(path: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(path)?;
        Ok(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.len(),
            changed: (metadata.mtime(), metadata.mtime_nsec()),
        })
    }
}

impl Cache {
    /// What is found out is remembered by this process only, and nothing is mapped.
    pub fn without_folder() -> Self {
        Self {
            folder: None,
            limit: 0,
            platform: String::new(),
            used: AtomicU64::new(0),
            process: RandomState::new().hash_one(std::process::id()),
            checked: Mutex::default(),
            remembered: Mutex::default(),
            complained: AtomicBool::new(false),
        }
    }

    /// Opens or makes `folder`, for at most `limit` bytes. `platform` is what writes and reads.
    pub fn open(folder: &Path, limit: u64, platform: &Platform) -> Result<Self, CacheError> {
        let unusable = |source| CacheError::Unusable {
            folder: folder.to_owned(),
            source,
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(unusable)?;
        let metadata = fs::symlink_metadata(folder).map_err(unusable)?;
        let ours = metadata.uid() == rustix::process::geteuid().as_raw();
        if !metadata.is_dir() || !ours || metadata.mode() & 0o022 != 0 {
            return Err(CacheError::NotOurs {
                folder: folder.to_owned(),
            });
        }
        if is_in_memory(folder).map_err(unusable)? {
            return Err(CacheError::InMemory {
                folder: folder.to_owned(),
            });
        }
        // Seen now rather than at the first model: a folder that cannot be written to is as good as none.
        let cache = Self {
            folder: Some(folder.to_owned()),
            limit,
            platform: format!("{VERSION}\n{platform}"),
            ..Self::without_folder()
        };
        let probe = folder.join(format!(".new-{}", cache.unique()));
        File::create(&probe).map_err(unusable)?;
        let _ = fs::remove_file(&probe);
        cache.tidy(folder);
        Ok(cache)
    }

    /// What is known of `content`.
    pub fn find(&self, content: &ContentHash) -> Option<Prepared> {
        let Some(folder) = &self.folder else {
            let (findings, facts) = lock(&self.remembered).get(content)?.clone();
            return Some(Prepared {
                file: None,
                findings,
                facts,
            });
        };
        let (description, file) = self.files(folder, content);
        let entry: Entry = serde_json::from_slice(&fs::read(&description).ok()?).ok()?;
        let file = match &entry.hash {
            None => None,
            Some(hash) if self.is_whole(&file, hash, entry.bytes) => Some(file),
            Some(_) => {
                tracing::warn!(%content, "a prepared model is damaged or gone; it is made anew");
                self.remove(&description, &file);
                return None;
            }
        };
        // What the bound spares is what was used last.
        let _ = File::open(&description).and_then(|file| file.set_modified(SystemTime::now()));
        Some(Prepared {
            file,
            findings: entry.findings,
            facts: entry.facts,
        })
    }

    /// Makes the folder for TensorRT's engines of `content`; `None` when there is no place.
    pub fn engines(&self, content: &ContentHash) -> Option<PathBuf> {
        let (description, _) = self.files(self.folder.as_ref()?, content);
        let engines = description.with_extension("tensorrt");
        match DirBuilder::new().recursive(true).mode(0o700).create(&engines) {
            Ok(()) => Some(engines),
            Err(error) => {
                tracing::warn!(%error, folder = %engines.display(), "TensorRT's engines are not kept");
                None
            }
        }
    }

    /// Where a prepared form of `content` is to be written before [`Self::keep`]; `None` when there is no place.
    pub fn unfinished(&self, content: &ContentHash) -> Option<PathBuf> {
        let folder = self.folder.as_ref()?;
        // It may have been deleted; what is wrong with one that cannot be made is said by `keep`.
        let _ = DirBuilder::new().mode(0o700).create(folder);
        Some(folder.join(format!(".new-{}-{:016x}", self.unique(), content.short())))
    }

    /// Part of a file's name that no other file has.
    fn unique(&self) -> String {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        format!("{:016x}-{}", self.process, NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// Remembers what was found out about `content`, with the file at `unfinished` when it has a prepared form.
    pub fn keep(&self, content: &ContentHash, unfinished: Option<&Path>, findings: Findings, facts: Facts) -> Prepared {
        let written = unfinished.filter(|_| findings.prepared);
        match &self.folder {
            None => {
                const MOST: usize = 100_000;
                let mut remembered = lock(&self.remembered);
                if remembered.len() >= MOST {
                    remembered.clear();
                }
                remembered.insert(*content, (findings.clone(), facts));
            }
            // A full disk may be why there is no prepared form, which is not to be remembered of the model.
            Some(folder) if unfinished.is_some() && !findings.prepared && !has_room(folder, facts.weights) => {
                self.complain(folder, &io::ErrorKind::StorageFull.into());
            }
            Some(folder) => match self.write(folder, content, written, &findings, facts) {
                Ok(file) => return Prepared { file, findings, facts },
                Err(error) => self.complain(folder, &error),
            },
        }
        if let Some(unfinished) = unfinished {
            super::discard(unfinished);
        }
        // What was measured of the prepared form is not true of the uploaded one: the caller measures that.
        Prepared {
            file: None,
            findings,
            facts,
        }
    }

    /// Says once that something cannot be kept.
    fn complain(&self, folder: &Path, error: &io::Error) {
        if !self.complained.swap(true, Ordering::Relaxed) {
            tracing::warn!(%error, folder = %folder.display(), "prepared models cannot be kept");
        }
    }

    fn write(
        &self,
        folder: &Path,
        content: &ContentHash,
        unfinished: Option<&Path>,
        findings: &Findings,
        facts: Facts,
    ) -> io::Result<Option<PathBuf>> {
        let (description, file) = self.files(folder, content);
        let mut entry = Entry {
            findings: findings.clone(),
            facts,
            hash: None,
            bytes: 0,
        };
        if let Some(unfinished) = unfinished {
            entry.bytes = fs::metadata(unfinished)?.len();
            self.make_room(folder, entry.bytes)?;
            entry.hash = Some(hash(unfinished)?);
            fs::rename(unfinished, &file)?;
            lock(&self.checked).insert(file.clone(), Stamp::of(&file)?);
        }
        let text = serde_json::to_vec(&entry)?;
        let new = description.with_extension(format!("new-{}", self.unique()));
        fs::write(&new, &text)?;
        fs::rename(&new, &description)?;
        self.used.fetch_add(entry.bytes, Ordering::Relaxed);
        Ok(entry.hash.map(|_| file))
    }

    /// Whether `file` is what was written. Read through once per process and file.
    fn is_whole(&self, file: &Path, expected: &str, bytes: u64) -> bool {
        let Ok(stamp) = Stamp::of(file) else { return false };
        if stamp.size != bytes {
            return false;
        }
        if lock(&self.checked).get(file) == Some(&stamp) {
            return true;
        }
        let whole = hash(file).is_ok_and(|found| found == expected);
        if whole {
            lock(&self.checked).insert(file.to_owned(), stamp);
        }
        whole
    }

    fn files(&self, folder: &Path, content: &ContentHash) -> (PathBuf, PathBuf) {
        let mut hasher = blake3::Hasher::new_derive_key("longshore 2026 prepared model");
        hasher.update(content.to_string().as_bytes());
        hasher.update(self.platform.as_bytes());
        let key = hasher.finalize().to_hex();
        (folder.join(format!("{key}.json")), folder.join(format!("{key}.ort")))
    }

    fn remove(&self, description: &Path, file: &Path) {
        // The description first: without it, the other is not looked at.
        for path in [description, file] {
            super::discard(path);
        }
        lock(&self.checked).remove(file);
    }

    /// Removes what was not used for longest until `bytes` more are within the bound.
    fn make_room(&self, folder: &Path, bytes: u64) -> io::Result<()> {
        if bytes > self.limit {
            return Err(io::Error::new(
                io::ErrorKind::StorageFull,
                format!(
                    "a prepared model of {bytes} bytes is over the bound of {} (--cache-size)",
                    self.limit
                ),
            ));
        }
        if self.used.load(Ordering::Relaxed).saturating_add(bytes) <= self.limit {
            return Ok(());
        }
        // Other processes may have added or removed: the folder knows.
        let mut entries = entries(folder)?;
        let mut used: u64 = entries.iter().map(|entry| entry.bytes).sum();
        entries.sort_unstable_by_key(|entry| entry.used_last);
        for entry in entries {
            if used.saturating_add(bytes) <= self.limit {
                break;
            }
            self.remove(&entry.file.with_extension("json"), &entry.file);
            used -= entry.bytes;
        }
        self.used.store(used, Ordering::Relaxed);
        Ok(())
    }

    /// Counts what is there and removes what unfinished preparations of dead processes have left.
    fn tidy(&self, folder: &Path) {
        let bytes = entries(folder).map(|entries| entries.iter().map(|entry| entry.bytes).sum());
        self.used.store(bytes.unwrap_or(0), Ordering::Relaxed);
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let is_unfinished = entry.file_name().to_string_lossy().contains("new-");
            let age = entry.metadata().and_then(|metadata| metadata.modified());
            if is_unfinished && age.is_ok_and(|time| time.elapsed().is_ok_and(|age| age > ABANDONED)) {
                super::discard(&entry.path());
            }
        }
    }
}

/// A prepared file in the folder.
struct Used {
    file: PathBuf,
    bytes: u64,
    used_last: Option<SystemTime>,
}

fn entries(folder: &Path) -> io::Result<Vec<Used>> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(folder)?.flatten() {
        let file = entry.path();
        if file.extension().is_none_or(|extension| extension != "ort") {
            continue;
        }
        let Ok(metadata) = entry.metadata() else { continue };
        let description = fs::metadata(file.with_extension("json"));
        entries.push(Used {
            bytes: metadata.len(),
            // A file without a description was being written, or will be: it counts as old as it is.
            used_last: description
                .and_then(|description| description.modified())
                .or(metadata.modified())
                .ok(),
            file,
        });
    }
    Ok(entries)
}

/// Whether there is room for the prepared form of a model of `weights` bytes. There is none in a folder that is gone.
fn has_room(folder: &Path, weights: u64) -> bool {
    const SPARE: u64 = 1 << 20;
    let needed = weights.saturating_mul(2).saturating_add(SPARE);
    rustix::fs::statvfs(folder).is_ok_and(|system| system.f_bavail.saturating_mul(system.f_frsize) >= needed)
}

fn hash(file: &Path) -> io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(file)?)?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// Whether files there are memory: a mapping of them cannot be given up and read again.
fn is_in_memory(folder: &Path) -> io::Result<bool> {
    const TMPFS: i64 = 0x0102_1994;
    const RAMFS: i64 = 0x8584_58f6;
    let kind = rustix::fs::statfs(folder)?.f_type;
    Ok(kind == TMPFS || kind == RAMFS)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn that_a_model_has_no_prepared_form_is_remembered_unless_there_was_no_room_for_one() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache {
            folder: Some(folder.path().to_owned()),
            limit: 1 << 30,
            ..Cache::without_folder()
        };
        let findings = Findings {
            prepared: false,
            private: 1,
            load_peak: 2,
            run_peak: None,
            independent_rows: None,
        };
        let content = |digit: &str| ContentHash::parse(&digit.repeat(64)).unwrap();
        for (content, weights, is_remembered) in [(content("1"), 1, true), (content("2"), u64::MAX, false)] {
            let facts = Facts {
                weights,
                has_trees: false,
                has_unbounded_work: false,
            };
            let unfinished = cache.unfinished(&content).unwrap();
            let kept = cache.keep(&content, Some(&unfinished), findings.clone(), facts);
            assert_eq!((kept.file, kept.findings), (None, findings.clone()));
            assert_eq!(cache.find(&content).is_some(), is_remembered, "{weights}");
        }
    }
}
