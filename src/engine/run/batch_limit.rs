//! Learns how many rows a model's batches should have, from the cost of its runs.
//!
//! Batching pays if much of a run's cost does not depend on the rows: weights that are read from
//! memory once for all of them, operators that are set up once. It gains a factor of twelve for a
//! tiny model and of nine for a perceptron of 60 MB. For a convolutional net it gains nothing,
//! and would only make the first request of a batch wait for the last. So the limit is learned
//! for each model: runs are grouped by their rows into powers of two, each group keeps an average
//! cost, and batches grow as long as the next power of two is a tenth cheaper per row. Now and
//! then a batch is larger or smaller than that, which keeps the averages of the adjacent groups
//! up to date.
//!
//! The cost is the CPU time of the running thread. Wall time would also measure the other load of
//! the machine.

/// Fraction of the cost that a larger batch has to save.
const GAIN: f64 = 0.10;

/// Runs of a size that are needed before their average counts.
const MIN_RUNS: u32 = 3;

/// Runs that an average takes into account.
const WINDOW: u32 = 8;

/// Number of decisions in which one tries a larger and one a smaller batch, in order to learn.
const EXPLORE_EVERY: u64 = 32;

/// Decisions without a batch after a batch that failed. Each failure doubles it; each success
/// halves it.
const FIRST_PENALTY: u64 = 16;
const LONGEST_PENALTY: u64 = 4096;

/// The learned batch limit of one model.
#[derive(Debug)]
pub struct BatchLimit {
    max_rows: usize,
    /// Average costs of runs of 1 row, 2, 3 to 4, 5 to 8 and so on.
    costs: Vec<Cost>,
    decisions: u64,
    penalty: u64,
    alone_until: u64,
}

/// A moving average of costs.
#[derive(Debug, Clone, Copy, Default)]
struct Cost {
    average: f64,
    runs: u32,
}

impl Cost {
    fn add(&mut self, cost: f64) {
        self.runs = self.runs.saturating_add(1);
        self.average += (cost - self.average) / f64::from(self.runs.min(WINDOW));
    }

    fn known(self) -> Option<f64> {
        (self.runs >= MIN_RUNS).then_some(self.average)
    }
}

/// Exponent of the smallest power of two that is at least `rows`.
fn size_of(rows: usize) -> usize {
    rows.max(1)
        .checked_next_power_of_two()
        .map_or(usize::BITS, usize::trailing_zeros) as usize
}

impl BatchLimit {
    pub fn new(max_rows: usize) -> Self {
        Self {
            max_rows,
            costs: vec![Cost::default(); size_of(max_rows) + 1],
            decisions: 0,
            penalty: 0,
            alone_until: 0,
        }
    }

    /// Returns the row limit of the next batch; 1 for no batch. Call it only when there are
    /// requests to batch.
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

    /// Returns the largest size to which every step pays, or the first size whose cost is unknown.
    fn best(&self) -> usize {
        // Start at the smallest size that occurs. Smaller ones have no cost, and need none.
        let Some(mut size) = self.costs.iter().position(|cost| cost.known().is_some()) else {
            return 0;
        };
        while let Some(next) = self.costs.get(size + 1) {
            match (self.costs[size].known(), next.known()) {
                (Some(cost), Some(larger)) if larger <= cost * (1.0 - GAIN) => size += 1,
                (Some(_), None) => return size + 1,
                (Some(_), Some(_)) | (None, _) => break,
            }
        }
        size
    }

    /// Records a run of `rows` rows that took `nanoseconds` for `bytes` of input. The cost is
    /// compared per byte, so that a model's long sequences do not count as more expensive.
    pub fn record(&mut self, rows: usize, bytes: usize, nanoseconds: u64) {
        if let Some(cost) = self.costs.get_mut(size_of(rows)) {
            cost.add(nanoseconds as f64 / bytes.max(1) as f64);
        }
    }

    /// Records a batch that gave each of its requests its outputs.
    pub fn succeeded(&mut self) {
        self.penalty /= 2;
    }

    /// Records a batch that failed, after which its requests had to run alone. The usual cause is
    /// the data of one request. The growing penalty keeps a client that sends such data often
    /// from making every other request run twice.
    pub fn failed(&mut self) {
        self.penalty = (self.penalty * 2).clamp(FIRST_PENALTY, LONGEST_PENALTY);
        self.alone_until = self.decisions + self.penalty;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nanoseconds that a run takes, by its rows.
    type Model = fn(usize) -> f64;

    /// The limit that is chosen most often under a queue that is never empty.
    fn settled(max_rows: usize, rows_each: usize, time: Model) -> usize {
        let mut batch_limit = BatchLimit::new(max_rows);
        let mut chosen = std::collections::BTreeMap::<usize, usize>::new();
        for round in 0..2000 {
            let limit = batch_limit.rows();
            let requests = (limit / rows_each).max(1);
            let rows = requests * rows_each;
            batch_limit.record(rows, rows * 4, time(rows) as u64);
            if round >= 500 {
                *chosen.entry(limit).or_default() += 1;
            }
        }
        chosen.into_iter().max_by_key(|(_, count)| *count).unwrap().0
    }

    /// Interpolates between measured points: rows, and microseconds per row.
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
            // measured microseconds per row; smallest and largest limit to expect
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
    fn requests_of_several_rows_are_batched_by_the_same_rule() {
        for rows_each in [3, 5, 10, 16] {
            let limit = settled(64, rows_each, |rows| 100_000.0 + rows as f64 * 10.0);
            assert_eq!(limit, 64, "{rows_each}");
            let limit = settled(64, rows_each, |rows| rows as f64 * 10_000.0);
            assert!(limit < 2 * rows_each, "{rows_each}: {limit}");
        }
    }

    #[test]
    fn no_batch_is_made_before_the_cost_of_single_requests_is_known() {
        let mut batch_limit = BatchLimit::new(32);
        for _ in 0..MIN_RUNS {
            assert_eq!(batch_limit.rows(), 1);
            batch_limit.record(1, 4, 1000);
        }
        assert_eq!(batch_limit.rows(), 2);
    }

    #[test]
    fn batches_stay_within_the_limit() {
        for max_rows in [2, 3, 24, 1 << 20] {
            let mut batch_limit = BatchLimit::new(max_rows);
            let mut largest = 0;
            for _ in 0..1000 {
                let rows = batch_limit.rows();
                largest = largest.max(rows);
                batch_limit.record(rows, rows, 1_000_000);
            }
            assert_eq!(largest, max_rows);
            batch_limit.record(usize::MAX, usize::MAX, u64::MAX);
            batch_limit.record(0, 0, 0);
        }
    }

    #[test]
    fn slow_first_runs_do_not_keep_the_limit_wrong() {
        // The first runs of a model are slower than later ones.
        let mut batch_limit = BatchLimit::new(32);
        for _ in 0..MIN_RUNS {
            batch_limit.record(1, 4, 1_000_000);
        }
        let mut joined = 0;
        for round in 0..4000 {
            let rows = batch_limit.rows();
            batch_limit.record(rows, rows * 4, rows as u64 * 100_000);
            joined += usize::from(round > 2000 && rows > 1);
        }
        assert!(joined < 2000 / EXPLORE_EVERY as usize * 2, "{joined}");
    }

    #[test]
    fn repeated_failures_suspend_batching_longer_and_successes_shorten_that() {
        let mut batch_limit = BatchLimit::new(2);
        for _ in 0..MIN_RUNS {
            batch_limit.record(1, 1, 1000);
            batch_limit.record(2, 2, 1000);
        }
        let mut alone = || {
            batch_limit.failed();
            (0..).find(|_| batch_limit.rows() > 1).unwrap()
        };
        let (first, second) = (alone(), alone());
        assert!(
            (16..20).contains(&first) && (32..36).contains(&second),
            "{first} {second}"
        );
        for _ in 0..20 {
            batch_limit.succeeded();
        }
        batch_limit.failed();
        let again = (0..).find(|_| batch_limit.rows() > 1).unwrap();
        assert!((16..20).contains(&again), "{again}");
    }
}
