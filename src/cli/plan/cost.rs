//! The costs of a model of a given size, from models that were measured.
//!
//! Between two measured sizes the costs lie on a straight line; beyond them they grow with the
//! size.

use std::collections::HashMap;

use crate::engine::ModelCost;

/// A model that was measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// Bytes of its files in the store.
    pub bytes: u64,
    pub cost: ModelCost,
    /// Large constants that it may share with others: their hash and their bytes.
    pub constants: Vec<(String, u64)>,
    /// Nanoseconds of the download and the preparation.
    pub first: u64,
    /// Nanoseconds of a load from disk.
    pub load: u64,
    /// Nanoseconds of each timed run.
    pub runs: Vec<u64>,
}

/// Costs by size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CostCurve {
    /// Measured sizes and their costs, by size; not empty.
    points: Vec<(u64, ModelCost)>,
    /// Bytes that the models have in common.
    pub shared: u64,
}

/// Constants that at least two of the samples have, and at least half of them.
fn common(samples: &[Sample]) -> HashMap<&str, u64> {
    let mut counts: HashMap<&str, (usize, u64)> = HashMap::new();
    for sample in samples {
        let mut own: Vec<&(String, u64)> = sample.constants.iter().collect();
        own.sort();
        own.dedup();
        for (hash, bytes) in own {
            let entry = counts.entry(hash).or_insert((0, *bytes));
            entry.0 += 1;
        }
    }
    let is_common = |count: usize| count >= 2 && 2 * count >= samples.len();
    let common = counts.into_iter().filter(|(_, (count, _))| is_common(*count));
    common.map(|(hash, (_, bytes))| (hash, bytes)).collect()
}

impl CostCurve {
    /// `None` without samples.
    pub fn of(samples: &[Sample]) -> Option<Self> {
        let common = common(samples);
        let point = |sample: &Sample| {
            let mut own: Vec<&str> = sample.constants.iter().map(|(hash, _)| &**hash).collect();
            own.sort_unstable();
            own.dedup();
            let shared: u64 = own.iter().filter_map(|hash| common.get(hash)).sum();
            let cost = ModelCost {
                mapped: sample.cost.mapped.saturating_sub(shared),
                ..sample.cost
            };
            (sample.bytes, cost)
        };
        let mut points: Vec<(u64, ModelCost)> = samples.iter().map(point).collect();
        points.sort_by_key(|(bytes, cost)| (*bytes, cost.resident()));
        (!points.is_empty()).then(|| Self {
            points,
            shared: common.values().sum(),
        })
    }

    /// The cost of a model of `bytes` bytes.
    pub fn at(&self, bytes: u64) -> ModelCost {
        let above = self.points.partition_point(|(size, _)| *size < bytes);
        let last = self.points.len() - 1;
        let ((low, low_cost), (high, high_cost)) = match above {
            0 => ((0, ModelCost::default()), self.points[0]),
            above if above > last => ((0, ModelCost::default()), self.points[last]),
            above => (self.points[above - 1], self.points[above]),
        };
        let part = match high - low {
            0 => 1.0,
            width => (bytes as f64 - low as f64) / width as f64,
        };
        let between = |low: u64, high: u64| (low as f64 + (high as f64 - low as f64) * part).max(0.0) as u64;
        // Small models cost no less than the smallest that was measured: most of it is fixed.
        let between = |low: u64, high: u64| if above == 0 { high } else { between(low, high) };
        ModelCost {
            private: between(low_cost.private, high_cost.private),
            mapped: between(low_cost.mapped, high_cost.mapped),
            load_peak: between(low_cost.load_peak, high_cost.load_peak),
            run: between(low_cost.run, high_cost.run),
            prepare: between(low_cost.prepare, high_cost.prepare),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(bytes: u64, mapped: u64, constants: &[(&str, u64)]) -> Sample {
        Sample {
            bytes,
            cost: ModelCost {
                private: 10,
                mapped,
                ..ModelCost::default()
            },
            constants: constants
                .iter()
                .map(|(hash, bytes)| ((*hash).to_owned(), *bytes))
                .collect(),
            first: 1,
            load: 1,
            runs: vec![1],
        }
    }

    #[test]
    fn costs_lie_on_lines_between_the_measured_sizes() {
        let curve = CostCurve::of(&[sample(100, 1000, &[]), sample(300, 2000, &[]), sample(200, 1200, &[])]).unwrap();
        let mapped = [50, 100, 150, 250, 300, 600].map(|bytes| curve.at(bytes).mapped);
        assert_eq!(mapped, [1000, 1000, 1100, 1600, 2000, 4000]);
        assert_eq!(curve.shared, 0);
        assert!(CostCurve::of(&[]).is_none());
    }

    #[test]
    fn equal_sizes_need_no_line() {
        let curve = CostCurve::of(&[sample(100, 900, &[]), sample(100, 1000, &[])]).unwrap();
        assert_eq!([50, 100, 200].map(|bytes| curve.at(bytes).mapped), [900, 900, 2000]);
    }

    #[test]
    fn constants_of_several_models_count_once() {
        let base = [("base", 500), ("base", 500), ("own", 100)];
        let curve = CostCurve::of(&[sample(100, 1000, &base), sample(100, 1000, &[("base", 500)])]).unwrap();
        assert_eq!((curve.shared, curve.at(100).mapped), (500, 500));
        let alone = CostCurve::of(&[sample(100, 1000, &base), sample(100, 1000, &[]), sample(100, 1000, &[])]).unwrap();
        assert_eq!((alone.shared, alone.at(100).mapped), (0, 1000));
    }
}
