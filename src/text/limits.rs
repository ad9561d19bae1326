//! Bounds on tokenizer files and on texts.

use std::time::{Duration, Instant};

/// Bounds on a tokenizer file. The largest published ones are about 35 MB with 262,144 tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileLimits {
    /// Most bytes of `tokenizer.json`.
    pub bytes: usize,
    /// Most entries of the model's vocabulary.
    pub tokens: usize,
    /// Most merges of a BPE model.
    pub merges: usize,
    /// Most entries of `added_tokens`. The library searches for all of them in every text.
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

/// Most bytes of one token. A trie of tokens is as deep as its longest token, and the library frees
/// it by recursion.
pub(super) const TOKEN_BYTES: usize = 2048;
/// Most characters of a word that WordPiece takes apart. The time for a word grows with the square
/// of its length. Published files have 100 or 200.
pub(super) const WORD_CHARACTERS: usize = 1000;
/// Most bytes of a text that a normalizer puts into each text.
pub(super) const REPLACEMENT_BYTES: usize = 1024;
/// Most steps of a normalizer or a pre-tokenizer.
pub(super) const STEPS: usize = 64;
/// Most JSON values in the description of a normalizer, pre-tokenizer or post-processor.
pub(super) const STEP_VALUES: usize = 20_000;
/// Most pieces of a post-processor's template.
pub(super) const TEMPLATE_PIECES: usize = 64;
/// Most tokens that a post-processor adds to one text.
pub(super) const TEMPLATE_TOKENS: usize = 1024;

/// Bounds on the texts of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most texts of a request. A pair counts once.
    pub texts: usize,
    /// Most bytes of one text, or of one half of a pair.
    pub text_bytes: usize,
    /// Most tokens of a request, with the padding.
    pub tokens: usize,
    /// Most time that the regular expressions of a tokenizer may take for one text.
    pub pattern_time: Duration,
    /// The time at which the answer is of no use any more.
    pub deadline: Option<Instant>,
}

impl Default for Limits {
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
