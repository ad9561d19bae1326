//! The folder for what a load needs for a while: private copies of models, and the files of the
//! processes that prepare them.
//!
//! The cache's folder is that, too, where it can be: finished forms are then moved, not copied. A
//! container may have no disk that it can write to, so there are others to fall back on.

use std::env;
use std::path::{Path, PathBuf};

use super::artifact::{Artifact, ArtifactError, PrivateCopy};
use super::content::ContentHash;
use super::prepare::{free_bytes, is_in_memory};
use crate::private::{self, Refusal, Temporary};

/// Memory that has a name, in nearly every container.
const MEMORY: &str = "/dev/shm";

/// The folders, in the order in which they are tried.
#[derive(Debug)]
pub struct Workplace(Vec<PathBuf>);

impl Workplace {
    /// Folders that can be used: those on a disk first, the cache's before others, then those in
    /// memory, the one with the most room first. `cache` alone where no folder can be used, which
    /// loads then say.
    pub fn choose(cache: &Path) -> Self {
        let user = rustix::process::geteuid().as_raw();
        let name = format!("longshore-{user}");
        let folders = [
            cache.to_owned(),
            env::temp_dir().join(&name),
            Path::new(MEMORY).join(name),
        ];
        let mut usable: Vec<PathBuf> = folders.into_iter().filter(|folder| is_usable(folder)).collect();
        usable.dedup();
        // Stable: where it does not decide, the order stays.
        usable.sort_by_key(|folder| match is_in_memory(folder) {
            Ok(true) => (true, u64::MAX - free_bytes(folder).unwrap_or(0)),
            Ok(false) | Err(_) => (false, 0),
        });
        if usable.is_empty() {
            usable.push(cache.to_owned());
        }
        usable.iter().for_each(|folder| private::tidy(folder));
        Self(usable)
    }

    /// Copies `artifact`, which has been hashed as `content`, to the first folder that takes it. A
    /// folder may be deleted at any time, also with a copy in it; another `attempt` begins with
    /// another folder.
    pub fn copy(
        &self,
        artifact: &Artifact,
        content: &ContentHash,
        attempt: usize,
    ) -> Result<PrivateCopy, ArtifactError> {
        let (first, others) = (attempt % self.0.len(), self.0.len());
        let mut refusal = None;
        for folder in self.0.iter().cycle().skip(first).take(others) {
            match PrivateCopy::of(artifact, content, folder) {
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
        tracing::info!("a folder for private copies of models is not used: {error}");
    }
    made.is_ok()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::engine::artifact::{self, ArtifactPath};

    #[test]
    fn the_caches_folder_comes_first_where_it_can_be_used_and_is_left_out_elsewhere() {
        // On the disk that this is built on, rather than wherever the temporary directory is.
        let parent = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        fs::set_permissions(parent.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let cache = parent.path().join("cache");
        if private::make(&cache).is_ok() && is_in_memory(&cache).is_ok_and(|in_memory| !in_memory) {
            assert_eq!(Workplace::choose(&cache).0[0], cache);
        }
        let file = parent.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(!Workplace::choose(&file).0.contains(&file));
    }

    #[test]
    fn a_copy_is_made_in_the_next_folder_when_one_does_not_take_it_and_the_first_refusal_is_said() {
        let root = tempfile::tempdir().unwrap();
        let (file, good) = (root.path().join("file"), root.path().join("good"));
        fs::write(&file, "").unwrap();
        fs::write(root.path().join("model.onnx"), b"\x12\x02me").unwrap();
        let artifact = artifact::open(&ArtifactPath::trusted(root.path()), artifact::Processor::Cpu).unwrap();
        let content = artifact.hash().unwrap();
        let work = Workplace(vec![file.clone(), good.clone()]);
        for attempt in 0..3 {
            let copy = work.copy(&artifact, &content, attempt).unwrap();
            assert!(copy.artifact().model.starts_with(good.canonicalize().unwrap()));
            assert_eq!(copy.artifact().hash().unwrap(), content);
        }
        let refusal = Workplace(vec![file]).copy(&artifact, &content, 0).unwrap_err();
        assert!(refusal.to_string().contains("--cache-dir"), "{refusal}");
        // Other bytes than those that were hashed are no copy.
        fs::write(root.path().join("model.onnx"), b"\x12\x02you").unwrap();
        let changed = work.copy(&artifact, &content, 0).unwrap_err();
        assert!(matches!(changed, ArtifactError::Changed { .. }), "{changed}");
        assert_eq!(fs::read_dir(&good).unwrap().count(), 0, "nothing is left");
    }
}
