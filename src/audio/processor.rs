//! The settings for samples: rate, scale, and division into chunks.
//!
//! They come from the `preprocessor_config.json` of a feature extractor whose features are the
//! samples, such as that of Wav2Vec2, or from the `audio` object of a manifest.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::error::AudioProcessorError;
use super::input::AudioInput;
use crate::tensor::{DataType, Dim, InputSpec};

/// The settings of a model for samples: the `audio` object of a manifest. The journal stores them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AudioProcessor {
    /// Samples per second of the model's input; the rate of the sound when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sampling_rate: Option<u32>,
    /// The type of the samples. It must match the type of the model's input.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dtype: Option<SampleType>,
    /// Whether each sound is scaled to mean 0 and variance 1.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub do_normalize: bool,
    /// The value of the padding after shorter sounds.
    #[serde(skip_serializing_if = "is_zero")]
    pub padding_value: f32,
    /// Whether the model gets a mask of the padding, if it has an input for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub return_attention_mask: Option<bool>,
    /// Length of the chunks that each sound is divided into. Each chunk is a row of the input.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chunk_seconds: Option<f64>,
    /// Distance between the starts of two chunks; the length of a chunk when absent.
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

/// Maximum length of a chunk and a stride.
const MOST_SECONDS: f64 = 86_400.0;

impl AudioProcessor {
    /// Parses `preprocessor_config.json`; `None` if the file is not about sound.
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
            // Old files of image models name an extractor too.
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

    /// Parses the `audio` object of a manifest.
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

    /// Checks what the types cannot express.
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
            return refuse("sampling_rate", "expected a number from 1000 to 384000");
        }
        if !self.padding_value.is_finite() {
            return refuse("padding_value", "expected a finite number");
        }
        let is_length = |seconds: Option<f64>| seconds.is_none_or(|seconds| (0.001..=MOST_SECONDS).contains(&seconds));
        if !is_length(self.chunk_seconds) {
            return refuse("chunk_seconds", "expected a number from 0.001 to 86400");
        }
        if !is_length(self.stride_seconds) {
            return refuse("stride_seconds", "expected a number from 0.001 to 86400");
        }
        match (self.chunk_seconds, self.stride_seconds) {
            (None, Some(_)) => refuse("stride_seconds", "requires \"chunk_seconds\""),
            (Some(chunk), Some(stride)) if stride > chunk => refuse(
                "stride_seconds",
                "must not be longer than \"chunk_seconds\", because samples would be skipped",
            ),
            _ => Ok(()),
        }
    }

    /// Binds the settings to an input of a model.
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

    /// Describes the steps from a sound to the samples, in order, for people.
    pub fn steps(&self) -> Vec<String> {
        let mut steps = vec!["decode".to_owned(), "mix the channels to one".to_owned()];
        steps.extend(self.sampling_rate.map(|rate| format!("resample to {rate} Hz")));
        if self.do_normalize {
            steps.push("normalize to mean 0 and variance 1".to_owned());
        }
        if let Some(chunk) = self.chunk_seconds {
            let stride = self.stride_seconds.unwrap_or(chunk);
            steps.push(format!("divide into chunks of {chunk} s, one every {stride} s"));
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
            problem: format!("expected {expected}"),
        }),
    }
}
