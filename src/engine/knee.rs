//! How many rows a model's batches should have: learned from what its runs take.
//!
//! Batching pays where a run costs much that does not depend on the rows: weights that are read from memory once for all
//! of them, operators that are set up once. It gains twelve times for a tiny model, nine times for a perceptron of 60 MB
//! and nothing for a convolutional net, for which it would only make the first in a batch wait for the last. So nothing
//! is assumed. Runs are sorted by their rows into powers of two, and of each the cost is remembered; batches grow for as
//! long as the next power of two is a tenth cheaper per row. Now and then a batch is larger or smaller than that, so
//! that what is believed of the neighbours stays true.
//!
//! The cost is CPU time of the thread that runs. The clock would say more of what else the machine does.

/// The part of its cost that a larger batch has to save.
const GAIN: f64 = 0.10;

/// Runs of a size before it is believed what they cost.
const BELIEVED: u32 = 3;

/// Runs that an average reaches back.
const MEMORY: u32 = 8;

/// How often, in decisions, one is made for the sake of learning.
const EXPLORE_EVERY: u64 = 32;

/// Decisions without a batch after one that failed; doubled by each failure, halved by each success.
const FIRST_PENALTY: u64 = 16;
const LONGEST_PENALTY: u64 = 4096;

/// What is known of one model.
#[derive(Debug)]
pub struct Knee {
    max_rows: usize,
    /// Of runs of 1 row, 2, 3 to 4, 5 to 8 and so on.
    costs: Vec<Cost>,
    decisions: u64,
    penalty: u64,
    alone_until: u64,
}

/// A moving average.
#[derive(Debug, Clone, Copy, Default)]
struct Cost {
    average: f64,
    runs: u32,
}

impl Cost {
    fn add(&mut self, cost: f64) {
        self.runs = self.runs.saturating_add(1);
        self.average += (cost - self.average) / f64::from(self.runs.min(MEMORY));
    }

    fn believed(self) -> Option<f64> {
        (self.runs >= BELIEVED).then_some(self.average)
    }
}

/// Index of the power of two from `rows` on.
fn size_of(rows: usize) -> usize {
    rows.max(1)
        .checked_next_power_of_two()
        .map_or(usize::BITS, usize::trailing_zeros) as usize
}

impl Knee {
    pub fn new(max_rows: usize) -> Self {
        Self {
            max_rows,
            costs: vec![Cost::default(); size_of(max_rows) + 1],
            decisions: 0,
            penalty: 0,
            alone_until: 0,
        }
    }

    /// Up to how many rows to join now; 1 for none. To be asked when there is something to join.
    pub fn rows(&mut self) -> usize {
        self.decisions += 1;
        if self.decisions <= self.alone_until {
            return 1;
        }
        let best = self.best();
        let size = match self.decisions % EXPLORE_EVERY {
            0 => best + 1,
            phase if phase == EXPLORE_EVERY / 2 => best.saturating_sub(1),
            _ => best,
        };
        1usize.checked_shl(size as u32).unwrap_or(usize::MAX).min(self.max_rows)
    }

    /// The largest size of which each step up to it pays, or the first of which that is not known yet.
    fn best(&self) -> usize {
        // The smallest requests that there are: nothing is known of fewer rows, nor need it be.
        let Some(mut size) = self.costs.iter().position(|cost| cost.believed().is_some()) else {
            return 0;
        };
        while let Some(next) = self.costs.get(size + 1) {
            match (self.costs[size].believed(), next.believed()) {
                (Some(cost), Some(larger)) if larger <= cost * (1.0 - GAIN) => size += 1,
                (Some(_), None) => return size + 1,
                (Some(_), Some(_)) | (None, _) => break,
            }
        }
        size
    }

    /// A run of `rows` rows took `nanoseconds` for `bytes` of input. Costs are compared by the byte, so that a model's
    /// long sequences are no more expensive than its short ones.
    pub fn record(&mut self, rows: usize, bytes: usize, nanoseconds: u64) {
        if let Some(cost) = self.costs.get_mut(size_of(rows)) {
            cost.add(nanoseconds as f64 / bytes.max(1) as f64);
        }
    }

    /// A batch gave each of its requests an answer.
    pub fn succeeded(&mut self) {
        self.penalty /= 2;
    }

    /// A batch failed, and its requests had to be run alone after all. Mostly it is one request's data; whoever sends
    /// such more often does not make the others pay twice for each of theirs.
    pub fn failed(&mut self) {
        self.penalty = (self.penalty * 2).clamp(FIRST_PENALTY, LONGEST_PENALTY);
        self.alone_until = self.decisions + self.penalty;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nanoseconds of a run of so many rows.
    type Model = fn(usize) -> f64;

    /// What batches a model settles at under a queue that is never empty, by how often each limit was chosen.
    fn settled(max_rows: usize, rows_each: usize, time: Model) -> usize {
        let mut knee = Knee::new(max_rows);
        let mut chosen = std::collections::BTreeMap::<usize, usize>::new();
        for round in 0..2000 {
            let limit = knee.rows();
            let requests = (limit / rows_each).max(1);
            let rows = requests * rows_each;
            knee.record(rows, rows * 4, time(rows) as u64);
            if round >= 500 {
                *chosen.entry(limit).or_default() += 1;
            }
        }
        chosen.into_iter().max_by_key(|(_, count)| *count).unwrap().0
    }

    /// A straight line between measured points: rows and microseconds of a row.
    fn between(points: &[(f64, f64)], rows: usize) -> f64 {
        let rows = rows as f64;
        let after = points
            .iter()
            .position(|point| point.0 >= rows)
            .unwrap_or(points.len() - 1);
        let (x0, y0) = points[after.saturating_sub(1)];
        let (x1, y1) = points[after];
        let each = if x1 > x0 {
            y0 + (y1 - y0) * (rows - x0) / (x1 - x0)
        } else {
            y0
        };
        each * rows * 1000.0
    }

    #[test]
    fn batches_grow_as_far_as_they_pay() {
        let table: [(&str, Model, usize, usize); 6] = [
            // measured microseconds of a row; smallest and largest limit to settle at
            (
                "tiny",
                |n| between(&[(1.0, 4.0), (4.0, 1.0), (8.0, 0.87), (32.0, 0.34)], n),
                32,
                32,
            ),
            (
                "6 MB perceptron",
                |n| between(&[(1.0, 104.0), (4.0, 37.0), (8.0, 36.0), (32.0, 32.0)], n),
                4,
                8,
            ),
            (
                "60 MB perceptron",
                |n| between(&[(1.0, 3319.0), (4.0, 915.0), (8.0, 578.0), (32.0, 361.0)], n),
                32,
                32,
            ),
            (
                "encoder",
                |n| between(&[(1.0, 2803.0), (4.0, 2340.0), (8.0, 2293.0), (32.0, 2378.0)], n),
                1,
                2,
            ),
            (
                "convolutional net",
                |n| between(&[(1.0, 80_400.0), (4.0, 78_800.0), (8.0, 82_500.0)], n),
                1,
                1,
            ),
            ("worse in batches", |n| (n * n) as f64 * 1000.0, 1, 1),
        ];
        for (name, time, least, most) in table {
            let limit = settled(32, 1, time);
            assert!((least..=most).contains(&limit), "{name}: {limit}");
        }
    }

    #[test]
    fn requests_of_many_rows_are_joined_likewise() {
        for rows_each in [3, 5, 10, 16] {
            let limit = settled(64, rows_each, |rows| 100_000.0 + rows as f64 * 10.0);
            assert_eq!(limit, 64, "{rows_each}");
            let limit = settled(64, rows_each, |rows| rows as f64 * 10_000.0);
            assert!(limit < 2 * rows_each, "{rows_each}: {limit}");
        }
    }

    #[test]
    fn nothing_is_joined_before_it_is_known_what_a_request_takes_alone() {
        let mut knee = Knee::new(32);
        for _ in 0..BELIEVED {
            assert_eq!(knee.rows(), 1);
            knee.record(1, 4, 1000);
        }
        assert_eq!(knee.rows(), 2);
    }

    #[test]
    fn batches_stay_within_the_limit() {
        for max_rows in [2, 3, 24, 1 << 20] {
            let mut knee = Knee::new(max_rows);
            let mut largest = 0;
            for _ in 0..1000 {
                let rows = knee.rows();
                largest = largest.max(rows);
                knee.record(rows, rows, 1_000_000);
            }
            assert_eq!(largest, max_rows);
            knee.record(usize::MAX, usize::MAX, u64::MAX);
            knee.record(0, 0, 0);
        }
    }

    #[test]
    fn a_first_impression_that_was_wrong_does_not_last() {
        // The first runs of a model are slow for reasons of their own.
        let mut knee = Knee::new(32);
        for _ in 0..BELIEVED {
            knee.record(1, 4, 1_000_000);
        }
        let mut joined = 0;
        for round in 0..4000 {
            let rows = knee.rows();
            knee.record(rows, rows * 4, rows as u64 * 100_000);
            joined += usize::from(round > 2000 && rows > 1);
        }
        assert!(joined < 2000 / EXPLORE_EVERY as usize * 2, "{joined}");
    }

    #[test]
    fn failures_keep_requests_apart_for_longer_and_longer_and_successes_end_that() {
        let mut knee = Knee::new(2);
        for _ in 0..BELIEVED {
            knee.record(1, 1, 1000);
            knee.record(2, 2, 1000);
        }
        let mut alone = || {
            knee.failed();
            (0..).find(|_| knee.rows() > 1).unwrap()
        };
        let (first, second) = (alone(), alone());
        assert!(
            (16..20).contains(&first) && (32..36).contains(&second),
            "{first} {second}"
        );
        for _ in 0..20 {
            knee.succeeded();
        }
        knee.failed();
        let again = (0..).find(|_| knee.rows() > 1).unwrap();
        assert!((16..20).contains(&again), "{again}");
    }
}
