//! From an artifact to a session, in three stages: identify, prepare, create.
//!
//! - Identify: `artifact` opens the files (`onnx_file`, `ort_file`), `content` hashes them,
//!   `quarantine` refuses what crashed a process, `packed` finds the prepared form in the archive,
//!   `adapter` reads the LoRA adapter next to the model.
//! - Prepare: `preparing` asks the cache or a child process (`prepare`), which works on a private
//!   copy in a `workplace`; `later` does so while the model serves. `axes` and `output_rows` decide
//!   from the graph and a trial whether requests may be batched.
//! - Create: `resident` makes one session for all names of the same content, and `adapter` binds
//!   the adapter of a name to it. Sessions of different contents share their large `constants`. A
//!   large model gets `second` sessions with other threads.
//!
//! `examine` goes through the same stages for commands that do not serve.

pub(in crate::engine) mod adapter;
pub(in crate::engine) mod artifact;
pub(in crate::engine) mod axes;
pub(in crate::engine) mod constants;
pub(in crate::engine) mod content;
pub(in crate::engine) mod examine;
pub(in crate::engine) mod flatbuffer;
pub(in crate::engine) mod later;
pub(in crate::engine) mod locale;
pub(in crate::engine) mod onnx_file;
pub(in crate::engine) mod ort_file;
pub(in crate::engine) mod output_rows;
pub(in crate::engine) mod packed;
pub(in crate::engine) mod prepare;
pub(in crate::engine) mod preparing;
pub(in crate::engine) mod quarantine;
pub(in crate::engine) mod resident;
pub(in crate::engine) mod second;
pub(in crate::engine) mod workplace;

use std::sync::Arc;

use adapter::{Adapter, FoundAdapter};
use artifact::{Artifact, ArtifactError, ArtifactPath, FoundBy, PrivateCopy, Processor};
use content::ContentHash;
use packed::Packed;
use prepare::{Platform, PrepareError, Prepared};
use resident::{OnGpu, Resident, SessionSource};

use super::memory::{Replacement, allocator};
use super::onnxruntime::gpu::GpuProvider;
use super::onnxruntime::session::SessionError;
use super::run::{batch, crash, model::Model, pool::PoolError, stuck::Standing, turn::Batcher};
use super::{Engine, LoadError};
use crate::manifest::Manifest;

/// An artifact with its hash, and the prepared form that it contains.
type Identified = (ContentHash, Artifact, Option<(ContentHash, Artifact)>);

impl Engine {
    /// Loads the artifact at `path`, a directory or a model file. Retries if its files change
    /// during the load.
    pub async fn load(&self, path: &ArtifactPath) -> Result<Model, LoadError> {
        /// A deployment replaces files once. If files keep changing, the load fails.
        const TRIES: usize = 3;
        let mut tries = 1;
        loop {
            match self.try_load(path, tries - 1).await {
                Err(LoadError::Artifact(ArtifactError::Changed { .. })) if tries < TRIES => tries += 1,
                done => return done,
            }
        }
    }

    async fn try_load(&self, path: &ArtifactPath, attempt: usize) -> Result<Model, LoadError> {
        let (content, artifact, packed) = self.identify(path).await?;
        let adapter = self.adapter(&artifact).await?;
        if let Some((content, packed)) = packed {
            // A child tries it first, because the model next to it may take its place.
            match self
                .load_opened(content, packed, adapter.as_ref(), attempt, false)
                .await
            {
                Err(error) if error.is_about_content() => {
                    tracing::warn!(%error, "a packed prepared model is refused; loading the model next to it instead");
                }
                done => return done,
            }
        }
        self.load_opened(content, artifact, adapter.as_ref(), attempt, true)
            .await
    }

    /// Opens and hashes the artifact at `path`, and finds the prepared form in it.
    async fn identify(&self, path: &ArtifactPath) -> Result<Identified, LoadError> {
        let (path, platform) = (self.with_overlay(path), Arc::clone(&self.platform));
        let processor = self.processor();
        let opened = self.loads.run(move || {
            let artifact = artifact::open(&path, processor)?;
            if let FoundBy::Precision { .. } = artifact.found {
                tracing::info!(model = %artifact.model.display(), "the model was chosen: {}", artifact.found);
            }
            let content = artifact.hash()?;
            let packed = packed(&artifact, &content, &platform);
            Ok::<_, ArtifactError>((content, artifact, packed))
        });
        Ok(opened.await.map_err(LoadError::Pool)??)
    }

    async fn load_opened(
        &self,
        content: ContentHash,
        artifact: Artifact,
        adapter: Option<&FoundAdapter>,
        attempt: usize,
        may_be_later: bool,
    ) -> Result<Model, LoadError> {
        let manifest = match adapter {
            None => Arc::clone(&artifact.manifest),
            Some(adapter) => adapter.note(&artifact.manifest, &content),
        };
        let adapter = adapter.map(|found| Arc::clone(&found.adapter));
        let place = self.residents.slot(content);
        let mut place = place.lock().await;
        // Check again: the previous lock holder may have quarantined this content.
        self.quarantine.check(&content)?;
        if let Some(resident) = place.get() {
            return self.model(resident, manifest, adapter).await;
        }
        let artifact = Arc::new(artifact);
        let known = match &self.preparing {
            None => None,
            Some(preparing) => self.known(preparing, content).await?,
        };
        let resident = match known.clone().and_then(SessionSource::prepared) {
            Some(source) => self.create(content, Arc::new(source), Some(artifact)).await?,
            None => {
                let copy = self.copy(content, &artifact, attempt).await?;
                let unprepared = match known {
                    None if may_be_later => self.load_unprepared(content, &artifact, &copy).await?,
                    _ => None,
                };
                match unprepared {
                    Some(resident) => resident,
                    None => {
                        let source = self.source(content, &artifact, copy, known).await?;
                        self.create(content, Arc::new(source), Some(artifact)).await?
                    }
                }
            }
        };
        let resident = Arc::new(resident);
        place.set(&resident);
        self.model(resident, manifest, adapter).await
    }

    /// Makes a private copy of `artifact`.
    async fn copy(
        &self,
        content: ContentHash,
        artifact: &Arc<Artifact>,
        attempt: usize,
    ) -> Result<Arc<PrivateCopy>, LoadError> {
        let (workplace, uploaded) = (Arc::clone(&self.workplace), Arc::clone(artifact));
        let copied = self.loads.run(move || workplace.copy(&uploaded, &content, attempt));
        Ok(Arc::new(copied.await.map_err(LoadError::Pool)??))
    }

    /// Chooses the prepared form of `artifact` if possible, or else its private copy. `known` holds
    /// the findings that exist already.
    async fn source(
        &self,
        content: ContentHash,
        artifact: &Arc<Artifact>,
        copy: Arc<PrivateCopy>,
        known: Option<Prepared>,
    ) -> Result<SessionSource, LoadError> {
        let prepared = match (&self.preparing, known) {
            (Some(preparing), None) => match self.prepared(preparing, content, &copy).await {
                Ok(prepared) => prepared,
                Err(error) => {
                    if error.is_harm() {
                        self.quarantine.add(content.short(), error.to_string());
                    }
                    // Dropping the copy removes its files. If they were deleted before, the model
                    // is not to blame.
                    let was_there = self.files.run(move || {
                        let was_there = copy.artifact().model.exists();
                        drop(copy);
                        was_there
                    });
                    return Err(match was_there.await {
                        Ok(false) => artifact.changed().into(),
                        Ok(true) | Err(_) => error,
                    });
                }
            },
            (_, known) => known,
        };
        // The folder for copies may be deleted at any time, with all that is in it.
        let model = copy.artifact().model.clone();
        let is_there = self.files.run(move || model.exists()).await.map_err(LoadError::Pool)?;
        match prepared {
            Some(prepared) if prepared.file.is_some() => Ok(SessionSource::of(copy, Some(prepared))),
            prepared if is_there => Ok(SessionSource::of(copy, prepared)),
            _ => Err(artifact.changed().into()),
        }
    }

    /// Loads a model again from `path`, with its previous manifest. Uses the prepared form if there
    /// is one, so that the uploaded files are not needed.
    pub async fn restore(
        &self,
        path: &ArtifactPath,
        content: ContentHash,
        manifest: &Arc<Manifest>,
    ) -> Result<Model, LoadError> {
        let Some(preparing) = &self.preparing else {
            return self.load_with(path, manifest).await;
        };
        let (content, adapter) = match &manifest.hints.adapter {
            None => (content, None),
            Some(file) => match (ContentHash::parse(&file.base), self.adapter_again(file, path).await?) {
                (Some(base), Some(adapter)) => (base, Some(adapter)),
                (_, None) | (None, _) => return self.load_with(path, manifest).await,
            },
        };
        let cache = Arc::clone(&preparing.cache);
        let found = self.loads.run(move || cache.find(&content)).await;
        let Some(source) = found.map_err(LoadError::Pool)?.and_then(SessionSource::prepared) else {
            return self.load_with(path, manifest).await;
        };
        let place = self.residents.slot(content);
        let mut place = place.lock().await;
        self.quarantine.check(&content)?;
        if let Some(resident) = place.get() {
            return self.model(resident, Arc::clone(manifest), adapter).await;
        }
        let source = Arc::new(source);
        let resident = match self.create(content, Arc::clone(&source), None).await {
            Ok(resident) => Arc::new(resident),
            Err(error) => {
                drop(place);
                let is_there = self.files.run(move || source.is_there()).await;
                // Prepared models may be deleted at any time, even now.
                return match is_there {
                    Ok(false) => self.load_with(path, manifest).await,
                    Ok(true) | Err(_) => Err(error),
                };
            }
        };
        place.set(&resident);
        self.model(resident, Arc::clone(manifest), adapter).await
    }

    /// Loads the artifact at `path` with another manifest than its own. The artifact's own manifest
    /// still selects the model file.
    async fn load_with(&self, path: &ArtifactPath, manifest: &Arc<Manifest>) -> Result<Model, LoadError> {
        let Model { resident, adapter, .. } = self.load(path).await?;
        let adapter = adapter.map(|bound| Arc::clone(bound.adapter()));
        self.model(resident, Arc::clone(manifest), adapter).await
    }

    /// The kind of processor that runs models.
    fn processor(&self) -> Processor {
        match &self.gpu {
            None => Processor::Cpu,
            Some(_) => Processor::Gpu,
        }
    }

    fn with_overlay(&self, path: &ArtifactPath) -> ArtifactPath {
        path.clone().with_overlay(self.overlay.clone())
    }

    /// The model of a name, with the session `resident` and the values of `adapter`.
    async fn model(
        &self,
        resident: Arc<Resident>,
        manifest: Arc<Manifest>,
        adapter: Option<Arc<Adapter>>,
    ) -> Result<Model, LoadError> {
        let (adapter, evidence) = match adapter {
            None => (None, resident.evidence.clone()),
            Some(adapter) => match self.bind(&resident, adapter, &manifest).await {
                Ok((bound, evidence)) => (Some(Box::new(bound)), evidence),
                Err(error) => {
                    self.release(resident).await;
                    return Err(error);
                }
            },
        };
        let (signature, content) = match &adapter {
            None => (resident.session.signature(), resident.content),
            Some(adapter) => (adapter.signature(), *adapter.content()),
        };
        let batching = batch::decide(signature, manifest.batching, evidence.as_ref(), self.max_batch);
        match &batching {
            Ok(batching) => tracing::debug!(
                %content,
                max_rows = batching.max_rows,
                "requests to this model are batched{}", batching.exception()
            ),
            Err(why) => tracing::debug!(%content, %why, "requests to this model run alone"),
        }
        Ok(Model {
            resident,
            adapter,
            manifest,
            lane: self.compute.lane(self.queue),
            batcher: batching.ok().map(Batcher::new),
            second_sessions: Arc::clone(&self.second_sessions),
            recorder: Arc::clone(&self.recorder),
            watchdog: Arc::clone(&self.watchdog),
            standing: Arc::new(Standing::new(content.to_string(), None, content.short())),
            stuck: Arc::clone(&self.stuck),
        })
    }

    /// Frees `resident`, unless another name has it.
    async fn release(&self, resident: Arc<Resident>) {
        let freed = self.unloads.run(move || {
            drop(resident);
            allocator::give_back();
        });
        if let Err(error) = freed.await {
            tracing::error!(%error, "failed to unload a model");
        }
    }

    /// Creates a session from `source`. If the prepared form has been deleted meanwhile, falls back
    /// to `uploaded`, if given.
    async fn create(
        &self,
        content: ContentHash,
        source: Arc<SessionSource>,
        uploaded: Option<Arc<Artifact>>,
    ) -> Result<Resident, LoadError> {
        let (environment, budget) = (self.environment.clone(), self.budget.clone());
        let (gpu, workplace) = (self.gpu.clone(), Arc::clone(&self.workplace));
        // Only one session at a time on a GPU: TensorRT chooses kernels by timing them, and
        // concurrent creation has crashed (onnxruntime#26610).
        let gpu_lock = match &gpu {
            None => None,
            Some(_) => Some(Arc::clone(&self.gpu_loads).lock_owned().await),
        };
        let constants = Arc::clone(&self.constants);
        let turn = constants.turn(source.stored_constants()).await;
        let cache = self.preparing.as_ref().map(|preparing| Arc::clone(&preparing.cache));
        let replacement = match &uploaded {
            Some(_) => self.replacement(source.facts()),
            // Restoring a model: its headroom was reserved when it was first loaded.
            None => Replacement::default(),
        };
        self.loads
            .run(move || {
                let _mark = crash::CrashMarker::new(content.short());
                let _locks = (gpu_lock, turn);
                let on_gpu = gpu.map(|gpu| OnGpu {
                    engines: match gpu.provider {
                        GpuProvider::Cuda => None,
                        GpuProvider::TensorRt => cache.and_then(|cache| cache.engines(&content)),
                    },
                    gpu,
                });
                let create = |source: &Arc<SessionSource>| {
                    Resident::create(
                        &environment,
                        &budget,
                        content,
                        source,
                        replacement,
                        on_gpu.as_ref(),
                        &constants,
                    )
                };
                let mut resident = create(&source);
                if resident.is_err()
                    && let Some(artifact) = &uploaded
                    && !source.is_there()
                {
                    // Copy to another folder: the cache's own is being deleted.
                    resident = workplace
                        .copy(artifact, &content, 1)
                        .map_err(LoadError::Artifact)
                        .and_then(|copy| create(&Arc::new(source.uploaded(Arc::new(copy)))));
                }
                if resident.is_err() {
                    // The failed session's memory is free now, but the allocator still holds it
                    // (MM-18).
                    allocator::give_back();
                }
                resident
            })
            .await
            .map_err(LoadError::Pool)?
    }
}

impl LoadError {
    /// Whether the model has crashed, stalled or exhausted the process that prepared it. Another
    /// attempt would take minutes, or fail again.
    fn is_harm(&self) -> bool {
        matches!(
            self,
            Self::Prepare(PrepareError::Crashed { .. } | PrepareError::TimedOut(_) | PrepareError::MemoryBomb(_))
        )
    }

    /// Whether the cause is the state of this machine, so that another attempt may succeed. A panic
    /// has its cause in the model.
    pub fn may_pass(&self) -> bool {
        matches!(
            self,
            Self::NoRoom(_)
                | Self::Pool(PoolError::QueueFull { .. } | PoolError::Deadline | PoolError::Stopping)
                | Self::Session(SessionError::OutOfMemory | SessionError::NoDescriptors)
                | Self::Prepare(PrepareError::Killed | PrepareError::Stopping | PrepareError::NoChild(_))
        )
    }

    /// Whether the cause is in the model's files, so that other files may load.
    fn is_about_content(&self) -> bool {
        match self {
            Self::Artifact(error) => error.is_about_content(),
            Self::Quarantined(_) => true,
            Self::Session(error) => error.is_about_content(),
            Self::Prepare(error) => match error {
                PrepareError::Session(error) => error.is_about_content(),
                PrepareError::Crashed { .. } | PrepareError::TimedOut(_) | PrepareError::MemoryBomb(_) => true,
                PrepareError::Killed | PrepareError::NoChild(_) | PrepareError::Stopping => false,
            },
            // The adapter is the same for each form of the model.
            Self::Adapter { .. } | Self::NoRoom(_) | Self::Pool(_) => false,
        }
    }
}

/// Finds the prepared form that `uploaded` contains, if this platform can use it.
fn packed(uploaded: &Artifact, content: &ContentHash, platform: &Platform) -> Option<(ContentHash, Artifact)> {
    let found = Packed::find(uploaded)?;
    match found.and_then(|packed| packed.artifact(platform, uploaded, content)) {
        Ok(packed) => Some(packed),
        Err(why) => {
            tracing::info!(%content, "a packed prepared model is not used: {why}");
            None
        }
    }
}
