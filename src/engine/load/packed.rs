//! The prepared form inside an artifact, which `longshore pack` puts into `.longshore/`.
//!
//! It saves the loading machine the preparation, and is optional: if anything about it is wrong,
//! the server ignores it and loads the model itself. An archive is untrusted, so the prepared
//! form gets no trust either. It is treated like any uploaded model in ONNX Runtime's format:
//! prepared in a separate process, and stored in the cache.
//!
//! Invariants:
//! - A prepared form is used only on the platform that it was made for, and only if both its own
//!   content and that of the model are those that were packed. After a change of the model, the
//!   changed model is served.
//! - The content hash of a prepared form covers both. So results that are learned about it apply
//!   to this pair only, and no claim of an archive affects another artifact with the same model.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::engine::load::artifact::{Artifact, Facts, was_exchanged};
use crate::engine::load::content::{self, ContentHash};
use crate::engine::load::prepare::Platform;

/// The folder in an artifact that Longshore uses.
pub const FOLDER: &str = ".longshore";

/// The prepared model in that folder, and its description.
pub const MODEL: &str = "prepared.ort";
pub const DESCRIPTION: &str = "prepared.json";

/// Size limit of a description, which has a few lines.
const MAX_DESCRIPTION_BYTES: u64 = 64 << 10;

/// The content of `prepared.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackedDescription {
    /// The platform that the form was made on and for.
    pub platform: Platform,
    /// Content hash of the model that the form was made from.
    pub model: String,
    /// Content hash of `prepared.ort`.
    pub prepared: String,
}

/// The reason that a packed prepared form is not used.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    #[error("it was made for {0}")]
    Platform(&'static str),
    #[error("it was made from another model than the one in the artifact")]
    Model,
    #[error("its content differs from what was packed")]
    Damaged,
    #[error("{DESCRIPTION} is not valid: {0}")]
    Description(#[from] serde_json::Error),
    #[error("it is not a regular file, or is behind a link")]
    NotAFile,
    #[error("it cannot be read: {0}")]
    Unreadable(#[from] io::Error),
}

/// A prepared form that was uploaded together with a model.
#[derive(Debug)]
pub struct Packed {
    folder: PathBuf,
    pub description: PackedDescription,
}

impl PackedDescription {
    /// Describes the prepared form in the file `prepared`, which was made from `model`.
    pub fn new(platform: Platform, model: &ContentHash, prepared: &Path) -> io::Result<Self> {
        Ok(Self {
            platform,
            model: model.to_string(),
            prepared: content::hash(prepared, &[], |path| File::open(path))?.to_string(),
        })
    }
}

impl Packed {
    /// Finds the prepared form in `uploaded`: in the model's folder, or in a parent of it within
    /// the artifact. `None` if there is none.
    pub fn find(uploaded: &Artifact) -> Option<Result<Self, Unusable>> {
        let folders = uploaded.model.ancestors().skip(1);
        let folder = folders
            .take_while(|folder| folder.starts_with(uploaded.folder.path()))
            .map(|folder| folder.join(FOLDER))
            .find(|folder| fs::symlink_metadata(folder.join(DESCRIPTION)).is_ok())?;
        Some(Self::read(uploaded, folder))
    }

    fn read(uploaded: &Artifact, folder: PathBuf) -> Result<Self, Unusable> {
        let mut text = Vec::new();
        open(uploaded, &folder.join(DESCRIPTION))?
            .take(MAX_DESCRIPTION_BYTES)
            .read_to_end(&mut text)?;
        Ok(Self {
            description: serde_json::from_slice(&text)?,
            folder,
        })
    }

    /// Returns the artifact to load on `platform` instead of `uploaded`, and its content hash.
    /// `content` is the content hash of `uploaded`.
    pub fn artifact(
        &self,
        platform: &Platform,
        uploaded: &Artifact,
        content: &ContentHash,
    ) -> Result<(ContentHash, Artifact), Unusable> {
        if let Some(difference) = self.description.platform.difference(platform) {
            return Err(Unusable::Platform(difference));
        }
        if self.description.model != content.to_string() {
            return Err(Unusable::Model);
        }
        let model = self.folder.join(MODEL);
        let weights = open(uploaded, &model)?.metadata()?.len();
        let prepared = content::hash(&model, &[], |path| uploaded.file(path))?;
        if self.description.prepared != prepared.to_string() {
            return Err(Unusable::Damaged);
        }
        Ok((
            content.with(&prepared),
            Artifact {
                model,
                external: Vec::new(),
                is_ort_format: true,
                prepared_of: Some(*content),
                facts: Facts {
                    weights,
                    // A prepared form holds its weights as they are served.
                    widened: 0,
                    large: 0,
                    largest: 0,
                    ..uploaded.facts
                },
                ..uploaded.clone()
            },
        ))
    }
}

/// Opens a file of the artifact. Rejects paths with links, which may lead out of the artifact,
/// and files that are not regular, since reading them may block forever.
fn open(uploaded: &Artifact, path: &Path) -> Result<File, Unusable> {
    uploaded.file(path).map_err(|error| {
        if was_exchanged(&error) || error.kind() == io::ErrorKind::InvalidInput {
            Unusable::NotAFile
        } else {
            Unusable::Unreadable(error)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::load::artifact;

    fn platform(onnxruntime: &str) -> Platform {
        Platform {
            onnxruntime: onnxruntime.to_owned(),
            provider: None,
            operators: String::new(),
            architecture: "x86_64".to_owned(),
            features: "avx2".to_owned(),
        }
    }

    /// An artifact in `root` with a model in `folder` and its prepared form.
    fn packed(root: &Path, folder: &str) -> (Artifact, ContentHash) {
        let model = root.join(folder).join("model.onnx");
        fs::create_dir_all(model.parent().unwrap()).unwrap();
        // A valid model that holds only a producer's name.
        fs::write(&model, b"\x12\x02me").unwrap();
        let uploaded = artifact::open(&artifact::ArtifactPath::trusted(root), artifact::Processor::Cpu).unwrap();
        let content = uploaded.hash().unwrap();
        fs::create_dir_all(root.join(FOLDER)).unwrap();
        let prepared = root.join(FOLDER).join(MODEL);
        fs::write(&prepared, b"prepared").unwrap();
        let description = PackedDescription::new(platform("1"), &content, &prepared).unwrap();
        let text = serde_json::to_vec(&description).unwrap();
        fs::write(root.join(FOLDER).join(DESCRIPTION), text).unwrap();
        (uploaded, content)
    }

    fn find(uploaded: &Artifact) -> Packed {
        Packed::find(uploaded).unwrap().unwrap()
    }

    #[test]
    fn a_prepared_form_is_used_only_on_the_platform_that_it_was_made_for() {
        for folder in ["", "1", "segment"] {
            let root = tempfile::tempdir().unwrap();
            let (uploaded, content) = packed(root.path(), folder);
            let packed = find(&uploaded);
            let (other, artifact) = packed.artifact(&platform("1"), &uploaded, &content).unwrap();
            assert!(artifact.is_ort_format && artifact.model.ends_with(".longshore/prepared.ort"));
            assert_eq!(artifact.facts.weights, 8);
            assert_ne!(other, content);
            let refusal = packed.artifact(&platform("2"), &uploaded, &content).unwrap_err();
            assert!(matches!(refusal, Unusable::Platform("another build of ONNX Runtime")));
        }
    }

    #[test]
    fn a_prepared_form_is_not_used_after_it_or_its_model_changed() {
        let root = tempfile::tempdir().unwrap();
        let (uploaded, content) = packed(root.path(), "");
        let changed = content.with(&content);
        let refusal = find(&uploaded).artifact(&platform("1"), &uploaded, &changed);
        assert!(matches!(refusal, Err(Unusable::Model)));
        fs::write(root.path().join(FOLDER).join(MODEL), b"prepaired").unwrap();
        let refusal = find(&uploaded).artifact(&platform("1"), &uploaded, &content);
        assert!(matches!(refusal, Err(Unusable::Damaged)));
        fs::write(root.path().join(FOLDER).join(DESCRIPTION), b"{").unwrap();
        assert!(matches!(Packed::find(&uploaded), Some(Err(Unusable::Description(_)))));
    }

    #[test]
    fn a_prepared_form_behind_a_link_is_not_used() {
        let (root, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (uploaded, content) = packed(root.path(), "");
        let link = |path: &Path, moved: PathBuf| {
            fs::rename(path, &moved).unwrap();
            std::os::unix::fs::symlink(&moved, path).unwrap();
        };
        link(&root.path().join(FOLDER).join(MODEL), outside.path().join("model"));
        let refusal = find(&uploaded).artifact(&platform("1"), &uploaded, &content);
        assert!(matches!(refusal, Err(Unusable::NotAFile)));
        link(&root.path().join(FOLDER), outside.path().join("folder"));
        assert!(matches!(Packed::find(&uploaded), Some(Err(Unusable::NotAFile))));
    }

    #[test]
    fn an_artifact_may_have_no_prepared_form() {
        let root = tempfile::tempdir().unwrap();
        let (uploaded, _) = packed(root.path(), "");
        fs::remove_dir_all(root.path().join(FOLDER)).unwrap();
        assert!(Packed::find(&uploaded).is_none());
    }
}
