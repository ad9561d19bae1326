//! Tasks and their names, and the task of a model in files and environment variables.
//!
//! The names are those of Hugging Face. A task comes from `HF_TASK`, the manifest, `pipeline_tag`,
//! or the suffix of an architecture's name in `config.json`, with which the library that wrote the
//! file names the head of the network.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::error::{TaskError, nearest};

/// A task of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Task {
    ImageClassification,
    TextClassification,
    AudioClassification,
    ObjectDetection,
    ImageSegmentation,
    TokenClassification,
    FeatureExtraction,
    /// Embeddings of sentences, and their similarity.
    SentenceSimilarity,
    TextRanking,
    FillMask,
    ZeroShotClassification,
    QuestionAnswering,
}

/// Aliases of tasks.
const ALIASES: [(&str, Task); 16] = [
    ("sentiment-analysis", Task::TextClassification),
    ("sequence-classification", Task::TextClassification),
    ("ner", Task::TokenClassification),
    ("semantic-segmentation", Task::ImageSegmentation),
    ("sound-classification", Task::AudioClassification),
    ("sentence-embeddings", Task::SentenceSimilarity),
    ("sentence-embedding", Task::SentenceSimilarity),
    ("embeddings", Task::SentenceSimilarity),
    ("embedding", Task::SentenceSimilarity),
    ("default", Task::FeatureExtraction),
    ("image-feature-extraction", Task::FeatureExtraction),
    ("sentence-ranking", Task::TextRanking),
    ("rerank", Task::TextRanking),
    ("reranking", Task::TextRanking),
    ("masked-lm", Task::FillMask),
    ("zero-shot", Task::ZeroShotClassification),
];

/// Suffixes of architectures.
const ARCHITECTURES: [(&str, Task); 15] = [
    ("ForImageClassificationWithTeacher", Task::ImageClassification),
    ("ForImageClassification", Task::ImageClassification),
    ("ForSequenceClassification", Task::TextClassification),
    ("ForAudioClassification", Task::AudioClassification),
    ("ForObjectDetection", Task::ObjectDetection),
    ("ForSemanticSegmentation", Task::ImageSegmentation),
    ("ForTokenClassification", Task::TokenClassification),
    ("ForMaskedLM", Task::FillMask),
    ("ForQuestionAnswering", Task::QuestionAnswering),
    // Networks without a head.
    ("ForTextEncoding", Task::FeatureExtraction),
    ("TextModelWithProjection", Task::FeatureExtraction),
    ("VisionModelWithProjection", Task::FeatureExtraction),
    ("ForFeatureExtraction", Task::FeatureExtraction),
    ("EncoderModel", Task::FeatureExtraction),
    ("Model", Task::FeatureExtraction),
];

/// Suffixes of architectures that match no task, because they generate text or something else, but
/// that end like one in [`ARCHITECTURES`].
const OTHERS: [&str; 6] = [
    "TapasForQuestionAnswering",
    "EncoderDecoderModel",
    "LMHeadModel",
    "DoubleHeadsModel",
    "ForMaskedImageModeling",
    "MTModel",
];

impl Task {
    pub const ALL: [Self; 12] = [
        Self::ImageClassification,
        Self::TextClassification,
        Self::AudioClassification,
        Self::ObjectDetection,
        Self::ImageSegmentation,
        Self::TokenClassification,
        Self::FeatureExtraction,
        Self::SentenceSimilarity,
        Self::TextRanking,
        Self::FillMask,
        Self::ZeroShotClassification,
        Self::QuestionAnswering,
    ];

    /// The name in Hugging Face's spelling.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ImageClassification => "image-classification",
            Self::TextClassification => "text-classification",
            Self::AudioClassification => "audio-classification",
            Self::ObjectDetection => "object-detection",
            Self::ImageSegmentation => "image-segmentation",
            Self::TokenClassification => "token-classification",
            Self::FeatureExtraction => "feature-extraction",
            Self::SentenceSimilarity => "sentence-similarity",
            Self::TextRanking => "text-ranking",
            Self::FillMask => "fill-mask",
            Self::ZeroShotClassification => "zero-shot-classification",
            Self::QuestionAnswering => "question-answering",
        }
    }

    /// The task of a network that `config.json` names in `architectures`; `None` for an unknown
    /// head.
    pub fn from_architecture(architecture: &str) -> Option<Self> {
        if OTHERS.iter().any(|end| architecture.ends_with(end)) {
            return None;
        }
        ARCHITECTURES
            .iter()
            .find(|(end, _)| architecture.len() > end.len() && architecture.ends_with(end))
            .map(|&(_, task)| task)
    }

    /// The task of the first known architecture in `config.json`.
    pub fn from_config(config: &serde_json::Value) -> Option<Self> {
        let architectures = config.get("architectures")?.as_array()?;
        architectures
            .iter()
            .filter_map(|name| name.as_str())
            .find_map(Self::from_architecture)
    }

    /// Whether the records are images.
    pub const fn takes_pictures(self) -> bool {
        matches!(
            self,
            Self::ImageClassification | Self::ObjectDetection | Self::ImageSegmentation
        )
    }

    /// Whether the answer depends on the tokens of the text, and not only on the outputs.
    pub const fn needs_tokens(self) -> bool {
        matches!(
            self,
            Self::TokenClassification
                | Self::FeatureExtraction
                | Self::SentenceSimilarity
                | Self::FillMask
                | Self::QuestionAnswering
        )
    }
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Task {
    type Err = TaskError;

    /// Parses a name or an alias, in upper or lower case and with `_` or a space for `-`.
    fn from_str(text: &str) -> Result<Self, TaskError> {
        let name = text.trim().to_lowercase().replace(['_', ' '], "-");
        let own = Self::ALL.into_iter().find(|task| task.name() == name);
        let alias = || ALIASES.iter().find(|(alias, _)| *alias == name).map(|&(_, task)| task);
        own.or_else(alias).ok_or_else(|| {
            let known = Self::ALL.iter().map(|task| task.name());
            TaskError::UnknownTask {
                nearest: nearest(&name, known.chain(ALIASES.iter().map(|&(alias, _)| alias))),
                given: text.to_owned(),
            }
        })
    }
}

impl Serialize for Task {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Task {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}
