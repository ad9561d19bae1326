//! Refusals as SageMaker's API gives them: clients look at the code, people read the message.

use serde_json::{Value, json};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AwsError {
    /// What was asked for cannot be, or names what is not there: SageMaker has no other code for either.
    #[error("{0}")]
    Validation(String),
    /// The body is not JSON, or a member is of another type.
    #[error("{0}")]
    Serialization(String),
    #[error("{0}")]
    UnknownOperation(String),
    #[error("{0}")]
    ResourceLimitExceeded(String),
    /// Nobody's fault who asked. Clients ask again.
    #[error("{0}")]
    Internal(String),
}

impl AwsError {
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

    /// The body of the reply, whose content type is `application/x-amz-json-1.1`.
    pub fn body(&self) -> Value {
        json!({"__type": self.code(), "message": self.to_string()})
    }
}
