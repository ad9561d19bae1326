//! The folders of a container: its own `/opt/ml`, laid out as on the platform (AR-1).

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::artifact::Artifact;

/// The `/opt/ml` of one container.
pub(super) struct Home {
    ml: PathBuf,
    /// The model in single-model mode, if any.
    pub artifact: Option<Arc<Artifact>>,
}

impl Home {
    /// The folders of the container `hostname`, below the folder of its instance.
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

    /// Creates the folders. All instances share one copy of the model, which is read-only (ST-8).
    pub fn make(&self, links: bool) -> io::Result<()> {
        fs::create_dir_all(self.models())?;
        let model = self.ml.join("model");
        match &self.artifact {
            // Inside an image a link would lead outside the mounted folder.
            Some(artifact) if links => symlink(artifact.path(), model),
            Some(_) | None => fs::create_dir_all(model),
        }
    }
}
