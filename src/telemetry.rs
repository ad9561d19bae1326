//! The log: one line per record on standard error, as text or JSON (ST-11: the platform ships both
//! streams to CloudWatch line by line).
//!
//! ONNX Runtime's own log is off unless ours is at `debug`: it reports every failed run a second
//! time, and what it says is in the error that the caller gets.

pub mod escape;
mod lines;
pub mod metrics;

use std::io::{self, IsTerminal, Stderr, Write, stderr};
use std::panic;
use std::str::FromStr;
use std::sync::{LazyLock, Mutex, PoisonError};

use clap::ValueEnum;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt;
use tracing_subscriber::prelude::*;

use escape::Style;
use lines::Lines;

/// Standard error. It is locked while a line is written, as that of the standard library is.
static LOG: LazyLock<Mutex<Lines<Stderr>>> = LazyLock::new(|| Mutex::new(Lines::new(stderr())));

/// How records are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For a person.
    Text,
    /// One JSON object per line.
    Json,
}

/// The least severe level that is written. Names, or Python's numbers as AWS's containers take
/// them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogLevel(pub LevelFilter);

impl FromStr for LogLevel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let level = match text.to_ascii_lowercase().as_str() {
            "off" => LevelFilter::OFF,
            "error" | "critical" | "40" | "50" => LevelFilter::ERROR,
            "warn" | "warning" | "30" => LevelFilter::WARN,
            "info" | "20" => LevelFilter::INFO,
            "debug" | "10" => LevelFilter::DEBUG,
            "trace" => LevelFilter::TRACE,
            _ => {
                return Err(
                    "expected off, error, warn, info, debug, trace, or one of Python's 10, 20, 30, 40, 50".to_owned(),
                );
            }
        };
        Ok(Self(level))
    }
}

/// The target of the record that says where a server listens. It is written at every level but
/// `off`: scripts wait for it, and without it nobody knows a port that was chosen by the system.
pub const READY: &str = "longshore::ready";

/// Starts the log for the process. Panics that are caught elsewhere are logged with their place.
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

/// Writes a line of text, which has its end, among those of the log. A reader that does not read
/// holds nobody up (`lines.rs`).
pub fn write_line(line: &[u8]) -> io::Result<()> {
    write_record(line, Style::Text { has_colours: false })
}

fn write_record(record: &[u8], style: Style) -> io::Result<()> {
    let record = escape::record(record, style);
    LOG.lock().unwrap_or_else(PoisonError::into_inner).write(&record)
}

/// What records are written to, each by one call.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_read_by_name_and_by_pythons_number() {
        let table = [
            ("INFO", Ok(LevelFilter::INFO)),
            ("20", Ok(LevelFilter::INFO)),
            ("40", Ok(LevelFilter::ERROR)),
            ("warning", Ok(LevelFilter::WARN)),
            ("25", Err(())),
            ("", Err(())),
        ];
        for (text, expected) in table {
            assert_eq!(
                text.parse::<LogLevel>().map(|level| level.0).map_err(drop),
                expected,
                "{text}"
            );
        }
    }
}
