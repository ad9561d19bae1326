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
        let places: Vec<usize> = parts.iter().flat_map(|(places, _)| *places).copied().collect();
        let mut answers = parts.into_iter().map(|(_, answer)| answer);
        let Some(first) = answers.next() else {
            return Ok(None);
        };
        let Self { task, labels, body } = first;
        let bodies = answers.map(|answer| answer.body);
        let merged = match body {
            Body::Labels { records, is_flat } => all(records, bodies, |body| match body {
                Body::Labels { records, .. } => Some(records),
                _ => None,
            })
            .map(|records| Body::Labels {
                records: in_order(records, &places),
                is_flat,
            }),
            Body::Entities(records) => all(records, bodies, |body| match body {
                Body::Entities(records) => Some(records),
                _ => None,
            })
            .map(|records| Body::Entities(in_order(records, &places))),
            Body::Scores(records) => all(records, bodies, |body| match body {
                Body::Scores(records) => Some(records),
                _ => None,
            })
            .map(|records| Body::Scores(in_order(records, &places))),
            Body::Embeddings(first) => {
                let parts = all(vec![first], bodies, |body| match body {
                    Body::Embeddings(more) => Some(vec![more]),
                    _ => None,
                });
                let Some(parts) = parts else { return Ok(None) };
                let rows: Vec<&[f32]> = parts.iter().flat_map(Embeddings::rows).collect();
                let width = rows.first().map_or(0, |row| row.len());
                let numbers = in_order(rows, &places).concat();
                Some(Body::Embeddings(Embeddings::new(numbers, places.len(), width)?))
            }
            Body::Boxes(_)
            | Body::ClassMaps(_)
            | Body::Features(_)
            | Body::Similarities(_)
            | Body::Ranking(_)
            | Body::Fills(_)
            | Body::ZeroShot(_)
            | Body::Spans(_) => None,
        };
        Ok(merged.map(|body| Self { task, labels, body }))
    }
}

/// The records of all bodies; `None` if one of them is of another kind.
fn all<T>(
    mut records: Vec<T>,
    bodies: impl Iterator<Item = Body>,
    records_of: impl Fn(Body) -> Option<Vec<T>>,
) -> Option<Vec<T>> {
    for body in bodies {
        records.extend(records_of(body)?);
    }
    Some(records)
}

/// The records in the order of the request. `places` has the position of each.
fn in_order<T>(records: Vec<T>, places: &[usize]) -> Vec<T> {
    let mut placed: Vec<(usize, T)> = places.iter().copied().zip(records).collect();
    placed.sort_by_key(|(place, _)| *place);
    placed.into_iter().map(|(_, record)| record).collect()
}
