//! Options of `longshore serve`.

mod conventions;
mod effective;
mod http;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytesize::ByteSize;
use clap::builder::{BoolishValueParser, NonEmptyStringValueParser};
use clap::{ArgAction, Args, ValueEnum};

use super::{
    DurationOrOff, FetchArgs, LogFormat, LogLevel, MediaArgs, MetricsArgs, TraceArgs, at_least_one, duration,
    duration_or_off, threads,
};
use crate::manifest::Overlay;

pub use conventions::Conventions;
pub use effective::{REQUEST_TIMEOUT, default_memory_reserve};
pub use http::HttpArgs;

/// `longshore serve`.
#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    #[command(flatten)]
    pub http: HttpArgs,

    /// Serve many models, which the platform loads and unloads through /models, instead of one
    #[arg(
        long, env = "SAGEMAKER_MULTI_MODEL", value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true,
        default_value_t = false, default_missing_value = "true", value_parser = BoolishValueParser::new(),
        help_heading = "Models"
    )]
    pub multi_model: bool,

    /// Directory or file of the model in single-model mode [default: /opt/ml/model]
    #[arg(long, env = "LONGSHORE_MODEL_DIR", value_name = "PATH", help_heading = "Models")]
    pub model_dir: Option<PathBuf>,

    /// Keys of longshore.json, as JSON, that override those of the model's own file in
    /// single-model mode, e.g. '{"outputs": ["probabilities"]}'; `longshore schema` prints all
    /// keys
    #[arg(
        long, env = "LONGSHORE_MANIFEST", value_name = "JSON", value_parser = manifest, allow_hyphen_values = true,
        help_heading = "Models"
    )]
    pub manifest: Option<Arc<Overlay>>,

    /// Hugging Face task of the model in single-model mode, e.g. text-classification; requests and
    /// responses then have the form of that task's pipeline
    #[arg(long, env = "HF_TASK", value_name = "TASK", help_heading = "Models")]
    pub task: Option<String>,

    /// Name of the model in single-model mode, for paths such as /v2/models/NAME/infer
    #[arg(
        long, env = "LONGSHORE_MODEL_NAME", value_name = "NAME", default_value = "model",
        value_parser = NonEmptyStringValueParser::new(), help_heading = "Models"
    )]
    pub model_name: String,

    /// Directory below which the url of a load must lie; repeatable [default: /opt/ml/models and
    /// /opt/ml/model]
    #[arg(
        long = "models-root",
        env = "LONGSHORE_MODELS_ROOT",
        value_name = "DIR",
        value_delimiter = ':',
        help_heading = "Models"
    )]
    pub models_roots: Vec<PathBuf>,

    /// Serve the models of a store (s3://bucket/prefix, gs://, az://, https://, file:// or a
    /// directory) and load each one at its first request; the header X-Amzn-SageMaker-Target-Model
    /// of a request names its model
    #[arg(
        long,
        env = "LONGSHORE_MODEL_STORE",
        value_name = "URL",
        help_heading = "Model store"
    )]
    pub model_store: Option<String>,

    /// Reaction to a request for a model of the store while memory is full
    #[arg(long, env = "LONGSHORE_ON_FULL", value_enum, default_value_t = OnFull::Evict, help_heading = "Model store")]
    pub on_full: OnFull,

    /// Time without requests after which a model of the store is unloaded, e.g. 30min [default:
    /// never]
    #[arg(
        long, env = "LONGSHORE_IDLE_UNLOAD", value_name = "TIME", value_parser = duration, help_heading = "Model store"
    )]
    pub idle_unload: Option<Duration>,

    /// Shortest time between two checks of a model against the store; a request after this time
    /// starts a check in the background, which replaces the model if the store has a newer version
    #[arg(
        long, env = "LONGSHORE_REVALIDATE", value_name = "TIME", value_parser = duration, default_value = "5min",
        help_heading = "Model store"
    )]
    pub revalidate: Duration,

    /// Time after a failed load from the store during which the model is not tried again
    #[arg(
        long, env = "LONGSHORE_NEGATIVE_TTL", value_name = "TIME", value_parser = duration, default_value = "5s",
        help_heading = "Model store"
    )]
    pub negative_ttl: Duration,

    #[command(flatten)]
    pub fetch: FetchArgs,

    #[command(flatten)]
    pub media: MediaArgs,

    /// Time limit for an unload to wait for the model's running requests; the platform stops
    /// waiting after 360s
    #[arg(
        long, env = "LONGSHORE_UNLOAD_TIMEOUT", value_name = "TIME", value_parser = duration, default_value = "340s",
        help_heading = "Models"
    )]
    pub unload_timeout: Duration,

    /// Time for which a model is refused after a request to it has crashed the process; it doubles
    /// with each further crash, up to --bad-model-ttl
    #[arg(
        long, env = "LONGSHORE_FIRST_REFUSAL", value_name = "TIME", value_parser = duration, default_value = "1min",
        help_heading = "Models"
    )]
    pub first_refusal: Duration,

    /// Longest time for which a model that crashed a process is refused; a model that crashes
    /// during preparation is refused for this time at once
    #[arg(
        long, env = "LONGSHORE_BAD_MODEL_TTL", value_name = "TIME", value_parser = duration, default_value = "10min",
        help_heading = "Models"
    )]
    pub bad_model_ttl: Duration,

    /// Memory limit of the server, e.g. 10GiB [default: the limit of the control group, or the
    /// memory of the machine]
    #[arg(
        long,
        env = "LONGSHORE_MEMORY_LIMIT",
        value_name = "BYTES",
        help_heading = "Resources"
    )]
    pub memory_limit: Option<ByteSize>,

    /// Part of the memory limit reserved for requests, e.g. 64MiB [default: a fiftieth of the
    /// limit, at least 8MiB and at most 256MiB]
    #[arg(
        long,
        env = "LONGSHORE_MEMORY_RESERVE",
        value_name = "BYTES",
        help_heading = "Resources"
    )]
    pub memory_reserve: Option<ByteSize>,

    /// Number of models that run in parallel [default: the cores that the process may use]
    #[arg(long, env = "LONGSHORE_THREADS", value_name = "N", value_parser = threads, help_heading = "Resources")]
    pub threads: Option<usize>,

    /// Number of threads for HTTP [default: the value of --threads]
    #[arg(long, env = "LONGSHORE_HTTP_THREADS", value_name = "N", value_parser = threads, help_heading = "Resources")]
    pub http_threads: Option<usize>,

    /// Number of models that are loaded in parallel
    #[arg(
        long, env = "LONGSHORE_LOAD_THREADS", value_name = "N", value_parser = threads, default_value = "8",
        help_heading = "Resources"
    )]
    pub load_threads: usize,

    /// Largest number of requests that wait for one model; further ones get 503
    #[arg(
        long, env = "LONGSHORE_QUEUE", value_name = "N", value_parser = at_least_one, default_value = "1024",
        help_heading = "Resources"
    )]
    pub queue: usize,

    /// Time for a run to end after it is cancelled, at its deadline or when its client hangs up; a
    /// run that takes longer counts as stuck: the server replaces its thread, and its model
    /// refuses requests until the run ends
    #[arg(
        long, env = "LONGSHORE_STUCK_AFTER", value_name = "TIME", value_parser = duration, default_value = "500ms",
        help_heading = "Resources"
    )]
    pub stuck_after: Duration,

    /// Largest number of stuck runs whose threads are replaced; one more makes the supervisor
    /// replace the serving process [default: twice --threads]
    #[arg(
        long, env = "LONGSHORE_MAX_STUCK", value_name = "N", value_parser = threads, help_heading = "Resources"
    )]
    pub max_stuck: Option<usize>,

    /// Time for running requests to end before the serving process is replaced because of stuck
    /// runs
    #[arg(
        long, env = "LONGSHORE_REPLACE_TIMEOUT", value_name = "TIME", value_parser = duration, default_value = "2s",
        help_heading = "Resources"
    )]
    pub replace_timeout: Duration,

    /// Time without a heartbeat from the HTTP threads after which the supervisor kills and
    /// restarts the serving process; `off` disables this, e.g. for a debugger
    #[arg(
        long, env = "LONGSHORE_WORKER_TIMEOUT", value_name = "TIME", value_parser = duration_or_off,
        default_value = "60s", help_heading = "Resources"
    )]
    pub worker_timeout: DurationOrOff,

    /// Percentage of memory-mapped weights that counts against the memory limit, from 0 to 100; if
    /// the weights do not fit, the system reads them again from disk when they are needed
    #[arg(
        long, env = "LONGSHORE_MAPPED_WEIGHTS", value_name = "PERCENT", default_value_t = 100,
        value_parser = clap::value_parser!(u64).range(0..=100), help_heading = "Resources"
    )]
    pub mapped_weights: u64,

    /// Largest number of rows of waiting requests that run as one batch, if batching is faster; 1
    /// disables batching
    #[arg(
        long, env = "LONGSHORE_MAX_BATCH", value_name = "ROWS", value_parser = at_least_one, default_value = "32",
        help_heading = "Resources"
    )]
    pub max_batch: usize,

    /// Serve from a child process, and restart it when a request has crashed it
    #[arg(
        long, env = "LONGSHORE_SUPERVISE", value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true,
        default_value_t = true, default_missing_value = "true", value_parser = BoolishValueParser::new(),
        help_heading = "Resources"
    )]
    pub supervise: bool,

    /// Let the system write a core dump of a crashed process, which delays the restart
    #[arg(
        long, env = "LONGSHORE_CORE_DUMPS", value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true,
        default_value_t = false, default_missing_value = "true", value_parser = BoolishValueParser::new(),
        help_heading = "Resources"
    )]
    pub core_dumps: bool,

    /// Path of the ONNX Runtime library [default: next to the executable, in ../lib or
    /// ../libexec/longshore, or where scripts/onnxruntime installs it]
    #[arg(long, env = "ORT_DYLIB_PATH", value_name = "FILE", help_heading = "Resources")]
    pub onnxruntime: Option<PathBuf>,

    /// Path of a library with custom operators for ONNX Runtime, e.g. ONNX Runtime Extensions; its
    /// code runs inside this server; repeatable [default: none]
    #[arg(
        long,
        env = "LONGSHORE_OPERATORS",
        value_name = "LIBRARY",
        value_delimiter = ':',
        help_heading = "Resources"
    )]
    pub operators: Vec<PathBuf>,

    /// Execution provider of the models; cuda and tensorrt need a GPU build of ONNX Runtime
    #[arg(long, env = "LONGSHORE_PROVIDER", value_enum, default_value_t = Provider::Cpu, help_heading = "GPU")]
    pub provider: Provider,

    /// Number of the GPU among those that CUDA shows to the process
    #[arg(
        long,
        env = "LONGSHORE_DEVICE",
        value_name = "N",
        default_value_t = 0,
        help_heading = "GPU"
    )]
    pub device: u16,

    /// GPU memory limit for all models together, e.g. 8GiB, without CUDA's own memory [default: no
    /// limit]
    #[arg(long, env = "LONGSHORE_GPU_MEMORY_LIMIT", value_name = "BYTES", help_heading = "GPU")]
    pub gpu_memory_limit: Option<ByteSize>,

    /// Whether a new model is prepared in a separate process, which tests it, measures its memory
    /// and writes it in a form that the server can map into memory
    #[arg(long, env = "LONGSHORE_PREPARE", value_enum, default_value_t = Prepare::Auto, help_heading = "Preparation")]
    pub prepare: Prepare,

    /// Number of models that are prepared in parallel [default: the value of --threads, at most 4]
    #[arg(
        long, env = "LONGSHORE_PREPARE_PROCESSES", value_name = "N", value_parser = threads,
        help_heading = "Preparation"
    )]
    pub prepare_processes: Option<usize>,

    /// Time limit for the preparation of a model; a model that takes longer is refused
    #[arg(
        long, env = "LONGSHORE_PREPARE_TIMEOUT", value_name = "TIME", value_parser = duration, default_value = "60s",
        help_heading = "Preparation"
    )]
    pub prepare_timeout: Duration,

    /// Memory limit for the preparation of a model; a large model may use up to ten times its
    /// weights instead
    #[arg(
        long,
        env = "LONGSHORE_PREPARE_MEMORY",
        value_name = "BYTES",
        default_value = "1GiB",
        help_heading = "Preparation"
    )]
    pub prepare_memory: ByteSize,

    /// Directory for prepared models and models from a store; several servers may share it, and it
    /// may be deleted [default: longshore-UID in the directory for temporary files]
    #[arg(long, env = "LONGSHORE_CACHE_DIR", value_name = "DIR", help_heading = "Preparation")]
    pub cache_dir: Option<PathBuf>,

    /// Disk space for prepared models; the least recently used ones are deleted first
    #[arg(
        long,
        env = "LONGSHORE_CACHE_SIZE",
        value_name = "BYTES",
        default_value = "10GiB",
        help_heading = "Preparation"
    )]
    pub cache_size: ByteSize,

    /// Size from which a constant of a model is kept in a file of its own and shared by all models
    /// that contain it; 0 keeps each prepared model in one file
    #[arg(
        long,
        env = "LONGSHORE_SHARED_CONSTANTS",
        value_name = "BYTES",
        default_value = "64KiB",
        help_heading = "Preparation"
    )]
    pub shared_constants: ByteSize,

    /// Format of the log on standard error
    #[arg(long, env = "LONGSHORE_LOG_FORMAT", value_enum, default_value_t = LogFormat::Auto, help_heading = "Log")]
    pub log_format: LogFormat,

    /// Least severe level that is logged: off, error, warn, info, debug or trace, or Python's 10
    /// to 50; levels of single modules may follow, e.g. info,store=debug
    #[arg(
        long,
        env = "SAGEMAKER_CONTAINER_LOG_LEVEL",
        value_name = "LEVEL",
        default_value = "info",
        help_heading = "Log"
    )]
    pub log_level: LogLevel,

    #[command(flatten)]
    pub traces: TraceArgs,

    #[command(flatten)]
    pub telemetry: MetricsArgs,

    #[command(flatten)]
    pub conventions: Conventions,
}

/// `--provider`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Provider {
    Cpu,
    /// CUDA if there is a usable GPU, otherwise the CPU with a warning
    Auto,
    Cuda,
    /// TensorRT, with CUDA for operators that TensorRT does not implement
    Tensorrt,
}

/// `--on-full`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OnFull {
    /// Unload other models, the least recently used first
    Evict,
    /// Answer 507
    Refuse,
}

/// `--prepare`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Prepare {
    /// Prepare each model at its first load
    Auto,
    /// Load each model as it is, so that its first request does not wait, and prepare it while it
    /// serves; a model that crashes at its load or in its first run then ends the serving process
    Later,
    /// Load the uploaded files directly; a model that crashes then ends the server
    Off,
}

/// Parses keys of a manifest.
fn manifest(text: &str) -> Result<Arc<Overlay>, String> {
    Overlay::parse(text).map(Arc::new).map_err(|error| error.to_string())
}
