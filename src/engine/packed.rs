//! The prepared form that an artifact may bring along: what `longshore pack` puts into
//! `.longshore/`.
//!
//! It saves the machine that loads the artifact the preparation, and it is only ever a shortcut:
//! where anything about it is not as it should be, the model beside it is loaded as if it were not
//! there. What brings it along is a stranger's archive, so it is believed nothing: it goes the way
//! of any uploaded model in ONNX Runtime's format, through a process apart into the cache.
//!
//! What always holds:
//! - It is taken only for the platform that it was made for, and only while both its own content
//!   and that of the model beside it are those that were packed: whoever changes the model gets the
//!   changed model.
//! - Its content hash covers both, so that what is learnt of it is known of this very pair alone,
//!   and nothing that an archive claims reaches another artifact with the same model.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::artifact::{Artifact, Facts, was_exchanged};
use super::content::{self, ContentHash};
use super::prepare::Platform;

/// The folder in an artifact that is Longshore's own.
pub const FOLDER: &str = ".longshore";

/// In that folder: the prepared model, and what is said about it.
pub const MODEL: &str = "prepared.ort";
pub const DESCRIPTION: &str = "prepared.json";

/// A description is a few lines.
const MAX_DESCRIPTION_BYTES: u64 = 64 << 10;

/// `prepared.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// What the form was made by and for.
    pub platform: Platform,
    /// Content hash of the model that it was made of.
    pub model: String,
    /// Content hash of `prepared.ort`.
    pub prepared: String,
}

/// Why a prepared form that came along is not loaded.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    #[error("it was made for {0}")]
    Platform(&'static str),
    #[error("it was made of another model than the one beside it")]
    Model,
    #[error("it is not what was packed")]
    Damaged,
    #[error("{DESCRIPTION} cannot be understood: {0}")]
    Description(#[from] serde_json::Error),
    #[error("it is a link, or no regular file")]
    NotAFile,
    #[error("it cannot be read: {0}")]
    Unreadable(#[from] io::Error),
}

/// A prepared form beside an uploaded model.
#[derive(Debug)]
pub struct Packed {
    folder: PathBuf,
    pub description: Description,
}

impl Description {
    /// Of the prepared form in the file `prepared`, made of `model`.
    pub fn new(platform: Platform, model: &ContentHash, prepared: &Path) -> io::Result<Self> {
        Ok(Self {
            platform,
            model: model.to_string(),
            prepared: content::hash(prepared, &[], |path| File::open(path))?.to_string(),
        })
    }
}

impl Packed {
    /// What came along with `uploaded`: beside the model, or in a folder around it inside the
    /// artifact. `None` when nothing did.
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

    /// The artifact to be loaded on `platform` instead of `uploaded`, whose content hash is
    /// `content`; and its own.
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
                    // It holds them as they are served.
                    widened: 0,
                    ..uploaded.facts
                },
                ..uploaded.clone()
            },
        ))
    }
}

/// Opens a file of the artifact that has no link on its way: nothing else lies inside the artifact
/// for sure. Reading anything but a regular file may take forever.
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
    use crate::engine::artifact;

    fn platform(onnxruntime: &str) -> Platform {
        Platform {
            onnxruntime: onnxruntime.to_owned(),
            provider: None,
            operators: String::new(),
            architecture: "x86_64".to_owned(),
            features: "avx2".to_owned(),
        }
    }

    /// An artifact below `root` with a model in `folder`, and a prepared form of it.
    fn packed(root: &Path, folder: &str) -> (Artifact, ContentHash) {
        let model = root.join(folder).join("model.onnx");
        fs::create_dir_all(model.parent().unwrap()).unwrap();
        // A producer's name.
        fs::write(&model, b"\x12\x02me").unwrap();
        let uploaded = artifact::open(&artifact::ArtifactPath::trusted(root), artifact::Processor::Cpu).unwrap();
        let content = uploaded.hash().unwrap();
        fs::create_dir_all(root.join(FOLDER)).unwrap();
        let prepared = root.join(FOLDER).join(MODEL);
        fs::write(&prepared, b"prepared").unwrap();
        let description = Description::new(platform("1"), &content, &prepared).unwrap();
        let text = serde_json::to_vec(&description).unwrap();
        fs::write(root.join(FOLDER).join(DESCRIPTION), text).unwrap();
        (uploaded, content)
    }

    fn find(uploaded: &Artifact) -> Packed {
        Packed::find(uploaded).unwrap().unwrap()
    }

    #[test]
    fn it_is_taken_where_it_was_made_for_and_only_there() {
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
    fn it_is_not_taken_when_it_or_its_model_was_changed() {
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
    fn it_is_not_taken_from_behind_a_link() {
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
    fn most_artifacts_have_none() {
        let root = tempfile::tempdir().unwrap();
        let (uploaded, _) = packed(root.path(), "");
        fs::remove_dir_all(root.path().join(FOLDER)).unwrap();
        assert!(Packed::find(&uploaded).is_none());
    }
}
