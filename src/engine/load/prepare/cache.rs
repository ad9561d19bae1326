//! Prepared models on disk, found by the hash of their content. `disk_cache.rs` compares this cache
//! with the one of archives.
//!
//! An entry consists of two files. `prepared-<name>.ort` is the model that is mapped, or
//! `prepared-<name>.onnx` its graph, whose large constants are in files of their own
//! (`constants.rs`). `prepared-<name>.json` starts with its own hash. The findings about the model
//! and the hashes of the other files follow. A model without a prepared form has only that file.
//! The name is a hash of everything that a prepared model depends on: its content, ONNX Runtime's
//! build and execution provider, the processor's features, the size of a large constant, and the
//! version of this format. A GPU runs uploaded models; TensorRT keeps its engines in a folder
//! `prepared-<name>.tensorrt`.
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
mod constants;
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
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::Findings;
use super::platform::Platform;
use crate::disk_cache::{self, CacheFolder, FileStamp, FolderError, is_at, is_in_memory, unusable};
use crate::engine::load::artifact::Facts;
use crate::engine::load::content::{ContentHash, hash_file, remember_renamed};
use crate::private::{self, TemporaryFile};

use constants::KnownConstants;
use eviction::DiskSpace;
use folder::{KINDS, PREFIX, entries, has_space, remove_unkeyed_entries};

#[cfg(test)]
pub use constants::ConstantFile;
pub use constants::{StoredConstant, StoredConstants, examined_constants};

/// Part of every name. Raised when the meaning of the files changes.
const VERSION: u32 = 7;

/// Maximum number of contents in memory. More are a sign of contents that do not come again.
const MOST_REMEMBERED: usize = 100_000;

/// A content's findings and, if there is one, its prepared form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    /// The file to map, or the graph; `None` if the uploaded model is served.
    pub file: Option<PathBuf>,
    /// The large constants of the graph; empty if they are in `file`.
    pub constants: Arc<StoredConstants>,
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
    #[serde(default, skip_serializing_if = "StoredConstants::is_empty")]
    constants: StoredConstants,
}

/// The files that a child writes for a prepared form.
#[derive(Debug)]
pub struct UnfinishedForm {
    pub file: TemporaryFile,
    /// For large constants, if the form may have a file of them.
    pub constants: Option<TemporaryFile>,
}

/// A folder of prepared models; without a folder, the findings of this process.
#[derive(Debug)]
pub struct PreparedCache {
    folder: Option<CacheFolder>,
    /// Locked while a file is added, so that all together stay within the limit.
    space: Mutex<DiskSpace>,
    /// The platform part of the names.
    platform: String,
    /// Places of the constants that this process has seen.
    known: KnownConstants,
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
            known: KnownConstants::default(),
            remembered: Mutex::default(),
            has_logged: AtomicBool::new(false),
        }
    }

    /// Opens or creates `folder`, for at most `limit` bytes. `platform` and `large`, the bytes from
    /// which a constant counts as large, are part of all names.
    pub fn open(folder: &Path, limit: u64, platform: &Platform, large: Option<u64>) -> Result<Self, FolderError> {
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
            platform: format!("{VERSION}\n{}\n{platform}", large.unwrap_or(0)),
            ..Self::without_folder()
        };
        if let Some(own) = &cache.folder {
            cache.add(own, 0, || Ok(())).map_err(unusable(folder))?;
        }
        Ok(cache)
    }

    /// Bytes of the folder that this process has seen and added; `None` without a folder.
    pub fn disk_bytes(&self) -> Option<u64> {
        self.folder.as_ref().map(|_| lock(&self.space).used())
    }

    /// Looks up `content`.
    pub fn find(&self, content: &ContentHash) -> Option<Prepared> {
        let Some(folder) = &self.folder else {
            let (findings, facts) = lock(&self.remembered).get(content)?.clone();
            return Some(Prepared {
                file: None,
                constants: Arc::default(),
                findings,
                facts,
            });
        };
        let description = self.description(folder, content);
        let bytes = fs::read(&description).ok()?;
        let entry = EntryDescription::from_bytes(&bytes, folder);
        let file = |entry: &EntryDescription| description.with_extension(extension(&entry.findings));
        let entry = entry.filter(|entry| {
            let hash = entry.hash.as_deref();
            hash.is_none_or(|hash| is_whole(&file(entry), hash)) && entry.constants.are_whole(folder.path())
        });
        let Some(entry) = entry else {
            tracing::warn!(%content, "a prepared model is damaged or gone; it is prepared again");
            remove(&description);
            return None;
        };
        let file = entry.hash.is_some().then(|| file(&entry));
        // Eviction goes by the time of the last use.
        let _ = disk_cache::touch(&description);
        entry.constants.touch(folder.path());
        self.known.add(&entry.constants);
        Some(Prepared {
            file,
            constants: Arc::new(entry.constants),
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
        let engines = self.description(folder, content).with_extension("tensorrt");
        match DirBuilder::new().recursive(true).mode(0o700).create(&engines) {
            Ok(()) => Some(engines),
            Err(error) => {
                tracing::warn!(%error, folder = %engines.display(), "TensorRT's engines cannot be kept");
                None
            }
        }
    }

    /// Creates the files for a prepared form, before [`Self::keep`]. `None` without a usable
    /// folder.
    pub fn unfinished(&self, is_split: bool) -> Option<UnfinishedForm> {
        let folder = self.folder.as_ref()?;
        let new = || TemporaryFile::new(folder.path());
        let created = folder.ensure().map_err(io::Error::other).and_then(|()| {
            Ok(UnfinishedForm {
                file: new()?,
                constants: is_split.then(new).transpose()?,
            })
        });
        match created {
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
        unfinished: Option<UnfinishedForm>,
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
                Ok((file, constants)) => {
                    return Prepared {
                        file,
                        constants: Arc::new(constants),
                        findings,
                        facts,
                    };
                }
                Err(error) => self.log_once(folder, &error),
            },
        }
        // The measurements of a prepared form do not hold for the uploaded one; the caller measures
        // it.
        Prepared {
            file: None,
            constants: Arc::default(),
            findings,
            facts,
        }
    }

    fn write(
        &self,
        folder: &CacheFolder,
        content: &ContentHash,
        unfinished: Option<UnfinishedForm>,
        findings: &Findings,
        facts: Facts,
    ) -> io::Result<(Option<PathBuf>, StoredConstants)> {
        let description = self.description(folder, content);
        let mut entry = EntryDescription {
            findings: findings.clone(),
            facts,
            hash: None,
            constants: StoredConstants::default(),
        };
        let mut form = None;
        if let Some(unfinished) = unfinished {
            // The descriptors are used, so the names have to refer to the same files.
            for file in [Some(&unfinished.file), unfinished.constants.as_ref()]
                .into_iter()
                .flatten()
            {
                if !is_at(file.file(), file.path()) {
                    return Err(io::Error::other("another file has replaced the prepared form"));
                }
            }
            let UnfinishedForm { mut file, constants } = unfinished;
            if let (Some(is_read), Some(constants)) = (&findings.constants, constants) {
                let (graph, stored) = self.keep_constants(folder, &file, &constants, is_read)?;
                entry.constants = stored;
                // A new file: the child may still have the other one open.
                file = graph;
            }
            let mut written = file.file();
            let stamp = FileStamp::of(&written.metadata()?);
            written.rewind()?;
            let hash = hash_file(written)?;
            entry.hash = Some(hash.to_string());
            form = Some((file, stamp, hash));
        }
        let text = entry.to_bytes(folder)?;
        let bytes = form.as_ref().map_or(0, |(_, stamp, _)| stamp.bytes) + text.len() as u64;
        let path = description.with_extension(extension(findings));
        self.add(folder, bytes, || {
            let new = TemporaryFile::new(folder.path())?;
            new.file().write_all(&text)?;
            if let Some((unfinished, stamp, hash)) = form {
                remember_renamed(&unfinished.finish(&path)?, &stamp, hash)?;
            }
            new.finish(&description).map(drop)
        })?;
        self.known.add(&entry.constants);
        Ok((entry.hash.map(|_| path), entry.constants))
    }

    /// Logs that models cannot be kept: once, because it will be so for many.
    fn log_once(&self, folder: &CacheFolder, error: &io::Error) {
        if !self.has_logged.swap(true, Ordering::Relaxed) {
            tracing::warn!(%error, folder = %folder.path().display(), "prepared models cannot be kept");
        }
    }

    /// The path of an entry's description; its other files differ by their extensions.
    fn description(&self, folder: &CacheFolder, content: &ContentHash) -> PathBuf {
        let text = format!("{content}{}", self.platform);
        let name = folder.hash("longshore 2026 prepared model", text.as_bytes()).to_hex();
        folder.path().join(format!("{PREFIX}{name}.json"))
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
                remove(&path.with_extension("json"));
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

/// The extension of an entry's prepared form.
fn extension(findings: &Findings) -> &'static str {
    match findings.constants {
        None => "ort",
        Some(_) => "onnx",
    }
}

/// Removes all files of an entry.
fn remove(description: &Path) {
    // The description first: without it, the other files are not used.
    for kind in KINDS {
        if let Err(error) = fs::remove_file(description.with_extension(kind))
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::debug!(%error, "failed to remove a file of a prepared model");
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
