//! Prepared models on disk, found by the hash of their content. `disk_cache.rs` compares this cache
//! with the one of archives.
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
//! - A file is used only after this process has checked its hash (`content/known.rs` remembers
//!   it), which finds the remains of a crash or of a bad disk. So no load waits for the disk to be
//!   synchronised.
//! - The folder and its parents belong to this user alone, because a user who could write there
//!   would control the answers of all models (`private.rs`). Names and the hashes of descriptions
//!   depend on the folder's key, so a file from another source is not accepted.
//! - A prepared form is made from a private copy of exactly its content (`artifact/copy.rs`).
//! - The sizes of complete files stay within a limit (`eviction.rs`); the least recently used entry
//!   goes first.

mod beside;
mod eviction;
mod folder;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::Findings;
use super::platform::Platform;
use crate::disk_cache::{self, CacheFolder, FileStamp, FolderError, is_at, is_in_memory, unusable};
use crate::engine::load::artifact::Facts;
use crate::engine::load::content::{ContentHash, hash_file, remember_renamed};
use crate::private::{self, TemporaryFile};

use eviction::DiskSpace;
use folder::{PREFIX, entries, has_space, remove_unkeyed_entries};

/// Part of every name. Raised when the meaning of the files changes.
const VERSION: u32 = 6;

/// Maximum number of contents in memory. More are a sign of contents that do not come again.
const MOST_REMEMBERED: usize = 100_000;

/// A content's findings and, if there is one, its prepared form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    /// The file to map; `None` if the uploaded one is served.
    pub file: Option<PathBuf>,
    pub findings: Findings,
    pub facts: Facts,
}

/// The content of `prepared-<name>.json`, after a line with its keyed hash.
#[derive(Debug, Serialize, Deserialize)]
struct EntryDescription {
    findings: Findings,
    facts: Facts,
    /// Hash of the prepared file, if there is one.
    hash: Option<String>,
}

/// A folder of prepared models; without a folder, the findings of this process.
#[derive(Debug)]
pub struct PreparedCache {
    folder: Option<CacheFolder>,
    /// Locked while a file is added, so that all together stay within the limit.
    space: Mutex<DiskSpace>,
    /// The platform part of the names.
    platform: String,
    /// The findings, if there is no folder.
    remembered: Mutex<HashMap<ContentHash, (Findings, Facts)>>,
    has_logged: AtomicBool,
}

impl EntryDescription {
    /// Serialises the entry: a line with the keyed hash of the rest, then the rest. Only the owner
    /// of the folder's key can compute the hash.
    fn to_bytes(&self, folder: &CacheFolder) -> io::Result<Vec<u8>> {
        let text = serde_json::to_vec(self)?;
        let hash = Self::hash(folder, &text).to_hex();
        Ok([hash.as_bytes(), b"\n", &text].concat())
    }

    /// Parses an entry. `None` if it was not written with this folder's key, or is damaged.
    fn from_bytes(bytes: &[u8], folder: &CacheFolder) -> Option<Self> {
        let (hash, text) = bytes.split_at_checked(2 * blake3::OUT_LEN)?;
        let text = text.strip_prefix(b"\n")?;
        let is_whole = blake3::Hash::from_hex(hash).is_ok_and(|hash| hash == Self::hash(folder, text));
        is_whole.then(|| serde_json::from_slice(text).ok()).flatten()
    }

    fn hash(folder: &CacheFolder, text: &[u8]) -> blake3::Hash {
        folder.hash("longshore 2026 description of a prepared model", text)
    }
}

impl PreparedCache {
    /// Creates a cache in memory: it remembers findings, and nothing is mapped.
    pub fn without_folder() -> Self {
        Self {
            folder: None,
            space: Mutex::new(DiskSpace::new(0)),
            platform: String::new(),
            remembered: Mutex::default(),
            has_logged: AtomicBool::new(false),
        }
    }

    /// Opens or creates `folder`, for at most `limit` bytes. `platform` is part of all names.
    pub fn open(folder: &Path, limit: u64, platform: &Platform) -> Result<Self, FolderError> {
        disk_cache::make(folder)?;
        if is_in_memory(folder).map_err(unusable(folder))? {
            return Err(FolderError::InMemory {
                path: folder.to_owned(),
            });
        }
        private::tidy(folder);
        remove_unkeyed_entries(folder).map_err(unusable(folder))?;
        // Fail now rather than at the first model if the folder is not writable.
        drop(TemporaryFile::new(folder).map_err(unusable(folder))?);
        let cache = Self {
            folder: Some(CacheFolder::open(folder)?),
            space: Mutex::new(DiskSpace::new(limit)),
            platform: format!("{VERSION}\n{platform}"),
            ..Self::without_folder()
        };
        if let Some(own) = &cache.folder {
            cache.add(own, 0, || Ok(())).map_err(unusable(folder))?;
        }
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
        let entry = EntryDescription::from_bytes(&bytes, folder).filter(|entry| {
            let hash = entry.hash.as_deref();
            hash.is_none_or(|hash| is_whole(&file, hash))
        });
        let Some(entry) = entry else {
            tracing::warn!(%content, "a prepared model is damaged or gone; it is prepared again");
            remove(&description, &file);
            return None;
        };
        let file = entry.hash.is_some().then_some(file);
        // Eviction goes by the time of the last use.
        let _ = disk_cache::touch(&description);
        Some(Prepared {
            file,
            findings: entry.findings,
            facts: entry.facts,
        })
    }

    /// Creates the folder for TensorRT's engines of `content`; `None` without a usable folder.
    pub fn engines(&self, content: &ContentHash) -> Option<PathBuf> {
        let folder = self.folder.as_ref()?;
        if let Err(error) = folder.ensure() {
            tracing::warn!(%error, "TensorRT's engines cannot be kept");
            return None;
        }
        let (description, _) = self.files(folder, content);
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
    pub fn unfinished(&self) -> Option<TemporaryFile> {
        let folder = self.folder.as_ref()?;
        let ensured = folder.ensure().map_err(io::Error::other);
        match ensured.and_then(|()| TemporaryFile::new(folder.path())) {
            Ok(unfinished) => Some(unfinished),
            Err(error) => {
                self.log_once(folder, &error);
                None
            }
        }
    }

    /// Stores the findings about `content`, with the prepared form in `unfinished` if they have
    /// one. `is_written` says whether the child was to write a prepared form.
    pub fn keep(
        &self,
        content: &ContentHash,
        is_written: bool,
        unfinished: Option<TemporaryFile>,
        findings: Findings,
        facts: Facts,
    ) -> Prepared {
        let could_be_written = unfinished.is_some();
        let unfinished = unfinished.filter(|_| findings.prepared);
        match &self.folder {
            // The folder could not be used: that there is no prepared form says nothing either.
            Some(_) if is_written && !could_be_written => {}
            // If the disk is full, the missing prepared form says nothing about the model.
            Some(folder) if could_be_written && !findings.prepared && !has_space(folder.path(), facts.widest()) => {
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
        folder: &CacheFolder,
        content: &ContentHash,
        unfinished: Option<TemporaryFile>,
        findings: &Findings,
        facts: Facts,
    ) -> io::Result<Option<PathBuf>> {
        let (description, file) = self.files(folder, content);
        let mut entry = EntryDescription {
            findings: findings.clone(),
            facts,
            hash: None,
        };
        let mut bytes = 0;
        let mut form = None;
        if let Some(unfinished) = unfinished {
            let mut written = unfinished.file();
            // The descriptor is used, so the name has to refer to the same file.
            if !is_at(written, unfinished.path()) {
                return Err(io::Error::other("another file has replaced the prepared form"));
            }
            let stamp = FileStamp::of(&written.metadata()?);
            written.rewind()?;
            let hash = hash_file(written)?;
            entry.hash = Some(hash.to_string());
            bytes = stamp.bytes;
            form = Some((unfinished, stamp, hash));
        }
        let text = entry.to_bytes(folder)?;
        let bytes = bytes + text.len() as u64;
        self.add(folder, bytes, || {
            let new = TemporaryFile::new(folder.path())?;
            new.file().write_all(&text)?;
            if let Some((unfinished, stamp, hash)) = form {
                remember_renamed(&unfinished.finish(&file)?, &stamp, hash)?;
            }
            new.finish(&description).map(drop)
        })?;
        Ok(entry.hash.map(|_| file))
    }

    /// Logs that models cannot be kept: once, because it will be so for many.
    fn log_once(&self, folder: &CacheFolder, error: &io::Error) {
        if !self.has_logged.swap(true, Ordering::Relaxed) {
            tracing::warn!(%error, folder = %folder.path().display(), "prepared models cannot be kept");
        }
    }

    /// The paths of an entry's description and of its model.
    fn files(&self, folder: &CacheFolder, content: &ContentHash) -> (PathBuf, PathBuf) {
        let text = format!("{content}{}", self.platform);
        let name = folder.hash("longshore 2026 prepared model", text.as_bytes()).to_hex();
        let file = |kind: &str| folder.path().join(format!("{PREFIX}{name}.{kind}"));
        (file("json"), file("ort"))
    }

    /// Adds files of `bytes` bytes with `write`. If necessary, evicts the entries before that were
    /// not used for longest.
    fn add(&self, folder: &CacheFolder, bytes: u64, write: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        folder.ensure().map_err(io::Error::other)?;
        let mut space = lock(&self.space);
        space.add(bytes, |room| {
            let mut entries = Vec::from_iter(entries(folder.path())?);
            entries.sort_unstable_by_key(|(_, entry)| entry.last);
            let mut seen = entries.iter().map(|(_, entry)| entry.bytes).sum();
            for (path, entry) in entries {
                if seen <= room {
                    break;
                }
                remove(&path.with_extension("json"), &path.with_extension("ort"));
                seen -= entry.bytes;
            }
            Ok(seen)
        })?;
        write()
    }
}

/// Whether the file at `path`, which is not a link, has this hash. Reads a long file once per
/// process.
fn is_whole(path: &Path, expected: &str) -> bool {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = File::options().read(true).custom_flags(flags).open(path);
    file.and_then(|file| hash_file(&file))
        .is_ok_and(|hash| *hash.to_hex() == *expected)
}

fn remove(description: &Path, file: &Path) {
    // The description first: without it, the other file is not used.
    for path in [description, file] {
        if let Err(error) = fs::remove_file(path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::debug!(%error, "failed to remove a file of a prepared model");
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
