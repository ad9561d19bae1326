//! Softmax, sigmoid, and selection of the best scores.

/// Converts a row to probabilities that sum to 1.
pub(super) fn softmax(row: &mut [f32]) {
    let greatest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0f64;
    for number in row.iter_mut() {
        *number = (*number - greatest).exp();
        sum += f64::from(*number);
    }
    let sum = sum as f32;
    for number in row {
        *number /= sum;
    }
}

/// Converts a single number to a probability.
pub(super) fn sigmoid(number: f32) -> f32 {
    1.0 / (1.0 + (-number).exp())
}

/// The position of the largest number; the first of equal ones. NaN is smaller than all numbers.
pub(super) fn greatest(row: &[f32]) -> Option<usize> {
    let mut best: Option<(usize, f32)> = None;
    for (at, &number) in row.iter().enumerate() {
        let is_better = best.is_none_or(|(_, top)| number > top || (top.is_nan() && !number.is_nan()));
        if is_better {
            best = Some((at, number));
        }
    }
    best.map(|(at, _)| at)
}

/// The positions of the `most` largest numbers, largest first; equal numbers in their order. NaN
/// comes last.
///
/// Number and position are packed into one integer with the desired order. The best are kept in a
/// heap; each of the others costs one comparison.
pub(super) fn top(row: &[f32], most: usize) -> Vec<usize> {
    let mut best: std::collections::BinaryHeap<std::cmp::Reverse<u64>> = std::collections::BinaryHeap::new();
    if most == 0 {
        return Vec::new();
    }
    let mut least = 0;
    for (at, &number) in (0..=u32::MAX).zip(row) {
        let entry = u64::from(rank(number)) << 32 | u64::from(!at);
        if best.len() < most {
            best.push(std::cmp::Reverse(entry));
        } else if entry > least {
            best.pop();
            best.push(std::cmp::Reverse(entry));
        } else {
            continue;
        }
        least = best.peek().map_or(0, |entry| entry.0);
    }
    let sorted = best.into_sorted_vec().into_iter();
    sorted.map(|entry| !(entry.0 as u32) as usize).collect()
}

/// Maps a float to an integer with the same order; NaN is the smallest.
fn rank(number: f32) -> u32 {
    if number.is_nan() {
        return 0;
    }
    // The two zeros are equal.
    let bits = (number + 0.0).to_bits();
    if bits >> 31 == 0 { bits | 1 << 31 } else { !bits }
}
