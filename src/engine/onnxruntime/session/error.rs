//! Errors of sessions and runs, sorted by their cause, which decides whether the model is
//! quarantined.
//!
//! ONNX Runtime reports almost everything with one code and a text, so the text decides
//! (`message.rs`), after it is shortened to what a caller may see (`redact.rs`).

use super::message::{is_device_failure, is_out_of_descriptors, is_out_of_memory, missing_locale, remedy};
use super::redact::without_places;

/// Maximum number of characters of a locale's name in an error.
const LONGEST_LOCALE: usize = 64;

/// Reason why a file did not become a session.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    #[error("ONNX Runtime refuses the model: {0}")]
    Rejected(String),
    #[error("the model's {0}")]
    Unsupported(String),
    #[error("there was no memory left to load the model")]
    OutOfMemory,
    /// Not the model's fault: the process, or the machine, has no file descriptors left.
    #[error("the model's file cannot be opened now: too many files are open")]
    NoDescriptors,
    /// Not the model's fault.
    #[error("the GPU failed: {0}")]
    Device(String),
}

impl SessionError {
    /// Whether the cause is in the model's file.
    pub fn is_about_content(&self) -> bool {
        match self {
            Self::Rejected(_) | Self::Unsupported(_) => true,
            Self::OutOfMemory | Self::NoDescriptors | Self::Device(_) => false,
        }
    }
}

/// Reason why a run has no outputs.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The request's data made an operator fail (an index out of range, shapes that do not match).
    #[error("the model cannot run on this input: {0}")]
    Data(String),
    #[error("there was no memory left to run the model on this input")]
    OutOfMemory,
    #[error("the run was cancelled")]
    Cancelled,
    /// Like [`Self::Data`]: the data made an operator divide without a result.
    #[error("the model divides integers by zero, or the least integer by -1, with this data")]
    Division,
    /// Not the request's fault: divisions of other requests disturbed its run each time.
    #[error("runs of other requests disturbed this one; try again")]
    Disturbed,
    #[error("ONNX Runtime failed: {0}")]
    Runtime(String),
}

pub(super) fn session_error(error: &ort::Error) -> SessionError {
    let message = without_places(error.message());
    if is_out_of_memory(&message) {
        SessionError::OutOfMemory
    } else if is_out_of_descriptors(&message) {
        SessionError::NoDescriptors
    } else if is_device_failure(&message) {
        SessionError::Device(message)
    } else if let Some(locale) = missing_locale(&message) {
        SessionError::Unsupported(format!(
            "StringNormalizer needs the locale {:?}, which this machine does not have and no other locale can replace; \
             install it, or export the model with the locale en_US.UTF-8",
            locale.chars().take(LONGEST_LOCALE).collect::<String>()
        ))
    } else if let Some(remedy) = remedy(&message) {
        SessionError::Rejected(format!("{message}; {remedy}"))
    } else {
        SessionError::Rejected(message)
    }
}

pub(super) fn run_error(error: &ort::Error) -> RunError {
    let message = without_places(error.message());
    if is_out_of_memory(&message) {
        RunError::OutOfMemory
    } else if is_device_failure(&message) {
        RunError::Runtime(message)
    } else if error.code() == ort::ErrorCode::InvalidArgument || message.contains("while running") {
        // "Non-zero status code returned while running Gather node ...": the graph is valid, or it
        // would not have loaded, so the operator refuses the request's data.
        RunError::Data(message)
    } else {
        RunError::Runtime(message)
    }
}
