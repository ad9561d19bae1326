//! Reads `longshore.json` and the files of exporters from an artifact.

use std::io::Read;
use std::path::Path;

use super::beneath::Folder;
use super::error::{ArtifactError, io_error};
use super::inside::{inside, open_file, stays_below};
use crate::manifest::{FILE, Manifest, Overlay, PassedOver, Sidecar, TOKENIZER, TokenizerFile};
use crate::task::{SentenceModules, Task};

/// Limit on the bytes of a manifest, which has a few lines, and perhaps a few hundred columns and
/// labels.
const MAX_MANIFEST_BYTES: u64 = 1 << 20;

/// Limit on the bytes of a tokenizer: twice the largest published one (256,000 tokens).
pub const MAX_TOKENIZER_BYTES: u64 = 64 << 20;

/// The file with the steps of a network of sentence-transformers.
const MODULES: &str = "modules.json";

/// Limit on the bytes of an exporter's file.
const MAX_SIDECAR_BYTES: u64 = 4 << 20;

/// Reads the manifest in `folder`, which must have one.
pub(super) fn read(folder: &Folder, overlay: Option<&Overlay>) -> Result<Manifest, ArtifactError> {
    let path = inside(folder, &folder.path().join(FILE))?;
    let (file, _) = open_file(folder, &path)?;
    let mut text = String::new();
    file.take(MAX_MANIFEST_BYTES + 1)
        .read_to_string(&mut text)
        .map_err(|source| io_error(&path, source))?;
    if text.len() as u64 > MAX_MANIFEST_BYTES {
        return Err(ArtifactError::Manifest {
            detail: format!("it is longer than {MAX_MANIFEST_BYTES} bytes"),
        });
    }
    parse(Some(&text), overlay)
}

/// Parses the manifest of an artifact from the text of its file, if it has one.
pub(super) fn parse(text: Option<&str>, overlay: Option<&Overlay>) -> Result<Manifest, ArtifactError> {
    Manifest::parse(text, overlay).map_err(|error| ArtifactError::Manifest {
        detail: error.to_string(),
    })
}

/// Adds the settings from files that exporters have written next to `model` or in a folder around
/// it. A file that cannot be used is skipped, because it was not written for this server.
pub(super) fn add_sidecars(folder: &Folder, model: &Path, manifest: &mut Manifest) {
    for sidecar in Sidecar::ALL {
        let name = sidecar.file();
        let Some((_, read)) = nearest_file(folder, model, name, MAX_SIDECAR_BYTES) else {
            continue;
        };
        let text = read.and_then(|bytes| String::from_utf8(bytes).map_err(|error| error.to_string()));
        let read = text.and_then(|text| sidecar.read(&text, manifest).map_err(|error| error.to_string()));
        match read {
            Ok(true) => manifest.hints.files.push(name.to_owned()),
            Ok(false) => {}
            Err(why) => pass_over(manifest, name, why),
        }
    }
    add_modules(folder, model, manifest);
    match nearest_file(folder, model, TOKENIZER, MAX_TOKENIZER_BYTES) {
        None => {}
        Some((path, Ok(bytes))) => {
            manifest.hints.files.push(TOKENIZER.to_owned());
            manifest.hints.tokenizer = Some(TokenizerFile {
                hash: blake3::hash(&bytes).to_hex().to_string(),
                path,
                bytes: Some(bytes.into()),
            });
        }
        Some((_, Err(why))) => pass_over(manifest, TOKENIZER, why),
    }
}

/// Adds the steps of sentence-transformers that follow the network.
fn add_modules(folder: &Folder, model: &Path, manifest: &mut Manifest) {
    let text = |name: &str| {
        let (_, read) = nearest_file(folder, model, name, MAX_SIDECAR_BYTES)?;
        String::from_utf8(read.ok()?).ok()
    };
    let Some(modules) = text(MODULES) else { return };
    match SentenceModules::parse(&modules, |name| stays_below(name).then(|| text(name)).flatten()) {
        Ok(modules) => {
            manifest.hints.files.push(MODULES.to_owned());
            manifest.hints.modules = Some(modules);
            manifest.hints.task = Some(Task::SentenceSimilarity);
        }
        Err(error) => pass_over(manifest, MODULES, error.to_string()),
    }
}

/// Records a file that cannot be used. Requests that need it are refused with the reason.
fn pass_over(manifest: &mut Manifest, file: &str, why: String) {
    tracing::warn!(
        file,
        error = why,
        "a file next to the model cannot be used and is skipped"
    );
    let file = file.to_owned();
    manifest.hints.passed_over.push(PassedOver { file, why });
}

/// Reads the file `name` in the folder of `model`, or in the nearest folder around it inside the
/// artifact. Returns its path relative to the artifact, and its bytes or the reason that they
/// cannot be read.
fn nearest_file(folder: &Folder, model: &Path, name: &str, limit: u64) -> Option<(String, Result<Vec<u8>, String>)> {
    let around = model.ancestors().skip(1);
    let around = around.take_while(|above| above.starts_with(folder.path()));
    let (path, (file, length)) = around.map(|above| above.join(name)).find_map(|path| {
        let real = inside(folder, &path).ok()?;
        let file = open_file(folder, &real).ok()?;
        Some((path, file))
    })?;
    let relative = path.strip_prefix(folder.path()).unwrap_or(&path);
    let relative = relative.to_string_lossy().into_owned();
    if length > limit {
        return Some((relative, Err(format!("it is longer than {limit} bytes"))));
    }
    let mut bytes = Vec::new();
    let read = file.take(limit).read_to_end(&mut bytes);
    Some((relative, read.map(|_| bytes).map_err(|error| error.to_string())))
}

/// Reads up to `limit` bytes of a file again that was loaded from `path` in the artifact before.
pub(super) fn read_again(folder: &Folder, path: &str, limit: u64) -> Result<Vec<u8>, ArtifactError> {
    let path = inside(folder, &folder.path().join(path))?;
    let (file, _) = open_file(folder, &path)?;
    let mut bytes = Vec::new();
    let read = file.take(limit).read_to_end(&mut bytes);
    read.map_err(|source| io_error(&path, source))?;
    Ok(bytes)
}
