//! Errors of answers, by cause.
//!
//! Causes with different HTTP statuses are separate variants. Every text names what was wrong and
//! what was expected, and its length is bounded: it quotes at most [`EXCERPT_CHARS`] characters
//! from a client or a model.

use super::Task;

/// Maximum characters of a client's or a model's text in a message.
pub(super) const EXCERPT_CHARS: usize = 64;
/// Maximum names in a list in a message.
const LISTED: usize = 12;

/// Errors of an answer, by cause.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TaskError {
    /// Caused by the manifest or the environment.
    #[error("unknown task {}{}; known tasks are {}", excerpt(.given), did_you_mean(.nearest), known_tasks())]
    UnknownTask { given: String, nearest: Option<String> },
    /// Caused by the client or the manifest.
    #[error("{} is not a setting of {task}{}; known settings are {}", excerpt(.key), did_you_mean(.nearest), listed(.known))]
    UnknownSetting {
        task: Task,
        key: String,
        nearest: Option<String>,
        known: &'static [&'static str],
    },
    /// Caused by the client or the manifest.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// Caused by the client: the input cannot be answered.
    #[error("{0}")]
    Input(String),
    /// The outputs of the model cannot belong to the task.
    #[error("the outputs do not match {task}: {problem}; expected {expected}; the model has {given}")]
    Outputs {
        task: Task,
        problem: String,
        expected: &'static str,
        given: String,
    },
    /// An unsupported step of the model's pipeline.
    #[error("{0}")]
    Unsupported(String),
    /// Caused by the server: a fact that the task needs is missing.
    #[error("{task} needs {what}")]
    Context { task: Task, what: &'static str },
    /// The client asked for a format that cannot represent the answer.
    #[error("the answer of {task} cannot be written as {format}: {problem}")]
    CannotCarry {
        task: Task,
        format: &'static str,
        problem: &'static str,
    },
    /// Only this request fails.
    #[error("not enough memory for the answer; send less at a time, or try again later")]
    OutOfMemory,
}

/// The reason why a setting is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingError {
    #[error("unknown setting {}{}", excerpt(.key), did_you_mean(.nearest))]
    Unknown { key: String, nearest: Option<String> },
    #[error("{key}: expected {allowed}, found {}", clipped(.given))]
    Value {
        key: &'static str,
        allowed: &'static str,
        given: String,
    },
}

/// Quotes `text`, escapes control characters, and truncates it.
pub(super) fn excerpt(text: &str) -> String {
    let mut characters = text.chars();
    let kept: String = characters.by_ref().take(EXCERPT_CHARS).collect();
    let more = if characters.next().is_some() { "…" } else { "" };
    format!("\"{}{more}\"", kept.escape_debug())
}

/// Truncates JSON text.
fn clipped(text: &str) -> String {
    match text.char_indices().nth(EXCERPT_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// The name in `known` that is most similar to `given`, if any is similar.
pub(super) fn nearest<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    // A long text is not a name, and the comparison is quadratic.
    if given.len() > 2 * EXCERPT_CHARS {
        return None;
    }
    let given = given.to_lowercase();
    known
        .into_iter()
        .map(|name| (strsim::jaro_winkler(name, &given), name))
        .filter(|(likeness, _)| *likeness > 0.7)
        .max_by(|one, other| one.0.total_cmp(&other.0))
        .map(|(_, name)| name.to_owned())
}

fn did_you_mean(nearest: &Option<String>) -> String {
    nearest
        .as_ref()
        .map(|name| format!("; did you mean \"{name}\"?"))
        .unwrap_or_default()
}

fn known_tasks() -> String {
    Task::ALL.map(|task| task.name()).join(", ")
}

fn listed(names: &[&str]) -> String {
    match names {
        [] => "none".to_owned(),
        names if names.len() > LISTED => {
            format!("{} and {} more", names[..LISTED].join(", "), names.len() - LISTED)
        }
        names => names.join(", "),
    }
}
