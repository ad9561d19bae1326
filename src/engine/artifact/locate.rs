//! Which file of a directory is the model (AR-2, AR-6, AR-7).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::beneath::Folder;
use super::error::{ArtifactError, brief, io_error, open_error, shown};
use super::inside::{inside, stays_below};
use super::manifest;
use crate::manifest::{self as file, Manifest};

/// Finds the model file in a directory: the one named in the manifest; `model.onnx` or `model.ort`; the only `*.onnx`
/// or `*.ort`; `<n>/model.onnx` with the greatest n; the same in the only sub-directory, once. Beside it, the
/// manifest in the same directory.
pub(super) fn locate(root: &Folder) -> Result<(PathBuf, Manifest), ArtifactError> {
    let top = Listing::read(root)?;
    if let Some(model) = top.find(root)? {
        return Ok(model);
    }
    if let [only] = &*top.directories.iter().collect::<Vec<_>>() {
        let below = inside(root.path(), &root.path().join(only))?;
        let below = root.folder(&below).map_err(|source| open_error(&below, source))?;
        if let Some(model) = Listing::read(&below)?.find(&below)? {
            return Ok(model);
        }
    }
    Err(ArtifactError::NoModel {
        path: shown(root.path()),
        holds: top.summary(),
        advice: top.advice(),
    })
}

/// What a directory holds, without what archives carry along (AR-3).
struct Listing {
    files: BTreeSet<String>,
    directories: BTreeSet<String>,
}

impl Listing {
    fn read(folder: &Folder) -> Result<Self, ArtifactError> {
        let mut listing = Self {
            files: BTreeSet::new(),
            directories: BTreeSet::new(),
        };
        for name in folder.names().map_err(|source| io_error(folder.path(), source))? {
            if name.starts_with('.') || matches!(&*name, "code" | "MAR-INF" | "__MACOSX" | "lost+found") {
                continue;
            }
            if folder.path().join(&name).is_dir() {
                listing.directories.insert(name);
            } else {
                listing.files.insert(name);
            }
        }
        Ok(listing)
    }

    fn find(&self, folder: &Folder) -> Result<Option<(PathBuf, Manifest)>, ArtifactError> {
        let manifest = if self.files.contains(file::FILE) {
            manifest::read(folder)?
        } else {
            Manifest::default()
        };
        let model = match &manifest.model {
            Some(named) => Some(named_model(folder.path(), named)?),
            None => self.usual_model(folder.path())?,
        };
        Ok(model.map(|model| (model, manifest)))
    }

    fn usual_model(&self, folder: &Path) -> Result<Option<PathBuf>, ArtifactError> {
        for name in ["model.onnx", "model.ort"] {
            if self.files.contains(name) {
                return Ok(Some(folder.join(name)));
            }
        }
        let models: Vec<&str> = self
            .files
            .iter()
            .map(String::as_str)
            .filter(|name| name.ends_with(".onnx") || name.ends_with(".ort"))
            .collect();
        match *models {
            [] => {}
            [only] => return Ok(Some(folder.join(only))),
            _ => {
                return Err(ArtifactError::Ambiguous {
                    path: shown(folder),
                    names: brief(models.iter().copied()),
                });
            }
        }
        let newest = self
            .directories
            .iter()
            .filter_map(|name| Some((name.parse::<u64>().ok()?, folder.join(name).join("model.onnx"))))
            .filter(|(_, model)| model.is_file())
            .max();
        Ok(newest.map(|(_, model)| model))
    }

    /// The advice for a folder with a model in another format.
    fn advice(&self) -> &'static str {
        const OTHER_FORMATS: [&str; 9] = [
            ".safetensors",
            ".gguf",
            ".ggml",
            ".pt",
            ".pth",
            ".bin",
            ".h5",
            ".keras",
            ".tflite",
        ];
        let is_model = |name: &String| OTHER_FORMATS.iter().any(|ending| name.ends_with(ending));
        if self.files.iter().any(is_model) {
            "; export the model as ONNX first"
        } else {
            ""
        }
    }

    fn summary(&self) -> String {
        let names = self
            .files
            .iter()
            .cloned()
            .chain(self.directories.iter().map(|name| format!("{name}/")));
        let names: Vec<String> = names.collect();
        if names.is_empty() {
            "nothing".to_owned()
        } else {
            brief(names.iter().map(String::as_str))
        }
    }
}

fn named_model(folder: &Path, model: &str) -> Result<PathBuf, ArtifactError> {
    if !stays_below(model) {
        return Err(ArtifactError::Manifest {
            detail: format!("the model \"{model}\" must be a relative path inside the artifact"),
        });
    }
    let path = folder.join(model);
    if !path.is_file() {
        return Err(ArtifactError::Manifest {
            detail: format!("the model \"{model}\" is not in the artifact"),
        });
    }
    Ok(path)
}
