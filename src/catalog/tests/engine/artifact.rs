//! Artifacts: what a load gives.

use crate::codec::testing::identity;
use crate::engine::ContentHash;
use crate::manifest::Manifest;
use crate::tensor::{DataType, Signature};

/// The artifact at a path.
#[derive(Debug, Clone)]
pub struct TestArtifact {
    pub content: ContentHash,
    pub manifest: Manifest,
    pub signature: Signature,
    pub bytes: u64,
}

impl TestArtifact {
    /// An artifact of 100 bytes without a manifest, which returns its input. Its content is the
    /// hash of `text`.
    pub fn of(text: &str) -> Self {
        Self {
            content: ContentHash::of(&blake3::hash(text.as_bytes())),
            manifest: Manifest::default(),
            signature: identity(DataType::F32),
            bytes: 100,
        }
    }

    pub fn with_manifest(self, manifest: serde_json::Value) -> Self {
        let manifest = serde_json::from_value(manifest).unwrap();
        Self { manifest, ..self }
    }
}
