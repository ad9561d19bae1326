//! Options of `longshore plan`.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;
use clap::{Args, ValueEnum};

use super::{ExamineArgs, FetchArgs, at_least_one, threads};

pub(super) const PLAN_EXAMPLE: &str = "\
Example:
  longshore plan s3://bucket/models --rate 500/s --skew 1.1 --p99 50ms --cold 1%
  longshore plan models/ --access-log access.jsonl --memory-limit 4GiB --cpus 2 --servers 5
  longshore plan --models 100000 --model-size 5MB --load-time 3ms --run-time 2ms --rate 2000/s \\
    --instance m6i.xlarge --price m6i.xlarge=0.192 --servers 50 --cold 1%

The command simulates the requests one by one, with the server's own decisions about memory and eviction. docs/planning.md \
says how near its numbers are to measured ones.";

/// `longshore plan`.
#[derive(Debug, Clone, Args)]
pub struct PlanArgs {
    /// Bucket or directory with the models, as for serve --model-store; not needed with --models or
    /// with a log that names the models
    #[arg(value_name = "STORE", required_unless_present_any = ["models", "instances", "access_log", "cloudwatch"])]
    pub store: Option<String>,

    /// Print the known instance types with their memory and cores, and end
    #[arg(long, conflicts_with = "json")]
    pub instances: bool,

    #[command(flatten)]
    pub models: PlannedModelArgs,

    #[command(flatten)]
    pub traffic: TrafficArgs,

    #[command(flatten)]
    pub servers: PlannedServerArgs,

    /// Target: longest 99th percentile of the latency, e.g. 50ms
    #[arg(long, value_name = "TIME", value_parser = short_time, help_heading = "Target")]
    pub p99: Option<Duration>,

    /// Target: largest share of requests that wait for a load, e.g. 1%
    #[arg(long, value_name = "PERCENT", value_parser = percent, help_heading = "Target")]
    pub cold: Option<f64>,

    /// File for a drawing of the results, in SVG
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,

    #[command(flatten)]
    pub examine: ExamineArgs,

    #[command(flatten)]
    pub fetch: FetchArgs,
}

/// The models of a plan.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Models")]
pub struct PlannedModelArgs {
    /// Number of equal models, for a plan without a store; needs --model-size or --model-memory
    #[arg(long, value_name = "N", value_parser = at_least_one, conflicts_with_all = ["store", "access_log", "cloudwatch"])]
    pub models: Option<usize>,

    /// Size of the files of each model, e.g. 5MB
    #[arg(long, value_name = "BYTES", conflicts_with = "store")]
    pub model_size: Option<ByteSize>,

    /// Memory of each loaded model [default: measured, or estimated from its size]
    #[arg(long, value_name = "BYTES")]
    pub model_memory: Option<ByteSize>,

    /// Time to load a model that the server has on disk [default: measured]
    #[arg(long, value_name = "TIME", value_parser = short_time)]
    pub load_time: Option<Duration>,

    /// Time to download and prepare a model that the server has never had [default: measured, or
    /// the value of --load-time]
    #[arg(long, value_name = "TIME", value_parser = short_time)]
    pub first_load_time: Option<Duration>,

    /// Time that a request needs a core [default: measured]
    #[arg(long, value_name = "TIME", value_parser = short_time)]
    pub run_time: Option<Duration>,

    /// Number of models of the store that the command fetches, prepares and runs to measure them;
    /// they are spread over all sizes. 0 measures none, and needs --load-time and --run-time
    #[arg(
        long,
        value_name = "N",
        default_value_t = 5,
        requires = "store",
        conflicts_with_all = ["models", "model_size", "server"]
    )]
    pub measure: usize,

    /// Address of a running server, whose /metrics give the mean times and memory of its models
    #[arg(long, value_name = "URL")]
    pub server: Option<String>,
}

/// The traffic of a plan.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Traffic")]
pub struct TrafficArgs {
    /// Mean number of requests in a second, minute or hour, e.g. 500/s or 90/min; at least 1/h
    #[arg(long, value_name = "RATE", value_parser = rate)]
    pub rate: Option<f64>,

    /// Number of clients that each send a request when they have an answer, instead of --rate
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000), conflicts_with = "rate")]
    pub clients: Option<u32>,

    /// Skew of the requests over the models (exponent of Zipf's law): 0 requests all equally often;
    /// 1 the second half as often as the first, and so on
    #[arg(long, value_name = "NUMBER", value_parser = skew, default_value_t = 1.0, conflicts_with_all = ["access_log", "cloudwatch"])]
    pub skew: f64,

    /// Access log with a JSON object a line that has `timestamp` and `target_model` or `model`; the
    /// requests are simulated at their times, or one after the other with --clients
    #[arg(long, value_name = "FILE", conflicts_with = "cloudwatch")]
    pub access_log: Option<PathBuf>,

    /// Share of the requests that the access log has; below 100, it gives only the rate and the
    /// share of each model
    #[arg(long, value_name = "PERCENT", value_parser = positive_percent, default_value = "100%", requires = "access_log")]
    pub log_share: f64,

    /// Output of `aws cloudwatch get-metric-data` with the invocations of each model, whose label
    /// is its name
    #[arg(long, value_name = "FILE")]
    pub cloudwatch: Option<PathBuf>,

    /// Number of requests to simulate [default: those of the log, otherwise 20 for each model, from
    /// 200,000 to 2,000,000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    pub requests: Option<u64>,

    /// Share of the requests at the start that no result counts
    #[arg(long, value_name = "PERCENT", value_parser = part, default_value = "20%")]
    pub warm_up: f64,

    /// State of the servers at the start [default: empty with an access log, otherwise full]
    #[arg(long, value_enum, value_name = "STATE")]
    pub start: Option<StartState>,

    /// Seed of the random numbers; the same seed gives the same plan
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
}

/// The servers of a plan.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Servers")]
pub struct PlannedServerArgs {
    /// Instance types to compare; repeatable; --instances lists them
    /// [default: m6i.large,m6i.xlarge,r6i.large,r6i.xlarge]
    #[arg(long, value_name = "TYPE", value_delimiter = ',')]
    pub instance: Vec<String>,

    /// Share of an instance's memory that is the server's limit; the system needs the rest
    #[arg(long, value_name = "PERCENT", value_parser = positive_percent, default_value = "90%", conflicts_with = "memory_limit")]
    pub usable_memory: f64,

    /// Memory limit of a server, as for serve --memory-limit, instead of --instance; needs --cpus
    #[arg(long, value_name = "BYTES", conflicts_with = "instance", requires = "cpus")]
    pub memory_limit: Option<ByteSize>,

    /// Part of the memory limit reserved for requests, as for serve [default: a fiftieth of the
    /// limit, at least 8MiB and at most 256MiB]
    #[arg(long, value_name = "BYTES")]
    pub memory_reserve: Option<ByteSize>,

    /// Percentage of memory-mapped weights that counts against the memory limit, as for serve
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u64).range(0..=100), default_value_t = 100)]
    pub mapped_weights: u64,

    /// Cores of a server with --memory-limit
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024), requires = "memory_limit")]
    pub cpus: Option<u32>,

    /// Price of an instance for an hour, in any currency, e.g. m6i.xlarge=0.192; repeatable, for
    /// all types or none
    #[arg(long, value_name = "TYPE=PRICE", value_parser = price, value_delimiter = ',')]
    pub price: Vec<(String, f64)>,

    /// Largest number of servers
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000), default_value_t = 10)]
    pub servers: u32,

    /// Show every number of servers; otherwise all to 8, and four for each doubling. A target with
    /// round robin needs it and sets it
    #[arg(long)]
    pub all: bool,

    /// Show only the number of --servers
    #[arg(long, conflicts_with = "all")]
    pub only: bool,

    /// Balancer in front of the servers
    #[arg(long, value_enum, value_name = "KIND", default_value_t = BalanceKind::Consistent)]
    pub balance: BalanceKind,

    /// Most requests of a server in percent of the mean of all, above 100, as HAProxy's
    /// hash-balance-factor; 0 for no bound
    #[arg(long, value_name = "PERCENT", value_parser = balance_factor, default_value_t = 150)]
    pub balance_factor: u32,

    /// Mean of the requests that a server has at a time, from which --balance-factor holds, as
    /// LONGSHORE_FLEET_BUSY of container/deploy/fleet/haproxy.cfg
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub balance_from: u32,

    /// Points of a server on the ring of hashes: in HAProxy, 16 times the weight of a server
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096), default_value_t = 1024)]
    pub ring_points: u32,

    /// Number of models that a server loads in parallel, as for serve
    #[arg(long, value_name = "N", value_parser = threads, default_value = "8")]
    pub load_threads: usize,
}

/// `--balance`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BalanceKind {
    /// Consistent hashing with bounded loads: each model belongs to one server
    Consistent,
    /// One server after the other
    RoundRobin,
}

/// `--start`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum StartState {
    /// Memory and disk of new servers
    Empty,
    /// Memory and disk as after a long time of the same traffic
    Full,
}

/// Parses a time from 1us to 1h.
fn short_time(text: &str) -> Result<Duration, String> {
    const SHORTEST: Duration = Duration::from_micros(1);
    const LONGEST: Duration = Duration::from_secs(60 * 60);
    let time = match f64::from_str(text) {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())?,
        Err(_) => humantime::parse_duration(text)
            .map_err(|error| format!("{error}; expected a time such as 200us, 50ms or 2s"))?,
    };
    match (SHORTEST..=LONGEST).contains(&time) {
        true => Ok(time),
        false => Err("expected a time from 1us to 1h".to_owned()),
    }
}

/// Parses `1%` or `1` as a share.
fn percent(text: &str) -> Result<f64, String> {
    let number = f64::from_str(text.strip_suffix('%').unwrap_or(text).trim());
    match number {
        Ok(percent) if (0.0..=100.0).contains(&percent) => Ok(percent / 100.0),
        Ok(_) | Err(_) => Err("expected a share from 0% to 100%, such as 1% or 0.5%".to_owned()),
    }
}

/// Parses a share above 0%.
fn positive_percent(text: &str) -> Result<f64, String> {
    let share = percent(text)?;
    (share > 0.0)
        .then_some(share)
        .ok_or_else(|| "expected a share above 0%, such as 1% or 0.5%".to_owned())
}

/// Parses a share below 100%.
fn part(text: &str) -> Result<f64, String> {
    let share = percent(text)?;
    (share < 1.0)
        .then_some(share)
        .ok_or_else(|| "expected a share below 100%, such as 20%".to_owned())
}

fn balance_factor(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(factor) if factor == 0 || (101..=10_000).contains(&factor) => Ok(factor),
        Ok(_) | Err(_) => Err("expected a number from 101 to 10000, such as 150, or 0".to_owned()),
    }
}

/// Parses `500/s`, `90/min`, `10/h` or `500` as a number a second.
fn rate(text: &str) -> Result<f64, String> {
    const SLOWEST: f64 = 1.0 / 3600.0;
    let (number, seconds) = match text.split_once('/') {
        None => (text, 1.0),
        Some((number, "s" | "sec" | "second")) => (number, 1.0),
        Some((number, "m" | "min" | "minute")) => (number, 60.0),
        Some((number, "h" | "hour")) => (number, 3600.0),
        Some(_) => ("", 1.0),
    };
    match f64::from_str(number.trim()).map(|number| number / seconds) {
        Ok(rate) if (SLOWEST..=1e9).contains(&rate) => Ok(rate),
        Ok(_) | Err(_) => Err("expected a number of requests from 1/h, such as 500/s, 90/min or 2000/h".to_owned()),
    }
}

fn skew(text: &str) -> Result<f64, String> {
    match f64::from_str(text) {
        Ok(skew) if (0.0..=10.0).contains(&skew) => Ok(skew),
        Ok(_) | Err(_) => Err("expected a number from 0 to 10, such as 1.1".to_owned()),
    }
}

fn price(text: &str) -> Result<(String, f64), String> {
    let parsed = text.split_once('=').and_then(|(name, price)| {
        let price = f64::from_str(price.trim())
            .ok()
            .filter(|price| price.is_finite() && *price >= 0.0)?;
        (!name.trim().is_empty()).then(|| (name.trim().to_owned(), price))
    });
    parsed.ok_or_else(|| "expected an instance type and its price for an hour, such as m6i.xlarge=0.192".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_shares_times_and_prices_have_units() {
        assert_eq!(rate("500/s"), Ok(500.0));
        assert_eq!(rate("90/min"), Ok(1.5));
        assert_eq!(rate("7200/h"), Ok(2.0));
        assert_eq!(rate("0.5"), Ok(0.5));
        for wrong in ["", "0", "-1", "5/day", "many/s", "inf", "1e-9/h"] {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
        assert_eq!(percent("1%"), Ok(0.01));
        assert_eq!(percent("0.5"), Ok(0.005));
        assert!(percent("0").is_ok() && positive_percent("0%").is_err() && positive_percent("100%").is_ok());
        assert!(part("0").is_ok() && part("100%").is_err());
        assert!(
            [0, 101, 10_000]
                .iter()
                .all(|factor| balance_factor(&factor.to_string()) == Ok(*factor))
        );
        assert!(
            ["1", "50", "100", "10001", "-1"]
                .iter()
                .all(|factor| balance_factor(factor).is_err())
        );
        assert!(percent("101%").is_err() && percent("-1").is_err() && percent("NaN").is_err());
        assert_eq!(short_time("200us"), Ok(Duration::from_micros(200)));
        assert_eq!(short_time("0.05"), Ok(Duration::from_millis(50)));
        assert!(short_time("0").is_err() && short_time("2h").is_err());
        assert_eq!(price("ml.m5.large=0.115"), Ok(("ml.m5.large".to_owned(), 0.115)));
        assert!(price("0.1").is_err() && price("=1").is_err() && price("a=-1").is_err());
        assert!(skew("1.1").is_ok() && skew("-1").is_err() && skew("NaN").is_err());
    }
}
