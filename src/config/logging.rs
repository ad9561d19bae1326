//! Options of the log and of the traces. `telemetry` writes them.

use std::fmt;
use std::str::FromStr;

use clap::builder::BoolishValueParser;
use clap::{ArgAction, Args, ValueEnum};
use tracing::level_filters::LevelFilter;

/// `--log-format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere
    Auto,
    /// Lines for a person to read
    Text,
    /// One JSON object per line
    Json,
}

/// `--log-level`: the least severe level that is logged, and other levels for single modules.
/// Accepts names and, as AWS's containers do, Python's numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLevel {
    pub level: LevelFilter,
    /// Modules below `longshore`, such as `store` or `engine::load`, with their levels.
    pub modules: Vec<(String, LevelFilter)>,
}

impl LogLevel {
    /// The same level for all modules.
    pub const fn of(level: LevelFilter) -> Self {
        Self {
            level,
            modules: Vec::new(),
        }
    }
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.level)?;
        for (module, level) in &self.modules {
            write!(f, ",{module}={level}")?;
        }
        Ok(())
    }
}

impl FromStr for LogLevel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || {
            "expected off, error, warn, info, debug, trace, or one of Python's 10, 20, 30, 40, 50; with levels of single \
             modules after it, such as info,store=debug"
                .to_owned()
        };
        let mut parts = text.split(',');
        let level = parts.next().and_then(named).ok_or_else(wrong)?;
        let modules = parts.map(|part| {
            let (module, level) = part.split_once('=').ok_or_else(wrong)?;
            let is_valid = |byte: u8| byte.is_ascii_lowercase() || byte == b'_' || byte == b':';
            let level = named(level).filter(|_| !module.is_empty() && module.bytes().all(is_valid));
            Ok((module.to_owned(), level.ok_or_else(wrong)?))
        });
        Ok(Self {
            level,
            modules: modules.collect::<Result<_, String>>()?,
        })
    }
}

/// Returns the level of a name or of one of Python's numbers.
fn named(text: &str) -> Option<LevelFilter> {
    Some(match text.to_ascii_lowercase().as_str() {
        "off" => LevelFilter::OFF,
        "error" | "critical" | "40" | "50" => LevelFilter::ERROR,
        "warn" | "warning" | "30" => LevelFilter::WARN,
        "info" | "20" => LevelFilter::INFO,
        "debug" | "10" => LevelFilter::DEBUG,
        "trace" => LevelFilter::TRACE,
        _ => return None,
    })
}

/// A share of the requests, from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Share(pub f64);

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0.0 => write!(f, "off"),
            share => write!(f, "{share}"),
        }
    }
}

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let share = match text.strip_suffix('%') {
            Some(percent) => percent.parse::<f64>().ok().map(|percent| percent / 100.0),
            None if text == "off" => Some(0.0),
            None => text.parse().ok(),
        };
        let share = share.filter(|share| (0.0..=1.0).contains(share));
        share
            .map(Self)
            .ok_or_else(|| "expected a share of the requests from 0 to 1, such as 0.01 or 1%, or off".to_owned())
    }
}

/// Options of the requests' records in the log, and of the traces.
#[derive(Debug, Clone, Args)]
pub struct TraceArgs {
    /// Share of the answered requests that are logged, chosen at random, e.g. 0.01 or 1%; failed
    /// requests are always logged, health checks never
    #[arg(
        long,
        env = "LONGSHORE_ACCESS_LOG",
        value_name = "SHARE",
        default_value = "off",
        help_heading = "Log"
    )]
    pub access_log: Share,

    /// Answer GET and PUT /debug/log-level, which return and change the level of the log
    #[arg(
        long, env = "LONGSHORE_LOG_CONTROL", value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1,
        require_equals = true, default_value_t = false, default_missing_value = "true",
        value_parser = BoolishValueParser::new(), help_heading = "Log"
    )]
    pub log_control: bool,

    /// URL of an OpenTelemetry collector to which traces of requests are sent over HTTP, e.g.
    /// http://localhost:4318; the path /v1/traces is added [default: no traces]
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL", value_parser = collector, help_heading = "Traces")]
    pub otlp_endpoint: Option<String>,

    /// Share of the requests without a traceparent header that are traced, chosen at random;
    /// otherwise the header decides
    #[arg(
        long,
        env = "OTEL_TRACES_SAMPLER_ARG",
        value_name = "SHARE",
        default_value = "1",
        help_heading = "Traces"
    )]
    pub otlp_sample: Share,

    /// Name of this service in the traces
    #[arg(
        long,
        env = "OTEL_SERVICE_NAME",
        value_name = "NAME",
        default_value = "longshore",
        help_heading = "Traces"
    )]
    pub otlp_service: String,
}

/// Parses the URL of a collector, without the path of the traces.
fn collector(text: &str) -> Result<String, String> {
    let url = reqwest::Url::parse(text).ok();
    let url = url.filter(|url| matches!(url.scheme(), "http" | "https") && url.host().is_some());
    let url = url.filter(|url| url.query().is_none() && url.fragment().is_none());
    let url = url.ok_or("expected the URL of a collector such as http://localhost:4318")?;
    Ok(url.as_str().trim_end_matches('/').to_owned())
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
            let parsed = text.parse::<LogLevel>();
            assert_eq!(parsed.map_err(drop), expected.map(LogLevel::of), "{text}");
        }
    }

    #[test]
    fn modules_can_have_levels_of_their_own() {
        let parsed: LogLevel = "warn,store=debug,engine::load=10".parse().unwrap();
        let modules = [("store", LevelFilter::DEBUG), ("engine::load", LevelFilter::DEBUG)];
        assert_eq!(parsed.modules, modules.map(|(name, level)| (name.to_owned(), level)));
        assert_eq!(parsed.to_string(), "warn,store=debug,engine::load=debug");
        assert_eq!(parsed.to_string().parse(), Ok(parsed));
        for text in [
            "store=debug",
            "info,store",
            "info,=debug",
            "info,store=loud",
            "info,a b=info",
            "info,",
        ] {
            assert!(text.parse::<LogLevel>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_share_is_a_number_or_a_percentage() {
        for (text, expected) in [
            ("0.01", 0.01),
            ("1%", 0.01),
            ("100%", 1.0),
            ("1", 1.0),
            ("off", 0.0),
            ("0", 0.0),
        ] {
            assert_eq!(text.parse(), Ok(Share(expected)), "{text}");
        }
        for text in ["", "2", "-1", "101%", "NaN", "one", "%"] {
            assert!(text.parse::<Share>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_collector_is_an_http_url_without_a_query() {
        assert_eq!(collector("http://host:4318/"), Ok("http://host:4318".to_owned()));
        assert_eq!(collector("https://host/prefix"), Ok("https://host/prefix".to_owned()));
        for text in ["", "host:4318", "grpc://host:4317", "http://host/?a=b"] {
            assert!(collector(text).is_err(), "{text}");
        }
    }
}
