//! The folder of the cache's entries, which one process has to itself.
//!
//! ```text
//! archives-0/lock                            locked as long as the process lives
//!            key                             a secret that the names of entries depend on
//!            v3/<url>-<description>/         an entry, named by hashes
//!                   entry.json               its description; the file's time is the last use
//!                   content/                 the unpacked files
//!                   settled                  exists when the files above were synced to the disk
//!            v3/unfinished-<random>/         the same, being filled
//! ```
//!
//! Processes that share the parent folder take different numbers, each the first free one. So after
//! a process was killed, its successor takes its number and its entries. Each number has a limit of
//! its own.
//!
//! Invariants: a folder with the name of an entry is a whole entry, since it gets the name when it
//! is complete, and loses its description before it is removed. This holds after a crash of the
//! process. After a crash of the machine, files may survive without their content, so a new boot
//! trusts only entries that were settled. Syncing each entry at once would cost a first request
//! more than the download. Everything here belongs to the cache, and a folder without the name that
//! the key gives it is not trusted.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use super::description::{EntryDescription, weigh};
use super::janitor::Janitor;
use super::{DiskCacheError, lock};
use crate::disk_cache::{self, CacheFolder, discard, is_at, paths, unusable};
use crate::private::Key;
use crate::store::version::Version;

/// Most processes that may share a folder.
pub const MAX_PROCESSES: usize = 64;

const LOCK: &str = "lock";

/// Raised when the meaning of the files changes.
pub const FORMAT: &str = "v3";

const DESCRIPTION: &str = "entry.json";
const SETTLED: &str = "settled";
const UNFINISHED: &str = "unfinished-";

pub struct EntryFolders {
    /// `archives-<number>`.
    folder: CacheFolder,
    /// The locked file; replaced when another program has deleted the folder.
    held: Mutex<File>,
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
                return Ok(Self {
                    folder: CacheFolder::open(&folder)?,
                    held: Mutex::new(held),
                    boot: boot(),
                });
            }
        }
        Err(DiskCacheError::Taken {
            path: folder.to_owned(),
        })
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The entries of an earlier process, the least recently used first. Everything else is
    /// removed.
    pub fn entries(&self, janitor: &Janitor) -> Result<Vec<FoundEntry>, DiskCacheError> {
        let list = |folder: &Path| paths(folder).map_err(unusable(folder));
        for path in list(self.folder())? {
            if ![LOCK, Key::FILE, FORMAT].iter().any(|name| path.ends_with(name)) {
                janitor.discard(&path);
            }
        }
        let mut entries = Vec::new();
        for path in list(&self.folder().join(FORMAT))? {
            match self.entry(&path) {
                Some(entry) => entries.push(entry),
                None => janitor.discard(&path),
            }
        }
        entries.sort_unstable_by_key(|entry| entry.description.kept);
        let mut found: HashMap<String, FoundEntry> = HashMap::new();
        for entry in entries {
            // A crash interrupted the removal of the older of two entries with the same URL.
            if let Some(older) = found.insert(entry.description.url.clone(), entry) {
                janitor.discard(&older.folder);
            }
        }
        let mut found: Vec<FoundEntry> = found.into_values().collect();
        found.sort_unstable_by_key(|entry| entry.used);
        Ok(found)
    }

    fn entry(&self, folder: &Path) -> Option<FoundEntry> {
        let is_folder = |path: &Path| fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir());
        let content = content(folder);
        if !is_folder(folder) || !is_folder(&content) {
            return None;
        }
        let path = folder.join(DESCRIPTION);
        let description = EntryDescription::read(&path)?;
        let used = fs::metadata(path).and_then(|metadata| metadata.modified()).ok()?;
        let is_settled = folder.join(SETTLED).exists();
        let is_whole = is_settled || (description.boot.is_some() && description.boot == self.boot);
        let is_itself =
            folder.ends_with(description.name(&self.folder).ok()?) && weigh(&content).ok()? == description.bytes;
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
        let format = self.folder().join(FORMAT);
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&format);
        made.map_err(unusable(&format))?;
        let folder = tempfile::Builder::new().prefix(UNFINISHED).tempdir_in(&format);
        let folder = folder.map_err(unusable(&format))?;
        fs::create_dir(content(folder.path())).map_err(unusable(&format))?;
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
        // No entry has this name: the description has the time.
        let folder = unfinished.with_file_name(description.name(&self.folder).map_err(write)?);
        fs::rename(unfinished, &folder).map_err(write)?;
        Ok((folder, description.bytes))
    }

    /// Ensures that the folder still belongs to this process.
    fn ensure_held(&self) -> Result<(), DiskCacheError> {
        let mut held = lock(&self.held);
        let folder = self.folder();
        if is_at(&held, &folder.join(LOCK)) {
            return Ok(());
        }
        tracing::warn!(folder = %folder.display(), "the folder of fetched models was deleted; it is created again");
        *held = claim(folder)?.ok_or_else(|| DiskCacheError::Lost {
            path: folder.to_owned(),
        })?;
        Ok(self.folder.ensure()?)
    }
}

/// The folder of an entry's unpacked files.
pub fn content(folder: &Path) -> PathBuf {
    folder.join("content")
}

/// Removes an entry.
pub fn remove(folder: &Path) -> io::Result<()> {
    disown(folder)?;
    discard(folder)
}

/// Hides an entry from the next process.
pub fn disown(folder: &Path) -> io::Result<()> {
    discard(&folder.join(DESCRIPTION))
}

/// Records the use of an entry.
pub fn touch(folder: &Path) -> io::Result<()> {
    disk_cache::touch(&folder.join(DESCRIPTION))
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
    loop {
        disk_cache::make(folder)?;
        let path = folder.join(LOCK);
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path);
        let file = file.map_err(unusable(folder))?;
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

/// The id of the machine's current boot, where the system reports it.
fn boot() -> Option<String> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(boot.trim().to_owned()).filter(|boot| !boot.is_empty())
}
