//! The knobs of `longshore serve`.

mod conventions;
mod effective;

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytesize::ByteSize;
use clap::builder::{BoolishValueParser, NonEmptyStringValueParser};
use clap::{ArgAction, Args, ValueEnum};

use super::{FetchArgs, MediaArgs, OrOff, at_least_one, duration, duration_or_off, origin, threads};
use crate::manifest::Overlay;
use crate::telemetry::{LogFormat, LogLevel};

pub use conventions::Conventions;

/// `longshore serve`.
#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    /// Address to listen on; never loopback under SageMaker
    #[arg(long, env = "LONGSHORE_BIND", value_name = "ADDRESS", default_value_t = IpAddr::V4(Ipv4Addr::UNSPECIFIED), help_heading = "HTTP")]
    pub bind: IpAddr,

    /// Close connections over the loopback interface that are of another user of this machine,
    /// except root's
    #[arg(
        long, env = "LONGSHORE_ONLY_THIS_USER", value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1,
        require_equals = true, default_value_t = false, default_missing_value = "true",
        value_parser = BoolishValueParser::new(), help_heading = "HTTP"
    )]
    pub only_this_user: bool,

    /// Port of all routes; 0 takes a free one and logs it
    #[arg(long, env = "SAGEMAKER_BIND_TO_PORT", default_value_t = 8080, help_heading = "HTTP")]
    pub port: u16,

    /// Largest request body, e.g. 25MiB [default: 25MiB, in batch transform 100MiB]
    #[arg(long, env = "LONGSHORE_MAX_BODY", value_name = "BYTES", help_heading = "HTTP")]
    pub max_body: Option<ByteSize>,

    /// Least size of a reply that is compressed for clients whose Accept-Encoding has gzip or zstd,
    /// e.g. 64KiB. Never unless given: SageMaker does not ask for it, and a client on a fast
    /// network waits longer for it
    #[arg(long, env = "LONGSHORE_COMPRESS_ABOVE", value_name = "BYTES", help_heading = "HTTP")]
    pub compress_above: Option<ByteSize>,

    /// Largest sum of a request's header names and values
    #[arg(
        long,
        env = "LONGSHORE_MAX_HEADERS",
        value_name = "BYTES",
        default_value = "32KiB",
        help_heading = "HTTP"
    )]
    pub max_headers: ByteSize,

    /// Connections at a time; at the limit the longest idle ones are closed for new ones [default:
    /// the limit of open files less 128, or half of it]
    #[arg(
        long, env = "LONGSHORE_MAX_CONNECTIONS", value_name = "N", value_parser = at_least_one, help_heading = "HTTP"
    )]
    pub max_connections: Option<usize>,

    /// Connections that are kept for health checks when requests take all others [default: one in
    /// 16, at most 16]
    #[arg(
        long,
        env = "LONGSHORE_RESERVED_CONNECTIONS",
        value_name = "N",
        help_heading = "HTTP"
    )]
    pub reserved_connections: Option<usize>,

    /// Time for a request from its head to its answer, queueing included [default: 58s, in batch
    /// transform 3598s]
    #[arg(long, env = "LONGSHORE_REQUEST_TIMEOUT", value_name = "TIME", value_parser = duration, help_heading = "HTTP")]
    pub request_timeout: Option<Duration>,

    /// Time for a client to send a request's head
    #[arg(
        long, env = "LONGSHORE_HEADER_TIMEOUT", value_name = "TIME", value_parser = duration, default_value = "10s",
        help_heading = "HTTP"
    )]
    pub header_timeout: Duration,

    /// Time for a client to send a whole request, its body included; each --body-rate bytes add a
    /// second
    #[arg(
        long, env = "LONGSHORE_BODY_TIMEOUT", value_name = "TIME", value_parser = duration, default_value = "20s",
        help_heading = "HTTP"
    )]
    pub body_timeout: Duration,

    /// Bytes of a body that give its client one more second
    #[arg(
        long,
        env = "LONGSHORE_BODY_RATE",
        value_name = "BYTES",
        default_value = "16KiB",
        help_heading = "HTTP"
    )]
    pub body_rate: ByteSize,

    /// Time for a client to send a request when no connection is left, and while the server stops.
    /// The two times above shrink to it from half of the connections on
    #[arg(
        long, env = "LONGSHORE_PRESSURE_TIMEOUT", value_name = "TIME", value_parser = duration,
        default_value = "500ms", help_heading = "HTTP"
    )]
    pub pressure_timeout: Duration,

    /// Time for a client to take more of what it is sent; then it is disconnected
    #[arg(
        long, env = "LONGSHORE_WRITE_TIMEOUT", value_name = "TIME", value_parser = duration, default_value = "60s",
        help_heading = "HTTP"
    )]
    pub write_timeout: Duration,

    /// Time that an idle connection is kept open
    #[arg(
        long, env = "LONGSHORE_KEEP_ALIVE", value_name = "TIME", value_parser = duration, default_value = "90s",
        help_heading = "HTTP"
    )]
    pub keep_alive: Duration,

    /// Time for requests to end after SIGTERM; those left get 503. SageMaker kills after 30s
    #[arg(
        long, env = "LONGSHORE_DRAIN_TIMEOUT", value_name = "TIME", value_parser = duration, default_value = "25s",
        help_heading = "HTTP"
    )]
    pub drain_timeout: Duration,

    /// Origins of pages in browsers that are served, such as `https://app.example.com`, or * for
    /// all; repeatable [default: none]
    #[arg(
        long = "allow-origin",
        env = "LONGSHORE_ALLOW_ORIGIN",
        value_name = "ORIGIN",
        value_delimiter = ',',
        value_parser = origin,
        help_heading = "HTTP"
    )]
    pub allow_origins: Vec<String>,

    /// Names that requests may call this server by when it listens on a loopback address, or * for
    /// all; repeatable [default: localhost and the loopback addresses]
    #[arg(
        long = "allow-host",
        env = "LONGSHORE_ALLOW_HOST",
        value_name = "HOST",
        value_delimiter = ',',
        help_heading = "HTTP"
    )]
    pub allow_hosts: Vec<String>,

    /// Media type of requests without a Content-Type
    #[arg(
        long,
        env = "LONGSHORE_DEFAULT_CONTENT_TYPE",
        value_name = "TYPE",
        default_value = "application/json",
        help_heading = "HTTP"
    )]
    pub default_content_type: String,

    /// Media type of replies when Accept is absent or */*
    #[arg(
        long,
        env = "SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT",
        value_name = "TYPE",
        default_value = "application/json",
        help_heading = "HTTP"
    )]
    pub default_accept: String,

    /// Serve many models, loaded and unloaded through /models, rather than one
    #[arg(
        long, env = "SAGEMAKER_MULTI_MODEL", value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true,
        default_value_t = false, default_missing_value = "true", value_parser = BoolishValueParser::new(),
        help_heading = "Models"
    )]
    pub multi_model: bool,

    /// The one model's directory or file [default: /opt/ml/model]
    #[arg(long, env = "LONGSHORE_MODEL_DIR", value_name = "PATH", help_heading = "Models")]
    pub model_dir: Option<PathBuf>,

    /// Keys of longshore.json, as JSON, that count more than those of the one model's own file,
    /// e.g. '{"outputs": ["probabilities"]}'; `longshore schema` prints which there are
    #[arg(
        long, env = "LONGSHORE_MANIFEST", value_name = "JSON", value_parser = manifest, allow_hyphen_values = true,
        help_heading = "Models"
    )]
    pub manifest: Option<Arc<Overlay>>,

    /// The task of the one model, as Hugging Face names it, e.g. text-classification: requests are
    /// answered as its pipeline answers them
    #[arg(long, env = "HF_TASK", value_name = "TASK", help_heading = "Models")]
    pub task: Option<String>,

    /// What the one model is called by those who ask for it by name, as in /v2/models/NAME/infer
    #[arg(
        long, env = "LONGSHORE_MODEL_NAME", value_name = "NAME", default_value = "model",
        value_parser = NonEmptyStringValueParser::new(), help_heading = "Models"
    )]
    pub model_name: String,

    /// The only places that a load's url may point to; repeatable [default: /opt/ml/models and
    /// /opt/ml/model]
    #[arg(
        long = "models-root",
        env = "LONGSHORE_MODELS_ROOT",
        value_name = "DIR",
        value_delimiter = ':',
        help_heading = "Models"
    )]
    pub models_roots: Vec<PathBuf>,

    /// Serve the models of a store, each loaded when it is asked for: s3://bucket/prefix, gs://,
    /// az://, https://, file://, or a directory. A request names its model by the header
    /// X-Amzn-SageMaker-Target-Model
    #[arg(
        long,
        env = "LONGSHORE_MODEL_STORE",
        value_name = "URL",
        help_heading = "Model store"
    )]
    pub model_store: Option<String>,

    /// What happens when a model of the store is asked for and memory is full: others go, longest
    /// unused first, or the request gets 507
    #[arg(long, env = "LONGSHORE_ON_FULL", value_enum, default_value_t = OnFull::Evict, help_heading = "Model store")]
    pub on_full: OnFull,

    /// Time without requests after which a model of the store is unloaded [default: never]
    #[arg(
        long, env = "LONGSHORE_IDLE_UNLOAD", value_name = "TIME", value_parser = duration, help_heading = "Model store"
    )]
    pub idle_unload: Option<Duration>,

    /// Time for which a model is not looked up in the store again; then it is, beside the requests,
    /// and a newer one takes its place
    #[arg(
        long, env = "LONGSHORE_REVALIDATE", value_name = "TIME", value_parser = duration, default_value = "5min",
        help_heading = "Model store"
    )]
    pub revalidate: Duration,

    /// Time for which a model that could not be loaded from the store is not tried again
    #[arg(
        long, env = "LONGSHORE_NEGATIVE_TTL", value_name = "TIME", value_parser = duration, default_value = "5s",
        help_heading = "Model store"
    )]
    pub negative_ttl: Duration,

    #[command(flatten)]
    pub fetch: FetchArgs,

    #[command(flatten)]
    pub media: MediaArgs,

    /// Time for an unload to wait for the model's running requests; the platform gives up after
    /// 360s
    #[arg(
        long, env = "LONGSHORE_UNLOAD_TIMEOUT", value_name = "TIME", value_parser = duration, default_value = "340s",
        help_heading = "Models"
    )]
    pub unload_timeout: Duration,

    /// Time for which a model is refused once a request to it has ended the process; twice as long
    /// after each further time, up to --bad-model-ttl
    #[arg(
        long, env = "LONGSHORE_FIRST_REFUSAL", value_name = "TIME", value_parser = duration, default_value = "1min",
        help_heading = "Models"
    )]
    pub first_refusal: Duration,

    /// Longest time for which a model that ended a process is refused; one that ended the process
    /// which prepares models is refused for this time at once
    #[arg(
        long, env = "LONGSHORE_BAD_MODEL_TTL", value_name = "TIME", value_parser = duration, default_value = "10min",
        help_heading = "Models"
    )]
    pub bad_model_ttl: Duration,

    /// Memory that the process may use, e.g. 10GiB [default: the control group's limit or the
    /// machine's memory]
    #[arg(
        long,
        env = "LONGSHORE_MEMORY_LIMIT",
        value_name = "BYTES",
        help_heading = "Resources"
    )]
    pub memory_limit: Option<ByteSize>,

    /// Part of the memory limit kept free for requests [default: a fiftieth of it, at least 8MiB,
    /// at most 256MiB]
    #[arg(
        long,
        env = "LONGSHORE_MEMORY_RESERVE",
        value_name = "BYTES",
        help_heading = "Resources"
    )]
    pub memory_reserve: Option<ByteSize>,

    /// Models that run at once [default: the cores that the process may use]
    #[arg(long, env = "LONGSHORE_THREADS", value_name = "N", value_parser = threads, help_heading = "Resources")]
    pub threads: Option<usize>,

    /// Threads that answer HTTP [default: as --threads]
    #[arg(long, env = "LONGSHORE_HTTP_THREADS", value_name = "N", value_parser = threads, help_heading = "Resources")]
    pub http_threads: Option<usize>,

    /// Models that are loaded at once
    #[arg(
        long, env = "LONGSHORE_LOAD_THREADS", value_name = "N", value_parser = threads, default_value = "8",
        help_heading = "Resources"
    )]
    pub load_threads: usize,

    /// Requests that may wait for one model; the next one gets 503
    #[arg(
        long, env = "LONGSHORE_QUEUE", value_name = "N", value_parser = at_least_one, default_value = "1024",
        help_heading = "Resources"
    )]
    pub queue: usize,

    /// Time that a run may go on after it was told to end, at its deadline or when its caller has
    /// left; then it counts as stuck, another thread takes the place of its own, and its model
    /// takes no requests until it ends
    #[arg(
        long, env = "LONGSHORE_STUCK_AFTER", value_name = "TIME", value_parser = duration, default_value = "500ms",
        help_heading = "Resources"
    )]
    pub stuck_after: Duration,

    /// Stuck runs whose threads are replaced; with one more, the serving process is [default: twice
    /// --threads]
    #[arg(
        long, env = "LONGSHORE_MAX_STUCK", value_name = "N", value_parser = threads, help_heading = "Resources"
    )]
    pub max_stuck: Option<usize>,

    /// Time for the requests under way to end before the serving process is replaced for its stuck
    /// runs
    #[arg(
        long, env = "LONGSHORE_REPLACE_TIMEOUT", value_name = "TIME", value_parser = duration, default_value = "2s",
        help_heading = "Resources"
    )]
    pub replace_timeout: Duration,

    /// Time without a sign of life from the threads that answer HTTP after which the serving
    /// process is killed and started again; `off` for never, as when a debugger holds it
    #[arg(
        long, env = "LONGSHORE_WORKER_TIMEOUT", value_name = "TIME", value_parser = duration_or_off,
        default_value = "60s", help_heading = "Resources"
    )]
    pub worker_timeout: OrOff,

    /// Percent of the weights that models map from files that must fit into memory beside all else;
    /// the system drops and reads again what does not
    #[arg(
        long, env = "LONGSHORE_MAPPED_WEIGHTS", value_name = "PERCENT", default_value_t = 100,
        value_parser = clap::value_parser!(u64).range(0..=100), help_heading = "Resources"
    )]
    pub mapped_weights: u64,

    /// Rows of waiting requests that may run as one batch, where that pays; 1 for no batches
    #[arg(
        long, env = "LONGSHORE_MAX_BATCH", value_name = "ROWS", value_parser = at_least_one, default_value = "32",
        help_heading = "Resources"
    )]
    pub max_batch: usize,

    /// Serve by a second process, and start it again when a request has killed it
    #[arg(
        long, env = "LONGSHORE_SUPERVISE", value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true,
        default_value_t = true, default_missing_value = "true", value_parser = BoolishValueParser::new(),
        help_heading = "Resources"
    )]
    pub supervise: bool,

    /// Let the system dump the memory of a process that crashed, which delays the next one by the
    /// time that takes
    #[arg(
        long, env = "LONGSHORE_CORE_DUMPS", value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true,
        default_value_t = false, default_missing_value = "true", value_parser = BoolishValueParser::new(),
        help_heading = "Resources"
    )]
    pub core_dumps: bool,

    /// ONNX Runtime's library [default: beside the executable, in ../lib, or where
    /// scripts/onnxruntime puts it]
    #[arg(long, env = "ORT_DYLIB_PATH", value_name = "FILE", help_heading = "Resources")]
    pub onnxruntime: Option<PathBuf>,

    /// A library of custom operators for ONNX Runtime, such as that of ONNX Runtime Extensions,
    /// whose code runs as part of this server; repeatable [default: none]
    #[arg(
        long,
        env = "LONGSHORE_OPERATORS",
        value_name = "LIBRARY",
        value_delimiter = ':',
        help_heading = "Resources"
    )]
    pub operators: Vec<PathBuf>,

    /// What runs the models; cuda and tensorrt need a GPU build of ONNX Runtime's library
    #[arg(long, env = "LONGSHORE_PROVIDER", value_enum, default_value_t = Provider::Cpu, help_heading = "GPU")]
    pub provider: Provider,

    /// The GPU, as CUDA counts those that the process may see
    #[arg(
        long,
        env = "LONGSHORE_DEVICE",
        value_name = "N",
        default_value_t = 0,
        help_heading = "GPU"
    )]
    pub device: u16,

    /// Memory of the GPU that all models may take together, CUDA's own apart [default: what there
    /// is]
    #[arg(long, env = "LONGSHORE_GPU_MEMORY_LIMIT", value_name = "BYTES", help_heading = "GPU")]
    pub gpu_memory_limit: Option<ByteSize>,

    /// Whether a model that is not known is prepared in a process apart: tried, measured, and
    /// written in the form that is mapped from then on
    #[arg(long, env = "LONGSHORE_PREPARE", value_enum, default_value_t = Prepare::Auto, help_heading = "Preparation")]
    pub prepare: Prepare,

    /// Models that are prepared at once [default: the cores that the process may use, at most 4]
    #[arg(
        long, env = "LONGSHORE_PREPARE_PROCESSES", value_name = "N", value_parser = threads,
        help_heading = "Preparation"
    )]
    pub prepare_processes: Option<usize>,

    /// Time for a model to be prepared; one that takes longer is refused
    #[arg(
        long, env = "LONGSHORE_PREPARE_TIMEOUT", value_name = "TIME", value_parser = duration, default_value = "60s",
        help_heading = "Preparation"
    )]
    pub prepare_timeout: Duration,

    /// Memory that any model may take while it is prepared; large ones may take ten times their
    /// weights
    #[arg(
        long,
        env = "LONGSHORE_PREPARE_MEMORY",
        value_name = "BYTES",
        default_value = "1GiB",
        help_heading = "Preparation"
    )]
    pub prepare_memory: ByteSize,

    /// Where prepared models are kept, and those fetched from a store; may be shared and deleted
    /// [default: longshore-UID in the folder for temporary files]
    #[arg(long, env = "LONGSHORE_CACHE_DIR", value_name = "DIR", help_heading = "Preparation")]
    pub cache_dir: Option<PathBuf>,

    /// Disk that prepared models may take; what was not used for longest goes first
    #[arg(
        long,
        env = "LONGSHORE_CACHE_SIZE",
        value_name = "BYTES",
        default_value = "10GiB",
        help_heading = "Preparation"
    )]
    pub cache_size: ByteSize,

    /// How the log on standard error is written
    #[arg(long, env = "LONGSHORE_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text, help_heading = "Log")]
    pub log_format: LogFormat,

    /// off, error, warn, info, debug or trace, or Python's 10 to 50
    #[arg(
        long,
        env = "SAGEMAKER_CONTAINER_LOG_LEVEL",
        value_name = "LEVEL",
        default_value = "info",
        help_heading = "Log"
    )]
    pub log_level: LogLevel,

    #[command(flatten)]
    pub conventions: Conventions,
}

/// `--provider`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Provider {
    Cpu,
    /// CUDA where there is a GPU that can be used, else the CPU, with a warning
    Auto,
    Cuda,
    /// With CUDA for what TensorRT does not implement
    Tensorrt,
}

/// `--on-full`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OnFull {
    Evict,
    Refuse,
}

/// `--prepare`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Prepare {
    /// Models are prepared when they are loaded first.
    Auto,
    /// Models are loaded as they are uploaded, by the server itself: what crashes there ends it.
    Off,
}

/// Keys of a manifest.
fn manifest(text: &str) -> Result<Arc<Overlay>, String> {
    Overlay::parse(text).map(Arc::new).map_err(|error| error.to_string())
}
