//! Prepared models on disk, found by the hash of their content.
//!
//! An entry consists of two files. `prepared-<name>.ort` is the model that is mapped.
//! `prepared-<name>.json` starts with its own hash, followed by the findings about the model and
//! the hash of the first file. A model without a prepared form has only the second file. The name
//! is a hash of everything that a prepared model depends on: its content, ONNX Runtime's build and
//! execution provider, the processor's features, and the version of this format. On a GPU there are
//! no prepared models; TensorRT keeps its engines in a folder `prepared-<name>.tensorrt`.
//!
//! Invariants:
//! - Files appear complete, by a rename, and are never written again: a mapping outlives its file's
//!   name. The folder may be deleted, or shared between processes, at any time.
//! - A file is used only after this process has checked its hash, which finds the remains of a
//!   crash or of a bad disk. So no load waits for the disk to be synchronised.
//! - The folder and its parents belong to this user alone, because a user who could write there
//!   would control the answers of all models (`private.rs`). Names and the hashes of descriptions
//!   depend on the folder's key, so a file from another source is not accepted.
//! - A prepared form is made from a private copy of exactly its content (`artifact/copy.rs`).
//! - The sizes of complete files stay within a limit (`eviction.rs`); the least recently used entry
//!   goes first.

mod beside;
mod entry;
mod eviction;
mod folder;
#[cfg(test)]
mod tests;
mod unfinished;

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use super::platform::Platform;
use super::{Findings, discard};
use crate::engine::load::artifact::Facts;
use crate::engine::load::content::ContentHash;
use crate::private::{self, Key, Refusal};

use entry::{EntryDescription, PreparedFileStamp, hash};
use eviction::{EvictionLedger, PendingBytes};
use folder::{FolderEntry, PREFIX, entries, has_space, remove_unkeyed_entries};

pub use folder::{free_bytes, is_in_memory};
pub use unfinished::Unfinished;

/// Part of every name. Raised when the meaning of the files changes.
const VERSION: u32 = 5;

/// Maximum number of contents in memory. More are a sign of contents that do not come again.
const MOST_REMEMBERED: usize = 100_000;

#[derive(Debug, thiserror::Error)]
pub enum PreparedCacheError {
    #[error("{} cannot be used: {source}", folder.display())]
    Unusable {
        folder: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    NotOurs(#[from] Refusal),
    #[error(
        "{} is on tmpfs; prepared models stored there would use the memory they are meant to save",
        folder.display()
    )]
    InMemory { folder: PathBuf },
}

/// A content's findings and, if there is one, its prepared form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    /// The file to map; `None` if the uploaded one is served.
    pub file: Option<PathBuf>,
    pub findings: Findings,
    pub facts: Facts,
}

/// A folder of prepared models; without a folder, the findings of this process.
#[derive(Debug)]
pub struct PreparedCache {
    folder: Option<PathBuf>,
    ledger: EvictionLedger,
    /// The platform part of the names.
    platform: String,
    key: Key,
    /// Stamps of the files whose hash was checked, by the hash of their paths. (A path would be a
    /// small allocation among those of the model.) Locked to look up and insert.
    checked: Mutex<HashMap<blake3::Hash, PreparedFileStamp>>,
    /// The findings, if there is no folder.
    remembered: Mutex<HashMap<ContentHash, (Findings, Facts)>>,
    has_logged: AtomicBool,
}

impl PreparedCache {
    /// Creates a cache in memory: it remembers findings, and nothing is mapped.
    pub fn without_folder() -> Self {
        Self {
            folder: None,
            ledger: EvictionLedger::new(0),
            platform: String::new(),
            key: Key::of_process(),
            checked: Mutex::default(),
            remembered: Mutex::default(),
            has_logged: AtomicBool::new(false),
        }
    }

    /// Opens or creates `folder`, for at most `limit` bytes. `platform` is part of all names.
    pub fn open(folder: &Path, limit: u64, platform: &Platform) -> Result<Self, PreparedCacheError> {
        let unusable = |source| PreparedCacheError::Unusable {
            folder: folder.to_owned(),
            source,
        };
        private::make(folder).map_err(|refusal| match refusal {
            Refusal::Unusable { source, .. } => unusable(source),
            refusal => refusal.into(),
        })?;
        if is_in_memory(folder).map_err(unusable)? {
            return Err(PreparedCacheError::InMemory {
                folder: folder.to_owned(),
            });
        }
        unfinished::tidy(folder);
        private::tidy(folder);
        remove_unkeyed_entries(folder);
        // Fail now rather than at the first model if the folder is not writable.
        drop(Unfinished::new(folder).map_err(unusable)?);
        let cache = Self {
            folder: Some(folder.to_owned()),
            ledger: EvictionLedger::new(limit),
            platform: format!("{VERSION}\n{platform}"),
            key: Key::open(folder).map_err(unusable)?,
            ..Self::without_folder()
        };
        cache.scan_and_evict(folder).map_err(unusable)?;
        Ok(cache)
    }

    /// Looks up `content`.
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
        let bytes = fs::read(&description).ok()?;
        let entry = EntryDescription::from_bytes(&bytes, &self.key).filter(|entry| {
            let hash = entry.hash.as_deref();
            hash.is_none_or(|hash| self.is_unchanged(&file, hash, entry.bytes))
        });
        let Some(entry) = entry else {
            tracing::warn!(%content, "a prepared model is damaged or gone; it is prepared again");
            self.remove(&description, &file);
            return None;
        };
        let file = entry.hash.is_some().then_some(file);
        // Eviction goes by the time of the last use.
        let _ = File::open(&description).and_then(|file| file.set_modified(SystemTime::now()));
        Some(Prepared {
            file,
            findings: entry.findings,
            facts: entry.facts,
        })
    }

    /// Creates the folder for TensorRT's engines of `content`; `None` without a usable folder.
    pub fn engines(&self, content: &ContentHash) -> Option<PathBuf> {
        let (description, _) = self.files(self.folder.as_ref()?, content);
        let engines = description.with_extension("tensorrt");
        match DirBuilder::new().recursive(true).mode(0o700).create(&engines) {
            Ok(()) => Some(engines),
            Err(error) => {
                tracing::warn!(%error, folder = %engines.display(), "TensorRT's engines cannot be kept");
                None
            }
        }
    }

    /// Creates the file for a prepared form, before [`Self::keep`]; `None` without a usable folder.
    pub fn unfinished(&self) -> Option<Unfinished> {
        let folder = self.folder.as_ref()?;
        // The folder may have been deleted, and another user may have created it again.
        let made = private::make(folder).map_err(io::Error::other);
        let made = made.and_then(|()| self.key.put(folder));
        match made.and_then(|()| Unfinished::new(folder)) {
            Ok(unfinished) => Some(unfinished),
            Err(error) => {
                self.log_once(folder, &error);
                None
            }
        }
    }

    /// Stores the findings about `content`, with the prepared form in `unfinished` if they have
    /// one.
    pub fn keep(
        &self,
        content: &ContentHash,
        unfinished: Option<Unfinished>,
        findings: Findings,
        facts: Facts,
    ) -> Prepared {
        let could_be_written = unfinished.is_some();
        let unfinished = unfinished.filter(|_| findings.prepared);
        match &self.folder {
            // If the disk is full, the missing prepared form says nothing about the model.
            Some(folder) if could_be_written && !findings.prepared && !has_space(folder, facts.widest()) => {
                self.log_once(folder, &io::ErrorKind::StorageFull.into());
            }
            None => {
                let mut remembered = lock(&self.remembered);
                if remembered.len() >= MOST_REMEMBERED {
                    remembered.clear();
                }
                remembered.insert(*content, (findings.clone(), facts));
            }
            Some(folder) => match self.write(folder, content, unfinished, &findings, facts) {
                Ok(file) => return Prepared { file, findings, facts },
                Err(error) => self.log_once(folder, &error),
            },
        }
        // The measurements of a prepared form do not hold for the uploaded one; the caller measures
        // it.
        Prepared {
            file: None,
            findings,
            facts,
        }
    }

    fn write(
        &self,
        folder: &Path,
        content: &ContentHash,
        unfinished: Option<Unfinished>,
        findings: &Findings,
        facts: Facts,
    ) -> io::Result<Option<PathBuf>> {
        let (description, file) = self.files(folder, content);
        let mut entry = EntryDescription {
            findings: findings.clone(),
            facts,
            hash: None,
            bytes: 0,
        };
        let mut stamp = None;
        if let Some(unfinished) = &unfinished {
            // Use the descriptor, and check that the name still refers to the same file.
            let written = PreparedFileStamp::of_metadata(&unfinished.file().metadata()?);
            if PreparedFileStamp::of(unfinished.path())? != written {
                return Err(io::Error::other("another file has replaced the prepared form"));
            }
            entry.bytes = written.size;
            entry.hash = Some(hash(unfinished.file())?);
            stamp = Some(written);
        }
        let text = entry.to_bytes(&self.key)?;
        let pending = self.reserve_space(folder, entry.bytes + text.len() as u64)?;
        let new = Unfinished::new(folder)?;
        let mut written = new.file();
        written.write_all(&text)?;
        if let (Some(unfinished), Some(stamp)) = (unfinished, stamp) {
            unfinished.finish(&file)?;
            self.checked(&file, stamp);
        }
        new.finish(&description)?;
        pending.commit();
        Ok(entry.hash.map(|_| file))
    }

    /// Logs that models cannot be kept: once, because it will be so for many.
    fn log_once(&self, folder: &Path, error: &io::Error) {
        if !self.has_logged.swap(true, Ordering::Relaxed) {
            tracing::warn!(%error, folder = %folder.display(), "prepared models cannot be kept");
        }
    }

    /// Whether `file` is unchanged since it was written. Reads it once per process and file.
    fn is_unchanged(&self, file: &Path, expected: &str, bytes: u64) -> bool {
        let Ok(stamp) = PreparedFileStamp::of(file) else {
            return false;
        };
        if stamp.size != bytes {
            return false;
        }
        if lock(&self.checked).get(&path_hash(file)) == Some(&stamp) {
            return true;
        }
        let whole = File::open(file)
            .and_then(|file| hash(&file))
            .is_ok_and(|found| found == expected);
        if whole {
            self.checked(file, stamp);
        }
        whole
    }

    fn checked(&self, file: &Path, stamp: PreparedFileStamp) {
        let mut checked = lock(&self.checked);
        if checked.len() >= MOST_REMEMBERED {
            checked.clear();
        }
        checked.insert(path_hash(file), stamp);
    }

    fn files(&self, folder: &Path, content: &ContentHash) -> (PathBuf, PathBuf) {
        let mut hasher = self.key.hasher("longshore 2026 prepared model");
        hasher.update(content.to_string().as_bytes());
        hasher.update(self.platform.as_bytes());
        let name = hasher.finalize().to_hex();
        let file = |kind: &str| folder.join(format!("{PREFIX}{name}.{kind}"));
        (file("json"), file("ort"))
    }

    fn remove(&self, description: &Path, file: &Path) {
        // The description first: without it, the other file is not used.
        for path in [description, file] {
            discard(path);
        }
        lock(&self.checked).remove(&path_hash(file));
    }

    /// Reserves `bytes` bytes within the limit and evicts entries if necessary.
    fn reserve_space(&self, folder: &Path, bytes: u64) -> io::Result<PendingBytes<'_>> {
        let limit = self.ledger.limit();
        if bytes > limit {
            return Err(io::Error::new(
                io::ErrorKind::StorageFull,
                format!("a prepared model of {bytes} bytes exceeds the limit of {limit} bytes; raise --cache-size"),
            ));
        }
        let pending = self.ledger.add(bytes);
        if self.ledger.needs_scan() {
            self.scan_and_evict(folder)?;
        }
        Ok(pending)
    }

    /// Scans the folder, and removes the least recently used entries until it is within the limit.
    fn scan_and_evict(&self, folder: &Path) -> io::Result<()> {
        let scan = self.ledger.begin_scan();
        let mut entries: Vec<FolderEntry> = entries(folder)?.into_values().collect();
        let mut seen: u64 = entries.iter().map(|entry| entry.bytes).sum();
        entries.sort_unstable_by_key(|entry| entry.last);
        for entry in entries {
            if self.ledger.excess(&scan, seen) == 0 {
                break;
            }
            self.remove(&entry.path.with_extension("json"), &entry.path.with_extension("ort"));
            seen -= entry.bytes;
        }
        self.ledger.end_scan(&scan, seen);
        Ok(())
    }
}

fn path_hash(file: &Path) -> blake3::Hash {
    blake3::hash(file.as_os_str().as_bytes())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
