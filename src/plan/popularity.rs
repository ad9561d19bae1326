//! The share of requests that each model gets, and the choice of a model by it.
//!
//! Walker's alias table: one random number and one comparison for a choice, however many models
//! there are.

use super::random::Random;

/// Weights of `models` models by Zipf's law: the weight of rank r is 1 / r^skew.
pub fn zipf(models: usize, skew: f64) -> Vec<f64> {
    (1..=models).map(|rank| (rank as f64).powf(-skew)).collect()
}

/// Chooses models by their weights.
#[derive(Debug, Clone)]
pub struct Popularity {
    /// For each column of the table: the part that belongs to its own model, and the model of the
    /// rest.
    columns: Vec<(f64, u32)>,
}

impl Popularity {
    /// `None` if no weight is positive, or one is not a number.
    pub fn of(weights: &[f64]) -> Option<Self> {
        let total: f64 = weights.iter().sum();
        let are_valid = weights.iter().all(|weight| *weight >= 0.0) && u32::try_from(weights.len()).is_ok();
        if !are_valid || !total.is_finite() || total <= 0.0 {
            return None;
        }
        let mean = total / weights.len() as f64;
        let mut rests: Vec<f64> = weights.iter().map(|weight| weight / mean).collect();
        let mut columns: Vec<(f64, u32)> = (0..).take(rests.len()).map(|model| (1.0, model)).collect();
        let (mut small, mut large): (Vec<usize>, Vec<usize>) = (0..rests.len()).partition(|&model| rests[model] < 1.0);
        while let (Some(&lack), Some(&more)) = (small.last(), large.last()) {
            small.pop();
            columns[lack] = (rests[lack], more as u32);
            rests[more] -= 1.0 - rests[lack];
            if rests[more] < 1.0 {
                large.pop();
                small.push(more);
            }
        }
        Some(Self { columns })
    }

    pub fn choose(&self, random: &mut Random) -> u32 {
        let column = random.below(self.columns.len());
        let (own, other) = self.columns[column];
        if random.share() < own { column as u32 } else { other }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn counts(weights: &[f64], choices: u32) -> Vec<f64> {
        let popularity = Popularity::of(weights).unwrap();
        let mut random = Random::new(11);
        let mut counts = vec![0.0; weights.len()];
        for _ in 0..choices {
            counts[popularity.choose(&mut random) as usize] += 1.0;
        }
        counts
    }

    #[test]
    fn zipf_ranks_get_their_shares() {
        const CHOICES: u32 = 1_000_000;
        for skew in [0.0, 0.8, 1.1, 2.0] {
            let weights = zipf(500, skew);
            let total: f64 = weights.iter().sum();
            for (rank, count) in counts(&weights, CHOICES).into_iter().enumerate() {
                let expected = f64::from(CHOICES) * weights[rank] / total;
                let deviation = 5.5 * expected.sqrt() + 1.0;
                assert!(
                    (count - expected).abs() < deviation,
                    "{skew} {rank}: {count} {expected}"
                );
            }
        }
    }

    #[test]
    fn weights_without_a_sum_are_refused() {
        for weights in [&[][..], &[0.0, 0.0], &[f64::NAN], &[-1.0, 2.0], &[f64::INFINITY]] {
            assert!(Popularity::of(weights).is_none(), "{weights:?}");
        }
    }

    proptest! {
        #[test]
        fn models_without_weight_are_never_chosen(weights in prop::collection::vec(0u8..4, 1..40)) {
            let weights: Vec<f64> = weights.into_iter().map(f64::from).collect();
            prop_assume!(weights.iter().any(|weight| *weight > 0.0));
            for (weight, count) in weights.iter().zip(counts(&weights, 2000)) {
                prop_assert!(*weight > 0.0 || count == 0.0);
            }
        }
    }
}
