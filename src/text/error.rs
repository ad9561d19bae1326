//! Errors of tokenizer files and of texts.

use std::fmt;

use super::limits::TextLimit;

/// Maximum bytes of outside data in a message.
const EXCERPT_BYTES: usize = 64;

/// Errors of a tokenizer file or of texts, by cause.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// The file cannot be used.
    #[error("tokenizer.json: {problem}")]
    File { problem: String },
    /// The file exceeds a limit of [`super::FileLimits`] or a fixed limit.
    #[error("tokenizer.json: {what}: {given}, at most {limit} allowed")]
    FileTooLarge { what: &'static str, given: u64, limit: u64 },
    /// A regular expression of the file is not accepted.
    #[error("tokenizer.json: pattern {pattern}: {problem}")]
    Pattern { pattern: String, problem: String },
    /// A request exceeds a limit of [`super::TextLimits`].
    #[error("{what}: {given}, at most {limit} allowed; {advice}")]
    TooLarge {
        exceeded: TextLimit,
        what: String,
        given: u64,
        limit: u64,
        advice: &'static str,
    },
    /// A pattern takes too many steps on a text.
    #[error("the tokenizer's pattern {pattern} takes too long on a text: {problem}")]
    PatternBound { pattern: String, problem: String },
    /// The deadline of the request passed.
    #[error("the deadline passed while the texts were tokenized")]
    Deadline,
    /// A text is longer than the model allows, and the request forbids truncation.
    #[error("text {index} has {given} tokens, at most {limit} allowed by the model; shorten it, or allow truncation")]
    TooLong { index: usize, given: usize, limit: usize },
    /// The options contradict each other or the tokenizer.
    #[error("{0}")]
    Options(String),
    /// The texts have different lengths, and there is no padding token.
    #[error(
        "the texts have different lengths and the tokenizer has no padding token; name one as \"pad_token\" in tokenizer_config.json, or send one text at a time"
    )]
    NoPadToken,
    /// The library returned an error for a text.
    #[error("the tokenizer failed on text {index}: {problem}")]
    Refused { index: usize, problem: String },
    /// The model has inputs that texts cannot fill.
    #[error(
        "the model has inputs that texts cannot fill: {names}; token inputs have names such as input_ids, attention_mask, token_type_ids or position_ids"
    )]
    Inputs { names: String },
    /// An input has the name of a token input, but not its type or shape.
    #[error("input {name} is {given}; tokens need {expected}")]
    InputType {
        name: String,
        given: String,
        expected: &'static str,
    },
    /// The tensors do not fit into memory.
    #[error("the tokens of this request do not fit into memory; send fewer texts at a time")]
    OutOfMemory,
}

impl TextError {
    pub(super) fn file(problem: impl fmt::Display) -> Self {
        Self::File {
            problem: excerpt_of(&problem.to_string(), 4 * EXCERPT_BYTES),
        }
    }
}

/// Quotes the beginning of `text`, short enough for a message.
pub(super) fn excerpt(text: &str) -> String {
    format!("{:?}", excerpt_of(text, EXCERPT_BYTES))
}

fn excerpt_of(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let end = (0..=most).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
    format!("{}...", &text[..end])
}
