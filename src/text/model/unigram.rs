//! Unigram models: split a text into the tokens with the best total score.
//!
//! The steps and the order of the additions are the same as in the library, so that ties are broken
//! in the same way.

use tokenizers::Token;

use super::trie::Trie;

/// A character that is not a token scores this much less than the worst token.
const UNKNOWN_PENALTY: f64 = 10.0;

/// The tokens of a file and their scores, by their ids.
#[derive(Debug, Default)]
pub(in crate::text) struct Pieces {
    texts: String,
    /// The end of each token in `texts`.
    ends: Vec<u32>,
    scores: Vec<f64>,
}

impl Pieces {
    pub fn push(&mut self, token: &str, score: f64) {
        self.texts.push_str(token);
        self.ends.push(u32::try_from(self.texts.len()).unwrap_or(u32::MAX));
        self.scores.push(score);
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    fn get(&self, id: usize) -> &str {
        let start = id.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.texts[start as usize..self.ends[id] as usize]
    }
}

#[derive(Debug)]
pub(in crate::text) struct Unigram {
    pieces: Pieces,
    trie: Trie,
    unknown_score: f64,
    unknown: Option<u32>,
    /// The tokens of single bytes, if the model falls back to them for unknown characters.
    bytes: Option<Box<[u32; 256]>>,
}

/// A text has a character outside the vocabulary, and the model has no token for unknown ones.
#[derive(Debug, thiserror::Error)]
#[error("it has a character that is not in the vocabulary, and the model has no \"unk_id\"")]
pub(in crate::text) struct NoUnknown;

/// The best split of the text up to the end of a token.
#[derive(Clone, Copy)]
struct Best {
    score: f64,
    /// The start of the token; `usize::MAX` if there is no split yet.
    start: usize,
    id: u32,
}

impl Unigram {
    pub fn new(mut pieces: Pieces, unknown: Option<usize>, byte_fallback: bool) -> Result<Self, String> {
        let unknown = match unknown {
            Some(id) if id >= pieces.len() => return Err("\"unk_id\" is not in the vocabulary".to_owned()),
            id => id.and_then(|id| u32::try_from(id).ok()),
        };
        pieces.texts.shrink_to_fit();
        pieces.ends.shrink_to_fit();
        pieces.scores.shrink_to_fit();
        let trie = Trie::new(pieces.len(), |id| pieces.get(id).as_bytes());
        let worst = pieces.scores.iter().copied().fold(f64::INFINITY, f64::min);
        let byte = |byte: usize| trie.get(format!("<0x{byte:02X}>").as_bytes());
        let bytes: Option<Vec<u32>> = (0..256).map(byte).collect();
        Ok(Self {
            unknown_score: worst - UNKNOWN_PENALTY,
            unknown,
            bytes: bytes
                .filter(|_| byte_fallback)
                .and_then(|bytes| bytes.into_boxed_slice().try_into().ok()),
            pieces,
            trie,
        })
    }

    pub fn len(&self) -> usize {
        self.pieces.len()
    }

    pub fn tokens(&self) -> impl Iterator<Item = (&str, u32)> {
        (0..).map_while(|id| Some((self.id_to_token(id)?, id)))
    }

    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.trie.get(token.as_bytes())
    }

    pub fn id_to_token(&self, id: u32) -> Option<&str> {
        let id = usize::try_from(id).ok().filter(|&id| id < self.len())?;
        Some(self.pieces.get(id))
    }

    /// Size in memory, in bytes.
    pub fn memory(&self) -> usize {
        self.pieces.texts.len() + self.pieces.len() * 12 + self.trie.memory() + 2048
    }

    pub fn tokenize(&self, text: &str) -> Result<Vec<Token>, NoUnknown> {
        let mut tokens = Vec::new();
        for (start, end) in self.cut(text)? {
            let piece = &text[start..end];
            let id = match (self.token_to_id(piece), &self.bytes) {
                (Some(id), _) => id,
                (None, Some(bytes)) => {
                    let token = |byte: u8| Token {
                        id: bytes[usize::from(byte)],
                        value: format!("<0x{byte:02X}>"),
                        offsets: (start, end),
                    };
                    tokens.extend(piece.bytes().map(token));
                    continue;
                }
                (None, None) => self.unknown.ok_or(NoUnknown)?,
            };
            tokens.push(Token {
                id,
                value: piece.to_owned(),
                offsets: (start, end),
            });
        }
        Ok(tokens)
    }

    /// Splits a text into tokens and maximal runs of unknown characters.
    fn cut(&self, text: &str) -> Result<Vec<(usize, usize)>, NoUnknown> {
        let nowhere = Best {
            score: 0.0,
            start: usize::MAX,
            id: 0,
        };
        let mut best = vec![nowhere; text.len() + 1];
        for (start, c) in text.char_indices() {
            let score = best[start].score;
            let mut improve = |end: usize, token_score: f64, id: u32| {
                let candidate = token_score + score;
                let best = &mut best[end];
                if best.start == usize::MAX || candidate > best.score {
                    *best = Best {
                        score: candidate,
                        start,
                        id,
                    };
                }
            };
            let mut is_known = false;
            for (length, id) in self.trie.prefixes(&text.as_bytes()[start..]) {
                improve(start + length, self.pieces.scores[id as usize], id);
                is_known |= length == c.len_utf8();
            }
            if !is_known {
                improve(start + c.len_utf8(), self.unknown_score, self.unknown.ok_or(NoUnknown)?);
            }
        }
        let mut cuts: Vec<(usize, usize)> = Vec::new();
        let (mut end, mut is_run) = (text.len(), false);
        while end > 0 {
            let Best { start, id, .. } = best[end];
            let is_unknown = Some(id) == self.unknown;
            match cuts.last_mut() {
                // The run grows to the left.
                Some(run) if is_run && is_unknown => run.0 = start,
                _ => cuts.push((start, end)),
            }
            is_run = is_unknown;
            end = start;
        }
        cuts.reverse();
        Ok(cuts)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokenizers::Model;
    use tokenizers::models::unigram::Unigram as Library;

    use super::*;

    fn models(vocabulary: &[(String, f64)], unknown: Option<usize>, byte_fallback: bool) -> (Unigram, Library) {
        let mut pieces = Pieces::default();
        for (token, score) in vocabulary {
            pieces.push(token, *score);
        }
        let library = Library::from(vocabulary.to_vec(), unknown, byte_fallback).unwrap();
        (Unigram::new(pieces, unknown, byte_fallback).unwrap(), library)
    }

    #[test]
    fn a_text_of_unknown_characters_needs_a_token_for_them() {
        let (ours, library) = models(&[("a".to_owned(), 0.0)], None, false);
        assert!(ours.tokenize("ab").is_err() && library.tokenize("ab").is_err());
        assert_eq!(ours.tokenize("aa").unwrap(), library.tokenize("aa").unwrap());
        assert_eq!(ours.id_to_token(0), Some("a"));
        assert_eq!(ours.id_to_token(1), None);
        assert!(Unigram::new(Pieces::default(), Some(0), false).is_err());
    }

    proptest! {
        #[test]
        fn splits_texts_as_the_library_does(
            // Few different scores, so that there are many ties.
            vocabulary in prop::collection::vec(("[abé👩]{1,3}", (-6i8..0).prop_map(f64::from)), 1..20),
            unknown: prop::sample::Index, texts in prop::collection::vec("[abcé👩敏]{0,12}", 1..5), with_bytes: bool
        ) {
            let mut vocabulary = vocabulary;
            if with_bytes {
                vocabulary.extend((0..256).map(|byte| (format!("<0x{byte:02X}>"), -9.0)));
            }
            let unknown = Some(unknown.index(vocabulary.len()));
            for byte_fallback in [false, true] {
                let (ours, library) = models(&vocabulary, unknown, byte_fallback);
                for text in &texts {
                    prop_assert_eq!(ours.tokenize(text).unwrap(), library.tokenize(text).unwrap(), "{}", text);
                }
                for (token, _) in &vocabulary {
                    prop_assert_eq!(ours.token_to_id(token), library.token_to_id(token));
                }
            }
        }
    }
}
