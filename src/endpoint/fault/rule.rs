//! The syntax of a fault rule.

use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;

/// One fault rule, the value of a `--fault`.
#[derive(Debug, Clone, PartialEq)]
pub struct FaultRule {
    endpoint: Option<String>,
    variant: Option<String>,
    pub(super) kind: FaultKind,
    pub(super) when: Frequency,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum FaultKind {
    Latency(Duration),
    Error(u16),
    ModelError(u16),
    ModelNotReady,
    Kill(String),
    Memory(u64),
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Frequency {
    Always,
    Chance(f64),
    Each { count: u32, of: u32 },
}

/// The reason why a rule is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FaultError {
    #[error(
        "unknown fault {0:?}: expected latency=DURATION, error=STATUS, model-error=STATUS, model-not-ready, \
         kill=CONTAINER or memory=SIZE"
    )]
    Kind(String),
    #[error("invalid duration {0:?}: expected a value such as 200ms or 2s")]
    Latency(String),
    #[error("invalid error status {0:?}: expected 400, 500, 503 or 530; model-error takes 400 to 599")]
    Error(String),
    #[error("invalid model-error status {0:?}: expected 400 to 599")]
    ModelError(String),
    #[error("kill: expected the name of a container, such as kill=model or kill=container-2")]
    Kill,
    #[error("invalid size {0:?}: expected a value such as 512MiB")]
    Memory(String),
    #[error("invalid frequency {0:?}: expected a value such as 10% or 1/100")]
    When(String),
    #[error("a memory limit always applies, from the start of the container; remove @{0}")]
    MemoryWhen(String),
    #[error("invalid scope {0:?}: expected ENDPOINT:FAULT or ENDPOINT/VARIANT:FAULT")]
    Scope(String),
}

impl FaultRule {
    pub(super) fn applies_to(&self, endpoint: &str, variant: &str) -> bool {
        self.endpoint.as_deref().is_none_or(|named| named == endpoint)
            && self.variant.as_deref().is_none_or(|named| named == variant)
    }
}

impl FromStr for FaultRule {
    type Err = FaultError;

    fn from_str(text: &str) -> Result<Self, FaultError> {
        let (scope, rest) = match text.split_once(':') {
            Some((scope, rest)) => (Some(scope), rest),
            None => (None, text),
        };
        let (fault, when) = match rest.split_once('@') {
            Some((fault, when)) => (fault, Some(when)),
            None => (rest, None),
        };
        let (endpoint, variant) = match scope.map(|scope| scope.split_once('/').unwrap_or((scope, "*"))) {
            None => (None, None),
            Some(("", _) | (_, "")) => return Err(FaultError::Scope(scope.unwrap_or_default().to_owned())),
            Some((endpoint, "*")) => (Some(endpoint.to_owned()), None),
            Some((endpoint, variant)) => (Some(endpoint.to_owned()), Some(variant.to_owned())),
        };
        let kind = FaultKind::parse(fault)?;
        if let (FaultKind::Memory(_), Some(when)) = (&kind, when) {
            return Err(FaultError::MemoryWhen(when.to_owned()));
        }
        Ok(Self {
            endpoint,
            variant,
            kind,
            when: when.map_or(Ok(Frequency::Always), Frequency::parse)?,
        })
    }
}

impl FaultKind {
    fn parse(text: &str) -> Result<Self, FaultError> {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        let own = || value.to_owned();
        match name {
            "latency" => match humantime::parse_duration(value) {
                Ok(latency) => Ok(Self::Latency(latency)),
                Err(_) => Err(FaultError::Latency(own())),
            },
            "error" => match value.parse() {
                Ok(status @ (400 | 500 | 503 | 530)) => Ok(Self::Error(status)),
                _ => Err(FaultError::Error(own())),
            },
            "model-error" => match value.parse() {
                Ok(status @ 400..600) => Ok(Self::ModelError(status)),
                _ => Err(FaultError::ModelError(own())),
            },
            "model-not-ready" if value.is_empty() => Ok(Self::ModelNotReady),
            "kill" if value.is_empty() => Err(FaultError::Kill),
            "kill" => Ok(Self::Kill(own())),
            "memory" => match value.parse::<ByteSize>() {
                Ok(ByteSize(bytes @ 1..)) => Ok(Self::Memory(bytes)),
                _ => Err(FaultError::Memory(own())),
            },
            _ => Err(FaultError::Kind(text.to_owned())),
        }
    }
}

impl Frequency {
    fn parse(text: &str) -> Result<Self, FaultError> {
        let wrong = || FaultError::When(text.to_owned());
        if let Some(percent) = text.strip_suffix('%') {
            return match percent.parse::<f64>() {
                Ok(percent) if (0.0..=100.0).contains(&percent) => Ok(Self::Chance(percent / 100.0)),
                _ => Err(wrong()),
            };
        }
        let (count, of) = text.split_once('/').ok_or_else(wrong)?;
        match (count.parse(), of.parse()) {
            (Ok(count), Ok(of)) if count <= of && of > 0 => Ok(Self::Each { count, of }),
            _ => Err(wrong()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_parsed_as_documented() {
        let rule = |kind, when| FaultRule {
            endpoint: None,
            variant: None,
            kind,
            when,
        };
        let table = [
            (
                "latency=200ms",
                rule(FaultKind::Latency(Duration::from_millis(200)), Frequency::Always),
            ),
            ("error=503@10%", rule(FaultKind::Error(503), Frequency::Chance(0.1))),
            ("model-error=507", rule(FaultKind::ModelError(507), Frequency::Always)),
            (
                "model-not-ready@5%",
                rule(FaultKind::ModelNotReady, Frequency::Chance(0.05)),
            ),
            (
                "kill=container-2@1/100",
                rule(
                    FaultKind::Kill("container-2".to_owned()),
                    Frequency::Each { count: 1, of: 100 },
                ),
            ),
            ("memory=512MiB", rule(FaultKind::Memory(512 << 20), Frequency::Always)),
        ];
        for (text, expected) in table {
            assert_eq!(text.parse(), Ok(expected.clone()), "{text}");
            let scoped = FaultRule {
                endpoint: Some("shop".to_owned()),
                variant: Some("blue".to_owned()),
                ..expected
            };
            assert_eq!(format!("shop/blue:{text}").parse(), Ok(scoped), "{text}");
        }
    }

    #[test]
    fn invalid_rules_are_refused_with_the_expected_form() {
        let table = [
            ("", "unknown fault"),
            ("slow=1s", "unknown fault"),
            ("model-not-ready=1", "unknown fault"),
            ("latency=fast", "such as 200ms"),
            ("error=404", "400, 500, 503 or 530"),
            ("model-error=200", "400 to 599"),
            ("kill", "name of a container"),
            ("memory=", "such as 512MiB"),
            ("memory=0", "such as 512MiB"),
            ("memory=1GiB@10%", "remove @10%"),
            ("error=503@", "such as 10% or 1/100"),
            ("error=503@101%", "such as 10% or 1/100"),
            ("error=503@-1%", "such as 10% or 1/100"),
            ("error=503@NaN%", "such as 10% or 1/100"),
            ("error=503@2/1", "such as 10% or 1/100"),
            ("error=503@1/0", "such as 10% or 1/100"),
            (":error=503", "invalid scope"),
            ("shop/:error=503", "invalid scope"),
            ("/blue:error=503", "invalid scope"),
        ];
        for (text, expected) in table {
            let message = text.parse::<FaultRule>().unwrap_err().to_string();
            assert!(message.contains(expected), "{text}: {message}");
        }
    }
}
