//! A tokenizer with a few words, the same as in `tests/task/fixtures.py`.

use crate::task::Vocabulary;

/// WordPiece with a list of tokens; the first five are special.
pub(super) struct Toy {
    pub tokens: Vec<String>,
    pub marks: bool,
}

const SPECIAL: u32 = 5;

impl Vocabulary for Toy {
    fn token(&self, id: u32) -> Option<String> {
        self.tokens.get(id as usize).cloned()
    }

    fn id(&self, token: &str) -> Option<u32> {
        let at = self.tokens.iter().position(|own| own == token)?;
        u32::try_from(at).ok()
    }

    fn first_id(&self, text: &str) -> Option<u32> {
        self.id(text.split(' ').next()?)
    }

    fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        let kept = ids.iter().filter(|&&id| !skip_special || id >= SPECIAL);
        let tokens: Vec<String> = kept.map(|&id| self.token(id).unwrap_or_default()).collect();
        self.join(&tokens.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn join(&self, tokens: &[&str]) -> String {
        let mut text = String::new();
        for (i, token) in tokens.iter().enumerate() {
            let mut part = match token.strip_prefix("##") {
                Some(inside) if i > 0 => inside.to_owned(),
                None if i > 0 => format!(" {token}"),
                _ => (*token).to_owned(),
            };
            for mark in [".", "?", "!", ","] {
                part = part.replace(&format!(" {mark}"), mark);
            }
            text += &part;
        }
        text
    }

    fn unknown(&self) -> Option<u32> {
        Some(1)
    }

    fn mask(&self) -> Option<(u32, String)> {
        Some((4, self.token(4)?))
    }

    fn padding(&self) -> Option<u32> {
        Some(0)
    }

    fn beginning(&self) -> Option<u32> {
        Some(2)
    }

    fn marks_continuation(&self) -> bool {
        self.marks
    }
}
