//! Upper bounds for the memory of a tokenizer and of its requests.
//!
//! The numbers were measured with a counting allocator, on tokenizers of each model type and of
//! several sizes, and rounded up.

use serde_json::Value;
use tokenizers::AddedToken;

use super::Tokenizer;
use crate::text::model::ModelSize;
use crate::text::normalize::Growth;
use crate::text::options::{TokenizeOptions, Truncation};
use crate::text::request::TextInput;

/// Bytes of a tokenizer without a vocabulary.
const BASE: usize = 128 << 10;
/// A regular expression with classes of Unicode, compiled.
const PATTERN: usize = 256 << 10;
/// A token of a BPE, WordPiece or WordLevel model: two hash table entries and two strings.
const TOKEN: usize = 176;
/// A merge of a BPE model.
const MERGE: usize = 40;
/// An added token, and a byte of it.
const ADDED_TOKEN: usize = 320;
const ADDED_BYTE: usize = 24;
/// A byte of the text of a step, such as a table of replacements.
const STEP_BYTE: usize = 4;

/// Peak memory for a byte of a text: the alignment with the original for each byte, and the words;
/// every byte may be a word.
const TEXT_BYTE: usize = 400;
/// The same for a byte of a non-ASCII character, if the normalizer decomposes characters: "ﷺ"
/// becomes 18 letters in four words.
const GROWING_BYTE: usize = 1000;
/// A token that survives truncation, in the library's form.
const RAW_TOKEN: usize = 300;
/// A token in the row of a request, and its position.
const ROW_TOKEN: usize = 9;
const ROW_OFFSET: usize = 28;

impl Tokenizer {
    /// Upper bound of the peak memory of [`Tokenizer::encode`] in bytes, without the tensors.
    pub fn request_memory(&self, inputs: &[TextInput], options: &TokenizeOptions) -> u64 {
        let most = match options.truncation {
            Truncation::Never => None,
            Truncation::LongestFirst | Truncation::OnlyFirst | Truncation::OnlySecond => self.max_length(options),
        };
        let row_token = ROW_TOKEN + if options.offsets { ROW_OFFSET } else { 0 };
        let (mut peak, mut rows) = (0, 0usize);
        for input in inputs {
            let (mut bytes, mut tokens) = (0usize, 0);
            for text in input.texts() {
                let ascii = text.bytes().filter(u8::is_ascii).count();
                let (of_ascii, of_other) = match self.core.normalize.growth() {
                    Growth::Little => (TEXT_BYTE, TEXT_BYTE),
                    Growth::Compatibility => (TEXT_BYTE, GROWING_BYTE),
                    Growth::Any => (GROWING_BYTE, GROWING_BYTE),
                };
                bytes = bytes.saturating_add(ascii * of_ascii + (text.len() - ascii) * of_other);
                tokens += text.len().min(most.unwrap_or(usize::MAX));
            }
            peak = peak.max(bytes.saturating_add(tokens.saturating_mul(RAW_TOKEN)));
            tokens = tokens.min(most.unwrap_or(usize::MAX)) + self.core.post_process.added(true);
            rows = rows.saturating_add(tokens.saturating_mul(row_token) + 256);
        }
        peak.saturating_add(rows) as u64
    }
}

pub(super) struct Measure(usize);

impl Measure {
    pub fn new(size: &ModelSize) -> Self {
        let model = match size.unigram_bytes {
            0 => size.tokens * TOKEN + 2 * size.token_bytes + size.merges * MERGE,
            bytes => bytes,
        };
        Self(BASE + model)
    }

    pub fn added(&mut self, token: &AddedToken) {
        self.0 += ADDED_TOKEN + token.content.len() * ADDED_BYTE;
    }

    pub fn finish(self, steps: &[&Value]) -> u64 {
        let texts: usize = steps.iter().map(|step| text_bytes(step)).sum();
        let patterns: usize = steps.iter().map(|step| patterns(step)).sum();
        (self.0 + texts * STEP_BYTE + patterns * PATTERN) as u64
    }
}

/// Bytes of all strings in a value.
fn text_bytes(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(values) => values.iter().map(text_bytes).sum(),
        Value::Object(values) => values.iter().map(|(key, value)| key.len() + text_bytes(value)).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    }
}

/// The number of regular expressions in the description of a step.
fn patterns(value: &Value) -> usize {
    let is_byte_level = value.get("type").and_then(Value::as_str) == Some("ByteLevel");
    let own = usize::from(is_byte_level || value.get("pattern").is_some());
    let below: usize = match value {
        Value::Array(values) => values.iter().map(patterns).sum(),
        Value::Object(values) => values.values().map(patterns).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    };
    own + below
}
