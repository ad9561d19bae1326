//! Converts the outputs of a model to the answer of its task.
//!
//! A network returns tensors; people want a label, a box, or a part of a text. This module has the
//! pure functions from the outputs of one request, with all records as rows, to an [`Answer`],
//! which writes itself as JSON, CSV or an image. It depends on neither HTTP nor files nor the
//! runtime. Facts from reading the request come in as a [`Context`].
//!
//! An answer equals that of the library that named the task: the pipelines of transformers,
//! sentence-transformers, text-embeddings-inference, and for boxes the networks'
//! own post-processing. The numbers in the tests come from there (`tests/task/fixtures.py`).
//!
//! | module | contents |
//! |---|---|
//! | `name` | the tasks, and how files declare the task of a model |
//! | `settings` | the manifest's `answer`, and the `parameters` of a request |
//! | `outputs` | the search for the outputs that a task reads, and their numbers |
//! | `classify` | the three classifications |
//! | `detect`, `segment` | boxes, and classes of pixels |
//! | `features`, `embed`, `rank` | arrays, embeddings of sentences, ranking |
//! | `entities`, `fill`, `zero_shot`, `spans` | the tasks of tokens |
//! | `answer` | the answer, and its formats in responses |
//!
//! Invariants: no output can make a function here panic, and NaN is the smallest number in every
//! order. A model whose outputs cannot belong to its task is refused when it is loaded, with the
//! reason, by the same code that searches the outputs of a request.

mod answer;
mod classify;
mod context;
mod detect;
mod embed;
mod entities;
mod error;
mod features;
mod fill;
mod labels;
mod name;
mod outputs;
mod rank;
mod scores;
mod segment;
mod settings;
mod spans;
#[cfg(test)]
mod tests;
mod zero_shot;

pub use answer::{
    Answer, Body, ClassMap, Detection, Embeddings, EncodingFormat, Entity, Features, Fill, Form, Ranked, Scored, Span,
    ZeroShot,
};
pub use context::{Context, PlacedPicture, Question, Tokens, Vocabulary};
pub use embed::SentenceModules;
pub use error::{SettingError, TaskError};
pub use labels::Labels;
pub use name::Task;
pub use outputs::Output;
pub use settings::{
    Aggregation, AnswerSettings, BoxFamily, BoxLayout, BoxUnit, Function, Parameters, Pooling, ProblemType, TopK,
};

use crate::tensor::Signature;
use outputs::OutputInfo;

impl Task {
    /// Refuses a model whose outputs cannot belong to this task, and settings that the task does
    /// not have. `labels` is the number of classes with names.
    pub fn check(self, signature: &Signature, settings: &AnswerSettings, labels: usize) -> Result<(), TaskError> {
        settings.check(self)?;
        let infos = OutputInfo::declared(signature);
        match self {
            Self::ImageClassification | Self::TextClassification | Self::AudioClassification => {
                classify::check(self, &infos, settings)
            }
            Self::ObjectDetection => detect::check(&infos, settings, labels),
            Self::ImageSegmentation => segment::check(&infos, settings),
            Self::TokenClassification => entities::check(&infos, settings),
            Self::FeatureExtraction => features::check(&infos, settings),
            Self::SentenceSimilarity => embed::check(&infos, settings),
            Self::TextRanking => rank::check(&infos, settings),
            Self::FillMask => fill::check(&infos, settings),
            Self::ZeroShotClassification => zero_shot::check(&infos, settings),
            Self::QuestionAnswering => spans::check(&infos, settings),
        }
    }

    /// Converts the outputs of a request to the answer.
    pub fn answer(self, outputs: &[Output<'_>], context: &Context<'_>) -> Result<Answer, TaskError> {
        match self {
            Self::ImageClassification | Self::TextClassification | Self::AudioClassification => {
                classify::answer(self, outputs, context)
            }
            Self::ObjectDetection => detect::answer(outputs, context),
            Self::ImageSegmentation => segment::answer(outputs, context),
            Self::TokenClassification => entities::answer(outputs, context),
            Self::FeatureExtraction => features::answer(outputs, context),
            Self::SentenceSimilarity => embed::answer(outputs, context),
            Self::TextRanking => rank::answer(outputs, context),
            Self::FillMask => fill::answer(outputs, context),
            Self::ZeroShotClassification => zero_shot::answer(outputs, context),
            Self::QuestionAnswering => spans::answer(outputs, context),
        }
    }
}
