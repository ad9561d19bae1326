//! Why a file is the model of its artifact, for a person.

use std::fmt;
use std::path::Path;

use super::{Artifact, manifest};
use crate::manifest::FILE;

/// What made a file the model, in the order in which it is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    Given,
    Manifest,
    Name,
    Only,
    Version,
}

impl Found {
    /// Of the artifact that was opened at `path`.
    pub fn of(path: &Path, artifact: &Artifact) -> Self {
        if !path.is_dir() {
            return Self::Given;
        }
        let root = artifact.folder.path();
        let below = artifact.model.strip_prefix(root).unwrap_or(&artifact.model);
        let folders = artifact.model.ancestors().skip(1);
        let named = folders
            .take_while(|folder| folder.starts_with(root))
            .any(|folder| names(folder, artifact));
        if named { Self::Manifest } else { Self::by_path(below) }
    }

    /// Of the model's path in the artifact.
    fn by_path(below: &Path) -> Self {
        let is_version = |folder: &Path| folder.to_str().is_some_and(|name| name.parse::<u64>().is_ok());
        let is_named = ["model.onnx", "model.ort"].iter().any(|name| below.ends_with(name));
        let parent = below.parent().and_then(Path::file_name).map(Path::new);
        match (is_named, parent) {
            (true, Some(parent)) if is_version(parent) => Self::Version,
            (true, _) => Self::Name,
            (false, _) => Self::Only,
        }
    }
}

/// Whether the manifest in `folder`, which was read before, names `model`.
fn names(folder: &Path, artifact: &Artifact) -> bool {
    let manifest = artifact
        .folder
        .folder(folder)
        .ok()
        .and_then(|folder| manifest::read(&folder).ok())
        .unwrap_or_default();
    manifest.model.is_some_and(|named| {
        folder
            .join(named)
            .canonicalize()
            .is_ok_and(|named| named == artifact.model)
    })
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Given => f.write_str("the file that was given"),
            Self::Manifest => write!(f, "{FILE} names it"),
            Self::Name => f.write_str("it goes by the usual name"),
            Self::Only => f.write_str("the only model file"),
            Self::Version => f.write_str("the greatest version"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_model_says_by_its_place_why_it_was_chosen() {
        let table = [
            ("model.onnx", Found::Name),
            ("segment/model.ort", Found::Name),
            ("net.onnx", Found::Only),
            ("segment/net.ort", Found::Only),
            ("10/model.onnx", Found::Version),
            ("segment/2/model.onnx", Found::Version),
        ];
        for (path, expected) in table {
            assert_eq!(Found::by_path(Path::new(path)), expected, "{path}");
        }
    }

    #[test]
    fn a_manifest_that_names_the_model_is_the_reason() {
        let root = tempfile::tempdir().unwrap();
        for name in ["a.onnx", "b.onnx"] {
            fs::write(root.path().join(name), b"\x12\x02me").unwrap();
        }
        let manifest = "\u{feff}{\"model\": \"b.onnx\"}";
        fs::write(root.path().join(FILE), manifest).unwrap();
        let artifact = super::super::open(&super::super::ArtifactPath::trusted(root.path())).unwrap();
        assert_eq!(Found::of(root.path(), &artifact), Found::Manifest);
        assert_eq!(Found::of(&root.path().join("b.onnx"), &artifact), Found::Given);
    }
}
