//! Options of the tokenizer: truncation and padding.

use serde::{Deserialize, Serialize};

use super::limits::TextLimits;

/// An end of a text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    Left,
    #[default]
    Right,
}

/// The length to which the texts of a request are padded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Padding {
    /// The length of the longest text.
    #[default]
    Longest,
    /// The maximum length of the model.
    MaxLength,
}

/// The text of a pair that is truncated if both together are too long.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Truncation {
    /// The longer one, token by token.
    #[default]
    LongestFirst,
    OnlyFirst,
    OnlySecond,
    /// Neither; a text that is too long is an error.
    #[serde(alias = "do_not_truncate")]
    Never,
}

/// Tokenizer options of a request and a model. The default is the same as that of transformers for
/// `tokenizer(texts, padding=True, truncation=True)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenizeOptions {
    pub add_special_tokens: bool,
    pub padding: Padding,
    /// The padded length is a multiple of this.
    pub pad_to_multiple_of: Option<usize>,
    /// Overrides the tokenizer's own side.
    pub padding_side: Option<Side>,
    pub truncation: Truncation,
    /// Overrides the tokenizer's own side.
    pub truncation_side: Option<Side>,
    /// Maximum tokens of a text, including special ones. Overrides the tokenizer's own.
    pub max_length: Option<usize>,
    /// The number of tokens in the model's inputs, if it is fixed. No text is longer, and all texts
    /// are padded to it.
    pub fixed_length: Option<usize>,
    /// Whether to return the position of each token in its text, which answers with spans need.
    pub offsets: bool,
    pub limits: TextLimits,
}

impl Default for TokenizeOptions {
    fn default() -> Self {
        Self {
            add_special_tokens: true,
            padding: Padding::default(),
            pad_to_multiple_of: None,
            padding_side: None,
            truncation: Truncation::default(),
            truncation_side: None,
            max_length: None,
            fixed_length: None,
            offsets: false,
            limits: TextLimits::default(),
        }
    }
}
