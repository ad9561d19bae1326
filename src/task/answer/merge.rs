//! Merges the answers of several runs into one.
//!
//! A request with texts of different lengths runs in groups of similar lengths. Each group is
//! answered record by record. The answers are merged; then [`Answer::conclude`] compares the
//! records with each other, if the request asks for that.

use super::{Answer, Body, Embeddings};
use crate::task::{Context, Question, Task, TaskError, embed, rank};

impl Task {
    /// Whether [`Answer::merge`] can merge the answers of several runs.
    pub const fn can_merge(self) -> bool {
        match self {
            Self::TextClassification | Self::TokenClassification | Self::SentenceSimilarity | Self::TextRanking => true,
            Self::ImageClassification
            | Self::AudioClassification
            | Self::ObjectDetection
            | Self::ImageSegmentation
            | Self::FeatureExtraction
            | Self::FillMask
            | Self::ZeroShotClassification
            | Self::QuestionAnswering => false,
        }
    }
}

impl Answer {
    /// Answers the question about all records together, if there is one.
    pub fn conclude(mut self, context: &Context<'_>) -> Self {
        self.body = match (self.body, context.question) {
            (Body::Embeddings(embeddings), Question::Similarity) => {
                Body::Similarities(embed::similarities(&embeddings))
            }
            (Body::Scores(scores), Question::Ranking { texts }) => {
                Body::Ranking(rank::ranking(&scores, texts, context.settings))
            }
            (body, _) => body,
        };
        self
    }

    /// Merges the answers of several runs. Each part comes with the positions of its records in the
    /// request; each position occurs once. The parts are answers of the same task, with the same
    /// settings, to [`Question::Records`].
    ///
    /// `None` for a task whose answers cannot be merged: see [`Task::can_merge`].
    pub fn merge(parts: Vec<(&[usize], Self)>) -> Result<Option<Self>, TaskError> {
        let mut parts = parts.into_iter();
        let Some((places, first)) = parts.next() else {
            return Ok(None);
        };
        let mut all_places = places.to_vec();
        let mut merged = first;
        for (places, part) in parts {
            if !merged.body.append(part.body, &all_places, places)? {
                return Ok(None);
            }
            all_places.extend_from_slice(places);
        }
        merged.body.reorder(&all_places)?;
        Ok(Some(merged))
    }
}

impl Body {
    /// Adds the records of another body of the same kind; false if the kinds differ or cannot be
    /// divided by record.
    fn append(&mut self, other: Self, own: &[usize], others: &[usize]) -> Result<bool, TaskError> {
        match (self, other) {
            (Self::Labels { records, .. }, Self::Labels { records: more, .. }) => records.extend(more),
            (Self::Entities(records), Self::Entities(more)) => records.extend(more),
            (Self::Scores(records), Self::Scores(more)) => records.extend(more),
            (Self::Embeddings(records), Self::Embeddings(more)) => {
                let numbers = records.rows().chain(more.rows()).flatten().copied().collect();
                let width = records.tensor().shape().last().copied().unwrap_or(0);
                *records = Embeddings::new(numbers, own.len() + others.len(), width)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Sorts the records into the order of the request. `places` has the position of each record.
    fn reorder(&mut self, places: &[usize]) -> Result<(), TaskError> {
        match self {
            Self::Labels { records, .. } => sort(records, places),
            Self::Entities(records) => sort(records, places),
            Self::Scores(records) => sort(records, places),
            Self::Embeddings(records) => {
                let mut rows: Vec<&[f32]> = records.rows().collect();
                sort(&mut rows, places);
                let numbers = rows.concat();
                let width = records.tensor().shape().last().copied().unwrap_or(0);
                *records = Embeddings::new(numbers, places.len(), width)?;
            }
            _ => {}
        }
        Ok(())
    }
}

fn sort<T>(records: &mut Vec<T>, places: &[usize]) {
    let mut placed: Vec<(usize, T)> = places.iter().copied().zip(records.drain(..)).collect();
    placed.sort_by_key(|(place, _)| *place);
    records.extend(placed.into_iter().map(|(_, record)| record));
}
