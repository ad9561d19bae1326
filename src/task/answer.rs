//! The answer to a request, as data and in the formats of responses.
//!
//! | format | a record |
//! |---|---|
//! | JSON | as in the library that named the task; a single record, or a list |
//! | JSON Lines | the same on one line |
//! | CSV | a line of cells: `label,score` for each label, the numbers of an embedding |
//! | PNG | the class map of one image |
//!
//! Large answers are arrays of numbers, which are written directly from the tensors. NaN and the
//! infinities have the spelling of the codecs: `NaN`, `Infinity` and `-Infinity` in JSON; `nan`,
//! `inf` and `-inf` in CSV.

mod csv;
mod json;
mod maps;
mod merge;
mod numbers;
mod open_ai;

pub use maps::ClassMap;
pub use open_ai::EncodingFormat;

use super::{Labels, Task, TaskError};
use crate::tensor::Tensor;

/// The answer to a request.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    task: Task,
    labels: Labels,
    body: Body,
}

/// The parts of an answer, by record.
#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    Labels {
        records: Vec<Vec<Scored>>,
        /// Whether the single label of each record is written without a list around it.
        is_flat: bool,
    },
    Boxes(Vec<Vec<Detection>>),
    ClassMaps(Vec<ClassMap>),
    Entities(Vec<Vec<Entity>>),
    Features(Features),
    Embeddings(Embeddings),
    /// The cosine similarity of each sentence with the first one: one answer to all records.
    Similarities(Vec<f32>),
    /// The score of each pair.
    Scores(Vec<f32>),
    /// The texts of a query, best first: one answer to all records.
    Ranking(Vec<Ranked>),
    /// The tokens for each mask of each text.
    Fills(Vec<Vec<Vec<Fill>>>),
    ZeroShot(Vec<ZeroShot>),
    Spans(Vec<Vec<Span>>),
}

/// A class and its score.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scored {
    pub class: usize,
    pub score: f32,
}

/// An object in an image.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Detection {
    pub class: usize,
    pub score: f32,
    /// Left, top, right, bottom, in pixels of the original image.
    pub corners: [i64; 4],
}

/// A token, or a group of tokens, with a label.
#[derive(Debug, Clone, PartialEq)]
pub struct Entity {
    pub label: String,
    /// Whether it is a group of tokens.
    pub is_group: bool,
    pub score: f32,
    /// The position of the token.
    pub index: Option<usize>,
    pub word: String,
    /// The range in characters of the text; the end is exclusive.
    pub start: usize,
    pub end: usize,
}

/// An output without changes.
#[derive(Debug, Clone, PartialEq)]
pub struct Features {
    pub tensor: Tensor,
    /// The entries of the second axis to write for each record; all of them if absent.
    pub kept: Option<Vec<Vec<usize>>>,
}

/// An embedding for each record.
#[derive(Debug, Clone, PartialEq)]
pub struct Embeddings(Tensor);

impl Embeddings {
    pub(super) fn new(numbers: Vec<f32>, records: usize, width: usize) -> Result<Self, TaskError> {
        let tensor = Tensor::from_vec(vec![records, width], numbers);
        tensor.map(Self).map_err(|_| TaskError::OutOfMemory)
    }

    /// A row for each record, of `float32`.
    pub fn tensor(&self) -> &Tensor {
        &self.0
    }

    pub(super) fn rows(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        let width = self.0.shape().last().copied().unwrap_or(0);
        let all = self.0.as_slice::<f32>().unwrap_or_default();
        let records = self.0.shape().first().copied().unwrap_or(0);
        (0..records).map(move |row| all.get(row * width..(row + 1) * width).unwrap_or_default())
    }
}

/// A text in a ranking.
#[derive(Debug, Clone, PartialEq)]
pub struct Ranked {
    /// The position of the text in the request.
    pub index: usize,
    pub score: f32,
    pub text: Option<String>,
}

/// A token in place of a mask.
#[derive(Debug, Clone, PartialEq)]
pub struct Fill {
    pub score: f32,
    pub token: u32,
    pub token_text: String,
    pub sequence: String,
}

/// The labels of a text, best first.
#[derive(Debug, Clone, PartialEq)]
pub struct ZeroShot {
    pub sequence: String,
    pub labels: Vec<String>,
    pub scores: Vec<f32>,
}

/// The part of a text that answers a question.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    pub score: f32,
    pub start: usize,
    pub end: usize,
    pub answer: String,
}

/// Whether a request held a single record or a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    One,
    List,
}

impl Answer {
    pub(super) fn new(task: Task, labels: &Labels, body: Body) -> Self {
        Self {
            task,
            labels: labels.clone(),
            body,
        }
    }

    pub fn task(&self) -> Task {
        self.task
    }

    pub fn body(&self) -> &Body {
        &self.body
    }

    /// The number of records in the answer; 1 for one answer to all records.
    pub fn records(&self) -> usize {
        match &self.body {
            Body::Labels { records, .. } => records.len(),
            Body::Boxes(records) => records.len(),
            Body::ClassMaps(records) => records.len(),
            Body::Entities(records) => records.len(),
            Body::Features(features) => features.tensor.shape().first().copied().unwrap_or(1),
            Body::Embeddings(embeddings) => embeddings.rows().len(),
            Body::Similarities(_) | Body::Ranking(_) => 1,
            Body::Scores(scores) => scores.len(),
            Body::Fills(records) => records.len(),
            Body::ZeroShot(records) => records.len(),
            Body::Spans(records) => records.len(),
        }
    }

    fn cannot_carry(&self, format: &'static str, problem: &'static str) -> TaskError {
        TaskError::CannotCarry {
            task: self.task,
            format,
            problem,
        }
    }
}

/// Allocates memory for an answer of about this many bytes.
fn allocate(bytes: usize) -> Result<Vec<u8>, TaskError> {
    let mut out = Vec::new();
    out.try_reserve(bytes).map_err(|_| TaskError::OutOfMemory)?;
    Ok(out)
}
