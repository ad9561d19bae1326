//! The options of tokenizing: where texts are cut and filled up.

use serde::{Deserialize, Serialize};

use super::limits::Limits;

/// An end of a text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    Left,
    #[default]
    Right,
}

/// The length to which the texts of a request are filled up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Padding {
    /// To that of the longest text.
    #[default]
    Longest,
    /// To the greatest length that the model takes.
    MaxLength,
}

/// The text of a pair that is cut where both together are too long.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Truncation {
    /// The longer one, token by token.
    #[default]
    LongestFirst,
    OnlyFirst,
    OnlySecond,
    /// None; a text that is too long is an error.
    #[serde(alias = "do_not_truncate")]
    Never,
}

/// The wishes of a request and a model. The default is what transformers does for
/// `tokenizer(texts, padding=True, truncation=True)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    pub add_special_tokens: bool,
    pub padding: Padding,
    /// The padded length is a multiple of this.
    pub pad_to_multiple_of: Option<usize>,
    /// In the place of the tokenizer's own.
    pub padding_side: Option<Side>,
    pub truncation: Truncation,
    /// In the place of the tokenizer's own.
    pub truncation_side: Option<Side>,
    /// Most tokens of a text, the special ones among them, in the place of the tokenizer's own.
    pub max_length: Option<usize>,
    /// The number of tokens that the model's inputs have, where they do not leave it open. No text
    /// is longer, and each is filled up to it.
    pub fixed_length: Option<usize>,
    /// Whether to say where each token stands in its text; needed to give spans back.
    pub offsets: bool,
    pub limits: Limits,
}

impl Default for Options {
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
            limits: Limits::default(),
        }
    }
}
