//! The folder with all that containers have on disk: one for each process, gone when that has ended.
//!
//! A process that was killed cannot remove its own. So each keeps a lock in it as long as it lives, and who starts removes
//! those that nobody locks. A folder's name is no other's on any machine, so it also stands in the names of containers.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::private;

const PREFIX: &str = "longshore-endpoint-";
const LOCK: &str = "lock";

#[derive(Debug)]
pub(super) struct Work {
    folder: TempDir,
    /// Names of the folders of others that were removed.
    removed: Vec<String>,
    // Unlocked when it is closed.
    _lock: File,
}

impl Work {
    /// Makes one in `parent`, which is made when it is not there, and must be this user's alone.
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

    /// Names of the folders of killed processes that were found and removed. Theirs only, once.
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

/// Removes what killed processes have left behind, and returns its names. What cannot be removed stays.
fn clean(parent: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for folder in left_behind(parent) {
        match fs::remove_dir_all(&folder) {
            Ok(()) => {
                tracing::info!(folder = %folder.display(), "removed what a killed process has left behind");
                names.push(name_of(&folder));
            }
            Err(error) => tracing::warn!(folder = %folder.display(), %error, "left behind by a killed process"),
        }
    }
    names
}

/// All of ours have names of letters and digits.
fn name_of(folder: &Path) -> String {
    folder
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

fn left_behind(parent: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    let ours = entries.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes()));
    // One without a lock is being made just now.
    let is_free = |folder: &PathBuf| File::open(folder.join(LOCK)).is_ok_and(|lock| lock.try_lock().is_ok());
    ours.map(|entry| entry.path()).filter(is_free).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_processes_that_are_gone_are_removed_and_no_others() {
        let parent = tempfile::tempdir().unwrap();
        let living = Work::new(parent.path()).unwrap();
        let dead = parent.path().join("longshore-endpoint-dead");
        let unfinished = parent.path().join("longshore-endpoint-new");
        let other = parent.path().join("archives-0");
        for folder in [&dead, &unfinished, &other] {
            fs::create_dir(folder).unwrap();
        }
        for locked in [&dead, &other] {
            File::create(locked.join(LOCK)).unwrap();
        }
        let mut second = Work::new(parent.path()).unwrap();
        assert!(!dead.exists());
        assert_eq!(second.take_removed(), ["longshore-endpoint-dead"]);
        for kept in [living.path(), second.path(), &unfinished, &other] {
            assert!(kept.exists(), "{}", kept.display());
        }
        living.close().unwrap();
        second.close().unwrap();
    }
}
