//! A folder that is held open by a descriptor, and access to the files below it.
//!
//! Between the check of a path and its use, an uploader can replace the folder, or put a link to
//! anywhere in its place. So links are resolved once, and the real path is checked. From then on
//! everything is opened relative to a descriptor along that real path, which has no links. A link
//! that has appeared there since is rejected.
//!
//! One kind of link is followed: in Hugging Face's cache a file of a snapshot,
//! `models--x/snapshots/REVISION/model.onnx`, is a link to `models--x/blobs/HASH`. The folder of
//! a snapshot holds a second descriptor, for `blobs`. The target of the link is read, and must be
//! the path of a file directly in `blobs`. That file is opened relative to the second descriptor,
//! again without following links.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{CWD, Dir, MemfdFlags, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// A folder that is held open by a descriptor.
#[derive(Debug, Clone)]
pub struct Folder {
    path: PathBuf,
    descriptor: Arc<OwnedFd>,
    /// The folder that links to files may lead to.
    blobs: Option<Arc<Blobs>>,
    /// A file that is in memory instead of on disk.
    generated: Option<Arc<Generated>>,
}

/// A generated file, which is read as if the artifact contained it.
#[derive(Debug)]
struct Generated {
    path: PathBuf,
    content: Vec<u8>,
}

/// The files of one repository in Hugging Face's cache.
#[derive(Debug)]
struct Blobs {
    path: PathBuf,
    descriptor: OwnedFd,
}

impl Folder {
    /// Opens the folder at `path`, a real path of trusted folders.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        Ok(Self {
            descriptor: Arc::new(rustix::fs::openat(CWD, path, flags, Mode::empty())?),
            path: path.to_owned(),
            blobs: None,
            generated: None,
        })
    }

    /// This folder with an additional file in memory at `path`.
    pub fn with_generated(self, path: PathBuf, content: Vec<u8>) -> Self {
        let generated = Some(Arc::new(Generated { path, content }));
        Self { generated, ..self }
    }

    /// This folder, set to follow the links of a snapshot. Has an effect only if the folder is,
    /// or is in, a snapshot of a repository in Hugging Face's cache, which must be below `root`
    /// if there is one.
    pub fn with_blobs(self, root: Option<&Self>) -> Self {
        let opened = repository_of(&self.path).and_then(|repository| {
            let path = repository.join("blobs");
            let opened = match root {
                Some(root) => root.open_below(&path, OFlags::DIRECTORY),
                None => Self::open(repository).and_then(|repository| repository.open_below(&path, OFlags::DIRECTORY)),
            };
            let descriptor = opened.ok()?;
            Some(Arc::new(Blobs { path, descriptor }))
        });
        Self { blobs: opened, ..self }
    }

    /// Whether `path` is the real path of a file that a link in this folder may lead to.
    pub fn is_blob(&self, path: &Path) -> bool {
        let parent = path.parent();
        self.blobs.as_ref().is_some_and(|blobs| parent == Some(&blobs.path))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the folder at `path`, a real path below this one.
    pub fn folder(&self, path: &Path) -> io::Result<Self> {
        Ok(Self {
            descriptor: Arc::new(self.open_below(path, OFlags::DIRECTORY)?),
            path: path.to_owned(),
            blobs: self.blobs.clone(),
            generated: self.generated.clone(),
        })
    }

    /// Opens the regular file at `path`, a real path below this folder or the path of a link to a
    /// blob.
    pub fn file(&self, path: &Path) -> io::Result<File> {
        if let Some(generated) = self.generated.as_ref().filter(|generated| generated.path == path) {
            return in_memory(&generated.content);
        }
        // Opening a pipe would block forever.
        let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
        let opened = match (self.open_below(path, flags), &self.blobs) {
            (Err(error), Some(blobs)) if is_link(&error) => self.open_blob(blobs, path, flags)?,
            (opened, _) => opened?,
        };
        let file = File::from(opened);
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
        }
        Ok(file)
    }

    /// The names in this folder that are UTF-8. No other name is of interest.
    pub fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.descriptor)? {
            let entry = entry?;
            match entry.file_name().to_str() {
                Ok("." | "..") | Err(_) => {}
                Ok(name) => names.push(name.to_owned()),
            }
        }
        Ok(names)
    }

    /// Opens the blob that the link at `path` refers to.
    fn open_blob(&self, blobs: &Blobs, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(Errno::LOOP.into());
        };
        let held = self.open_below(parent, OFlags::DIRECTORY)?;
        let target = rustix::fs::readlinkat(&held, name, Vec::new())?;
        let target = parent.join(OsStr::from_bytes(target.as_bytes()));
        // `parent` has no links, so `..` is the parent folder.
        let blob = match without_dots(&target) {
            Some(target) if target.parent() == Some(&blobs.path) => target,
            _ => return Err(Errno::LOOP.into()),
        };
        let name = blob.file_name().ok_or(Errno::LOOP)?;
        let flags = flags | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        Ok(rustix::fs::openat(&blobs.descriptor, name, flags, Mode::empty())?)
    }

    fn open_below(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let below = path.strip_prefix(&self.path).map_err(|_| Errno::XDEV)?;
        let flags = flags | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        if below.as_os_str().is_empty() {
            return Ok(rustix::fs::openat(&self.descriptor, ".", flags, Mode::empty())?);
        }
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        match rustix::fs::openat2(&self.descriptor, below, flags, Mode::empty(), resolve) {
            // An old kernel, or a system call filter that does not know `openat2`.
            Err(Errno::NOSYS | Errno::PERM) => step_by_step(&self.descriptor, below, flags),
            opened => Ok(opened?),
        }
    }
}

/// Creates a file in memory.
fn in_memory(content: &[u8]) -> io::Result<File> {
    let mut file = File::from(rustix::fs::memfd_create("model", MemfdFlags::CLOEXEC)?);
    file.write_all(content)?;
    file.rewind()?;
    Ok(file)
}

/// Returns the repository of the snapshot that the real path `folder` is or is in: `models--x` for
/// `models--x/snapshots/REVISION`.
fn repository_of(folder: &Path) -> Option<&Path> {
    let snapshots = folder.ancestors().skip(1).find(|above| above.ends_with("snapshots"))?;
    let repository = snapshots.parent()?;
    let name = repository.file_name()?.to_str()?;
    name.starts_with("models--").then_some(repository)
}

/// Removes `.` and `..` from an absolute path; `None` if it leads above the root.
fn without_dots(path: &Path) -> Option<PathBuf> {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => {
                if !plain.pop() {
                    return None;
                }
            }
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) | Component::Normal(_) => plain.push(component),
        }
    }
    Some(plain)
}

/// Whether opening failed because a component of the path is a link.
fn is_link(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::LOOP.raw_os_error())
}

/// Replacement for `openat2` without links: opens one folder after the other.
fn step_by_step(folder: &OwnedFd, below: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let mut names = below.components().map(|component| match component {
        Component::Normal(name) => Ok(name),
        Component::CurDir | Component::ParentDir | Component::RootDir | Component::Prefix(_) => Err(Errno::XDEV),
    });
    let mut name = names.next().ok_or(Errno::XDEV)??;
    let mut held: Option<OwnedFd> = None;
    for next in names {
        let folder_flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let inner = rustix::fs::openat(held.as_ref().unwrap_or(folder), name, folder_flags, Mode::empty())?;
        held = Some(inner);
        name = next?;
    }
    let opened = rustix::fs::openat(held.as_ref().unwrap_or(folder), name, flags, Mode::empty())?;
    Ok(opened)
}

/// Whether opening failed because a component of the real path is now a link or another kind of
/// file. Then it was replaced after the path was resolved.
pub fn was_exchanged(error: &io::Error) -> bool {
    let exchanged = [Errno::LOOP, Errno::NOTDIR, Errno::XDEV].map(|errno| Some(errno.raw_os_error()));
    exchanged.contains(&error.raw_os_error())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read;
    use std::os::unix::fs::symlink;

    use super::*;

    fn text(file: File) -> String {
        let mut text = String::new();
        io::BufReader::new(file).read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn only_files_below_the_folder_on_paths_without_links_are_opened() {
        let root = tempfile::tempdir().unwrap();
        let real = root.path().canonicalize().unwrap();
        let artifact = real.join("artifact");
        fs::create_dir_all(artifact.join("sub")).unwrap();
        fs::write(artifact.join("sub/file"), "inside").unwrap();
        fs::write(real.join("secret"), "outside").unwrap();
        symlink(real.join("secret"), artifact.join("link")).unwrap();
        symlink(&real, artifact.join("up")).unwrap();
        symlink("sub", artifact.join("down")).unwrap();
        let folder = Folder::open(&artifact).unwrap();
        assert_eq!(text(folder.file(&artifact.join("sub/file")).unwrap()), "inside");
        let below =
            |path: &str, flags: OFlags| step_by_step(&folder.descriptor, Path::new(path), flags | OFlags::NOFOLLOW);
        assert_eq!(text(below("sub/file", OFlags::RDONLY).unwrap().into()), "inside");
        for path in ["link", "up/secret", "down/file", "sub/file/x"] {
            let error = folder.file(&artifact.join(path)).unwrap_err();
            assert!(was_exchanged(&error), "{path} {error}");
            let error = below(path, OFlags::RDONLY).unwrap_err();
            assert!(was_exchanged(&error), "{path} {error}");
        }
        for path in ["../secret", "sub/../../secret"] {
            assert!(folder.file(&artifact.join(path)).is_err(), "{path}");
            assert!(below(path, OFlags::RDONLY).is_err(), "{path}");
        }
        assert!(folder.file(&real.join("secret")).is_err());
        assert!(
            folder.file(&artifact.join("sub")).is_err(),
            "a directory is not a regular file"
        );
        assert!(folder.file(&artifact.join("gone")).is_err());
    }

    /// Creates a repository with a snapshot that contains a link to `target`. Returns the
    /// snapshot.
    fn snapshot(hub: &Path, repository: &str, target: &str) -> PathBuf {
        let snapshot = hub.join(repository).join("snapshots/abc/onnx");
        fs::create_dir_all(&snapshot).unwrap();
        fs::create_dir_all(hub.join(repository).join("blobs/deep")).unwrap();
        fs::write(hub.join(repository).join("blobs/1234"), "blob").unwrap();
        fs::write(hub.join(repository).join("blobs/deep/5678"), "deep").unwrap();
        let link = snapshot.join("model.onnx");
        let _ = fs::remove_file(&link);
        symlink(target, link).unwrap();
        snapshot.parent().unwrap().to_owned()
    }

    #[test]
    fn links_of_a_snapshot_are_followed_only_to_the_blobs_of_their_own_repository() {
        let root = tempfile::tempdir().unwrap();
        let hub = root.path().canonicalize().unwrap();
        snapshot(&hub, "models--other", "x");
        fs::write(hub.join("secret"), "secret").unwrap();
        symlink("../../secret", hub.join("models--other/blobs/link")).unwrap();
        let absolute = hub.join("models--mine/blobs/1234").display().to_string();
        symlink("1234", {
            snapshot(&hub, "models--mine", "x");
            hub.join("models--mine/blobs/second")
        })
        .unwrap();
        let table = [
            ("models--mine", "../../../blobs/1234", true),
            ("models--mine", &absolute, true),
            ("models--mine", "../../../blobs/deep/5678", false),
            // A blob that is a link itself.
            ("models--mine", "../../../blobs/second", false),
            ("models--mine", "../../../../models--other/blobs/1234", false),
            ("models--mine", "../../../../secret", false),
            ("models--mine", "/etc/passwd", false),
            ("models--mine", "../../../../../../../../../../../../../..", false),
            ("models--mine", "../../../blobs/gone", false),
            ("models--mine", "../../../blobs", false),
            // Not a repository in Hugging Face's cache.
            ("mine", "../../../blobs/1234", false),
        ];
        let opened = Folder::open(&hub).unwrap();
        for (repository, target, is_followed) in table {
            let path = snapshot(&hub, repository, target);
            for folder in [
                Folder::open(&path).unwrap().with_blobs(None),
                opened.folder(&path).unwrap().with_blobs(Some(&opened)),
            ] {
                let file = folder.file(&path.join("onnx/model.onnx"));
                assert_eq!(file.is_ok(), is_followed, "{repository} {target}");
                if let Ok(file) = file {
                    assert_eq!(text(file), "blob");
                }
                let below = folder.folder(&path.join("onnx")).unwrap();
                assert_eq!(below.file(&path.join("onnx/model.onnx")).is_ok(), is_followed);
            }
            assert!(
                Folder::open(&path)
                    .unwrap()
                    .file(&path.join("onnx/model.onnx"))
                    .is_err()
            );
        }
    }

    #[test]
    fn blobs_outside_the_root_or_behind_a_link_are_not_opened() {
        let root = tempfile::tempdir().unwrap();
        let hub = root.path().canonicalize().unwrap();
        let path = snapshot(&hub, "models--mine", "../../../blobs/1234");
        let model = path.join("onnx/model.onnx");
        // The root is the snapshot.
        let narrow = Folder::open(path.parent().unwrap()).unwrap();
        let folder = narrow.folder(&path).unwrap().with_blobs(Some(&narrow));
        assert!(folder.file(&model).is_err());
        fs::rename(hub.join("models--mine/blobs"), hub.join("elsewhere")).unwrap();
        symlink(hub.join("elsewhere"), hub.join("models--mine/blobs")).unwrap();
        let wide = Folder::open(&hub).unwrap();
        for folder in [
            wide.folder(&path).unwrap().with_blobs(Some(&wide)),
            Folder::open(&path).unwrap().with_blobs(None),
        ] {
            assert!(folder.file(&model).is_err());
        }
    }

    #[test]
    fn an_open_folder_stays_the_same_when_its_path_is_replaced_with_a_link() {
        let root = tempfile::tempdir().unwrap();
        let real = root.path().canonicalize().unwrap();
        for (name, content) in [("ours", "inside"), ("other", "outside")] {
            fs::create_dir(real.join(name)).unwrap();
            fs::write(real.join(name).join("file"), content).unwrap();
        }
        let ours = real.join("ours");
        let (root, folder) = (Folder::open(&real).unwrap(), Folder::open(&ours).unwrap());
        fs::rename(&ours, real.join("moved")).unwrap();
        symlink(real.join("other"), &ours).unwrap();
        assert_eq!(text(folder.file(&ours.join("file")).unwrap()), "inside");
        assert_eq!(folder.names().unwrap(), ["file"]);
        assert!(was_exchanged(&root.file(&ours.join("file")).unwrap_err()));
        assert!(was_exchanged(&root.folder(&ours).unwrap_err()));
        assert!(Folder::open(&ours).is_err());
    }

    #[test]
    fn a_pipe_is_rejected_without_blocking() {
        let root = tempfile::tempdir().unwrap();
        let real = root.path().canonicalize().unwrap();
        rustix::fs::mkfifoat(CWD, real.join("pipe"), Mode::RUSR).unwrap();
        let error = Folder::open(&real).unwrap().file(&real.join("pipe")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}
