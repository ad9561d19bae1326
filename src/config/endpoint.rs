//! The knobs of `longshore endpoint`, and of what it starts processes by.
//!
//! Its variables begin with `LONGSHORE_ENDPOINT_`, because a shell that has set some for `serve`
//! means containers with them.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use clap::builder::BoolishValueParser;
use clap::{ArgAction, Args, ValueEnum};

use super::{FetchArgs, at_least_one, duration, origin};
use crate::telemetry::{LogFormat, LogLevel};

pub(super) const EXAMPLE: &str = "\
Example: code for AWS, unchanged
  longshore endpoint &
  export AWS_ENDPOINT_URL_SAGEMAKER=http://127.0.0.1:8090 AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME=http://127.0.0.1:8090
  python deploy_and_invoke.py

Example: a multi-model endpoint of a folder or a bucket of archives, without any deployment
  longshore endpoint --multi-model s3://bucket/segments/
  curl http://127.0.0.1:8090/endpoints/longshore/invocations -H 'Content-Type: application/json' \\
    -H 'X-Amzn-SageMaker-Target-Model: de-berlin.tar.gz' -d '{\"instances\": [[1, 2, 3]]}'

Example: how does my client take it when one call in ten is slow, and one in a hundred fails?
  longshore endpoint --multi-model models/ --fault latency=2s@10% --fault error=503@1%";

const FAULTS: &str = "\
A fault to be had, to see how callers take it; repeatable: [ENDPOINT[/VARIANT]:]FAULT[@WHEN]

  latency=200ms      the answer takes that much longer
  error=503          ServiceUnavailable; 500 is InternalFailure, 400 ValidationError, 530 InternalDependencyException
  model-error=507    ModelError, as if the container had answered with that status (400 to 599)
  model-not-ready    ModelNotReadyException
  kill=container-2   that container ends while it has the request (\"model\" is the only one of an endpoint)
  memory=512MiB      containers are started with that limit; has no WHEN

  @10%               of the requests, by chance, the same ones for the same seed
  @1/100             exactly each hundredth

Latencies add up; of errors, the first one given wins";

/// `longshore endpoint`.
#[derive(Debug, Clone, Args)]
pub struct EndpointArgs {
    /// Address to listen on. There are no credentials to check: each machine that reaches it can
    /// use it
    #[arg(
        long, env = "LONGSHORE_ENDPOINT_BIND", value_name = "ADDRESS",
        default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST), help_heading = "HTTP"
    )]
    pub bind: IpAddr,

    /// Serve every user of this machine, not only the one who runs this and root
    #[arg(
        long, env = "LONGSHORE_ENDPOINT_ALLOW_OTHER_USERS", value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1,
        require_equals = true, default_value_t = false, default_missing_value = "true",
        value_parser = BoolishValueParser::new(), help_heading = "HTTP"
    )]
    pub allow_other_users: bool,

    /// Port of the control plane and of the runtime API; 0 chooses a free one and logs it
    #[arg(long, env = "LONGSHORE_ENDPOINT_PORT", default_value_t = 8090, help_heading = "HTTP")]
    pub port: u16,

    /// Largest body of an invocation, and of its reply
    #[arg(
        long,
        env = "LONGSHORE_ENDPOINT_MAX_BODY",
        value_name = "BYTES",
        default_value = "25MiB",
        help_heading = "HTTP"
    )]
    pub max_body: ByteSize,

    /// Largest body that a container of a serial pipeline may pass to the next one
    #[arg(
        long,
        env = "LONGSHORE_ENDPOINT_MAX_BETWEEN",
        value_name = "BYTES",
        default_value = "5MiB",
        help_heading = "HTTP"
    )]
    pub max_between: ByteSize,

    /// Time for an invocation, all of its containers together
    #[arg(
        long, env = "LONGSHORE_ENDPOINT_REQUEST_TIMEOUT", value_name = "TIME", value_parser = duration,
        default_value = "60s", help_heading = "HTTP"
    )]
    pub request_timeout: Duration,

    /// Time that an idle connection stays open
    #[arg(
        long, env = "LONGSHORE_ENDPOINT_KEEP_ALIVE", value_name = "TIME", value_parser = duration,
        default_value = "90s", help_heading = "HTTP"
    )]
    pub keep_alive: Duration,

    /// Connections at a time; at the limit the longest idle ones are closed for new ones [default:
    /// the limit of open files less 128, or half of it]
    #[arg(
        long, env = "LONGSHORE_ENDPOINT_MAX_CONNECTIONS", value_name = "N", value_parser = at_least_one,
        help_heading = "HTTP"
    )]
    pub max_connections: Option<usize>,

    /// Connections that are kept for GET /ping when requests take all others [default: one in 16,
    /// at most 16]
    #[arg(
        long,
        env = "LONGSHORE_ENDPOINT_RESERVED_CONNECTIONS",
        value_name = "N",
        help_heading = "HTTP"
    )]
    pub reserved_connections: Option<usize>,

    /// Time for a client to send a request's head
    #[arg(
        long, env = "LONGSHORE_ENDPOINT_HEADER_TIMEOUT", value_name = "TIME", value_parser = duration,
        default_value = "10s", help_heading = "HTTP"
    )]
    pub header_timeout: Duration,

    /// Time for a client to send a whole request, its body included; each --body-rate bytes add a
    /// second
    #[arg(
        long, env = "LONGSHORE_ENDPOINT_BODY_TIMEOUT", value_name = "TIME", value_parser = duration,
        default_value = "20s", help_heading = "HTTP"
    )]
    pub body_timeout: Duration,

    /// Bytes of a body that give its client one more second
    #[arg(
        long,
        env = "LONGSHORE_ENDPOINT_BODY_RATE",
        value_name = "BYTES",
        default_value = "16KiB",
        help_heading = "HTTP"
    )]
    pub body_rate: ByteSize,

    /// Time for a client to send a request when no connection is left, and while the endpoint stops
    #[arg(
        long, env = "LONGSHORE_ENDPOINT_PRESSURE_TIMEOUT", value_name = "TIME", value_parser = duration,
        default_value = "500ms", help_heading = "HTTP"
    )]
    pub pressure_timeout: Duration,

    /// Time for a client to take more of what it is sent; then it is disconnected
    #[arg(
        long, env = "LONGSHORE_ENDPOINT_WRITE_TIMEOUT", value_name = "TIME", value_parser = duration,
        default_value = "60s", help_heading = "HTTP"
    )]
    pub write_timeout: Duration,

    /// Origins of pages in browsers that are served, such as `https://app.example.com`, or * for
    /// all; repeatable [default: none]
    #[arg(
        long = "allow-origin",
        env = "LONGSHORE_ENDPOINT_ALLOW_ORIGIN",
        value_name = "ORIGIN",
        value_delimiter = ',',
        value_parser = origin,
        help_heading = "HTTP"
    )]
    pub allow_origins: Vec<String>,

    /// Names that requests may call the endpoint by when it listens on a loopback address, or * for
    /// all; repeatable [default: localhost and the loopback addresses]
    #[arg(
        long = "allow-host",
        env = "LONGSHORE_ENDPOINT_ALLOW_HOST",
        value_name = "HOST",
        value_delimiter = ',',
        help_heading = "HTTP"
    )]
    pub allow_hosts: Vec<String>,

    /// Time for a reply that comes in parts
    #[arg(
        long, env = "LONGSHORE_ENDPOINT_STREAM_TIMEOUT", value_name = "TIME", value_parser = duration,
        default_value = "8min", help_heading = "HTTP"
    )]
    pub stream_timeout: Duration,

    /// Serve the models in a folder or below a URL from one multi-model endpoint
    #[arg(
        long,
        env = "LONGSHORE_ENDPOINT_MULTI_MODEL",
        value_name = "DIR|URL",
        conflicts_with = "model",
        help_heading = "Endpoints"
    )]
    pub multi_model: Option<String>,

    /// Serve one model's archive or folder from an endpoint
    #[arg(
        long,
        env = "LONGSHORE_ENDPOINT_MODEL",
        value_name = "PATH|URL",
        help_heading = "Endpoints"
    )]
    pub model: Option<String>,

    /// Put a container that runs already behind an endpoint; repeatable, in the order of the
    /// pipeline. With --multi-model, the one that loads those models
    #[arg(
        long = "container",
        env = "LONGSHORE_ENDPOINT_CONTAINER",
        value_name = "NAME=URL",
        value_delimiter = ' ',
        help_heading = "Endpoints"
    )]
    pub containers: Vec<String>,

    /// Requests choose one of the --container by X-Amzn-SageMaker-Target-Container-Hostname
    #[arg(long, requires = "containers", help_heading = "Endpoints")]
    pub direct: bool,

    /// What the endpoint of the flags above is called
    #[arg(
        long,
        env = "LONGSHORE_ENDPOINT_NAME",
        value_name = "NAME",
        default_value = "longshore",
        help_heading = "Endpoints"
    )]
    pub endpoint_name: String,

    /// A CreateModel request as `aws sagemaker create-model --cli-input-json` takes it, or a list
    /// of them; repeatable. Each model is served by the endpoint of its name
    #[arg(
        long = "config",
        env = "LONGSHORE_ENDPOINT_CONFIG",
        value_name = "FILE",
        value_delimiter = ':',
        help_heading = "Endpoints"
    )]
    pub configs: Vec<PathBuf>,

    /// Instances of each of these endpoints
    #[arg(
        long, env = "LONGSHORE_ENDPOINT_INSTANCES", value_name = "N", default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..=1000), help_heading = "Endpoints"
    )]
    pub instances: u32,

    /// Time for an endpoint to be created, updated or deleted before that is answered; it goes on
    /// after the answer. AWS's waiters look at once, and then every 30 seconds
    #[arg(
        long, env = "LONGSHORE_ENDPOINT_SETTLE_WAIT", value_name = "TIME", value_parser = duration,
        default_value = "2s", help_heading = "Endpoints"
    )]
    pub settle_wait: Duration,

    /// Keep models, configurations and endpoints in this file, and bring them back from it
    /// [default: they end with the process]
    #[arg(
        long,
        env = "LONGSHORE_ENDPOINT_STATE",
        value_name = "FILE",
        help_heading = "Endpoints"
    )]
    pub state: Option<PathBuf>,

    /// The region in ARNs [default: AWS_REGION, AWS_DEFAULT_REGION, us-east-1]
    #[arg(
        long,
        env = "LONGSHORE_ENDPOINT_REGION",
        value_name = "REGION",
        help_heading = "Endpoints"
    )]
    pub region: Option<String>,

    /// What runs the containers
    #[arg(
        long, env = "LONGSHORE_ENDPOINT_RUNNER", value_enum, default_value_t = RunnerKind::Process,
        help_heading = "Containers"
    )]
    pub runner: RunnerKind,

    /// The docker command, or one that takes the same arguments
    #[arg(
        long,
        env = "LONGSHORE_ENDPOINT_DOCKER",
        value_name = "COMMAND",
        default_value = "docker",
        help_heading = "Containers"
    )]
    pub docker: PathBuf,

    /// Most instances that are started of a variant, whatever its InitialInstanceCount
    #[arg(
        long, env = "LONGSHORE_ENDPOINT_MAX_INSTANCES", value_name = "N", default_value_t = 4,
        value_parser = clap::value_parser!(u32).range(1..=1000), help_heading = "Containers"
    )]
    pub max_instances: u32,

    /// Memory that each container may take [default: what the machine has]
    #[arg(
        long,
        env = "LONGSHORE_ENDPOINT_CONTAINER_MEMORY",
        value_name = "BYTES",
        help_heading = "Containers"
    )]
    pub container_memory: Option<ByteSize>,

    /// Time for a container to answer /ping after its start, unless the variant has
    /// ContainerStartupHealthCheckTimeoutInSeconds
    #[arg(
        long, env = "LONGSHORE_ENDPOINT_START_TIMEOUT", value_name = "TIME", value_parser = duration,
        default_value = "8min", help_heading = "Containers"
    )]
    pub start_timeout: Duration,

    /// Time between the health checks of a container
    #[arg(
        long, env = "LONGSHORE_ENDPOINT_HEALTH_INTERVAL", value_name = "TIME", value_parser = duration,
        default_value = "5s", help_heading = "Containers"
    )]
    pub health_interval: Duration,

    /// Time for a request to wait for a container that is being started again
    #[arg(
        long, env = "LONGSHORE_ENDPOINT_DOWN_WAIT", value_name = "TIME", value_parser = duration,
        default_value = "10s", help_heading = "Containers"
    )]
    pub down_wait: Duration,

    /// Time for requests to end before their containers do, and for containers to end by themselves
    #[arg(
        long, env = "LONGSHORE_ENDPOINT_DRAIN_TIMEOUT", value_name = "TIME", value_parser = duration,
        default_value = "25s", help_heading = "Containers"
    )]
    pub drain_timeout: Duration,

    /// Time for a request to wait for its model; then it gets ModelNotReadyException, and the load
    /// goes on
    #[arg(
        long, env = "LONGSHORE_ENDPOINT_LOAD_WAIT", value_name = "TIME", value_parser = duration,
        default_value = "60s", help_heading = "Multi-model endpoints"
    )]
    pub load_wait: Duration,

    /// Time for a container to load a model
    #[arg(
        long, env = "LONGSHORE_ENDPOINT_LOAD_TIMEOUT", value_name = "TIME", value_parser = duration,
        default_value = "6min", help_heading = "Multi-model endpoints"
    )]
    pub load_timeout: Duration,

    /// Time for a container to unload a model
    #[arg(
        long, env = "LONGSHORE_ENDPOINT_UNLOAD_TIMEOUT", value_name = "TIME", value_parser = duration,
        default_value = "6min", help_heading = "Multi-model endpoints"
    )]
    pub unload_timeout: Duration,

    /// Asynchronous invocations that an instance works on at once, unless its configuration says
    /// MaxConcurrentInvocationsPerInstance
    #[arg(
        long, env = "LONGSHORE_ENDPOINT_ASYNC_CONCURRENCY", value_name = "N", default_value_t = 4,
        value_parser = clap::value_parser!(u32).range(1..=1000), help_heading = "Asynchronous invocations"
    )]
    pub async_concurrency: u32,

    /// Asynchronous invocations, of all endpoints, that are accepted and not done; the next is
    /// refused (503). Each may hold 128 KB of its own
    #[arg(
        long, env = "LONGSHORE_ENDPOINT_ASYNC_QUEUE", value_name = "N", default_value_t = 4096,
        value_parser = clap::value_parser!(u32).range(1..), help_heading = "Asynchronous invocations"
    )]
    pub async_queue: u32,

    /// Largest object that an asynchronous invocation reads, and of its result; it is in memory
    /// while it is worked on
    #[arg(
        long,
        env = "LONGSHORE_ENDPOINT_MAX_ASYNC_OBJECT",
        value_name = "BYTES",
        default_value = "1GiB",
        help_heading = "Asynchronous invocations"
    )]
    pub max_async_object: ByteSize,

    /// Time for an asynchronous invocation, unless the request has InvocationTimeoutSeconds (at
    /// most 1 hour)
    #[arg(
        long, env = "LONGSHORE_ENDPOINT_ASYNC_TIMEOUT", value_name = "TIME", value_parser = duration,
        default_value = "15min", help_heading = "Asynchronous invocations"
    )]
    pub async_timeout: Duration,

    /// Choice of the variant for a request, and of one among equal instances
    #[arg(
        long, env = "LONGSHORE_ENDPOINT_DEAL", value_enum, default_value_t = DealKind::Random,
        help_heading = "Traffic"
    )]
    pub deal: DealKind,

    /// Seed of --deal random, which draws the same variants and instances again [default: another
    /// one each time]
    #[arg(
        long,
        env = "LONGSHORE_ENDPOINT_DEAL_SEED",
        value_name = "N",
        help_heading = "Traffic"
    )]
    pub deal_seed: Option<u64>,

    #[command(flatten)]
    pub fetch: FetchArgs,

    /// A fault to be had, e.g. latency=200ms@10%; repeatable. See `longshore endpoint --help`
    #[arg(
        long = "fault",
        env = "LONGSHORE_ENDPOINT_FAULT",
        value_name = "RULE",
        value_delimiter = ' ',
        long_help = FAULTS,
        help_heading = "Faults"
    )]
    pub faults: Vec<String>,

    /// Chance for the rules above: the same seed strikes the same requests
    #[arg(
        long,
        env = "LONGSHORE_ENDPOINT_FAULT_SEED",
        value_name = "N",
        default_value_t = 0,
        help_heading = "Faults"
    )]
    pub fault_seed: u64,

    /// Where fetched and prepared models are kept, and what containers have on disk; may be deleted
    /// when nothing runs [default: longshore-UID in the folder for temporary files]
    #[arg(long, env = "LONGSHORE_CACHE_DIR", value_name = "DIR", help_heading = "Containers")]
    pub cache_dir: Option<PathBuf>,

    /// How the log on standard error is written
    #[arg(long, env = "LONGSHORE_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text, help_heading = "Log")]
    pub log_format: LogFormat,

    /// off, error, warn, info, debug or trace, or Python's 10 to 50
    #[arg(
        long,
        env = "LONGSHORE_ENDPOINT_LOG_LEVEL",
        value_name = "LEVEL",
        default_value = "info",
        help_heading = "Log"
    )]
    pub log_level: LogLevel,
}

impl EndpointArgs {
    /// Connections at a time when `open_files` may be open.
    pub fn max_connections(&self, open_files: Option<u64>) -> usize {
        self.max_connections
            .unwrap_or_else(|| super::max_connections(open_files))
    }

    /// Of so many connections, those that only health checks keep.
    pub fn reserved_connections(&self, connections: usize) -> usize {
        super::reserved_connections(self.reserved_connections, connections)
    }

    pub fn cache_dir(&self) -> PathBuf {
        super::cache_dir(self.cache_dir.as_ref())
    }
}

/// `--runner`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RunnerKind {
    /// Each container is a process of this program, whatever its Image
    Process,
    /// Each container is what its Image says
    Docker,
}

/// `--deal`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DealKind {
    /// Each request is drawn by weight, as on SageMaker
    Random,
    /// Variants and instances take turns, so that each stretch of requests has the right shares
    Even,
}

/// `longshore tether`.
#[derive(Debug, Clone, Args)]
pub struct TetherArgs {
    /// The process that has started this one
    #[arg(long)]
    pub parent: u32,

    #[arg(long, value_enum)]
    pub parting: Parting,

    #[arg(last = true, required = true)]
    pub command: Vec<OsString>,
}

/// What a process gets when the one that started it has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Parting {
    /// SIGKILL: nobody is there to wait for it.
    Kill,
    /// SIGTERM, for what has to end something else.
    Term,
}
