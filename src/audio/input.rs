//! Converts samples to the tensor of a model's input.

use half::f16;

use super::error::AudioError;
use super::processor::{AudioProcessor, SampleType};
use super::resample::resample;
use super::wav::{AudioLimits, Sound};
use crate::tensor::{Element, Tensor};

/// A processor bound to an input of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct AudioInput {
    pub(super) processor: AudioProcessor,
    pub(super) sample_type: SampleType,
    pub(super) rank: usize,
    /// The number of samples in a row, if the model fixes it.
    pub(super) length: Option<usize>,
}

/// The samples of a request's sounds.
#[derive(Debug, Clone, PartialEq)]
pub struct Samples {
    pub tensor: Tensor,
    /// 1 for samples and 0 for padding, in the rows of the tensor.
    pub mask: Tensor,
    /// The number of rows (chunks) of each sound.
    pub rows: Vec<usize>,
    /// Whether each sound was truncated to the length of the model's input.
    pub is_cut: Vec<bool>,
}

impl AudioInput {
    /// The sampling rate for a sound with the rate `sound`.
    pub fn rate(&self, sound: u32) -> u32 {
        self.processor.sampling_rate.unwrap_or(sound)
    }

    /// Converts sounds to the tensor of the input.
    pub fn apply(&self, sounds: Vec<Sound>, limits: &AudioLimits) -> Result<Samples, AudioError> {
        let mut rows = Vec::new();
        let mut counts = Vec::with_capacity(sounds.len());
        let mut is_cut = Vec::with_capacity(sounds.len());
        for sound in sounds {
            let rate = self.rate(sound.rate);
            let mut samples = if rate == sound.rate {
                sound.samples
            } else {
                resample(&sound.samples, sound.rate, rate, limits.samples)?
            };
            if samples.is_empty() {
                return Err(AudioError::Empty);
            }
            if self.processor.do_normalize {
                normalize(&mut samples);
            }
            let before = rows.len();
            is_cut.push(self.divide(samples, rate, &mut rows, limits)?);
            counts.push(rows.len() - before);
        }
        if self.rank == 1 && rows.len() > 1 {
            return Err(AudioError::TooLarge {
                what: "sounds, or chunks of one, for a model that takes one",
                given: rows.len() as u64,
                limit: 1,
            });
        }
        let longest = rows.iter().map(Vec::len).max().unwrap_or(0);
        let length = self.length.unwrap_or(longest);
        let total = length.checked_mul(rows.len()).ok_or(AudioError::OutOfMemory)?;
        check_total(total, limits)?;
        let shape = match self.rank {
            1 => vec![length],
            2 => vec![rows.len(), length],
            _ => vec![rows.len(), 1, length],
        };
        let mask_shape = vec![rows.len(), length];
        let mask = rows.iter().flat_map(|row| {
            let padding = std::iter::repeat_n(0i64, length - row.len());
            std::iter::repeat_n(1i64, row.len()).chain(padding)
        });
        let mask = Tensor::from_vec(mask_shape, mask.collect()).map_err(|_| AudioError::OutOfMemory)?;
        let tensor = match self.sample_type {
            SampleType::Float32 => self.fill(shape, &rows, length, |sample| sample),
            SampleType::Float16 => self.fill(shape, &rows, length, f16::from_f32),
            #[expect(
                clippy::cast_possible_truncation,
                reason = "a cast of a float keeps to the type's ends"
            )]
            SampleType::Int16 => self.fill(shape, &rows, length, |sample| (sample * 32_768.0).round() as i16),
        }?;
        Ok(Samples {
            tensor,
            mask,
            rows: counts,
            is_cut,
        })
    }

    /// Adds the rows of a sound; true if it was truncated.
    fn divide(
        &self,
        mut samples: Vec<f32>,
        rate: u32,
        rows: &mut Vec<Vec<f32>>,
        limits: &AudioLimits,
    ) -> Result<bool, AudioError> {
        let Some(seconds) = self.processor.chunk_seconds else {
            let is_cut = self.length.is_some_and(|length| length < samples.len());
            samples.truncate(self.length.unwrap_or(usize::MAX));
            rows.push(samples);
            return Ok(is_cut);
        };
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "at most a day at 384 kHz"
        )]
        let count = |seconds: f64| ((seconds * f64::from(rate)).round() as usize).max(1);
        // The fixed length of a model takes precedence.
        let chunk = self.length.unwrap_or_else(|| count(seconds));
        let stride = self.processor.stride_seconds.map_or(chunk, count).min(chunk);
        // Overlapping chunks repeat samples, so the total is checked again.
        let chunks = samples.len().saturating_sub(chunk).div_ceil(stride) + 1;
        let total = chunks
            .saturating_add(rows.len())
            .saturating_mul(chunk.min(samples.len()));
        check_total(total, limits)?;
        for number in 0..chunks {
            let start = number * stride;
            let end = samples.len().min(start + chunk);
            rows.push(samples[start..end].to_vec());
        }
        Ok(false)
    }

    fn fill<T: Element>(
        &self,
        shape: Vec<usize>,
        rows: &[Vec<f32>],
        length: usize,
        convert: impl Fn(f32) -> T,
    ) -> Result<Tensor, AudioError> {
        let mut values: Vec<T> = Vec::new();
        let total = length * rows.len();
        values.try_reserve_exact(total).map_err(|_| AudioError::OutOfMemory)?;
        let padding = convert(self.processor.padding_value);
        for row in rows {
            values.extend(row.iter().map(|&sample| convert(sample)));
            values.extend(std::iter::repeat_n(padding, length - row.len()));
        }
        Tensor::from_vec(shape, values).map_err(|_| AudioError::OutOfMemory)
    }
}

fn check_total(samples: usize, limits: &AudioLimits) -> Result<(), AudioError> {
    if samples as u64 <= limits.samples {
        return Ok(());
    }
    Err(AudioError::TooLarge {
        what: "samples of a request",
        given: samples as u64,
        limit: limits.samples,
    })
}

/// Scales samples to mean 0 and variance 1, as the extractor of Wav2Vec2 does.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "samples are single floats"
)]
fn normalize(samples: &mut [f32]) {
    let count = samples.len() as f64;
    let mean = samples.iter().map(|&sample| f64::from(sample)).sum::<f64>() / count;
    let variance = samples
        .iter()
        .map(|&sample| (f64::from(sample) - mean).powi(2))
        .sum::<f64>()
        / count;
    let scale = 1.0 / (variance + 1e-7).sqrt();
    for sample in samples {
        *sample = ((f64::from(*sample) - mean) * scale) as f32;
    }
}
