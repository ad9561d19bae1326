//! A model artifact on disk: which file is the model, and that all it refers to lies inside the artifact.
//!
//! An artifact is a directory (SageMaker has unpacked the archive, MM-8) or a model file. People pack archives in many
//! ways; the order in which a model is looked for is that of `locate.rs` (AR-2, AR-6, AR-7). Two candidates without a
//! hint are an error: guessing would serve the wrong model under the right name.

mod error;
mod found;
mod inside;
mod locate;
mod manifest;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::batch::Override;
use super::content::{self, ContentHash};
use super::onnx_file::{self, ScanError};
use crate::archive::{self, Foreign};

use error::{brief_name, io_error, shown};
use inside::{external_file, file_size, inside};
use locate::locate;

pub use error::ArtifactError;
pub use found::Found;
pub use manifest::MANIFEST;

/// The model file of an artifact and what is known of it before it is loaded.
#[derive(Debug, Clone)]
pub struct Artifact {
    pub model: PathBuf,
    /// The directory that all of the artifact lies in.
    pub folder: PathBuf,
    /// External data: the name that the model calls a file by, and the file.
    pub external: Vec<(String, PathBuf)>,
    /// Whether the model is in ORT format rather than ONNX.
    pub is_ort_format: bool,
    pub facts: Facts,
    /// What the manifest says of batches.
    pub batching: Option<Override>,
    /// The content that `model` is a prepared form of, when it came along with that (`packed.rs`).
    pub prepared_of: Option<ContentHash>,
}

/// What is seen of a model without loading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Bytes of the model file and of the external data it refers to.
    pub weights: u64,
    /// Bytes that float16 and int8 constants grow by at the most where ONNX Runtime makes float32 of them.
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
    /// What identifies the model wherever its files lie.
    pub fn hash(&self) -> Result<ContentHash, ArtifactError> {
        let hash = content::hash(&self.model, &self.external).map_err(|source| io_error(&self.model, source))?;
        Ok(self.prepared_of.map_or(hash, |of| of.with(&hash)))
    }

    /// Whether the files still are `content`. Asked after they were read a second time, by ONNX Runtime: what is learnt of
    /// them then is remembered as that content's, for all who have it.
    pub fn check(&self, content: &ContentHash) -> Result<(), ArtifactError> {
        match self.hash() {
            Ok(now) if now == *content => Ok(()),
            Err(error @ ArtifactError::NoDescriptors { .. }) => Err(error),
            Ok(_) | Err(_) => Err(ArtifactError::Changed {
                file: shown(&self.model),
            }),
        }
    }
}

/// Opens the artifact at `path`: finds the model, reads what it refers to, and checks that all of it lies inside.
pub fn open(path: &Path) -> Result<Artifact, ArtifactError> {
    let root = path.canonicalize().map_err(|source| io_error(path, source))?;
    let (model, batching) = if root.is_dir() {
        locate(&root)?
    } else {
        (root.clone(), None)
    };
    let folder = if root.is_dir() {
        root.as_path()
    } else {
        root.parent().unwrap_or(&root)
    };
    let real = inside(folder, &model)?;
    let mut weights = file_size(&real)?;
    let (mut widened, mut has_trees, mut has_unbounded_work) = (0, false, true);
    let mut external = Vec::new();
    let mut counted = BTreeSet::new();
    let is_ort_format = is_ort_format(&real);
    if is_ort_format {
        check_ort_mark(&real)?;
    } else {
        let facts = onnx_file::scan(&real).map_err(|error| match error {
            ScanError::Io(source) => io_error(&model, source),
            ScanError::Empty
            | ScanError::Malformed { .. }
            | ScanError::TooManyFiles
            | ScanError::TooManyValues
            | ScanError::LongName
            | ScanError::NoNumber { .. }
            | ScanError::TooManyNodes
            | ScanError::Ambiguous(_)
            | ScanError::TooDeep => match foreign(&real) {
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
            let file = external_file(&real, folder, &location)?;
            let bytes = file_size(&file)?;
            if bytes < needed {
                return Err(match foreign(&file) {
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
        folder: folder.to_owned(),
        external,
        is_ort_format,
        facts: Facts {
            weights,
            widened,
            has_trees,
            has_unbounded_work,
        },
        batching,
        prepared_of: None,
    })
}

/// Whether ONNX Runtime will read the file in its own format, which holds all of its weights. It goes by the name, and so
/// must we: a file that it takes for ONNX is one that has to be scanned, whatever its first bytes are.
fn is_ort_format(path: &Path) -> bool {
    path.to_string_lossy().to_ascii_lowercase().ends_with(".ort")
}

/// Models in ONNX Runtime's format are flatbuffers with this identifier.
fn check_ort_mark(path: &Path) -> Result<(), ArtifactError> {
    let head = head(path, 8).map_err(|source| io_error(path, source))?;
    if head.get(4..8) == Some(b"ORTM") {
        return Ok(());
    }
    let file = shown(path);
    Err(match foreign(path) {
        Some(foreign) => ArtifactError::Foreign { file, foreign },
        None => ArtifactError::NotOrtFormat { file },
    })
}

/// Tells what a file is that is not a model, so that the refusal can name it.
fn foreign(path: &Path) -> Option<Foreign> {
    // A file that cannot be read is reported by the check that failed before.
    let head = head(path, archive::HEAD_BYTES).ok()?;
    archive::foreign(&head).or_else(|| archive::compressed(&head))
}

/// The first bytes of a file.
fn head(path: &Path, bytes: u64) -> std::io::Result<Vec<u8>> {
    let mut head = Vec::new();
    fs::File::open(path)?.take(bytes).read_to_end(&mut head)?;
    Ok(head)
}
