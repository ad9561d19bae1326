//! The reasons why a body gives no texts.

use jiter::{Jiter, JiterError, JsonError};

/// The mistakes of a request of texts, by cause.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    #[error("the body is not JSON: {problem} at line {line} column {column}")]
    Json {
        problem: String,
        line: usize,
        column: usize,
    },
    #[error("the body is not UTF-8: the byte at {at} begins no character")]
    Utf8 { at: usize },
    #[error("{path}: {problem}")]
    Item { path: String, problem: String },
    #[error("the body has no texts")]
    Empty,
    /// A bound of [`crate::text::Limits`].
    #[error("{what}: {given} where at most {limit} are accepted")]
    TooLarge { what: String, given: u64, limit: u64 },
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

    /// The error of a line of a body.
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
