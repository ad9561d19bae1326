//! Reads the boxes of networks with queries, as transformers does.

use super::{Candidate, Rows, TASK, TaskError, corners, missing, top};
use crate::task::scores::{greatest, sigmoid, softmax};
use crate::tensor::Tensor;

/// Class logits of each query, and the box of each query as centre and size.
pub(super) struct Detr<'a> {
    logits: Rows<'a>,
    boxes: Rows<'a>,
    queries: usize,
    classes: usize,
    is_sigmoid: bool,
}

impl<'a> Detr<'a> {
    pub fn new(logits: &'a Tensor, boxes: &'a Tensor, records: usize, is_sigmoid: bool) -> Result<Self, TaskError> {
        let (&[_, queries, classes], &[_, boxed, 4]) = (logits.shape(), boxes.shape()) else {
            return Err(missing("logits and a box of four numbers for each query"));
        };
        if queries != boxed {
            return Err(missing("as many boxes as queries"));
        }
        Ok(Self {
            logits: Rows::new(TASK, logits, records, 2)?,
            boxes: Rows::new(TASK, boxes, records, 2)?,
            queries,
            classes,
            is_sigmoid,
        })
    }

    pub fn read(&mut self, record: usize, threshold: f32) -> Result<Vec<Candidate>, TaskError> {
        let logits = self.logits.row(record)?;
        let chosen = match self.is_sigmoid {
            true => pairs(logits, self.queries, self.classes, threshold),
            false => queries(logits, self.classes, threshold),
        };
        let boxes = self.boxes.row(record)?;
        let placed = chosen.into_iter().filter_map(|(query, class, score)| {
            let numbers = boxes.get(query * 4..query * 4 + 4)?;
            Some(Candidate {
                corners: corners(numbers.try_into().ok()?),
                score,
                class,
            })
        });
        Ok(placed.collect())
    }
}

/// The best class of each query, without the last one, which means "none".
fn queries(logits: &[f32], classes: usize, threshold: f32) -> Vec<(usize, usize, f32)> {
    let mut found = Vec::new();
    let mut scores = Vec::with_capacity(classes);
    for (query, row) in logits.chunks_exact(classes.max(1)).enumerate() {
        scores.clear();
        scores.extend_from_slice(row);
        softmax(&mut scores);
        scores.pop();
        if let Some(class) = greatest(&scores)
            && scores[class] > threshold
        {
            found.push((query, class, scores[class]));
        }
    }
    found
}

/// The best pairs of a query and a class, as many as there are queries.
fn pairs(logits: &[f32], queries: usize, classes: usize, threshold: f32) -> Vec<(usize, usize, f32)> {
    // The sigmoid does not change the order.
    let best = top(logits, queries).into_iter();
    let scored = best.map(|at| (at / classes, at % classes, sigmoid(logits[at])));
    scored.filter(|&(_, _, score)| score > threshold).collect()
}
