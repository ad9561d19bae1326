//! The folder for what a load needs for a while: private copies of models, and the files of the processes that prepare them.
//!
//! The cache's folder is that, too, where it can be: finished forms are then moved, not copied. A container may have no disk
//! that it can write to, so there are others to fall back on.

use std::env;
use std::path::{Path, PathBuf};

use super::prepare::{free_bytes, is_in_memory};
use crate::private::{self, Refusal, Temporary};

/// Memory that has a name, in nearly every container.
const MEMORY: &str = "/dev/shm";

/// The first of the folders that can be used and lies on a disk, else the one in memory with the most room; `cache` where no
/// folder can be used, which loads then say.
pub fn choose(cache: &Path) -> PathBuf {
    let user = rustix::process::geteuid().as_raw();
    let name = format!("longshore-{user}");
    let folders = [
        cache.to_owned(),
        env::temp_dir().join(&name),
        Path::new(MEMORY).join(name),
    ];
    let usable: Vec<PathBuf> = folders.into_iter().filter(|folder| is_usable(folder)).collect();
    let on_disk = usable
        .iter()
        .find(|folder| is_in_memory(folder).is_ok_and(|in_memory| !in_memory));
    let roomiest = || usable.iter().max_by_key(|folder| free_bytes(folder).unwrap_or(0));
    let chosen = on_disk.or_else(roomiest).cloned().unwrap_or_else(|| cache.to_owned());
    private::tidy(&chosen);
    chosen
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

    #[test]
    fn the_caches_folder_is_used_where_it_can_be_and_another_one_elsewhere() {
        // On the disk that this is built on, rather than wherever the temporary directory is.
        let parent = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        fs::set_permissions(parent.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let cache = parent.path().join("cache");
        if private::make(&cache).is_ok() && is_in_memory(&cache).is_ok_and(|in_memory| !in_memory) {
            assert_eq!(choose(&cache), cache);
        }
        let file = parent.path().join("file");
        fs::write(&file, "").unwrap();
        assert_ne!(choose(&file), file);
    }
}
