//! A random key in a folder, on which the names of the files there depend.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::io::Errno;

const BYTES: usize = blake3::KEY_LEN;

/// Attempts when another process creates or removes the file at the same time.
const TRIES: usize = 8;

/// The secret of a folder. Processes of one user that share the folder share it.
#[derive(Clone, PartialEq, Eq)]
pub struct Key([u8; BYTES]);

impl Key {
    /// The name of the file, in the folder that the key is for.
    pub const FILE: &str = "key";

    /// Reads the key of `folder`, or creates it. The folder has been checked.
    pub fn open(folder: &Path) -> io::Result<Self> {
        for _ in 0..TRIES {
            if let Some(key) = read(folder)? {
                return Ok(key);
            }
            let mut bytes = [0; BYTES];
            fill(&mut bytes)?;
            Self(bytes).put(folder)?;
        }
        Err(io::Error::other("another process keeps removing its key"))
    }

    /// Writes this key into `folder` if the folder has none: it may have been deleted since the key
    /// was read.
    pub fn put(&self, folder: &Path) -> io::Result<()> {
        if folder.join(Key::FILE).exists() {
            return Ok(());
        }
        let mut file = tempfile::Builder::new().prefix(".key-").tempfile_in(folder)?;
        file.write_all(&self.0)?;
        file.as_file().sync_all()?;
        match file.persist_noclobber(folder.join(Key::FILE)) {
            Ok(_) => Ok(()),
            // Another process was first.
            Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(error.error),
        }
    }

    /// A hasher for one purpose, whose results cannot be predicted without the key.
    pub fn hasher(&self, purpose: &str) -> blake3::Hasher {
        blake3::Hasher::new_keyed(&blake3::derive_key(purpose, &self.0))
    }

    /// A key for names that never leave this process.
    pub fn of_process() -> Self {
        let mut bytes = [0; BYTES];
        // Without random bytes, names are predictable, but only in a map within this process.
        let _ = fill(&mut bytes);
        Self(bytes)
    }
}

/// Reads the key in `folder`; `None` when it is missing. A key that cannot be trusted is removed.
fn read(folder: &Path) -> io::Result<Option<Key>> {
    let path = folder.join(Key::FILE);
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = match File::options().read(true).custom_flags(flags).open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        // A link.
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => return remove(&path),
        Err(error) => return Err(error),
    };
    let metadata = file.metadata()?;
    let is_ours = metadata.uid() == rustix::process::geteuid().as_raw();
    if !metadata.is_file() || !is_ours || metadata.mode() & 0o077 != 0 || metadata.len() != BYTES as u64 {
        return remove(&path);
    }
    let mut bytes = [0; BYTES];
    (&file).read_exact(&mut bytes)?;
    Ok(Some(Key(bytes)))
}

fn remove(path: &Path) -> io::Result<Option<Key>> {
    tracing::warn!(path = %path.display(), "the key of a cache was changed; the entries of the cache are created again");
    let removed = if fs::symlink_metadata(path)?.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    };
    removed.map(|()| None)
}

fn fill(bytes: &mut [u8]) -> io::Result<()> {
    let mut filled = 0;
    while filled < bytes.len() {
        match rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty()) {
            Ok(more) => filled += more,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::thread;

    use super::*;

    #[test]
    fn all_openers_of_a_folder_get_one_key_and_other_folders_have_other_keys() {
        let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let keys: Vec<Key> = thread::scope(|scope| {
            let openers: Vec<_> = (0..8).map(|_| scope.spawn(|| Key::open(folder.path()))).collect();
            openers
                .into_iter()
                .map(|opener| opener.join().unwrap().unwrap())
                .collect()
        });
        assert!(keys.iter().all(|key| *key == keys[0]));
        assert!(Key::open(other.path()).unwrap() != keys[0]);
        let mode = fs::metadata(folder.path().join(Key::FILE)).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(
            fs::read_dir(folder.path()).unwrap().count(),
            1,
            "nothing unfinished is left"
        );
        let hash = |key: &Key, purpose| key.hasher(purpose).update(b"x").finalize();
        assert_ne!(hash(&keys[0], "a"), hash(&keys[0], "b"));
    }

    #[test]
    fn a_key_that_is_invalid_or_readable_by_others_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(Key::FILE);
        let first = Key::open(folder.path()).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let second = Key::open(folder.path()).unwrap();
        assert!(second != first);
        fs::write(&path, "short").unwrap();
        let third = Key::open(folder.path()).unwrap();
        assert!(third != second);
        let elsewhere = folder.path().join("elsewhere");
        fs::rename(&path, &elsewhere).unwrap();
        symlink(&elsewhere, &path).unwrap();
        assert!(Key::open(folder.path()).unwrap() != third);
    }

    #[test]
    fn a_deleted_key_can_be_put_back_but_does_not_replace_another() {
        let folder = tempfile::tempdir().unwrap();
        let first = Key::open(folder.path()).unwrap();
        fs::remove_file(folder.path().join(Key::FILE)).unwrap();
        first.put(folder.path()).unwrap();
        assert!(Key::open(folder.path()).unwrap() == first);
        Key::of_process().put(folder.path()).unwrap();
        assert!(Key::open(folder.path()).unwrap() == first);
    }
}
