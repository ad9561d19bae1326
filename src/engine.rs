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
mod knee;
mod memory;
mod model;
mod onnx_file;
mod placement;
mod pool;
mod raw;
mod runtime;
mod session;
mod turn;
mod watchdog;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

pub use artifact::ArtifactError;
pub use content::ContentHash;
pub use memory::{NoRoom, raise_open_files, system_limit};
pub use model::{Model, Work};
use ort::environment::Environment;
pub use pool::PoolError;
pub use raw::{disable_telemetry, exit_now};
pub use runtime::{LIBRARY_VARIABLE, RuntimeError};
pub use session::{RunError, SessionError};

use memory::{Budget, Estimate, Reservation};
use placement::Pace;
use pool::{DEFAULT_STACK, Lane, Pool, Threads};
use session::Session;
use turn::{Batcher, Batches, Pending};
use watchdog::Watchdog;

/// ONNX Runtime walks nested functions and subgraphs by recursion: 5,000 levels, in a file of 300 KB, overrun 8 MiB.
const LOAD_STACK: usize = 256 << 20;

/// What an engine is started with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// ONNX Runtime's library, when it is named explicitly.
    pub library: Option<PathBuf>,
    /// Runs at once, and threads of ONNX Runtime's pool.
    pub threads: usize,
    /// Loads at once.
    pub load_threads: usize,
    /// Requests that may wait for one model.
    pub queue: usize,
    /// Rows of requests that may run together; 1 for no batches.
    pub max_batch: usize,
    /// Bytes for models in all, and for what the process itself takes at its start.
    pub memory: u64,
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
    NoRoom(#[from] NoRoom),
    #[error("the model could not be loaded: {0}")]
    Pool(PoolError),
}

/// Why a request to a model has no answer.
#[derive(Debug, thiserror::Error)]
pub enum InferenceError {
    #[error(transparent)]
    Run(#[from] RunError),
    #[error(transparent)]
    Pool(#[from] PoolError),
}

/// Loads, runs and unloads models.
#[derive(Debug)]
pub struct Engine {
    environment: Environment,
    budget: Budget,
    queue: usize,
    max_batch: usize,
    batches: Arc<Batches>,
    compute: Pool<Pending>,
    watchdog: Arc<Watchdog>,
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
    pub memory_reserved: u64,
    pub memory_limit: u64,
}

impl Engine {
    /// Loads ONNX Runtime and starts the threads. Once per process.
    pub fn start(settings: &Settings) -> Result<Self, StartError> {
        allocator::configure().map_err(|error| StartError::Allocator(error.to_string()))?;
        let environment = runtime::start(settings.library.as_deref(), settings.threads)?;
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
        // Last: what the threads above have mapped is not to count against models and requests.
        if settings.memory != u64::MAX {
            memory::enforce(settings.memory)?;
        }
        Ok(Self {
            environment,
            budget: Budget::new(settings.memory.saturating_sub(memory::resident_anonymous())),
            queue: settings.queue,
            max_batch: settings.max_batch,
            batches: Arc::default(),
            loads: load_threads.lane(usize::MAX),
            unloads: unload_threads.lane(usize::MAX),
            compute,
            watchdog,
            files: file_threads.lane(usize::MAX),
            _load_threads: load_threads,
            _unload_threads: unload_threads,
            _file_threads: file_threads,
        })
    }

    /// Loads the artifact at `path`, a directory or a model file.
    pub async fn load(&self, path: &Path) -> Result<Model, LoadError> {
        let (environment, budget, path) = (self.environment.clone(), self.budget.clone(), path.to_owned());
        let max_batch = self.max_batch;
        let (content, session, reservation, pace, batcher) = self
            .loads
            .run(move || {
                let loaded = load(&environment, &budget, &path, max_batch);
                if loaded.is_err() {
                    // What the half-made session held is free now, but still this process's (MM-18).
                    allocator::give_back();
                }
                loaded
            })
            .await
            .map_err(LoadError::Pool)??;
        Ok(Model {
            content,
            session,
            reservation,
            lane: self.compute.lane(self.queue),
            pace,
            batcher,
            batches: Arc::clone(&self.batches),
            watchdog: Arc::clone(&self.watchdog),
        })
    }

    /// Frees `model` and returns its memory to the system before the future ends (MM-4).
    pub async fn unload(&self, model: Model) {
        let freed = self.unloads.run(move || {
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

    pub fn load_now(&self) -> EngineLoad {
        let (running, waiting) = self.compute.load();
        EngineLoad {
            running,
            waiting,
            batches: self.batches.runs.load(Ordering::Relaxed),
            batched_requests: self.batches.requests.load(Ordering::Relaxed),
            memory_reserved: self.budget.reserved(),
            memory_limit: self.budget.limit(),
        }
    }
}

type Loaded = (ContentHash, Session, Reservation, Pace, Option<Batcher>);

fn load(environment: &Environment, budget: &Budget, path: &Path, max_batch: usize) -> Result<Loaded, LoadError> {
    let artifact = artifact::open(path)?;
    let content = artifact.hash()?;
    let estimate = Estimate::of(artifact.weights, artifact.has_trees);
    let mut reservation = budget.reserve(estimate.peak)?;
    let before = allocator::thread_balance();
    let session = Session::open(environment, &artifact.model, artifact.weights)?;
    let taken = u64::try_from(allocator::thread_balance() - before).unwrap_or(0);
    reservation.correct(memory::footprint(taken))?;
    let pace = Pace::default();
    if artifact.has_unbounded_work {
        pace.distrust();
    }
    // No probe has looked at the model.
    let batching = batch::allowed(session.signature(), artifact.batching, None, max_batch);
    Ok((content, session, reservation, pace, batching.map(Batcher::new)))
}
