//! The answer to a request, as data and in the forms in which it goes out.
//!
//! | form | what a record is |
//! |---|---|
//! | JSON | what the library that named the task gives; one record alone, or a list of them |
//! | JSON Lines | the same on a line |
//! | CSV | a line of cells: `label,score` for each label, the numbers of an embedding |
//! | PNG | the map of classes of one picture |
//!
//! Large answers are arrays of numbers, and are written from the tensors straight into the text.
//! Floats that are no numbers go out as the codecs have them: `NaN`, `Infinity` and `-Infinity` in
//! JSON; `nan`, `inf` and `-inf` in CSV.

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
        /// Whether the one label of each record goes out without a list around it.
        is_flat: bool,
    },
    Boxes(Vec<Vec<Detection>>),
    ClassMaps(Vec<ClassMap>),
    Entities(Vec<Vec<Entity>>),
    Features(Features),
    Embeddings(Embeddings),
    /// The cosine of each sentence with the first one of the request: one answer to all records.
    Similarities(Vec<f32>),
    /// The score of each pair.
    Scores(Vec<f32>),
    /// The texts of a query, the best one first: one answer to all records.
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

/// An object in a picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Detection {
    pub class: usize,
    pub score: f32,
    /// Left, top, right, bottom, in pixels of the original.
    pub corners: [i64; 4],
}

/// A token or several that stand for something.
#[derive(Debug, Clone, PartialEq)]
pub struct Entity {
    pub label: String,
    /// Whether tokens were put together.
    pub is_group: bool,
    pub score: f32,
    /// The place of the token.
    pub index: Option<usize>,
    pub word: String,
    /// The characters of the text, from the first one to the one after the last one.
    pub start: usize,
    pub end: usize,
}

/// An output as it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Features {
    pub tensor: Tensor,
    /// The entries of the second axis that each record has; all of them where it is absent.
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

/// A text of a ranking.
#[derive(Debug, Clone, PartialEq)]
pub struct Ranked {
    /// The place of the text in the request.
    pub index: usize,
    pub score: f32,
    pub text: Option<String>,
}

/// A token in the place of a mask.
#[derive(Debug, Clone, PartialEq)]
pub struct Fill {
    pub score: f32,
    pub token: u32,
    pub token_text: String,
    pub sequence: String,
}

/// The labels of a text, the best one first.
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

/// Whether a request was of one thing or of a list of them.
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

    /// The number of records of the answer: 1 for an answer to all of them together.
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

/// Memory for an answer of about this many bytes.
fn room(bytes: usize) -> Result<Vec<u8>, TaskError> {
    let mut out = Vec::new();
    out.try_reserve(bytes).map_err(|_| TaskError::OutOfMemory)?;
    Ok(out)
}
