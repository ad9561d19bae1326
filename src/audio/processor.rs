//! The samples that a model takes: its rate, their scale, and how a sound fills a fixed length.
//!
//! The settings come from the `preprocessor_config.json` of a feature extractor that hands samples
//! on, as that of Wav2Vec2 does, or from the `audio` object of a manifest.

use half::f16;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::error::{AudioError, AudioProcessorError};
use super::resample::resample;
use super::wav::{AudioLimits, Sound};
use crate::tensor::{DataType, Dim, InputSpec, Tensor};

/// The settings of a model for samples. It is kept in a journal, and it is the `audio` object of a
/// manifest.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AudioProcessor {
    /// Samples per second that the model takes; those of the sound when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sampling_rate: Option<u32>,
    /// The type of the samples, for a model that does not say it by its input.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dtype: Option<SampleType>,
    /// Whether each sound is brought to a mean of 0 and a variance of 1.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub do_normalize: bool,
    /// The value behind the end of sounds that are shorter than others.
    #[serde(skip_serializing_if = "is_zero")]
    pub padding_value: f32,
    /// Whether the model is told which samples are padding, where it has an input for that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub return_attention_mask: Option<bool>,
    /// Cuts each sound into chunks of this length. Each chunk is a row of the model's input.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chunk_seconds: Option<f64>,
    /// From the start of a chunk to that of the next; the length of a chunk when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stride_seconds: Option<f64>,
}

/// The type of samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SampleType {
    /// From -1 to 1.
    Float32,
    Float16,
    /// From -32768 to 32767.
    Int16,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(value: &f32) -> bool {
    *value == 0.0
}

/// Longest chunk and stride.
const MOST_SECONDS: f64 = 86_400.0;

impl AudioProcessor {
    /// Reads `preprocessor_config.json`; `None` where it is none of a sound's.
    pub fn parse(text: &str) -> Result<Option<Self>, AudioProcessorError> {
        /// Extractors whose features are the samples.
        const SAMPLES: [&str; 4] = [
            "Wav2Vec2FeatureExtractor",
            "Wav2Vec2Processor",
            "EncodecFeatureExtractor",
            "DacFeatureExtractor",
        ];
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let file: Value = serde_json::from_str(text).map_err(|error| AudioProcessorError::Json(error.to_string()))?;
        let name = |key: &str| file.get(key).and_then(Value::as_str);
        let extractor = name("feature_extractor_type");
        let is_picture = name("image_processor_type").is_some() || file.get("image_mean").is_some();
        if is_picture || extractor.is_none() && file.get("sampling_rate").is_none() {
            return Ok(None);
        }
        let extractor = extractor.unwrap_or("Wav2Vec2FeatureExtractor");
        if !SAMPLES.contains(&extractor) {
            // Old files of picture models name an extractor as well.
            if file.get("sampling_rate").is_none() {
                return Ok(None);
            }
            return Err(AudioProcessorError::Spectrogram {
                extractor: extractor.to_owned(),
            });
        }
        let is_wav2vec2 = extractor.starts_with("Wav2Vec2");
        if read(&file, "feature_size", "a number of channels", Value::as_u64)?.is_some_and(|size| size != 1) {
            return Err(AudioProcessorError::Value {
                key: "feature_size",
                problem: "only sounds of one channel are supported".to_owned(),
            });
        }
        let rate = read(&file, "sampling_rate", "a number of samples per second", |value| {
            value.as_u64().and_then(|rate| u32::try_from(rate).ok())
        })?;
        let processor = Self {
            // The extractor's own defaults.
            sampling_rate: Some(rate.unwrap_or(if is_wav2vec2 { 16_000 } else { 24_000 })),
            do_normalize: read(&file, "do_normalize", "true or false", Value::as_bool)?.unwrap_or(is_wav2vec2),
            #[expect(clippy::cast_possible_truncation, reason = "samples are floats of single precision")]
            padding_value: read(&file, "padding_value", "a number", Value::as_f64)?.unwrap_or(0.0) as f32,
            return_attention_mask: read(&file, "return_attention_mask", "true or false", Value::as_bool)?,
            ..Self::default()
        };
        processor.check()?;
        Ok(Some(processor))
    }

    /// Reads the `audio` object of a manifest.
    pub fn from_manifest(value: &Value) -> Result<Self, AudioProcessorError> {
        const KEYS: [&str; 7] = [
            "sampling_rate",
            "dtype",
            "do_normalize",
            "padding_value",
            "return_attention_mask",
            "chunk_seconds",
            "stride_seconds",
        ];
        if let Some(key) = value
            .as_object()
            .and_then(|keys| keys.keys().find(|key| !KEYS.contains(&key.as_str())))
        {
            let nearest = KEYS.into_iter().map(|known| (strsim::jaro_winkler(known, key), known));
            let nearest = nearest.filter(|(likeness, _)| *likeness > 0.7);
            return Err(AudioProcessorError::UnknownKey {
                nearest: nearest
                    .max_by(|one, other| one.0.total_cmp(&other.0))
                    .map(|(_, known)| known),
                key: key.clone(),
            });
        }
        let processor = serde_path_to_error::deserialize(value).map_err(|error| {
            let path = error.path().to_string();
            AudioProcessorError::Value {
                key: KEYS.into_iter().find(|key| *key == path).unwrap_or("audio"),
                problem: error.into_inner().to_string(),
            }
        });
        let processor: Self = processor?;
        processor.check()?;
        Ok(processor)
    }

    /// Checks what types cannot say.
    pub fn check(&self) -> Result<(), AudioProcessorError> {
        let refuse = |key, problem: &str| {
            Err(AudioProcessorError::Value {
                key,
                problem: problem.to_owned(),
            })
        };
        if self
            .sampling_rate
            .is_some_and(|rate| !(1_000..=384_000).contains(&rate))
        {
            return refuse("sampling_rate", "it is not between 1000 and 384000");
        }
        if !self.padding_value.is_finite() {
            return refuse("padding_value", "it is not a finite number");
        }
        let is_length = |seconds: Option<f64>| seconds.is_none_or(|seconds| (0.001..=MOST_SECONDS).contains(&seconds));
        if !is_length(self.chunk_seconds) {
            return refuse("chunk_seconds", "it is not between 0.001 and 86400");
        }
        if !is_length(self.stride_seconds) {
            return refuse("stride_seconds", "it is not between 0.001 and 86400");
        }
        match (self.chunk_seconds, self.stride_seconds) {
            (None, Some(_)) => refuse("stride_seconds", "it needs \"chunk_seconds\""),
            (Some(chunk), Some(stride)) if stride > chunk => refuse(
                "stride_seconds",
                "it is longer than \"chunk_seconds\", so that samples would be left out",
            ),
            _ => Ok(()),
        }
    }

    /// Fits the settings to an input of a model.
    pub fn bind(&self, input: &InputSpec) -> Result<AudioInput, AudioProcessorError> {
        let refuse = || AudioProcessorError::Input {
            name: input.name.clone(),
            given: input.to_string(),
        };
        let sample_type = match input.data_type {
            DataType::F32 => SampleType::Float32,
            DataType::F16 => SampleType::Float16,
            DataType::I16 => SampleType::Int16,
            _ => return Err(refuse()),
        };
        if self.dtype.is_some_and(|dtype| dtype != sample_type) {
            return Err(AudioProcessorError::Value {
                key: "dtype",
                problem: format!("input {} is {}", input.name, input.data_type),
            });
        }
        let (rank, length) = match input.dims.as_deref() {
            None => (2, &Dim::Dynamic(None)),
            Some([length]) => (1, length),
            Some([_, length]) => (2, length),
            Some([_, Dim::Fixed(1) | Dim::Dynamic(_), length]) => (3, length),
            Some(_) => return Err(refuse()),
        };
        let length = match length {
            Dim::Fixed(0) => return Err(refuse()),
            Dim::Fixed(length) => Some(*length),
            Dim::Dynamic(_) => None,
        };
        Ok(AudioInput {
            processor: self.clone(),
            sample_type,
            rank,
            length,
        })
    }

    /// The steps from a sound to the samples, in order, for people.
    pub fn steps(&self) -> Vec<String> {
        let mut steps = vec!["decode".to_owned(), "mix the channels to one".to_owned()];
        steps.extend(self.sampling_rate.map(|rate| format!("resample to {rate} Hz")));
        if self.do_normalize {
            steps.push("normalize to mean 0 and variance 1".to_owned());
        }
        if let Some(chunk) = self.chunk_seconds {
            let stride = self.stride_seconds.unwrap_or(chunk);
            steps.push(format!("cut into chunks of {chunk} s, one every {stride} s"));
        }
        steps
    }
}

fn read<T>(
    file: &Value,
    key: &'static str,
    expected: &str,
    read: impl FnOnce(&Value) -> Option<T>,
) -> Result<Option<T>, AudioProcessorError> {
    match file.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => read(value).map(Some).ok_or_else(|| AudioProcessorError::Value {
            key,
            problem: format!("it is not {expected}"),
        }),
    }
}

/// The settings of a model for one of its inputs.
#[derive(Debug, Clone, PartialEq)]
pub struct AudioInput {
    processor: AudioProcessor,
    sample_type: SampleType,
    rank: usize,
    /// The number of samples where the model fixes it.
    length: Option<usize>,
}

/// The samples of a request's sounds.
#[derive(Debug, Clone, PartialEq)]
pub struct Samples {
    pub tensor: Tensor,
    /// 1 for samples and 0 for padding, in rows as the tensor has them.
    pub mask: Tensor,
    /// Rows of each sound: its chunks.
    pub rows: Vec<usize>,
    /// Whether the end of each sound is cut off, because the model takes no more of it.
    pub is_cut: Vec<bool>,
}

impl AudioInput {
    /// Samples per second that the model takes of a sound.
    pub fn rate(&self, sound: u32) -> u32 {
        self.processor.sampling_rate.unwrap_or(sound)
    }

    /// Turns sounds into the tensor of the input.
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

    /// Adds the rows of a sound; true where its end is cut off.
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
            reason = "a day at 384 kHz at the most"
        )]
        let count = |seconds: f64| ((seconds * f64::from(rate)).round() as usize).max(1);
        // A model of a fixed length says best how long its chunks are.
        let chunk = self.length.unwrap_or_else(|| count(seconds));
        let stride = self.processor.stride_seconds.map_or(chunk, count).min(chunk);
        // Chunks that overlap hold samples more than once.
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

    fn fill<T: crate::tensor::Element>(
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

/// Brings samples to a mean of 0 and a variance of 1, as the extractor of Wav2Vec2 does.
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
