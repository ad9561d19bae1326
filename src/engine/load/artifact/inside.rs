//! Confines an artifact to its folder: no link, manifest or model can cause a read outside of it.
//!
//! Links are resolved first, and the real path is checked. Later the real path is opened without
//! following links (`beneath.rs`).

use std::fs::File;
use std::io;
use std::path::{Component, Path, PathBuf};

use super::beneath::Folder;
use super::error::{ArtifactError, brief_name, io_error, open_error, shown};

/// Returns the real path of `path`, which must be below `folder`. A link to one of the folder's
/// blobs is returned as it is.
pub(super) fn inside(folder: &Folder, path: &Path) -> Result<PathBuf, ArtifactError> {
    let real = path.canonicalize().map_err(|source| io_error(path, source))?;
    within(folder, path, real)
        .map_err(|source| io_error(path, source))?
        .ok_or_else(|| ArtifactError::Escapes { file: shown(path) })
}

/// Like [`inside`], for a path whose real path is known. `None` if it is neither below the folder
/// nor a link to a blob.
fn within(folder: &Folder, path: &Path, real: PathBuf) -> io::Result<Option<PathBuf>> {
    if real.starts_with(folder.path()) {
        return Ok(Some(real));
    }
    if let (true, Some(parent), Some(name)) = (folder.is_blob(&real), path.parent(), path.file_name()) {
        let parent = parent.canonicalize()?;
        return Ok(parent.starts_with(folder.path()).then(|| parent.join(name)));
    }
    Ok(None)
}

/// Returns the real path of the external data that `model` names `location`.
pub(super) fn external_file(model: &Path, folder: &Folder, location: &str) -> Result<PathBuf, ArtifactError> {
    let refuse = |problem| ArtifactError::ExternalData {
        file: shown(model),
        location: brief_name(location),
        problem,
    };
    // For ONNX Runtime this is not a file name: an address in its process follows.
    if location.contains("_ORT_MEM_ADDR_") {
        return Err(refuse("is an address in memory rather than a file"));
    }
    if !stays_below(location) {
        return Err(refuse(
            "is outside the artifact: external data must be next to the model, or in a folder there",
        ));
    }
    let path = model.parent().unwrap_or(folder.path()).join(location);
    let real = path.canonicalize().map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => refuse("is not in the artifact"),
        _ => io_error(&path, source),
    })?;
    within(folder, &path, real)
        .map_err(|source| io_error(&path, source))?
        .ok_or_else(|| refuse("is a link out of the artifact"))
}

/// Whether `path`, joined to a directory, stays in it.
pub(super) fn stays_below(path: &str) -> bool {
    let mut components = Path::new(path).components();
    !path.is_empty() && components.all(|component| matches!(component, Component::Normal(_) | Component::CurDir))
}

/// Opens the regular file at the real path `path` below `folder`. Also returns its length.
pub(super) fn open_file(folder: &Folder, path: &Path) -> Result<(File, u64), ArtifactError> {
    let file = folder.file(path).map_err(|source| open_error(path, source))?;
    let length = file.metadata().map_err(|source| io_error(path, source))?.len();
    Ok((file, length))
}
