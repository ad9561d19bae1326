//! Which file of a directory is the model (AR-2, AR-6, AR-7).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::beneath::Folder;
use super::error::{ArtifactError, brief, io_error, open_error, shown};
use super::found::Found;
use super::inside::{inside, stays_below};
use super::precision::{self, Processor};
use super::{manifest, mlmodel};
use crate::manifest::{self as file, Manifest, Overlay};

/// The folders that exporters put the model in, beside folders for other things: Optimum and
/// sentence-transformers write `onnx/`.
const MODEL_FOLDERS: [&str; 2] = ["onnx", "model.onnx"];

/// Names of the parts of a model that a program runs one after another, as exporters of generators
/// write them.
const PARTS: [&str; 2] = ["encoder", "decoder"];

/// The model of a directory.
#[derive(Debug)]
pub(super) struct Located {
    pub(super) model: PathBuf,
    pub(super) manifest: Manifest,
    /// The folder that its paths start from.
    pub(super) manifest_folder: PathBuf,
    pub(super) found: Found,
}

/// Finds the model file in a directory: the one named in the manifest or in MLflow's `MLmodel`;
/// `model.onnx` or `model.ort`; the only `*.onnx` or `*.ort`, or the one of several precisions that
/// suits `processor`; `<n>/model.onnx` with the greatest n; the same in `onnx/`; the same in the
/// only sub-directory, once. Beside it, the manifest in the same directory, else the one at the
/// top.
pub(super) fn locate(root: &Folder, processor: Processor, overlay: Option<&Overlay>) -> Result<Located, ArtifactError> {
    let top = Listing::read(root, processor, overlay)?;
    let manifest = top.manifest(root)?;
    if let Some((model, found)) = top.find(root, &manifest)? {
        return Ok(Located {
            model,
            manifest,
            manifest_folder: root.path().to_owned(),
            found,
        });
    }
    if let [only] = &*top.directories.iter().collect::<Vec<_>>()
        && let Some(below) = top.below(root, only)?
    {
        return Ok(below.or_manifest(manifest, root));
    }
    if let Some(below) = top.model_folder(root)? {
        return Ok(below.or_manifest(manifest, root));
    }
    Err(ArtifactError::NoModel {
        path: shown(root.path()),
        holds: top.summary(),
        advice: top.advice(),
    })
}

/// The manifest of an artifact without a model, and the folder that it lies in or would: the top,
/// else the only sub-directory.
pub(super) fn manifest_alone(root: &Folder, overlay: Option<&Overlay>) -> Result<(Manifest, PathBuf), ArtifactError> {
    let top = Listing::read(root, Processor::Cpu, overlay)?;
    if let (true, [only]) = (top.files.is_empty(), &*top.directories.iter().collect::<Vec<_>>()) {
        let (below, listing) = top.enter(root, only)?;
        return Ok((listing.manifest(&below)?, below.path().to_owned()));
    }
    Ok((top.manifest(root)?, root.path().to_owned()))
}

/// A model below the top, and the manifest beside it where there is one.
struct Below {
    model: PathBuf,
    /// With its folder.
    manifest: Option<(Manifest, PathBuf)>,
    found: Found,
}

impl Below {
    fn or_manifest(self, above: Manifest, root: &Folder) -> Located {
        let (manifest, manifest_folder) = self.manifest.unwrap_or_else(|| (above, root.path().to_owned()));
        Located {
            model: self.model,
            manifest,
            manifest_folder,
            found: self.found,
        }
    }
}

/// What a directory holds, without what archives carry along (AR-3).
struct Listing<'a> {
    processor: Processor,
    overlay: Option<&'a Overlay>,
    files: BTreeSet<String>,
    directories: BTreeSet<String>,
}

impl<'a> Listing<'a> {
    fn read(folder: &Folder, processor: Processor, overlay: Option<&'a Overlay>) -> Result<Self, ArtifactError> {
        let mut listing = Self {
            processor,
            overlay,
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

    fn manifest(&self, folder: &Folder) -> Result<Manifest, ArtifactError> {
        if self.files.contains(file::FILE) {
            manifest::read(folder, self.overlay)
        } else {
            manifest::parse(None, self.overlay)
        }
    }

    /// The model in the sub-directory `name` of `folder`, or in a model folder there.
    fn below(&self, folder: &Folder, name: &str) -> Result<Option<Below>, ArtifactError> {
        let (below, listing) = self.enter(folder, name)?;
        if let Some(model) = listing.find_with_manifest(&below)? {
            return Ok(Some(model));
        }
        let manifest = listing.files.contains(file::FILE).then(|| listing.manifest(&below));
        let manifest = manifest
            .transpose()?
            .map(|manifest| (manifest, below.path().to_owned()));
        Ok(listing.model_folder(&below)?.map(|model| Below {
            manifest: model.manifest.or(manifest),
            ..model
        }))
    }

    /// The model in one of the [`MODEL_FOLDERS`] of `folder`.
    fn model_folder(&self, folder: &Folder) -> Result<Option<Below>, ArtifactError> {
        let Some(name) = MODEL_FOLDERS.iter().find(|name| self.directories.contains(**name)) else {
            return Ok(None);
        };
        let (below, listing) = self.enter(folder, name)?;
        listing.find_with_manifest(&below)
    }

    fn enter(&self, folder: &Folder, name: &str) -> Result<(Folder, Self), ArtifactError> {
        let below = inside(folder, &folder.path().join(name))?;
        let below = folder.folder(&below).map_err(|source| open_error(&below, source))?;
        let listing = Self::read(&below, self.processor, self.overlay)?;
        Ok((below, listing))
    }

    fn find_with_manifest(&self, folder: &Folder) -> Result<Option<Below>, ArtifactError> {
        let manifest = self.manifest(folder)?;
        let found = self.find(folder, &manifest)?;
        Ok(found.map(|(model, found)| Below {
            model,
            manifest: self
                .files
                .contains(file::FILE)
                .then(|| (manifest, folder.path().to_owned())),
            found,
        }))
    }

    /// The model in `folder`, which this lists, and why it is the one.
    fn find(&self, folder: &Folder, manifest: &Manifest) -> Result<Option<(PathBuf, Found)>, ArtifactError> {
        if let Some(named) = &manifest.model {
            return Ok(Some((named_model(folder.path(), named)?, Found::Manifest)));
        }
        if self.files.contains(mlmodel::FILE)
            && let Some(named) = mlmodel::data(folder)?
            && stays_below(&named)
        {
            let path = folder.path().join(&named);
            if path.is_file() {
                return Ok(Some((path, Found::MlModel)));
            }
        }
        self.usual_model(folder.path())
    }

    fn usual_model(&self, folder: &Path) -> Result<Option<(PathBuf, Found)>, ArtifactError> {
        for name in ["model.onnx", "model.ort"] {
            if self.files.contains(name) {
                return Ok(Some((folder.join(name), Found::Name)));
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
            [only] => return Ok(Some((folder.join(only), Found::Only))),
            _ => return self.of_several(folder, &models).map(Some),
        }
        let newest = self
            .directories
            .iter()
            .filter_map(|name| Some((name.parse::<u64>().ok()?, folder.join(name).join("model.onnx"))))
            .filter(|(_, model)| model.is_file())
            .max();
        Ok(newest.map(|(_, model)| (model, Found::Version)))
    }

    /// The one of several models that is meant.
    fn of_several(&self, folder: &Path, models: &[&str]) -> Result<(PathBuf, Found), ArtifactError> {
        if let Some((name, why)) = precision::choose(models, self.processor) {
            let others: Vec<&str> = models.iter().copied().filter(|other| *other != name).collect();
            let others = brief(others.into_iter());
            return Ok((folder.join(name), Found::Precision { why, others }));
        }
        let (path, names) = (shown(folder), brief(models.iter().copied()));
        let is_part = |name: &&str| {
            let stem = precision::stem(name).to_ascii_lowercase();
            stem.split(['_', '-', '.']).any(|word| PARTS.contains(&word))
        };
        Err(if models.iter().any(is_part) {
            ArtifactError::SeveralGraphs { path, names }
        } else {
            ArtifactError::Ambiguous { path, names }
        })
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
