//! A model's files where its container may read them: `<models root>/<name>/model` (MM-1).
//!
//! They are hard links to what the store unpacked, so a model takes its room on disk once however many containers load it.
//! Symbolic links would lead out of the models root, which containers rightly refuse, and out of what a container sees. Where
//! the two are on different file systems they are copies. The lease keeps the store's files for as long as they are used,
//! so that its accounts of the disk stay true.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::store::Lease;

/// The directory below a model's own, as SageMaker calls it.
const MODEL: &str = "model";

/// A model's files.
#[derive(Debug)]
pub(super) struct Placed {
    folder: PathBuf,
    _lease: Lease,
}

impl Placed {
    /// Links what was leased below `root`, in place of what may be there. Waits for the disk.
    pub fn new(lease: Lease, root: &Path, name: &str) -> io::Result<Self> {
        let folder = root.join(name);
        remove(&folder)?;
        match link(lease.path(), &folder.join(MODEL)) {
            Ok(()) => Ok(Self { folder, _lease: lease }),
            Err(error) => {
                // Half of it is of no use; what went wrong first is to be told.
                let _ = remove(&folder);
                Err(error)
            }
        }
    }

    /// Removes them. Waits for the disk.
    pub fn remove(self) {
        if let Err(error) = remove(&self.folder) {
            tracing::warn!(folder = %self.folder.display(), %error, "files of an unloaded model stay behind");
        }
    }
}

/// The model's directory as the container sees it.
pub(super) fn url(root: &str, name: &str) -> String {
    format!("{}/{name}/{MODEL}", root.trim_end_matches('/'))
}

fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Files and directories only: an unpacked artifact has nothing else.
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
            // Another file system, or one without hard links, or too many of them.
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
    fn links_are_files_of_their_own_with_the_same_content() {
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
