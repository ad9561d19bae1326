//! A temporary folder that is removed with its owner, or after the owner was killed.
//!
//! Invariant: the folder is locked as long as its owner lives, which distinguishes the remains of a
//! killed process from the folder of a living one. A process id could not: containers that share
//! the location each have process ids of their own.

use std::fs::{self, File, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;

/// Prefix of the folders' names.
const PREFIX: &str = ".while-";

/// Age at which a folder counts as abandoned where folders cannot be locked.
const ABANDONED: Duration = Duration::from_secs(60 * 60);

/// Attempts when another process takes a new folder for an abandoned one before it is locked.
const TRIES: usize = 8;

/// A folder that is removed on drop.
#[derive(Debug)]
pub struct Temporary {
    folder: TempDir,
    _lock: File,
}

impl Temporary {
    /// Creates an empty folder in `place`, for this user alone.
    pub fn new(place: &Path) -> io::Result<Self> {
        for _ in 0..TRIES {
            let folder = tempfile::Builder::new()
                .prefix(PREFIX)
                .permissions(Permissions::from_mode(0o700))
                .tempdir_in(place)?;
            let lock = match File::open(folder.path()) {
                Ok(lock) => lock,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            // Not every file system has locks; without them, the age decides.
            let is_taken = matches!(lock.try_lock(), Err(TryLockError::WouldBlock));
            if !is_taken && folder.path().exists() {
                return Ok(Self { folder, _lock: lock });
            }
        }
        Err(io::Error::other("another process keeps removing the new folder"))
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// Removes the remains of killed processes in `place`.
pub fn tidy(place: &Path) {
    for entry in fs::read_dir(place).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes())
            && let Some(_lock) = abandoned(&path)
            && let Err(error) = fs::remove_dir_all(&path)
        {
            tracing::debug!(%error, "the folder of a killed process cannot be removed");
        }
    }
}

/// Takes the lock of a folder that belongs to no living process.
fn abandoned(path: &Path) -> Option<File> {
    if !fs::symlink_metadata(path).ok()?.is_dir() {
        return None;
    }
    let folder = File::open(path).ok()?;
    match folder.try_lock() {
        Ok(()) => Some(folder),
        Err(TryLockError::WouldBlock) => None,
        Err(TryLockError::Error(_)) => {
            let made = folder.metadata().and_then(|metadata| metadata.modified()).ok()?;
            (made.elapsed().ok()? > ABANDONED).then_some(folder)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    #[test]
    fn only_abandoned_folders_are_removed() {
        let place = tempfile::tempdir().unwrap();
        let living = Temporary::new(place.path()).unwrap();
        fs::write(living.path().join("file"), "wanted").unwrap();
        assert_eq!(fs::metadata(living.path()).unwrap().mode() & 0o777, 0o700);
        let left = place.path().join(format!("{PREFIX}left"));
        fs::create_dir_all(left.join("deep")).unwrap();
        let (other, target) = (place.path().join("other"), tempfile::tempdir().unwrap());
        fs::create_dir(&other).unwrap();
        symlink(target.path(), place.path().join(format!("{PREFIX}link"))).unwrap();
        tidy(place.path());
        assert!(living.path().join("file").exists() && other.exists() && target.path().exists());
        assert!(!left.exists());
        let path = living.path().to_owned();
        drop(living);
        assert!(!path.exists());
    }
}
