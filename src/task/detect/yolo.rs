//! Reads the boxes of networks with a single output.

use super::{Candidate, Relative, Rows, TASK, TaskError, class, corners, missing};
use crate::task::scores::greatest;
use crate::tensor::Tensor;

/// The layout of the output.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Form {
    /// A row for each box: centre, size, objectness, classes.
    Rows { classes: Option<usize> },
    /// A column for each box: centre, size, classes.
    Columns { classes: Option<usize> },
    /// A row for each box: corners, score, class.
    Finished,
}

pub(super) struct Yolo<'a> {
    rows: Rows<'a>,
    /// The two axes of a record.
    shape: [usize; 2],
    form: Form,
    pub relative: Relative,
}

impl<'a> Yolo<'a> {
    pub fn new(tensor: &'a Tensor, records: usize, form: Form, relative: Relative) -> Result<Self, TaskError> {
        let &[_, first, second] = tensor.shape() else {
            return Err(missing("an output of three axes"));
        };
        let least = match form {
            Form::Rows { .. } | Form::Finished => second >= 6,
            Form::Columns { .. } => first >= 5,
        };
        // An output without boxes may have no numbers.
        if !least && !tensor.is_empty() {
            return Err(missing("boxes with scores"));
        }
        Ok(Self {
            rows: Rows::new(TASK, tensor, records, 2)?,
            shape: [first, second],
            form,
            relative,
        })
    }

    pub fn read(&mut self, record: usize, threshold: f32) -> Result<Vec<Candidate>, TaskError> {
        let [first, second] = self.shape;
        let numbers = self.rows.row(record)?;
        if numbers.is_empty() {
            return Ok(Vec::new());
        }
        Ok(match self.form {
            Form::Rows { classes } => rows(numbers, second, classes, threshold),
            Form::Columns { classes } => columns(numbers, first, second, classes, threshold),
            Form::Finished => finished(numbers, second, threshold),
        })
    }
}

fn rows(numbers: &[f32], width: usize, classes: Option<usize>, threshold: f32) -> Vec<Candidate> {
    // Segmentation networks have further numbers after the classes.
    let end = classes.map_or(width, |count| (5 + count).min(width));
    let mut found = Vec::new();
    for row in numbers.chunks_exact(width) {
        let objectness = row[4];
        // Most boxes fail here, before their classes are read.
        if objectness > threshold
            && let Some(class) = greatest(&row[5..end])
            && let score = row[5 + class] * objectness
            && score > threshold
        {
            found.push(Candidate {
                corners: corners([row[0], row[1], row[2], row[3]]),
                score,
                class,
            });
        }
    }
    found
}

fn columns(numbers: &[f32], height: usize, boxes: usize, classes: Option<usize>, threshold: f32) -> Vec<Candidate> {
    let count = classes.map_or(height - 4, |count| count.min(height - 4));
    // The scores of a class are adjacent, so the classes are the outer loop.
    let mut best = vec![(f32::NEG_INFINITY, 0usize); boxes];
    for (class, scores) in numbers.chunks_exact(boxes).skip(4).take(count).enumerate() {
        for (best, &score) in best.iter_mut().zip(scores) {
            if score > best.0 {
                *best = (score, class);
            }
        }
    }
    let number = |axis: usize, at: usize| numbers[axis * boxes + at];
    let chosen = best
        .into_iter()
        .enumerate()
        .filter(|(_, (score, _))| *score > threshold);
    let placed = chosen.map(|(at, (score, class))| Candidate {
        corners: corners([number(0, at), number(1, at), number(2, at), number(3, at)]),
        score,
        class,
    });
    placed.collect()
}

fn finished(numbers: &[f32], width: usize, threshold: f32) -> Vec<Candidate> {
    let rows = numbers.chunks_exact(width);
    let chosen = rows.filter(|row| row[4] > threshold).filter_map(|row| {
        Some(Candidate {
            corners: [row[0], row[1], row[2], row[3]],
            score: row[4],
            class: class(row[5])?,
        })
    });
    chosen.collect()
}
