//! Smooth weighted round robin, for `--deal even`.
//!
//! In each round every participant gains its weight as credit. The one with the most credit is
//! chosen and pays the sum of all weights. SageMaker draws at random; here a test with the weights
//! 3 and 1 sees exactly three of every four requests on the first variant, well mixed.

/// The credit of each participant.
#[derive(Debug, Default)]
pub struct RoundRobin(Vec<f64>);

impl RoundRobin {
    /// Chooses the next participant among those with a weight above 0.
    pub fn next(&mut self, weights: impl IntoIterator<Item = f64>) -> Option<usize> {
        let weights: Vec<f64> = weights.into_iter().collect();
        self.0.resize(weights.len(), 0.0);
        let mut chosen: Option<usize> = None;
        for (index, weight) in weights.iter().enumerate() {
            if *weight <= 0.0 {
                self.0[index] = 0.0;
                continue;
            }
            self.0[index] += weight;
            if chosen.is_none_or(|richest| self.0[index] > self.0[richest]) {
                chosen = Some(index);
            }
        }
        let chosen = chosen?;
        self.0[chosen] -= weights.iter().filter(|weight| **weight > 0.0).sum::<f64>();
        Some(chosen)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_weights_three_and_one_alternate_evenly() {
        let mut round_robin = RoundRobin::default();
        let order: Vec<_> = (0..8).filter_map(|_| round_robin.next([3.0, 1.0])).collect();
        assert_eq!(order, [0, 0, 1, 0, 0, 0, 1, 0]);
    }

    #[test]
    fn without_positive_weights_there_is_no_choice() {
        assert_eq!(RoundRobin::default().next([0.0, 0.0]), None);
        assert_eq!(RoundRobin::default().next([]), None);
    }

    proptest! {
        #[test]
        fn each_participant_is_chosen_in_proportion_to_its_weight(weights in prop::collection::vec(0_u8..20, 1..6), rounds in 1_usize..300) {
            let total: u32 = weights.iter().map(|weight| u32::from(*weight)).sum();
            prop_assume!(total > 0);
            let mut round_robin = RoundRobin::default();
            let mut counts = vec![0_f64; weights.len()];
            for _ in 0..rounds {
                counts[round_robin.next(weights.iter().map(|weight| f64::from(*weight))).unwrap()] += 1.0;
            }
            for (count, weight) in counts.iter().zip(&weights) {
                let share = rounds as f64 * f64::from(*weight) / f64::from(total);
                let off = (count - share).abs();
                // The bound for smooth weighted round robin is below the number of participants.
                prop_assert!(off < weights.len() as f64, "{counts:?} {weights:?} {rounds}");
                prop_assert!(*weight > 0 || *count == 0.0);
            }
            // After each full cycle of whole numbers the shares are exact.
            let mut round_robin = RoundRobin::default();
            let mut cycle = vec![0_u32; weights.len()];
            for _ in 0..total {
                cycle[round_robin.next(weights.iter().map(|weight| f64::from(*weight))).unwrap()] += 1;
            }
            prop_assert_eq!(cycle, weights.iter().map(|weight| u32::from(*weight)).collect::<Vec<_>>());
        }
    }
}
