//! A trial that checks what a graph proves: rows of very different sizes, joined and alone.
//!
//! The proof decides (`axes.rs`); the trial guards against errors of the proof and of kernels. An
//! operator that computes a scale from the whole batch treats small rows well as long as all rows
//! are small. So the trial joins ordinary rows with rows a thousand times as large and as small, in
//! several orders, and with copies of themselves.

use std::time::{Duration, Instant};

use super::probe::{self, numbers_of};
use crate::engine::onnxruntime::session::{Cancel, Session};
use crate::tensor::{Tensor, Value};

/// The rows: a seed, and a factor for floating-point numbers.
const ROWS: [(u64, f64); 6] = [(1, 1.0), (2, 1e3), (3, 1e-3), (1, 1.0), (4, 1.0), (5, 30.0)];

/// The batches, as indices into the rows.
const BATCHES: [&[usize]; 2] = [&[0, 1, 2, 3, 4, 5, 0], &[2, 4, 1]];

/// Time limit of the whole trial. A model whose first run takes too large a part of it is not
/// tried: batching hardly pays off for it.
const TIME_LIMIT: Duration = Duration::from_millis(400);

/// Maximum difference of a row when joined, as a part of its largest number. The number of rows
/// decides which kernels run, and kernels add up numbers in different orders.
const TOLERANCE: f64 = 2e-3;

/// Whether each row has the same answer joined and alone, in the outputs with these indices. `None`
/// if that was not observed. `size` is the size of open dimensions other than the first.
pub fn keeps_rows_apart(session: &Session, outputs: &[usize], size: usize, cancel: &Cancel) -> Option<bool> {
    let rows: Vec<Vec<Tensor>> = ROWS
        .iter()
        .map(|&(seed, factor)| probe::scaled(session.signature(), size, seed, factor))
        .collect::<Option<_>>()?;
    let run = |inputs: &[Tensor]| session.run(inputs, Some(outputs), cancel).ok();
    let started = Instant::now();
    let first = run(&rows[0])?;
    let in_all = BATCHES.iter().map(|batch| batch.len()).sum::<usize>() + rows.len();
    if started.elapsed().saturating_mul(u32::try_from(in_all).ok()?) > TIME_LIMIT {
        return None;
    }
    let mut alone = vec![first];
    for row in &rows[1..] {
        alone.push(run(row)?);
    }
    for batch in BATCHES {
        let parts: Vec<&[Tensor]> = batch.iter().map(|&row| &*rows[row]).collect();
        let joined = crate::engine::run::batch::join(&parts)?;
        let together = run(&joined)?;
        let Some(split) = crate::engine::run::batch::split(&together, &vec![1; batch.len()]) else {
            return Some(false);
        };
        for (&row, found) in batch.iter().zip(&split) {
            if !found
                .iter()
                .zip(&alone[row])
                .all(|(found, expected)| is_near(found, expected))
            {
                return Some(false);
            }
        }
    }
    Some(true)
}

/// Whether two answers to a row are equal except for rounding.
fn is_near(found: &Value, expected: &Value) -> bool {
    let (Some(found), Some(expected)) = (numbers_of(found), numbers_of(expected)) else {
        return false;
    };
    let finite = expected.iter().filter(|number| number.is_finite());
    let largest = finite.fold(0f64, |largest, number| largest.max(number.abs()));
    let near = |(found, expected): (&f64, &f64)| {
        found == expected
            || (found.is_nan() && expected.is_nan())
            || (found - expected).abs() <= TOLERANCE * largest
            // Overflows do not happen at the same place.
            || !(expected.is_finite() && found.is_finite())
    };
    found.len() == expected.len() && found.iter().zip(&expected).all(near)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_may_differ_by_a_small_part_of_its_largest_number() {
        let value =
            |numbers: &[f32]| Value::Tensor(Tensor::from_vec(vec![1, numbers.len()], numbers.to_vec()).unwrap());
        let table: [(&[f32], &[f32], bool); 7] = [
            (&[1.0, 1e-6], &[1.0, 0.0], true),
            (&[1e-3, 0.0], &[1.1e-3, 0.0], false),
            (&[1e3, 1.0], &[1e3, 0.0], true),
            (&[1.0], &[1.0, 1.0], false),
            (&[f32::NAN], &[f32::NAN], true),
            (&[f32::INFINITY], &[3e38], true),
            (&[0.0], &[1.0], false),
        ];
        for (found, expected, near) in table {
            assert_eq!(is_near(&value(found), &value(expected)), near, "{found:?} {expected:?}");
        }
    }
}
