//! The tokenizers of loaded models: equal files are one tokenizer in memory, however many models
//! have them.
//!
//! What always holds: a tokenizer's memory is reserved from before it is made until it is gone,
//! which is when its last model is.

use std::sync::Arc;

use super::error::load_error;
use super::{Catalog, CatalogError};
use crate::engine::{ArtifactPath, Footprint, LoadError, ModelReservation, NoRoom};
use crate::handler::SharedTokenizer;
use crate::manifest::TokenizerFile;
use crate::text::{FileLimits, TextError, Tokenizer, TokenizerConfig};

/// Bytes that a tokenizer takes while it is made, as many times those of its file. Measured:
/// 6 to 13 times for files of 0.5 to 17 MB.
const PEAK_TIMES: u64 = 16;

/// Those that it takes afterwards, before that is known.
const STAYS_TIMES: u64 = 8;

/// A tokenizer, and the memory that is reserved for it.
#[derive(Debug)]
pub(super) struct Counted {
    tokenizer: Tokenizer,
    // After the tokenizer: memory is given back when it is free.
    _memory: ModelReservation,
}

impl AsRef<Tokenizer> for Counted {
    fn as_ref(&self) -> &Tokenizer {
        &self.tokenizer
    }
}

/// What tokenizers have to have in common to be one: the file, and what the files beside it say.
fn key(file: &blake3::Hash, config: &TokenizerConfig) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new_derive_key("longshore 2026 tokenizer");
    hasher.update(file.as_bytes());
    hasher.update(&serde_json::to_vec(config).unwrap_or_default());
    hasher.finalize()
}

/// Why there is no tokenizer.
enum Refusal {
    NoRoom(NoRoom),
    Text(TextError),
}

impl Catalog {
    /// The tokenizer of the model `name` out of `file`: the one that another model has, or a new
    /// one. `path` is where the artifact was, for a file that has to be read again.
    pub(super) async fn tokenizer(
        &self,
        name: &str,
        file: &TokenizerFile,
        config: &TokenizerConfig,
        path: &ArtifactPath,
    ) -> Result<SharedTokenizer, CatalogError> {
        let gone = || CatalogError::TokenizerGone { name: name.to_owned() };
        let hash = blake3::Hash::from_hex(&file.hash).map_err(|_| gone())?;
        let place = self.tokenizers.place(key(&hash, config));
        let mut place = place.lock().await;
        if let Some(counted) = place.get() {
            return Ok(SharedTokenizer::new(counted));
        }
        let (engine, pool) = (Arc::clone(&self.engine), Arc::clone(&self.tokenizer_files));
        let (file, path, config) = (file.clone(), path.clone(), config.clone());
        let made = self.engine.with_loads(move || {
            let bytes = match file.bytes {
                Some(bytes) => {
                    engine.keep_side_file(&hash, &bytes);
                    bytes
                }
                None => engine.side_file(&hash, &path, &file.path)?.into(),
            };
            let size = bytes.len() as u64;
            let made = || {
                let holding = engine.reserve_shared(size.saturating_mul(PEAK_TIMES), size.saturating_mul(STAYS_TIMES));
                let holding = holding.map_err(Refusal::NoRoom)?;
                let tokenizer = pool
                    .get(&bytes, &config, &FileLimits::default())
                    .map_err(Refusal::Text)?;
                let footprint = Footprint {
                    private: tokenizer.memory(),
                    ..Footprint::default()
                };
                match holding.settle(footprint) {
                    Ok(memory) => Ok(Counted {
                        tokenizer,
                        _memory: memory,
                    }),
                    Err((refused, _)) => Err(Refusal::NoRoom(refused)),
                }
            };
            Some(made())
        });
        let made = made.await.map_err(|error| load_error(name, LoadError::Pool(error)))?;
        let counted = Arc::new(made.ok_or_else(gone)?.map_err(|refusal| match refusal {
            Refusal::NoRoom(refused) => load_error(name, LoadError::NoRoom(refused)),
            Refusal::Text(source) => CatalogError::Tokenizer {
                name: name.to_owned(),
                source,
            },
        })?);
        place.set(&counted);
        Ok(SharedTokenizer::new(counted))
    }
}
