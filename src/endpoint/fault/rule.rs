//! The words of a rule.

use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;

/// One `--fault`.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    endpoint: Option<String>,
    variant: Option<String>,
    pub(super) kind: Kind,
    pub(super) when: When,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Kind {
    Latency(Duration),
    Error(u16),
    ModelError(u16),
    ModelNotReady,
    Kill(String),
    Memory(u64),
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum When {
    Always,
    Chance(f64),
    Each { count: u32, of: u32 },
}

/// What is wrong with a rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FaultError {
    #[error(
        "{0:?} is no fault; there are latency=DURATION, error=STATUS, model-error=STATUS, model-not-ready, kill=CONTAINER and \
         memory=SIZE"
    )]
    Kind(String),
    #[error("{0:?} is no time; write 200ms or 2s")]
    Latency(String),
    #[error("{0:?} is no status of an error; there are 400, 500, 503 and 530, or model-error=400 to 599")]
    Error(String),
    #[error("{0:?} is no status of a container's error; there are 400 to 599")]
    ModelError(String),
    #[error("kill needs the name of a container, such as model or container-2")]
    Kill,
    #[error("{0:?} is no size; write 512MiB")]
    Memory(String),
    #[error("{0:?} does not say how often; write 10% or 1/100")]
    When(String),
    #[error("a limit of memory holds from the start of a container on; leave out @{0}")]
    MemoryWhen(String),
    #[error("{0:?} names no endpoint; write ENDPOINT:FAULT or ENDPOINT/VARIANT:FAULT")]
    Scope(String),
}

impl Rule {
    pub(super) fn concerns(&self, endpoint: &str, variant: &str) -> bool {
        self.endpoint.as_deref().is_none_or(|named| named == endpoint)
            && self.variant.as_deref().is_none_or(|named| named == variant)
    }
}

impl FromStr for Rule {
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
        let kind = Kind::parse(fault)?;
        if let (Kind::Memory(_), Some(when)) = (&kind, when) {
            return Err(FaultError::MemoryWhen(when.to_owned()));
        }
        Ok(Self {
            endpoint,
            variant,
            kind,
            when: when.map_or(Ok(When::Always), When::parse)?,
        })
    }
}

impl Kind {
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

impl When {
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
    fn rules_are_read_as_they_are_documented() {
        let rule = |kind, when| Rule {
            endpoint: None,
            variant: None,
            kind,
            when,
        };
        let table = [
            (
                "latency=200ms",
                rule(Kind::Latency(Duration::from_millis(200)), When::Always),
            ),
            ("error=503@10%", rule(Kind::Error(503), When::Chance(0.1))),
            ("model-error=507", rule(Kind::ModelError(507), When::Always)),
            ("model-not-ready@5%", rule(Kind::ModelNotReady, When::Chance(0.05))),
            (
                "kill=container-2@1/100",
                rule(Kind::Kill("container-2".to_owned()), When::Each { count: 1, of: 100 }),
            ),
            ("memory=512MiB", rule(Kind::Memory(512 << 20), When::Always)),
        ];
        for (text, expected) in table {
            assert_eq!(text.parse(), Ok(expected.clone()), "{text}");
            let scoped = Rule {
                endpoint: Some("shop".to_owned()),
                variant: Some("blue".to_owned()),
                ..expected
            };
            assert_eq!(format!("shop/blue:{text}").parse(), Ok(scoped), "{text}");
        }
    }

    #[test]
    fn what_is_no_rule_is_refused_with_what_to_write() {
        let table = [
            ("", "is no fault"),
            ("slow=1s", "is no fault"),
            ("model-not-ready=1", "is no fault"),
            ("latency=fast", "write 200ms"),
            ("error=404", "400, 500, 503 and 530"),
            ("model-error=200", "400 to 599"),
            ("kill", "name of a container"),
            ("memory=", "write 512MiB"),
            ("memory=0", "write 512MiB"),
            ("memory=1GiB@10%", "leave out @10%"),
            ("error=503@", "write 10% or 1/100"),
            ("error=503@101%", "write 10% or 1/100"),
            ("error=503@-1%", "write 10% or 1/100"),
            ("error=503@NaN%", "write 10% or 1/100"),
            ("error=503@2/1", "write 10% or 1/100"),
            ("error=503@1/0", "write 10% or 1/100"),
            (":error=503", "names no endpoint"),
            ("shop/:error=503", "names no endpoint"),
            ("/blue:error=503", "names no endpoint"),
        ];
        for (text, expected) in table {
            let message = text.parse::<Rule>().unwrap_err().to_string();
            assert!(message.contains(expected), "{text}: {message}");
        }
    }
}
