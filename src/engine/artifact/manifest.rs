//! Reads `longshore.json` out of an artifact.

use std::io::Read;
use std::path::Path;

use super::beneath::Folder;
use super::error::{ArtifactError, io_error};
use super::inside::{inside, open_file};
use crate::manifest::{FILE, Manifest, Overlay, Sidecar};

/// A manifest is a few lines, and perhaps a few hundred columns and labels.
const MAX_MANIFEST_BYTES: u64 = 1 << 20;

/// Longest file of an exporter that is read.
const MAX_SIDECAR_BYTES: u64 = 4 << 20;

/// Reads the manifest in `folder`, which has one.
pub(super) fn read(folder: &Folder, overlay: Option<&Overlay>) -> Result<Manifest, ArtifactError> {
    let path = inside(folder, &folder.path().join(FILE))?;
    let (file, _) = open_file(folder, &path)?;
    let mut text = String::new();
    file.take(MAX_MANIFEST_BYTES + 1)
        .read_to_string(&mut text)
        .map_err(|source| io_error(&path, source))?;
    if text.len() as u64 > MAX_MANIFEST_BYTES {
        return Err(ArtifactError::Manifest {
            detail: format!("longer than {MAX_MANIFEST_BYTES} bytes"),
        });
    }
    parse(Some(&text), overlay)
}

/// The manifest of an artifact with the text of this file, or without one.
pub(super) fn parse(text: Option<&str>, overlay: Option<&Overlay>) -> Result<Manifest, ArtifactError> {
    Manifest::parse(text, overlay).map_err(|error| ArtifactError::Manifest {
        detail: error.to_string(),
    })
}

/// Adds what exporters have written beside `model`, or at the top of the artifact. A file that is
/// not understood is passed over: it was not written for this server.
pub(super) fn add_sidecars(folder: &Folder, model: &Path, manifest: &mut Manifest) {
    let beside = model.parent().filter(|beside| *beside != folder.path());
    for sidecar in Sidecar::ALL {
        let name = sidecar.file();
        let places = beside.into_iter().chain([folder.path()]).map(|place| place.join(name));
        let Some(text) = places.into_iter().find_map(|path| sidecar_text(folder, &path)) else {
            continue;
        };
        let read = text.and_then(|text| sidecar.read(&text, manifest).map_err(|error| error.to_string()));
        match read {
            Ok(true) => manifest.hints.files.push(name.to_owned()),
            Ok(false) => {}
            Err(error) => tracing::warn!(file = name, error, "a file beside the model is passed over"),
        }
    }
}

/// The text of the file at `path`, when it is a file of the artifact; or why it cannot be read.
fn sidecar_text(folder: &Folder, path: &Path) -> Option<Result<String, String>> {
    let path = inside(folder, path).ok()?;
    let (file, length) = open_file(folder, &path).ok()?;
    if length > MAX_SIDECAR_BYTES {
        return Some(Err(format!("it is longer than {MAX_SIDECAR_BYTES} bytes")));
    }
    let mut text = String::new();
    let read = file.take(MAX_SIDECAR_BYTES).read_to_string(&mut text);
    Some(read.map(|_| text).map_err(|error| error.to_string()))
}
