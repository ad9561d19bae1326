//! A model artifact on disk: which file is the model, and that all it refers to lies inside the
//! artifact.
//!
//! An artifact is a directory (SageMaker has unpacked the archive, MM-8) or a model file. People
//! pack archives in many ways; the order in which a model is looked for is that of `locate.rs`
//! (AR-2, AR-6, AR-7). Two candidates without a hint are an error: guessing would serve the wrong
//! model under the right name.

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

use super::content::{self, ContentHash};
use super::onnx_file::{self, OnnxHeader, ScanError};
use crate::archive::{self, Foreign};
use crate::manifest::{Manifest, Overlay};

use beneath::Folder;
use error::{brief_name, io_error, open_error, shown};
use inside::{external_file, inside, open_file};
use locate::{Located, locate};

pub use beneath::was_exchanged;
pub use copy::PrivateCopy;
pub use error::ArtifactError;
pub use found::Found;
pub use precision::Processor;

/// The path of an artifact, and the root that bounds it.
#[derive(Debug, Clone)]
pub struct ArtifactPath {
    path: PathBuf,
    /// Its real path. With one, `path` is a real path as well, and no link is followed on the way
    /// from the root.
    root: Option<PathBuf>,
    /// Keys that count more than those of the artifact's manifest.
    overlay: Option<Arc<Overlay>>,
}

impl ArtifactPath {
    /// A path that the operator of the server has chosen, or that lies in a folder of this user
    /// alone.
    pub fn trusted(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            root: None,
            overlay: None,
        }
    }

    /// The real path `path`, which lies below `root`, the real path of a folder that uploaders may
    /// write to.
    pub fn below(root: PathBuf, path: PathBuf) -> Self {
        Self {
            // A root may be a model's file; it is the operator's choice then.
            root: (root != path).then_some(root),
            path,
            overlay: None,
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The same path, with keys that count more than those of the artifact's manifest.
    pub(super) fn with_overlay(self, overlay: Option<Arc<Overlay>>) -> Self {
        Self { overlay, ..self }
    }
}

/// The model file of an artifact and what is known of it before it is loaded.
#[derive(Debug, Clone)]
pub struct Artifact {
    pub model: PathBuf,
    /// The directory that all of the artifact lies in. All of it is read through this.
    pub folder: Folder,
    /// External data: the name that the model calls a file by, and the file.
    pub external: Vec<(String, PathBuf)>,
    /// Whether the model is in ORT format rather than ONNX.
    pub is_ort_format: bool,
    pub facts: Facts,
    pub manifest: Arc<Manifest>,
    /// The files that the manifest's requests refer to.
    pub request_files: Vec<PathBuf>,
    pub found: Found,
    /// The content that `model` is a prepared form of, when it came along with that (`packed.rs`).
    pub prepared_of: Option<ContentHash>,
}

/// What is seen of a model without loading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Bytes of the model file and of the external data it refers to.
    pub weights: u64,
    /// Bytes that float16 and int8 constants grow by at the most where ONNX Runtime makes float32
    /// of them.
    pub widened: u64,
    pub has_trees: bool,
    /// Whether a small request can ask for any amount of work; true where that is not known.
    pub has_unbounded_work: bool,
}

impl Facts {
    /// Bytes of the weights where all that can be is widened.
    pub fn widest(&self) -> u64 {
        self.weights.saturating_add(self.widened)
    }
}

impl Artifact {
    /// A hash that identifies the model wherever its files lie.
    pub fn hash(&self) -> Result<ContentHash, ArtifactError> {
        let open = |file: &Path| self.folder.file(file);
        let hash =
            content::hash(&self.model, &self.external, open).map_err(|source| open_error(&self.model, source))?;
        Ok(self.prepared_of.map_or(hash, |of| of.with(&hash)))
    }

    /// The statements of the model about itself; `None` in ONNX Runtime's own format.
    pub fn header(&self) -> Option<OnnxHeader> {
        let file = (!self.is_ort_format).then(|| self.folder.file(&self.model))?.ok()?;
        onnx_file::header(&file).ok()
    }

    /// The refusal of a load whose files were not the same from its beginning to its end.
    pub fn changed(&self) -> ArtifactError {
        ArtifactError::Changed {
            file: shown(&self.model),
        }
    }

    /// Opens the file at the real path `path`, which lies in the artifact.
    pub fn file(&self, path: &Path) -> io::Result<File> {
        self.folder.file(path)
    }
}

/// Opens the artifact at `path`, to be served on `processor`: finds the model, reads what it refers
/// to, and checks that all of it lies inside.
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
            found: Found::Given,
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
    if found != Found::Given {
        manifest::add_sidecars(&folder, &real, &mut manifest);
    }
    let (file, mut weights) = open_file(&folder, &real)?;
    let (mut widened, mut has_trees, mut has_unbounded_work) = (0, false, true);
    let mut external = Vec::new();
    let mut counted = BTreeSet::new();
    let is_ort_format = is_ort_format(&real);
    if is_ort_format {
        check_ort_mark(&real, &file)?;
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
        (widened, has_trees, has_unbounded_work) = (facts.widened, facts.has_trees, facts.has_unbounded_work);
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
            // One file may have many names.
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
            has_trees,
            has_unbounded_work,
        },
        manifest: manifest.shared(),
        request_files,
        found,
        prepared_of: None,
    })
}

/// Opens an artifact without a model: one that is a step before or after one. `none` is the refusal
/// of an artifact that is no such step.
fn open_without_graph(folder: Folder, path: &ArtifactPath, none: ArtifactError) -> Result<Artifact, ArtifactError> {
    let (mut manifest, beside) = locate::manifest_alone(&folder, path.overlay.as_deref())?;
    let place = beside.join(passthrough::FILE);
    manifest::add_sidecars(&folder, &place, &mut manifest);
    let ports = passthrough::ports(&manifest);
    // Beside weights in another format, the files are those of a model that was not exported.
    let is_model = matches!(&none, ArtifactError::NoModel { advice, .. } if !advice.is_empty());
    if ports.is_empty() || is_model {
        return Err(none);
    }
    let request_files = requests::complete(&mut manifest, &folder, &beside)?;
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
            has_trees: false,
            has_unbounded_work: false,
        },
        manifest: manifest.shared(),
        request_files,
        found: Found::NoGraph,
        prepared_of: None,
    })
}

/// The bytes of the tokenizer at `tokenizer` in the artifact at `path`.
pub fn tokenizer(path: &ArtifactPath, tokenizer: &str) -> Result<Vec<u8>, ArtifactError> {
    let (folder, _) = open_folder(path)?;
    manifest::tokenizer_again(&folder, tokenizer)
}

/// The folder of the artifact at `path`, and its file when it is one. A link that has appeared
/// since the path was resolved is not followed.
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
            // A file of a snapshot is one of the snapshot, rather than of the blobs.
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

/// A parent as a path that can be opened: that of a name alone is the working directory.
fn parent_of(parent: &Path) -> &Path {
    if parent.as_os_str().is_empty() {
        Path::new(".")
    } else {
        parent
    }
}

/// Whether ONNX Runtime will read the file in its own format, which holds all of its weights. It
/// goes by the name, and so must we: a file that it takes for ONNX is one that has to be scanned,
/// whatever its first bytes are.
fn is_ort_format(path: &Path) -> bool {
    path.to_string_lossy().to_ascii_lowercase().ends_with(".ort")
}

/// Models in ONNX Runtime's format are flatbuffers with this identifier.
fn check_ort_mark(path: &Path, file: &File) -> Result<(), ArtifactError> {
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

/// Tells what a file is that is not a model, so that the refusal can name it.
fn foreign(file: &File) -> Option<Foreign> {
    // A file that cannot be read is reported by the check that failed before.
    let head = head(file, archive::HEAD_BYTES).ok()?;
    archive::foreign(&head).or_else(|| archive::compressed(&head))
}

/// The first bytes of a file.
fn head(mut file: &File, bytes: u64) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    file.rewind()?;
    file.take(bytes).read_to_end(&mut head)?;
    Ok(head)
}
