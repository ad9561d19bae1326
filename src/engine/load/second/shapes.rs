//! The input shapes that a session has seen, and the memory of what it remembers about them.
//!
//! A second session takes the memory of a run as one block instead of a piece for each operator
//! (ONNX Runtime's *memory pattern*). The pieces would come from wherever the allocator has space,
//! and be cold in the cache: an encoder of 23 MB answers 7 to 12 % more requests with a block. The
//! first run with new shapes records the places in the block, and the session keeps them: 5 KB for
//! that encoder, for each length of text. The first session has no patterns, and serves shapes for
//! which there is no room.
//!
//! Invariant: the memory of a pattern is reserved before the run that records it.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::engine::memory::{Budget, Footprint, LoadRequest, ModelReservation};
use crate::tensor::Tensor;

/// The part of a session's own memory that a pattern takes at most. Measured: 1/120 for an encoder
/// with 115 operators.
const SHARE: u64 = 64;

/// Number of patterns whose memory is reserved at a time.
const AT_A_TIME: usize = 16;

/// Number of patterns of a session.
const MOST: usize = 1_024;

/// Time after a refusal before memory for more patterns is asked for again.
const RETRY: Duration = Duration::from_secs(1);

/// The shapes with patterns in a session.
#[derive(Debug)]
pub struct Shapes {
    budget: Budget,
    /// Bytes of a pattern.
    each: u64,
    known: Mutex<KnownShapes>,
}

#[derive(Debug, Default)]
struct KnownShapes {
    keys: HashSet<usize>,
    /// One for each [`AT_A_TIME`] keys.
    memory: Vec<ModelReservation>,
    refused: Option<Instant>,
}

impl Shapes {
    /// For a session whose creation took `bytes`.
    pub fn of_session(budget: Budget, bytes: u64) -> Self {
        Self {
            budget,
            each: bytes.div_ceil(SHARE),
            known: Mutex::default(),
        }
    }

    /// Whether a run with these inputs may use the session: its pattern is there, or there is room
    /// for it.
    pub fn admit<'a>(&self, inputs: impl Iterator<Item = &'a Tensor>) -> bool {
        let key = key(inputs);
        let mut known = self.known();
        if known.keys.contains(&key) {
            return true;
        }
        if known.keys.len() == known.memory.len() * AT_A_TIME && !self.reserve_more(&mut known) {
            return false;
        }
        known.keys.insert(key)
    }

    fn reserve_more(&self, known: &mut KnownShapes) -> bool {
        let is_refused = known.refused.is_some_and(|refused| refused.elapsed() < RETRY);
        if is_refused || known.keys.len() >= MOST {
            return false;
        }
        let bytes = self.each.saturating_mul(AT_A_TIME as u64);
        let request = LoadRequest {
            private: bytes,
            ..LoadRequest::default()
        };
        let footprint = Footprint {
            private: bytes,
            ..Footprint::default()
        };
        let reserved = self.budget.load_now(&request);
        match reserved.map(|reservation| reservation.settle(footprint)) {
            Ok(Ok(memory)) => {
                known.memory.push(memory);
                true
            }
            Ok(Err(_)) | Err(_) => {
                known.refused = Some(Instant::now());
                false
            }
        }
    }

    /// Bytes that count against the limit.
    pub fn charge(&self) -> u64 {
        self.known().memory.iter().map(ModelReservation::charge).sum()
    }

    fn known(&self) -> MutexGuard<'_, KnownShapes> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// ONNX Runtime's own key of the shapes of a run (`CalculateMemoryPatternsKey` in
/// `session_state.cc`). Shapes with equal keys share a pattern; where it does not fit, the run
/// allocates.
fn key<'a>(inputs: impl Iterator<Item = &'a Tensor>) -> usize {
    inputs.flat_map(Tensor::shape).fold(0, |key, dim| key ^ dim)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::testing;

    #[test]
    fn shapes_that_one_pattern_serves_have_equal_keys() {
        let tensor = |shape: &[usize]| Tensor::from_vec(shape.to_vec(), vec![0f32; shape.iter().product()]).unwrap();
        let key_of = |shapes: &[&[usize]]| {
            let tensors: Vec<Tensor> = shapes.iter().map(|shape| tensor(shape)).collect();
            key(tensors.iter())
        };
        assert_eq!(key_of(&[&[1, 7], &[1, 7]]), key_of(&[&[1, 9], &[1, 9]]));
        assert_ne!(key_of(&[&[1, 7]]), key_of(&[&[1, 9]]));
    }

    fn admits(shapes: &Shapes, length: usize) -> bool {
        let input = Tensor::from_vec(vec![1, length], vec![0f32; length]).unwrap();
        shapes.admit(std::iter::once(&input))
    }

    #[test]
    fn the_memory_of_patterns_is_reserved_before_they_exist_and_known_shapes_need_none() {
        let budget = testing::budget_of(10_000);
        let shapes = Shapes::of_session(budget.clone(), 100 * SHARE);
        assert_eq!(budget.reserved().models, 0);
        assert!((2..2 + AT_A_TIME).all(|length| admits(&shapes, length)));
        assert_eq!((budget.reserved().models, shapes.charge()), (1_600, 1_600));
        assert!(admits(&shapes, 100) && admits(&shapes, 2));
        assert_eq!(budget.reserved().models, 3_200);
        drop(shapes);
        assert_eq!(budget.reserved().models, 0);
    }

    #[test]
    fn without_room_or_beyond_the_most_patterns_only_known_shapes_are_admitted() {
        let small = Shapes::of_session(testing::budget_of(4_000), 100 * SHARE);
        let many = Shapes::of_session(testing::budget(), 100 * SHARE);
        let admitted = |shapes: &Shapes| (2..3_000).filter(|&length| admits(shapes, length)).count();
        assert_eq!(admitted(&small), 2 * AT_A_TIME);
        assert!(admits(&small, 2) && !admits(&small, 2_999));
        assert_eq!(admitted(&many), MOST);
        assert!(admits(&many, 2) && !admits(&many, 2_999));
    }
}
