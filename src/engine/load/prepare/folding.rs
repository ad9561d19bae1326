//! Decides whether the prepared form keeps large constants as they were uploaded, or folded by ONNX
//! Runtime.
//!
//! During a load, ONNX Runtime computes everything that depends only on constants. A float16 or
//! int8 weight that is cast then becomes a float32 weight, two to four times as large, and runs
//! read that. If the weight is not folded, every run casts it, which takes time, and memory for the
//! copy. Both forms are measured, and the smaller one is served unless it is much slower.
//!
//! Models whose data decides which operators run (`If`, `Loop`, `Scan`) are always folded, because
//! generated data may not reach the relevant weights.

use std::time::Duration;

/// Size of a prepared form, in percent of its upload, from which both forms are measured.
const GROWN: u64 = 125;

/// Bytes that a prepared form may grow by without a measurement.
const LITTLE: u64 = 1 << 20;

/// Maximum run time of the smaller form, in percent of the other form's.
const SLOWEST: u32 = 150;

/// Time differences up to this count as noise.
const NOISE: Duration = Duration::from_micros(20);

/// Operators whose data decides which subgraphs run.
pub const DECIDED_BY_DATA: [&str; 3] = ["If", "Loop", "Scan"];

/// The cost of serving a form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FormCost {
    /// Bytes of memory during a run.
    pub bytes: u64,
    /// CPU time of a run.
    pub run: Duration,
}

/// Whether a prepared form of `prepared` bytes is much larger than the `uploaded` bytes.
pub fn has_grown(prepared: u64, uploaded: u64) -> bool {
    prepared > uploaded.saturating_add(LITTLE) && prepared / GROWN > uploaded / 100
}

/// Whether a model is served with its large constants as they were uploaded.
pub fn is_cheaper_unfolded(folded: FormCost, small: FormCost) -> bool {
    small.bytes < folded.bytes && small.run <= folded.run * SLOWEST / 100 + NOISE
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_form_has_grown_if_it_is_a_quarter_and_a_mebibyte_larger() {
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
        let cost = |mebibytes, micros| FormCost {
            bytes: mebibytes * MIB,
            run: Duration::from_micros(micros),
        };
        let table = [
            // A float16 table that every run casts as a whole. Folded: 58 MiB. Otherwise: 29 MiB,
            // 58 MiB during a run, and 70 ms.
            (cost(58, 30), cost(87, 70_000), false),
            // A table of which each run casts a few rows.
            (cost(58, 30), cost(29, 35), true),
            // Float16 layers, for one row: half the memory, and thirty times the time.
            (cost(16, 1_000), cost(12, 30_000), false),
            // For a thousand rows at a time, the cast hardly matters.
            (cost(16, 80_000), cost(12, 90_000), true),
            (cost(16, 80_000), cost(12, 120_000), true),
            (cost(16, 80_000), cost(12, 121_000), false),
            // The same size: the faster form.
            (cost(16, 100), cost(16, 10), false),
        ];
        for (folded, small, expected) in table {
            assert_eq!(is_cheaper_unfolded(folded, small), expected, "{folded:?} {small:?}");
        }
    }
}
