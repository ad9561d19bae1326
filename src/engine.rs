//! Loaded models: from files to sessions, admitted by memory, run fairly.
//!
//! [`Engine::load`] turns an artifact into a [`Model`] or says why not, [`Model::answer`] answers, [`Engine::unload`] gives
//! the memory back. Names, and what is loaded under them, are `catalog`'s; bytes on the wire are `codec`'s.
//!
//! What always holds: a model that exists has its memory reserved; a load that failed has left nothing; loads, unloads
//! and all runs but those expected to be short (`placement.rs`) have threads apart from those that answer HTTP.

mod allocator;
mod artifact;
mod batch;
mod content;
mod crash;
mod gpu;
mod knee;
mod memory;
mod model;
mod onnx_file;
mod placement;
mod pool;
mod prepare;
mod quarantine;
mod raw;
mod resident;
mod runtime;
mod session;
mod turn;
mod watchdog;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ort::environment::Environment;

pub use artifact::ArtifactError;
pub use content::ContentHash;
pub use crash::{Note, report_to as report_crashes_to};
pub use gpu::{Gpu, GpuProvider};
pub use memory::{Limit, NoRoom, Reserved, Usage, Working as RequestMemory, raise_open_files, system_limit};
pub use model::{Model, Work};
pub use pool::PoolError;
pub use prepare::{COMMAND as PREPARE_COMMAND, PrepareError, run_child};
pub use quarantine::Quarantined;
pub use raw::{disable_telemetry, exit_now};
pub use runtime::{LIBRARY_VARIABLE, RuntimeError};
pub use session::{RunError, SessionError};

use artifact::Artifact;
use batch::Override;
use memory::{Bounds, Budget, DataBound};
use pool::{DEFAULT_STACK, Lane, Pool, Threads};
use prepare::{Cache, CacheError, Findings, Job, Prepared, Preparer};
use quarantine::Quarantine;
use resident::{OnGpu, Resident, Residents, Source};
use turn::{Batcher, Batches, Pending};
use watchdog::Watchdog;

/// ONNX Runtime walks nested functions and subgraphs by recursion: 5,000 levels, in a file of 300 KB, overrun 8 MiB.
const LOAD_STACK: usize = 256 << 20;

/// What an engine is started with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// ONNX Runtime's library, when it is named explicitly.
    pub library: Option<PathBuf>,
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
    /// Bytes for everything, and where to see how much is used; `None` for no limit.
    pub memory: Option<Limit>,
    /// Bytes of it that requests are to find free.
    pub memory_reserve: u64,
    /// Percent of mapped weights that must fit into memory.
    pub mapped_percent: u64,
    /// HTTP threads, which run short models themselves.
    pub http_threads: usize,
    /// How unknown models are prepared; `None` loads them as they are.
    pub prepare: Option<Prepare>,
    /// How long content that did harm is refused.
    pub bad_model_ttl: Duration,
}

/// How unknown models are prepared.
#[derive(Debug, Clone)]
pub struct Prepare {
    /// Children at a time.
    pub processes: usize,
    /// The longest that a child may take for a model.
    pub timeout: Duration,
    /// Bytes that any model may take while it is prepared; larger ones may take ten times their weights.
    pub memory: u64,
    /// Where prepared models are kept.
    pub folder: PathBuf,
    /// Bytes that prepared models may take there.
    pub folder_bytes: u64,
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
    batches: Arc<Batches>,
    compute: Pool<Pending>,
    watchdog: Arc<Watchdog>,
    residents: Residents,
    preparing: Option<Preparing>,
    loads: Lane,
    unloads: Lane,
    files: Lane,
    // Pools outlive their lanes' use: their threads stop when they are dropped.
    _load_threads: Pool,
    _unload_threads: Pool,
    _file_threads: Pool,
}

/// What is needed to prepare models.
#[derive(Debug)]
struct Preparing {
    preparer: Preparer,
    cache: Arc<Cache>,
    memory: u64,
}

/// Where the engine stands, for metrics.
#[derive(Debug, Clone, Copy)]
pub struct EngineLoad {
    pub running: usize,
    pub waiting: usize,
    /// Batches that have run, and the requests that were in them.
    pub batches: u64,
    pub batched_requests: u64,
    pub reserved: Reserved,
}

impl Engine {
    /// Loads ONNX Runtime and starts the threads. Once per process.
    pub fn start(settings: &Settings) -> Result<Self, StartError> {
        allocator::configure().map_err(|error| StartError::Allocator(error.to_string()))?;
        let environment = runtime::start(settings.library.as_deref(), settings.threads, settings.gpu.as_ref())?;
        let compute = Pool::start(
            "compute",
            Threads {
                cores: settings.threads,
                spare: settings.threads,
                stack: DEFAULT_STACK,
            },
        )?;
        let load_threads = Pool::start(
            "load",
            Threads {
                cores: settings.load_threads,
                spare: 0,
                stack: LOAD_STACK,
            },
        )?;
        // Unloads only free memory; they have a thread of their own so that slow loads do not hold them up when the
        // platform wants memory back.
        let unload_threads = Pool::start(
            "unload",
            Threads {
                cores: 1,
                spare: 0,
                stack: LOAD_STACK,
            },
        )?;
        let file_threads = Pool::start(
            "files",
            Threads {
                cores: 2,
                spare: 0,
                stack: DEFAULT_STACK,
            },
        )?;
        let watchdog = Arc::new(Watchdog::start()?);
        let preparing = match &settings.prepare {
            None => None,
            Some(prepare) => Some(Preparing::start(
                prepare,
                settings.library.as_deref(),
                settings.gpu.as_ref().map(|gpu| gpu.provider),
            )?),
        };
        // Last: what the threads above have mapped is not to count against models and requests.
        let data_bound = DataBound::new(settings.memory.as_ref().map(|limit| limit.bytes))?;
        let bounds = Bounds {
            limit: settings.memory.clone(),
            reserve: settings.memory_reserve,
            mapped_percent: settings.mapped_percent,
            runs: (2 * settings.threads + settings.http_threads) as u64,
        };
        Ok(Self {
            environment,
            gpu: settings.gpu.clone().map(Arc::new),
            gpu_loads: Arc::default(),
            budget: Budget::new(bounds, data_bound, memory::resident_anonymous()),
            quarantine: Arc::new(Quarantine::new(settings.bad_model_ttl)),
            queue: settings.queue,
            max_batch: settings.max_batch,
            batches: Arc::default(),
            loads: load_threads.lane(usize::MAX),
            unloads: unload_threads.lane(usize::MAX),
            compute,
            watchdog,
            residents: Residents::default(),
            preparing,
            files: file_threads.lane(usize::MAX),
            _load_threads: load_threads,
            _unload_threads: unload_threads,
            _file_threads: file_threads,
        })
    }

    /// Loads the artifact at `path`, a directory or a model file.
    pub async fn load(&self, path: &Path) -> Result<Model, LoadError> {
        let path = path.to_owned();
        let opened = self.loads.run(move || {
            let artifact = artifact::open(&path)?;
            let content = artifact.hash()?;
            Ok::<_, ArtifactError>((content, artifact))
        });
        let (content, artifact) = opened.await.map_err(LoadError::Pool)??;
        let place = self.residents.place(content);
        let mut place = place.lock().await;
        // Now: whoever held the place may have found out.
        self.quarantine.check(&content)?;
        if let Some(resident) = place.get() {
            return Ok(self.model(resident, artifact.batching));
        }
        let artifact = Arc::new(artifact);
        let prepared = match &self.preparing {
            None => None,
            Some(preparing) => self.prepared(preparing, content, &artifact).await?,
        };
        let source = Source::of(&artifact, prepared);
        let is_prepared = source.is_prepared();
        let resident = match self.create(content, source).await {
            // The folder of prepared models is not only ours: the file may have gone since it was found.
            Err(LoadError::Session(error @ SessionError::Rejected(_))) if is_prepared => {
                tracing::warn!(%content, "a model is loaded unprepared: its prepared form cannot be opened: {error}");
                self.create(content, Source::of(&artifact, None)).await?
            }
            resident => resident?,
        };
        let resident = Arc::new(resident);
        place.set(&resident);
        Ok(self.model(resident, artifact.batching))
    }

    /// Loads what was loaded before from `path`: its prepared form where there is one, so that the files are not needed.
    pub async fn restore(&self, path: &Path, content: ContentHash) -> Result<Model, LoadError> {
        let Some(preparing) = &self.preparing else {
            return self.load(path).await;
        };
        let (cache, files) = (Arc::clone(&preparing.cache), path.to_owned());
        let found = self.loads.run(move || {
            // What the name's manifest says is not part of the content; without the files, it says nothing.
            let batching = artifact::open(&files).ok().and_then(|artifact| artifact.batching);
            (cache.find(&content), batching)
        });
        let (found, batching) = found.await.map_err(LoadError::Pool)?;
        let Some(source) = found.and_then(Source::prepared) else {
            return self.load(path).await;
        };
        let place = self.residents.place(content);
        let mut place = place.lock().await;
        self.quarantine.check(&content)?;
        if let Some(resident) = place.get() {
            return Ok(self.model(resident, batching));
        }
        let resident = match self.create(content, source).await {
            Err(LoadError::Session(SessionError::Rejected(_))) => {
                // Gone since it was found. With the files, it can be made anew.
                drop(place);
                return self.load(path).await;
            }
            resident => Arc::new(resident?),
        };
        place.set(&resident);
        Ok(self.model(resident, batching))
    }

    fn model(&self, resident: Arc<Resident>, batching: Option<Override>) -> Model {
        let signature = resident.session.signature();
        let batching = batch::allowed(signature, batching, resident.independent_rows, self.max_batch);
        Model {
            resident,
            lane: self.compute.lane(self.queue),
            batcher: batching.map(Batcher::new),
            batches: Arc::clone(&self.batches),
            watchdog: Arc::clone(&self.watchdog),
        }
    }

    async fn create(&self, content: ContentHash, source: Source) -> Result<Resident, LoadError> {
        let (environment, budget) = (self.environment.clone(), self.budget.clone());
        let gpu = self.gpu.clone();
        // On a GPU one at a time: TensorRT chooses kernels by timing them, and many at once have crashed (onnxruntime#26610).
        let turn = match &gpu {
            None => None,
            Some(_) => Some(Arc::clone(&self.gpu_loads).lock_owned().await),
        };
        let cache = self.preparing.as_ref().map(|preparing| Arc::clone(&preparing.cache));
        self.loads
            .run(move || {
                let _mark = crash::Mark::new(content.short());
                let _turn = turn;
                let on_gpu = gpu.map(|gpu| OnGpu {
                    engines: match gpu.provider {
                        GpuProvider::Cuda => None,
                        GpuProvider::TensorRt => cache.and_then(|cache| cache.engines(&content)),
                    },
                    gpu,
                });
                let resident = Resident::create(&environment, &budget, content, &source, on_gpu.as_ref());
                if resident.is_err() {
                    // What the half-made session held is free now, but still this process's (MM-18).
                    allocator::give_back();
                }
                resident
            })
            .await
            .map_err(LoadError::Pool)?
    }

    /// What is known of the model, prepared first when that is nothing. `None` when it can only be tried.
    async fn prepared(
        &self,
        preparing: &Preparing,
        content: ContentHash,
        artifact: &Arc<Artifact>,
    ) -> Result<Option<Prepared>, LoadError> {
        let cache = Arc::clone(&preparing.cache);
        // A child tries and measures on the CPU, where it can be bounded; what it would write is not good for a GPU.
        let is_written = self.gpu.is_none();
        let found = self.loads.run(move || match cache.find(&content) {
            Some(found) => Ok(found),
            None => Err(is_written.then(|| cache.unfinished()).flatten()),
        });
        let unfinished = match found.await.map_err(LoadError::Pool)? {
            Ok(found) => return Ok(Some(found)),
            Err(unfinished) => unfinished,
        };
        let path = unfinished.as_ref().map(|unfinished| unfinished.path().to_owned());
        let findings = match self.findings(preparing, artifact, path).await {
            Ok(findings) => findings,
            Err(error) => {
                // Removes the file.
                let _ = self.files.run(move || drop(unfinished)).await;
                return match error {
                    LoadError::Prepare(PrepareError::NoChild(reason)) => {
                        tracing::warn!(%reason, "a model is loaded unprepared: there is no process to prepare it in");
                        Ok(None)
                    }
                    // Whoever tries these again does so for minutes, or in vain.
                    LoadError::Prepare(
                        error
                        @ (PrepareError::Crashed { .. } | PrepareError::TimedOut(_) | PrepareError::MemoryBomb(_)),
                    ) => {
                        self.quarantine.add(content.short(), error.to_string());
                        Err(LoadError::Prepare(error))
                    }
                    error => Err(error),
                };
            }
        };
        let cache = Arc::clone(&preparing.cache);
        let facts = artifact.facts;
        let kept = self
            .loads
            .run(move || cache.keep(&content, unfinished, findings, facts));
        kept.await.map_err(LoadError::Pool).map(Some)
    }

    /// What a child finds out about `artifact`.
    async fn findings(
        &self,
        preparing: &Preparing,
        artifact: &Artifact,
        prepared: Option<PathBuf>,
    ) -> Result<Findings, LoadError> {
        let usual =
            memory::load_estimate(artifact.facts.weights, artifact.facts.has_trees).saturating_add(prepare::SLACK);
        // What no model needs: it would be a mistake to unload the others for it.
        let most = preparing.memory.max(artifact.facts.weights.saturating_mul(10));
        let mut memory = usual.min(most);
        let budget = self.budget.clone();
        let child = preparing.preparer.start_cost();
        let reserved = self.loads.run(move || budget.load(memory.saturating_add(child), 0));
        let mut reserved = reserved.await.map_err(LoadError::Pool)??;
        loop {
            let job = Job {
                model: artifact.model.clone(),
                weights: artifact.facts.weights,
                is_ort_format: artifact.is_ort_format,
                prepared: prepared.clone(),
                memory,
                probe: true,
            };
            let error = match preparing.preparer.prepare(job).await {
                Ok(findings) => return Ok(findings),
                Err(error) => error,
            };
            let short_of_memory = match &error {
                PrepareError::Session(SessionError::OutOfMemory) => true,
                // Not every failed allocation is survived.
                PrepareError::Crashed { .. } => false,
                _ => return Err(error.into()),
            };
            if memory >= most {
                return Err(if short_of_memory {
                    PrepareError::MemoryBomb(most)
                } else {
                    error
                }
                .into());
            }
            drop(reserved);
            let (budget, least) = (self.budget.clone(), memory);
            let more = self.loads.run(move || budget.load_up_to(least, most));
            match more.await.map_err(LoadError::Pool)? {
                Some(more) => (reserved, memory) = more,
                None if short_of_memory => return Err(self.budget.no_room(memory.saturating_mul(2)).into()),
                None => return Err(error.into()),
            }
        }
    }

    /// Frees `model` and returns its memory to the system before the future ends (MM-4).
    pub async fn unload(&self, model: Model) {
        let freed = self.unloads.run(move || {
            let _mark = crash::Mark::new(model.content().short());
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
        self.budget.request(bytes)
    }

    /// Bytes for models, when the process itself and the reserve for requests have theirs.
    pub fn memory_for_models(&self) -> u64 {
        self.budget.for_models()
    }

    /// Refuses `content` (a [`ContentHash::short`]) for the reason given, under whatever name it comes.
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
            reserved: self.budget.reserved(),
        }
    }
}

impl Preparing {
    fn start(settings: &Prepare, library: Option<&Path>, gpu: Option<GpuProvider>) -> std::io::Result<Self> {
        let build = match gpu {
            None => ort::info().to_owned(),
            Some(provider) => format!("{}\n{}", ort::info(), provider.name()),
        };
        let cache = match Cache::open(&settings.folder, settings.folder_bytes, &build) {
            Ok(cache) => cache,
            Err(error @ (CacheError::Unusable { .. } | CacheError::NotOurs { .. } | CacheError::InMemory { .. })) => {
                tracing::warn!(
                    "prepared models are not kept: {error}; --cache-dir names another folder. Models take longer to load \
                     and more memory"
                );
                Cache::without_folder()
            }
        };
        Ok(Self {
            preparer: Preparer::start(&prepare::Settings {
                library: library.map(Path::to_owned),
                processes: settings.processes,
                timeout: settings.timeout,
            })?,
            cache: Arc::new(cache),
            memory: settings.memory,
        })
    }
}
