//! Reads `longshore.json` out of an artifact.

use std::io::Read;

use super::beneath::Folder;
use super::error::{ArtifactError, io_error};
use super::inside::{inside, open_file};
use crate::manifest::{FILE, Manifest};

/// A manifest is a few lines, and perhaps a few hundred columns and labels.
const MAX_MANIFEST_BYTES: u64 = 1 << 20;

pub(super) fn read(folder: &Folder) -> Result<Manifest, ArtifactError> {
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
    parse(&text)
}

fn parse(text: &str) -> Result<Manifest, ArtifactError> {
    // Windows editors write a byte order mark.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    // A struct is read from an array, too.
    if text.trim_start().starts_with('[') {
        return Err(ArtifactError::Manifest {
            detail: "it must be an object, as {\"model\": \"...\"}".to_owned(),
        });
    }
    serde_json::from_str(text).map_err(|error| ArtifactError::Manifest {
        detail: error.to_string(),
    })
}
