//! Opens a model artifact on disk: finds the model file, and checks that every file it refers to
//! is inside the artifact.
//!
//! An artifact is a directory (SageMaker has unpacked the archive, MM-8) or a model file.
//! Archives are packed in many ways; `locate.rs` defines the search order for the model (AR-2,
//! AR-6, AR-7). Two candidates without a hint are an error, because a guess could serve the wrong
//! model under the right name.

mod adapter;
mod beneath;
mod copy;
mod error;
mod found;
mod inside;
mod locate;
mod manifest;
mod mlmodel;
mod passthrough;
mod precision;
mod requests;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::archive::{self, Foreign};
use crate::engine::load::content::{self, ContentHash};
use crate::engine::load::onnx_file::{self, OnnxHeader, ScanError};
use crate::manifest::{Manifest, Overlay};

use adapter::adapter_of;
use beneath::Folder;
use error::{brief_name, io_error, open_error, shown};
use inside::{external_file, inside, open_file};
use locate::{Located, locate};

pub use beneath::was_exchanged;
pub use copy::PrivateCopy;
pub use error::ArtifactError;
pub use found::FoundBy;
pub use manifest::MAX_TOKENIZER_BYTES;
pub use precision::Processor;

/// The path of an artifact, and the root directory that it must stay in.
#[derive(Debug, Clone)]
pub struct ArtifactPath {
    path: PathBuf,
    /// The real path of the root. If there is one, `path` is also a real path, and no link below
    /// the root is followed.
    root: Option<PathBuf>,
    /// Keys that override those of the artifact's manifest.
    overlay: Option<Arc<Overlay>>,
}

impl ArtifactPath {
    /// A path that the operator of the server has chosen, or that is in a folder of this user
    /// alone.
    pub fn trusted(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            root: None,
            overlay: None,
        }
    }

    /// The real path `path` below `root`, the real path of a folder that uploaders may write to.
    pub fn below(root: PathBuf, path: PathBuf) -> Self {
        Self {
            // The root may be a model file. Then the operator has chosen it.
            root: (root != path).then_some(root),
            path,
            overlay: None,
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The same path, with keys that override those of the artifact's manifest.
    pub(in crate::engine) fn with_overlay(self, overlay: Option<Arc<Overlay>>) -> Self {
        Self { overlay, ..self }
    }
}

/// The model file of an artifact, and everything that is known about it before a load.
#[derive(Debug, Clone)]
pub struct Artifact {
    pub model: PathBuf,
    /// The directory that contains the whole artifact. All its files are read through this.
    pub folder: Folder,
    /// External data: for each file its name in the model and its path.
    pub external: Vec<(String, PathBuf)>,
    /// Whether the model is in ONNX Runtime's own format (ORT) rather than ONNX.
    pub is_ort_format: bool,
    pub facts: Facts,
    pub manifest: Arc<Manifest>,
    /// The files that the manifest's requests refer to.
    pub request_files: Vec<PathBuf>,
    /// The LoRA adapter, which does not belong to the content of the model.
    pub adapter: Option<PathBuf>,
    pub found: FoundBy,
    /// If `model` is a packed prepared form (`packed.rs`), the content it was made from.
    pub prepared_of: Option<ContentHash>,
}

/// Facts about a model that are known without loading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Bytes of the model file and of the external data it refers to.
    pub weights: u64,
    /// Upper bound of the bytes by which float16 and int8 constants grow if ONNX Runtime converts
    /// them to float32.
    pub widened: u64,
    /// Bytes of the constants that are mapped while the model is prepared.
    #[serde(default)]
    pub large: u64,
    /// Bytes of the largest constant that is or can be in a file of its own.
    #[serde(default)]
    pub largest: u64,
    pub has_trees: bool,
    /// Whether a small request can cause any amount of work; true if that is unknown.
    pub has_unbounded_work: bool,
    /// Whether the sizes of all results follow from those of the inputs; false if that is unknown.
    /// Not kept with a prepared form, which comes from a trial.
    #[serde(skip)]
    pub has_known_sizes: bool,
}

impl Facts {
    /// Bytes of the weights if all narrow constants are widened.
    pub fn widest(&self) -> u64 {
        self.weights.saturating_add(self.widened)
    }
}

impl Artifact {
    /// Returns the hash that identifies the model, independent of the location of its files.
    pub fn hash(&self) -> Result<ContentHash, ArtifactError> {
        let open = |file: &Path| self.folder.file(file);
        let hash =
            content::hash(&self.model, &self.external, open).map_err(|source| open_error(&self.model, source))?;
        Ok(self.prepared_of.map_or(hash, |of| of.with(&hash)))
    }

    /// The model's description of itself; `None` in ONNX Runtime's own format.
    pub fn header(&self) -> Option<OnnxHeader> {
        let file = (!self.is_ort_format).then(|| self.folder.file(&self.model))?.ok()?;
        onnx_file::header(&file).ok()
    }

    /// The error for a load whose files changed while it was under way.
    pub fn changed(&self) -> ArtifactError {
        ArtifactError::Changed {
            file: shown(&self.model),
        }
    }

    /// The error for a file of the artifact that cannot be opened or read.
    pub fn unreadable(&self, path: &Path, source: io::Error) -> ArtifactError {
        open_error(path, source)
    }

    /// Opens the file at the real path `path` inside the artifact.
    pub fn file(&self, path: &Path) -> io::Result<File> {
        self.folder.file(path)
    }
}

/// Opens the artifact at `path`, to be served on `processor`. Finds the model, reads the names of
/// the files that it refers to, and checks that all of them are inside the artifact.
pub fn open(path: &ArtifactPath, processor: Processor) -> Result<Artifact, ArtifactError> {
    let (folder, file) = open_folder(path)?;
    let located = match file {
        None => match locate(&folder, processor, path.overlay.as_deref()) {
            Err(error @ ArtifactError::NoModel { .. }) => return open_without_graph(folder, path, error),
            located => located?,
        },
        Some(model) => Located {
            model,
            manifest: manifest::parse(None, path.overlay.as_deref())?,
            manifest_folder: folder.path().to_owned(),
            found: FoundBy::Given,
        },
    };
    let Located {
        model,
        mut manifest,
        manifest_folder,
        found,
    } = located;
    let real = inside(&folder, &model)?;
    let request_files = requests::complete(&mut manifest, &folder, &manifest_folder)?;
    let mut adapter = None;
    if found != FoundBy::Given {
        manifest::add_sidecars(&folder, &real, &mut manifest);
        adapter = adapter_of(&folder, &real)?;
    }
    let (file, mut weights) = open_file(&folder, &real)?;
    let (mut widened, mut large, mut largest) = (0, 0, 0);
    let (mut has_trees, mut has_unbounded_work, mut has_known_sizes) = (false, true, false);
    let mut external = Vec::new();
    let mut counted = BTreeSet::new();
    let is_ort_format = is_ort_format(&real);
    if is_ort_format {
        check_ort_identifier(&real, &file)?;
    } else {
        let facts = onnx_file::scan(&file).map_err(|error| match error {
            ScanError::Io(source) => io_error(&model, source),
            ScanError::Empty
            | ScanError::Malformed { .. }
            | ScanError::TooManyFiles
            | ScanError::TooManyValues
            | ScanError::LongName
            | ScanError::InvalidNumber { .. }
            | ScanError::TooManyNodes
            | ScanError::Ambiguous(_)
            | ScanError::TooDeep => match foreign(&file) {
                Some(foreign) => ArtifactError::Foreign {
                    file: shown(&model),
                    foreign,
                },
                None => ArtifactError::NotAModel {
                    file: shown(&model),
                    source: error,
                },
            },
        })?;
        (widened, large, largest) = (facts.widened, facts.large, facts.largest);
        (has_trees, has_unbounded_work) = (facts.has_trees, facts.has_unbounded_work);
        has_known_sizes = !facts.has_data_sizes;
        for (location, needed) in facts.external {
            let file = external_file(&real, &folder, &location)?;
            let (data, bytes) = open_file(&folder, &file)?;
            if bytes < needed {
                return Err(match foreign(&data) {
                    Some(foreign) => ArtifactError::Foreign {
                        file: shown(&file),
                        foreign,
                    },
                    None => ArtifactError::ShortExternalData {
                        file: shown(&model),
                        location: brief_name(&location),
                        needed,
                        bytes,
                    },
                });
            }
            // Count a file once, even if it has many names.
            if counted.insert(file.clone()) {
                weights = weights.saturating_add(bytes);
            }
            external.push((location, file));
        }
    }
    Ok(Artifact {
        model: real,
        folder,
        external,
        is_ort_format,
        facts: Facts {
            weights,
            widened,
            large,
            largest,
            has_trees,
            has_unbounded_work,
            has_known_sizes,
        },
        manifest: manifest.shared(),
        request_files,
        adapter,
        found,
        prepared_of: None,
    })
}

/// Opens an artifact without a graph: a step before or after a model. Returns the error `none` if
/// the artifact is not such a step.
fn open_without_graph(folder: Folder, path: &ArtifactPath, none: ArtifactError) -> Result<Artifact, ArtifactError> {
    let (mut manifest, manifest_folder) = locate::manifest_alone(&folder, path.overlay.as_deref())?;
    let place = manifest_folder.join(passthrough::FILE);
    manifest::add_sidecars(&folder, &place, &mut manifest);
    let ports = passthrough::ports(&manifest);
    // If there are weights in another format, the artifact is a model that was not exported.
    let is_model = matches!(&none, ArtifactError::NoModel { advice, .. } if !advice.is_empty());
    if ports.is_empty() || is_model {
        return Err(none);
    }
    let request_files = requests::complete(&mut manifest, &folder, &manifest_folder)?;
    let graph = passthrough::graph(&ports);
    let weights = graph.len() as u64;
    let folder = folder.with_generated(place.clone(), graph);
    Ok(Artifact {
        model: place,
        folder,
        external: Vec::new(),
        is_ort_format: false,
        facts: Facts {
            weights,
            widened: 0,
            large: 0,
            largest: 0,
            has_trees: false,
            has_unbounded_work: false,
            has_known_sizes: true,
        },
        manifest: manifest.shared(),
        request_files,
        adapter: None,
        found: FoundBy::NoGraph,
        prepared_of: None,
    })
}

/// Reads `file`, which has this `hash` and at most `limit` bytes, in the artifact at `path` again.
/// `None` if it is gone or has changed.
pub fn side_file(path: &ArtifactPath, file: &str, hash: &blake3::Hash, limit: u64) -> Option<Vec<u8>> {
    let (folder, _) = open_folder(path).ok()?;
    let bytes = manifest::read_again(&folder, file, limit).ok()?;
    (blake3::hash(&bytes) == *hash).then_some(bytes)
}

/// Opens the folder of the artifact at `path`. If the artifact is a file, also returns its path.
/// A link that has appeared since the path was resolved is not followed.
fn open_folder(path: &ArtifactPath) -> Result<(Folder, Option<PathBuf>), ArtifactError> {
    let failed = |source| open_error(&path.path, source);
    let (root, real) = match &path.root {
        Some(root) => (Some(Folder::open(root).map_err(failed)?), path.path.clone()),
        None => (None, path.path.canonicalize().map_err(failed)?),
    };
    let open = |folder: &Path| match &root {
        Some(root) => root.folder(folder),
        None => Folder::open(folder),
    };
    match open(&real) {
        Ok(folder) => Ok((folder.with_blobs(root.as_ref()), None)),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            // A file of a snapshot belongs to the snapshot, not to the folder of blobs.
            if let (None, Some(name)) = (&root, path.path.file_name())
                && let Some(Ok(parent)) = path.path.parent().map(|parent| parent_of(parent).canonicalize())
                && let Ok(folder) = Folder::open(&parent).map(|folder| folder.with_blobs(None))
                && folder.is_blob(&real)
            {
                return Ok((folder, Some(parent.join(name))));
            }
            let folder = open(real.parent().unwrap_or(&real)).map_err(failed)?;
            Ok((folder, Some(real)))
        }
        Err(error) => Err(failed(error)),
    }
}

/// Makes a parent path that can be opened: the parent of a bare name is the working directory.
fn parent_of(parent: &Path) -> &Path {
    if parent.as_os_str().is_empty() {
        Path::new(".")
    } else {
        parent
    }
}

/// Whether ONNX Runtime will read the file in its own format, which contains all its weights.
/// ONNX Runtime decides by the name, so this must too: every file that it reads as ONNX has to be
/// scanned, whatever its first bytes are.
fn is_ort_format(path: &Path) -> bool {
    path.to_string_lossy().to_ascii_lowercase().ends_with(".ort")
}

/// Checks the flatbuffer identifier of models in ONNX Runtime's format.
fn check_ort_identifier(path: &Path, file: &File) -> Result<(), ArtifactError> {
    let head = head(file, 8).map_err(|source| io_error(path, source))?;
    if head.get(4..8) == Some(b"ORTM") {
        return Ok(());
    }
    let (content, file) = (file, shown(path));
    Err(match foreign(content) {
        Some(foreign) => ArtifactError::Foreign { file, foreign },
        None => ArtifactError::NotOrtFormat { file },
    })
}

/// Detects the format of a file that is not a model, for the error text.
fn foreign(file: &File) -> Option<Foreign> {
    // The check that failed before reports a file that cannot be read.
    let head = head(file, archive::HEAD_BYTES).ok()?;
    archive::foreign(&head).or_else(|| archive::compressed(&head))
}

/// Reads the first bytes of a file.
fn head(mut file: &File, bytes: u64) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    file.rewind()?;
    file.take(bytes).read_to_end(&mut head)?;
    Ok(head)
}
