//! A file that is being written: nobody looks for it under its name, and it is gone when nobody wants it any more.
//!
//! What always holds: it is locked as long as somebody wants it, so that what a killed process has left can be told from what
//! another one is at work on. A process's number could not tell: the folder may be shared by containers, each of which counts
//! its own.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::engine::prepare::discard;

/// What the names begin with.
const PREFIX: &str = ".new-";

/// Where files cannot be locked: older ones belong to nobody any more.
const ABANDONED: Duration = Duration::from_secs(60 * 60);

/// Removed on drop, unless it was finished.
#[derive(Debug)]
pub struct Unfinished {
    path: PathBuf,
    /// Holds the lock. A child that writes by the file's name writes to this very file.
    file: File,
}

impl Unfinished {
    /// Makes an empty file in `folder`.
    pub fn new(folder: &Path) -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        loop {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let (process, next) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
            let path = folder.join(format!("{PREFIX}{process}-{next}-{:x}", now.as_nanos()));
            // Readable, too: it is hashed by the descriptor that was made here.
            match File::options().read(true).write(true).create_new(true).open(&path) {
                Ok(file) => {
                    // Not every file system has locks; there, age tells.
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

    /// Gives the file its name, in place of whatever had it.
    pub fn finish(self, path: &Path) -> io::Result<()> {
        fs::rename(&self.path, path)
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // A finished one is not there any more.
        discard(&self.path);
    }
}

/// Removes what processes that were killed have left in `folder`.
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
    fn a_file_that_is_given_up_is_gone_and_a_finished_one_has_its_name() {
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
    fn what_is_tidied_is_nobodys() {
        let folder = tempfile::tempdir().unwrap();
        let wanted = Unfinished::new(folder.path()).unwrap();
        // Written to by name, as another process does.
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
