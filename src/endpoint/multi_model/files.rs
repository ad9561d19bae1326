//! A model's files below the container's models root: `<models root>/<name>/model` (MM-1).
//!
//! The files are hard links to the store's unpacked files, so a model takes disk space once,
//! however many containers load it. Symbolic links would lead out of the models root, which
//! containers rightly refuse, and out of the folder that a container sees. If the two folders are
//! on different file systems, the files are copied. The lease keeps the store's files as long as
//! the links exist, so that the store's accounting of disk space stays correct.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::store::Lease;

/// The directory below the model's own, by SageMaker's name.
const MODEL: &str = "model";

/// A model's files below the models root.
#[derive(Debug)]
pub(super) struct PlacedFiles {
    folder: PathBuf,
    _lease: Lease,
}

impl PlacedFiles {
    /// Links the leased files below `root`, replacing existing ones. Blocks on disk I/O.
    pub fn new(lease: Lease, root: &Path, name: &str) -> io::Result<Self> {
        let folder = root.join(name);
        remove(&folder)?;
        match link(lease.path(), &folder.join(MODEL)) {
            Ok(()) => Ok(Self { folder, _lease: lease }),
            Err(error) => {
                // The partial copy is useless. The first error is the one to report.
                let _ = remove(&folder);
                Err(error)
            }
        }
    }

    /// Removes the files. Blocks on disk I/O.
    pub fn remove(self) {
        if let Err(error) = remove(&self.folder) {
            tracing::warn!(folder = %self.folder.display(), %error, "the files of an unloaded model were not removed");
        }
    }
}

/// The model's directory by the container's path.
pub(super) fn url(root: &str, name: &str) -> String {
    format!("{}/{name}/{MODEL}", root.trim_end_matches('/'))
}

fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Links a directory tree. An unpacked artifact contains only files and directories.
fn link(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            link(&entry.path(), &target)?;
            continue;
        }
        match fs::hard_link(entry.path(), &target) {
            // Another file system, one without hard links, or too many links.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::CrossesDevices
                        | io::ErrorKind::Unsupported
                        | io::ErrorKind::TooManyLinks
                        | io::ErrorKind::PermissionDenied
                ) =>
            {
                fs::copy(entry.path(), &target)?;
            }
            result => result?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn files_are_hard_links_and_outlive_the_removal_of_the_links() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::create_dir(from.path().join("1")).unwrap();
        fs::write(from.path().join("1/model.onnx"), "x").unwrap();
        let folder = to.path().join("a/model");
        link(from.path(), &folder).unwrap();
        let there = fs::symlink_metadata(folder.join("1/model.onnx")).unwrap();
        assert!(there.is_file());
        assert_eq!(
            there.ino(),
            fs::metadata(from.path().join("1/model.onnx")).unwrap().ino()
        );
        remove(&to.path().join("a")).unwrap();
        assert!(from.path().join("1/model.onnx").exists() && !folder.exists());
        remove(&to.path().join("a")).unwrap();
    }

    #[test]
    fn the_container_sees_one_slash_between_root_and_name() {
        assert_eq!(url("/opt/ml/models", "a"), "/opt/ml/models/a/model");
        assert_eq!(url("/opt/ml/models/", "a"), "/opt/ml/models/a/model");
    }
}
