//! Reads boxes, scores and classes from separate outputs.

use super::{Candidate, Relative, Rows, TASK, TaskError, class, corners, floats, missing};
use crate::task::scores::greatest;
use crate::task::settings::BoxLayout;
use crate::tensor::Tensor;

/// The outputs of a network.
#[derive(Clone, Copy)]
pub(super) struct Parts<'a> {
    pub boxes: &'a Tensor,
    pub scores: &'a Tensor,
    pub classes: Option<&'a Tensor>,
    /// The number of valid boxes of each record; the rest of the rows is padding.
    pub count: Option<&'a Tensor>,
}

pub(super) struct Separate<'a> {
    boxes: Rows<'a>,
    scores: Rows<'a>,
    classes: Option<Rows<'a>>,
    counts: Option<Vec<f32>>,
    layout: BoxLayout,
    pub relative: Relative,
    is_by_class: bool,
}

impl<'a> Separate<'a> {
    pub fn new(
        parts: Parts<'a>,
        records: usize,
        layout: BoxLayout,
        relative: Relative,
        is_by_class: bool,
    ) -> Result<Self, TaskError> {
        if parts.boxes.shape().last() != Some(&4) {
            return Err(missing("boxes of four numbers"));
        }
        let rank = if is_by_class { 2 } else { 1 };
        let counts = parts.count.map(floats).transpose()?.map(|counts| counts.into_owned());
        if counts.as_ref().is_some_and(|counts| counts.len() != records) {
            return Err(missing("a number of boxes for each image"));
        }
        Ok(Self {
            boxes: Rows::new(TASK, parts.boxes, records, 2)?,
            scores: Rows::new(TASK, parts.scores, records, rank)?,
            classes: parts
                .classes
                .map(|classes| Rows::new(TASK, classes, records, 1))
                .transpose()?,
            counts,
            layout,
            relative,
            is_by_class,
        })
    }

    pub fn read(&mut self, record: usize, threshold: f32) -> Result<Vec<Candidate>, TaskError> {
        let boxes = self.boxes.width() / 4;
        let counted = match &self.counts {
            Some(counts) => counts
                .get(record)
                .map_or(0, |&count| class(count).unwrap_or(0))
                .min(boxes),
            None => boxes,
        };
        let scores = self.scores.row(record)?;
        let width = if self.is_by_class {
            scores.len().checked_div(boxes).unwrap_or(0)
        } else {
            1
        };
        if scores.len() != boxes * width {
            return Err(missing("as many scores as boxes"));
        }
        let mut chosen = Vec::new();
        for at in 0..counted {
            let own = &scores[at * width..(at + 1) * width];
            if let Some(class) = greatest(own)
                && own[class] > threshold
            {
                chosen.push((at, class, own[class]));
            }
        }
        if let Some(classes) = self.classes.as_mut().filter(|_| !self.is_by_class) {
            let numbers = classes.row(record)?;
            chosen.retain_mut(|(at, own, _)| match numbers.get(*at).copied().and_then(class) {
                Some(class) => {
                    *own = class;
                    true
                }
                None => false,
            });
        }
        let boxes = self.boxes.row(record)?;
        let placed = chosen.into_iter().filter_map(|(at, class, score)| {
            let numbers: [f32; 4] = boxes.get(at * 4..at * 4 + 4)?.try_into().ok()?;
            Some(Candidate {
                corners: ordered(numbers, self.layout),
                score,
                class,
            })
        });
        Ok(placed.collect())
    }
}

/// Converts a box to corners.
fn ordered(numbers: [f32; 4], layout: BoxLayout) -> [f32; 4] {
    let [a, b, c, d] = numbers;
    match layout {
        BoxLayout::Corners => numbers,
        BoxLayout::CornersRowFirst => [b, a, d, c],
        BoxLayout::CornerSize => [a, b, a + c, b + d],
        BoxLayout::CentreSize => corners(numbers),
    }
}
