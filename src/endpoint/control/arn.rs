//! ARNs, the names of resources on AWS.

use std::fmt;

/// The account of all resources.
pub const ACCOUNT: &str = "000000000000";

/// The kind of a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ResourceKind {
    Model,
    EndpointConfig,
    Endpoint,
}

impl ResourceKind {
    pub const ALL: [Self; 3] = [Self::Model, Self::EndpointConfig, Self::Endpoint];

    /// The kind in an ARN.
    pub fn segment(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::EndpointConfig => "endpoint-config",
            Self::Endpoint => "endpoint",
        }
    }
}

/// The kind in messages.
impl fmt::Display for ResourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Model => "model",
            Self::EndpointConfig => "endpoint configuration",
            Self::Endpoint => "endpoint",
        })
    }
}

/// Creates and parses the ARNs of one region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arns {
    region: String,
}

impl Arns {
    pub fn new(region: impl Into<String>) -> Self {
        Self { region: region.into() }
    }

    /// The ARN of a resource, in lower case as on AWS, where names are not case-sensitive.
    pub fn of(&self, kind: ResourceKind, name: &str) -> String {
        format!("{}{}", self.prefix(), resource(kind, name))
    }

    /// The resource that an ARN of this region and account names, such as `model/a`.
    pub fn resource<'a>(&self, arn: &'a str) -> Option<&'a str> {
        arn.strip_prefix(self.prefix().as_str())
    }

    fn prefix(&self) -> String {
        format!("arn:aws:sagemaker:{}:{ACCOUNT}:", self.region)
    }
}

/// The name of a resource within its region and account, such as `model/a`.
pub(super) fn resource(kind: ResourceKind, name: &str) -> String {
    format!("{}/{}", kind.segment(), name.to_ascii_lowercase())
}
