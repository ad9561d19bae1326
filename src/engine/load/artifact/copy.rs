//! A private copy of a model's files, so that the files that were checked are the files that are
//! used.
//!
//! Uploaders may change their files at any time, even in place. ONNX Runtime reads files during
//! the whole load, and maps external data as long as the model is served. It must read exactly
//! the content that was hashed: prepared forms and everything learned about a model are stored
//! under that hash, and shared by all models with the same content. So the files are first copied
//! to a folder of this user alone. The bytes are hashed as they are written.
//!
//! A known content is not copied. Its prepared form is used, which came from such a copy.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use tempfile::{Builder, NamedTempFile};

use super::error::{ArtifactError, open_error, shown};
use super::{Artifact, ArtifactPath, Facts, Processor, open};
use crate::engine::load::content::{ContentHash, ContentHasher};
use crate::engine::load::onnx_file::{LARGE_CONSTANT, LargeConstants};
use crate::private::{self, Temporary};

/// Number of bytes that are read and written at a time.
const PIECE: usize = 256 << 10;

/// An artifact in a private folder, which is removed on drop. Mapped files stay mapped.
#[derive(Debug)]
pub struct PrivateCopy {
    artifact: Artifact,
    _folder: Temporary,
}

/// An error of the file that is read, or of the one that is written.
enum CopyError {
    Source(io::Error),
    Target(io::Error),
}

impl PrivateCopy {
    /// Copies `artifact`, whose content hash is `content`, to a new folder in `place`. With
    /// `moves_constants`, large constants get a file of their own, so that they are mapped.
    pub fn of(
        artifact: &Artifact,
        content: &ContentHash,
        place: &Path,
        moves_constants: bool,
    ) -> Result<Self, ArtifactError> {
        let not_written = |source| ArtifactError::NoCopy {
            file: shown(&artifact.model),
            folder: place.to_owned(),
            needed: artifact.facts.weights,
            source,
        };
        // The folder may have been deleted, and another user may have created it.
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
        if moves_constants && artifact.prepared_of.is_none() && !artifact.is_ort_format {
            // Otherwise the model stays in one file, which takes more memory.
            if let Err(error) = move_constants(&model) {
                tracing::debug!(%error, "failed to move the large constants of a model");
            }
        }
        // The facts from before may be those of other files, so read them from the copy.
        let opened = match open(&ArtifactPath::trusted(&*model), Processor::Cpu) {
            // The folder may be deleted at any time.
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

/// Moves the large constants of the copied `model` to a file next to it, so that ONNX Runtime maps
/// them. Small models are as fast in one file.
fn move_constants(model: &Path) -> io::Result<()> {
    const SMALL: u64 = 2 << 20;
    let whole = File::open(model)?;
    if whole.metadata()?.len() <= SMALL {
        return Ok(());
    }
    // ONNX Runtime reports what is wrong with a file that cannot be read.
    let Ok(Some(constants)) = LargeConstants::find(&whole, LARGE_CONSTANT) else {
        return Ok(());
    };
    let folder = model.parent().unwrap_or(model);
    let mut data = Builder::new().suffix(".constants").tempfile_in(folder)?;
    let mut graph = NamedTempFile::new_in(folder)?;
    let name = data
        .path()
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    constants.move_to(&whole, &mut graph, &mut data, &name)?;
    // The data first: without it, the graph is of no use.
    data.keep()?;
    graph.persist(model)?;
    Ok(())
}

/// The path of external data below the model's folder. The name was checked to stay in that
/// folder.
fn below(name: &str) -> PathBuf {
    let components = Path::new(name).components();
    components
        .filter(|component| matches!(component, Component::Normal(_)))
        .collect()
}

/// Gives a copied file another name. Nothing to do if both names are the same path.
fn link(first: &Path, target: &Path) -> io::Result<()> {
    if first == target {
        return Ok(());
    }
    make_parent(target)?;
    match fs::hard_link(first, target) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        // The file system does not support hard links.
        Err(_) => fs::copy(first, target).map(drop),
        Ok(()) => Ok(()),
    }
}

fn make_parent(target: &Path) -> io::Result<()> {
    target.parent().map_or(Ok(()), fs::create_dir_all)
}

/// Copies a file of the artifact up to its current length, and hashes the bytes that are written.
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
    // Some file systems can share the blocks. The clone is private to this process, so it is safe
    // to hash it afterwards.
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
