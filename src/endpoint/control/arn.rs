//! Names of resources as AWS writes them.

use std::fmt;

/// The account to which everything here belongs.
pub const ACCOUNT: &str = "000000000000";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Model,
    EndpointConfig,
    Endpoint,
}

impl Kind {
    pub const ALL: [Self; 3] = [Self::Model, Self::EndpointConfig, Self::Endpoint];

    /// In an ARN.
    pub fn segment(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::EndpointConfig => "endpoint-config",
            Self::Endpoint => "endpoint",
        }
    }
}

/// In messages.
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Model => "model",
            Self::EndpointConfig => "endpoint configuration",
            Self::Endpoint => "endpoint",
        })
    }
}

/// Makes ARNs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arns {
    region: String,
}

impl Arns {
    pub fn new(region: impl Into<String>) -> Self {
        Self { region: region.into() }
    }

    /// In lower case, as on AWS, where two names that differ in case only are the same.
    pub fn of(&self, kind: Kind, name: &str) -> String {
        format!("{}{}", self.prefix(), resource(kind, name))
    }

    /// What an ARN of this place names: `model/a`.
    pub fn resource<'a>(&self, arn: &'a str) -> Option<&'a str> {
        arn.strip_prefix(self.prefix().as_str())
    }

    fn prefix(&self) -> String {
        format!("arn:aws:sagemaker:{}:{ACCOUNT}:", self.region)
    }
}

/// What a resource is called within its place: `model/a`.
pub(super) fn resource(kind: Kind, name: &str) -> String {
    format!("{}/{}", kind.segment(), name.to_ascii_lowercase())
}
