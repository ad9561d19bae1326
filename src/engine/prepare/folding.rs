//! Whether the prepared form of a model holds large constants as they were uploaded or as ONNX Runtime folds them.
//!
//! ONNX Runtime computes at the load what follows from constants alone. A float16 or int8 weight that is cast becomes a float32
//! weight then, two to four times as large, and runs read that. Left as it is, the weight is cast in every run: that
//! takes time, and memory for the copy. Both forms are measured, and the smaller one is served unless it is much slower.
//!
//! Models whose data decides what runs (`If`, `Loop`, `Scan`) are folded: made-up data may pass by the weights that count.

use std::time::Duration;

/// The part of its upload, in percent, from which on a prepared form counts as grown: both ways are measured then.
const GROWN: u64 = 125;

/// Bytes that a prepared form may grow by without being weighed.
const LITTLE: u64 = 1 << 20;

/// The longest run of the smaller form, in percent of the other one's.
const SLOWEST: u32 = 150;

/// Differences that are not told from noise.
const NOISE: Duration = Duration::from_micros(20);

/// Operators that run their subgraphs as the data says.
pub const DECIDED_BY_DATA: [&str; 3] = ["If", "Loop", "Scan"];

/// The cost of serving a form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// Bytes that it takes while it runs.
    pub bytes: u64,
    /// CPU time of a run.
    pub run: Duration,
}

/// Whether a prepared form of so many bytes is much larger than the `uploaded` ones.
pub fn has_grown(prepared: u64, uploaded: u64) -> bool {
    prepared > uploaded.saturating_add(LITTLE) && prepared / GROWN > uploaded / 100
}

/// Whether a model is served with its large constants as they were uploaded.
pub fn stays_small(folded: Cost, small: Cost) -> bool {
    small.bytes < folded.bytes && small.run <= folded.run * SLOWEST / 100 + NOISE
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_form_has_grown_when_it_is_a_quarter_and_a_mebibyte_larger() {
        let table = [
            (29 * MIB, 58 * MIB, true),
            (8 * MIB, 16 * MIB, true),
            (100 * MIB, 126 * MIB, true),
            (100 * MIB, 124 * MIB, false),
            (MIB, 2 * MIB, false),
            (MIB, 2 * MIB + 1, true),
            (0, 2 * MIB, true),
        ];
        for (uploaded, prepared, expected) in table {
            assert_eq!(has_grown(prepared, uploaded), expected, "{uploaded} {prepared}");
        }
    }

    #[test]
    fn the_smaller_form_is_served_unless_it_is_much_slower() {
        let cost = |mebibytes, micros| Cost {
            bytes: mebibytes * MIB,
            run: Duration::from_micros(micros),
        };
        let table = [
            // A float16 table that is cast whole in every run: 58 MiB folded; 29 MiB, 58 of a run, and 70 ms.
            (cost(58, 30), cost(87, 70_000), false),
            // One of which each run casts a few rows.
            (cost(58, 30), cost(29, 35), true),
            // Float16 layers over one row: half the memory, and thirty times the time.
            (cost(16, 1_000), cost(12, 30_000), false),
            // Over a thousand rows at a time, casting hardly counts.
            (cost(16, 80_000), cost(12, 90_000), true),
            (cost(16, 80_000), cost(12, 120_000), true),
            (cost(16, 80_000), cost(12, 121_000), false),
            // As large: the quicker one.
            (cost(16, 100), cost(16, 10), false),
        ];
        for (folded, small, expected) in table {
            assert_eq!(stays_small(folded, small), expected, "{folded:?} {small:?}");
        }
    }
}
