//! A file that is being written under a temporary name. It is removed unless it is finished.
//!
//! Invariant: the file is locked while its owner uses it, so that the remains of a killed process
//! differ from files that another process writes. A process id could not tell them apart, because
//! containers with their own process ids may share the folder.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::engine::load::prepare::discard;

/// Prefix of the names.
const PREFIX: &str = ".new-";

/// Age from which a file counts as abandoned, where files cannot be locked.
const ABANDONED: Duration = Duration::from_secs(60 * 60);

/// An unfinished file. It is removed on drop, unless it was finished.
#[derive(Debug)]
pub struct Unfinished {
    path: PathBuf,
    /// Holds the lock. A child that opens the file by its name writes to this same file.
    file: File,
}

impl Unfinished {
    /// Creates an empty file in `folder`.
    pub fn new(folder: &Path) -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        loop {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let (process, next) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
            let path = folder.join(format!("{PREFIX}{process}-{next}-{:x}", now.as_nanos()));
            // Readable too, because it is hashed through this descriptor.
            match File::options().read(true).write(true).create_new(true).open(&path) {
                Ok(file) => {
                    // Some file systems have no locks; there, the age decides.
                    let _ = file.try_lock();
                    return Ok(Self { path, file });
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn file(&self) -> &File {
        &self.file
    }

    /// Renames the file to `path` and replaces any file there.
    pub fn finish(self, path: &Path) -> io::Result<()> {
        fs::rename(&self.path, path)
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // A finished file does not have this name any more.
        discard(&self.path);
    }
}

/// Removes the files that killed processes have left in `folder`.
pub fn tidy(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(PREFIX) && is_abandoned(&entry.path()) {
            discard(&entry.path());
        }
    }
}

fn is_abandoned(path: &Path) -> bool {
    let Ok(file) = File::open(path) else { return false };
    match file.try_lock() {
        Ok(()) => true,
        Err(TryLockError::WouldBlock) => false,
        Err(TryLockError::Error(_)) => {
            let written = file.metadata().and_then(|metadata| metadata.modified());
            written.is_ok_and(|time| time.elapsed().is_ok_and(|age| age > ABANDONED))
        }
    }
}

#[cfg(test)]
mod tests {
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
        let given_up = Unfinished::new(folder.path()).unwrap();
        let finished = Unfinished::new(folder.path()).unwrap();
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
        let wanted = Unfinished::new(folder.path()).unwrap();
        // Written by its name, as a child does.
        fs::write(wanted.path(), "in the making").unwrap();
        fs::write(folder.path().join(format!("{PREFIX}1-0-0")), "left").unwrap();
        fs::write(folder.path().join("another"), "name").unwrap();
        fs::create_dir(folder.path().join(format!("{PREFIX}folder"))).unwrap();
        tidy(folder.path());
        let mut left = names(folder.path());
        left.sort_unstable();
        let wanted = wanted.path().file_name().unwrap().to_string_lossy().into_owned();
        assert_eq!(left, [wanted, format!("{PREFIX}folder"), "another".to_owned()]);
    }
}
