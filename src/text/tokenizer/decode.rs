//! Converts tokens back to text.

use tokenizers::Decoder;

use super::Tokenizer;

impl Tokenizer {
    /// Returns the text of token ids, without special tokens if `skip_special` is set.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        let is_kept = |id: &&u32| {
            let token = self.core.added.get_added_tokens_decoder().get(id);
            !(skip_special && token.is_some_and(|token| token.special))
        };
        let tokens = ids.iter().filter(is_kept).filter_map(|&id| self.id_to_token(id));
        self.joined(tokens.collect())
    }

    /// Joins tokens in text form.
    pub fn join(&self, tokens: &[&str]) -> String {
        self.joined(tokens.iter().map(|&token| token.to_owned()).collect())
    }

    fn joined(&self, tokens: Vec<String>) -> String {
        match &self.core.decoder {
            Some(decoder) => decoder.decode(tokens).unwrap_or_default(),
            None => tokens.join(" "),
        }
    }

    /// Whether tokens inside a word have a marker such as WordPiece's `##`.
    pub fn marks_continuation(&self) -> bool {
        self.core.model.name() == "WordPiece"
    }
}
