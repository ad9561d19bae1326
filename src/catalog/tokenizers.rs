//! Tokenizers of loaded models. Models with equal tokenizer files share one tokenizer in memory.
//!
//! Invariant: the memory of a tokenizer is reserved before it is built and released after its last
//! model is gone.

use std::sync::Arc;

use super::error::load_error;
use super::model_engine::ModelEngine;
use super::{Catalog, CatalogError};
use crate::engine::{ArtifactPath, Footprint, LoadError, ModelReservation, NoRoom};
use crate::handler::SharedTokenizer;
use crate::manifest::TokenizerFile;
use crate::text::{FileLimits, TextError, Tokenizer, TokenizerConfig};

/// Peak memory while a tokenizer is built, as a multiple of its file's size. Measured: 6 to 13
/// times for files of 0.5 to 17 MB.
const PEAK_FACTOR: u64 = 16;

/// Estimate of its memory afterwards, as a multiple of the file's size, until it is measured.
const RESIDENT_FACTOR: u64 = 8;

/// A tokenizer with its memory reservation.
#[derive(Debug)]
pub(super) struct CountedTokenizer {
    tokenizer: Tokenizer,
    // Dropped after the tokenizer, so that the memory is free when the reservation ends.
    _memory: ModelReservation,
}

impl AsRef<Tokenizer> for CountedTokenizer {
    fn as_ref(&self) -> &Tokenizer {
        &self.tokenizer
    }
}

/// Cache key of a tokenizer: its file and the configuration from the files next to it.
fn key(file: &blake3::Hash, config: &TokenizerConfig) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new_derive_key("longshore 2026 tokenizer");
    hasher.update(file.as_bytes());
    hasher.update(&serde_json::to_vec(config).unwrap_or_default());
    hasher.finalize()
}

/// Cause of a missing tokenizer.
enum TokenizerRefusal {
    NoRoom(NoRoom),
    Text(TextError),
}

impl<E: ModelEngine> Catalog<E> {
    /// Returns the tokenizer in `file` for the model `name`; shares the one of another model if
    /// there is one. `path` locates the artifact, for a file that has to be read again.
    pub(super) async fn tokenizer(
        &self,
        name: &str,
        file: &TokenizerFile,
        config: &TokenizerConfig,
        path: &ArtifactPath,
    ) -> Result<SharedTokenizer, CatalogError> {
        let gone = || CatalogError::TokenizerGone { name: name.to_owned() };
        let hash = blake3::Hash::from_hex(&file.hash).map_err(|_| gone())?;
        let place = self.tokenizers.slot(key(&hash, config));
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
                let holding =
                    engine.reserve_shared(size.saturating_mul(PEAK_FACTOR), size.saturating_mul(RESIDENT_FACTOR));
                let holding = holding.map_err(TokenizerRefusal::NoRoom)?;
                let tokenizer = pool
                    .get(&bytes, &config, &FileLimits::default())
                    .map_err(TokenizerRefusal::Text)?;
                let footprint = Footprint {
                    private: tokenizer.memory(),
                    ..Footprint::default()
                };
                match holding.settle(footprint) {
                    Ok(memory) => Ok(CountedTokenizer {
                        tokenizer,
                        _memory: memory,
                    }),
                    Err((refused, _)) => Err(TokenizerRefusal::NoRoom(refused)),
                }
            };
            Some(made())
        });
        let made = made.await.map_err(|error| load_error(name, LoadError::Pool(error)))?;
        let counted = Arc::new(made.ok_or_else(gone)?.map_err(|refusal| match refusal {
            TokenizerRefusal::NoRoom(refused) => load_error(name, LoadError::NoRoom(refused)),
            TokenizerRefusal::Text(source) => CatalogError::Tokenizer {
                name: name.to_owned(),
                source,
            },
        })?);
        place.set(&counted);
        Ok(SharedTokenizer::new(counted))
    }
}
