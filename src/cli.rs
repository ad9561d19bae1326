//! The commands: parses the command line, connects the modules, and controls start and stop.
//!
//! `serve` runs as two processes: the supervisor, which holds the listening socket, and its
//! worker, which serves the requests.

mod endpoint;
mod inspect;
mod pack;
mod plan;
mod serve;
mod snapshot;
mod source;
mod table;
mod top;

use std::env;
use std::ffi::OsString;
use std::io::{IsTerminal, stderr};
use std::net::TcpListener;
use std::path::Path;
use std::process::ExitCode;

use actix_web::rt::System;
use anyhow::{Context, Result};
use tracing::level_filters::LevelFilter;

use crate::archive;
use crate::config::{
    ArchiveArgs, Cli, Command, EndpointArgs, ExamineArgs, LogFormat, LogLevel, PrepareArgs, ServeArgs, TetherArgs,
};
use crate::endpoint::tether;
use crate::engine::{self, Examiner};
use crate::manifest;
use crate::supervisor::{self, Inheritance, RefusalTimes};
use crate::telemetry;
use crate::telemetry::escape::plain;

use serve::serve;

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let telemetry_is_off = engine::disable_telemetry();
    let cli = Cli::read();
    let (args, is_worker) = match cli.command {
        Some(Command::Worker(args)) => (*args, true),
        Some(Command::Serve(args)) => (*args, false),
        Some(Command::Prepare(args)) => prepare(&args),
        Some(Command::Tether(args)) => become_tied(&args),
        Some(Command::Endpoint(args)) => endpoint(&args),
        Some(Command::Pack(args)) => end(pack::run(&args)),
        Some(Command::Inspect(args)) => end(inspect::run(&args)),
        Some(Command::Top(args)) => end(System::new().block_on(top::run(&args))),
        Some(Command::Plan(args)) => end(System::new().block_on(plan::run(&args))),
        Some(Command::Schema) => end(table::print(format_args!("{:#}\n", manifest::schema())).map_err(Into::into)),
        None => (cli.serve, false),
    };
    telemetry::init(args.log_format, &args.log_level);
    // The kernel writes no core dump of a hidden process, so a worker with --core-dumps stays
    // visible.
    if !(is_worker && args.core_dumps) {
        hide();
    }
    if !telemetry_is_off {
        tracing::warn!("ONNX Runtime may send telemetry to its vendor; set ORT_DISABLE_TELEMETRY=1");
    }
    let ended = if is_worker {
        work(&args)
    } else if args.supervise {
        supervise(&args)
    } else {
        listen(&args).and_then(|listener| System::new().block_on(serve(&args, listener, Inheritance::default())))
    };
    // Not `ExitCode`, which runs C++ destructors: models may still be loading on threads that
    // cannot be interrupted.
    exit(ended)
}

/// Hides the memory, environment and descriptors of this process from other processes of its user.
/// Processes that prepare models run untrusted code, and the environment contains credentials.
fn hide() {
    if let Err(error) = engine::hide() {
        tracing::warn!(%error, "other processes of this user can read and change the memory of this process");
    }
}

/// Ends the process of a serving command and logs an error.
fn exit(ended: Result<i32>) -> ! {
    engine::exit_now(ended.unwrap_or_else(|error| {
        tracing::error!("{}", causes(&error));
        1
    }))
}

/// Ends the process of a one-shot command and prints an error.
fn end(result: Result<()>) -> ! {
    engine::exit_now(match result {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("longshore: {}", plain(&causes(&error)));
            1
        }
    })
}

/// Whether `path` is an archive rather than a model's folder or file.
fn is_archive(path: &Path) -> Result<bool> {
    let failed = || format!("{} is neither a model nor an archive of a model", path.display());
    Ok(path.is_file() && archive::is_archive(path).with_context(failed)?)
}

/// Joins an error and its causes; leaves out a cause whose text is already in the error before it.
fn causes(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |mut text, cause| {
        let cause = cause.to_string();
        if text.is_empty() {
            return cause;
        }
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
        text
    })
}

/// Prints the current step if standard error is a terminal.
fn progress(what: &str) {
    if stderr().is_terminal() {
        eprintln!("{what} ...");
    }
}

/// Starts the log (warnings only) and ONNX Runtime, for the commands that examine a model.
fn examiner(args: &ExamineArgs) -> Result<Examiner> {
    telemetry::init(LogFormat::Text, &LogLevel::of(LevelFilter::WARN));
    Ok(Examiner::start(&engine::ExamineBounds {
        libraries: engine::Libraries {
            onnxruntime: args.onnxruntime.clone(),
            operators: args.operators.clone(),
        },
        timeout: args.prepare_timeout,
        memory: args.prepare_memory.as_u64(),
    })?)
}

/// Prepares models until the server that started this process has no more.
fn prepare(args: &PrepareArgs) -> ! {
    let libraries = engine::Libraries {
        onnxruntime: args.onnxruntime.clone(),
        operators: args.operators.clone(),
    };
    // The server does not read standard error; it sees only the exit code.
    engine::exit_now(match engine::run_child(&args.folder, &libraries) {
        Ok(()) => 0,
        Err(_) => 1,
    })
}

/// Emulates SageMaker.
fn endpoint(args: &EndpointArgs) -> ! {
    telemetry::init(args.log_format, &args.log_level);
    hide();
    exit(System::new().block_on(endpoint::run(args)))
}

/// Replaces this process with another command, which gets a signal when its parent process ends.
fn become_tied(args: &TetherArgs) -> ! {
    let error = tether::run_with_parent_death_signal(args.parent, args.parting, &args.command);
    let command = args.command.first().map(OsString::as_os_str).unwrap_or_default();
    eprintln!("longshore: start {}: {error}", plain(&command.to_string_lossy()));
    // The exit code with which a shell reports a missing command.
    engine::exit_now(127)
}

/// Runs the supervisor, which keeps a worker running.
fn supervise(args: &ServeArgs) -> Result<i32> {
    let settings = supervisor::SupervisorConfig {
        arguments: worker_arguments(env::args_os().skip(1)),
        // With a single model there are no others to protect from it, and a model that crashes
        // sometimes is better than none.
        refusals: (args.multi_model || args.model_store.is_some()).then_some(RefusalTimes {
            first: args.first_refusal,
            longest: args.bad_model_ttl,
        }),
        worker_timeout: args.worker_timeout.0,
    };
    Ok(supervisor::run(listen(args)?, settings)?)
}

/// Returns the arguments of the command, without its optional name.
fn worker_arguments(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments = arguments.peekable();
    arguments.next_if(|first| first == "serve");
    arguments.collect()
}

/// Serves as the worker of the supervisor that started this process.
fn work(args: &ServeArgs) -> Result<i32> {
    let (listener, inheritance) = supervisor::join(args.core_dumps)?;
    System::new().block_on(serve(args, listener, inheritance))
}

fn listen(args: &ServeArgs) -> Result<TcpListener> {
    TcpListener::bind((args.http.bind, args.http.port)).with_context(|| {
        format!(
            "listen on {}:{}; choose another --port if it is in use",
            args.http.bind, args.http.port
        )
    })
}

/// Returns the limits on archives.
fn bounds(args: &ArchiveArgs) -> archive::UnpackLimits {
    archive::UnpackLimits {
        entries: args.max_entries,
        bytes: args.max_unpacked.as_u64(),
        ratio: args.max_ratio,
    }
}
