//! Bytes that a tokenizer keeps in memory, bounded from above.
//!
//! The numbers are measured with a counting allocator on tokenizers of each model and of several
//! sizes, and rounded up.

use serde_json::Value;
use tokenizers::AddedToken;

use crate::text::model::ModelSize;

/// Bytes of an empty tokenizer with its steps.
const BASE: usize = 64 << 10;
/// A token of a BPE, WordPiece or WordLevel model: two entries of hash tables and two texts.
const TOKEN: usize = 200;
/// A merge of a BPE model.
const MERGE: usize = 40;
/// A token of a Unigram model: a text with a score, an entry of a hash table.
const UNIGRAM_TOKEN: usize = 200;
/// A byte of a token of a Unigram model: a node of a trie with a hash table of its own.
const UNIGRAM_BYTE: usize = 350;
/// An added token, and a byte of it.
const ADDED_TOKEN: usize = 400;
const ADDED_BYTE: usize = 40;
/// A byte of the text of a step, such as a table of replacements.
const STEP_BYTE: usize = 6;

pub(super) struct Measure(usize);

impl Measure {
    pub fn new(size: &ModelSize) -> Self {
        let model = if size.is_unigram {
            size.tokens * UNIGRAM_TOKEN + size.token_bytes * UNIGRAM_BYTE
        } else {
            size.tokens * TOKEN + 2 * size.token_bytes + size.merges * MERGE
        };
        Self(BASE + model)
    }

    pub fn added(&mut self, token: &AddedToken) {
        self.0 += ADDED_TOKEN + token.content.len() * ADDED_BYTE;
    }

    pub fn finish(self, steps: &[&Value]) -> u64 {
        let steps: usize = steps.iter().map(|step| text_bytes(step)).sum();
        (self.0 + steps * STEP_BYTE) as u64
    }
}

/// Bytes of all texts in a value.
fn text_bytes(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(values) => values.iter().map(text_bytes).sum(),
        Value::Object(values) => values.iter().map(|(key, value)| key.len() + text_bytes(value)).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    }
}
