//! Prepared models on disk, found by their content's hash.
//!
//! An entry is two files: `<key>.ort`, the model as it is mapped, and `<key>.json`, what was found out about it, the hash of
//! the first, and before all that its own hash. A model that has no prepared form has the second alone. The key holds all that a prepared model depends on:
//! content, ONNX Runtime's build and execution provider, the processor's features, the version of what is written here.
//! On a GPU there are no prepared models; TensorRT keeps its engines in a folder `<key>.tensorrt`, which is its own affair.
//!
//! What always holds:
//! - Files appear whole, by a rename, and are never written again: a mapping outlives its file's name. The folder may be
//!   deleted or shared between processes at any time.
//! - A file is believed only after its hash was checked in this process: what a crash or a bad disk has left of it is found
//!   then, and made anew. So nothing has to be synchronised to disk while a model is waited for.
//! - The folder belongs to this user alone: whoever writes there answers for all models.
//! - The sizes of finished files stay within a bound (`room.rs`); what was not used for longest goes first.

mod room;
mod unfinished;

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::platform::Platform;
use super::{Findings, discard};
use crate::engine::artifact::Facts;
use crate::engine::content::ContentHash;

use room::{Adding, Room};
pub use unfinished::Unfinished;

/// Part of every key: raised when what is written changes its meaning.
const VERSION: u32 = 2;

/// Contents remembered in memory; more are a sign of contents that do not come again.
const MOST_REMEMBERED: usize = 100_000;

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

impl Entry {
    /// The entry as it is written: a line with the hash of the rest, the rest.
    fn to_bytes(&self) -> io::Result<Vec<u8>> {
        let text = serde_json::to_vec(self)?;
        let hash = blake3::hash(&text).to_hex();
        Ok([hash.as_bytes(), b"\n", &text].concat())
    }

    /// `None` when it is not as it was written.
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (hash, text) = bytes.split_at_checked(2 * blake3::OUT_LEN)?;
        let text = text.strip_prefix(b"\n")?;
        let is_whole = blake3::Hash::from_hex(hash).is_ok_and(|hash| hash == blake3::hash(text));
        is_whole.then(|| serde_json::from_slice(text).ok()).flatten()
    }
}

/// A folder of prepared models; or, without one, what this process remembers.
#[derive(Debug)]
pub struct Cache {
    folder: Option<PathBuf>,
    room: Room,
    /// What keys depend on besides the content.
    platform: String,
    /// Files whose hash was checked, by the hash of their paths (a path is a small allocation that would stay among those of
    /// the model), with what says that they are still the same. Locked to look up and insert.
    checked: Mutex<HashMap<blake3::Hash, Stamp>>,
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
            room: Room::new(0),
            platform: String::new(),
            checked: Mutex::default(),
            remembered: Mutex::default(),
            complained: AtomicBool::new(false),
        }
    }

    /// Opens or makes `folder`, for at most `limit` bytes. `platform` is what writes and reads.
    pub fn open(folder: &Path, limit: u64, platform: &Platform) -> Result<Self, CacheError> {
        make(folder)?;
        let unusable = |source| CacheError::Unusable {
            folder: folder.to_owned(),
            source,
        };
        if is_in_memory(folder).map_err(unusable)? {
            return Err(CacheError::InMemory {
                folder: folder.to_owned(),
            });
        }
        unfinished::tidy(folder);
        // Seen now rather than at the first model: a folder that cannot be written to is as good as none.
        drop(Unfinished::new(folder).map_err(unusable)?);
        let cache = Self {
            folder: Some(folder.to_owned()),
            room: Room::new(limit),
            platform: format!("{VERSION}\n{platform}"),
            ..Self::without_folder()
        };
        cache.look(folder).map_err(unusable)?;
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
        let bytes = fs::read(&description).ok()?;
        let entry = Entry::from_bytes(&bytes).filter(|entry| {
            let hash = entry.hash.as_deref();
            hash.is_none_or(|hash| self.is_whole(&file, hash, entry.bytes))
        });
        let Some(entry) = entry else {
            tracing::warn!(%content, "a prepared model is damaged or gone; it is made anew");
            self.remove(&description, &file);
            return None;
        };
        let file = entry.hash.is_some().then_some(file);
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

    /// Where a prepared form is to be written before [`Self::keep`]; `None` when there is no place.
    pub fn unfinished(&self) -> Option<Unfinished> {
        let folder = self.folder.as_ref()?;
        // It may have been deleted, and the place taken by somebody else.
        let made = make(folder).map_err(io::Error::other);
        match made.and_then(|()| Unfinished::new(folder)) {
            Ok(unfinished) => Some(unfinished),
            Err(error) => {
                self.complain(folder, &error);
                None
            }
        }
    }

    /// Remembers what was found out about `content`, with `unfinished` when that holds a prepared form.
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
            // A full disk may be why there is no prepared form, which is not to be remembered of the model.
            Some(folder) if could_be_written && !findings.prepared && !has_room(folder, facts.weights) => {
                self.complain(folder, &io::ErrorKind::StorageFull.into());
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
                Err(error) => self.complain(folder, &error),
            },
        }
        // What was measured of the prepared form is not true of the uploaded one: the caller measures that.
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
        let mut entry = Entry {
            findings: findings.clone(),
            facts,
            hash: None,
            bytes: 0,
        };
        let mut stamp = None;
        if let Some(unfinished) = &unfinished {
            let written = Stamp::of(unfinished.path())?;
            entry.bytes = written.size;
            entry.hash = Some(hash(unfinished.path())?);
            stamp = Some(written);
        }
        let text = entry.to_bytes()?;
        let adding = self.make_room(folder, entry.bytes + text.len() as u64)?;
        let mut new = Unfinished::new(folder)?;
        new.file().write_all(&text)?;
        if let (Some(unfinished), Some(stamp)) = (unfinished, stamp) {
            unfinished.finish(&file)?;
            self.checked(&file, stamp);
        }
        new.finish(&description)?;
        adding.done();
        Ok(entry.hash.map(|_| file))
    }

    /// Says that models cannot be kept: once, since it will be so of many.
    fn complain(&self, folder: &Path, error: &io::Error) {
        if !self.complained.swap(true, Ordering::Relaxed) {
            tracing::warn!(%error, folder = %folder.display(), "prepared models cannot be kept");
        }
    }

    /// Whether `file` is what was written. Read through once per process and file.
    fn is_whole(&self, file: &Path, expected: &str, bytes: u64) -> bool {
        let Ok(stamp) = Stamp::of(file) else { return false };
        if stamp.size != bytes {
            return false;
        }
        if lock(&self.checked).get(&path_hash(file)) == Some(&stamp) {
            return true;
        }
        let whole = hash(file).is_ok_and(|found| found == expected);
        if whole {
            self.checked(file, stamp);
        }
        whole
    }

    fn checked(&self, file: &Path, stamp: Stamp) {
        let mut checked = lock(&self.checked);
        if checked.len() >= MOST_REMEMBERED {
            checked.clear();
        }
        checked.insert(path_hash(file), stamp);
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
            discard(path);
        }
        lock(&self.checked).remove(&path_hash(file));
    }

    /// Makes `bytes` more be within the bound.
    fn make_room(&self, folder: &Path, bytes: u64) -> io::Result<Adding<'_>> {
        let limit = self.room.limit();
        if bytes > limit {
            return Err(io::Error::new(
                io::ErrorKind::StorageFull,
                format!("a prepared model of {bytes} bytes is over the bound of {limit} (--cache-size)"),
            ));
        }
        let adding = self.room.add(bytes);
        if self.room.is_to_be_looked_at() {
            self.look(folder)?;
        }
        Ok(adding)
    }

    /// Looks at what is in the folder, and removes what was not used for longest until it is within the bound.
    fn look(&self, folder: &Path) -> io::Result<()> {
        let look = self.room.look();
        let mut entries: Vec<Used> = entries(folder)?.into_values().collect();
        let mut seen: u64 = entries.iter().map(|entry| entry.bytes).sum();
        entries.sort_unstable_by_key(|entry| entry.last);
        for entry in entries {
            if self.room.excess(&look, seen) == 0 {
                break;
            }
            self.remove(&entry.path.with_extension("json"), &entry.path.with_extension("ort"));
            seen -= entry.bytes;
        }
        self.room.looked(&look, seen);
        Ok(())
    }
}

/// Makes `folder`, if need be, and sees to it that nobody else may write there.
fn make(folder: &Path) -> Result<(), CacheError> {
    let unusable = |source| CacheError::Unusable {
        folder: folder.to_owned(),
        source,
    };
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o700).create(folder).map_err(unusable)?;
    let metadata = fs::symlink_metadata(folder).map_err(unusable)?;
    let ours = metadata.uid() == rustix::process::geteuid().as_raw();
    if metadata.is_dir() && ours && metadata.mode() & 0o022 == 0 {
        Ok(())
    } else {
        Err(CacheError::NotOurs {
            folder: folder.to_owned(),
        })
    }
}

/// An entry in the folder.
struct Used {
    /// Of its files, without what tells them apart.
    path: PathBuf,
    bytes: u64,
    last: Option<SystemTime>,
}

/// All entries in the folder, by their files' paths without what tells them apart.
fn entries(folder: &Path) -> io::Result<HashMap<PathBuf, Used>> {
    let mut entries = HashMap::new();
    for entry in fs::read_dir(folder)?.flatten() {
        let file = entry.path();
        if !file.extension().is_some_and(|kind| kind == "ort" || kind == "json") {
            continue;
        }
        let Ok(metadata) = entry.metadata() else { continue };
        let path = file.with_extension("");
        let used = entries.entry(path.clone()).or_insert(Used {
            path,
            bytes: 0,
            last: None,
        });
        used.bytes += metadata.len();
        // Of the two, the description is touched when it is used; neither is older than the entry.
        used.last = used.last.max(metadata.modified().ok());
    }
    Ok(entries)
}

fn hash(file: &Path) -> io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(file)?)?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// Whether there is room for the prepared form of a model of `weights` bytes. There is none in a folder that is gone.
fn has_room(folder: &Path, weights: u64) -> bool {
    const SPARE: u64 = 1 << 20;
    let needed = weights.saturating_mul(2).saturating_add(SPARE);
    rustix::fs::statvfs(folder).is_ok_and(|system| system.f_bavail.saturating_mul(system.f_frsize) >= needed)
}

/// Whether files there are memory: a mapping of them cannot be given up and read again.
fn is_in_memory(folder: &Path) -> io::Result<bool> {
    const TMPFS: i64 = 0x0102_1994;
    const RAMFS: i64 = 0x8584_58f6;
    let kind = rustix::fs::statfs(folder)?.f_type;
    Ok(kind == TMPFS || kind == RAMFS)
}

fn path_hash(file: &Path) -> blake3::Hash {
    blake3::hash(file.as_os_str().as_bytes())
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
