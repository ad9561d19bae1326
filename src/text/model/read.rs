//! Reads the model from the file.
//!
//! The library's own reader holds the vocabulary three times while it reads, once as a tree of
//! values. This reader fills the model's tables directly, counts the entries, and refuses what
//! would make the library panic later.

use std::borrow::Cow;
use std::fmt;

use serde::de::{self, DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use tokenizers::models::ModelWrapper;
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::models::wordlevel::WordLevel;
use tokenizers::models::wordpiece::WordPiece;

use super::unigram::{Pieces, Unigram};
use super::{ModelSize, TokenModel};
use crate::text::limits::{FileLimits, TOKEN_BYTES, WORD_CHARACTERS};

/// Reads the value of `model`.
pub(in crate::text) struct ModelSeed<'a>(pub &'a FileLimits);

impl<'de> DeserializeSeed<'de> for ModelSeed<'_> {
    type Value = (TokenModel, ModelSize);

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

/// The fields of a model of any kind.
#[derive(Default)]
struct Fields {
    kind: Option<String>,
    vocabulary: Option<Vocabulary>,
    merges: Option<Merges>,
    unk_token: Option<String>,
    unk_id: Option<usize>,
    prefix: Option<String>,
    suffix: Option<String>,
    word_characters: Option<usize>,
    fuse_unk: bool,
    byte_fallback: bool,
    ignore_merges: bool,
    size: ModelSize,
}

enum Vocabulary {
    Ids(Vocab),
    Scores(Pieces),
}

impl<'de> Visitor<'de> for ModelSeed<'_> {
    type Value = (TokenModel, ModelSize);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a model")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = Fields::default();
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "type" => fields.kind = Some(map.next_value()?),
                "vocab" => {
                    let seed = VocabularySeed(self.0, &mut fields.size);
                    fields.vocabulary = Some(map.next_value_seed(seed)?);
                }
                "merges" => {
                    let merges = map.next_value_seed(MergesSeed(self.0))?;
                    fields.size.merges = merges.len();
                    fields.merges = Some(merges);
                }
                "unk_token" => fields.unk_token = map.next_value()?,
                "unk_id" => fields.unk_id = map.next_value()?,
                "continuing_subword_prefix" => fields.prefix = map.next_value()?,
                "end_of_word_suffix" => fields.suffix = map.next_value()?,
                "max_input_chars_per_word" => fields.word_characters = Some(map.next_value()?),
                "fuse_unk" => fields.fuse_unk = map.next_value::<Option<bool>>()?.unwrap_or_default(),
                "byte_fallback" => fields.byte_fallback = map.next_value::<Option<bool>>()?.unwrap_or_default(),
                "ignore_merges" => fields.ignore_merges = map.next_value::<Option<bool>>()?.unwrap_or_default(),
                // This skips `dropout`, which is for training and makes the tokens random.
                _ => {
                    map.next_value::<de::IgnoredAny>()?;
                }
            }
        }
        fields.build().map_err(A::Error::custom)
    }
}

impl Fields {
    fn build(mut self) -> Result<(TokenModel, ModelSize), String> {
        // Files of the library's first versions have no type.
        let kind = self.kind.take().unwrap_or_else(|| {
            let kind = match (&self.vocabulary, &self.merges, &self.word_characters) {
                (Some(Vocabulary::Scores(_)), _, _) => "Unigram",
                (_, Some(_), _) => "BPE",
                (_, None, Some(_)) => "WordPiece",
                (_, None, None) => "WordLevel",
            };
            kind.to_owned()
        });
        let vocabulary = self.vocabulary.take().ok_or("the model has no \"vocab\"")?;
        let mut size = self.size;
        let model: ModelWrapper = match (kind.as_str(), vocabulary) {
            ("BPE", Vocabulary::Ids(vocabulary)) => self.bpe(vocabulary)?.into(),
            ("WordPiece", Vocabulary::Ids(vocabulary)) => self.word_piece(vocabulary)?.into(),
            ("WordLevel", Vocabulary::Ids(vocabulary)) => {
                let unk_token = self.unk_token.ok_or("the model has no \"unk_token\"")?;
                let model = WordLevel::builder().vocab(vocabulary).unk_token(unk_token).build();
                model.map_err(|error| error.to_string())?.into()
            }
            ("Unigram", Vocabulary::Scores(pieces)) => {
                let model = Unigram::new(pieces, self.unk_id, self.byte_fallback)?;
                size.unigram_bytes = model.memory();
                return Ok((TokenModel::Unigram(model), size));
            }
            ("BPE" | "WordPiece" | "WordLevel" | "Unigram", _) => {
                return Err(format!("\"vocab\" does not have the form of a {kind} model"));
            }
            _ => return Err("the model's \"type\" must be BPE, WordPiece, WordLevel or Unigram".to_owned()),
        };
        Ok((TokenModel::Library(model), size))
    }

    fn bpe(self, vocabulary: Vocab) -> Result<BPE, String> {
        let merges = self.merges.ok_or("the model has no \"merges\"")?;
        let prefix = self.prefix.unwrap_or_default();
        let longest = vocabulary.keys().map(String::len).max().unwrap_or(0);
        for (index, (left, right)) in merges.iter().enumerate() {
            // The library copies both parts into a buffer with the length of the longest token.
            let joined = right
                .strip_prefix(prefix.as_str())
                .map(|right| left.len() + right.len());
            if joined.is_none_or(|length| length > longest) {
                return Err(format!("merge {index} makes a token that is not in the vocabulary"));
            }
        }
        // The library's cache lives in each thread and outlives the model.
        let mut builder = BPE::builder()
            .vocab_and_merges(vocabulary, merges)
            .cache_capacity(0)
            .fuse_unk(self.fuse_unk)
            .byte_fallback(self.byte_fallback)
            .ignore_merges(self.ignore_merges);
        if let Some(unk_token) = self.unk_token {
            builder = builder.unk_token(unk_token);
        }
        if !prefix.is_empty() {
            builder = builder.continuing_subword_prefix(prefix);
        }
        if let Some(suffix) = self.suffix {
            builder = builder.end_of_word_suffix(suffix);
        }
        builder.build().map_err(|error| error.to_string())
    }

    fn word_piece(self, vocabulary: Vocab) -> Result<WordPiece, String> {
        let missing = |name: &str| format!("the model has no \"{name}\"");
        let word_characters = self
            .word_characters
            .ok_or_else(|| missing("max_input_chars_per_word"))?;
        if word_characters > WORD_CHARACTERS {
            return Err(format!(
                "\"max_input_chars_per_word\" is {word_characters}, at most {WORD_CHARACTERS} allowed"
            ));
        }
        let model = WordPiece::builder()
            .vocab(vocabulary)
            .unk_token(self.unk_token.ok_or_else(|| missing("unk_token"))?)
            .continuing_subword_prefix(self.prefix.ok_or_else(|| missing("continuing_subword_prefix"))?)
            .max_input_chars_per_word(word_characters)
            .build();
        model.map_err(|error| error.to_string())
    }
}

/// Reads `vocab`: an object of ids, or a list of tokens with scores.
struct VocabularySeed<'a>(&'a FileLimits, &'a mut ModelSize);

impl VocabularySeed<'_> {
    fn count<E: Error>(&mut self, token: &str) -> Result<(), E> {
        self.1.tokens += 1;
        self.1.token_bytes += token.len();
        if self.1.tokens > self.0.tokens {
            return Err(E::custom(format!(
                "the vocabulary has more than {} tokens",
                self.0.tokens
            )));
        }
        if token.len() > TOKEN_BYTES {
            return Err(E::custom(format!("a token is longer than {TOKEN_BYTES} bytes")));
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for VocabularySeed<'_> {
    type Value = Vocabulary;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vocabulary, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for VocabularySeed<'_> {
    type Value = Vocabulary;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a vocabulary")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Vocabulary, A::Error> {
        let mut ids = Vocab::new();
        while let Some((token, id)) = map.next_entry::<String, u32>()? {
            self.count(&token)?;
            // Models take ids as int32 or int64.
            if i32::try_from(id).is_err() {
                return Err(A::Error::custom(format!("the id {id} is too large for an int32")));
            }
            self.1.last_id = self.1.last_id.max(id);
            ids.insert(token, id);
        }
        ids.shrink_to_fit();
        Ok(Vocabulary::Ids(ids))
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<Vocabulary, A::Error> {
        let mut pieces = Pieces::default();
        while let Some((token, score)) = list.next_element::<(Cow<'de, str>, f64)>()? {
            self.count(&token)?;
            if token.is_empty() {
                return Err(A::Error::custom("a token is empty"));
            }
            self.1.last_id = u32::try_from(pieces.len()).unwrap_or(u32::MAX);
            pieces.push(&token, score);
        }
        Ok(Vocabulary::Scores(pieces))
    }
}

/// Reads `merges`: pairs of tokens, or lines of two tokens with a space between them.
struct MergesSeed<'a>(&'a FileLimits);

impl<'de> DeserializeSeed<'de> for MergesSeed<'_> {
    type Value = Merges;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Merges, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for MergesSeed<'_> {
    type Value = Merges;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of merges")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Merges, A::Error> {
        let mut merges = Merges::new();
        while let Some(merge) = list.next_element::<Merge>()? {
            if merges.len() == self.0.merges {
                return Err(A::Error::custom(format!(
                    "the model has more than {} merges",
                    self.0.merges
                )));
            }
            merges.extend(merge.0);
        }
        Ok(merges)
    }
}

/// A merge; `None` for the line with the version.
struct Merge(Option<(String, String)>);

impl<'de> Deserialize<'de> for Merge {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(MergeVisitor)
    }
}

struct MergeVisitor;

impl<'de> Visitor<'de> for MergeVisitor {
    type Value = Merge;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a merge of two tokens")
    }

    fn visit_str<E: Error>(self, line: &str) -> Result<Merge, E> {
        if line.starts_with("#version") {
            return Ok(Merge(None));
        }
        match line.split_once(' ') {
            Some((left, right)) if !right.contains(' ') => Ok(Merge(Some((left.to_owned(), right.to_owned())))),
            _ => Err(E::custom("a merge must be two tokens with a space between them")),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut pair: A) -> Result<Merge, A::Error> {
        let mut token = || pair.next_element::<String>();
        let (left, right) = (token()?, token()?);
        match (left, right, pair.next_element::<de::IgnoredAny>()?) {
            (Some(left), Some(right), None) => Ok(Merge(Some((left, right)))),
            _ => Err(A::Error::custom("a merge must be two tokens")),
        }
    }
}
