//! The folders of a container: an `/opt/ml` of its own, as the platform lays it out (AR-1).

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::artifact::Artifact;

/// What is `/opt/ml` for one container.
pub(super) struct Home {
    ml: PathBuf,
    /// Of single-model mode, when the model has one.
    pub artifact: Option<Arc<Artifact>>,
}

impl Home {
    /// Of the container `hostname`, below the folder of its instance.
    pub fn new(instance: &Path, hostname: &str, artifact: Option<Arc<Artifact>>) -> Self {
        Self {
            ml: instance.join(hostname).join("opt/ml"),
            artifact,
        }
    }

    pub fn ml(&self) -> &Path {
        &self.ml
    }

    pub fn models(&self) -> PathBuf {
        self.ml.join("models")
    }

    /// Makes the folders. All instances read the same copy of the model: nobody writes there (ST-8).
    pub fn make(&self, links: bool) -> io::Result<()> {
        fs::create_dir_all(self.models())?;
        let model = self.ml.join("model");
        match &self.artifact {
            // A link would lead nowhere where only this folder is seen.
            Some(artifact) if links => symlink(artifact.path(), model),
            Some(_) | None => fs::create_dir_all(model),
        }
    }
}
