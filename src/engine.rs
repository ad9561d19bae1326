//! Loaded models: from files to sessions, admitted by memory, run fairly.
//!
//! [`Engine::load`] turns an artifact into a [`Model`] or says why not, [`Model::answer`] answers,
//! [`Engine::unload`] gives the memory back. Names, and what is loaded under them, are `catalog`'s;
//! bytes on the wire are `codec`'s. [`Examiner`] looks at artifacts without serving them.
//!
//! What always holds: a model that exists has its memory reserved; a load that failed has left
//! nothing; loads, unloads and all runs but those expected to be short (`placement.rs`) have
//! threads apart from those that answer HTTP.

mod allocator;
mod artifact;
mod axes;
mod batch;
mod batch_limit;
mod content;
mod crash;
mod division;
mod examine;
mod gpu;
mod locale;
mod memory;
mod model;
mod onnx_file;
mod ort_file;
mod output_rows;
mod packed;
mod placement;
mod pool;
mod prepare;
mod preparing;
mod quarantine;
mod raw;
mod records;
mod resident;
mod runtime;
mod session;
mod stuck;
mod turn;
mod watchdog;
mod workplace;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

#[cfg(test)]
pub use allocator::with_peak;
pub use artifact::{ArtifactError, ArtifactPath, FoundBy};
pub use axes::{Axes, OutputAxis};
pub use batch::{Batching, BatchingEvidence, NoBatching, decide as decide_batching};
pub use content::ContentHash;
pub use crash::{CrashReport, report_to as report_crashes_to};
pub use examine::{Examination, ExamineBounds, ExaminedModel, Examiner, Packing};
pub use gpu::{Gpu, GpuProvider};
pub use memory::{
    Footprint, Limit, Loaded as Held, Loading as Holding, NoRoom, Reserved, Usage, Working as RequestMemory,
    raise_open_files, system_limit,
};
pub use model::{Ledger, Model, Work};
pub use onnx_file::OnnxHeader;
pub use packed::{
    DESCRIPTION as PACKED_DESCRIPTION, FOLDER as PACKED_FOLDER, MODEL as PACKED_MODEL, PackedDescription,
};
pub use pool::PoolError;
pub use prepare::{COMMAND as PREPARE_COMMAND, Findings, Platform, PrepareError, hide, run_child};
pub use preparing::Prepare;
pub use quarantine::Quarantined;
pub use raw::{disable_telemetry, exit_now};
pub use runtime::{LIBRARY_VARIABLE, Libraries, RuntimeError};
pub use session::{RunError, SessionError};
pub use stuck::{Counts as StuckCounts, Culprit, Settings as StuckSettings, Standing};

use artifact::{Artifact, Processor};
use memory::{Another, Bounds, Budget, DataBound};
use packed::Packed;
use pool::{DEFAULT_STACK, Lane, Pool, Threads};
use prepare::Prepared;
use preparing::Preparing;
use quarantine::Quarantine;
use resident::{OnGpu, Resident, Residents, Source};
use runtime::Environment;
use stuck::Stuck;
use turn::{Batcher, Batches, Pending};
use watchdog::Watchdog;
use workplace::Workplace;

use crate::manifest::{Manifest, Overlay};

/// ONNX Runtime walks nested functions and subgraphs by recursion: 5,000 levels, in a file of 300
/// KB, overrun 8 MiB.
const LOAD_STACK: usize = 256 << 20;

/// Loads and unloads let requests go first: they get about a third of what a busy request thread
/// does. Much less, and a load on a saturated machine would not end within the platform's minute.
const LOAD_NICE: i32 = 5;

/// What an engine is started with.
#[derive(Debug, Clone)]
pub struct Settings {
    pub libraries: Libraries,
    /// Where models run; `None` for the CPU.
    pub gpu: Option<Gpu>,
    /// Runs at once, and threads of ONNX Runtime's pool.
    pub threads: usize,
    /// Loads at once.
    pub load_threads: usize,
    /// Requests that may wait for one model.
    pub queue: usize,
    /// Rows of requests that may run together; 1 for no batches.
    pub max_batch: usize,
    /// Keys that count more than those of the artifacts' manifests.
    pub manifest: Option<Arc<Overlay>>,
    /// Bytes for everything, and where to see how much is used; `None` for no limit.
    pub memory: Option<Limit>,
    /// Bytes of it that requests are to find free.
    pub memory_reserve: u64,
    /// Percent of mapped weights that must fit into memory.
    pub mapped_percent: u64,
    /// HTTP threads, which run short models themselves.
    pub http_threads: usize,
    /// How long a load that does not fit waits for other loads under way, which hold more than they
    /// will take.
    pub load_patience: Duration,
    /// How unknown models are prepared; `None` loads them as they are.
    pub prepare: Option<Prepare>,
    /// Where private copies of models lie while they are loaded, if that can be.
    pub workplace: PathBuf,
    /// How long content that did harm is refused.
    pub bad_model_ttl: Duration,
    /// What becomes of runs that do not end when they are told to.
    pub stuck: StuckSettings,
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    #[error("configure the allocator: {0}")]
    Allocator(String),
    #[error("start the engine's threads")]
    Threads(#[from] std::io::Error),
}

/// Why an artifact did not become a model.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error(transparent)]
    Quarantined(#[from] Quarantined),
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    #[error("the model could not be loaded: {0}")]
    Pool(PoolError),
}

/// Why a request to a model has no answer.
#[derive(Debug, thiserror::Error)]
pub enum InferenceError {
    #[error("there is no memory left for the request: {0}")]
    NoRoom(#[from] NoRoom),
    #[error(transparent)]
    Run(#[from] RunError),
    #[error(transparent)]
    Pool(#[from] PoolError),
    #[error(
        "model \"{name}\" refuses requests: {} after the deadline, inside an operator that cannot be interrupted; \
         try again when that is over",
        runs_go_on(*.runs)
    )]
    Stuck { name: String, runs: usize },
}

fn runs_go_on(runs: usize) -> String {
    match runs {
        1 => "a run of it goes on".to_owned(),
        runs => format!("{runs} runs of it go on"),
    }
}

/// Loads, runs and unloads models.
#[derive(Debug)]
pub struct Engine {
    environment: Environment,
    gpu: Option<Arc<Gpu>>,
    /// Locked while a session is made on a GPU.
    gpu_loads: Arc<tokio::sync::Mutex<()>>,
    budget: Budget,
    quarantine: Arc<Quarantine>,
    queue: usize,
    max_batch: usize,
    overlay: Option<Arc<Overlay>>,
    batches: Arc<Batches>,
    compute: Pool<Pending>,
    watchdog: Arc<Watchdog>,
    stuck: Arc<Stuck>,
    residents: Residents,
    preparing: Option<Preparing>,
    platform: Arc<Platform>,
    /// Where private copies of models lie.
    workplace: Arc<Workplace>,
    loads: Lane,
    unloads: Lane,
    files: Lane,
    // Pools outlive their lanes' use: their threads stop when they are dropped.
    _load_threads: Pool,
    _unload_threads: Pool,
    _file_threads: Pool,
}

/// Where the engine stands, for metrics.
#[derive(Debug, Clone, Copy)]
pub struct EngineLoad {
    pub running: usize,
    pub waiting: usize,
    /// Batches that have run, and the requests that were in them.
    pub batches: u64,
    pub batched_requests: u64,
    pub stuck: StuckCounts,
    pub reserved: Reserved,
}

impl Engine {
    /// Loads ONNX Runtime and starts the threads. Once per process.
    pub fn start(settings: &Settings) -> Result<Self, StartError> {
        allocator::configure().map_err(|error| StartError::Allocator(error.to_string()))?;
        let (environment, gpu) = runtime::start(&settings.libraries, settings.threads, settings.gpu.clone())?;
        let pool = |cores, stack, nice| Threads {
            cores,
            spare: 0,
            stack,
            arena: None,
            nice,
        };
        let models = allocator::Arena::new().map_err(|error| StartError::Allocator(error.to_string()))?;
        let model_pool = |cores| Threads {
            arena: Some(models),
            ..pool(cores, LOAD_STACK, LOAD_NICE)
        };
        let compute = Pool::start(
            "compute",
            Threads {
                spare: settings.threads,
                ..pool(settings.threads, DEFAULT_STACK, 0)
            },
        )?;
        let load_threads = Pool::start("load", model_pool(settings.load_threads))?;
        // Unloads only free memory; they have a thread of their own so that slow loads do not hold
        // them up when the platform wants memory back.
        let unload_threads = Pool::start("unload", model_pool(1))?;
        let file_threads = Pool::start("files", pool(2, DEFAULT_STACK, 0))?;
        let stuck = Stuck::watch(settings.stuck)?;
        let watchdog = Arc::new(Watchdog::start(Arc::clone(&stuck))?);
        let provider = gpu.as_ref().map(|gpu| gpu.provider.name());
        let platform = Arc::new(Platform::here(ort::info(), provider, environment.operators()));
        let workplace = Arc::new(Workplace::choose(&settings.workplace));
        let preparing = match &settings.prepare {
            None => None,
            Some(prepare) => Some(Preparing::start(prepare, &settings.libraries, &platform)?),
        };
        // Last: what the threads above have mapped is not to count against models and requests.
        let data_bound = DataBound::new(settings.memory.as_ref().map(|limit| limit.bytes))?;
        let bounds = Bounds {
            limit: settings.memory.clone(),
            reserve: settings.memory_reserve,
            mapped_percent: settings.mapped_percent,
            load_patience: settings.load_patience,
            runs: (2 * settings.threads + settings.http_threads) as u64,
        };
        Ok(Self {
            environment,
            gpu: gpu.map(Arc::new),
            gpu_loads: Arc::default(),
            budget: Budget::new(bounds, data_bound, memory::resident_anonymous()),
            quarantine: Arc::new(Quarantine::new(settings.bad_model_ttl)),
            queue: settings.queue,
            max_batch: settings.max_batch,
            overlay: settings.manifest.clone(),
            batches: Arc::default(),
            loads: load_threads.lane(usize::MAX),
            unloads: unload_threads.lane(usize::MAX),
            compute,
            watchdog,
            stuck,
            residents: Residents::default(),
            preparing,
            platform,
            workplace,
            files: file_threads.lane(usize::MAX),
            _load_threads: load_threads,
            _unload_threads: unload_threads,
            _file_threads: file_threads,
        })
    }

    /// Loads the artifact at `path`, a directory or a model file. Tries again when its files have
    /// changed meanwhile.
    pub async fn load(&self, path: &ArtifactPath) -> Result<Model, LoadError> {
        /// A deployment replaces files once. An uploader who replaces them time and again has to
        /// wait.
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
        let (content, artifact, packed) = opened.await.map_err(LoadError::Pool)??;
        if let Some((content, packed)) = packed {
            match self.load_opened(content, packed, attempt).await {
                Err(error) if error.is_about_content() => {
                    tracing::warn!(%error, "a packed prepared model is refused; the model beside it is loaded");
                }
                done => return done,
            }
        }
        self.load_opened(content, artifact, attempt).await
    }

    async fn load_opened(&self, content: ContentHash, artifact: Artifact, attempt: usize) -> Result<Model, LoadError> {
        let place = self.residents.place(content);
        let mut place = place.lock().await;
        // Now: the load that held the place may have found out.
        self.quarantine.check(&content)?;
        if let Some(resident) = place.get() {
            return Ok(self.model(resident, Arc::clone(&artifact.manifest)));
        }
        let manifest = Arc::clone(&artifact.manifest);
        let artifact = Arc::new(artifact);
        let known = match &self.preparing {
            None => None,
            Some(preparing) => self.known(preparing, content).await?,
        };
        let source = match known.clone().and_then(Source::prepared) {
            Some(source) => source,
            None => self.source(content, &artifact, known, attempt).await?,
        };
        let resident = Arc::new(self.create(content, source, Some(artifact)).await?);
        place.set(&resident);
        Ok(self.model(resident, manifest))
    }

    /// A private copy of `artifact`, or its prepared form when it can be made. `known` is what is
    /// known of it already.
    async fn source(
        &self,
        content: ContentHash,
        artifact: &Arc<Artifact>,
        known: Option<Prepared>,
        attempt: usize,
    ) -> Result<Source, LoadError> {
        let (workplace, uploaded) = (Arc::clone(&self.workplace), Arc::clone(artifact));
        let copied = self.loads.run(move || workplace.copy(&uploaded, &content, attempt));
        let copy = Arc::new(copied.await.map_err(LoadError::Pool)??);
        let prepared = match (&self.preparing, known) {
            (Some(preparing), None) => match self.prepared(preparing, content, &copy).await {
                Ok(prepared) => prepared,
                Err(error) => {
                    // Removes the files; they may have been deleted already, which is no fault of
                    // the model.
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
        // A folder for copies may be deleted at any time, with all that is in it.
        let model = copy.artifact().model.clone();
        let is_there = self.files.run(move || model.exists()).await.map_err(LoadError::Pool)?;
        match prepared {
            Some(prepared) if prepared.file.is_some() => Ok(Source::of(copy, Some(prepared))),
            prepared if is_there => Ok(Source::of(copy, prepared)),
            _ => Err(artifact.changed().into()),
        }
    }

    /// Loads what was loaded before from `path`, with the manifest that it had: its prepared form
    /// where there is one, so that the files are not needed.
    pub async fn restore(
        &self,
        path: &ArtifactPath,
        content: ContentHash,
        manifest: &Arc<Manifest>,
    ) -> Result<Model, LoadError> {
        let Some(preparing) = &self.preparing else {
            return self.load_with(path, manifest).await;
        };
        let cache = Arc::clone(&preparing.cache);
        let found = self.loads.run(move || cache.find(&content)).await;
        let Some(source) = found.map_err(LoadError::Pool)?.and_then(Source::prepared) else {
            return self.load_with(path, manifest).await;
        };
        let place = self.residents.place(content);
        let mut place = place.lock().await;
        self.quarantine.check(&content)?;
        if let Some(resident) = place.get() {
            return Ok(self.model(resident, Arc::clone(manifest)));
        }
        let file = source.file().to_owned();
        let resident = match self.create(content, source, None).await {
            Ok(resident) => Arc::new(resident),
            Err(error) => {
                drop(place);
                let is_there = self.files.run(move || file.exists()).await;
                // Prepared models may be deleted at any time, then as well.
                return match is_there {
                    Ok(false) => self.load_with(path, manifest).await,
                    Ok(true) | Err(_) => Err(error),
                };
            }
        };
        place.set(&resident);
        Ok(self.model(resident, Arc::clone(manifest)))
    }

    /// Loads the artifact at `path` with another manifest than its own. Which file is the model is
    /// still for its own to say.
    async fn load_with(&self, path: &ArtifactPath, manifest: &Arc<Manifest>) -> Result<Model, LoadError> {
        let model = self.load(path).await?;
        Ok(self.model(model.resident, Arc::clone(manifest)))
    }

    /// Where models run.
    fn processor(&self) -> Processor {
        match &self.gpu {
            None => Processor::Cpu,
            Some(_) => Processor::Gpu,
        }
    }

    fn with_overlay(&self, path: &ArtifactPath) -> ArtifactPath {
        path.clone().with_overlay(self.overlay.clone())
    }

    fn model(&self, resident: Arc<Resident>, manifest: Arc<Manifest>) -> Model {
        let (signature, content) = (resident.session.signature(), resident.content);
        let batching = batch::decide(signature, manifest.batching, resident.evidence.as_ref(), self.max_batch);
        match &batching {
            Ok(batching) => tracing::debug!(
                %content,
                max_rows = batching.max_rows,
                "requests to this model are joined{}", batching.exception()
            ),
            Err(why) => tracing::debug!(%content, %why, "requests to this model run alone"),
        }
        Model {
            resident,
            manifest,
            lane: self.compute.lane(self.queue),
            batcher: batching.ok().map(Batcher::new),
            batches: Arc::clone(&self.batches),
            watchdog: Arc::clone(&self.watchdog),
            standing: Arc::new(Standing::new(content.to_string(), content.short())),
            stuck: Arc::clone(&self.stuck),
        }
    }

    /// Makes a session of `source`; of `uploaded`, where there is one, when the prepared form has
    /// been deleted since it was found.
    async fn create(
        &self,
        content: ContentHash,
        source: Source,
        uploaded: Option<Arc<Artifact>>,
    ) -> Result<Resident, LoadError> {
        let (environment, budget) = (self.environment.clone(), self.budget.clone());
        let (gpu, workplace) = (self.gpu.clone(), Arc::clone(&self.workplace));
        // On a GPU one at a time: TensorRT chooses kernels by timing them, and many at once have
        // crashed (onnxruntime#26610).
        let turn = match &gpu {
            None => None,
            Some(_) => Some(Arc::clone(&self.gpu_loads).lock_owned().await),
        };
        let cache = self.preparing.as_ref().map(|preparing| Arc::clone(&preparing.cache));
        let another = match &uploaded {
            Some(_) => self.another(source.facts()),
            // It was there before, and so was what had to stay free.
            None => Another::default(),
        };
        self.loads
            .run(move || {
                let _mark = crash::CrashMarker::new(content.short());
                let _turn = turn;
                let on_gpu = gpu.map(|gpu| OnGpu {
                    engines: match gpu.provider {
                        GpuProvider::Cuda => None,
                        GpuProvider::TensorRt => cache.and_then(|cache| cache.engines(&content)),
                    },
                    gpu,
                });
                let create = |source: &Source| {
                    Resident::create(&environment, &budget, content, source, another, on_gpu.as_ref())
                };
                let mut resident = create(&source);
                if resident.is_err()
                    && let Some(artifact) = &uploaded
                    && !source.file().exists()
                {
                    // Not in the folder of the cache, which is being deleted.
                    resident = workplace
                        .copy(artifact, &content, 1)
                        .map_err(LoadError::Artifact)
                        .and_then(|copy| create(&source.uploaded(Arc::new(copy))));
                }
                if resident.is_err() {
                    // What the half-made session held is free now, but still this process's
                    // (MM-18).
                    allocator::give_back();
                }
                resident
            })
            .await
            .map_err(LoadError::Pool)?
    }

    /// Frees `model` and returns its memory to the system before the future ends (MM-4).
    pub async fn unload(&self, model: Model) {
        let freed = self.unloads.run(move || {
            let _mark = crash::CrashMarker::new(model.content().short());
            drop(model);
            allocator::give_back();
        });
        if let Err(error) = freed.await {
            tracing::error!(%error, "unload");
        }
    }

    /// Does `work`, which waits for a file system, on a thread that may wait.
    pub async fn with_files<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, PoolError> {
        self.files.run(work).await
    }

    /// Reserves memory for a request's body. What its run takes is reserved when it runs.
    pub fn reserve_body(&self, bytes: u64) -> Result<RequestMemory, NoRoom> {
        self.budget.request_now(bytes)
    }

    /// Reserves memory for something that models share beside their sessions: `peak` bytes while it
    /// is made, `stays` for as long as it is there. Waits for loads that are in the way: call it
    /// on a thread that may wait.
    pub fn hold(&self, peak: u64, stays: u64) -> Result<Holding, NoRoom> {
        self.budget.load(&memory::Load {
            peak,
            private: stays,
            mapped: 0,
            another: Another::default(),
        })
    }

    /// Keeps `bytes`, a file beside a model, so that the model can be loaded again without its
    /// artifact. Waits for the disk.
    pub fn keep_beside(&self, hash: &blake3::Hash, bytes: &[u8]) {
        if let Some(preparing) = &self.preparing {
            preparing.cache.keep_beside(hash, bytes);
        }
    }

    /// The bytes of hash `hash`: as they were kept, or as `file` of the artifact at `path` still
    /// has them. Waits for the disk.
    pub fn beside(&self, hash: &blake3::Hash, path: &ArtifactPath, file: &str) -> Option<Vec<u8>> {
        let kept = self
            .preparing
            .as_ref()
            .and_then(|preparing| preparing.cache.beside(hash));
        kept.or_else(|| {
            let bytes = artifact::tokenizer(path, file).ok()?;
            (blake3::hash(&bytes) == *hash).then_some(bytes)
        })
    }

    /// Does `work` on a thread for loads.
    pub async fn with_loads<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, PoolError> {
        self.loads.run(work).await
    }

    /// Bytes for models, when the process itself and the reserve for requests have theirs.
    pub fn memory_for_models(&self) -> u64 {
        self.budget.for_models()
    }

    /// Refuses `content` (a [`ContentHash::short`]) for the reason given, under whatever name it
    /// comes.
    pub fn refuse(&self, content: u64, reason: String, remaining: Duration) {
        self.quarantine.add_for(content, reason, remaining);
    }

    /// Whether `content` may be loaded.
    pub fn check(&self, content: &ContentHash) -> Result<(), Quarantined> {
        self.quarantine.check(content)
    }

    pub fn load_now(&self) -> EngineLoad {
        let (running, waiting) = self.compute.load();
        EngineLoad {
            running,
            waiting,
            batches: self.batches.runs.load(Ordering::Relaxed),
            batched_requests: self.batches.requests.load(Ordering::Relaxed),
            stuck: self.stuck.counts(),
            reserved: self.budget.reserved(),
        }
    }

    /// Waits until stuck runs take so much of this process that it cannot give other models their
    /// share any more. Returns the contents that run.
    pub async fn too_many_stuck(&self) -> Vec<Culprit> {
        self.stuck.too_many().await
    }
}

impl LoadError {
    /// Whether it follows from what the model's files hold, so that other files may fare better.
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
            Self::NoRoom(_) | Self::Pool(_) => false,
        }
    }
}

/// Whether there is something at `path` that is meant to be a model, sound or not.
pub fn is_artifact(path: &Path) -> bool {
    !matches!(
        artifact::open(&ArtifactPath::trusted(path), Processor::Cpu),
        Err(ArtifactError::NoModel { .. }
            | ArtifactError::Ambiguous { .. }
            | ArtifactError::SeveralGraphs { .. }
            | ArtifactError::Missing { .. })
    )
}

/// The prepared form that `uploaded` brings along, when it can be used on this platform.
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
