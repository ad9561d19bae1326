//! Snapshots of Hugging Face's cache: folders of links to files in another folder.
//!
//! `hub/models--x/snapshots/REVISION/model.onnx` links to `hub/models--x/blobs/HASH`. A server refuses links out of an
//! artifact, because an uploader could read the machine's files through them. `pack` and `inspect` run for the person who
//! owns the cache, so they look at a copy of the snapshot in which each such link is the file itself. Links to anywhere
//! else stay what they are, and are refused as in any other artifact.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tempfile::TempDir;

/// The copy of a snapshot. It is removed with this value.
pub struct Copied {
    _folder: TempDir,
    /// The path in the copy that stands for the one that was given.
    pub path: PathBuf,
}

/// Copies the artifact at `path`, a folder or a model file, when it is part of a snapshot. `None` when it is not.
pub fn copy(path: &Path) -> Result<Option<Copied>> {
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
    // A path that does not exist is reported by the one who opens the artifact.
    let Ok(folder) = folder.canonicalize() else {
        return Ok(None);
    };
    let Some(blobs) = blobs_of(&folder) else {
        return Ok(None);
    };
    let temporary = tempfile::Builder::new()
        .prefix("longshore-")
        .tempdir()
        .context("make a folder for the snapshot's files; TMPDIR names another place")?;
    let copy = temporary.path().join(folder.file_name().unwrap_or("snapshot".as_ref()));
    super::progress("following the links of a Hugging Face snapshot");
    copy_folder(&folder, &copy, &blobs).with_context(|| {
        format!(
            "copy the files of {}; TMPDIR names another place for them",
            folder.display()
        )
    })?;
    let path = match (path.is_dir(), path.file_name()) {
        (false, Some(name)) => copy.join(name),
        (true, _) | (false, None) => copy,
    };
    Ok(Some(Copied {
        _folder: temporary,
        path,
    }))
}

/// The folder that the links of the snapshot at or above `folder`, a real path, lead to.
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

/// Makes `target` the same file as `source` where they share a file system, else a copy of it.
fn link_or_copy(source: &Path, target: &Path) -> io::Result<()> {
    fs::hard_link(source, target).or_else(|_| fs::copy(source, target).map(drop))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A hub with one snapshot of one file, a link to a blob.
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
    fn links_to_blobs_become_files_and_other_links_stay_links() {
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
    fn a_folder_or_a_file_of_a_snapshot_is_found_in_the_copy() {
        let (_hub, snapshot) = hub();
        for part in ["onnx", "onnx/model.onnx"] {
            let copied = copy(&snapshot.join(part)).unwrap().unwrap();
            assert!(copied.path.ends_with(part), "{}", copied.path.display());
            assert!(copied.path.exists());
        }
    }

    #[test]
    fn a_folder_outside_of_a_snapshot_is_left_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("snapshots/abc")).unwrap();
        for path in ["", "snapshots/abc", "missing"] {
            assert!(copy(&folder.path().join(path)).unwrap().is_none(), "{path}");
        }
    }
}
