//! A model's batching state: which of its requests can be joined, and how many of them pay off.

use std::sync::{Mutex, PoisonError};

use crate::engine::run::batch::Batching;
use crate::engine::run::batch_limit::BatchLimit;

/// The batching state of a model.
#[derive(Debug)]
pub struct Batcher {
    pub(super) batching: Batching,
    /// `None` once a run of the model has mixed rows.
    limit: Mutex<Option<BatchLimit>>,
}

impl Batcher {
    pub fn new(batching: Batching) -> Self {
        let limit = Mutex::new(Some(BatchLimit::new(batching.max_rows)));
        Self { batching, limit }
    }

    pub(super) fn with_batch_limit<T>(&self, work: impl FnOnce(&mut BatchLimit) -> T) -> Option<T> {
        // The lock is held for a little arithmetic.
        let mut limit = self.limit.lock().unwrap_or_else(PoisonError::into_inner);
        limit.as_mut().map(work)
    }

    /// Turns batching off. Returns whether it was on.
    pub(super) fn turn_off(&self) -> bool {
        self.limit
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
            .is_some()
    }
}
