//! The commands: parses the line, wires the parts, owns start and stop.
//!
//! `serve` is two processes: a `supervisor`, which listens, and the worker that it starts, which
//! does all the rest.

mod endpoint;
mod inspect;
mod pack;
mod serve;
mod snapshot;
mod source;
mod table;

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
use crate::config::{ArchiveArgs, Cli, Command, EndpointArgs, ExamineArgs, PrepareArgs, ServeArgs, TetherArgs};
use crate::endpoint::tether;
use crate::engine::{self, Examiner};
use crate::manifest;
use crate::supervisor::{self, Inheritance, RefusalTimes};
use crate::telemetry::escape::plain;
use crate::telemetry::{self, LogFormat, LogLevel};

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
        Some(Command::Schema) => end(table::print(format_args!("{:#}\n", manifest::schema())).map_err(Into::into)),
        None => (cli.serve, false),
    };
    telemetry::init(args.log_format, args.log_level);
    // The system dumps no process that hides. The one that may be dumped is the one that runs
    // models.
    if !(is_worker && args.core_dumps) {
        hide();
    }
    if !telemetry_is_off {
        tracing::warn!("set ORT_DISABLE_TELEMETRY=1, or ONNX Runtime may report to its vendor");
    }
    let ended = if is_worker {
        work(&args)
    } else if args.supervise {
        supervise(&args)
    } else {
        listen(&args).and_then(|listener| System::new().block_on(serve(&args, listener, Inheritance::default())))
    };
    // Not `ExitCode`: models may still be loading, on threads that nothing can interrupt.
    exit(ended)
}

/// Keeps this process's memory, environment and descriptors from other processes of its user: those
/// that prepare models run strangers' code, and the environment has credentials.
fn hide() {
    if let Err(error) = engine::hide() {
        tracing::warn!(%error, "other processes of this user can read and change the memory of this one");
    }
}

/// Ends the process of a command that serves; logs what went wrong.
fn exit(ended: Result<i32>) -> ! {
    engine::exit_now(ended.unwrap_or_else(|error| {
        tracing::error!("{}", causes(&error));
        1
    }))
}

/// Ends the process of a command that does its work and is done; says what went wrong.
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
    let failed = || format!("{} is neither a model nor an archive of one", path.display());
    Ok(path.is_file() && archive::is_archive(path).with_context(failed)?)
}

/// What went wrong and why, where a cause is not in the text of what it caused.
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

/// Says to whoever sits at the terminal what takes its time.
fn progress(what: &str) {
    if stderr().is_terminal() {
        eprintln!("{what} ...");
    }
}

/// What the commands that look at a model start with: the log, which only warns, and ONNX Runtime.
fn examiner(args: &ExamineArgs) -> Result<Examiner> {
    telemetry::init(LogFormat::Text, LogLevel(LevelFilter::WARN));
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
    // Whoever reads standard error is not there; how it ends is what the server sees.
    engine::exit_now(match engine::run_child(&args.folder, &libraries) {
        Ok(()) => 0,
        Err(_) => 1,
    })
}

/// Stands in for SageMaker.
fn endpoint(args: &EndpointArgs) -> ! {
    telemetry::init(args.log_format, args.log_level);
    hide();
    exit(System::new().block_on(endpoint::run(args)))
}

/// Makes this process another command, tied to the process that started it.
fn become_tied(args: &TetherArgs) -> ! {
    let error = tether::run_with_parent_death_signal(args.parent, args.parting, &args.command);
    let command = args.command.first().map(OsString::as_os_str).unwrap_or_default();
    eprintln!("longshore: start {}: {error}", plain(&command.to_string_lossy()));
    // As a shell says it of a command that is not there.
    engine::exit_now(127)
}

/// Keeps a worker that serves.
fn supervise(args: &ServeArgs) -> Result<i32> {
    let settings = supervisor::SupervisorConfig {
        arguments: worker_arguments(env::args_os().skip(1)),
        // With one model there is nobody to protect from it, and no model is worse than one that
        // fails at times.
        refusals: (args.multi_model || args.model_store.is_some()).then_some(RefusalTimes {
            first: args.first_refusal,
            longest: args.bad_model_ttl,
        }),
        worker_timeout: args.worker_timeout.0,
    };
    Ok(supervisor::run(listen(args)?, settings)?)
}

/// The arguments after the command's name, which may be left out.
fn worker_arguments(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments = arguments.peekable();
    arguments.next_if(|first| first == "serve");
    arguments.collect()
}

/// Serves for the supervisor that has started this process.
fn work(args: &ServeArgs) -> Result<i32> {
    let (listener, inheritance) = supervisor::join(args.core_dumps)?;
    System::new().block_on(serve(args, listener, inheritance))
}

fn listen(args: &ServeArgs) -> Result<TcpListener> {
    TcpListener::bind((args.bind, args.port))
        .with_context(|| format!("listen on {}:{}; --port chooses another", args.bind, args.port))
}

/// How much an archive may hold.
fn bounds(args: &ArchiveArgs) -> archive::UnpackLimits {
    archive::UnpackLimits {
        entries: args.max_entries,
        bytes: args.max_unpacked.as_u64(),
        ratio: args.max_ratio,
    }
}
