//! Options of the HTTP server of `longshore serve`.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use bytesize::ByteSize;
use clap::builder::BoolishValueParser;
use clap::{ArgAction, Args};

use crate::config::{at_least_one, duration, origin};

/// Options of the HTTP server.
#[derive(Debug, Clone, Args)]
pub struct HttpArgs {
    /// IP address to listen on; under SageMaker it must not be a loopback address
    #[arg(long, env = "LONGSHORE_BIND", value_name = "ADDRESS", default_value_t = IpAddr::V4(Ipv4Addr::UNSPECIFIED), help_heading = "HTTP")]
    pub bind: IpAddr,

    /// Close loopback connections from other users of this machine, except root
    #[arg(
        long, env = "LONGSHORE_ONLY_THIS_USER", value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1,
        require_equals = true, default_value_t = false, default_missing_value = "true",
        value_parser = BoolishValueParser::new(), help_heading = "HTTP"
    )]
    pub only_this_user: bool,

    /// Port to listen on; 0 chooses a free port and logs it
    #[arg(long, env = "SAGEMAKER_BIND_TO_PORT", default_value_t = 8080, help_heading = "HTTP")]
    pub port: u16,

    /// Largest request body, e.g. 25MiB [default: 25MiB; 100MiB in batch transform]
    #[arg(long, env = "LONGSHORE_MAX_BODY", value_name = "BYTES", help_heading = "HTTP")]
    pub max_body: Option<ByteSize>,

    /// Smallest response that is compressed for clients whose Accept-Encoding allows gzip or zstd,
    /// e.g. 64KiB; SageMaker does not request compression, and on a fast network it makes clients
    /// wait longer [default: no compression]
    #[arg(long, env = "LONGSHORE_COMPRESS_ABOVE", value_name = "BYTES", help_heading = "HTTP")]
    pub compress_above: Option<ByteSize>,

    /// Largest total size of the header names and values of a request
    #[arg(
        long,
        env = "LONGSHORE_MAX_HEADERS",
        value_name = "BYTES",
        default_value = "32KiB",
        help_heading = "HTTP"
    )]
    pub max_headers: ByteSize,

    /// Largest number of open connections; at the limit, the server closes the longest idle ones
    /// for new ones [default: the limit of open files minus 128, but at least half of it]
    #[arg(
        long, env = "LONGSHORE_MAX_CONNECTIONS", value_name = "N", value_parser = at_least_one, help_heading = "HTTP"
    )]
    pub max_connections: Option<usize>,

    /// Number of connections reserved for health checks when requests use all others [default: one
    /// in 16, at most 16]
    #[arg(
        long,
        env = "LONGSHORE_RESERVED_CONNECTIONS",
        value_name = "N",
        help_heading = "HTTP"
    )]
    pub reserved_connections: Option<usize>,

    /// Time limit of a request from its head to its response, including time in the queue
    /// [default: 58s; 3598s in batch transform]
    #[arg(long, env = "LONGSHORE_REQUEST_TIMEOUT", value_name = "TIME", value_parser = duration, help_heading = "HTTP")]
    pub request_timeout: Option<Duration>,

    /// Time limit for a client to send the head of a request
    #[arg(
        long, env = "LONGSHORE_HEADER_TIMEOUT", value_name = "TIME", value_parser = duration, default_value = "10s",
        help_heading = "HTTP"
    )]
    pub header_timeout: Duration,

    /// Time limit for a client to send a whole request including its body; each --body-rate bytes
    /// that arrive add one second
    #[arg(
        long, env = "LONGSHORE_BODY_TIMEOUT", value_name = "TIME", value_parser = duration, default_value = "20s",
        help_heading = "HTTP"
    )]
    pub body_timeout: Duration,

    /// Bytes of a body that extend its --body-timeout by one second
    #[arg(
        long,
        env = "LONGSHORE_BODY_RATE",
        value_name = "BYTES",
        default_value = "16KiB",
        help_heading = "HTTP"
    )]
    pub body_rate: ByteSize,

    /// Time limit for a client to send a request while all connections are in use, and while the
    /// server stops; from half of the connections on, --header-timeout and --body-timeout shrink
    /// towards it
    #[arg(
        long, env = "LONGSHORE_PRESSURE_TIMEOUT", value_name = "TIME", value_parser = duration,
        default_value = "500ms", help_heading = "HTTP"
    )]
    pub pressure_timeout: Duration,

    /// Time without progress in reading a response after which the server disconnects the client
    #[arg(
        long, env = "LONGSHORE_WRITE_TIMEOUT", value_name = "TIME", value_parser = duration, default_value = "60s",
        help_heading = "HTTP"
    )]
    pub write_timeout: Duration,

    /// Time for which an idle connection stays open
    #[arg(
        long, env = "LONGSHORE_KEEP_ALIVE", value_name = "TIME", value_parser = duration, default_value = "90s",
        help_heading = "HTTP"
    )]
    pub keep_alive: Duration,

    /// Time for running requests to end after SIGTERM, after which they get 503; SageMaker kills
    /// the container after 30s
    #[arg(
        long, env = "LONGSHORE_DRAIN_TIMEOUT", value_name = "TIME", value_parser = duration, default_value = "25s",
        help_heading = "HTTP"
    )]
    pub drain_timeout: Duration,

    /// Origin of web pages that may send requests, e.g. `https://app.example.com`, or * for all;
    /// repeatable [default: none]
    #[arg(
        long = "allow-origin",
        env = "LONGSHORE_ALLOW_ORIGIN",
        value_name = "ORIGIN",
        value_delimiter = ',',
        value_parser = origin,
        help_heading = "HTTP"
    )]
    pub allow_origins: Vec<String>,

    /// Host name that requests may use for a server on a loopback address, and at which the page
    /// for browsers works on any address, or * for all; repeatable [default: localhost and the
    /// loopback addresses]
    #[arg(
        long = "allow-host",
        env = "LONGSHORE_ALLOW_HOST",
        value_name = "HOST",
        value_delimiter = ',',
        help_heading = "HTTP"
    )]
    pub allow_hosts: Vec<String>,

    /// Do not serve the page for browsers at / nor its data below /ui
    #[arg(
        long, env = "LONGSHORE_NO_UI", value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1,
        require_equals = true, default_value_t = false, default_missing_value = "true",
        value_parser = BoolishValueParser::new(), help_heading = "HTTP"
    )]
    pub no_ui: bool,

    /// Choose statuses for a load balancer that repeats a request at another server after a 503:
    /// 503 instead of 507 for a request that lacks memory before it begins, 500 instead of 503 for
    /// a model that would fail at every server, and 504 for a request that does not end within
    /// --drain-timeout
    #[arg(
        long, env = "LONGSHORE_BEHIND_BALANCER", value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1,
        require_equals = true, default_value_t = false, default_missing_value = "true",
        value_parser = BoolishValueParser::new(), help_heading = "HTTP"
    )]
    pub behind_balancer: bool,

    /// Media type of requests without a Content-Type
    #[arg(
        long,
        env = "LONGSHORE_DEFAULT_CONTENT_TYPE",
        value_name = "TYPE",
        default_value = "application/json",
        help_heading = "HTTP"
    )]
    pub default_content_type: String,

    /// Media type of responses when the Accept header is missing or */*
    #[arg(
        long,
        env = "SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT",
        value_name = "TYPE",
        default_value = "application/json",
        help_heading = "HTTP"
    )]
    pub default_accept: String,
}
