//! Prepared models on disk, found by their content's hash.
//!
//! An entry is two files: `prepared-<name>.ort`, the model as it is mapped, and `prepared-<name>.json`, the findings about
//! it, the hash of the first, and before all that its own hash. A model that has no prepared form has the second alone. The
//! name is a hash over all that a prepared model depends on: content, ONNX Runtime's build and execution provider, the
//! processor's features, the version of this format. On a GPU there are no prepared models; TensorRT keeps its engines in a
//! folder `prepared-<name>.tensorrt`.
//!
//! What always holds:
//! - Files appear whole, by a rename, and are never written again: a mapping outlives its file's name. The folder may be
//!   deleted or shared between processes at any time.
//! - A file is believed only after its hash was checked in this process: what a crash or a bad disk has left of it is found
//!   then, and made anew. So nothing has to be synchronised to disk while a model is waited for.
//! - The folder belongs to this user alone, and so do those around it: a user who could write there would answer for all
//!   models (`private.rs`). Names and the hashes of descriptions depend on the folder's key, so that a file that came there
//!   in another way is not believed.
//! - A prepared form under a content comes from that very content: it is made of a private copy (`artifact/copy.rs`).
//! - The sizes of finished files stay within a bound (`room.rs`); the file that was not used for longest goes first.

mod beside;
mod entry;
mod folder;
mod room;
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
use crate::engine::artifact::Facts;
use crate::engine::content::ContentHash;
use crate::private::{self, Key, Refusal};

use entry::{Entry, Stamp, hash};
use folder::{PREFIX, Used, entries, has_room, remove_foreseeable};
use room::{Adding, Room};

pub use folder::{free_bytes, is_in_memory};
pub use unfinished::Unfinished;

/// Part of every key: raised when what is written changes its meaning.
const VERSION: u32 = 5;

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
    #[error(transparent)]
    NotOurs(#[from] Refusal),
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

/// A folder of prepared models; or, without one, what this process remembers.
#[derive(Debug)]
pub struct Cache {
    folder: Option<PathBuf>,
    room: Room,
    /// What names depend on besides the content.
    platform: String,
    key: Key,
    /// Files whose hash was checked, by the hash of their paths (a path is a small allocation that would stay among those of
    /// the model), with what says that they are still the same. Locked to look up and insert.
    checked: Mutex<HashMap<blake3::Hash, Stamp>>,
    /// Without a folder: what was found out.
    remembered: Mutex<HashMap<ContentHash, (Findings, Facts)>>,
    complained: AtomicBool,
}

impl Cache {
    /// What is found out is remembered by this process only, and nothing is mapped.
    pub fn without_folder() -> Self {
        Self {
            folder: None,
            room: Room::new(0),
            platform: String::new(),
            key: Key::of_process(),
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
        private::make(folder).map_err(|refusal| match refusal {
            Refusal::Unusable { source, .. } => unusable(source),
            refusal => refusal.into(),
        })?;
        if is_in_memory(folder).map_err(unusable)? {
            return Err(CacheError::InMemory {
                folder: folder.to_owned(),
            });
        }
        unfinished::tidy(folder);
        private::tidy(folder);
        remove_foreseeable(folder);
        // Seen now rather than at the first model: a folder that cannot be written to is as good as none.
        drop(Unfinished::new(folder).map_err(unusable)?);
        let cache = Self {
            folder: Some(folder.to_owned()),
            room: Room::new(limit),
            platform: format!("{VERSION}\n{platform}"),
            key: Key::open(folder).map_err(unusable)?,
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
        let entry = Entry::from_bytes(&bytes, &self.key).filter(|entry| {
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
        // It may have been deleted, and another user may have taken the place.
        let made = private::make(folder).map_err(io::Error::other);
        let made = made.and_then(|()| self.key.put(folder));
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
            Some(folder) if could_be_written && !findings.prepared && !has_room(folder, facts.widest()) => {
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
            // By its descriptor; under its name there must still be this very file.
            let written = Stamp::of_metadata(&unfinished.file().metadata()?);
            if Stamp::of(unfinished.path())? != written {
                return Err(io::Error::other("another file has taken the place of a prepared form"));
            }
            entry.bytes = written.size;
            entry.hash = Some(hash(unfinished.file())?);
            stamp = Some(written);
        }
        let text = entry.to_bytes(&self.key)?;
        let adding = self.make_room(folder, entry.bytes + text.len() as u64)?;
        let new = Unfinished::new(folder)?;
        let mut written = new.file();
        written.write_all(&text)?;
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
        let whole = File::open(file)
            .and_then(|file| hash(&file))
            .is_ok_and(|found| found == expected);
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
        let mut hasher = self.key.hasher("longshore 2026 prepared model");
        hasher.update(content.to_string().as_bytes());
        hasher.update(self.platform.as_bytes());
        let name = hasher.finalize().to_hex();
        let file = |kind: &str| folder.join(format!("{PREFIX}{name}.{kind}"));
        (file("json"), file("ort"))
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

fn path_hash(file: &Path) -> blake3::Hash {
    blake3::hash(file.as_os_str().as_bytes())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
