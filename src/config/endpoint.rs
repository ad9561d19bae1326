//! Options of `longshore endpoint`, and of the hidden command with which it starts processes.
//!
//! Its variables begin with `LONGSHORE_ENDPOINT_`: variables for `serve` in the same shell are
//! meant for containers.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use clap::builder::BoolishValueParser;
use clap::{ArgAction, Args, ValueEnum};

use super::{FetchArgs, LogFormat, LogLevel, at_least_one, duration, origin};

pub(super) const EXAMPLE: &str = "\
Example: run code that was written for AWS, unchanged
  longshore endpoint &
  export AWS_ENDPOINT_URL_SAGEMAKER=http://127.0.0.1:8090 AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME=http://127.0.0.1:8090
  python deploy_and_invoke.py

Example: serve a directory or a bucket of archives as a multi-model endpoint, without a deployment
  longshore endpoint --multi-model s3://bucket/segments/
  curl http://127.0.0.1:8090/endpoints/longshore/invocations -H 'Content-Type: application/json' \\
    -H 'X-Amzn-SageMaker-Target-Model: de-berlin.tar.gz' -d '{\"instances\": [[1, 2, 3]]}'

Example: test how a client reacts when one call in ten is slow and one in a hundred fails
  longshore endpoint --multi-model models/ --fault latency=2s@10% --fault error=503@1%";

const FAULTS: &str = "\
Inject a fault to test how clients react; repeatable: [ENDPOINT[/VARIANT]:]FAULT[@WHEN]

  latency=200ms      delay the response by this time
  error=503          answer ServiceUnavailable; 500 is InternalFailure, 400 ValidationError, 530 InternalDependencyException
  model-error=507    answer ModelError, as if the container had answered with this status (400 to 599)
  model-not-ready    answer ModelNotReadyException
  kill=container-2   kill this container while it has the request (\"model\" is the container of a single-model endpoint)
  memory=512MiB      start containers with this memory limit; takes no WHEN

  @10%               a random 10% of the requests; the same seed selects the same requests
  @1/100             exactly every hundredth request

Latencies add up; of several errors, the first rule wins";

/// `longshore endpoint`.
#[derive(Debug, Clone, Args)]
pub struct EndpointArgs {
    /// IP address to listen on; the endpoint does not check credentials, so every machine that can
    /// reach the address can use it
    #[arg(
        long, env = "LONGSHORE_ENDPOINT_BIND", value_name = "ADDRESS",
        default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST), help_heading = "HTTP"
    )]
    pub bind: IpAddr,

    /// Serve all users of this machine, not only the current user and root
    #[arg(
        long, env = "LONGSHORE_ENDPOINT_ALLOW_OTHER_USERS", value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1,
        require_equals = true, default_value_t = false, default_missing_value = "true",
        value_parser = BoolishValueParser::new(), help_heading = "HTTP"
    )]
    pub allow_other_users: bool,

    /// Port of the control plane and the runtime API; 0 chooses a free port and logs it
    #[arg(long, env = "LONGSHORE_ENDPOINT_PORT", default_value_t = 8090, help_heading = "HTTP")]
    pub port: u16,

    /// Largest body of an invocation and of its response
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

    /// Time limit of an invocation, for all of its containers together
    #[arg(
        long, env = "LONGSHORE_ENDPOINT_REQUEST_TIMEOUT", value_name = "TIME", value_parser = duration,
        default_value = "60s", help_heading = "HTTP"
    )]
    pub request_timeout: Duration,

    /// Time for which an idle connection stays open
    #[arg(
        long, env = "LONGSHORE_ENDPOINT_KEEP_ALIVE", value_name = "TIME", value_parser = duration,
        default_value = "90s", help_heading = "HTTP"
    )]
    pub keep_alive: Duration,

    /// Largest number of open connections; at the limit, the endpoint closes the longest idle ones
    /// for new ones [default: the limit of open files minus 128, but at least half of it]
    #[arg(
        long, env = "LONGSHORE_ENDPOINT_MAX_CONNECTIONS", value_name = "N", value_parser = at_least_one,
        help_heading = "HTTP"
    )]
    pub max_connections: Option<usize>,

    /// Number of connections reserved for GET /ping when requests use all others [default: one in
    /// 16, at most 16]
    #[arg(
        long,
        env = "LONGSHORE_ENDPOINT_RESERVED_CONNECTIONS",
        value_name = "N",
        help_heading = "HTTP"
    )]
    pub reserved_connections: Option<usize>,

    /// Time limit for a client to send the head of a request
    #[arg(
        long, env = "LONGSHORE_ENDPOINT_HEADER_TIMEOUT", value_name = "TIME", value_parser = duration,
        default_value = "10s", help_heading = "HTTP"
    )]
    pub header_timeout: Duration,

    /// Time limit for a client to send a whole request including its body; each --body-rate bytes
    /// that arrive add one second
    #[arg(
        long, env = "LONGSHORE_ENDPOINT_BODY_TIMEOUT", value_name = "TIME", value_parser = duration,
        default_value = "20s", help_heading = "HTTP"
    )]
    pub body_timeout: Duration,

    /// Bytes of a body that extend its --body-timeout by one second
    #[arg(
        long,
        env = "LONGSHORE_ENDPOINT_BODY_RATE",
        value_name = "BYTES",
        default_value = "16KiB",
        help_heading = "HTTP"
    )]
    pub body_rate: ByteSize,

    /// Time limit for a client to send a request while all connections are in use, and while the
    /// endpoint stops; from half of the connections on, --header-timeout and --body-timeout shrink
    /// towards it
    #[arg(
        long, env = "LONGSHORE_ENDPOINT_PRESSURE_TIMEOUT", value_name = "TIME", value_parser = duration,
        default_value = "500ms", help_heading = "HTTP"
    )]
    pub pressure_timeout: Duration,

    /// Time without progress in reading a response after which the endpoint disconnects the client
    #[arg(
        long, env = "LONGSHORE_ENDPOINT_WRITE_TIMEOUT", value_name = "TIME", value_parser = duration,
        default_value = "60s", help_heading = "HTTP"
    )]
    pub write_timeout: Duration,

    /// Origin of web pages that may send requests, e.g. `https://app.example.com`, or * for all;
    /// repeatable [default: none]
    #[arg(
        long = "allow-origin",
        env = "LONGSHORE_ENDPOINT_ALLOW_ORIGIN",
        value_name = "ORIGIN",
        value_delimiter = ',',
        value_parser = origin,
        help_heading = "HTTP"
    )]
    pub allow_origins: Vec<String>,

    /// Host name that requests may use for an endpoint on a loopback address, and at which the page
    /// for browsers works on any address, or * for all; repeatable [default: localhost and the
    /// loopback addresses]
    #[arg(
        long = "allow-host",
        env = "LONGSHORE_ENDPOINT_ALLOW_HOST",
        value_name = "HOST",
        value_delimiter = ',',
        help_heading = "HTTP"
    )]
    pub allow_hosts: Vec<String>,

    /// Do not serve the page for browsers at /ui
    #[arg(
        long, env = "LONGSHORE_ENDPOINT_NO_UI", value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1,
        require_equals = true, default_value_t = false, default_missing_value = "true",
        value_parser = BoolishValueParser::new(), help_heading = "HTTP"
    )]
    pub no_ui: bool,

    /// Time limit of a streaming response
    #[arg(
        long, env = "LONGSHORE_ENDPOINT_STREAM_TIMEOUT", value_name = "TIME", value_parser = duration,
        default_value = "8min", help_heading = "HTTP"
    )]
    pub stream_timeout: Duration,

    /// Serve the models in a directory or below a URL from one multi-model endpoint
    #[arg(
        long,
        env = "LONGSHORE_ENDPOINT_MULTI_MODEL",
        value_name = "DIR|URL",
        conflicts_with = "model",
        help_heading = "Endpoints"
    )]
    pub multi_model: Option<String>,

    /// Serve the archive or directory of one model from an endpoint
    #[arg(
        long,
        env = "LONGSHORE_ENDPOINT_MODEL",
        value_name = "PATH|URL",
        help_heading = "Endpoints"
    )]
    pub model: Option<String>,

    /// Use a running container for the endpoint; repeatable, in the order of the pipeline; with
    /// --multi-model, this container loads the models
    #[arg(
        long = "container",
        env = "LONGSHORE_ENDPOINT_CONTAINER",
        value_name = "NAME=URL",
        value_delimiter = ' ',
        help_heading = "Endpoints"
    )]
    pub containers: Vec<String>,

    /// Let each request choose one --container with the header
    /// X-Amzn-SageMaker-Target-Container-Hostname, instead of a pipeline
    #[arg(long, requires = "containers", help_heading = "Endpoints")]
    pub direct: bool,

    /// Name of the endpoint that --multi-model, --model or --container defines
    #[arg(
        long,
        env = "LONGSHORE_ENDPOINT_NAME",
        value_name = "NAME",
        default_value = "longshore",
        help_heading = "Endpoints"
    )]
    pub endpoint_name: String,

    /// File with a CreateModel request, in the form of `aws sagemaker create-model
    /// --cli-input-json`, or a list of them; each model gets an endpoint of its name; repeatable
    #[arg(
        long = "config",
        env = "LONGSHORE_ENDPOINT_CONFIG",
        value_name = "FILE",
        value_delimiter = ':',
        help_heading = "Endpoints"
    )]
    pub configs: Vec<PathBuf>,

    /// Number of instances of each endpoint that these options define, from 1 to 1000
    #[arg(
        long, env = "LONGSHORE_ENDPOINT_INSTANCES", value_name = "N", default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..=1000), help_heading = "Endpoints"
    )]
    pub instances: u32,

    /// Time for which a request to create, update or delete an endpoint waits for completion before
    /// it is answered; the work then continues in the background; AWS's waiters check at once and
    /// then every 30 seconds
    #[arg(
        long, env = "LONGSHORE_ENDPOINT_SETTLE_WAIT", value_name = "TIME", value_parser = duration,
        default_value = "2s", help_heading = "Endpoints"
    )]
    pub settle_wait: Duration,

    /// File that stores models, configurations and endpoints, from which the next start restores
    /// them [default: they end with the process]
    #[arg(
        long,
        env = "LONGSHORE_ENDPOINT_STATE",
        value_name = "FILE",
        help_heading = "Endpoints"
    )]
    pub state: Option<PathBuf>,

    /// AWS region in ARNs [default: AWS_REGION, then AWS_DEFAULT_REGION, then us-east-1]
    #[arg(
        long,
        env = "LONGSHORE_ENDPOINT_REGION",
        value_name = "REGION",
        help_heading = "Endpoints"
    )]
    pub region: Option<String>,

    /// Program that runs the containers
    #[arg(
        long, env = "LONGSHORE_ENDPOINT_RUNNER", value_enum, default_value_t = RunnerKind::Process,
        help_heading = "Containers"
    )]
    pub runner: RunnerKind,

    /// Docker command, or another one that accepts the same arguments
    #[arg(
        long,
        env = "LONGSHORE_ENDPOINT_DOCKER",
        value_name = "COMMAND",
        default_value = "docker",
        help_heading = "Containers"
    )]
    pub docker: PathBuf,

    /// Largest number of instances of a variant, even if its InitialInstanceCount is higher; from
    /// 1 to 1000
    #[arg(
        long, env = "LONGSHORE_ENDPOINT_MAX_INSTANCES", value_name = "N", default_value_t = 4,
        value_parser = clap::value_parser!(u32).range(1..=1000), help_heading = "Containers"
    )]
    pub max_instances: u32,

    /// Memory limit of each container, e.g. 4GiB [default: the memory of the machine]
    #[arg(
        long,
        env = "LONGSHORE_ENDPOINT_CONTAINER_MEMORY",
        value_name = "BYTES",
        help_heading = "Containers"
    )]
    pub container_memory: Option<ByteSize>,

    /// Time limit for a container to answer /ping after its start, unless the variant sets
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

    /// Time limit for a request to wait for a container that is restarting
    #[arg(
        long, env = "LONGSHORE_ENDPOINT_DOWN_WAIT", value_name = "TIME", value_parser = duration,
        default_value = "10s", help_heading = "Containers"
    )]
    pub down_wait: Duration,

    /// Time for requests to end before their containers are stopped, and for containers to end
    /// before they are killed
    #[arg(
        long, env = "LONGSHORE_ENDPOINT_DRAIN_TIMEOUT", value_name = "TIME", value_parser = duration,
        default_value = "25s", help_heading = "Containers"
    )]
    pub drain_timeout: Duration,

    /// Time limit for a request to wait for its model to load; after it, the request gets
    /// ModelNotReadyException and the load continues
    #[arg(
        long, env = "LONGSHORE_ENDPOINT_LOAD_WAIT", value_name = "TIME", value_parser = duration,
        default_value = "60s", help_heading = "Multi-model endpoints"
    )]
    pub load_wait: Duration,

    /// Time limit for a container to load a model
    #[arg(
        long, env = "LONGSHORE_ENDPOINT_LOAD_TIMEOUT", value_name = "TIME", value_parser = duration,
        default_value = "6min", help_heading = "Multi-model endpoints"
    )]
    pub load_timeout: Duration,

    /// Time limit for a container to unload a model
    #[arg(
        long, env = "LONGSHORE_ENDPOINT_UNLOAD_TIMEOUT", value_name = "TIME", value_parser = duration,
        default_value = "6min", help_heading = "Multi-model endpoints"
    )]
    pub unload_timeout: Duration,

    /// Number of asynchronous invocations that an instance runs in parallel, unless its
    /// configuration sets MaxConcurrentInvocationsPerInstance; from 1 to 1000
    #[arg(
        long, env = "LONGSHORE_ENDPOINT_ASYNC_CONCURRENCY", value_name = "N", default_value_t = 4,
        value_parser = clap::value_parser!(u32).range(1..=1000), help_heading = "Asynchronous invocations"
    )]
    pub async_concurrency: u32,

    /// Largest number of asynchronous invocations of all endpoints that are accepted but not done;
    /// further ones get 503; each may hold 128 KB of memory
    #[arg(
        long, env = "LONGSHORE_ENDPOINT_ASYNC_QUEUE", value_name = "N", default_value_t = 4096,
        value_parser = clap::value_parser!(u32).range(1..), help_heading = "Asynchronous invocations"
    )]
    pub async_queue: u32,

    /// Largest input object and largest result of an asynchronous invocation; both are held in
    /// memory during the invocation
    #[arg(
        long,
        env = "LONGSHORE_ENDPOINT_MAX_ASYNC_OBJECT",
        value_name = "BYTES",
        default_value = "1GiB",
        help_heading = "Asynchronous invocations"
    )]
    pub max_async_object: ByteSize,

    /// Time limit of an asynchronous invocation, unless the request sets InvocationTimeoutSeconds
    /// (at most 1 hour)
    #[arg(
        long, env = "LONGSHORE_ENDPOINT_ASYNC_TIMEOUT", value_name = "TIME", value_parser = duration,
        default_value = "15min", help_heading = "Asynchronous invocations"
    )]
    pub async_timeout: Duration,

    /// Method to choose the variant of a request, and one of several equal instances
    #[arg(
        long, env = "LONGSHORE_ENDPOINT_DEAL", value_enum, default_value_t = DealKind::Random,
        help_heading = "Traffic"
    )]
    pub deal: DealKind,

    /// Seed of --deal random; the same seed chooses the same variants and instances [default: a
    /// new seed at each start]
    #[arg(
        long,
        env = "LONGSHORE_ENDPOINT_DEAL_SEED",
        value_name = "N",
        help_heading = "Traffic"
    )]
    pub deal_seed: Option<u64>,

    #[command(flatten)]
    pub fetch: FetchArgs,

    /// Inject a fault to test how clients react, e.g. latency=200ms@10%; repeatable; `longshore
    /// endpoint --help` lists all faults
    #[arg(
        long = "fault",
        env = "LONGSHORE_ENDPOINT_FAULT",
        value_name = "RULE",
        value_delimiter = ' ',
        long_help = FAULTS,
        help_heading = "Faults"
    )]
    pub faults: Vec<String>,

    /// Seed of the random faults; the same seed selects the same requests
    #[arg(
        long,
        env = "LONGSHORE_ENDPOINT_FAULT_SEED",
        value_name = "N",
        default_value_t = 0,
        help_heading = "Faults"
    )]
    pub fault_seed: u64,

    /// Directory for fetched and prepared models and for the files of containers; may be deleted
    /// while no endpoint runs [default: longshore-UID in the directory for temporary files]
    #[arg(long, env = "LONGSHORE_CACHE_DIR", value_name = "DIR", help_heading = "Containers")]
    pub cache_dir: Option<PathBuf>,

    /// Format of the log on standard error
    #[arg(long, env = "LONGSHORE_LOG_FORMAT", value_enum, default_value_t = LogFormat::Auto, help_heading = "Log")]
    pub log_format: LogFormat,

    /// Least severe level that is logged: off, error, warn, info, debug or trace, or Python's 10
    /// to 50; levels of single modules may follow, e.g. info,store=debug
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
    /// Limit of connections if the process may open `open_files` files.
    pub fn max_connections(&self, open_files: Option<u64>) -> usize {
        self.max_connections
            .unwrap_or_else(|| super::max_connections(open_files))
    }

    /// Number of `connections` that are reserved for health checks.
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
    /// Run each container as a process of this program, whatever its Image
    Process,
    /// Run the Image of each container with docker
    Docker,
}

/// `--deal`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DealKind {
    /// Choose at random by weight, as SageMaker does
    Random,
    /// Choose in turn by weight, so that every series of requests has the right shares
    Even,
}

/// `longshore tether`.
#[derive(Debug, Clone, Args)]
pub struct TetherArgs {
    /// Process id of the process that started this one
    #[arg(long)]
    pub parent: u32,

    #[arg(long, value_enum)]
    pub parting: DeathSignal,

    #[arg(last = true, required = true)]
    pub command: Vec<OsString>,
}

/// Signal that a process gets when its parent process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DeathSignal {
    /// SIGKILL, for a process that needs no cleanup.
    Kill,
    /// SIGTERM, for a process that has to end others first.
    Term,
}
