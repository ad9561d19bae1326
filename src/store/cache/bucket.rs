//! Where entries lie: a folder of this process's own.
//!
//! ```text
//! archives-0/lock                            held as long as the process lives
//!            key                             a secret that the names of entries depend on
//!            v2/<url>-<description>-<n>/     an entry, by hashes; n tells those of the same apart
//!                   entry.json               what it is of; its time is when it was used last
//!                   content/                 what was unpacked
//!                   settled                  there when all of the above was written to the disk itself
//!            v2/unfinished-<random>/         the same, being filled
//!            v2/removed-<entry>/             the same, being removed
//! ```
//!
//! Processes that share the folder above take different numbers, the first that is free: a process that was killed is
//! followed by one that takes its number, and with it what it has left. Each number is bounded by itself.
//!
//! What always holds: whatever has the name of an entry is one, since it gets the name when it is whole and loses it
//! before it is removed. That is so after a crash of the process; of the machine, files may survive that were never
//! written to, and only what was settled is believed when the machine has been started anew since. Waiting for the
//! disk with each entry would cost a first request more than the download. No other user may write here (`private.rs`);
//! all that is here is the cache's, and what has not the name that the key gives it is not believed.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use super::description::{Description, weigh};
use super::janitor::Jobs;
use super::{CacheError, lock};
use crate::private::{self, Key, Refusal};
use crate::store::version::Version;

/// Processes that may share a folder.
pub const MOST: usize = 64;

const LOCK: &str = "lock";
const KEY: &str = Key::FILE;

/// Raised when what is written here changes its meaning.
const FORMAT: &str = "v2";

const DESCRIPTION: &str = "entry.json";
const SETTLED: &str = "settled";
const REMOVED: &str = "removed-";
const UNFINISHED: &str = "unfinished-";

pub struct Bucket {
    /// `archives-<number>`.
    folder: PathBuf,
    /// Held to take the place anew when somebody has deleted it.
    held: Mutex<File>,
    key: Key,
    boot: Option<String>,
}

/// An entry of an earlier process.
pub struct Found {
    pub folder: PathBuf,
    pub description: Description,
    pub is_settled: bool,
    used: SystemTime,
}

impl Bucket {
    /// Takes the first free place in `folder`.
    pub fn open(folder: &Path) -> Result<Self, CacheError> {
        for number in 0..MOST {
            let folder = folder.join(format!("archives-{number}"));
            if let Some(held) = claim(&folder)? {
                let key = Key::open(&folder).map_err(|source| CacheError::Unusable {
                    path: folder.clone(),
                    source,
                })?;
                return Ok(Self {
                    folder,
                    held: Mutex::new(held),
                    key,
                    boot: boot(),
                });
            }
        }
        Err(CacheError::Taken {
            path: folder.to_owned(),
        })
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The entries that an earlier process has left, those first that were used earlier. All else is removed.
    pub fn entries(&self, jobs: &Jobs) -> Result<Vec<Found>, CacheError> {
        for path in listed(&self.folder)? {
            if ![LOCK, KEY, FORMAT].iter().any(|name| path.ends_with(name)) {
                jobs.discard(&path);
            }
        }
        let mut found: HashMap<String, Found> = HashMap::new();
        for path in listed(&self.folder.join(FORMAT))? {
            let Some(entry) = self.entry(&path) else {
                jobs.discard(&path);
                continue;
            };
            // Of two of the same URL, the older was about to be removed.
            let url = entry.description.url.clone();
            match found.get(&url) {
                Some(other) if other.description.kept > entry.description.kept => jobs.discard(&path),
                _ => {
                    if let Some(older) = found.insert(url, entry) {
                        jobs.discard(&older.folder);
                    }
                }
            }
        }
        let mut found: Vec<Found> = found.into_values().collect();
        found.sort_unstable_by_key(|entry| entry.used);
        Ok(found)
    }

    fn entry(&self, folder: &Path) -> Option<Found> {
        let name = folder.file_name()?.to_str()?;
        let is_folder = |path: &Path| fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir());
        let content = content(folder);
        if name.starts_with(REMOVED) || name.starts_with(UNFINISHED) || !is_folder(folder) || !is_folder(&content) {
            return None;
        }
        let path = folder.join(DESCRIPTION);
        let description = Description::read(&path)?;
        let used = fs::metadata(path).and_then(|metadata| metadata.modified()).ok()?;
        let is_settled = folder.join(SETTLED).exists();
        let is_whole = is_settled || (description.boot.is_some() && description.boot == self.boot);
        let is_itself =
            name.starts_with(&description.name(&self.key).ok()?) && weigh(&content).ok()? == description.bytes;
        (is_whole && is_itself).then(|| Found {
            folder: folder.to_owned(),
            description,
            is_settled,
            used,
        })
    }

    /// Makes a folder to be filled.
    pub fn unfinished(&self) -> Result<PathBuf, CacheError> {
        self.hold()?;
        let format = self.folder.join(FORMAT);
        let unusable = |source| CacheError::Unusable {
            path: format.clone(),
            source,
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&format)
            .map_err(unusable)?;
        let folder = tempfile::Builder::new()
            .prefix(UNFINISHED)
            .tempdir_in(&format)
            .map_err(unusable)?;
        fs::create_dir(content(folder.path())).map_err(unusable)?;
        Ok(folder.keep())
    }

    /// Makes an entry of a folder that was filled. Returns where it is, and what it takes of the disk.
    pub fn finish(&self, unfinished: &Path, url: &str, version: &Version) -> Result<(PathBuf, u64), CacheError> {
        let write = |source| CacheError::Write {
            path: unfinished.to_owned(),
            source,
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let description = Description {
            url: url.to_owned(),
            version: version.clone(),
            bytes: weigh(&content(unfinished)).map_err(write)?,
            kept: u64::try_from(now.as_nanos()).unwrap_or(u64::MAX),
            boot: self.boot.clone(),
        };
        description.write(&unfinished.join(DESCRIPTION)).map_err(write)?;
        let name = description.name(&self.key).map_err(write)?;
        for number in 0u64.. {
            let folder = unfinished.with_file_name(format!("{name}-{number}"));
            match fs::rename(unfinished, &folder) {
                Ok(()) => return Ok((folder, description.bytes)),
                // Of the same version, in use and to be removed.
                Err(error) if is_there(&error) => {}
                Err(error) => return Err(write(error)),
            }
        }
        Err(write(io::ErrorKind::AlreadyExists.into()))
    }

    /// Sees to it that the place is still this process's.
    fn hold(&self) -> Result<(), CacheError> {
        let mut held = lock(&self.held);
        if is_at(&held, &self.folder.join(LOCK)) {
            return Ok(());
        }
        tracing::warn!(folder = %self.folder.display(), "the folder of fetched models was deleted; it is made anew");
        *held = claim(&self.folder)?.ok_or_else(|| CacheError::Lost {
            path: self.folder.clone(),
        })?;
        self.key.put(&self.folder).map_err(|source| CacheError::Unusable {
            path: self.folder.clone(),
            source,
        })
    }
}

/// Where an entry's content is.
pub fn content(folder: &Path) -> PathBuf {
    folder.join("content")
}

/// Removes an entry.
pub fn remove(folder: &Path) -> io::Result<()> {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let removed = folder.with_file_name(format!("{REMOVED}{name}"));
    let renamed = fs::rename(folder, &removed);
    match renamed {
        // One that could not be removed.
        Err(error) if is_there(&error) => fs::remove_dir_all(folder),
        // Somebody else has removed it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(()) => fs::remove_dir_all(removed),
    }
}

/// Removes what is no entry.
pub fn discard(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    }
}

/// Makes an entry be none for the next process.
pub fn disown(folder: &Path) -> io::Result<()> {
    fs::remove_file(folder.join(DESCRIPTION))
}

/// Notes that an entry is used.
pub fn note(folder: &Path) -> io::Result<()> {
    File::open(folder.join(DESCRIPTION))?.set_modified(SystemTime::now())
}

/// Writes an entry to the disk itself.
pub fn settle(folder: &Path) -> io::Result<()> {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else {
                File::open(entry.path())?.sync_all()?;
            }
        }
        File::open(folder)?.sync_all()?;
    }
    if let Some(parent) = folder.parent() {
        File::open(parent)?.sync_all()?;
    }
    File::create(folder.join(SETTLED)).map(drop)
}

/// Makes `folder`, and locks it; `None` when another process has.
fn claim(folder: &Path) -> Result<Option<File>, CacheError> {
    let unusable = |source| CacheError::Unusable {
        path: folder.to_owned(),
        source,
    };
    loop {
        match private::make(folder) {
            Err(Refusal::Unusable { source, .. }) => return Err(unusable(source)),
            made => made?,
        }
        let path = folder.join(LOCK);
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path);
        let file = file.map_err(unusable)?;
        match file.try_lock() {
            // Deleted between the two.
            Ok(()) if !is_at(&file, &path) => {}
            Ok(()) => return Ok(Some(file)),
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(source)) => {
                return Err(CacheError::NoLocks {
                    path: folder.to_owned(),
                    source,
                });
            }
        }
    }
}

/// Whether `path` is `file`, and not another one of its name.
fn is_at(file: &File, path: &Path) -> bool {
    let (Ok(file), Ok(there)) = (file.metadata(), fs::metadata(path)) else {
        return false;
    };
    (file.dev(), file.ino()) == (there.dev(), there.ino())
}

/// Whether a folder could not get its name because another has it.
fn is_there(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists
    )
}

/// What is in `folder`, which may be missing.
fn listed(folder: &Path) -> Result<Vec<PathBuf>, CacheError> {
    let unusable = |source| CacheError::Unusable {
        path: folder.to_owned(),
        source,
    };
    match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => entries
            .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect())
            .map_err(unusable),
    }
}

/// What tells one start of the machine from another, where the machine tells.
fn boot() -> Option<String> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(boot.trim().to_owned()).filter(|boot| !boot.is_empty())
}
