//! Checks the limits of a manifest's requests, and reads the files that they refer to.

use std::io::Read;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::beneath::Folder;
use super::error::{ArtifactError, brief_name, io_error};
use super::inside::{inside, open_file, stays_below};
use crate::manifest::{Manifest, Request};

/// Limit on the requests of a kind. Each of them costs time in every load.
const MAX_REQUESTS: usize = 64;

/// Limit on the bytes of all files together. They are in memory during the load.
const MAX_FILE_BYTES: u64 = 16 << 20;

/// Checks the number of requests in `manifest`, which is in the folder `base` of the artifact,
/// and reads their files. Returns the paths of the files.
pub(super) fn complete(manifest: &mut Manifest, folder: &Folder, base: &Path) -> Result<Vec<PathBuf>, ArtifactError> {
    for (kind, count) in [("warmup", manifest.warmup.len()), ("golden", manifest.golden.len())] {
        if count > MAX_REQUESTS {
            return Err(refusal(format!(
                "\"{kind}\" has {count} requests; the limit is {MAX_REQUESTS}"
            )));
        }
    }
    let mut files = RequestFiles {
        folder,
        base,
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

/// Reads the files of a manifest's requests.
struct RequestFiles<'a> {
    folder: &'a Folder,
    base: &'a Path,
    /// Bytes that the remaining files may have.
    left: u64,
    paths: Vec<PathBuf>,
}

impl RequestFiles<'_> {
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
        let path = self.base.join(file);
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
                "{which}: together with \"{name}\", the files of the requests have more than {MAX_FILE_BYTES} bytes"
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
