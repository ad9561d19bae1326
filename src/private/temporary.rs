//! Temporary files and folders that are removed with their owner, or after the owner was killed.
//!
//! Invariant: each is locked as long as its owner lives, which distinguishes the remains of a
//! killed process from the work of a living one. A process id could not: containers that share the
//! location each have process ids of their own.

use std::fs::{self, File, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use tempfile::{Builder, NamedTempFile, TempDir};

/// Prefixes of the names.
const FOLDER: &str = ".while-";
const FILE: &str = ".new-";

/// Age at which a file or folder counts as abandoned where it cannot be locked.
const ABANDONED: Duration = Duration::from_secs(60 * 60);

/// Attempts when another process takes a new file or folder for an abandoned one before it is
/// locked.
const TRIES: usize = 8;

/// A folder that is removed on drop.
#[derive(Debug)]
pub struct Temporary {
    folder: TempDir,
    _lock: File,
}

/// A file that is removed on drop, unless it was finished.
#[derive(Debug)]
pub struct TemporaryFile(NamedTempFile);

impl Temporary {
    /// Creates an empty folder in `place`, for this user alone.
    pub fn new(place: &Path) -> io::Result<Self> {
        for _ in 0..TRIES {
            let folder = Builder::new()
                .prefix(FOLDER)
                .permissions(Permissions::from_mode(0o700))
                .tempdir_in(place)?;
            let lock = match File::open(folder.path()) {
                Ok(lock) => lock,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            if is_ours(&lock, folder.path()) {
                return Ok(Self { folder, _lock: lock });
            }
        }
        Err(io::Error::other("another process keeps removing the new folder"))
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

impl TemporaryFile {
    /// Creates an empty file in `place`, for this user alone. A child that opens it by its name
    /// writes to this same file.
    pub fn new(place: &Path) -> io::Result<Self> {
        for _ in 0..TRIES {
            let file = Builder::new().prefix(FILE).tempfile_in(place)?;
            if is_ours(file.as_file(), file.path()) {
                return Ok(Self(file));
            }
        }
        Err(io::Error::other("another process keeps removing the new file"))
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn file(&self) -> &File {
        self.0.as_file()
    }

    /// Renames the file to `path` and replaces any file there.
    pub fn finish(self, path: &Path) -> io::Result<File> {
        Ok(self.0.persist(path)?)
    }
}

/// Locks a new file or folder. False if another process is removing it. Not every file system has
/// locks; without them, the age decides.
fn is_ours(file: &File, path: &Path) -> bool {
    !matches!(file.try_lock(), Err(TryLockError::WouldBlock)) && path.exists()
}

/// Removes the remains of killed processes in `place`.
pub fn tidy(place: &Path) {
    for entry in fs::read_dir(place).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let is_named = |prefix: &str| name.as_encoded_bytes().starts_with(prefix.as_bytes());
        let Ok(kind) = entry.file_type() else { continue };
        if !(kind.is_dir() && is_named(FOLDER) || kind.is_file() && is_named(FILE)) {
            continue;
        }
        let Some(_lock) = abandoned(&path) else { continue };
        let removed = match kind.is_dir() {
            true => fs::remove_dir_all(&path),
            false => fs::remove_file(&path),
        };
        if let Err(error) = removed {
            tracing::debug!(%error, "the remains of a killed process cannot be removed");
        }
    }
}

/// Takes the lock of a file or folder that belongs to no living process.
fn abandoned(path: &Path) -> Option<File> {
    let file = File::open(path).ok()?;
    match file.try_lock() {
        Ok(()) => Some(file),
        Err(TryLockError::WouldBlock) => None,
        Err(TryLockError::Error(_)) => {
            let written = file.metadata().and_then(|metadata| metadata.modified()).ok()?;
            (written.elapsed().ok()? > ABANDONED).then_some(file)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap().flatten();
        entries
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect()
    }

    #[test]
    fn a_dropped_file_is_removed_and_a_finished_one_has_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let given_up = TemporaryFile::new(folder.path()).unwrap();
        let finished = TemporaryFile::new(folder.path()).unwrap();
        assert_ne!(given_up.path(), finished.path());
        fs::write(finished.path(), "whole").unwrap();
        drop(given_up);
        finished.finish(&folder.path().join("name")).unwrap();
        assert_eq!(names(folder.path()), ["name"]);
        assert_eq!(fs::read_to_string(folder.path().join("name")).unwrap(), "whole");
    }

    #[test]
    fn only_abandoned_files_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let wanted = TemporaryFile::new(folder.path()).unwrap();
        // Written by its name, as a child does.
        fs::write(wanted.path(), "in the making").unwrap();
        fs::write(folder.path().join(format!("{FILE}1-0-0")), "left").unwrap();
        fs::write(folder.path().join("another"), "name").unwrap();
        fs::create_dir(folder.path().join(format!("{FILE}folder"))).unwrap();
        tidy(folder.path());
        let mut left = names(folder.path());
        left.sort_unstable();
        let wanted = wanted.path().file_name().unwrap().to_string_lossy().into_owned();
        let mut expected = [wanted, format!("{FILE}folder"), "another".to_owned()];
        expected.sort_unstable();
        assert_eq!(left, expected);
    }

    #[test]
    fn only_abandoned_folders_are_removed() {
        let place = tempfile::tempdir().unwrap();
        let living = Temporary::new(place.path()).unwrap();
        fs::write(living.path().join("file"), "wanted").unwrap();
        assert_eq!(fs::metadata(living.path()).unwrap().mode() & 0o777, 0o700);
        let left = place.path().join(format!("{FOLDER}left"));
        fs::create_dir_all(left.join("deep")).unwrap();
        let (other, target) = (place.path().join("other"), tempfile::tempdir().unwrap());
        fs::create_dir(&other).unwrap();
        symlink(target.path(), place.path().join(format!("{FOLDER}link"))).unwrap();
        tidy(place.path());
        assert!(living.path().join("file").exists() && other.exists() && target.path().exists());
        assert!(!left.exists());
        let path = living.path().to_owned();
        drop(living);
        assert!(!path.exists());
    }
}
