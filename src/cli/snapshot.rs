//! Snapshots in the cache of Hugging Face: folders of links to files in another folder.
//!
//! `hub/models--x/snapshots/REVISION/model.onnx` links to `hub/models--x/blobs/HASH`. A server
//! refuses links that leave an artifact, because an uploader could read the machine's files
//! through them. `pack` and `inspect` run for the owner of the cache. They therefore examine a
//! copy of the snapshot in which each such link is replaced with its file. Other links stay links,
//! and are refused as in any other artifact.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tempfile::TempDir;

/// Copy of a snapshot, deleted when this value is dropped.
pub struct SnapshotCopy {
    _folder: TempDir,
    /// Path in the copy that corresponds to the original path.
    pub path: PathBuf,
}

/// Copies the artifact at `path`, a folder or a model file, if it is part of a snapshot; otherwise
/// returns `None`.
pub fn copy(path: &Path) -> Result<Option<SnapshotCopy>> {
    let folder = if path.is_dir() {
        path
    } else {
        path.parent().unwrap_or(Path::new(""))
    };
    let folder = if folder.as_os_str().is_empty() {
        Path::new(".")
    } else {
        folder
    };
    // Opening the artifact reports a path that does not exist.
    let Ok(folder) = folder.canonicalize() else {
        return Ok(None);
    };
    let Some(blobs) = blobs_of(&folder) else {
        return Ok(None);
    };
    let temporary = tempfile::Builder::new()
        .prefix("longshore-")
        .tempdir()
        .context("create a folder for the snapshot's files; set TMPDIR to use another directory")?;
    let copy = temporary.path().join(folder.file_name().unwrap_or("snapshot".as_ref()));
    super::progress("following the links of a Hugging Face snapshot");
    copy_folder(&folder, &copy, &blobs).with_context(|| {
        format!(
            "copy the files of {}; set TMPDIR to copy them to another directory",
            folder.display()
        )
    })?;
    let path = match (path.is_dir(), path.file_name()) {
        (false, Some(name)) => copy.join(name),
        (true, _) | (false, None) => copy,
    };
    Ok(Some(SnapshotCopy {
        _folder: temporary,
        path,
    }))
}

/// Returns the folder to which the links of a snapshot lead; `folder` is the real path of the
/// snapshot or of a folder in it.
fn blobs_of(folder: &Path) -> Option<PathBuf> {
    let snapshots = folder.ancestors().skip(1).find(|above| above.ends_with("snapshots"))?;
    let blobs = snapshots.parent()?.join("blobs").canonicalize().ok()?;
    blobs.is_dir().then_some(blobs)
}

fn copy_folder(from: &Path, to: &Path, blobs: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, target, kind) = (entry.path(), to.join(entry.file_name()), entry.file_type()?);
        if kind.is_dir() {
            copy_folder(&source, &target, blobs)?;
        } else if kind.is_file() {
            link_or_copy(&source, &target)?;
        } else if kind.is_symlink() {
            match source.canonicalize() {
                Ok(blob) if blob.starts_with(blobs) && blob.is_file() => link_or_copy(&blob, &target)?,
                Ok(_) | Err(_) => symlink(fs::read_link(&source)?, &target)?,
            }
        }
    }
    Ok(())
}

/// Creates `target` as a hard link to `source`, or as a copy if they are on different file
/// systems.
fn link_or_copy(source: &Path, target: &Path) -> io::Result<()> {
    fs::hard_link(source, target).or_else(|_| fs::copy(source, target).map(drop))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Creates a hub with one snapshot that contains a link to a blob and a link to a secret.
    fn hub() -> (TempDir, PathBuf) {
        let hub = tempfile::tempdir().unwrap();
        let root = hub.path().canonicalize().unwrap().join("models--x");
        let snapshot = root.join("snapshots/abc");
        fs::create_dir_all(snapshot.join("onnx")).unwrap();
        fs::create_dir(root.join("blobs")).unwrap();
        fs::write(root.join("blobs/1234"), "weights").unwrap();
        symlink("../../../blobs/1234", snapshot.join("onnx/model.onnx")).unwrap();
        fs::write(hub.path().join("secret"), "secret").unwrap();
        symlink("../../../secret", snapshot.join("secret")).unwrap();
        (hub, snapshot)
    }

    #[test]
    fn a_copy_has_files_for_links_to_blobs_and_keeps_other_links() {
        let (_hub, snapshot) = hub();
        let copied = copy(&snapshot).unwrap().unwrap();
        assert!(copied.path.ends_with("abc"));
        let model = copied.path.join("onnx/model.onnx");
        assert!(fs::symlink_metadata(&model).unwrap().is_file());
        assert_eq!(fs::read_to_string(model).unwrap(), "weights");
        let secret = copied.path.join("secret");
        assert!(fs::symlink_metadata(&secret).unwrap().is_symlink());
        let folder = copied.path.clone();
        drop(copied);
        assert!(!folder.exists());
    }

    #[test]
    fn a_copy_contains_the_given_folder_or_file_of_the_snapshot() {
        let (_hub, snapshot) = hub();
        for part in ["onnx", "onnx/model.onnx"] {
            let copied = copy(&snapshot.join(part)).unwrap().unwrap();
            assert!(copied.path.ends_with(part), "{}", copied.path.display());
            assert!(copied.path.exists());
        }
    }

    #[test]
    fn a_folder_outside_a_snapshot_is_not_copied() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("snapshots/abc")).unwrap();
        for path in ["", "snapshots/abc", "missing"] {
            assert!(copy(&folder.path().join(path)).unwrap().is_none(), "{path}");
        }
    }
}
