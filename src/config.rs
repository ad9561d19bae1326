//! Every knob, once: flag, environment variable, default, unit, reason. Nothing else reads the
//! environment.
//!
//! A flag's variable is SageMaker's own where the contract has one, else `LONGSHORE_*`. The
//! variables that AWS's own images honour by convention are read too ([`Conventions`]); a flag or
//! its own variable wins over them.

mod endpoint;
mod examine;
mod fetch;
mod media;
mod serve;
#[cfg(test)]
mod tests;

use std::env;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::builder::Resettable;
use clap::error::{ContextKind, ContextValue};
use clap::{Arg, CommandFactory, Error, FromArgMatches, Parser, Subcommand};

pub use endpoint::{DealKind, EndpointArgs, Parting, RunnerKind, TetherArgs};
pub use examine::{ExamineArgs, InspectArgs, PackArgs, PrepareArgs};
pub use fetch::{ArchiveArgs, FetchArgs};
pub use media::MediaArgs;
pub use serve::{Conventions, OnFull, Prepare, Provider, ServeArgs};

/// Serves thousands of ONNX models from one machine, as a SageMaker container.
#[derive(Debug, Parser)]
#[command(name = "longshore", version, args_conflicts_with_subcommands = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub serve: ServeArgs,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve the SageMaker container contract (the default without a command)
    Serve(Box<ServeArgs>),
    /// Stand in for SageMaker on this machine: boto3, the AWS CLI and the SageMaker SDK deploy to
    /// it and invoke
    #[command(after_help = endpoint::EXAMPLE)]
    Endpoint(Box<EndpointArgs>),
    /// Check a model, prepare it, and pack it into the model.tar.gz that SageMaker takes
    #[command(after_help = examine::PACK_EXAMPLE)]
    Pack(PackArgs),
    /// Say what a model takes and gives, what was measured of it, and how it is asked
    #[command(after_help = examine::INSPECT_EXAMPLE)]
    Inspect(InspectArgs),
    /// Print the JSON Schema of longshore.json, the file by which an artifact says what its graph
    /// does not
    #[command(after_help = SCHEMA_HELP)]
    Schema,
    /// The process that `serve` starts, and starts again
    #[command(hide = true)]
    Worker(Box<ServeArgs>),
    /// Prepare models for the server that started this process, as it asks on standard input
    #[command(hide = true)]
    Prepare(PrepareArgs),
    /// Become another command that does not outlive the process which started this one
    #[command(hide = true)]
    Tether(TetherArgs),
}

const SCHEMA_HELP: &str = "\
Editors check the file against it and complete its keys, e.g. in VS Code's settings:
  longshore schema > longshore.schema.json
  \"json.schemas\": [{\"fileMatch\": [\"longshore.json\"], \"url\": \"./longshore.schema.json\"}]";

/// The process's environment, for those of others' variables that others define: credentials and
/// endpoints of stores.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

/// Where what may be deleted is kept, unless a flag says where: one folder for each user, which
/// others cannot write to.
fn cache_dir(given: Option<&PathBuf>) -> PathBuf {
    given.cloned().unwrap_or_else(|| {
        let user = rustix::process::geteuid().as_raw();
        env::temp_dir().join(format!("longshore-{user}"))
    })
}

/// `90s`, `2min`, or a bare number of seconds, as SageMaker's variables give it.
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

/// A time that may be switched off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OrOff(pub Option<Duration>);

fn duration_or_off(text: &str) -> Result<OrOff, String> {
    if ["off", "0"].contains(&text) {
        return Ok(OrOff(None));
    }
    duration(text)
        .map(|time| OrOff(Some(time)))
        .map_err(|error| format!("{error}, or `off`"))
}

/// The origin of pages in browsers: a scheme and a host, perhaps a port, or `*`.
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
        Err("what is written is a gzipped tar archive; end the name in .tar.gz".to_owned())
    }
}

/// Connections at a time when `open_files` may be open: models, their files and the log need some,
/// at least half of a few.
fn max_connections(open_files: Option<u64>) -> usize {
    const OTHERS: usize = 128;
    let open_files = open_files
        .and_then(|limit| usize::try_from(limit).ok())
        .unwrap_or(usize::MAX);
    open_files.saturating_sub(OTHERS).max(open_files / 2).max(1)
}

/// Of so many connections, those that only health checks keep.
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
        Ok(_) | Err(_) => Err(format!("expected 1 to {most}")),
    }
}

impl Cli {
    /// Reads the command line and the environment of this process; what is wrong ends it with a
    /// message.
    ///
    /// A variable that is set to nothing counts as not set: templates leave such behind.
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

/// An error about a value names the flag that it is for; in a container it comes from the flag's
/// variable, and that is what has to be changed.
fn with_variable(mut error: Error, mut command: clap::Command, variable: impl Fn(&OsStr) -> Option<OsString>) -> Error {
    let said = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text),
        Some(_) | None => None,
    };
    let (Some(flag), Some(value)) = (said(ContextKind::InvalidArg), said(ContextKind::InvalidValue)) else {
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
        let tip = format!("the variable {} has this value", name.display()).into();
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
