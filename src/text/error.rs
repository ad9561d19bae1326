//! The reasons why a file is not a tokenizer and why texts do not become tokens.

use std::fmt;

/// Most bytes of outside data in a message.
const EXCERPT_BYTES: usize = 64;

/// The mistakes of a tokenizer file or of texts, by cause.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// The file cannot be used.
    #[error("tokenizer.json: {problem}")]
    File { problem: String },
    /// The file is beyond a bound of [`super::FileLimits`] or a fixed one.
    #[error("tokenizer.json: {what}: {given} where at most {limit} are accepted")]
    FileTooLarge { what: &'static str, given: u64, limit: u64 },
    /// A regular expression of the file is refused.
    #[error("tokenizer.json: pattern {pattern}: {problem}")]
    Pattern { pattern: String, problem: String },
    /// A request is beyond a bound of [`super::Limits`].
    #[error("{what}: {given} where at most {limit} are accepted; {advice}")]
    TooLarge {
        what: String,
        given: u64,
        limit: u64,
        advice: &'static str,
    },
    /// A pattern takes too many steps on a text.
    #[error("the tokenizer's pattern {pattern} takes too long on a text: {problem}")]
    PatternBound { pattern: String, problem: String },
    /// The time at which the answer is of use is over.
    #[error("the deadline passed while the texts were tokenized")]
    Deadline,
    /// A text is longer than the model takes, and the request forbids to cut it.
    #[error("text {index} has {given} tokens where the model takes at most {limit}; shorten it, or allow truncation")]
    TooLong { index: usize, given: usize, limit: usize },
    /// The options do not fit each other or the tokenizer.
    #[error("{0}")]
    Options(String),
    /// Texts of different lengths, and no token to fill up with.
    #[error(
        "the texts have different lengths and the tokenizer has no padding token; name one as \"pad_token\" in tokenizer_config.json, or send one text at a time"
    )]
    NoPadToken,
    /// The library refuses a text.
    #[error("the tokenizer refuses text {index}: {problem}")]
    Refused { index: usize, problem: String },
    /// The model has inputs that texts do not give.
    #[error(
        "the model has inputs that texts do not give: {names}; token inputs are named as input_ids, attention_mask, token_type_ids or position_ids"
    )]
    Inputs { names: String },
    /// An input has a name for tokens and a type or shape that they do not fit.
    #[error("input {name} is {given}; tokens are {expected}")]
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

/// The beginning of `text`, quoted, as long as a message may hold it.
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
