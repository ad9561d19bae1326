//! What keeps an artifact to itself: no link, manifest or model makes a file outside of its folder
//! be read.
//!
//! Links are followed first and the real path is judged; it is opened later as it is, without links
//! (`beneath.rs`).

use std::fs::File;
use std::io;
use std::path::{Component, Path, PathBuf};

use super::beneath::Folder;
use super::error::{ArtifactError, brief_name, io_error, open_error, shown};

/// The real path of `path`, when that is below `folder`; the path of a link to one of the folder's
/// blobs as it is.
pub(super) fn inside(folder: &Folder, path: &Path) -> Result<PathBuf, ArtifactError> {
    let real = path.canonicalize().map_err(|source| io_error(path, source))?;
    within(folder, path, real)
        .map_err(|source| io_error(path, source))?
        .ok_or_else(|| ArtifactError::Escapes { file: shown(path) })
}

/// As [`inside`], of a path whose real path is known. `None` when it is neither.
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

pub(super) fn external_file(model: &Path, folder: &Folder, location: &str) -> Result<PathBuf, ArtifactError> {
    let refuse = |problem| ArtifactError::ExternalData {
        file: shown(model),
        location: brief_name(location),
        problem,
    };
    // Beside file names, ONNX Runtime knows this one, behind which an address in its process
    // follows.
    if location.contains("_ORT_MEM_ADDR_") {
        return Err(refuse("is an address in memory rather than a file"));
    }
    if !stays_below(location) {
        return Err(refuse(
            "is outside the artifact: external data must lie beside the model",
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

/// Whether joining `path` to a directory stays in it.
pub(super) fn stays_below(path: &str) -> bool {
    let mut components = Path::new(path).components();
    !path.is_empty() && components.all(|component| matches!(component, Component::Normal(_) | Component::CurDir))
}

/// Opens the regular file at the real path `path` below `folder`, and says how long it is.
pub(super) fn open_file(folder: &Folder, path: &Path) -> Result<(File, u64), ArtifactError> {
    let file = folder.file(path).map_err(|source| open_error(path, source))?;
    let length = file.metadata().map_err(|source| io_error(path, source))?.len();
    Ok((file, length))
}
