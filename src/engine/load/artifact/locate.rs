//! Finds the model file in a directory (AR-2, AR-6, AR-7).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::beneath::Folder;
use super::error::{ArtifactError, brief, io_error, open_error, shown};
use super::found::FoundBy;
use super::inside::{inside, stays_below};
use super::precision::{self, Processor};
use super::{manifest, mlmodel};
use crate::manifest::{self as file, Manifest, Overlay};

/// Folders into which exporters put the model, next to folders for other files. Optimum and
/// sentence-transformers write `onnx/`.
const MODEL_FOLDERS: [&str; 2] = ["onnx", "model.onnx"];

/// Names of the parts of a model that a program runs one after another, as exporters of generative
/// models write them.
const PARTS: [&str; 2] = ["encoder", "decoder"];

/// The model of a directory.
#[derive(Debug)]
pub(super) struct Located {
    pub(super) model: PathBuf,
    pub(super) manifest: Manifest,
    /// The folder that the paths in the manifest are relative to.
    pub(super) manifest_folder: PathBuf,
    pub(super) found: FoundBy,
}

/// Finds the model file in a directory, and its manifest. The search order is:
///
/// 1. the file named in the manifest, or in MLflow's `MLmodel`;
/// 2. `model.onnx` or `model.ort`;
/// 3. the only `*.onnx` or `*.ort`, or the one of several precisions that suits `processor`;
/// 4. `<n>/model.onnx` with the highest n;
/// 5. the same in the only sub-directory, one level deep, including its `onnx/` or `model.onnx/`;
/// 6. the same in `onnx/` or `model.onnx/`.
///
/// The manifest is the one in the searched directory, or else the nearest one above it.
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

/// Reads the manifest of an artifact without a model. Also returns its folder: the top, or the
/// only sub-directory if the top has no files.
pub(super) fn manifest_alone(root: &Folder, overlay: Option<&Overlay>) -> Result<(Manifest, PathBuf), ArtifactError> {
    let top = Listing::read(root, Processor::Cpu, overlay)?;
    if let (true, [only]) = (top.files.is_empty(), &*top.directories.iter().collect::<Vec<_>>()) {
        let (below, listing) = top.enter(root, only)?;
        return Ok((listing.manifest(&below)?, below.path().to_owned()));
    }
    Ok((top.manifest(root)?, root.path().to_owned()))
}

/// A model below the top, and the manifest in its folder if there is one.
struct ModelBelow {
    model: PathBuf,
    /// The manifest and its folder.
    manifest: Option<(Manifest, PathBuf)>,
    found: FoundBy,
}

impl ModelBelow {
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

/// The contents of a directory, without the extra files and folders of archives (AR-3).
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

    /// Finds the model in the sub-directory `name` of `folder`, or in a model folder there.
    fn below(&self, folder: &Folder, name: &str) -> Result<Option<ModelBelow>, ArtifactError> {
        let (below, listing) = self.enter(folder, name)?;
        if let Some(model) = listing.find_with_manifest(&below)? {
            return Ok(Some(model));
        }
        let manifest = listing.files.contains(file::FILE).then(|| listing.manifest(&below));
        let manifest = manifest
            .transpose()?
            .map(|manifest| (manifest, below.path().to_owned()));
        Ok(listing.model_folder(&below)?.map(|model| ModelBelow {
            manifest: model.manifest.or(manifest),
            ..model
        }))
    }

    /// Finds the model in one of the [`MODEL_FOLDERS`] of `folder`.
    fn model_folder(&self, folder: &Folder) -> Result<Option<ModelBelow>, ArtifactError> {
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

    fn find_with_manifest(&self, folder: &Folder) -> Result<Option<ModelBelow>, ArtifactError> {
        let manifest = self.manifest(folder)?;
        let found = self.find(folder, &manifest)?;
        Ok(found.map(|(model, found)| ModelBelow {
            model,
            manifest: self
                .files
                .contains(file::FILE)
                .then(|| (manifest, folder.path().to_owned())),
            found,
        }))
    }

    /// Finds the model in `folder`, whose contents this listing holds. Also returns the rule that
    /// found it.
    fn find(&self, folder: &Folder, manifest: &Manifest) -> Result<Option<(PathBuf, FoundBy)>, ArtifactError> {
        if let Some(named) = &manifest.model {
            return Ok(Some((named_model(folder.path(), named)?, FoundBy::Manifest)));
        }
        if self.files.contains(mlmodel::FILE)
            && let Some(named) = mlmodel::data(folder)?
            && stays_below(&named)
        {
            let path = folder.path().join(&named);
            if path.is_file() {
                return Ok(Some((path, FoundBy::MlModel)));
            }
        }
        self.usual_model(folder.path())
    }

    fn usual_model(&self, folder: &Path) -> Result<Option<(PathBuf, FoundBy)>, ArtifactError> {
        for name in ["model.onnx", "model.ort"] {
            if self.files.contains(name) {
                return Ok(Some((folder.join(name), FoundBy::Name)));
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
            [only] => return Ok(Some((folder.join(only), FoundBy::Only))),
            _ => return self.of_several(folder, &models).map(Some),
        }
        let newest = self
            .directories
            .iter()
            .filter_map(|name| Some((name.parse::<u64>().ok()?, folder.join(name).join("model.onnx"))))
            .filter(|(_, model)| model.is_file())
            .max();
        Ok(newest.map(|(_, model)| (model, FoundBy::Version)))
    }

    /// Chooses one of several model files, if they are precisions of one model.
    fn of_several(&self, folder: &Path, models: &[&str]) -> Result<(PathBuf, FoundBy), ArtifactError> {
        if let Some((name, why)) = precision::choose(models, self.processor) {
            let others: Vec<&str> = models.iter().copied().filter(|other| *other != name).collect();
            let others = brief(others.into_iter());
            return Ok((folder.join(name), FoundBy::Precision { why, others }));
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

    /// Advice for a folder with a model in another format; empty for other folders.
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
