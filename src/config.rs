//! The command line: every option with its flag, environment variable, default, unit and reason.
//! Other modules do not read options from the environment.
//!
//! An option's variable is SageMaker's own if the contract defines one, otherwise `LONGSHORE_*`.
//! The variables that AWS's own images use by convention are read too ([`Conventions`]). A flag or
//! its own variable overrides them.
//!
//! The section types here are plain data. Only `cli` turns them into the types of other modules.

mod endpoint;
mod examine;
mod fetch;
mod logging;
mod media;
mod plan;
mod serve;
mod telemetry;
#[cfg(test)]
mod tests;
mod top;

use std::env;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::builder::Resettable;
use clap::error::{ContextKind, ContextValue};
use clap::{Arg, CommandFactory, Error, FromArgMatches, Parser, Subcommand};

pub use endpoint::{DealKind, DeathSignal, EndpointArgs, RunnerKind, TetherArgs};
pub use examine::{ExamineArgs, InspectArgs, PackArgs, PrepareArgs};
pub use fetch::{ArchiveArgs, FetchArgs};
pub use logging::{LogFormat, LogLevel, Share, TraceArgs};
pub use media::MediaArgs;
pub use plan::{BalanceKind, PlanArgs, PlannedModelArgs, PlannedServerArgs, StartState, TrafficArgs};
pub use serve::{Conventions, OnFull, Prepare, Provider, REQUEST_TIMEOUT, ServeArgs, default_memory_reserve};
pub use telemetry::{EmfDimension, MetricsArgs, MetricsSwitch};
pub use top::{TopArgs, TopSort};

/// Serves thousands of ONNX models from one machine, as a SageMaker container.
#[derive(Debug, Parser)]
#[command(name = "longshore", version, args_conflicts_with_subcommands = true, after_help = VALUES)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub serve: ServeArgs,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve models as a SageMaker container (the default command)
    #[command(after_help = VALUES)]
    Serve(Box<ServeArgs>),
    /// Emulate SageMaker on this machine: deploy and invoke with boto3, the AWS CLI or the
    /// SageMaker SDK
    #[command(after_help = format!("{VALUES}\n\n{}", endpoint::EXAMPLE))]
    Endpoint(Box<EndpointArgs>),
    /// Check a model, prepare it, and pack it into a model.tar.gz for SageMaker
    #[command(after_help = examine::PACK_EXAMPLE)]
    Pack(PackArgs),
    /// Show a model's inputs, outputs, measured resource use and example requests
    #[command(after_help = examine::INSPECT_EXAMPLE)]
    Inspect(InspectArgs),
    /// Show the models of a running server, their latency and memory, live in the terminal
    #[command(after_help = top::TOP_EXAMPLE)]
    Top(TopArgs),
    /// Say how many servers a set of models and their traffic need, by a simulation
    #[command(after_help = plan::PLAN_EXAMPLE)]
    Plan(Box<PlanArgs>),
    /// Print the JSON Schema of longshore.json, the file that describes a model's inputs and
    /// outputs beyond its graph
    #[command(after_help = SCHEMA_HELP)]
    Schema,
    /// Serve requests as the child process of `serve`, which restarts it after a crash
    #[command(hide = true)]
    Worker(Box<ServeArgs>),
    /// Prepare models for the server that started this process; requests come on standard input
    #[command(hide = true)]
    Prepare(PrepareArgs),
    /// Run a command that ends when the process which started this one ends
    #[command(hide = true)]
    Tether(TetherArgs),
}

/// Explains the forms of values, below the options of `serve` and `endpoint`.
const VALUES: &str = "\
Values:
  TIME   a number of seconds, or with a unit: 500ms, 58s, 2min (from 1ms to 7days)
  BYTES  a number of bytes, or with a unit: 64KiB, 25MiB, 10GiB
  BOOL   true or false; the flag without a value means true

An option with [env: NAME] can also be set by that environment variable; the flag overrides it.";

const SCHEMA_HELP: &str = "\
Editors use the schema to check the file and to complete its keys. In the settings of VS Code, for example:
  longshore schema > longshore.schema.json
  \"json.schemas\": [{\"fileMatch\": [\"longshore.json\"], \"url\": \"./longshore.schema.json\"}]";

/// Returns the environment of the process, for variables that other programs define: credentials
/// and endpoints of stores.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

/// Returns the cache folder. The default is a separate folder for each user, which other users
/// cannot write to.
fn cache_dir(given: Option<&PathBuf>) -> PathBuf {
    given.cloned().unwrap_or_else(|| {
        let user = rustix::process::geteuid().as_raw();
        env::temp_dir().join(format!("longshore-{user}"))
    })
}

/// Parses `90s`, `2min`, or a bare number of seconds, the form of SageMaker's variables.
fn duration(text: &str) -> Result<Duration, String> {
    const SHORTEST: Duration = Duration::from_millis(1);
    const LONGEST: Duration = Duration::from_secs(7 * 24 * 60 * 60);
    let duration = match f64::from_str(text) {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())?,
        Err(_) => humantime::parse_duration(text)
            .map_err(|error| format!("{error}; expected a time such as 58s, 500ms or 2min"))?,
    };
    if (SHORTEST..=LONGEST).contains(&duration) {
        Ok(duration)
    } else {
        Err("expected a time from 1ms to 7days".to_owned())
    }
}

/// A time, or `off`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DurationOrOff(pub Option<Duration>);

fn duration_or_off(text: &str) -> Result<DurationOrOff, String> {
    if ["off", "0"].contains(&text) {
        return Ok(DurationOrOff(None));
    }
    duration(text)
        .map(|time| DurationOrOff(Some(time)))
        .map_err(|error| format!("{error}, or `off`"))
}

/// Parses the origin of a web page: a scheme and a host, with an optional port, or `*`.
fn origin(text: &str) -> Result<String, String> {
    let is_origin = |text: &str| {
        text.split_once("://").is_some_and(|(scheme, authority)| {
            !scheme.is_empty()
                && !authority.is_empty()
                && !authority.contains(|c: char| c == '/' || c == '?' || c == '#' || c == '@' || c.is_whitespace())
        })
    };
    if text == "*" || text == "null" || is_origin(text) {
        Ok(text.to_ascii_lowercase())
    } else {
        Err(
            "expected an origin such as https://app.example.com or http://localhost:3000, without a path, or *"
                .to_owned(),
        )
    }
}

fn archive_name(text: &str) -> Result<PathBuf, String> {
    if [".tar.gz", ".tgz"].iter().any(|ending| text.ends_with(ending)) {
        Ok(text.into())
    } else {
        Err("the output is a gzipped tar archive; use a name that ends in .tar.gz or .tgz".to_owned())
    }
}

/// Returns the default limit of connections if the process may open `open_files` files. Models,
/// their files and the log need some: 128, or half of a small limit.
fn max_connections(open_files: Option<u64>) -> usize {
    const OTHERS: usize = 128;
    let open_files = open_files
        .and_then(|limit| usize::try_from(limit).ok())
        .unwrap_or(usize::MAX);
    open_files.saturating_sub(OTHERS).max(open_files / 2).max(1)
}

/// Returns the number of `connections` that are reserved for health checks.
fn reserved_connections(given: Option<usize>, connections: usize) -> usize {
    given.unwrap_or((connections / 16).clamp(1, 16)).min(connections - 1)
}

fn at_least_one(text: &str) -> Result<usize, String> {
    one_to(1 << 20, text)
}

fn threads(text: &str) -> Result<usize, String> {
    one_to(1024, text)
}

fn one_to(most: usize, text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if (1..=most).contains(&number) => Ok(number),
        Ok(_) | Err(_) => Err(format!("expected a number from 1 to {most}")),
    }
}

impl Cli {
    /// Parses the command line and the environment of this process. An error ends the process with
    /// a message.
    ///
    /// An empty variable counts as unset, because templates often produce empty variables.
    pub fn read() -> Self {
        let mut command = Self::command()
            .mut_args(without_empty_variable)
            .mut_subcommands(|command| command.mut_args(without_empty_variable));
        let matches = command
            .try_get_matches_from_mut(env::args_os())
            .unwrap_or_else(|error| with_variable(error, command, |name| env::var_os(name)).exit());
        Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
    }
}

/// Adds the name of the variable to an error about a value. Clap names only the flag, but in a
/// container the value comes from the flag's variable.
fn with_variable(mut error: Error, mut command: clap::Command, variable: impl Fn(&OsStr) -> Option<OsString>) -> Error {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text),
        Some(_) | None => None,
    };
    let (Some(flag), Some(value)) = (context(ContextKind::InvalidArg), context(ContextKind::InvalidValue)) else {
        return error;
    };
    command.build();
    let name = command
        .get_subcommands()
        .chain([&command])
        .flat_map(clap::Command::get_arguments)
        .filter(|argument| argument.to_string() == *flag)
        .filter_map(Arg::get_env)
        .find(|&name| variable(name).is_some_and(|set| set == value.as_str()));
    if let Some(name) = name {
        let tip = format!("the value comes from the environment variable {}", name.display()).into();
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip]));
    }
    error
}

fn without_empty_variable(argument: Arg) -> Arg {
    let is_empty = argument
        .get_env()
        .is_some_and(|name| env::var_os(name).is_some_and(|value| value.is_empty()));
    if is_empty {
        argument.env(Resettable::Reset)
    } else {
        argument
    }
}
