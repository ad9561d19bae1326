//! Errors of requests of texts.

use jiter::{Jiter, JiterError, JsonError};

use crate::text::limits::TextLimit;

/// Errors of a request of texts, by cause.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    #[error("the body is not valid JSON: {problem} at line {line} column {column}")]
    Json {
        problem: String,
        line: usize,
        column: usize,
    },
    #[error("the body is not valid UTF-8 at byte {at}")]
    Utf8 { at: usize },
    #[error("{path}: {problem}")]
    Item { path: String, problem: String },
    #[error("the body has no texts")]
    Empty,
    /// The request exceeds a limit of [`crate::text::TextLimits`].
    #[error("{what}: {given}, at most {limit} allowed")]
    TooLarge {
        exceeded: TextLimit,
        what: String,
        given: u64,
        limit: u64,
    },
}

impl RequestError {
    #[cold]
    pub(super) fn item(path: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Item {
            path: path.into(),
            problem: problem.into(),
        }
    }

    #[cold]
    pub(super) fn json(jiter: &Jiter<'_>, error: &JiterError) -> Self {
        let position = error.get_position(jiter);
        Self::Json {
            problem: error.error_type.to_string(),
            line: position.line,
            column: position.column,
        }
    }

    /// Adds the number of the line to the error.
    pub(super) fn in_line(self, number: usize) -> Self {
        match self {
            Self::Json { problem, column, .. } => Self::Json {
                problem,
                line: number,
                column,
            },
            Self::Item { path, problem } => Self::Item {
                path: format!("line {number}: {path}"),
                problem,
            },
            Self::Utf8 { .. } | Self::Empty | Self::TooLarge { .. } => self,
        }
    }
}

impl From<JsonError> for RequestError {
    fn from(error: JsonError) -> Self {
        Self::Json {
            problem: error.error_type.to_string(),
            line: 1,
            column: error.index,
        }
    }
}
