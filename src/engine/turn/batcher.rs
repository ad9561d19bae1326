//! What a model keeps to have batches: which of its requests go together, and how many of them are worth it.

use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, PoisonError};

use crate::engine::batch::Batching;
use crate::engine::batch_limit::BatchLimit;

/// What a model needs to have batches.
#[derive(Debug)]
pub struct Batcher {
    pub(super) batching: Batching,
    /// `None` once the model has turned out not to keep rows apart.
    limit: Mutex<Option<BatchLimit>>,
}

/// Batches so far.
#[derive(Debug, Default)]
pub struct Batches {
    pub runs: AtomicU64,
    pub requests: AtomicU64,
}

impl Batcher {
    pub fn new(batching: Batching) -> Self {
        let limit = Mutex::new(Some(BatchLimit::new(batching.max_rows)));
        Self { batching, limit }
    }

    pub(super) fn with_batch_limit<T>(&self, work: impl FnOnce(&mut BatchLimit) -> T) -> Option<T> {
        // Held for a little arithmetic.
        let mut limit = self.limit.lock().unwrap_or_else(PoisonError::into_inner);
        limit.as_mut().map(work)
    }

    /// Returns whether it was on until now.
    pub(super) fn turn_off(&self) -> bool {
        self.limit
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
            .is_some()
    }
}
