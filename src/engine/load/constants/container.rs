//! The copies that sessions share, and the memory that a session leaves among them.
//!
//! A copy stays in its container until the container ends, even if the session that made it is
//! dropped before: another session may read it, or a further one. So a drop is measured, and what
//! the session has not freed stays reserved.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use ort::session::builder::PrepackedWeights;

use super::{ConstantMemory, SharingCounts, lock};
use crate::engine::memory::{Footprint, ModelReservation, allocator};

/// The copies that sessions with the same set of constants share.
#[derive(Debug)]
pub(super) struct Container {
    packed: PrepackedWeights,
    /// Dropped after the copies.
    copies: Mutex<Vec<ConstantMemory>>,
    counts: Arc<SharingCounts>,
}

impl Container {
    pub(super) fn new(counts: &Arc<SharingCounts>) -> Self {
        Self {
            packed: PrepackedWeights::new(),
            copies: Mutex::default(),
            counts: Arc::clone(counts),
        }
    }

    /// A handle for a session, which keeps the copies alive.
    pub(super) fn packed(&self) -> PrepackedWeights {
        self.packed.clone()
    }

    /// Bytes of the copies.
    pub(super) fn bytes(&self) -> u64 {
        lock(&self.copies)
            .iter()
            .map(|copy| copy.reserved.footprint().private)
            .sum()
    }

    /// Reserves `copies` as long as the container exists.
    pub(super) fn keep(&self, copies: ModelReservation) {
        if copies.footprint().private > 0 {
            let memory = ConstantMemory::new(copies, &self.counts, true);
            lock(&self.copies).push(memory);
        }
    }
}

/// Bytes that may differ between the creation of a session and its drop without being copies.
const LITTLE: u64 = 32 << 10;

/// Marks the beginning of the drop of a session.
#[derive(Debug)]
pub struct DropMark(Arc<AtomicI64>);

impl Drop for DropMark {
    fn drop(&mut self) {
        self.0.store(allocator::thread_balance(), Ordering::Relaxed);
    }
}

/// The reservation of a session's own memory. Drop it right after the session, and a [`DropMark`]
/// right before: what the session has not freed is in the container, and stays reserved with it.
#[derive(Debug)]
pub struct OwnMemory {
    memory: ModelReservation,
    container: Option<Arc<Container>>,
    balance: Arc<AtomicI64>,
    /// Bytes that the creation of the session took.
    created: u64,
}

impl OwnMemory {
    /// The reservation of a session that shares the copies in `container`. Its creation took
    /// `created` bytes besides those of copies that are reserved with the container.
    pub(super) fn of(memory: ModelReservation, container: &Arc<Container>, created: u64) -> (DropMark, Self) {
        Self::new(memory, Some(Arc::clone(container)), created)
    }

    fn new(memory: ModelReservation, container: Option<Arc<Container>>, created: u64) -> (DropMark, Self) {
        let balance = Arc::new(AtomicI64::new(i64::MIN));
        let own = Self {
            memory,
            container,
            balance: Arc::clone(&balance),
            created,
        };
        (DropMark(balance), own)
    }

    /// The reservation of a session without shared constants.
    pub fn alone(memory: ModelReservation) -> (DropMark, Self) {
        Self::new(memory, None, 0)
    }

    pub fn reservation(&self) -> &ModelReservation {
        &self.memory
    }
}

impl Drop for OwnMemory {
    fn drop(&mut self) {
        let (Some(container), before) = (&self.container, self.balance.load(Ordering::Relaxed)) else {
            return;
        };
        if before == i64::MIN {
            return;
        }
        let freed = u64::try_from(before - allocator::thread_balance()).unwrap_or(0);
        let left = self.created.saturating_sub(freed);
        // One reference is here, and one in the model's constants. Without others, the container
        // ends now.
        if left > LITTLE && Arc::strong_count(container) > 2 {
            container.keep(self.memory.split_off(Footprint {
                private: left,
                ..Footprint::default()
            }));
        }
    }
}
