//! The folder of the cache's entries, which one process has to itself.
//!
//! ```text
//! archives-0/lock                            locked as long as the process lives
//!            key                             a secret that the names of entries depend on
//!            v2/<url>-<description>-<n>/     an entry, named by hashes; n distinguishes equal ones
//!                   entry.json               its description; the file's time is the last use
//!                   content/                 the unpacked files
//!                   settled                  exists when the files above were synced to the disk
//!            v2/unfinished-<random>/         the same, being filled
//!            v2/removed-<entry>/             the same, being removed
//! ```
//!
//! Processes that share the parent folder take different numbers, each the first free one. So after
//! a process was killed, its successor takes its number and its entries. Each number has a limit of
//! its own.
//!
//! Invariants: a folder with the name of an entry is a whole entry, since it gets the name when it
//! is complete and loses it before it is removed. This holds after a crash of the process. After a
//! crash of the machine, files may survive without their content, so a new boot trusts only entries
//! that were settled. Syncing each entry at once would cost a first request more than the download.
//! No other user may write here (`private.rs`). Everything here belongs to the cache, and a folder
//! without the name that the key gives it is not trusted.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use super::description::{EntryDescription, weigh};
use super::janitor::Jobs;
use super::{DiskCacheError, lock};
use crate::private::{self, Key, Refusal};
use crate::store::version::Version;

/// Most processes that may share a folder.
pub const MAX_PROCESSES: usize = 64;

const LOCK: &str = "lock";
const KEY: &str = Key::FILE;

/// Raised when the meaning of the files changes.
const FORMAT: &str = "v2";

const DESCRIPTION: &str = "entry.json";
const SETTLED: &str = "settled";
const REMOVED: &str = "removed-";
const UNFINISHED: &str = "unfinished-";

pub struct EntryFolders {
    /// `archives-<number>`.
    folder: PathBuf,
    /// The locked file; replaced when another program has deleted the folder.
    held: Mutex<File>,
    key: Key,
    boot: Option<String>,
}

/// An entry of an earlier process.
pub struct FoundEntry {
    pub folder: PathBuf,
    pub description: EntryDescription,
    pub is_settled: bool,
    used: SystemTime,
}

impl EntryFolders {
    /// Claims the first free number in `folder`.
    pub fn open(folder: &Path) -> Result<Self, DiskCacheError> {
        for number in 0..MAX_PROCESSES {
            let folder = folder.join(format!("archives-{number}"));
            if let Some(held) = claim(&folder)? {
                let key = Key::open(&folder).map_err(|source| DiskCacheError::Unusable {
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
        Err(DiskCacheError::Taken {
            path: folder.to_owned(),
        })
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The entries of an earlier process, the least recently used first. Everything else is
    /// removed.
    pub fn entries(&self, jobs: &Jobs) -> Result<Vec<FoundEntry>, DiskCacheError> {
        for path in listed(&self.folder)? {
            if ![LOCK, KEY, FORMAT].iter().any(|name| path.ends_with(name)) {
                jobs.discard(&path);
            }
        }
        let mut found: HashMap<String, FoundEntry> = HashMap::new();
        for path in listed(&self.folder.join(FORMAT))? {
            let Some(entry) = self.entry(&path) else {
                jobs.discard(&path);
                continue;
            };
            // A crash interrupted the removal of the older of two entries with the same URL.
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
        let mut found: Vec<FoundEntry> = found.into_values().collect();
        found.sort_unstable_by_key(|entry| entry.used);
        Ok(found)
    }

    fn entry(&self, folder: &Path) -> Option<FoundEntry> {
        let name = folder.file_name()?.to_str()?;
        let is_folder = |path: &Path| fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir());
        let content = content(folder);
        if name.starts_with(REMOVED) || name.starts_with(UNFINISHED) || !is_folder(folder) || !is_folder(&content) {
            return None;
        }
        let path = folder.join(DESCRIPTION);
        let description = EntryDescription::read(&path)?;
        let used = fs::metadata(path).and_then(|metadata| metadata.modified()).ok()?;
        let is_settled = folder.join(SETTLED).exists();
        let is_whole = is_settled || (description.boot.is_some() && description.boot == self.boot);
        let is_itself =
            name.starts_with(&description.name(&self.key).ok()?) && weigh(&content).ok()? == description.bytes;
        (is_whole && is_itself).then(|| FoundEntry {
            folder: folder.to_owned(),
            description,
            is_settled,
            used,
        })
    }

    /// Creates a folder to be filled.
    pub fn unfinished(&self) -> Result<PathBuf, DiskCacheError> {
        self.ensure_held()?;
        let format = self.folder.join(FORMAT);
        let unusable = |source| DiskCacheError::Unusable {
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

    /// Turns a filled folder into an entry. Returns its folder and its bytes on disk.
    pub fn finish(&self, unfinished: &Path, url: &str, version: &Version) -> Result<(PathBuf, u64), DiskCacheError> {
        let write = |source| DiskCacheError::Write {
            path: unfinished.to_owned(),
            source,
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let description = EntryDescription {
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
                // An equal entry that is in use and to be removed.
                Err(error) if is_there(&error) => {}
                Err(error) => return Err(write(error)),
            }
        }
        Err(write(io::ErrorKind::AlreadyExists.into()))
    }

    /// Ensures that the folder still belongs to this process.
    fn ensure_held(&self) -> Result<(), DiskCacheError> {
        let mut held = lock(&self.held);
        if is_at(&held, &self.folder.join(LOCK)) {
            return Ok(());
        }
        tracing::warn!(folder = %self.folder.display(), "the folder of fetched models was deleted; it is created again");
        *held = claim(&self.folder)?.ok_or_else(|| DiskCacheError::Lost {
            path: self.folder.clone(),
        })?;
        self.key.put(&self.folder).map_err(|source| DiskCacheError::Unusable {
            path: self.folder.clone(),
            source,
        })
    }
}

/// The folder of an entry's unpacked files.
pub fn content(folder: &Path) -> PathBuf {
    folder.join("content")
}

/// Removes an entry.
pub fn remove(folder: &Path) -> io::Result<()> {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let removed = folder.with_file_name(format!("{REMOVED}{name}"));
    let renamed = fs::rename(folder, &removed);
    match renamed {
        // An earlier removal failed.
        Err(error) if is_there(&error) => fs::remove_dir_all(folder),
        // Another program has removed it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(()) => fs::remove_dir_all(removed),
    }
}

/// Removes a file or folder that is not an entry.
pub fn discard(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    }
}

/// Hides an entry from the next process.
pub fn disown(folder: &Path) -> io::Result<()> {
    fs::remove_file(folder.join(DESCRIPTION))
}

/// Records the use of an entry.
pub fn touch(folder: &Path) -> io::Result<()> {
    File::open(folder.join(DESCRIPTION))?.set_modified(SystemTime::now())
}

/// Syncs the files of an entry to the disk.
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

/// Creates and locks `folder`; `None` when another process holds it.
fn claim(folder: &Path) -> Result<Option<File>, DiskCacheError> {
    let unusable = |source| DiskCacheError::Unusable {
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
            // The lock file was deleted between opening and locking.
            Ok(()) if !is_at(&file, &path) => {}
            Ok(()) => return Ok(Some(file)),
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(source)) => {
                return Err(DiskCacheError::NoLocks {
                    path: folder.to_owned(),
                    source,
                });
            }
        }
    }
}

/// Whether `path` leads to this very `file`, rather than to another one of the same name.
fn is_at(file: &File, path: &Path) -> bool {
    let (Ok(file), Ok(there)) = (file.metadata(), fs::metadata(path)) else {
        return false;
    };
    (file.dev(), file.ino()) == (there.dev(), there.ino())
}

/// Whether a rename failed because the name is taken.
fn is_there(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists
    )
}

/// The paths in `folder`, which may be missing.
fn listed(folder: &Path) -> Result<Vec<PathBuf>, DiskCacheError> {
    let unusable = |source| DiskCacheError::Unusable {
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

/// The id of the machine's current boot, where the system reports it.
fn boot() -> Option<String> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(boot.trim().to_owned()).filter(|boot| !boot.is_empty())
}
