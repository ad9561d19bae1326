//! Format and level of the log. `telemetry` writes it.

use std::str::FromStr;

use clap::ValueEnum;
use tracing::level_filters::LevelFilter;

/// `--log-format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines for a person to read
    Text,
    /// One JSON object per line
    Json,
}

/// `--log-level`: the least severe level that is logged. Accepts names and, as AWS's containers
/// do, Python's numbers.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_level_is_a_name_or_one_of_pythons_numbers() {
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
