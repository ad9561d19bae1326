//! A private copy of the files that a model consists of: what is checked is what is used.
//!
//! Uploaders may change their files at any time, in place too, and ONNX Runtime reads a file for as
//! long as a load takes and maps external data for as long as the model is served. What it reads
//! must be the content that was hashed, since a prepared form and all that is learnt are kept under
//! that hash, for everyone who has that content. So the files are copied first, to a folder of this
//! user alone, and hashed on the way: the bytes that are written are the bytes that were hashed.
//!
//! A content that is known already is not copied: its prepared form is used, which came from such a
//! copy.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::error::{ArtifactError, open_error, shown};
use super::{Artifact, ArtifactPath, Facts, Processor, open};
use crate::engine::content::{ContentHasher, ContentHash};
use crate::private::{self, Temporary};

/// Bytes that are read and written at a time.
const PIECE: usize = 256 << 10;

/// An artifact in a folder of its own, which is removed on drop. What is mapped of it stays mapped.
#[derive(Debug)]
pub struct PrivateCopy {
    artifact: Artifact,
    _folder: Temporary,
}

/// A file that is read, or written, and what went wrong with it.
enum CopyError {
    Source(io::Error),
    Target(io::Error),
}

impl PrivateCopy {
    /// Copies `artifact`, which has been hashed as `content`, to a new folder in `place`.
    pub fn of(artifact: &Artifact, content: &ContentHash, place: &Path) -> Result<Self, ArtifactError> {
        let not_written = |source| ArtifactError::NoCopy {
            file: shown(&artifact.model),
            folder: place.to_owned(),
            needed: artifact.facts.weights,
            source,
        };
        // It may have been deleted, and another user may have taken the place.
        let folder = private::make(place)
            .map_err(io::Error::other)
            .and_then(|()| Temporary::new(place))
            .map_err(not_written)?;
        let copy = |from: &Path, to: &Path| {
            copy_file(artifact, from, to).map_err(|error| match error {
                CopyError::Source(source) => open_error(from, source),
                CopyError::Target(source) => not_written(source),
            })
        };
        let name = artifact.model.file_name().unwrap_or_default();
        let model = folder.path().join(name);
        let mut copied: HashMap<&Path, (PathBuf, blake3::Hash)> = HashMap::new();
        let hash = copy(&artifact.model, &model)?;
        copied.insert(&artifact.model, (model.clone(), hash));
        let mut found = ContentHasher::of(hash);
        for (name, file) in &artifact.external {
            let target = folder.path().join(below(name));
            let hash = match copied.get(file.as_path()) {
                Some((first, hash)) => {
                    link(first, &target).map_err(not_written)?;
                    *hash
                }
                None => {
                    let hash = copy(file, &target)?;
                    copied.insert(file, (target, hash));
                    hash
                }
            };
            found.add(name, hash);
        }
        let found = artifact.prepared_of.map_or(found.hash(), |of| of.with(&found.hash()));
        if found != *content {
            return Err(artifact.changed());
        }
        // What was seen of the files before may have been seen of other ones.
        let opened = match open(&ArtifactPath::trusted(&*model), Processor::Cpu) {
            // The place may be deleted at any time.
            Err(ArtifactError::Missing { .. }) => Err(not_written(io::ErrorKind::NotFound.into())),
            opened => opened,
        }?;
        let facts = match artifact.prepared_of {
            None => opened.facts,
            Some(_) => Facts {
                weights: opened.facts.weights,
                ..artifact.facts
            },
        };
        let artifact = Artifact {
            facts,
            manifest: Arc::clone(&artifact.manifest),
            request_files: artifact.request_files.clone(),
            found: artifact.found.clone(),
            prepared_of: artifact.prepared_of,
            ..opened
        };
        Ok(Self {
            artifact,
            _folder: folder,
        })
    }

    pub fn artifact(&self) -> &Artifact {
        &self.artifact
    }
}

/// The path of external data below the model's folder. Its name has been checked to stay there.
fn below(name: &str) -> PathBuf {
    let components = Path::new(name).components();
    components
        .filter(|component| matches!(component, Component::Normal(_)))
        .collect()
}

/// Gives a file that was copied another name; the same one, written otherwise, it has already.
fn link(first: &Path, target: &Path) -> io::Result<()> {
    if first == target {
        return Ok(());
    }
    make_parent(target)?;
    match fs::hard_link(first, target) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        // The file system has no such links.
        Err(_) => fs::copy(first, target).map(drop),
        Ok(()) => Ok(()),
    }
}

fn make_parent(target: &Path) -> io::Result<()> {
    target.parent().map_or(Ok(()), fs::create_dir_all)
}

/// Copies a file of the artifact, as long as it is now, and hashes what is written.
fn copy_file(artifact: &Artifact, from: &Path, to: &Path) -> Result<blake3::Hash, CopyError> {
    let source = artifact.file(from).map_err(CopyError::Source)?;
    let length = source.metadata().map_err(CopyError::Source)?.len();
    make_parent(to).map_err(CopyError::Target)?;
    let mut target = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(to)
        .map_err(CopyError::Target)?;
    // Some file systems share the blocks. The clone is this process's own, so it can be read
    // afterwards.
    if rustix::fs::ioctl_ficlone(&target, source.as_fd()).is_ok() {
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(&target).map_err(CopyError::Target)?;
        return Ok(hasher.finalize());
    }
    let mut hasher = blake3::Hasher::new();
    let mut source = source.take(length);
    let mut piece = vec![0; PIECE];
    loop {
        let read = match source.read(&mut piece) {
            Ok(0) => return Ok(hasher.finalize()),
            Ok(read) => &piece[..read],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(CopyError::Source(error)),
        };
        hasher.update(read);
        target.write_all(read).map_err(CopyError::Target)?;
    }
}
