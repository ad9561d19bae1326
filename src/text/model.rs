//! The model of a tokenizer file: its vocabulary, and the algorithm that splits words into tokens.
//!
//! - `read`: reads the model from the file.
//! - `unigram`, `trie`: Unigram models. The library needs 200 MB for 250,000 tokens, because each
//!   node of its trie is a hash table; this implementation needs a tenth of that.

mod read;
mod trie;
mod unigram;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use tokenizers::models::unigram::UnigramTrainer;
use tokenizers::models::{ModelWrapper, TrainerWrapper};
use tokenizers::{Model, Token};

pub(super) use self::read::ModelSeed;
use self::unigram::Unigram;

/// The sizes that determine the memory of a model.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct ModelSize {
    pub tokens: usize,
    pub token_bytes: usize,
    pub merges: usize,
    /// The largest token id.
    pub last_id: u32,
    /// Bytes of a Unigram model, which it computes itself.
    pub unigram_bytes: usize,
}

/// A model of the library, or the Unigram model of this module.
#[derive(Debug)]
pub(super) enum TokenModel {
    Library(ModelWrapper),
    Unigram(Unigram),
}

impl TokenModel {
    /// The name of the algorithm.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Library(ModelWrapper::BPE(_)) => "BPE",
            Self::Library(ModelWrapper::WordPiece(_)) => "WordPiece",
            Self::Library(ModelWrapper::WordLevel(_)) => "WordLevel",
            Self::Library(ModelWrapper::Unigram(_)) | Self::Unigram(_) => "Unigram",
        }
    }
}

/// The interface through which the library's other parts use a model.
impl Model for TokenModel {
    type Trainer = TrainerWrapper;

    fn tokenize(&self, text: &str) -> tokenizers::Result<Vec<Token>> {
        match self {
            Self::Library(model) => model.tokenize(text),
            Self::Unigram(model) => Ok(model.tokenize(text)?),
        }
    }

    fn token_to_id(&self, token: &str) -> Option<u32> {
        match self {
            Self::Library(model) => model.token_to_id(token),
            Self::Unigram(model) => model.token_to_id(token),
        }
    }

    fn id_to_token(&self, id: u32) -> Option<String> {
        match self {
            Self::Library(model) => model.id_to_token(id),
            Self::Unigram(model) => model.id_to_token(id).map(str::to_owned),
        }
    }

    fn get_vocab(&self) -> HashMap<String, u32> {
        match self {
            Self::Library(model) => model.get_vocab(),
            Self::Unigram(model) => model.tokens().map(|(token, id)| (token.to_owned(), id)).collect(),
        }
    }

    fn get_vocab_size(&self) -> usize {
        match self {
            Self::Library(model) => model.get_vocab_size(),
            Self::Unigram(model) => model.len(),
        }
    }

    fn save(&self, _: &Path, _: Option<&str>) -> tokenizers::Result<Vec<PathBuf>> {
        Err("models are read only".into())
    }

    fn get_trainer(&self) -> TrainerWrapper {
        match self {
            Self::Library(model) => model.get_trainer(),
            Self::Unigram(_) => TrainerWrapper::UnigramTrainer(UnigramTrainer::default()),
        }
    }
}
