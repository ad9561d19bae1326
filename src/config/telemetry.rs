//! Options of the metrics and of the tools for operators.

use std::str::FromStr;

use clap::builder::BoolishValueParser;
use clap::{ArgAction, Args, ValueEnum};

use super::{DurationOrOff, duration_or_off};

/// Options of the metrics.
#[derive(Debug, Clone, Args)]
pub struct MetricsArgs {
    /// Whether the server counts its requests and answers GET /metrics
    #[arg(long, env = "LONGSHORE_METRICS", value_enum, default_value_t = MetricsSwitch::On, help_heading = "Metrics")]
    pub metrics: MetricsSwitch,

    /// Number of models that have metrics of their own: the busiest ones; the requests to all
    /// others are counted together
    #[arg(
        long,
        env = "LONGSHORE_METRICS_MODELS",
        value_name = "N",
        default_value_t = 10,
        value_parser = clap::value_parser!(u16).range(0..=1000),
        help_heading = "Metrics"
    )]
    pub metrics_models: u16,

    /// Interval at which metrics are written to standard output as JSON in CloudWatch's Embedded
    /// Metric Format, e.g. 60s, for platforms whose collector does not read /metrics; `off`
    /// writes none
    #[arg(
        long, env = "LONGSHORE_EMF", value_name = "TIME", value_parser = duration_or_off, default_value = "off",
        help_heading = "Metrics"
    )]
    pub emf: DurationOrOff,

    /// CloudWatch namespace of the metrics that --emf writes
    #[arg(
        long,
        env = "LONGSHORE_EMF_NAMESPACE",
        value_name = "NAME",
        value_parser = namespace,
        default_value = "Longshore",
        help_heading = "Metrics"
    )]
    pub emf_namespace: String,

    /// Dimension of the metrics that --emf writes, e.g. EndpointName=segments; repeatable, at most
    /// 8 [default: none]
    #[arg(
        long = "emf-dimension",
        env = "LONGSHORE_EMF_DIMENSION",
        value_name = "NAME=VALUE",
        value_delimiter = ',',
        help_heading = "Metrics"
    )]
    pub emf_dimensions: Vec<EmfDimension>,

    /// Answer POST /debug/profile/NAME with ONNX Runtime's own profile of a model; the request's
    /// body is a request to the model, which runs once
    #[arg(
        long, env = "LONGSHORE_PROFILES", value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1,
        require_equals = true, default_value_t = false, default_missing_value = "true",
        value_parser = BoolishValueParser::new(), help_heading = "Metrics"
    )]
    pub profiles: bool,
}

/// `--metrics`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum MetricsSwitch {
    On,
    Off,
}

/// `--emf-dimension`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmfDimension {
    pub name: String,
    pub value: String,
}

/// Names that a dimension cannot have: those of the metrics and of other members of a line.
const RESERVED_DIMENSIONS: [&str; 15] = [
    "Model",
    "_aws",
    "Invocations",
    "Errors",
    "Latency",
    "ColdStarts",
    "Loads",
    "LoadErrors",
    "Unloads",
    "Evictions",
    "ModelsLoaded",
    "QueueDepth",
    "QueueWait",
    "ComputeSaturation",
    "MemoryUsed",
];

/// Longest name or value of a dimension.
const LONGEST_DIMENSION: usize = 250;

impl FromStr for EmfDimension {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_valid = |part: &str| {
            (1..=LONGEST_DIMENSION).contains(&part.len())
                && part.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ')
                && !part.starts_with(':')
        };
        match text.split_once('=') {
            Some((name, value)) if is_valid(name) && is_valid(value) && !RESERVED_DIMENSIONS.contains(&name) => {
                Ok(Self {
                    name: name.to_owned(),
                    value: value.to_owned(),
                })
            }
            _ => Err(format!(
                "expected NAME=VALUE such as EndpointName=segments, each of 1 to {LONGEST_DIMENSION} ASCII characters, and a \
                 name other than those of the metrics"
            )),
        }
    }
}

/// Parses the name of a namespace, by CloudWatch's rules.
fn namespace(text: &str) -> Result<String, String> {
    let is_valid = |byte: u8| byte.is_ascii_alphanumeric() || b".-_/#:".contains(&byte);
    if (1..=255).contains(&text.len()) && text.bytes().all(is_valid) && !text.starts_with("AWS/") {
        Ok(text.to_owned())
    } else {
        Err(
            "expected a CloudWatch namespace: 1 to 255 of the characters A-Z a-z 0-9 . - _ / # :, not below AWS/"
                .to_owned(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dimension_is_a_name_and_a_value() {
        let dimension: EmfDimension = "EndpointName=a=b".parse().unwrap();
        assert_eq!(
            (dimension.name.as_str(), dimension.value.as_str()),
            ("EndpointName", "a=b")
        );
        for text in ["", "a", "=b", "a=", "Model=x", "_aws=x", ":a=b", "ä=b", "a=\n"] {
            assert!(text.parse::<EmfDimension>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_namespace_has_cloudwatchs_characters() {
        for (text, is_valid) in [
            ("Longshore", true),
            ("team/a_b.c-d:e#f", true),
            ("", false),
            ("a b", false),
            ("AWS/SageMaker", false),
        ] {
            assert_eq!(namespace(text).is_ok(), is_valid, "{text}");
        }
    }
}
