//! Limits on tokenizer files and on texts.

use std::time::{Duration, Instant};

/// Limits on a tokenizer file. The largest published ones are about 35 MB with 262,144 tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileLimits {
    /// Maximum bytes of `tokenizer.json`.
    pub bytes: usize,
    /// Maximum entries of the model's vocabulary.
    pub tokens: usize,
    /// Maximum merges of a BPE model.
    pub merges: usize,
    /// Maximum entries of `added_tokens`. The library searches for all of them in every text.
    pub added_tokens: usize,
}

impl Default for FileLimits {
    fn default() -> Self {
        Self {
            bytes: 64 << 20,
            tokens: 1_000_000,
            merges: 2_000_000,
            added_tokens: 100_000,
        }
    }
}

/// Maximum bytes of one token. A trie of tokens is as deep as its longest token, and the library
/// frees it recursively.
pub(super) const TOKEN_BYTES: usize = 2048;
/// Maximum characters of a word that WordPiece splits. The time for a word grows with the square of
/// its length. Published files have 100 or 200.
pub(super) const WORD_CHARACTERS: usize = 1000;
/// Maximum bytes of a text that a normalizer inserts.
pub(super) const REPLACEMENT_BYTES: usize = 1024;
/// Maximum steps of a normalizer or a pre-tokenizer.
pub(super) const STEPS: usize = 64;
/// Maximum JSON values in the description of a normalizer, pre-tokenizer or post-processor.
pub(super) const STEP_VALUES: usize = 20_000;
/// Maximum pieces of a post-processor's template.
pub(super) const TEMPLATE_PIECES: usize = 64;
/// Maximum tokens that a post-processor adds to one text.
pub(super) const TEMPLATE_TOKENS: usize = 1024;

/// The limit that a request exceeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextLimit {
    /// [`TextLimits::texts`].
    Texts,
    /// [`TextLimits::text_bytes`].
    TextBytes,
    /// [`TextLimits::tokens`].
    Tokens,
    /// A limit that is not an option.
    Fixed,
}

/// Limits on the texts of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TextLimits {
    /// Maximum texts of a request. A pair counts once.
    pub texts: usize,
    /// Maximum bytes of one text, or of one half of a pair.
    pub text_bytes: usize,
    /// Maximum tokens of a request, including padding.
    pub tokens: usize,
    /// Maximum time of the tokenizer's regular expressions for one text.
    pub pattern_time: Duration,
    /// The time after which the client does not need the answer.
    pub deadline: Option<Instant>,
}

impl Default for TextLimits {
    fn default() -> Self {
        Self {
            texts: 16_384,
            text_bytes: 1 << 20,
            tokens: 16 << 20,
            pattern_time: Duration::from_secs(5),
            deadline: None,
        }
    }
}
