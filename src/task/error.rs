//! The reasons why there is no answer, by cause.
//!
//! The variants are the causes that need different statuses. Every text names what was wrong and
//! what was expected, and is bounded: it quotes at most [`EXCERPT_CHARS`] characters of what a
//! caller or a model wrote.

use super::Task;

/// Most characters of a caller's or a model's text in a message.
pub(super) const EXCERPT_CHARS: usize = 64;
/// Most names in a list in a message.
const LISTED: usize = 12;

/// The reason why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TaskError {
    /// The manifest's or the environment's doing.
    #[error("{} is not a known task{}; the known ones are {}", excerpt(.given), did_you_mean(.nearest), known_tasks())]
    UnknownTask { given: String, nearest: Option<String> },
    /// The caller's or the manifest's doing.
    #[error("{} is not a setting of {task}{}; it takes {}", excerpt(.key), did_you_mean(.nearest), listed(.known))]
    UnknownSetting {
        task: Task,
        key: String,
        nearest: Option<String>,
        known: &'static [&'static str],
    },
    /// The caller's or the manifest's doing.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// The caller's doing: the input cannot be answered.
    #[error("{0}")]
    Input(String),
    /// The outputs of the model cannot be of the task.
    #[error("the outputs are not those of {task}: {problem}; expected {expected}; the model gives {given}")]
    Outputs {
        task: Task,
        problem: String,
        expected: &'static str,
        given: String,
    },
    /// A step of the model's pipeline that is not supported.
    #[error("{0}")]
    Unsupported(String),
    /// The server's doing: reading the request did not leave what the task needs.
    #[error("{task} needs {what}")]
    Context { task: Task, what: &'static str },
    /// The caller asked for a form that cannot carry the answer.
    #[error("the answer of {task} cannot be given as {format}: {problem}")]
    CannotCarry {
        task: Task,
        format: &'static str,
        problem: &'static str,
    },
    /// For this request alone.
    #[error("there is no memory left for the answer; send less at a time, or try again later")]
    OutOfMemory,
}

/// The reason why a value is not one of a setting.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingError {
    #[error("{} is not a known setting{}", excerpt(.key), did_you_mean(.nearest))]
    Unknown { key: String, nearest: Option<String> },
    #[error("{key}: expected {allowed}, {} given", clipped(.given))]
    Value {
        key: &'static str,
        allowed: &'static str,
        given: String,
    },
}

/// `text` in quotes, with control characters escaped and its end cut off.
pub(super) fn excerpt(text: &str) -> String {
    let mut characters = text.chars();
    let kept: String = characters.by_ref().take(EXCERPT_CHARS).collect();
    let more = if characters.next().is_some() { "…" } else { "" };
    format!("\"{}{more}\"", kept.escape_debug())
}

/// JSON text with its end cut off.
fn clipped(text: &str) -> String {
    match text.char_indices().nth(EXCERPT_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// The one of `known` that is nearest to `given`, if one is near.
pub(super) fn nearest<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    // A long text is no name, and comparing takes its length squared.
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
