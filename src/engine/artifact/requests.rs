//! The requests of a manifest: bounds them, and reads the files that they refer to.

use std::io::Read;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::beneath::Folder;
use super::error::{ArtifactError, brief_name, io_error};
use super::inside::{inside, open_file, stays_below};
use crate::manifest::{Manifest, Request};

/// Requests of a kind: each of them takes time of every load.
const MAX_REQUESTS: usize = 64;

/// Bytes of all files together: they are in memory while the model is loaded.
const MAX_FILE_BYTES: u64 = 16 << 20;

/// Bounds the requests of `manifest`, which lies in the folder `beside` of the artifact, and reads
/// their files. Returns the paths of those.
pub(super) fn complete(manifest: &mut Manifest, folder: &Folder, beside: &Path) -> Result<Vec<PathBuf>, ArtifactError> {
    for (kind, count) in [("warmup", manifest.warmup.len()), ("golden", manifest.golden.len())] {
        if count > MAX_REQUESTS {
            return Err(refusal(format!(
                "\"{kind}\" has {count} requests; it may have {MAX_REQUESTS}"
            )));
        }
    }
    let mut files = Files {
        folder,
        beside,
        left: MAX_FILE_BYTES,
        paths: Vec::new(),
    };
    for (request, number) in manifest.warmup.iter_mut().zip(1..) {
        files.complete(request, &format!("warm-up request {number}"))?;
    }
    for (golden, number) in manifest.golden.iter_mut().zip(1..) {
        files.complete(&mut golden.request, &format!("golden request {number}"))?;
    }
    Ok(files.paths)
}

/// The files of a manifest's requests, as they are read.
struct Files<'a> {
    folder: &'a Folder,
    beside: &'a Path,
    /// Bytes that further files may have.
    left: u64,
    paths: Vec<PathBuf>,
}

impl Files<'_> {
    fn complete(&mut self, request: &mut Request, which: &str) -> Result<(), ArtifactError> {
        let Some(file) = &request.file else {
            return Ok(());
        };
        let name = brief_name(file);
        if !stays_below(file) {
            return Err(refusal(format!(
                "{which}: the file \"{name}\" must be a relative path inside the artifact"
            )));
        }
        let path = self.beside.join(file);
        if !path.exists() {
            return Err(refusal(format!("{which}: the file \"{name}\" is not in the artifact")));
        }
        let path = inside(self.folder, &path)?;
        let (file, _) = open_file(self.folder, &path)?;
        let mut bytes = Vec::new();
        file.take(self.left + 1)
            .read_to_end(&mut bytes)
            .map_err(|source| io_error(&path, source))?;
        self.left = self.left.checked_sub(bytes.len() as u64).ok_or_else(|| {
            refusal(format!(
                "{which}: with \"{name}\", the files of the requests have more than {MAX_FILE_BYTES} bytes"
            ))
        })?;
        request.bytes = Some(Bytes::from(bytes));
        self.paths.push(path);
        Ok(())
    }
}

fn refusal(detail: String) -> ArtifactError {
    ArtifactError::Manifest { detail }
}
