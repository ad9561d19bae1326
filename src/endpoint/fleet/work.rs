//! The work folder: all files of this process's containers.
//!
//! Each process removes its own folder at its end, but a killed one cannot. So each process locks
//! a file in its folder, and each new process removes the folders whose file is not locked. A
//! folder's name is unique on every machine, so it also serves as a prefix for the names of
//! containers.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::private;

const PREFIX: &str = "longshore-endpoint-";
const LOCK: &str = "lock";

/// The work folder of this process.
#[derive(Debug)]
pub(super) struct WorkFolder {
    folder: TempDir,
    /// The names of removed folders of killed processes.
    removed: Vec<String>,
    // Dropping the file unlocks it.
    _lock: File,
}

impl WorkFolder {
    /// Creates a work folder in `parent`, which is created if it does not exist. `parent` must
    /// belong to this user alone.
    pub fn new(parent: &Path) -> io::Result<Self> {
        private::make(parent).map_err(io::Error::other)?;
        let removed = clean(parent);
        let folder = tempfile::Builder::new()
            .prefix(PREFIX)
            .permissions(Permissions::from_mode(0o700))
            .tempdir_in(parent)?;
        let lock = File::create(folder.path().join(LOCK))?;
        lock.lock()?;
        Ok(Self {
            folder,
            removed,
            _lock: lock,
        })
    }

    pub fn name(&self) -> String {
        name_of(self.path())
    }

    /// Takes the names of the removed folders of killed processes.
    pub fn take_removed(&mut self) -> Vec<String> {
        std::mem::take(&mut self.removed)
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn close(self) -> io::Result<()> {
        self.folder.close()
    }
}

/// Removes the folders of killed processes and returns their names. Folders that cannot be removed
/// remain.
fn clean(parent: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for folder in left_behind(parent) {
        match fs::remove_dir_all(&folder) {
            Ok(()) => {
                tracing::info!(folder = %folder.display(), "removed the work folder of a killed process");
                names.push(name_of(&folder));
            }
            Err(error) => {
                tracing::warn!(folder = %folder.display(), %error, "the work folder of a killed process was not removed")
            }
        }
    }
    names
}

/// The name of a work folder, which is always ASCII.
fn name_of(folder: &Path) -> String {
    folder
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

fn left_behind(parent: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    let ours = entries.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes()));
    // A folder without a lock file is just being created.
    let is_free = |folder: &PathBuf| File::open(folder.join(LOCK)).is_ok_and(|lock| lock.try_lock().is_ok());
    ours.map(|entry| entry.path()).filter(is_free).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_folders_of_ended_processes_are_removed() {
        let parent = tempfile::tempdir().unwrap();
        let living = WorkFolder::new(parent.path()).unwrap();
        let dead = parent.path().join("longshore-endpoint-dead");
        let unfinished = parent.path().join("longshore-endpoint-new");
        let other = parent.path().join("archives-0");
        for folder in [&dead, &unfinished, &other] {
            fs::create_dir(folder).unwrap();
        }
        for locked in [&dead, &other] {
            File::create(locked.join(LOCK)).unwrap();
        }
        let mut second = WorkFolder::new(parent.path()).unwrap();
        assert!(!dead.exists());
        assert_eq!(second.take_removed(), ["longshore-endpoint-dead"]);
        for kept in [living.path(), second.path(), &unfinished, &other] {
            assert!(kept.exists(), "{}", kept.display());
        }
        living.close().unwrap();
        second.close().unwrap();
    }
}
