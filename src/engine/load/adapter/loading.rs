//! The load of an adapter: from a file of an artifact, or from the copy that a restarted process
//! finds.

use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::{Adapter, AdapterError, BoundAdapter, MAX_BYTES, read};
use crate::engine::load::artifact::{self, Artifact, ArtifactPath};
use crate::engine::load::content::ContentHash;
use crate::engine::load::resident::Resident;
use crate::engine::memory::{Footprint, LoadRequest, LoadReservation, Replacement};
use crate::engine::run::batch::BatchingEvidence;
use crate::engine::{Engine, LoadError};
use crate::manifest::{AdapterFile, Manifest};
use crate::tensor::Tensor;

/// Bytes of the name and the shape of a parameter, beside its value in the file.
const BESIDE_PARAMETER: u64 = 256;

/// Bytes of a name with an adapter: its manifest, its signature, and its entry in the catalog.
/// Measured with a thousand adapters of 544 bytes, which take 7.6 KiB each.
const BESIDE_FILE: u64 = 6 << 10;

/// An adapter that was read from an artifact.
pub struct FoundAdapter {
    pub adapter: Arc<Adapter>,
    /// The path of its file, relative to the artifact.
    path: String,
}

impl FoundAdapter {
    /// Adds to `manifest` what a restarted process needs in order to find the adapter again, which
    /// belongs to the base model with the content `base`.
    pub fn note(&self, manifest: &Manifest, base: &ContentHash) -> Arc<Manifest> {
        let mut manifest = manifest.clone();
        manifest.hints.adapter = Some(AdapterFile {
            hash: self.adapter.hash.to_hex().to_string(),
            path: self.path.clone(),
            size: self.adapter.size,
            base: base.to_string(),
        });
        Arc::new(manifest)
    }
}

/// Reads the adapter of an artifact, if it has one, without counting its memory. Also returns the
/// path of its file, relative to the artifact.
pub fn uncounted(artifact: &Artifact) -> Result<Option<(Adapter, String)>, LoadError> {
    let Some(path) = &artifact.adapter else {
        return Ok(None);
    };
    let bytes = contents(artifact, path, length(artifact, path)?)?;
    let adapter = Adapter {
        hash: blake3::hash(&bytes),
        size: bytes.len() as u64,
        parameters: read(&bytes).map_err(|source| refused(path, source))?,
        memory: None,
    };
    Ok(Some((adapter, relative(artifact, path))))
}

fn relative(artifact: &Artifact, path: &Path) -> String {
    let relative = path.strip_prefix(artifact.folder.path()).unwrap_or(path);
    relative.to_string_lossy().into_owned()
}

/// The error for the adapter in the file at `path`.
pub fn refused(path: &Path, source: AdapterError) -> LoadError {
    let file = path.file_name().unwrap_or_default();
    LoadError::Adapter {
        file: file.to_string_lossy().chars().take(200).collect(),
        source: Box::new(source),
    }
}

/// Reads up to `length` bytes of the file of an adapter.
fn contents(artifact: &Artifact, path: &Path, length: u64) -> Result<Bytes, LoadError> {
    let mut bytes = Vec::new();
    let read = artifact.file(path).and_then(|file| {
        let enough = usize::try_from(length).map_err(io::Error::other)?;
        bytes.try_reserve_exact(enough)?;
        file.take(length).read_to_end(&mut bytes)
    });
    read.map_err(|source| LoadError::Artifact(artifact.unreadable(path, source)))?;
    Ok(bytes.into())
}

/// The length of an adapter's file, if it is within the limit.
fn length(artifact: &Artifact, path: &Path) -> Result<u64, LoadError> {
    let metadata = artifact.file(path).and_then(|file| file.metadata());
    let length = metadata
        .map_err(|source| LoadError::Artifact(artifact.unreadable(path, source)))?
        .len();
    if length > MAX_BYTES {
        return Err(refused(path, AdapterError::TooLong(length)));
    }
    Ok(length)
}

impl Engine {
    /// Reads the adapter of `artifact`, if it has one. Names whose files are equal share one
    /// adapter.
    pub(in crate::engine) async fn adapter(&self, artifact: &Artifact) -> Result<Option<FoundAdapter>, LoadError> {
        let Some(path) = artifact.adapter.clone() else {
            return Ok(None);
        };
        let (artifact, budget) = (artifact.clone(), self.budget.clone());
        let cache = self.preparing.as_ref().map(|preparing| Arc::clone(&preparing.cache));
        let relative = relative(&artifact, &path);
        let work = move || {
            let length = length(&artifact, &path)?;
            let holding = budget.load(&reservation(length))?;
            let bytes = contents(&artifact, &path, length)?;
            let hash = blake3::hash(&bytes);
            let adapter = settle(bytes.clone(), hash, holding, &path)?;
            if let Some(cache) = cache {
                cache.keep_side_file(&hash, &bytes);
            }
            Ok::<_, LoadError>(adapter)
        };
        let adapter = self.loads.run(work).await.map_err(LoadError::Pool)??;
        let adapter = self.shared(adapter).await;
        Ok(Some(FoundAdapter {
            adapter,
            path: relative,
        }))
    }

    /// Reads the adapter in `file` again, for a model that was loaded by an earlier process. `None`
    /// if it is neither kept nor in the artifact at `path` any more.
    pub(in crate::engine) async fn adapter_again(
        &self,
        file: &AdapterFile,
        path: &ArtifactPath,
    ) -> Result<Option<Arc<Adapter>>, LoadError> {
        let Ok(hash) = blake3::Hash::from_hex(&file.hash) else {
            return Ok(None);
        };
        let place = self.adapters.slot(hash);
        if let Some(adapter) = place.lock().await.get() {
            return Ok(Some(adapter));
        }
        let (file, path, budget) = (file.clone(), path.clone(), self.budget.clone());
        let cache = self.preparing.as_ref().map(|preparing| Arc::clone(&preparing.cache));
        let work = move || {
            let holding = budget.load(&reservation(file.size.min(MAX_BYTES)))?;
            let kept = cache.and_then(|cache| cache.side_file(&hash));
            match kept.or_else(|| artifact::side_file(&path, &file.path, &hash, MAX_BYTES)) {
                Some(bytes) => settle(bytes.into(), hash, holding, Path::new(&file.path)).map(Some),
                None => Ok(None),
            }
        };
        match self.loads.run(work).await.map_err(LoadError::Pool)?? {
            Some(adapter) => Ok(Some(self.shared(adapter).await)),
            None => Ok(None),
        }
    }

    /// Returns the adapter with the same hash that another name has, or else `adapter`.
    async fn shared(&self, adapter: Adapter) -> Arc<Adapter> {
        let place = self.adapters.slot(adapter.hash);
        let mut place = place.lock().await;
        place.get().unwrap_or_else(|| {
            let adapter = Arc::new(adapter);
            place.set(&adapter);
            adapter
        })
    }

    /// Binds `adapter` to the model `resident`. Also returns the evidence for batches of requests
    /// to both.
    pub(in crate::engine) async fn bind(
        &self,
        resident: &Arc<Resident>,
        adapter: Arc<Adapter>,
        manifest: &Manifest,
    ) -> Result<(BoundAdapter, Option<BatchingEvidence>), LoadError> {
        let bound = BoundAdapter::new(adapter, &resident.content, resident.session.signature());
        let file = manifest.hints.adapter.as_ref().map_or("", |file| &*file.path);
        let mut bound = bound.map_err(|source| refused(Path::new(file), source))?;
        self.quarantine.check(bound.content())?;
        let (resident, adapter) = (Arc::clone(resident), Arc::clone(bound.adapter()));
        let evidence = self
            .loads
            .run(move || resident.evidence_with(&adapter.names()))
            .await
            .map_err(LoadError::Pool)?;
        if let Some(evidence) = &evidence {
            bound.set_proven_rows(&evidence.axes);
        }
        Ok((bound, evidence))
    }
}

/// The request for the memory of an adapter whose file has `length` bytes. Values that are not
/// aligned in the file are copied.
fn reservation(length: u64) -> LoadRequest {
    LoadRequest {
        peak: length.saturating_mul(2),
        private: length.saturating_add(BESIDE_FILE),
        mapped: 0,
        replacement: Replacement::default(),
    }
}

/// Reads the parameters, and reserves what they take.
fn settle(bytes: Bytes, hash: blake3::Hash, holding: LoadReservation, path: &Path) -> Result<Adapter, LoadError> {
    let size = bytes.len() as u64;
    let parameters = read(&bytes).map_err(|source| refused(path, source))?;
    let copied = parameters.iter().map(|parameter| copied(&parameter.value, &bytes));
    let footprint = Footprint {
        private: BESIDE_FILE + size + copied.sum::<u64>() + BESIDE_PARAMETER * parameters.len() as u64,
        ..Footprint::default()
    };
    match holding.settle(footprint) {
        Ok(memory) => Ok(Adapter {
            hash,
            parameters,
            size,
            memory: Some(memory),
        }),
        Err((refused, memory)) => {
            drop((parameters, bytes));
            drop(memory);
            Err(refused.into())
        }
    }
}

/// Bytes of a value that are not a part of `file`, because they had to be aligned.
fn copied(value: &Tensor, file: &Bytes) -> u64 {
    let within = file.as_ptr_range();
    match value.as_bytes() {
        Some(bytes) if !within.contains(&bytes.as_ptr()) => bytes.len() as u64,
        Some(_) | None => 0,
    }
}
