//! The choice among variants and instances that can all take a request: at random as on SageMaker,
//! or evenly.
//!
//! A draw depends only on the seed, the endpoint and the number of its earlier draws. So a run can
//! be repeated, and the requests of one endpoint do not change the draws of another.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The distribution of requests over variants and instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deal {
    /// A random draw for each request. Equal seeds give equal draws.
    Random { seed: u64 },
    /// Variants and instances take turns, so that any run of consecutive requests has the right
    /// shares.
    Even,
}

impl Deal {
    /// Random draws with `seed`, or with a seed of this process's own.
    pub fn random(seed: Option<u64>) -> Self {
        // The only randomness in the standard library: each `RandomState` has its own keys.
        let chance = || RandomState::new().hash_one(std::process::id());
        Self::Random {
            seed: seed.unwrap_or_else(chance),
        }
    }
}

/// The draws of one endpoint.
#[derive(Debug)]
pub struct Draws {
    stream: u64,
    drawn: AtomicU64,
}

impl Draws {
    pub fn new(seed: u64, endpoint: &str) -> Self {
        let hash = blake3::hash(endpoint.as_bytes());
        let mut name = [0; 8];
        name.copy_from_slice(&hash.as_bytes()[..8]);
        Self {
            stream: scramble(seed ^ u64::from_le_bytes(name)),
            drawn: AtomicU64::new(0),
        }
    }

    /// The next draw, uniform over all numbers.
    pub fn next(&self) -> u64 {
        numbered(self.stream, self.drawn.fetch_add(1, Ordering::Relaxed))
    }
}

/// The draw with this number in a stream, counted from 0 (SplitMix64).
pub fn numbered(stream: u64, number: u64) -> u64 {
    scramble(stream.wrapping_add(GOLDEN.wrapping_mul(number.wrapping_add(1))))
}

/// Converts a draw to a number from 0 up to, but not including, 1.
pub fn unit(draw: u64) -> f64 {
    (draw >> 11) as f64 / (1_u64 << 53) as f64
}

fn scramble(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// Chooses an index by weight. The weights are laid end to end, and `share`, from 0 up to 1, falls
/// into one of them. Weights that are not above 0 are never chosen.
pub fn by_weight(weights: &[f64], share: f64) -> Option<usize> {
    let total: f64 = weights.iter().filter(|weight| **weight > 0.0).sum();
    let mut rest = share * total;
    let mut last = None;
    for (index, weight) in weights.iter().enumerate().filter(|(_, weight)| **weight > 0.0) {
        last = Some(index);
        rest -= weight;
        if rest < 0.0 {
            break;
        }
    }
    // Rounding may leave a tiny rest above 0, which belongs to the last weight.
    last
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_share_falls_into_the_weight_that_covers_it() {
        let table: &[(&[f64], f64, Option<usize>)] = &[
            (&[], 0.0, None),
            (&[0.0, 0.0], 0.5, None),
            (&[1.0], 0.999, Some(0)),
            (&[1.0, 1.0], 0.0, Some(0)),
            (&[1.0, 1.0], 0.499, Some(0)),
            (&[1.0, 1.0], 0.5, Some(1)),
            (&[0.0, 3.0, 0.0, 1.0], 0.0, Some(1)),
            (&[0.0, 3.0, 0.0, 1.0], 0.75, Some(3)),
            (&[0.7, 0.2, 0.1, 0.0], 1.0, Some(2)),
        ];
        for (weights, share, expected) in table {
            assert_eq!(by_weight(weights, *share), *expected, "{weights:?} {share}");
        }
    }

    #[test]
    fn equal_seeds_give_equal_draws_and_each_endpoint_has_its_own() {
        let draws = |seed, endpoint| {
            let draws = Draws::new(seed, endpoint);
            Vec::from_iter((0..8).map(|_| draws.next()))
        };
        assert_eq!(draws(7, "shop"), draws(7, "shop"));
        assert_ne!(draws(7, "shop"), draws(8, "shop"));
        assert_ne!(draws(7, "shop"), draws(7, "other"));
        assert_ne!(Deal::random(None), Deal::random(None));
        assert_eq!(Deal::random(Some(3)), Deal::Random { seed: 3 });
    }

    #[test]
    fn draws_deviate_from_their_weights_as_much_as_chance_does() {
        let draws = Draws::new(1, "shop");
        let hundred = |_| {
            let mut counts = [0_u32; 3];
            for _ in 0..100 {
                counts[by_weight(&[0.7, 0.2, 0.1], unit(draws.next())).unwrap()] += 1;
            }
            counts
        };
        let hundreds = Vec::from_iter((0..100).map(hundred));
        let chi_square = |counts: &[u32; 3]| -> f64 {
            let off = |(seen, expected): (&u32, f64)| (f64::from(*seen) - expected).powi(2) / expected;
            counts.iter().zip([70.0, 20.0, 10.0]).map(off).sum()
        };
        // Two degrees of freedom: the expected mean is 2. The mean of a hundred lies within five
        // standard deviations of 0.2.
        let mean = hundreds.iter().map(chi_square).sum::<f64>() / 100.0;
        assert!((1.0..3.0).contains(&mean), "{mean}");
    }

    proptest! {
        #[test]
        fn only_positive_weights_are_chosen(weights in prop::collection::vec(0_u8..4, 0..6), draw in any::<u64>()) {
            let weights = Vec::from_iter(weights.into_iter().map(f64::from));
            match by_weight(&weights, unit(draw)) {
                Some(chosen) => prop_assert!(weights[chosen] > 0.0),
                None => prop_assert!(weights.iter().all(|weight| *weight == 0.0)),
            }
        }
    }
}
