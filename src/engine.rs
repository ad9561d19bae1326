//! Loaded models: turns files into sessions, admits them by memory, and runs them fairly.
//!
//! [`Engine::load`] turns an artifact into a [`Model`] or reports why it cannot. [`Model::answer`]
//! answers a request, and [`Engine::unload`] frees the memory. The module `catalog` owns the names
//! of models; `codec` owns the bytes of requests and responses. [`Examiner`] inspects artifacts
//! without serving them.
//!
//! Invariants:
//! - The memory of an existing model is reserved.
//! - A failed load leaves nothing behind.
//! - Loads, unloads, and all runs that are not expected to be short (`placement.rs`) use other
//!   threads than those that answer HTTP.

mod load;
mod memory;
mod onnxruntime;
mod run;
#[cfg(test)]
pub mod testing;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;

pub use load::adapter::AdapterError;
pub use load::artifact::{ArtifactError, ArtifactPath, FoundBy};
pub use load::axes::{Axes, OutputAxis};
pub use load::constants::SharedMemory;
pub use load::content::ContentHash;
pub use load::examine::{Examination, ExamineBounds, ExaminedConstant, ExaminedModel, Examiner, Packing};
pub use load::later::ModelToPrepare;
pub use load::onnx_file::OnnxHeader;
pub use load::packed::{
    DESCRIPTION as PACKED_DESCRIPTION, FOLDER as PACKED_FOLDER, MODEL as PACKED_MODEL, PackedDescription,
};
pub use load::prepare::{COMMAND as PREPARE_COMMAND, Findings, Platform, PrepareError, hide, run_child};
pub use load::preparing::PrepareConfig;
pub use load::quarantine::Quarantined;
#[cfg(test)]
pub use memory::allocator::with_peak;
pub use memory::{
    Footprint, ForecastConfig, ForecastLoad, LoadReservation, MemoryForecast, MemoryLimit, MemoryUsage, ModelCost,
    ModelReservation, NoRoom, RequestMemory, Reserved, raise_open_files, system_limit,
};
pub use onnxruntime::gpu::{Gpu, GpuProvider};
pub use onnxruntime::raw::{disable_telemetry, exit_now};
pub use onnxruntime::runtime::{LIBRARY_VARIABLE, Libraries, RuntimeError};
pub use onnxruntime::session::{RunError, SessionError};
pub use run::batch::{Batching, BatchingEvidence, NoBatching, decide as decide_batching};
pub use run::crash::{CrashReport, report_to as report_crashes_to};
pub use run::model::{LoadedMemory, Model, RequestBudget, Work};
pub use run::pool::PoolError;
pub use run::profile::{ProfileError, Profiler};
pub use run::stuck::{Culprit, Standing, StuckCounts, StuckLimits};

use load::adapter::Adapter;
use load::artifact::{self, Processor};
use load::constants::ConstantFiles;
use load::preparing::Preparing;
use load::quarantine::Quarantine;
use load::resident::Residents;
use load::second::SecondSessions;
use load::workplace::Workplace;
use memory::{Budget, BudgetConfig, DataLimit, Replacement, allocator};
use onnxruntime::runtime::{self, Environment};
use run::crash;
use run::pool::{DEFAULT_STACK, Lane, Pool, Threads};
use run::stuck::Stuck;
use run::turn::PendingRequest;
use run::watchdog::Watchdog;

use crate::manifest::Overlay;
use crate::shared::SharedMap;
use crate::telemetry::recorder::Recorder;

/// Stack size of load threads. ONNX Runtime walks nested functions and subgraphs by recursion:
/// 5,000 levels, in a file of 300 KB, overflow 8 MiB.
const LOAD_STACK: usize = 256 << 20;

/// Niceness of loads and unloads, which yield to requests: they get about a third of the share of a
/// busy request thread. With much less, a load on a saturated machine would exceed the platform's
/// limit of one minute.
const LOAD_NICE: i32 = 5;

/// The configuration of an [`Engine`].
#[derive(Debug, Clone)]
pub struct EngineConfig {
    pub libraries: Libraries,
    /// The GPU that runs models; `None` for the CPU.
    pub gpu: Option<Gpu>,
    /// Concurrent runs, and threads of ONNX Runtime's pool.
    pub threads: usize,
    /// Concurrent loads.
    pub load_threads: usize,
    /// Maximum number of requests that wait for one model.
    pub queue: usize,
    /// Maximum number of rows in a batch; 1 disables batching.
    pub max_batch: usize,
    /// Manifest keys that take precedence over those of the artifacts' manifests.
    pub manifest: Option<Arc<Overlay>>,
    /// Bytes for the whole process, and where to read how much is used; `None` for no limit.
    pub memory: Option<MemoryLimit>,
    /// Bytes of this limit that are kept free for requests.
    pub memory_reserve: u64,
    /// Percent of mapped weights that must fit into memory.
    pub mapped_percent: u64,
    /// Number of HTTP threads, which run short models themselves.
    pub http_threads: usize,
    /// Time that a load that does not fit waits for loads in progress, which reserve more than they
    /// need in the end.
    pub load_patience: Duration,
    /// The preparation of unknown models; `None` loads them without preparation.
    pub prepare: Option<PrepareConfig>,
    /// Preferred folder for private copies of models during a load.
    pub workplace: PathBuf,
    /// Time for which harmful content is refused.
    pub bad_model_ttl: Duration,
    /// Limits of runs that do not end after they were cancelled.
    pub stuck: StuckLimits,
    /// Counts what requests do.
    pub recorder: Arc<Recorder>,
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    #[error("failed to configure the allocator: {0}")]
    Allocator(String),
    #[error("failed to start the engine's threads")]
    Threads(#[from] std::io::Error),
}

/// Reason why an artifact did not become a model.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error("the adapter {file:?} cannot be used: {source}")]
    Adapter {
        file: String,
        #[source]
        source: Box<AdapterError>,
    },
    #[error(transparent)]
    Quarantined(#[from] Quarantined),
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    #[error("failed to load the model: {0}")]
    Pool(PoolError),
}

/// Reason why a request to a model has no answer.
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
         try again when they have ended",
        unfinished_runs(*.runs)
    )]
    Stuck { name: String, runs: usize },
}

fn unfinished_runs(runs: usize) -> String {
    match runs {
        1 => "one of its runs continues".to_owned(),
        runs => format!("{runs} of its runs continue"),
    }
}

/// Loads, runs and unloads models.
#[derive(Debug)]
pub struct Engine {
    environment: Environment,
    gpu: Option<Arc<Gpu>>,
    /// Locked while a session is created on a GPU.
    gpu_loads: Arc<tokio::sync::Mutex<()>>,
    budget: Budget,
    quarantine: Arc<Quarantine>,
    /// Content that serves without having been prepared, because that failed.
    unpreparable: Quarantine,
    queue: usize,
    max_batch: usize,
    overlay: Option<Arc<Overlay>>,
    recorder: Arc<Recorder>,
    compute: Pool<PendingRequest>,
    watchdog: Arc<Watchdog>,
    stuck: Arc<Stuck>,
    residents: Residents,
    constants: Arc<ConstantFiles>,
    second_sessions: Arc<SecondSessions>,
    /// Adapters by the hash of their files.
    adapters: SharedMap<blake3::Hash, Adapter>,
    preparing: Option<Preparing>,
    platform: Arc<Platform>,
    /// Folders for private copies of models.
    workplace: Arc<Workplace>,
    loads: Lane,
    unloads: Lane,
    files: Lane,
    bodies: Lane,
    // The lanes above use these pools, whose threads stop when the pools are dropped.
    _load_threads: Pool,
    _unload_threads: Pool,
    _lively_threads: Pool,
    _file_threads: Pool,
    _body_threads: Pool,
}

/// Current load of the engine, for metrics.
#[derive(Debug, Clone, Copy)]
pub struct EngineLoad {
    pub running: usize,
    pub waiting: usize,
    /// Number of compute threads.
    pub threads: usize,
    pub stuck: StuckCounts,
    pub reserved: Reserved,
    pub constants: SharedMemory,
}

impl Engine {
    /// Loads ONNX Runtime and starts the threads. Call it once per process.
    pub fn start(config: &EngineConfig) -> Result<Self, StartError> {
        allocator::configure().map_err(|error| StartError::Allocator(error.to_string()))?;
        let (environment, gpu) = runtime::start(&config.libraries, config.threads, config.gpu.clone())?;
        let pool = |cores, stack, nice| Threads {
            cores,
            spare: 0,
            stack,
            arena: None,
            nice,
            is_batch: false,
        };
        let models = allocator::Arena::new().map_err(|error| StartError::Allocator(error.to_string()))?;
        let model_pool = |cores| Threads {
            arena: Some(models),
            ..pool(cores, LOAD_STACK, LOAD_NICE)
        };
        let compute = Pool::start(
            "compute",
            Threads {
                spare: config.threads,
                // The threads that read requests and write answers come first: what they do is
                // short, and gives this pool its next work.
                is_batch: true,
                ..pool(config.threads, DEFAULT_STACK, 0)
            },
        )?;
        let load_threads = Pool::start("load", model_pool(config.load_threads))?;
        // Unloads only free memory. They have their own thread, so that slow loads do not delay
        // them when the platform wants memory back.
        let unload_threads = Pool::start("unload", model_pool(1))?;
        // A session's threads inherit the niceness of the thread that creates it.
        let lively_threads = Pool::start(
            "second",
            Threads {
                nice: 0,
                ..model_pool(1)
            },
        )?;
        let file_threads = Pool::start("files", pool(2, DEFAULT_STACK, 0))?;
        let body_threads = Pool::start("bodies", pool(config.threads, DEFAULT_STACK, 0))?;
        let stuck = Stuck::watch(config.stuck)?;
        let watchdog = Arc::new(Watchdog::start(Arc::clone(&stuck))?);
        let provider = gpu.as_ref().map(|gpu| gpu.provider.name());
        let platform = Arc::new(Platform::here(ort::info(), provider, environment.operators()));
        let workplace = Arc::new(Workplace::choose(
            &config.workplace,
            // A child maps them. The serving process counts what it maps from a prepared form only.
            config.prepare.is_some() && gpu.is_none(),
        ));
        let preparing = match &config.prepare {
            None => None,
            Some(prepare) => Some(Preparing::start(prepare, &config.libraries, &platform)?),
        };
        // Last, so that the mappings of the threads above do not count against models and requests.
        let data_bound = DataLimit::new(config.memory.as_ref().map(|limit| limit.bytes))?;
        let budget = BudgetConfig {
            limit: config.memory.clone(),
            reserve: config.memory_reserve,
            mapped_percent: config.mapped_percent,
            load_patience: config.load_patience,
            runs: (2 * config.threads + config.http_threads) as u64,
        };
        let budget = Budget::new(budget, data_bound, memory::resident_anonymous());
        let constants = Arc::<ConstantFiles>::default();
        Ok(Self {
            second_sessions: SecondSessions::new(
                environment.clone(),
                budget.clone(),
                Arc::clone(&constants),
                [load_threads.lane(usize::MAX), lively_threads.lane(usize::MAX)],
                config.threads.min(available_parallelism().map_or(1, NonZeroUsize::get)),
            ),
            environment,
            gpu: gpu.map(Arc::new),
            gpu_loads: Arc::default(),
            budget,
            quarantine: Arc::new(Quarantine::new(config.bad_model_ttl)),
            unpreparable: Quarantine::new(config.bad_model_ttl),
            queue: config.queue,
            max_batch: config.max_batch,
            overlay: config.manifest.clone(),
            recorder: Arc::clone(&config.recorder),
            loads: load_threads.lane(usize::MAX),
            unloads: unload_threads.lane(usize::MAX),
            compute,
            watchdog,
            stuck,
            residents: Residents::default(),
            constants,
            adapters: SharedMap::default(),
            preparing,
            platform,
            workplace,
            files: file_threads.lane(usize::MAX),
            _load_threads: load_threads,
            _unload_threads: unload_threads,
            _lively_threads: lively_threads,
            _file_threads: file_threads,
            bodies: body_threads.lane(usize::MAX),
            _body_threads: body_threads,
        })
    }

    /// Frees `model` and returns its memory to the system before the future ends (MM-4). Returns
    /// the bytes that no other model uses.
    pub async fn unload(&self, model: Model) -> u64 {
        let bytes = model.frees();
        let freed = self.unloads.run(move || {
            let _mark = crash::CrashMarker::new(model.content().short());
            drop(model);
            allocator::give_back();
        });
        if let Err(error) = freed.await {
            tracing::error!(%error, "failed to unload a model");
        }
        bytes
    }

    /// Runs `work`, which blocks on a file system, on a thread that may block.
    pub async fn with_files<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, PoolError> {
        self.files.run(work).await
    }

    /// Runs `work` on a whole body, such as its decompression, on a thread that may block. The
    /// threads exist from the start, because near the memory limit none can be started.
    pub async fn with_bodies<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, PoolError> {
        self.bodies.run(work).await
    }

    /// Reserves memory for a request's body. The memory for its run is reserved when it runs.
    pub fn reserve_body(&self, bytes: u64) -> Result<RequestMemory, NoRoom> {
        self.budget.request_now(bytes)
    }

    /// Reserves memory for data that models share, such as a tokenizer: `peak` bytes while it is
    /// created, then `resident` bytes. Waits for loads in progress: call it on a thread that may
    /// block.
    pub fn reserve_shared(&self, peak: u64, resident: u64) -> Result<LoadReservation, NoRoom> {
        self.budget.load(&memory::LoadRequest {
            peak,
            private: resident,
            mapped: 0,
            replacement: Replacement::default(),
        })
    }

    /// Keeps `bytes`, a side file of a model such as its tokenizer, so that the model can be loaded
    /// again without its artifact. Blocks on the disk.
    pub fn keep_side_file(&self, hash: &blake3::Hash, bytes: &[u8]) {
        if let Some(preparing) = &self.preparing {
            preparing.cache.keep_side_file(hash, bytes);
        }
    }

    /// Finds the side file with this `hash`: the kept one, or `file` of the artifact at `path` if
    /// that has not changed. Blocks on the disk.
    pub fn side_file(&self, hash: &blake3::Hash, path: &ArtifactPath, file: &str) -> Option<Vec<u8>> {
        let kept = self
            .preparing
            .as_ref()
            .and_then(|preparing| preparing.cache.side_file(hash));
        kept.or_else(|| artifact::side_file(path, file, hash, artifact::MAX_TOKENIZER_BYTES))
    }

    /// Runs `work` on a load thread.
    pub async fn with_loads<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, PoolError> {
        self.loads.run(work).await
    }

    /// Bytes of the limit that models may still take; `None` without a limit.
    pub fn free_memory(&self) -> Option<u64> {
        self.budget.free()
    }

    /// Bytes for models: the limit without the process's base and the request reserve.
    pub fn memory_for_models(&self) -> u64 {
        self.budget.for_models()
    }

    /// Refuses `content` (a [`ContentHash::short`]) with this reason, whatever its name.
    pub fn refuse(&self, content: u64, reason: String, remaining: Duration) {
        self.quarantine.add_for(content, reason, remaining);
    }

    /// Fails if `content` is quarantined.
    pub fn check(&self, content: &ContentHash) -> Result<(), Quarantined> {
        self.quarantine.check(content)
    }

    pub fn current_load(&self) -> EngineLoad {
        let (running, waiting) = self.compute.load();
        EngineLoad {
            running,
            waiting,
            threads: self.compute.cores(),
            stuck: self.stuck.counts(),
            reserved: self.budget.reserved(),
            constants: self.constants.memory(),
        }
    }

    /// Bytes of prepared models on disk, as far as this process knows; `None` without a folder.
    pub fn prepared_bytes(&self) -> Option<u64> {
        self.preparing.as_ref()?.cache.disk_bytes()
    }

    /// Private bytes of this process in memory.
    pub fn process_bytes(&self) -> u64 {
        memory::resident_anonymous()
    }

    /// Prepares the profile of a run of `model`. Blocks on a file system.
    pub fn profiler(&self, model: &Model) -> Result<Profiler, ProfileError> {
        Profiler::new(self.workplace.folder(), model)
    }

    /// Waits until stuck runs use so many threads that this process cannot serve other models as
    /// before. Returns the contents of these runs.
    pub async fn too_many_stuck(&self) -> Vec<Culprit> {
        self.stuck.too_many().await
    }
}

/// Whether `path` holds something that is meant to be a model, valid or not.
pub fn is_artifact(path: &Path) -> bool {
    !matches!(
        artifact::open(&ArtifactPath::trusted(path), Processor::Cpu),
        Err(ArtifactError::NoModel { .. }
            | ArtifactError::Ambiguous { .. }
            | ArtifactError::SeveralGraphs { .. }
            | ArtifactError::Missing { .. })
    )
}
