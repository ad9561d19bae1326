//! The log: one line per record on standard error, as text or JSON. The platform ships both
//! streams to CloudWatch line by line (ST-11).
//!
//! A record that a load causes is inside the load's span, which names the model. So every line
//! about a model has its name, however deep in the engine it is written.
//!
//! ONNX Runtime's own log is off unless ours is at `debug`: it repeats every failed run, and its
//! message is already in the error that the caller gets.

pub mod cause;
pub mod emf;
pub mod escape;
pub mod failures;
mod json;
pub mod latency;
pub mod levels;
mod lines;
pub mod metrics;
pub mod models;
pub mod propagation;
pub mod recorder;
pub mod request_log;
pub mod times;
pub mod traces;

use std::io::{self, IsTerminal, Stderr, Stdout, Write, stderr, stdout};
use std::panic;
use std::sync::{LazyLock, Mutex, OnceLock, PoisonError};

use tracing_subscriber::fmt;
use tracing_subscriber::prelude::*;

use crate::config::{LogFormat, LogLevel};

use escape::Style;
use json::JsonRecords;
use lines::Lines;

pub use levels::READY;

/// Standard error, locked while a line is written, as in the standard library.
static LOG: LazyLock<Mutex<Lines<Stderr>>> = LazyLock::new(|| Mutex::new(Lines::new(stderr())));

/// Standard output, for metrics. Like the log, it does not block the process.
static OUTPUT: LazyLock<Mutex<Lines<Stdout>>> = LazyLock::new(|| Mutex::new(Lines::new(stdout())));

/// The format of the log, once it has started.
static FORMAT: OnceLock<LogFormat> = OnceLock::new();

/// Starts the log of the process. Also logs panics that other code catches, with their location.
pub fn init(format: LogFormat, level: &LogLevel) {
    let registry = tracing_subscriber::registry().with(levels::layer(level));
    let has_colours = stderr().is_terminal();
    let text = Style::Text { has_colours };
    let format = *FORMAT.get_or_init(|| effective(format));
    match format {
        LogFormat::Auto | LogFormat::Text => registry
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
                    .event_format(JsonRecords)
                    .with_writer(|| Log(Style::Json)),
            )
            .init(),
    }
    panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let reason = panic.payload_as_str().unwrap_or("no message");
        tracing::error!(place, reason, "panic");
    }));
}

/// The format that `format` stands for: text for a terminal, which a person reads, and otherwise
/// JSON, which a program collects.
fn effective(format: LogFormat) -> LogFormat {
    match format {
        LogFormat::Auto if stderr().is_terminal() => LogFormat::Text,
        LogFormat::Auto => LogFormat::Json,
        LogFormat::Text | LogFormat::Json => format,
    }
}

/// The format of the log; `Text` before it starts.
pub fn format() -> LogFormat {
    FORMAT.get().copied().unwrap_or(LogFormat::Text)
}

/// Writes a line of the log of a container into this one. A reader that stops reading does not
/// block the process (`lines.rs`).
pub fn write_forwarded(container: &str, line: &str) -> io::Result<()> {
    match format() {
        LogFormat::Json => write_record(json::forwarded(container, line).as_bytes(), Style::Json),
        LogFormat::Auto | LogFormat::Text => {
            let line = format!("[{container}] {line}\n");
            write_record(line.as_bytes(), Style::Text { has_colours: false })
        }
    }
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
