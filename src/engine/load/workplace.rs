//! Folders for temporary files of a load: private copies of models, and the files of the child
//! processes that prepare them.
//!
//! The cache folder is preferred, because finished forms are then moved instead of copied. A
//! container may have no writable disk, so there are other folders to fall back on.

use std::env;
use std::path::{Path, PathBuf};

use crate::disk_cache::{free_bytes, is_in_memory};
use crate::engine::load::artifact::{Artifact, ArtifactError, PrivateCopy};
use crate::engine::load::content::ContentHash;
use crate::private::{self, Refusal, Temporary};

/// A tmpfs that almost every container has.
const MEMORY: &str = "/dev/shm";

/// The folders for private copies.
#[derive(Debug)]
pub struct Workplace {
    /// In the order of preference.
    folders: Vec<PathBuf>,
    /// Whether large constants of a copy get a file of their own.
    moves_constants: bool,
}

impl Workplace {
    /// Chooses the usable folders: first those on a disk, starting with `cache`, then those in
    /// memory, starting with the one with the most free space. If none is usable, returns `cache`
    /// alone, and loads report the error.
    pub fn choose(cache: &Path, moves_constants: bool) -> Self {
        let user = rustix::process::geteuid().as_raw();
        let name = format!("longshore-{user}");
        let folders = [
            cache.to_owned(),
            env::temp_dir().join(&name),
            Path::new(MEMORY).join(name),
        ];
        let mut usable: Vec<PathBuf> = folders.into_iter().filter(|folder| is_usable(folder)).collect();
        usable.dedup();
        // The sort is stable, so folders on disks keep their order.
        usable.sort_by_key(|folder| match is_in_memory(folder) {
            Ok(true) => (true, u64::MAX - free_bytes(folder).unwrap_or(0)),
            Ok(false) | Err(_) => (false, 0),
        });
        if usable.is_empty() {
            usable.push(cache.to_owned());
        }
        usable.iter().for_each(|folder| private::tidy(folder));
        Self {
            folders: usable,
            moves_constants,
        }
    }

    /// The preferred folder.
    pub fn folder(&self) -> &Path {
        self.folders.first().map_or(Path::new(MEMORY), |folder| folder)
    }

    /// Copies `artifact`, whose hash is `content`, to the first folder that accepts it. A folder
    /// may be deleted at any time, even with a copy in it, so each `attempt` starts with another
    /// folder.
    pub fn copy(
        &self,
        artifact: &Artifact,
        content: &ContentHash,
        attempt: usize,
    ) -> Result<PrivateCopy, ArtifactError> {
        let (first, others) = (attempt % self.folders.len(), self.folders.len());
        let mut refusal = None;
        for folder in self.folders.iter().cycle().skip(first).take(others) {
            match PrivateCopy::of(artifact, content, folder, self.moves_constants) {
                Err(error @ ArtifactError::NoCopy { .. }) => refusal = refusal.or(Some(error)),
                done => return done,
            }
        }
        Err(refusal.unwrap_or_else(|| artifact.changed()))
    }
}

fn is_usable(folder: &Path) -> bool {
    let made = private::make(folder).and_then(|()| {
        let made = Temporary::new(folder).map(drop);
        made.map_err(|source| Refusal::Unusable {
            folder: folder.to_owned(),
            source,
        })
    });
    if let Err(error) = &made {
        tracing::info!("a folder is not usable for private copies of models: {error}");
    }
    made.is_ok()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::engine::load::artifact::{self, ArtifactPath};

    #[test]
    fn the_cache_folder_comes_first_if_it_is_usable_and_is_left_out_otherwise() {
        // On the disk of the source tree, because the temporary directory may be in memory.
        let parent = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        fs::set_permissions(parent.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let cache = parent.path().join("cache");
        if private::make(&cache).is_ok() && is_in_memory(&cache).is_ok_and(|in_memory| !in_memory) {
            assert_eq!(Workplace::choose(&cache, true).folders[0], cache);
        }
        let file = parent.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(!Workplace::choose(&file, true).folders.contains(&file));
    }

    #[test]
    fn a_copy_goes_to_the_next_folder_after_a_refusal_and_the_first_refusal_is_reported() {
        let root = tempfile::tempdir().unwrap();
        let (file, good) = (root.path().join("file"), root.path().join("good"));
        fs::write(&file, "").unwrap();
        fs::write(root.path().join("model.onnx"), b"\x12\x02me").unwrap();
        let artifact = artifact::open(&ArtifactPath::trusted(root.path()), artifact::Processor::Cpu).unwrap();
        let content = artifact.hash().unwrap();
        let work = |folders| Workplace {
            folders,
            moves_constants: true,
        };
        let both = work(vec![file.clone(), good.clone()]);
        for attempt in 0..3 {
            let copy = both.copy(&artifact, &content, attempt).unwrap();
            assert!(copy.artifact().model.starts_with(good.canonicalize().unwrap()));
            assert_eq!(copy.artifact().hash().unwrap(), content);
        }
        let refusal = work(vec![file]).copy(&artifact, &content, 0).unwrap_err();
        assert!(refusal.to_string().contains("--cache-dir"), "{refusal}");
        // The bytes must be those that were hashed.
        fs::write(root.path().join("model.onnx"), b"\x12\x02you").unwrap();
        let changed = both.copy(&artifact, &content, 0).unwrap_err();
        assert!(matches!(changed, ArtifactError::Changed { .. }), "{changed}");
        assert_eq!(fs::read_dir(&good).unwrap().count(), 0, "no file is left");
    }
}
