//! What keeps an artifact to itself: no link, manifest or model makes a file outside of its folder be read.
//!
//! Links are followed first and the real path is judged, and it is the real path that is opened later.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use super::error::{ArtifactError, brief_name, io_error, shown};

/// The real path of `path`, when that is below `folder`.
pub(super) fn inside(folder: &Path, path: &Path) -> Result<PathBuf, ArtifactError> {
    let real = path.canonicalize().map_err(|source| io_error(path, source))?;
    if real.starts_with(folder) {
        Ok(real)
    } else {
        Err(ArtifactError::Escapes { file: shown(path) })
    }
}

pub(super) fn external_file(model: &Path, folder: &Path, location: &str) -> Result<PathBuf, ArtifactError> {
    let refuse = |problem| ArtifactError::ExternalData {
        file: shown(model),
        location: brief_name(location),
        problem,
    };
    // Beside file names, ONNX Runtime knows this one, behind which an address in its process follows.
    if location.contains("_ORT_MEM_ADDR_") {
        return Err(refuse("is an address in memory rather than a file"));
    }
    if !stays_below(location) {
        return Err(refuse(
            "is outside the artifact: external data must lie beside the model",
        ));
    }
    let path = model.parent().unwrap_or(folder).join(location);
    let real = path.canonicalize().map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => refuse("is not in the artifact"),
        _ => io_error(&path, source),
    })?;
    if !real.starts_with(folder) {
        return Err(refuse("is a link out of the artifact"));
    }
    Ok(real)
}

/// Whether joining `path` to a directory stays in it.
pub(super) fn stays_below(path: &str) -> bool {
    let mut components = Path::new(path).components();
    !path.is_empty() && components.all(|component| matches!(component, Component::Normal(_) | Component::CurDir))
}

pub(super) fn file_size(path: &Path) -> Result<u64, ArtifactError> {
    let metadata = fs::metadata(path).map_err(|source| io_error(path, source))?;
    if !metadata.is_file() {
        return Err(ArtifactError::Unreadable {
            path: shown(path),
            source: io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"),
        });
    }
    Ok(metadata.len())
}
