//! Shares one tokenizer in memory between the models with equal tokenizer files.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::config::TokenizerConfig;
use super::error::TextError;
use super::limits::FileLimits;
use super::tokenizer::{Core, Overrides, Tokenizer};

/// The tokenizers in use. Each is freed with the last [`Tokenizer`] that uses it.
#[derive(Default)]
pub struct Pool {
    /// A standard lock, because it is held only for the lookup. A file is parsed under the lock of
    /// its own slot, where other loads of the same file wait.
    slots: Mutex<HashMap<Key, Arc<Slot>>>,
}

/// The hash of a file, and the settings of the model that override it.
type Key = (blake3::Hash, Overrides);

/// A tokenizer, if it is in use. The lock is held while its file is parsed.
type Slot = Mutex<Weak<Core>>;

impl Pool {
    /// Returns the tokenizer of a file: the shared one, if it is in memory, or a new one.
    pub fn get(&self, json: &[u8], config: &TokenizerConfig, limits: &FileLimits) -> Result<Tokenizer, TextError> {
        // Do not hash a file that is refused for its size.
        if json.len() > limits.bytes {
            return Tokenizer::parse(json, config, limits);
        }
        let overrides = Overrides::new(config);
        let key = (blake3::hash(json), overrides);
        let slot = {
            let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
            slots.retain(|_, slot| Self::is_used(slot));
            slots.entry(key).or_default().clone()
        };
        let mut held = slot.lock().unwrap_or_else(PoisonError::into_inner);
        let core = match held.upgrade() {
            Some(core) => core,
            None => {
                let core = Arc::new(Core::parse(json, overrides, limits)?);
                *held = Arc::downgrade(&core);
                core
            }
        };
        Ok(Tokenizer::new(core, config))
    }

    /// The number of tokenizers in memory.
    pub fn len(&self) -> usize {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.values().filter(|slot| Self::is_used(slot)).count()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether a slot has a tokenizer, or a load is filling it.
    fn is_used(slot: &Arc<Slot>) -> bool {
        // A load first clones the slot, then takes its lock.
        Arc::strong_count(slot) > 1
            || match slot.try_lock() {
                Ok(core) => core.strong_count() > 0,
                Err(_) => true,
            }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("tokenizers", &self.len()).finish()
    }
}
