//! Resamples sound in the same way as `scipy.signal.resample_poly`.
//!
//! The ratio of the rates is `up` to `down` in lowest terms. The low-pass filter is a sinc in a
//! Kaiser window with beta 5 that covers ten periods of the lower rate to each side. It is centred
//! on each new sample; its values at the old samples form one of `up` phases. The result has no
//! delay and `ceil(length * up / down)` samples.

use std::f64::consts::PI;

use super::error::AudioError;

/// Length of the filter to each side, in periods of the lower rate.
const PERIODS: u64 = 10;
const BETA: f64 = 5.0;

/// The number of samples after resampling; `None` if it overflows.
pub fn resampled_length(length: u64, from: u32, to: u32) -> Option<u64> {
    let (up, down) = lowest_terms(from, to)?;
    Some(length.checked_mul(up)?.div_ceil(down))
}

/// The number of values in the filter between two rates.
pub(super) fn filter_length(from: u32, to: u32) -> u64 {
    lowest_terms(from, to).map_or(0, |(up, down)| 2 * PERIODS * up.max(down) + 1)
}

fn lowest_terms(from: u32, to: u32) -> Option<(u64, u64)> {
    let (mut a, mut b) = (u64::from(from), u64::from(to));
    if a == 0 || b == 0 {
        return None;
    }
    let (up, down) = (b, a);
    while b != 0 {
        (a, b) = (b, a % b);
    }
    Some((up / a, down / a))
}

/// Converts samples from one rate to another. `most` limits the number of samples.
pub fn resample(samples: &[f32], from: u32, to: u32, most: u64) -> Result<Vec<f32>, AudioError> {
    let malformed = || AudioError::Malformed("the rate is 0 samples per second".to_owned());
    let (up, down) = lowest_terms(from, to).ok_or_else(malformed)?;
    let length = resampled_length(samples.len() as u64, from, to).unwrap_or(u64::MAX);
    if length > most {
        return Err(AudioError::TooLarge {
            what: "samples of a sound at the model's rate",
            given: length,
            limit: most,
        });
    }
    if up == down {
        return Ok(samples.to_vec());
    }
    let out_of_memory = |_| AudioError::OutOfMemory;
    let length = usize::try_from(length).map_err(out_of_memory)?;
    let (up, down) = (
        usize::try_from(up).map_err(out_of_memory)?,
        usize::try_from(down).map_err(out_of_memory)?,
    );
    let phases = Phases::new(up, down)?;
    let mut resampled = Vec::new();
    resampled
        .try_reserve_exact(length)
        .map_err(|_| AudioError::OutOfMemory)?;
    // The position of a new sample among the old ones: a whole part, and a phase between two.
    let (mut whole, mut phase) = (0usize, 0usize);
    let (step, rest) = (down / up, down % up);
    for _ in 0..length {
        resampled.push(phases.at(samples, whole, phase));
        whole += step;
        phase += rest;
        if phase >= up {
            phase -= up;
            whole += 1;
        }
    }
    Ok(resampled)
}

/// The values of the filter by phase, each in the order of the old samples.
struct Phases {
    values: Vec<f32>,
    /// For each phase, the start of its values, and the distance of its first old sample from the
    /// one before the position, counted backwards.
    starts: Vec<(usize, usize)>,
}

impl Phases {
    fn new(up: usize, down: usize) -> Result<Self, AudioError> {
        let half = PERIODS as usize * up.max(down);
        let filter = filter(half, up, up.max(down))?;
        let mut values = Vec::new();
        values
            .try_reserve_exact(filter.len())
            .map_err(|_| AudioError::OutOfMemory)?;
        let mut starts = Vec::with_capacity(up + 1);
        for phase in 0..up {
            // The value at `half + phase + back * up` belongs to the sample `back` before the
            // position.
            let (least, most) = ((half + phase) / up, (half - phase) / up);
            starts.push((values.len(), most));
            // From the oldest sample to the newest.
            let oldest = half + phase + most * up;
            values.extend((0..=least + most).map(|i| filter[oldest - i * up]));
        }
        starts.push((values.len(), 0));
        Ok(Self { values, starts })
    }

    fn at(&self, samples: &[f32], whole: usize, phase: usize) -> f32 {
        let (start, back) = self.starts[phase];
        let mut values = &self.values[start..self.starts[phase + 1].0];
        // There is silence before the first sample and after the last.
        let first = match whole.checked_sub(back) {
            Some(first) => first,
            None => {
                values = &values[back - whole..];
                0
            }
        };
        let samples = samples.get(first..).unwrap_or_default();
        dot(samples, values)
    }
}

/// The dot product over the shorter length. Eight partial sums allow SIMD instructions.
fn dot(samples: &[f32], values: &[f32]) -> f32 {
    let length = samples.len().min(values.len());
    let (samples, values) = (&samples[..length], &values[..length]);
    let (sample_blocks, sample_rest) = samples.as_chunks::<8>();
    let (value_blocks, value_rest) = values.as_chunks::<8>();
    let mut sums = [0.0f32; 8];
    for (samples, values) in sample_blocks.iter().zip(value_blocks) {
        for ((sum, sample), value) in sums.iter_mut().zip(samples).zip(values) {
            *sum += sample * value;
        }
    }
    let rest: f32 = sample_rest
        .iter()
        .zip(value_rest)
        .map(|(sample, value)| sample * value)
        .sum();
    sums.iter().sum::<f32>() + rest
}

/// `up * scipy.signal.firwin(2 * half + 1, 1 / lower, window=("kaiser", 5.0))`.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "a filter of a few million values"
)]
fn filter(half: usize, up: usize, lower: usize) -> Result<Vec<f32>, AudioError> {
    let mut values: Vec<f64> = Vec::new();
    values
        .try_reserve_exact(half + 1)
        .map_err(|_| AudioError::OutOfMemory)?;
    // Compute one side only; the filter is symmetric.
    values.extend((0..=half).map(|i| {
        let x = i as f64 / lower as f64;
        let sinc = if i == 0 { 1.0 } else { (PI * x).sin() / (PI * x) };
        let place = i as f64 / half as f64;
        sinc * bessel(BETA * (1.0 - place * place).max(0.0).sqrt())
    }));
    let sum = 2.0 * values.iter().sum::<f64>() - values[0];
    let scale = up as f64 / sum;
    let mut filter = Vec::new();
    filter
        .try_reserve_exact(2 * half + 1)
        .map_err(|_| AudioError::OutOfMemory)?;
    filter.extend(
        values
            .iter()
            .skip(1)
            .rev()
            .chain(&values)
            .map(|value| (value * scale) as f32),
    );
    Ok(filter)
}

/// The modified Bessel function of the first kind and order 0.
fn bessel(x: f64) -> f64 {
    let quarter = x * x / 4.0;
    let (mut sum, mut term, mut k) = (1.0, 1.0, 1.0);
    while term > sum * 1e-17 {
        term *= quarter / (k * k);
        sum += term;
        k += 1.0;
    }
    sum
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lengths_are_rounded_up() {
        let table = [
            (44_100, 44_100, 16_000, 16_000),
            (1, 44_100, 16_000, 1),
            (3, 8_000, 16_000, 6),
            (0, 1, 2, 0),
        ];
        for (length, from, to, resampled) in table {
            assert_eq!(resampled_length(length, from, to), Some(resampled));
            let given = resample(&vec![0.0; length as usize], from, to, u64::MAX).unwrap();
            assert_eq!(given.len() as u64, resampled);
        }
        assert_eq!(resampled_length(5, 0, 16_000), None);
        assert_eq!(resampled_length(u64::MAX, 1, 16_000), None);
    }

    #[test]
    fn more_samples_than_the_limit_are_refused() {
        let error = resample(&[0.0; 1000], 1_000, 384_000, 100_000).unwrap_err();
        assert!(matches!(error, AudioError::TooLarge { given: 384_000, .. }), "{error}");
    }

    #[test]
    fn a_low_tone_is_unchanged_by_resampling() {
        let tone = |rate: f64, count: usize| -> Vec<f32> {
            (0..count)
                .map(|i| (2.0 * PI * 440.0 * i as f64 / rate).sin() as f32)
                .collect()
        };
        for (from, to) in [
            (44_100, 16_000),
            (8_000, 16_000),
            (48_000, 16_000),
            (22_050, 48_000),
            (11_025, 16_000),
        ] {
            let given = resample(&tone(f64::from(from), from as usize), from, to, u64::MAX).unwrap();
            let expected = tone(f64::from(to), given.len());
            // The ends differ because the sound begins and ends abruptly.
            let middle = given.len() / 10..given.len() * 9 / 10;
            let worst = given[middle.clone()]
                .iter()
                .zip(&expected[middle])
                .map(|(a, b)| (a - b).abs());
            let worst = worst.fold(0.0, f32::max);
            assert!(worst < 3e-3, "{from} to {to}: {worst}");
        }
    }

    proptest! {
        #[test]
        fn any_rates_give_the_predicted_length_and_finite_samples(
            from in 1u32..5000, to in 1u32..5000, samples in prop::collection::vec(-1.0f32..1.0, 0..50)
        ) {
            let most = 100_000;
            match resample(&samples, from, to, most) {
                Ok(given) => {
                    prop_assert_eq!(Some(given.len() as u64), resampled_length(samples.len() as u64, from, to));
                    prop_assert!(given.iter().all(|sample| sample.abs() < 10.0));
                }
                Err(error) => {
                    let is_too_large = matches!(error, AudioError::TooLarge { .. });
                    prop_assert!(is_too_large);
                }
            }
        }
    }
}
