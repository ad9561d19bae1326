//! Errors of SageMaker's API: clients check the code, people read the message.

use serde_json::{Value, json};

/// The cause for which the control plane refuses a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// The request is invalid or names a resource that does not exist. SageMaker has one code for
    /// both.
    #[error("{0}")]
    Validation(String),
    /// The body is not JSON, or a member has the wrong type.
    #[error("{0}")]
    Serialization(String),
    #[error("{0}")]
    UnknownOperation(String),
    #[error("{0}")]
    ResourceLimitExceeded(String),
    /// A failure of the server. Clients retry the request.
    #[error("{0}")]
    Internal(String),
}

impl ControlError {
    pub fn validation(message: impl Into<String>) -> Self {
        Self::Validation(message.into())
    }

    pub fn code(&self) -> &'static str {
        match self {
            Self::Validation(_) => "ValidationException",
            Self::Serialization(_) => "SerializationException",
            Self::UnknownOperation(_) => "UnknownOperationException",
            Self::ResourceLimitExceeded(_) => "ResourceLimitExceeded",
            Self::Internal(_) => "InternalFailure",
        }
    }

    pub fn status(&self) -> u16 {
        match self {
            Self::Validation(_)
            | Self::Serialization(_)
            | Self::UnknownOperation(_)
            | Self::ResourceLimitExceeded(_) => 400,
            Self::Internal(_) => 500,
        }
    }

    /// The body of the response, whose content type is `application/x-amz-json-1.1`.
    pub fn body(&self) -> Value {
        json!({"__type": self.code(), "message": self.to_string()})
    }
}
