//! The log: one line per record on standard error, as text or JSON. The platform ships both
//! streams to CloudWatch line by line (ST-11).
//!
//! ONNX Runtime's own log is off unless ours is at `debug`: it repeats every failed run, and its
//! message is already in the error that the caller gets.

pub mod cause;
pub mod emf;
pub mod escape;
pub mod failures;
pub mod latency;
mod lines;
pub mod metrics;
pub mod models;
pub mod recorder;

use std::io::{self, IsTerminal, Stderr, Stdout, Write, stderr, stdout};
use std::panic;
use std::sync::{LazyLock, Mutex, PoisonError};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt;
use tracing_subscriber::prelude::*;

use crate::config::{LogFormat, LogLevel};

use escape::Style;
use lines::Lines;

/// Standard error, locked while a line is written, as in the standard library.
static LOG: LazyLock<Mutex<Lines<Stderr>>> = LazyLock::new(|| Mutex::new(Lines::new(stderr())));

/// Standard output, for metrics. Like the log, it does not block the process.
static OUTPUT: LazyLock<Mutex<Lines<Stdout>>> = LazyLock::new(|| Mutex::new(Lines::new(stdout())));

/// Target of the record with the address on which a server listens. It is logged at every level
/// except `off`, because scripts wait for it, and it is the only source for a port that the system
/// chose.
pub const READY: &str = "longshore::ready";

/// Starts the log of the process. Also logs panics that other code catches, with their location.
pub fn init(format: LogFormat, level: LogLevel) {
    let onnx_runtime = if level.0 >= LevelFilter::DEBUG {
        LevelFilter::WARN
    } else {
        LevelFilter::OFF
    };
    let ready = match level.0 {
        LevelFilter::OFF => LevelFilter::OFF,
        level => level.max(LevelFilter::INFO),
    };
    let filter = Targets::new()
        .with_default(LevelFilter::WARN.min(level.0))
        .with_target("longshore", level.0)
        .with_target(READY, ready)
        .with_target("ort", onnx_runtime);
    let registry = tracing_subscriber::registry().with(filter);
    let has_colours = stderr().is_terminal();
    let text = Style::Text { has_colours };
    match format {
        LogFormat::Text => registry
            .with(
                fmt::layer()
                    .with_writer(move || Log(text))
                    .with_ansi(has_colours)
                    .with_target(false),
            )
            .init(),
        LogFormat::Json => registry
            .with(
                fmt::layer()
                    .json()
                    .flatten_event(true)
                    .with_writer(|| Log(Style::Json))
                    .with_target(false),
            )
            .init(),
    }
    panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let message = panic.payload_as_str().unwrap_or("no message");
        tracing::error!(place, message, "panic");
    }));
}

/// Writes a line of text, including its newline, into the log. A reader that stops reading does
/// not block the process (`lines.rs`).
pub fn write_line(line: &[u8]) -> io::Result<()> {
    write_record(line, Style::Text { has_colours: false })
}

/// Writes a line, including its newline, to standard output.
pub fn write_output(line: &[u8]) -> io::Result<()> {
    OUTPUT.lock().unwrap_or_else(PoisonError::into_inner).write(line)
}

fn write_record(record: &[u8], style: Style) -> io::Result<()> {
    let record = escape::record(record, style);
    LOG.lock().unwrap_or_else(PoisonError::into_inner).write(&record)
}

/// Writer for the records of `tracing`; each record is one call.
struct Log(Style);

impl Write for Log {
    fn write(&mut self, record: &[u8]) -> io::Result<usize> {
        write_record(record, self.0)?;
        Ok(record.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
