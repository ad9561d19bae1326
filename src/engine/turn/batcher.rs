//! What a model keeps to have batches: which of its requests go together, and how many of them are worth it.

use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, PoisonError};

use crate::engine::batch::Batching;
use crate::engine::knee::Knee;

/// What a model needs to have batches.
#[derive(Debug)]
pub struct Batcher {
    pub(super) batching: Batching,
    /// `None` once the model has turned out not to keep rows apart.
    knee: Mutex<Option<Knee>>,
}

/// Batches so far.
#[derive(Debug, Default)]
pub struct Batches {
    pub runs: AtomicU64,
    pub requests: AtomicU64,
}

impl Batcher {
    pub fn new(batching: Batching) -> Self {
        let knee = Mutex::new(Some(Knee::new(batching.max_rows)));
        Self { batching, knee }
    }

    pub(super) fn with_knee<T>(&self, work: impl FnOnce(&mut Knee) -> T) -> Option<T> {
        // Held for a little arithmetic.
        let mut knee = self.knee.lock().unwrap_or_else(PoisonError::into_inner);
        knee.as_mut().map(work)
    }

    /// Returns whether it was on until now.
    pub(super) fn turn_off(&self) -> bool {
        self.knee
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
            .is_some()
    }
}
